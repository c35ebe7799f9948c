"""Best of N: of N sampled replies to a prompt the one that scorers like most; and fine-tuning on what was kept.

    best_of_n   N replies to each chat, and the best of them; `BestOfN` is the same as a `Sampler`
    rft         rejection-sampling fine-tuning: sample, keep the best, learn them as completions, in rounds

A reply is better than another if it exceeds the limits on costs by less, and of two that exceed them alike if its
reward is higher; equal ones stand in the order in which they were drawn. Without limits reward alone decides.

`rft` is RAFT (Dong et al. 2023) where all prompts come in each round and one reply of each is kept, and the
rejection-sampling fine-tuning of Touvron et al. 2023 and Yuan et al. 2023 with `keep` and `at_least`. A round is a run
of `sft` of its own, under artefacts/rounds; adapters are added into the weights at its end, and the next round has
fresh ones. Replies that were cut at the length limit are never kept: as completions they would teach to stop there.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import CheckpointError, ConfigError, Stopped
from trueline.core.files import write_text
from trueline.core.progress import stage
from trueline.core.run import Run, status_of
from trueline.core.streams import Streams
from trueline.core.subject import Subject, save_subject
from trueline.language.forward import Memory, activation_bytes, cache_bytes, weight_bytes
from trueline.language.models import attach_lora
from trueline.language.online.checks import check_asking, check_prompts
from trueline.language.online.making import policy_of
from trueline.language.online.prompts import prompts_for
from trueline.language.online.rehearsal import foreseen, judges_bytes
from trueline.language.online.settings import Asking
from trueline.language.optimiser import AdamW
from trueline.language.parallel import device_of
from trueline.language.recipes import SFT
from trueline.language.rehearsal import DryRun
from trueline.language.rollout import Chat, Rollout, Sampler, Sampling
from trueline.language.sampler import Auto, check_for_training, replies_of
from trueline.language.scorers import Judged, Scoring, identity, opened, reference_records, referred, taken_by
from trueline.language.scores import Scores
from trueline.language.sources import Data, exposed
from trueline.language.subject import LanguageModel, ScoreModel, judges_behind
from trueline.language.subject import load as load_model
from trueline.language.supervised import FineTuning

__all__ = [
    "RFT",
    "Best",
    "BestOfN",
    "RejectionRecipe",
    "RejectionTuning",
    "Tuning",
    "best_of_n",
    "best_of_n_distribution",
    "best_rows",
]

Limits = float | tuple[float, ...] | None  # of a reply's raw costs: one number for all, or one each


# --- choosing ---


def best_rows(reward: Tensor, group: Tensor, keep: int = 1, excess: Tensor | None = None) -> Tensor:
    """Numbers of the best `keep` rows of each group, groups in order, the best first.  [R] each -> [at most G·keep].

    `excess` is by how much a row lies beyond its limits. A row whose reward is nan is in no group.
    """
    r, g = (x.detach().double().cpu().numpy() for x in (reward, group))
    over = np.zeros(len(r)) if excess is None else excess.detach().double().cpu().numpy()
    order = np.lexsort((np.arange(len(r)), -r, over, g))
    order = order[~np.isnan(r[order])]
    taken: dict[float, int] = {}
    chosen = []
    for row in order:
        taken[g[row]] = taken.get(g[row], 0) + 1
        if taken[g[row]] <= keep:
            chosen.append(int(row))
    return torch.tensor(chosen, dtype=torch.int64, device=reward.device)


def excess_of(cost: Tensor, limit: Tensor) -> Tensor:
    """Σ_k max(0, c_k − d_k).  [R, K], [K] -> [R]."""
    return (cost - limit).clamp(min=0.0).sum(dim=1)


def best_of_n_distribution(probability: ArrayLike, reward: ArrayLike, n: int) -> NDArray[np.float64]:
    """Which of V replies is the best of n independent draws: [V], [V] -> [V].

    (F(v)ⁿ − F⁻(v)ⁿ)·p(v)/(F(v) − F⁻(v)), with F(v) the chance of a reward of at most v's and F⁻(v) that of a smaller
    one: the best is among v's equals if all draws are at most as good and not all are worse; among equals p decides.
    """
    p, r = (np.asarray(x, dtype=np.float64) for x in (probability, reward))
    at_most = np.array([p[r <= x].sum() for x in r])
    equal = np.array([p[r == x].sum() for x in r])
    below = np.clip(at_most - equal, 0.0, None)
    share = np.divide(p, equal, out=np.zeros_like(p), where=equal > 0.0)
    return np.asarray((at_most**n - below**n) * share)


class Best(NamedTuple):
    """The best of N replies to each chat, [P] rows; its log_prob is of being drawn, not of being the best."""

    rollout: Rollout
    reward: Tensor  # [P]; nan where none of the N could be scored: the first one drawn stands in
    cost: Tensor  # [P, K]


def best_of_n(
    model: LanguageModel,
    chats: Sequence[Chat],
    n: int,
    scorers: Sequence[Scoring],
    sampling: Sampling,
    rng: np.random.Generator,
    *,
    inputs: Mapping[str, Subject] | None = None,
    cost_limit: Limits = None,
    sampler: Sampler | None = None,
) -> Best:
    """N replies to each chat, and of them the best.  Raises ConfigError for n < 1 and limits that fit no costs."""
    if n < 1:
        raise ConfigError(f"the best of {n} replies does not exist. Give n of 1 or more.")
    repeated = [one for one in chats for _ in range(n)]
    rollout = (sampler or Auto()).sample(model, repeated, sampling, rng)
    scorer = opened(scorers, Judged(model, sampling), inputs or {})
    limit = _limits(cost_limit, scorer.costs)
    scores = scorer.score(rollout, rng)
    reward, cost = _sums(scores)
    asked = torch.arange(len(repeated), device=reward.device) // n
    rows = torch.arange(len(chats), device=reward.device) * n
    best = best_rows(reward, asked, 1, None if limit is None else excess_of(cost, limit.to(cost)))
    rows[asked[best]] = best
    return Best(_taken(rollout, rows), reward[rows], cost[rows])


@dataclass(frozen=True)
class BestOfN:
    """A `Sampler` whose reply is the best of N.

    For evaluation and for collecting data: `Rollout.log_prob` is of the policy, which is not what the best of N is
    drawn from, so that no ratio may be taken with it.
    """

    n: int
    scorers: Sequence[Scoring]
    inputs: Mapping[str, Subject] = field(default_factory=dict)
    cost_limit: Limits = None
    sampler: Sampler = field(default_factory=Auto)

    def sample(self, model: Any, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator) -> Rollout:
        """One reply to each chat.  Raises ConfigError as `best_of_n`."""
        return best_of_n(
            model, chats, self.n, self.scorers, sampling, rng,
            inputs=self.inputs, cost_limit=self.cost_limit, sampler=self.sampler,
        ).rollout  # fmt: skip


def _sums(scores: Scores) -> tuple[Tensor, Tensor]:
    """Reward [R] and costs [R, K] of whole replies; the reward is nan where a reply was not scored."""
    reward = torch.where(scores.missing, torch.nan, scores.reward.sum(dim=1))
    return reward, scores.cost.sum(dim=1)


def _taken(rollout: Rollout, rows: Tensor) -> Rollout:
    """Some rows, no wider than they need."""
    width = int(rollout.attended[rows].sum(dim=1).max())
    return Rollout(
        rollout.tokens[rows, :width],
        rollout.attended[rows, :width],
        rollout.sampled[rows, :width],
        rollout.log_prob[rows, :width],
        rollout.group[rows],
        rollout.ended[rows],
        tuple(rollout.asked[r] for r in rows.tolist()),
    )


def _limits(given: Limits, costs: Sequence[str]) -> Tensor | None:
    if given is None:
        return None
    if not costs:
        raise ConfigError("cost_limit is given, but no scorer gives a cost. Leave it out, or add such a scorer.")
    limits = given if isinstance(given, tuple) else (given,) * len(costs)
    if len(limits) != len(costs) or not all(map(math.isfinite, limits)):
        raise ConfigError(
            f"cost_limit is {given}, but there are {len(costs)} costs ({', '.join(costs)}). Give one finite limit per "
            "cost, or a single one for all."
        )
    return torch.tensor(limits)


# --- settings of the recipe ---


class Tuning(Config):
    """How each round learns what was kept, by the names of `sft`."""

    length: int = Field(1024, ge=2)  # tokens of the longest sequence
    epochs: float = Field(1.0, gt=0)  # over the replies of the round
    batch_size: int = Field(8, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    packing: bool = False
    optimiser: AdamW = AdamW()


class RejectionTuning(Asking):
    """Settings of rejection-sampling fine-tuning."""

    samples: int = Field(8, ge=1)  # N: replies to each prompt
    keep: int = Field(1, ge=1)  # the best ones of a prompt that are learnt, equal texts once
    at_least: float | None = None  # reward below which no reply is kept
    cost_limit: float | tuple[float, ...] | None = None  # of a reply's raw cost; one above it is worse than any below
    rounds: int = Field(1, ge=1)
    round_prompts: int | None = Field(None, ge=1)  # prompts of a round; none: as many as there are
    tuning: Tuning = Tuning()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    learner_threads: int = Field(1, ge=1)


# --- the recipe ---


class _Kept(NamedTuple):
    """What a round is to learn, and what is known of all that was sampled."""

    rows: list[dict[str, Any]]
    figures: dict[str, float]


@dataclass(frozen=True)
class RejectionRecipe:
    """Sample, keep the best, fine-tune; in rounds."""

    name: str
    Config: type[RejectionTuning]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def inputs_of(self, config: RejectionTuning) -> Mapping[str, bool]:
        """A warm start, and what scorers name."""
        return {"policy": False, **taken_by(config.scorers)}

    def check(self, config: RejectionTuning, root: Path) -> None:
        """Raises what `train` would raise for what does not depend on its inputs: see `check_asking`, and limits."""
        check_asking(config, root)
        self.limits(config)

    def check_with(self, config: RejectionTuning, root: Path, inputs: Mapping[str, Path]) -> None:
        """Raises what `train` would raise for prompts, and for those that leave its policy no room for a reply."""
        check_prompts(config, root, inputs)

    def limits(self, config: RejectionTuning) -> dict[str, float]:
        """The limit of each cost; {} without any.  Raises ConfigError for limits that do not fit."""
        costs = tuple(name for one in config.scorers for name in one.named_costs())
        found = _limits(config.cost_limit, costs)
        return {} if found is None else dict(zip(costs, found.tolist(), strict=True))

    def dry_run(
        self,
        config: RejectionTuning,
        inputs: Mapping[str, Subject] | None = None,
        root: Path | str = ".",
        seed: int = 0,
    ) -> DryRun:
        """Steps and tokens at most, memory, and the first three prompts; raises what `train` would at its start."""
        check_for_training(config.sampling)
        streams, known = Streams(seed), {**(inputs or {}), **referred(config.scorers, inputs or {}, root)}
        policy = _start(config, known.get("policy"), streams.rng("model"))
        asked = prompts_for(config, policy, Path(root))
        opened(config.scorers, Judged(policy, config.sampling, asked.columns), known)
        order = asked.order(config.prompts.shuffle, int(streams.rng("order").integers(2**31)))
        each = config.round_prompts or asked.epoch
        found = foreseen(policy, asked, order, config.rounds * each, config.sampling.max_tokens)
        tuning, keep = config.tuning, min(config.keep, config.samples)
        return DryRun(
            steps=config.rounds * math.ceil(tuning.epochs * each * keep / tuning.batch_size),
            tokens=math.ceil((config.samples + tuning.epochs * keep) * found.tokens),  # drawn, and learnt
            memory=_memory(config, policy, [x for role, x in known.items() if role != "policy"], found.widest),
            rows=found.rows,
            facts=asked.facts,
            at_most=True,
        )

    def train(self, config: RejectionTuning, run: Run, inputs: Mapping[str, Subject]) -> LanguageModel:
        """Train; `inputs["policy"]` is what to start from, and scorers name inputs of their own.

        Resumes inside the round it was in. Raises ConfigError for settings and inputs that do not fit and for a round
        in which nothing is worth keeping, CheckpointError when the prompts changed since the run began, and as `sft`.
        """
        return _Rounds(config, run, inputs).train()


def _start(config: RejectionTuning, given: Subject | None, rng: np.random.Generator) -> LanguageModel:
    """The policy of the first round; adapters are the rounds' own."""
    return policy_of(config.model.model_copy(update={"lora": None}), given, rng)


def _memory(config: RejectionTuning, policy: LanguageModel, judges: Sequence[Subject], width: int) -> Memory:
    """Bytes of a round: what is learnt, the models that score, and the keys and values of what is drawn."""
    model, tuning = policy.model, config.tuning
    if config.model.lora is not None:
        model = attach_lora(copy.deepcopy(model), config.model.lora, 0)
    learnt = weight_bytes(p for p in model.parameters() if p.requires_grad)
    rows, length = tuning.micro_batch or tuning.batch_size, min(tuning.length, width)
    return Memory(
        weights=weight_bytes(model.parameters()),
        gradients=learnt,
        moments=2 * learnt,
        reference=0,
        activations=activation_bytes(model, rows, length, head=True, checkpointing=False),
        scorers=judges_bytes(judges),
        cache=cache_bytes(model, getattr(config.sampler, "rows", 128), width),
    )


class _Rounds:
    """One training run."""

    def __init__(self, config: RejectionTuning, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Reads the prompts and finds the start."""
        self.config, self.run = config, run
        check_for_training(config.sampling)
        torch.set_num_threads(config.learner_threads)
        self.device = device_of(config.device)
        root = run.folder.parent
        inputs = self.inputs = {**inputs, **referred(config.scorers, inputs, root)}
        run.manifest["inputs"] |= reference_records(config.scorers, root)  # so that a resume finds the same models
        self.policy = _start(config, inputs.get("policy"), run.rng("model"))
        self.history = self.policy.history
        for subject in inputs.values():
            if isinstance(subject, LanguageModel | ScoreModel):
                (subject if isinstance(subject, ScoreModel) else subject.model).to(self.device)
        self.prompts = prompts_for(config, self.policy, root)
        self.order = self.prompts.order(config.prompts.shuffle, int(run.rng("order").integers(2**31)))
        self.round = 0

    def train(self) -> LanguageModel:
        """All rounds, then the policy."""
        self.run.manifest["data"] = self.prompts.sha256
        saved = self.run.restore()
        if saved is not None:
            if saved["prompts"] != self.prompts.sha256:
                raise CheckpointError(
                    f"the prompts of run {self.run.id} changed since it began. Put the rows back, or start again."
                )
            self.round = int(saved["round"])
            self.order.load_state_dict(saved["order"])
            self.policy = load_model(self._folder(self.round) / "subject")
        self.run.write_json("data.json", self.prompts.facts)
        for sentence in self.prompts.left_out():
            stage(sentence)
        while self.round < self.config.rounds:
            self.round += 1
            stage(f"round {self.round}/{self.config.rounds}: sample, keep, fine-tune")
            self._one_round()
            self.run.offer(self.round, lambda: self.policy)
            state = {"round": self.round, "order": self.order.state_dict(), "prompts": self.prompts.sha256}
            self.run.save(self.round, state)
        return self._subject()

    def _subject(self) -> LanguageModel:
        hashes = {role: given["sha256"] for role, given in self.run.manifest["inputs"].items()}
        names = (name for one in self.config.scorers for name in identity(one, hashes))
        models = (self.inputs[role] for one in self.config.scorers for role in one.inputs)
        history = self.history.taught(
            judged_by=(*names, *judges_behind(models)),
            trained_on=exposed(self.config.prompts, self.run.folder.parent),
            chats=True,
            rate=self.config.tuning.optimiser.lr,
        )
        parent = self.run.parent()
        return LanguageModel(self.policy.model, self.policy.tokenizer, parent, history)

    def _folder(self, round: int) -> Path:
        return self.run.artefact("rounds") / f"round-{round}"

    def _one_round(self) -> None:
        """Samples with the policy as it is, and leaves the policy that the round's fine-tuning ends with."""
        config = self.config
        kept = self._sampled()
        path = self.run.artefact(f"kept/round-{self.round}.jsonl")
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept.rows))
        self.run.log(self.round, **kept.figures)
        if not kept.rows:
            wanted = "" if config.at_least is None else f" with a reward of {config.at_least:g} or more"
            raise ConfigError(
                f"in round {self.round} no reply{wanted} ended within {config.sampling.max_tokens} tokens, so there is "
                "nothing to learn. Lower at_least, draw more samples, or allow longer replies."
            )
        tuning = config.tuning
        fine = FineTuning(
            model=config.model,
            data=Data(path=str(path.resolve()), unusable="drop", long_prompt="drop", long_answer="drop"),
            length=tuning.length,
            epochs=tuning.epochs,
            batch_size=tuning.batch_size,
            micro_batch=tuning.micro_batch,
            packing=tuning.packing,
            optimiser=tuning.optimiser,
            device=config.device,
            learner_threads=config.learner_threads,
        )
        folder, seed = self._folder(self.round), int(self.run.rng("rounds").integers(2**31))
        if status_of(folder) is None:
            own = Run.create(folder.parent, kind="train", name=SFT.name, config=fine, seed=seed, id=folder.name)
        else:  # begun as it is now, but that the folder of runs, and so the path of its data, may have been moved
            own = Run.reopen(folder)
        try:
            with own:
                save_subject(SFT.train(fine, own, {"policy": self.policy}), own.folder)
        except Stopped:
            raise Stopped(self.run.id) from None
        # From the folder, so that a resumed run has the very same model: adapters are in its weights.
        self.policy = load_model(folder / "subject")

    def _sampled(self) -> _Kept:
        """N replies to each prompt of the round, and the ones to learn."""
        config = self.config
        self.policy.model.to(self.device).eval()
        places = self.order.take(config.round_prompts or self.prompts.epoch)
        asked = [self.prompts.chats[place.source][place.row] for place in places]
        repeated = [one for one in asked for _ in range(config.samples)]
        rollout = config.sampler.open().sample(self.policy, repeated, config.sampling, self.run.rng("sample"))
        judged = Judged(self.policy, config.sampling, self.prompts.columns)
        scorer = opened(config.scorers, judged, self.inputs)
        reward, cost = _sums(scorer.score(rollout, self.run.rng("score")))
        texts = [reply.text for reply in replies_of(rollout, self.policy, config.sampling)]
        group = torch.arange(len(repeated), device=reward.device) // config.samples
        worth = torch.where(rollout.ended & ~_repeats(texts, group), reward, torch.nan)
        if config.at_least is not None:
            worth = torch.where(worth >= config.at_least, worth, torch.nan)
        limit = _limits(config.cost_limit, scorer.costs)
        rows = best_rows(worth, group, config.keep, None if limit is None else excess_of(cost, limit.to(cost)))
        scored = ~reward.isnan()
        figures = {
            "train/kept": float(len(rows)),
            "train/prompts_kept": float(len(group[rows].unique())) / len(asked),
            "train/cut": float((~rollout.ended).float().mean()),
            "train/missing": float((~scored).float().mean()),
            "train/length": float(rollout.sampled.sum(dim=1).float().mean()),
        }
        if scored.any():
            figures["train/reward"] = float(reward[scored].mean())
            figures |= {f"train/{name}": float(x) for name, x in zip(scorer.costs, cost[scored].mean(0), strict=True)}
        if len(rows):
            figures["train/kept_reward"] = float(reward[rows].mean())
            kept = zip(scorer.costs, cost[rows].mean(0), strict=True)
            figures |= {f"train/kept_{name}": float(x) for name, x in kept}
        return _Kept([_completion(repeated[r], texts[r], float(reward[r])) for r in rows.tolist()], figures)


def _repeats(texts: Sequence[str], group: Tensor) -> Tensor:
    """True on texts that their group has had before: [R]."""
    seen: set[tuple[int, str]] = set()
    found = []
    for g, text in zip(group.tolist(), texts, strict=True):
        found.append((g, text) in seen)
        seen.add((g, text))
    return torch.tensor(found, device=group.device)


def _completion(asked: Chat, text: str, reward: float) -> dict[str, Any]:
    return {
        "prompt": [turn._asdict() for turn in asked],
        "completion": [{"role": "assistant", "content": text}],
        "reward": reward,
    }


RFT = RejectionRecipe(
    "rft",
    RejectionTuning,
    {
        "small": {
            "sampling": {"max_tokens": 32},
            "rounds": 3,
            "tuning": {"length": 256, "batch_size": 32, "optimiser": {"lr": 1e-3, "schedule": "constant"}},
        }
    },
)
