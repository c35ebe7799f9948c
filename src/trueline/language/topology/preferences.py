"""Making preference data: replies of a model in one of the topologies, judged, as rows that reward models learn from.

    trueline train preference-data --input policy=SFT-RUN  ->  run://ID/preferences.jsonl

Rows from trees have the layout `tree-preference` of formats.py, the others `preference`. What the judge gave stands
beside, in columns that no trainer reads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError, RunError
from trueline.core.files import to_json, write_json, write_text
from trueline.core.progress import progress, stage
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.language.models import ModelRef
from trueline.language.online.checks import window_for
from trueline.language.online.making import policy_of
from trueline.language.online.prompts import chats_of, columns_of, tables_of, with_room
from trueline.language.parallel import device_of
from trueline.language.records import Text, prompt_of
from trueline.language.rollout import Chat, Rollout, Sampling, chat, text_of
from trueline.language.sampler import Auto, Samplers
from trueline.language.scorers import (
    Function,
    Judged,
    Scoring,
    identity,
    opened,
    reference_records,
    referred,
    taken_by,
    wanted_columns,
)
from trueline.language.scores import Scorer
from trueline.language.sources import MADE, Data
from trueline.language.subject import LanguageModel, judges_behind, tell_if_plain
from trueline.language.templates import prompts_tokens
from trueline.language.topology.pairs import Pair, Topologies, TreePairs
from trueline.language.topology.trees import Leaf, lca_depth, shared_prefix
from trueline.language.windows import Window

__all__ = [
    "FILE",
    "PREFERENCE_DATA",
    "Asked",
    "PreferenceData",
    "PreferenceSampling",
    "first_is_better",
    "judged",
    "load_preferences",
    "rows_of",
    "written",
]

FILE = "preferences.jsonl"
_ROWS_AT_ONCE = 1024  # replies that a judge is shown together


class PreferenceSampling(Config):
    """Which prompts, whose replies, how they branch, and who judges."""

    prompts: Data  # rows of any format that has prompts; answers in them are not read
    model: ModelRef = ModelRef()  # that replies; of a warm start, its template and adapters alone
    topology: Topologies = TreePairs()
    sampling: Sampling = Sampling()
    sampler: Samplers = Auto()
    judges: tuple[Scoring, ...] = Field(min_length=1)  # rewards are added by weight; of costs nothing is read
    beta: float | None = Field(None, gt=0)  # β: P(a ≻ b) = σ(β·(r_a − r_b)); none: the better one, ties left out
    prompts_at_once: int = Field(64, ge=1)  # whose trees grow together; a checkpoint follows
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _effective(self) -> Self:
        if self.prompts.weights:
            raise ValueError("prompts.weights are given, but every prompt is asked once. Leave them out.")
        if self.sampling.stop:
            raise ValueError(
                f"sampling.stop is {list(self.sampling.stop)}, but replies that are compared end by themselves. "
                "Leave stop out; what a node of a tree ends with is in topology.separators."
            )
        return self


# --- rows ---


class Asked(NamedTuple):
    """A prompt as the data have it, and as a model is asked it."""

    prompt: Text
    chat: Chat

    @classmethod
    def of(cls, prompt: Text) -> Asked:
        """Text is a user's turn."""
        return cls(prompt, chat(prompt) if isinstance(prompt, str) else tuple(prompt))

    def answer(self, leaf: Leaf) -> str | list[dict[str, str]]:
        """A reply in the layout of its prompt."""
        return leaf.text if isinstance(self.prompt, str) else [{"role": "assistant", "content": leaf.text}]

    def column(self) -> str | list[dict[str, str]]:
        """The prompt as a column of a row."""
        return self.prompt if isinstance(self.prompt, str) else [dict(turn._asdict()) for turn in self.prompt]


def first_is_better(
    first: NDArray[np.float64], second: NDArray[np.float64], beta: float | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Labels of pairs by their rewards [n]: 1 where the first is preferred, 0 where the second is, nan where neither.

    With β, 1 has the probability σ(β·(r_first − r_second)); without, the greater one wins and a tie is nan. A reward
    that is nan, of a reply that was not judged, makes nan.
    """
    margin = first - second
    if beta is None:
        return np.where((margin == 0) | np.isnan(margin), np.nan, margin > 0)
    # σ(x) = ½(1 + tanh(x/2)), which overflows for no x.
    preferred = rng.random(len(margin)) < 0.5 * (1.0 + np.tanh(0.5 * beta * margin))
    return np.where(np.isnan(margin), np.nan, preferred)


def written(model: LanguageModel, chats: Sequence[Chat], leaves: Sequence[Leaf]) -> Rollout:
    """Whole replies to their chats as a rollout, to be judged; of log-probabilities nothing is known, and they are 0.

    Replies are the tokens that were sampled, and the token that ends them.
    """
    end = model.end
    asked = prompts_tokens(model.tokenizer, chats)
    rows = [(len(ids), [*ids, *leaf.tokens, end]) for ids, leaf in zip(asked, leaves, strict=True)]
    device = model.model.device
    length = torch.tensor([len(ids) for _, ids in rows], device=device)
    start = torch.tensor([at for at, _ in rows], device=device)
    width = int(length.max())
    tokens = torch.tensor([[*ids, *[model.tokenizer.pad_token_id] * (width - len(ids))] for _, ids in rows])
    column = torch.arange(width, device=device)
    attended = column < length[:, None]
    known: dict[Chat, int] = {}
    group = torch.tensor([known.setdefault(tuple(one), len(known)) for one in chats], device=device)
    zero = torch.zeros(attended.shape, device=device)
    whole = torch.ones(len(rows), dtype=torch.bool, device=device)
    texts = tuple(text_of(tuple(one)) for one in chats)
    return Rollout(tokens.to(device), attended, attended & (column >= start[:, None]), zero, group, whole, texts)


def judged(
    model: LanguageModel, scorer: Scorer, chats: Sequence[Chat], leaves: Sequence[Leaf], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The reward of each reply [n], summed over its tokens; nan where the judge gave none."""
    found = []
    for at in range(0, len(leaves), _ROWS_AT_ONCE):
        part = slice(at, at + _ROWS_AT_ONCE)
        scores = scorer.score(written(model, chats[part], leaves[part]), rng)
        reward = scores.reward.sum(dim=1).double().masked_fill(scores.missing, torch.nan)
        found.append(reward.cpu().numpy())
    return np.concatenate(found) if found else np.empty(0)


def rows_of(
    asked: Sequence[Asked],
    pairs: Sequence[Pair],
    rewards: NDArray[np.float64],
    better: NDArray[np.float64],
    tree_ids: Sequence[str],
) -> list[dict[str, Any]]:
    """The row of each pair that has a label.  rewards [pairs, 2] in the pairs' order; tree_ids: of each prompt."""
    rows = []
    for pair, (first, second), label in zip(pairs, rewards.tolist(), better.tolist(), strict=True):
        if np.isnan(label):
            continue
        own = asked[pair.prompt]
        chosen, rejected = (pair.first, pair.second) if label else (pair.second, pair.first)
        row = {
            "prompt": own.column(),
            "chosen": own.answer(chosen),
            "rejected": own.answer(rejected),
            "chosen_value": first if label else second,
            "rejected_value": second if label else first,
        }
        if pair.one_tree:
            row |= {
                "tree_id": tree_ids[pair.prompt],
                "node_path": [list(chosen.path), list(rejected.path)],
                "lca_depth": lca_depth(chosen, rejected),
                "shared_prefix_len": shared_prefix(chosen, rejected),
            }
        rows.append(row)
    return rows


# --- the data as a subject ---


@dataclass(frozen=True, slots=True)
class PreferenceData:
    """Rows of preferences, and how they were made."""

    kind: ClassVar[str] = "preference-data"

    rows: tuple[Mapping[str, Any], ...]
    made: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None

    def save(self, folder: Path) -> None:
        """JSON lines that `sources.load` reads, and beside them how they were made."""
        write_text(folder / FILE, "".join(to_json(row) + "\n" for row in self.rows))
        write_json(folder / MADE, {"made": self.made, "parent": self.parent})


def load_preferences(folder: Path) -> PreferenceData:
    """The data saved in `folder`.  Raises RunError when something is missing or damaged."""
    try:
        card = json.loads((folder / MADE).read_text(encoding="utf-8"))
        rows = tuple(json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines())
        return PreferenceData(rows, card["made"], card["parent"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the preferences in {folder} are damaged ({error}). Make them again.") from None


# --- recipe ---


class PreferenceRecipe:
    """`preference-data`: leaves `preferences.jsonl` as artefact and subject."""

    name: ClassVar[str] = "preference-data"
    Config: ClassVar[type[PreferenceSampling]] = PreferenceSampling
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tree": {"topology": {"kind": "tree"}},
        "independent-trees": {"topology": {"kind": "independent-trees"}},
        "chain": {"topology": {"kind": "chain"}},
    }

    def inputs_of(self, config: PreferenceSampling) -> Mapping[str, bool]:
        """Who replies, and what judges name."""
        return {"policy": False, **taken_by(config.judges)}

    def check(self, config: PreferenceSampling, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise for judges that are not inputs."""
        for judge in config.judges:
            if isinstance(judge, Function):
                judge.named_costs()
        reference_records(config.judges, root)

    def check_with(self, config: PreferenceSampling, root: Path, inputs: Mapping[str, Path]) -> None:
        """Raises what `train` would for prompts, their columns, and those that leave whoever replies no room for it."""
        _columns(config, root)
        window = window_for(config.model, inputs)
        if window is not None:
            _asked(config, window, root)
            return
        for table in tables_of(config.prompts, root):
            chats_of(table)

    def train(self, config: PreferenceSampling, run: Run, inputs: Mapping[str, Subject]) -> PreferenceData:
        """Sample and label; `inputs["policy"]` replies, and judges name inputs of their own.

        Resumes after the last batch of prompts. Raises ConfigError for settings and inputs that do not fit, and when no
        pair got a label.
        """
        root = run.folder.parent
        inputs = {**inputs, **referred(config.judges, inputs, root)}
        run.manifest["inputs"] |= reference_records(config.judges, root)  # so that a resume finds the same models
        policy = policy_of(config.model, inputs.get("policy"), run.rng("model"))
        tell_if_plain(policy)
        policy.model.to(device_of(config.device))
        columns = _columns(config, root)
        judge = opened(config.judges, Judged(policy, config.sampling, columns), inputs)
        asked, long = _asked(config, Window.of(policy), root)
        if long:
            stage(f"left out {long} prompts longer than the context")
        saved = run.restore() or {"rows": [], "done": 0, "tokens": 0, "unlabelled": 0, "counts": {}}
        rows, done, tokens = saved["rows"], int(saved["done"]), int(saved["tokens"])
        unlabelled, counts = int(saved["unlabelled"]), Counter[str](saved["counts"])
        with progress(len(asked), self.name) as bar:
            bar.start_at(done)
            while done < len(asked):
                part = asked[done : done + config.prompts_at_once]
                drawn = config.topology.draw(
                    policy, [one.chat for one in part], config.sampling, run.rng("replies"), config.sampler.open()
                )
                rewards = _rewards(policy, judge, part, drawn.pairs, run.rng("judge"))
                better = first_is_better(rewards[:, 0], rewards[:, 1], config.beta, run.rng("labels"))
                ids = [f"{run.id}-{done + t}" for t in range(len(part))]
                rows += rows_of(part, drawn.pairs, rewards, better, ids)
                done, tokens = done + len(part), tokens + int(drawn.tokens.sum())
                unlabelled += int(np.isnan(better).sum())
                counts.update(drawn.counts)
                run.log(done, **{"data/pairs": len(rows), "data/tokens_per_prompt": tokens / done})
                bar.advance(len(part), f"{len(rows)} pairs")
                state = {"rows": rows, "done": done, "tokens": tokens, "unlabelled": unlabelled, "counts": dict(counts)}
                run.save(done, state)
        if not rows:
            raise ConfigError(
                f"none of {unlabelled} pairs got a label, and {dict(counts)} were left out or drawn again. "
                "Give a judge that tells replies apart, or a policy whose replies end and differ."
            )
        hashes = {role: str(given["sha256"]) for role, given in run.manifest["inputs"].items()}
        models = [inputs[role] for one in config.judges for role in one.inputs]
        made = {
            "settings": config.model_dump(mode="json"),
            "seed": run.seed,
            "prompts": done,
            "long": long,  # prompts that were left out, as they leave no room for a reply
            "pairs": len(rows),
            "unlabelled": unlabelled,  # ties, and replies that were not judged
            "tokens": tokens,
            "counts": dict(counts),
            # What these labels know: whoever learns from them learns to please it (`sources.labelled_by`).
            "judged_by": sorted(
                {*(name for one in config.judges for name in identity(one, hashes)), *judges_behind(models)}
            ),
        }
        whole = PreferenceData(tuple(rows), made, run.parent())
        whole.save(run.artefact(FILE).parent)
        return whole


def _asked(config: PreferenceSampling, window: Window, root: Path) -> tuple[list[Asked], int]:
    """The distinct prompts that leave room for a reply, in their order; and how many do not.

    Raises as `tables_of`, `chats_of` and `with_room`.
    """
    found: dict[Text, Asked] = {}
    called: dict[Text, str] = {}
    for table in tables_of(config.prompts, root):
        for record, number, one in zip(table.rows, table.numbers, chats_of(table), strict=True):
            prompt = prompt_of(record)
            found.setdefault(prompt, Asked(prompt, one))
            called.setdefault(prompt, f"row {number} of {table.name}")
    asked = list(found.values())
    kept = with_room([one.chat for one in asked], list(called.values()), window, config.prompts)
    return [asked[k] for k in kept], len(asked) - len(kept)


def _columns(config: PreferenceSampling, root: Path) -> dict[str, dict[str, Any]]:
    """The columns that judges want, by what is asked.  Raises as `tables_of` and `columns_of`."""
    wanted = wanted_columns(config.judges)
    return columns_of(tables_of(config.prompts, root), config.prompts, wanted, root) if wanted else {}


def _rewards(
    policy: LanguageModel, judge: Scorer, asked: Sequence[Asked], pairs: Sequence[Pair], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Rewards [pairs, 2]; each different reply to a prompt is judged once."""
    places: dict[tuple[int, tuple[int, ...]], int] = {}
    index = np.array(
        [[places.setdefault((pair.prompt, leaf.tokens), len(places)) for leaf in pair[1:3]] for pair in pairs],
        dtype=np.int64,
    ).reshape(-1, 2)
    leaves: list[Leaf | None] = [None] * len(places)
    for pair in pairs:
        for leaf in pair[1:3]:
            leaves[places[pair.prompt, leaf.tokens]] = leaf
    chats = [asked[prompt].chat for prompt, _ in places]
    found = judged(policy, judge, chats, [leaf for leaf in leaves if leaf is not None], rng)
    return found[index] if len(found) else np.empty((0, 2))


PREFERENCE_DATA = PreferenceRecipe()
