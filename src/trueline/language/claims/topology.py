"""`tree-rm`: reward models that learn from trees of replies agree better than those that learn from chains.

Claims of arXiv 2402.10184, each against one control (`topology/pairs.py`):

    tree-rm-structure   leaves of independent trees: only the shared beginnings are gone
    tree-rm-labels      a chain of as many labels
    tree-rm-tokens      a chain of as many sampled tokens

The world is `grammar-essay` at two levels of complexity: with order 0 a segment's worth depends on the segment alone,
with order 1 also on the one before. A policy fine-tuned on the world's replies is sampled; labels are Bradley-Terry. A
seed trains two reward models to each arm, level and size, on prompts, replies, labels and orders of data of their own,
from the fine-tuned policy's weights. The arms of one model meet the same prompts, and all take as many steps.

What decides is the rate at which the two order a pair differently, on one set of pairs that is the same for all: pairs
sampled apart from the policy, to prompts that no training sees. The statistic is log(chain's rate / tree's rate) at the
higher complexity and the smallest size, where the paper expects most of a tree; every other cell, the variance of
scaled margins and accuracies stand beside it. Above 0 with the whole interval is reproduced, below with all of it
contradicted.

The paper's own experiment has models of seven billion parameters and judges by GPT-4; here a program judges replies of
eighteen words. So a verdict is about the mechanism, not about those figures.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from trueline.core.config import Config, build
from trueline.core.files import to_json, write_json, write_text
from trueline.core.run import Run, read_manifest
from trueline.core.subject import Subject
from trueline.evidence.claims import Claim, Rows, Scale
from trueline.evidence.over_seeds import Comparison, compare_seeds, holm
from trueline.evidence.records import Estimate, EvidenceError, Requirement
from trueline.evidence.statistics import cluster_means
from trueline.language.recipes import REWARD_MODEL, SFT
from trueline.language.rollout import Sampling
from trueline.language.scorers import Judged, ModelScorer
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.supervised import Supervised
from trueline.language.texts import draw_prompts
from trueline.language.texts.grammar_essay import GrammarEssay
from trueline.language.texts.world import hashed
from trueline.language.topology.disagreement import (
    accuracy,
    disagreement,
    log_ratio,
    log_ratio_p,
    spread,
)
from trueline.language.topology.pairs import Chain, Drawn, IndependentTrees, Pair, Topologies, TreePairs
from trueline.language.topology.preferences import Asked, first_is_better, judged, rows_of
from trueline.language.topology.trees import Leaf

__all__ = ["CLAIMS", "Settings", "by_cell", "measure"]

Array = NDArray[np.float64]
Control = Literal["independent-trees", "chain-labels", "chain-tokens"]
MODELS = 2  # reward models of a seed: what they disagree in is one number of that seed
_FIXED = 20_240_216  # seed of what is the same for all seeds: the policy, and the pairs that models are compared on


class Settings(Config):
    """The size of the experiment."""

    control: Control
    world: GrammarEssay = GrammarEssay(productions=4)
    orders: Mapping[str, int] = {"simple": 0, "complex": 1}
    sizes: tuple[int, ...] = (250, 1000, 4000)  # n: labelled pairs
    level: str = "complex"  # that decides, at the first of the sizes
    pairs: int = Field(8, ge=1)  # of each prompt
    per_node: int = Field(2, ge=1)  # segments of a node; a tree has depth 3, two children to a node
    prompts: int = Field(64, ge=2)  # to which models are compared
    compared: int = Field(8, ge=1)  # pairs of each
    policy_rows: int = Field(4000, ge=1)
    policy_steps: int = Field(200, ge=1)
    steps: int = Field(600, ge=1)  # of every reward model, of 16 pairs each

    @property
    def sampling(self) -> Sampling:
        """Twice the tokens that an essay has, so that few replies are cut."""
        return Sampling(max_tokens=6 * self.world.segments + 2)

    @cached_property
    def worlds(self) -> dict[str, GrammarEssay]:
        """The world at each level."""
        given = self.world.model_dump()
        return {name: GrammarEssay(**{**given, "order": order}) for name, order in self.orders.items()}

    @property
    def arms(self) -> tuple[str, str]:
        """The tree and its control."""
        return "tree", self.control


def measure(scale: Scale, seed: int, folder: Path) -> dict[str, float]:
    """One seed: two reward models to each arm, level and size.

    What a model gives to the compared pairs is kept in `folder` as soon as its arm is done, and a seed that was killed
    goes on with the next one. The tree's arm is the same in all three claims: one that another claim's run beside this
    one has measured is taken from there.
    """
    torch.set_num_threads(1)  # what comes out must not depend on how many cores there are
    settings = build(Settings, dict(scale.params), where="tree-rm")
    policy = _policy(settings, folder)
    reference = _reference(settings, policy)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in settings.arms}
    for model in range(MODELS):
        for arm in settings.arms:
            asked = _asked(settings, reference, arm, folder)
            part = _known(asked, f"{arm}-{model}.json", folder)
            if part is None:
                part = _arm(settings, policy, reference, arm, (seed, model), folder)
                write_json(folder / f"{arm}-{model}.json", {"asked": asked, "cells": part})
            found[arm].append(part)
    row = {"reference": float(reference.digest)}
    for level in settings.orders:
        for n in settings.sizes:
            for arm in settings.arms:
                cells = [part[f"{level}/{n}"] for part in found[arm]]
                row |= {f"{level}/{n}/{arm}/{name}": x for name, x in _figures(cells, reference, level).items()}
    for arm in settings.arms:
        margins = [np.array(part[f"{settings.level}/{settings.sizes[0]}"]["margins"]) for part in found[arm]]
        rates = cluster_means(disagreement(*margins), reference.prompt)
        row |= {f"prompt/{arm}/{p}": float(rate) for p, rate in enumerate(rates)}
    return row


def _asked(settings: Settings, reference: _Reference, arm: str, folder: Path) -> dict[str, Any]:
    """What decides the numbers of an arm, besides seed and model: settings, policy and pairs, and the program."""
    run = _run_of(folder)
    program = {} if run is None else {key: read_manifest(run)[key] for key in ("git", "versions")}
    # The control is what an arm is compared with, of no consequence for the arm itself.
    own = settings.model_dump(mode="json", exclude={"control"})
    return {"arm": arm, "settings": own, "reference": reference.digest, "program": program}


def _known(asked: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any] | None:
    """What a model of an arm gave where this seed was measured before, in this run or in another one beside it."""
    run = _run_of(folder)
    beside = [] if run is None else sorted(run.parent.glob(f"*/artefacts/seeds/{folder.name}"))
    for seed in (folder, *beside):
        try:
            stored = json.loads((seed / name).read_text(encoding="utf-8"))
            if stored["asked"] == asked:
                return dict(stored["cells"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not measured there, or cut off
    return None


def _run_of(folder: Path) -> Path | None:
    """The run whose artefacts/seeds/SEED a folder is; none where it is measured outside of a run."""
    run = folder.resolve().parents[2]
    return run if (run / "manifest.json").is_file() else None


def _figures(cells: Sequence[Mapping[str, Any]], reference: _Reference, level: str) -> dict[str, float]:
    margins = np.array([cell["margins"] for cell in cells])
    near = np.array([cell["near"] for cell in cells])
    scaled = spread(margins, reference.gold[level])
    return {
        "disagreement": float(cluster_means(disagreement(*margins), reference.prompt).mean()),
        "variance": scaled.variance,
        "squared bias": scaled.squared_bias,
        "accuracy": float(np.mean([accuracy(own, reference.gold[level]) for own in margins])),
        "near-miss accuracy": float(np.mean([accuracy(own, reference.near_gold[level]) for own in near])),
        "labels": float(np.mean([cell["labels"] for cell in cells])),
        "tokens": float(np.mean([cell["tokens"] for cell in cells])),
    }


# --- what all seeds share ---


def _policy(settings: Settings, folder: Path) -> LanguageModel:
    """The world's replies, learnt: the same weights for every seed, on one kind of machine."""
    world = settings.world
    options = {"format": "prompt-completion", "n": settings.policy_rows, "seed": _FIXED, **world.model_dump()}
    given = {
        "model": {"name": "nano", "vocabulary": world.vocabulary.model_dump(), "context": 128},
        "data": {"path": f"builtin:{world.name}", "options": options, "as_chat": True},
        "max_steps": settings.policy_steps,
        "batch_size": 32,
        "optimiser": {"lr": 3e-3, "schedule": "cosine", "warmup": 0.05},
    }
    return _trained(SFT, given, {}, _FIXED, folder)


class _Reference(NamedTuple):
    """Pairs that models are compared on, and near misses: a reply, and itself with one segment changed."""

    asked: list[Asked]
    leaves: list[tuple[Leaf, Leaf]]
    prompt: list[int]
    near: list[tuple[Leaf, Leaf]]
    gold: dict[str, Array]  # margins by level
    near_gold: dict[str, Array]
    digest: int  # of the texts: seeds that met others cannot be compared


def _reference(settings: Settings, policy: LanguageModel) -> _Reference:
    """Drawn independently from the policy; two equal replies have no order and are drawn again."""
    rng, world = np.random.default_rng(_FIXED), settings.world
    asked = [Asked.of(prompt) for prompt in draw_prompts(world, settings.prompts, rng, "verdict")]
    drawn = Chain(pairs=settings.compared).draw(policy, [one.chat for one in asked], settings.sampling, rng)
    leaves = [(pair.first, pair.second) for pair in drawn.pairs]
    prompt = [pair.prompt for pair in drawn.pairs]
    near = [(first, _near_miss(world, policy, first, rng)) for first, _ in leaves]

    def margins(level: str, pairs: Sequence[tuple[Leaf, Leaf]]) -> Array:
        own = settings.worlds[level]
        texts = [(str(asked[t].prompt), one.text, other.text) for t, (one, other) in zip(prompt, pairs, strict=True)]
        return np.array([own.judge(t, one).reward - own.judge(t, other).reward for t, one, other in texts])

    texts = [leaf.text for two in (*leaves, *near) for leaf in two]
    digest = hashed(*(one.prompt for one in asked), *texts) >> 12  # 52 bits are a float's
    gold, near_gold = ({level: margins(level, pairs) for level in settings.orders} for pairs in (leaves, near))
    return _Reference(asked, leaves, prompt, near, gold, near_gold, digest)


def _near_miss(world: GrammarEssay, policy: LanguageModel, leaf: Leaf, rng: np.random.Generator) -> Leaf:
    """The reply with one segment of three words made another production."""
    words = leaf.text.split()
    at = 3 * int(rng.integers(max(1, len(words) // 3)))
    others = [text for k in range(world.productions) if (text := world.segment(k)).split() != words[at : at + 3]]
    words[at : at + 3] = others[int(rng.integers(len(others)))].split()
    text = " ".join(words)
    return Leaf(text, tuple(policy.tokenizer(text, add_special_tokens=False).input_ids))


# --- one arm of one model ---


def _arm(
    settings: Settings, policy: LanguageModel, reference: _Reference, arm: str, model: tuple[int, int], folder: Path
) -> dict[str, Any]:
    """What a model of this arm gives to the compared pairs, by level and size, and what its data took."""
    # Prompts are those of the other arm too; replies and labels are not.
    prompt_rng = np.random.default_rng([*model, 0])
    rng = np.random.default_rng([*model, 1 + settings.arms.index(arm)])
    count = math.ceil(1.05 * max(settings.sizes) / settings.pairs) + 4  # a tree may make fewer pairs than asked for
    asked = [Asked.of(prompt) for prompt in draw_prompts(settings.world, count, prompt_rng)]
    drawn = _drawn(settings, policy, asked, arm, rng)
    budgets = None
    if arm == "chain-tokens":
        # The tree's data of this very model, drawn again: its prices are what this arm may spend.
        tree = _drawn(settings, policy, asked, "tree", np.random.default_rng([*model, 1]))
        budgets = [_taken(tree, n) for n in settings.sizes]
    found = {}
    for level, world in settings.worlds.items():
        rewards = np.array(
            [[world.judge(str(asked[p.prompt].prompt), leaf.text).reward for leaf in p[1:3]] for p in drawn.pairs]
        )
        better = first_is_better(rewards[:, 0], rewards[:, 1], world.beta, rng)
        rows = rows_of(asked, drawn.pairs, rewards, better, [f"{model[0]}-{model[1]}-{t}" for t in range(count)])
        for k, n in enumerate(settings.sizes):
            taken = _taken(drawn, n) if budgets is None else _affordable(drawn.pairs, budgets[k])
            scores = _learnt(settings, policy, [rows[i] for i in taken.rows], rng, folder)
            found[f"{level}/{n}"] = {
                "margins": _margins(policy, scores, reference.asked, reference.prompt, reference.leaves),
                "near": _margins(policy, scores, reference.asked, reference.prompt, reference.near),
                "labels": len(taken.rows),
                "tokens": taken.tokens,
            }
    return found


def _drawn(
    settings: Settings, policy: LanguageModel, asked: Sequence[Asked], arm: str, rng: np.random.Generator
) -> Drawn:
    pairs, per_node = settings.pairs, settings.per_node
    topology: Topologies
    if arm == "tree":
        topology = TreePairs(separators=(".",), per_node=per_node, pairs=pairs)
    elif arm == "independent-trees":
        topology = IndependentTrees(separators=(".",), per_node=per_node, pairs=pairs)
    else:
        topology = Chain(pairs=pairs)
    return topology.draw(policy, [one.chat for one in asked], settings.sampling, rng)


class _Taken(NamedTuple):
    """Which pairs a size has, to how many prompts, and what sampling them took."""

    rows: list[int]
    prompts: int
    tokens: int


def _taken(drawn: Drawn, n: int) -> _Taken:
    """The first n pairs, with all that was sampled to their prompts."""
    rows = list(range(min(n, len(drawn.pairs))))
    prompts = drawn.pairs[rows[-1]].prompt + 1
    return _Taken(rows, prompts, int(drawn.tokens[:prompts].sum()))


def _affordable(pairs: Sequence[Pair], budget: _Taken) -> _Taken:
    """As many pairs to the same prompts as the same tokens buy, one to each prompt before any has two."""
    had, turn = Counter[int](), []
    for pair in pairs:
        turn.append(had[pair.prompt])
        had[pair.prompt] += 1
    order = sorted((i for i, p in enumerate(pairs) if p.prompt < budget.prompts), key=lambda i: (turn[i], i))
    spent = np.cumsum([pairs[i].tokens for i in order])
    paid = int((spent <= budget.tokens).sum())
    return _Taken(order[:paid], budget.prompts, int(spent[paid - 1]) if paid else 0)


def _learnt(
    settings: Settings,
    policy: LanguageModel,
    rows: Sequence[Mapping[str, Any]],
    rng: np.random.Generator,
    folder: Path,
) -> ScoreModel:
    """A reward model of these rows, from the policy's weights."""
    data = folder / "preferences.jsonl"
    write_text(data, "".join(to_json(row) + "\n" for row in rows))
    given = {
        "data": {"path": str(data), "as_chat": True},
        "length": 128,
        "max_steps": settings.steps,
        "batch_size": 16,
        # At a third of this rate many models had not left log 2 by the end.
        "optimiser": {"lr": 3e-3, "schedule": "cosine", "warmup": 0.05},
    }
    return _trained(REWARD_MODEL, given, {"policy": policy}, int(rng.integers(2**31)), folder)


def _margins(
    policy: LanguageModel,
    scores: ScoreModel,
    asked: Sequence[Asked],
    prompt: Sequence[int],
    pairs: Sequence[tuple[Leaf, Leaf]],
) -> list[float]:
    """r(first) − r(second) of each pair."""
    scorer = ModelScorer(scores, Judged(policy, Sampling()))
    chats = [asked[t].chat for t in prompt for _ in range(2)]
    leaves = [leaf for two in pairs for leaf in two]
    found = judged(policy, scorer, chats, leaves, np.random.default_rng(0))
    return list((found[0::2] - found[1::2]).tolist())


def _trained(
    recipe: Supervised, given: Mapping[str, Any], inputs: Mapping[str, Subject], seed: int, folder: Path
) -> Any:
    """What a recipe makes, in a run that is not kept: a seed has dozens of them."""
    never = 1_000_000_000  # the last step is looked at, logged and saved anyway
    given = {**given, "device": "cpu", "log_steps": never, "eval_steps": never, "checkpoint_steps": never}
    config = build(recipe.Config, given, where=recipe.name)
    runs = folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    run = Run.create(runs, kind="train", name=recipe.name, config=config, seed=seed, id="r")
    with run, run.interruptible():
        subject = recipe.train(config, run, inputs)
    shutil.rmtree(runs, ignore_errors=True)
    return subject


# --- what decides ---


@dataclass(frozen=True, slots=True)
class _RateRatio:
    """log(control's rate of disagreement / tree's), over seeds and the prompts all of them met."""

    control: Control

    def __call__(self, rows: Rows, confidence: float) -> Estimate:
        return log_ratio(*self._rates(rows), confidence)

    def p(self, rows: Rows, acceptance: Requirement) -> float:
        """p-value of "the acceptance is not met"."""
        return log_ratio_p(*self._rates(rows), acceptance.threshold, acceptance.bound)

    def _rates(self, rows: Rows) -> tuple[Array, Array]:
        """[S, P] of control and tree."""
        if len({row["reference"] for row in rows}) != 1:
            raise EvidenceError(
                "the seeds compared their models on different pairs of replies, as seeds of different machines do. "
                "Run all of them on one."
            )
        prompts = sum(name.startswith("prompt/tree/") for name in rows[0])
        control, tree = (
            np.array([[row[f"prompt/{arm}/{p}"] for p in range(prompts)] for row in rows])
            for arm in (self.control, "tree")
        )
        return control, tree


class Cell(NamedTuple):
    """One level and size, means over seeds."""

    level: str
    size: int
    tree: Mapping[str, float]
    control: Mapping[str, float]
    difference: Comparison  # control's rate of disagreement less the tree's, paired by seed
    p_holm: float  # adjusted for all cells


def by_cell(per_seed: Mapping[int, Mapping[str, float]], control: Control) -> list[Cell]:
    """Every level and size of a claim's result, for a table beside the verdict."""
    rows = list(per_seed.values())
    names = [name.split("/") for name in rows[0] if name.endswith("/tree/disagreement")]
    cells = []
    for level, n, *_ in names:
        of = {
            arm: {
                key.rpartition("/")[2]: np.array([row[key] for row in rows])
                for key in rows[0]
                if key.startswith(f"{level}/{n}/{arm}/")
            }
            for arm in ("tree", control)
        }
        means = {arm: {name: float(x.mean()) for name, x in own.items()} for arm, own in of.items()}
        difference = compare_seeds(of[control]["disagreement"], of["tree"]["disagreement"], paired=True)
        cells.append(Cell(level, int(n), means["tree"], means[control], difference, math.nan))
    adjusted = holm([cell.difference.p for cell in cells])
    return [cell._replace(p_holm=float(p)) for cell, p in zip(cells, adjusted, strict=True)]


_QUICK: Mapping[str, Any] = {
    "orders": {"complex": 1},
    "sizes": (48,),
    "prompts": 8,
    "compared": 4,
    "policy_rows": 300,
    "policy_steps": 60,
    "steps": 6,
}
_SENTENCES: Mapping[Control, str] = {
    "independent-trees": "Reward models agree better when the replies that are compared share their beginnings.",
    "chain-labels": "Reward models agree better when they learn from trees of replies than from as many chain pairs.",
    "chain-tokens": "Reward models agree better when tokens are spent on trees of replies than on independent pairs.",
}
_NAMES: Mapping[Control, str] = {
    "independent-trees": "tree-rm-structure",
    "chain-labels": "tree-rm-labels",
    "chain-tokens": "tree-rm-tokens",
}


def _claim(control: Control, cpu_hours: float) -> Claim:
    return Claim(
        system="tree-rm",
        name=_NAMES[control],
        sentence=_SENTENCES[control],
        source="arXiv 2402.10184, abstract and section 4",
        measure=measure,
        statistic=_RateRatio(control),
        acceptance=Requirement(bound="at_least", threshold=0.0, confidence=0.975),
        scales={
            "ci": Scale((0, 1), 0.02, math.inf, {"control": control, **_QUICK}),
            # Three other seeds of the second claim spread by 0.07, prompts adding as much to the error of twelve:
            # a standard error of 0.04, of which 3.1 are found with a power of 0.8.
            "laptop": Scale(tuple(range(12)), cpu_hours, 0.12, {"control": control}),
        },
        unit="log ratio of rates of disagreement",
    )


# Alone; where another of them has measured the tree, half as much.
STRUCTURE = _claim("independent-trees", 1.3)
LABELS = _claim("chain-labels", 1.2)
TOKENS = _claim("chain-tokens", 1.2)
CLAIMS = (STRUCTURE, LABELS, TOKENS)
