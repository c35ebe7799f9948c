"""On-line reinforcement learning of language models, written once: sample, score, estimate, weigh, update.

    row          estimator   costs                                      settings
    lm-ppo       gae         measured                                   OnlinePpo
    lm-ppo-lag   gae         held under limits by a multiplier each     OnlinePpoLag
    rloo, grpo   by group    measured, or held where there is a handler OnlineRloo, OnlineGrpo

Handlers, the mix of advantages and the clipped surrogate are those of `rl/`. One step samples `samples` replies to each
of `batch_size` prompts, scores them, moves the multipliers by the raw costs of the last `window` replies, and makes
`passes` over the replies. Where these differ from the originals:

1. One critic with a head for each signal takes the place of two or more critics (Safe RLHF has one each for reward and
   cost, each begun from the scalar model); its heads begin at 0.
2. The divergence is a signal of its own (signals.py), where Safe RLHF takes it from the reward and adds it to the cost;
   by the identity there the advantages are the same. GRPO's is a signal too, where TRL adds k3 to the loss.
3. RLOO clips the ratio of each token, where TRL clips that of the reply; before the first step both have its gradient.

Everything random comes from the run's streams; a run that is killed and resumed on a CPU ends with the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import CheckpointError, ConfigError, Diverged
from trueline.core.files import to_json, write_text
from trueline.core.progress import progress, stage
from trueline.core.run import Run, resolve, stop_asked
from trueline.core.subject import Subject
from trueline.language.batches import Codec, Item, padded
from trueline.language.data_order import DataOrder
from trueline.language.estimators import Gae, Grpo, LossType, Rloo, token_weights
from trueline.language.forward import keeps_columns, learning_mode, token_scores
from trueline.language.losses import log_prob_of
from trueline.language.models import ModelRef, attach_lora, context_of, end_tokens, reference
from trueline.language.objectives import Likelihood
from trueline.language.optimiser import AdamW, Optimiser
from trueline.language.records import Data, exposed, load
from trueline.language.rollout import Chat, Message, Rollout, Sampling, chat
from trueline.language.sampler import Auto, Samplers, Vllm, check_for_training, replies_of
from trueline.language.scorers import Judged, Scoring, identity, opened, prompts_of
from trueline.language.scores import Scores
from trueline.language.signals import Kl, Signals, adapted, episode_cost, kl_of, signals_of, with_kl
from trueline.language.subject import History, LanguageModel, ScoreModel
from trueline.language.supervised import device_of
from trueline.language.templates import prompts_tokens
from trueline.rl.handlers.constraint import HandlerState, Weights, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.updates.surrogate import clipped_surrogate

__all__ = [
    "GRPO",
    "LM_PPO",
    "LM_PPO_LAG",
    "RLOO",
    "Critic",
    "Online",
    "OnlineGrpo",
    "OnlinePpo",
    "OnlinePpoLag",
    "OnlineRecipe",
    "OnlineRloo",
    "Ptx",
    "policy_loss",
    "reply_log_prob",
    "value_loss",
]

PROMPTS = ("prompt", "prompt-completion", "unpaired-preference", "preference", "safety-preference")
READ_AT_ONCE = 8192  # tokens of a forward pass that only reads

Multipliers = Lagrangian | PidLagrangian  # told apart by `kind`

SAFE_RLHF_HANDLER = Lagrangian(rule="log-sgd", lr=0.1, init=1.0, upper=5.0)


# --- settings ---


class Critic(Config):
    """A body of its own, begun as a copy of the policy's, with a head for each signal."""

    optimiser: AdamW = AdamW(lr=5e-6, schedule="constant")
    value_clip: float | None = Field(5.0, gt=0)  # how far a value may move from what it was at the rollout
    warmup: int = Field(0, ge=0)  # first steps, in which the critic alone learns and multipliers stand still


class Ptx(Config):
    """Text the policy is to keep writing: its likelihood is learnt beside the reward (Ouyang et al. 2022)."""

    data: Data
    weight: float = Field(16.0, gt=0)  # of −log π per token
    batch_size: int = Field(8, ge=1)  # rows beside each step of the optimiser


class Online(Config):
    """Settings every on-line recipe shares."""

    model: ModelRef = ModelRef()  # with a warm start, its adapters alone
    prompts: Data  # plain ones are asked as a user's turn, in the model's template
    scorers: tuple[Scoring, ...]
    sampling: Sampling = Sampling()
    sampler: Samplers = Auto()
    findings: tuple[str, ...] = ()  # run://ID/artefact each, listing prompts that failed an audit
    findings_share: float = Field(0.25, gt=0, lt=1)  # share of prompts that come from those
    samples: int = Field(1, ge=1)  # replies to each prompt of a step
    batch_size: int = Field(32, ge=1)  # prompts of a step
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)  # steps, instead of epochs
    passes: int = Field(1, ge=1)  # over the replies of a step
    minibatch: int | None = Field(None, ge=1)  # replies of a step of the optimiser; none: all of them
    micro_batch: int | None = Field(None, ge=1)  # replies at once; none: the whole minibatch
    clip: float = Field(0.2, gt=0, lt=1)  # ε of the surrogate
    loss_type: LossType = "dapo"  # how length counts, by TRL's names
    kl: Kl = Kl()
    cut_penalty: float = Field(0.0, ge=0)  # taken from the reward of a reply cut at the length limit
    score_clip: float | None = Field(None, gt=0)  # bound on what one token earns or costs; J_C is not bounded
    optimiser: AdamW = AdamW(lr=1e-6)
    ptx: Ptx | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    learner_threads: int = Field(1, ge=1)
    completion_steps: int = Field(10, ge=1)  # steps between the replies that are written down
    completions: int = Field(8, ge=0)  # how many of them
    eval_steps: int = Field(10, ge=1)  # steps between looks of whoever watches the run
    checkpoint_steps: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _effective(self) -> Self:
        replies = self.batch_size * self.samples
        for name in ("minibatch", "micro_batch"):
            given = getattr(self, name)
            if given is not None and given > replies:
                raise ValueError(f"{name} is {given}, but a step has {replies} replies. Give no more than those.")
        if self.kl.adaptive is not None and self.kl.weight == 0.0:
            raise ValueError("kl.weight is 0, from where it never adapts. Give a weight above 0.")
        return self

    @property
    def handler(self) -> Multipliers | None:
        """What holds costs under their limits."""
        return getattr(self, "constraint", None)

    @property
    def needs_reference(self) -> bool:
        """Whether the divergence is a signal."""
        return self.kl.weight > 0.0


class OnlinePpo(Online):
    """Proximal policy optimisation with a critic."""

    estimator: Gae = Gae()
    critic: Critic = Critic()


class OnlinePpoLag(OnlinePpo):
    """With limits on costs."""

    cost_limit: float | tuple[float, ...] = 0.0  # d of a reply's raw cost, one number or one per cost
    constraint: Multipliers = SAFE_RLHF_HANDLER
    window: int = Field(128, ge=1)  # replies whose mean is J_C


class _Group(Online):
    """Replies to one prompt compared with each other; costs are limited where there is a handler."""

    cost_limit: float | tuple[float, ...] = 0.0
    constraint: Multipliers | None = None
    window: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if self.samples < 2:
            raise ValueError("samples is 1, but replies to a prompt are compared with each other. Give 2 or more.")
        return self


class OnlineRloo(_Group):
    """REINFORCE with the other replies' mean as baseline."""

    samples: int = Field(2, ge=1)
    estimator: Rloo = Rloo()
    loss_type: LossType = "luspo"


class OnlineGrpo(_Group):
    """Group-relative policy optimisation."""

    samples: int = Field(8, ge=1)
    estimator: Grpo = Grpo()
    kl: Kl = Kl(weight=0.0)


# --- losses ---


def reply_log_prob(model: Any, tokens: Tensor, sampled: Tensor, temperature: float) -> Tensor:
    """log π(token t | tokens before t) of the sampled tokens, 0 elsewhere: [R, L], [R, L] -> [R, L].

    At the temperature of sampling, in float32. Those columns alone go through the output head that a row sampled.
    """
    wanted, target = sampled[:, 1:], tokens[:, 1:]
    columns = wanted.any(dim=0).nonzero().squeeze(1)
    if keeps_columns(model):
        logits = model(input_ids=tokens, use_cache=False, logits_to_keep=columns).logits
    else:
        logits = model(input_ids=tokens, use_cache=False).logits[:, columns]
    logits = logits if temperature == 1.0 else logits.float() / temperature
    found = torch.where(wanted[:, columns], log_prob_of(logits, target[:, columns]), 0.0)
    spread = torch.zeros(tokens.shape, dtype=found.dtype, device=found.device)
    return spread.index_copy(1, columns + 1, found)


def policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, weight: Tensor, clip: float) -> Tensor:
    """−Σ weight·(clipped surrogate).  [R, L] each -> scalar; the weight is 0 on tokens that do not count."""
    return -(clipped_surrogate(log_prob, old_log_prob, advantage, clip) * weight).sum()


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, kept: Tensor, clip: float | None) -> Tensor:
    """½ Σ_s max((V − G)², (V_clipped − G)²), summed over the tokens kept.  [R, L, S], kept [R, L] -> scalar.

    V_clipped is V held within `clip` of what it was at the rollout.
    """
    error = (value - target).square()
    if clip is not None:
        held = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.maximum(error, (held - target).square())
    return 0.5 * torch.where(kept[..., None], error, 0.0).sum()


# --- recipe ---


@dataclass(frozen=True)
class OnlineRecipe:
    """A row: a name, settings with their estimator, and named settings."""

    name: str
    Config: type[Online]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self, config: Online, root: Path) -> None:
        """Raises what `train` would raise for sampling, prompts, text to keep, and limits."""
        check_for_training(config.sampling)
        load(config.prompts, PROMPTS, root)
        if config.ptx is not None:
            load(config.ptx.data, Likelihood.accepts, root)
        for findings in config.findings:
            failing_prompts(findings, root)
        self.limits(config)

    def limits(self, config: Online) -> dict[str, float]:
        """The limit that each cost is trained for; {} when none is.  Raises ConfigError for limits that do not fit."""
        return limits_of(config, tuple(name for one in config.scorers for name in one.named_costs()))

    def train(self, config: Online, run: Run, inputs: Mapping[str, Subject]) -> LanguageModel:
        """Train; `inputs["policy"]` is what to start from, `inputs["reference"]` what the divergence is measured from.

        Without a reference it is the policy as it begins. Scorers name inputs of their own. Resumes from the run's last
        checkpoint. Raises ConfigError for settings and inputs that do not fit, Diverged when a loss or gradient is no
        longer finite, CheckpointError when the prompts changed since the run began.
        """
        return Trainer(config, run, inputs).train()


def limits_of(config: Online, costs: Sequence[str]) -> dict[str, float]:
    """Limit by cost; {} without a handler."""
    if config.handler is None:
        return {}
    if not costs:
        raise ConfigError("no scorer gives a cost, so nothing can be limited. Use lm-ppo, or leave constraint out.")
    given: float | tuple[float, ...] = config.cost_limit  # type: ignore[attr-defined]  # settings with a handler do
    limits = given if isinstance(given, tuple) else (given,) * len(costs)
    if len(limits) != len(costs):
        raise ConfigError(
            f"cost_limit has {len(limits)} values, but there are {len(costs)} costs ({', '.join(costs)}). "
            "Give one limit per cost, or a single number for all."
        )
    wrong = [limit for limit in limits if not math.isfinite(limit)]
    if wrong:
        raise ConfigError(f"cost_limit is {wrong[0]}. Give finite limits.")
    return dict(zip(costs, limits, strict=True))


class _Prompts(NamedTuple):
    """What is asked, by source; prompts that failed an audit are the last source."""

    chats: tuple[tuple[Chat, ...], ...]
    weights: tuple[float, ...]  # share of the prompts that each source gives; (): every row of all once an epoch
    epoch: int  # prompts of an epoch
    dropped: int  # too long for the context
    sha256: str


def prompts_for(config: Online, policy: LanguageModel, root: Path) -> _Prompts:
    """The prompts that leave room for a reply.  Raises ConfigError where none does, and as `records.load`."""
    tables = load(config.prompts, PROMPTS, root)
    context = context_of(policy.model)
    sources, dropped = [], 0
    for table in tables:
        asked = []
        for record, number in zip(table.rows, table.numbers, strict=True):
            prompt = record.prompt  # type: ignore[union-attr]  # every format that is accepted has one
            if not prompt:
                raise ConfigError(f"row {number} of {table.name} has no prompt. Give one in every row.")
            asked.append(chat(prompt) if isinstance(prompt, str) else tuple(prompt))
        lengths = [len(ids) for ids in prompts_tokens(policy.tokenizer, asked)]
        fits = [length < context for length in lengths]
        if not all(fits) and config.prompts.long_prompt != "drop":
            row = table.numbers[fits.index(False)]
            raise ConfigError(
                f"row {row} of {table.name} has a prompt of {lengths[fits.index(False)]} tokens, but the context holds "
                f"{context}. Shorten it, or set prompts.long_prompt to 'drop'."
            )
        kept = tuple(one for one, fit in zip(asked, fits, strict=True) if fit)
        if not kept:
            raise ConfigError(f"no prompt of {table.name} leaves room for a reply. Give shorter ones.")
        sources.append(kept)
        dropped += len(asked) - len(kept)
    failed = tuple(dict.fromkeys(one for findings in config.findings for one in failing_prompts(findings, root)))
    digest = hashlib.sha256(to_json([[table.sha256 for table in tables], failed]).encode()).hexdigest()
    weights, epoch = config.prompts.weights, sum(map(len, sources))
    if failed:
        own = np.array(weights or [len(source) for source in sources], dtype=np.float64)
        weights = (*(own / own.sum() * (1.0 - config.findings_share)).tolist(), config.findings_share)
        sources.append(failed)
    return _Prompts(tuple(sources), weights, epoch, dropped, digest)


def failing_prompts(findings: str, root: Path) -> list[Chat]:
    """Chats of a findings artefact of a run in `root`, each once.

    Raises RunError when there is none, ConfigError when it lists no prompt, or one that is held out for verdicts.
    """
    try:
        cases = [one["case"]["data"] for one in json.loads(resolve(findings, root).read_text(encoding="utf-8"))]
        asked = [(case["split"], tuple(Message(**turn) for turn in case["chat"])) for case in cases if "chat" in case]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{findings} cannot be read as findings. Name those of an audit of replies.") from None
    if not asked:
        raise ConfigError(f"{findings} lists no prompt. Name the findings of an audit of replies.")
    if any(split == "verdict" for split, _ in asked):
        raise ConfigError(
            f"{findings} lists prompts that are held out for verdicts. Train on findings of the respond split."
        )
    return list(dict.fromkeys(one for _, one in asked))


# --- the loop ---


class _Learnt(NamedTuple):
    """What a step learns from, [R, L] each unless said."""

    rollout: Rollout
    signals: Signals
    old_log_prob: Tensor
    advantage: Tensor
    value: Tensor | None  # [R, L, S] at the rollout
    target: Tensor | None  # [R, L, S]


class Trainer:
    """One training run: what it holds is what a checkpoint stores."""

    def __init__(self, config: Online, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds models and scorers and reads the prompts."""
        self.config, self.run = config, run
        check_for_training(config.sampling)
        torch.set_num_threads(config.learner_threads)
        self.device = device_of(config.device)
        known = {"policy", "reference", *(name for one in config.scorers for name in one.inputs)}
        unknown = sorted(set(inputs) - known)
        if unknown:
            raise ConfigError(f"there is no use for input {unknown[0]!r}. Inputs here are {', '.join(sorted(known))}.")
        seeds = run.rng("model")
        self.policy = _start(config, inputs.get("policy"), seeds)
        self.policy.model.to(self.device)
        self.reference = self._frozen(inputs.get("reference")) if config.needs_reference else None
        self.sampler = config.sampler.open()
        for subject in inputs.values():
            if isinstance(subject, LanguageModel | ScoreModel):
                (subject if isinstance(subject, ScoreModel) else subject.model).to(self.device)
        self.scorer = opened(config.scorers, Judged(self.policy, config.sampling), inputs)
        self.costs = tuple(self.scorer.costs)
        self.limited = limits_of(config, self.costs)
        self.prompts = prompts_for(config, self.policy, run.folder.parent)
        sizes = [len(source) for source in self.prompts.chats]
        self.order = DataOrder(
            sizes, self.prompts.weights, config.prompts.shuffle, int(run.rng("order").integers(2**31))
        )
        self.steps = config.max_steps or math.ceil(config.epochs * self.prompts.epoch / config.batch_size)
        self.replies = config.batch_size * config.samples
        self.minibatch = config.minibatch or self.replies
        a_step = config.passes * math.ceil(self.replies / self.minibatch)
        self.critic: ScoreModel | None = None
        self.critic_optimiser: Optimiser | None = None
        self.warmup = 0
        if isinstance(config, OnlinePpo):
            heads = ("reward", *(f"cost_{name}" for name in self.costs), *(("kl",) if config.needs_reference else ()))
            self.critic = ScoreModel.of(self.policy, heads).to(self.device).requires_grad_(True)
            self.critic_optimiser = Optimiser(
                config.critic.optimiser, self.critic.parameters(), max(1, self.steps * a_step)
            )
            self.warmup = config.critic.warmup
        if self.warmup >= self.steps:
            raise ConfigError(
                f"critic.warmup is {self.warmup}, but there are {self.steps} steps, so the policy would never learn. "
                "Give fewer."
            )
        self.optimiser = Optimiser(
            config.optimiser, self.policy.model.parameters(), (self.steps - self.warmup) * a_step
        )
        self.ptx, self.ptx_order = self._ptx()
        self.handler_state: HandlerState = {}
        if config.handler is not None:
            self.handler_state = config.handler.start(len(self.costs), self._learnt_multipliers())
        self.beta = config.kl.weight
        self.recent_cost = torch.zeros((0, len(self.costs)), dtype=torch.float64)
        self.step, self.cut, self.missing = 0, 0, 0
        self.fresh = torch.ones(self.replies, dtype=torch.bool)  # which replies of a step are to prompts of the data
        self.parent = run.manifest["inputs"].get("policy", {}).get("run")
        hashes = {role: given["sha256"] for role, given in run.manifest["inputs"].items()}
        self.judged_by = tuple(name for one in config.scorers for name in identity(one, hashes))

    def _learnt_multipliers(self) -> Tensor | None:
        """Of the same costs, as the training that is gone on with left them."""
        known = self.policy.history.multipliers
        if set(known) != set(self.costs):
            return None
        return torch.tensor([known[name] for name in self.costs], dtype=torch.float64)

    def _frozen(self, given: Subject | None) -> Any:
        """The reference: given, or a copy of the policy, or None where its adapters can be switched off."""
        if given is not None and not isinstance(given, LanguageModel):
            raise ConfigError(f"the reference is a {given.kind!r}. Give a language model.")
        if given is None and hasattr(self.policy.model, "disable_adapter"):
            return None
        model = copy.deepcopy(self.policy.model if given is None else given.model)
        return model.to(self.device).requires_grad_(False).eval()

    def _ptx(self) -> tuple[tuple[tuple[Item, ...], ...], DataOrder | None]:
        if self.config.ptx is None:
            return (), None
        data = self.config.ptx.data
        model, tokenizer = self.policy.model, self.policy.tokenizer
        codec, learns = Codec(tokenizer, data, context_of(model), end_tokens(model, tokenizer)), Likelihood()
        sources = tuple(
            tuple(
                item
                for record, number in zip(table.rows, table.numbers, strict=True)
                for item in learns.items(record, codec, f"row {number} of {table.name}")
            )
            for table in load(data, Likelihood.accepts, self.run.folder.parent)
        )
        if not all(sources):
            raise ConfigError("no row of ptx.data is left to learn from. Give rows that fit the context.")
        seed = int(self.run.rng("ptx").integers(2**31))
        return sources, DataOrder([len(items) for items in sources], data.weights, data.shuffle, seed)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, besides the run's streams."""
        state: dict[str, Any] = {
            "weights": {name: p.detach() for name, p in self.policy.model.named_parameters() if p.requires_grad},
            "optimiser": self.optimiser.state_dict(),
            "order": self.order.state_dict(),
            "handler": dict(self.handler_state),
            "recent_cost": self.recent_cost,
            "beta": self.beta,
            "step": self.step,
            "cut": self.cut,
            "missing": self.missing,
            "prompts": self.prompts.sha256,
        }
        if self.critic is not None and self.critic_optimiser is not None:
            state["critic"] = {name: p.detach() for name, p in self.critic.named_parameters()}
            state["critic_optimiser"] = self.critic_optimiser.state_dict()
        if self.ptx_order is not None:
            state["ptx"] = self.ptx_order.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        if state["prompts"] != self.prompts.sha256:
            raise CheckpointError(
                f"the prompts of run {self.run.id} changed since it began. Put the rows back, or start the run again."
            )
        with torch.no_grad():
            for name, p in self.policy.model.named_parameters():
                if p.requires_grad:
                    p.copy_(state["weights"][name])
            if self.critic is not None:
                for name, p in self.critic.named_parameters():
                    p.copy_(state["critic"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.critic_optimiser is not None:
            self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        self.order.load_state_dict(state["order"])
        if self.ptx_order is not None:
            self.ptx_order.load_state_dict(state["ptx"])
        self.handler_state = dict(state["handler"])
        self.recent_cost, self.beta = state["recent_cost"], float(state["beta"])
        self.step, self.cut, self.missing = int(state["step"]), int(state["cut"]), int(state["missing"])

    def train(self) -> LanguageModel:
        """All steps, then the policy."""
        config = self.config
        self.run.manifest["data"] = self.prompts.sha256
        saved = self.run.restore()
        if saved is not None:
            self.load_state_dict(saved)
        if self.limited:
            self.run.write_json("limits.json", {f"train/{name}": limit for name, limit in self.limited.items()})
        if self.prompts.dropped:
            stage(f"left out {self.prompts.dropped} prompts that fill the context")
        with progress(self.steps, self.run.manifest["name"]) as bar:
            bar.start_at(self.step)
            while self.step < self.steps:
                bar.advance(1, self.one_step())
                last = self.step == self.steps
                if self.step % config.eval_steps == 0 or last:
                    self.run.offer(self.step, self.subject)
                if self.step % config.checkpoint_steps == 0 or last or stop_asked():
                    self.run.save(self.step, self.state_dict())
        self._show()
        return self.subject()

    def subject(self) -> LanguageModel:
        """The policy as it stands; it shares its weights with the training."""
        self.policy.model.eval()
        before = self.policy.history
        multipliers = dict(before.multipliers)
        if self.config.handler is not None:
            multipliers = dict(zip(self.costs, self.handler_state["multiplier"].tolist(), strict=True))
        judged_by = tuple(dict.fromkeys((*before.judged_by, *self.judged_by)))
        trained_on = tuple(dict.fromkeys((*before.trained_on, *exposed(self.config.prompts, self.run.folder.parent))))
        history = History(judged_by, multipliers, trained_on)
        return LanguageModel(self.policy.model, self.policy.tokenizer, self.parent, history)

    def one_step(self) -> str:
        """Sample, score, weigh, learn.  Returns a note for whoever waits; raises Diverged."""
        config = self.config
        self.policy.model.eval()
        places = self.order.take(config.batch_size)
        chats = [self.prompts.chats[place.source][place.row] for place in places for _ in range(config.samples)]
        # Constraints are steered by fresh prompts: those that failed an audit cost more than the average.
        failed = len(self.prompts.chats) - 1 if config.findings else -1
        self.fresh = torch.tensor([place.source != failed for place in places for _ in range(config.samples)])
        rollout = self.sampler.sample(self.policy, chats, config.sampling, self.run.rng("sample"))
        scores = self.scorer.score(rollout, self.run.rng("score"))
        found, kl = self._learnt(rollout, scores)
        figures = self._passes(found)
        self.step += 1
        note = self._log(rollout, scores, kl, figures)
        if self.step % config.completion_steps == 0 or self.step == self.steps:
            self._write_down(rollout, scores)
        return note

    @torch.no_grad()
    def _learnt(self, rollout: Rollout, scores: Scores) -> tuple[_Learnt, Tensor | None]:
        """Advantages under the weights as the last replies' costs leave them; and the divergence of each reply [E]."""
        config = self.config
        old, beta = rollout.log_prob, self.beta
        if isinstance(config.sampler, Vllm):  # its kernels are not the trainer's
            old = self._log_prob(self.policy.model, rollout)
        kl = kl_reply = None
        if config.needs_reference:
            if self.reference is not None:
                beside = self._log_prob(self.reference, rollout)
            else:
                with reference(self.policy.model) as model:
                    beside = self._log_prob(model, rollout)
            kl = kl_of(old, beside, config.kl.estimator)
            kl_reply = torch.where(rollout.sampled, old - beside, 0.0).sum(dim=1)[~scores.missing]
            if config.kl.adaptive is not None and len(kl_reply):
                self.beta = adapted(self.beta, config.kl.adaptive, float(kl_reply.mean()), len(kl_reply))
        signals = signals_of(
            rollout,
            scores,
            kl,
            credit=self.scorer.credit,
            cut_penalty=config.cut_penalty,
            score_clip=config.score_clip,
        )
        weights = self._weights(scores)
        weights = with_kl(weights, beta) if config.needs_reference else weights
        if self.critic is not None:
            assert isinstance(config, OnlinePpo)
            value = self._values(rollout)
            estimates = config.estimator.estimates(signals, value)
            advantage = config.estimator.mixed(signals, estimates, weights)
            return _Learnt(rollout, signals, old, advantage, value, estimates.target), kl_reply
        group: Rloo | Grpo = config.estimator  # type: ignore[attr-defined]  # what has no critic compares
        advantage = group.advantage(signals, rollout.group, weights)
        return _Learnt(rollout, signals, old, advantage, None, None), kl_reply

    def _weights(self, scores: Scores) -> Weights:
        """After one step of the multipliers on the raw costs of the last replies."""
        handler = self.config.handler
        if handler is None:
            return unconstrained(len(self.costs))
        told = ~scores.missing.cpu()
        fresh = episode_cost(scores).double().cpu()[self.fresh[told]]
        window: int = self.config.window  # type: ignore[attr-defined]  # settings with a handler have it
        self.recent_cost = torch.cat([self.recent_cost, fresh])[-window:]
        if self.step >= self.warmup and len(fresh):
            limits = torch.tensor(list(self.limited.values()), dtype=torch.float64)
            self.handler_state = handler.update(self.handler_state, self.recent_cost, limits)
        return handler.weights(self.handler_state)

    def _log_prob(self, model: Any, rollout: Rollout) -> Tensor:
        found = torch.zeros_like(rollout.log_prob)
        for rows, width in self._parts(rollout):
            part = (rollout.tokens[rows, :width], rollout.sampled[rows, :width])
            found[rows, :width] = reply_log_prob(model, *part, self.config.sampling.temperature).to(found)
        return found

    def _values(self, rollout: Rollout) -> Tensor:
        assert self.critic is not None
        self.critic.eval()
        found = rollout.log_prob.new_zeros((*rollout.tokens.shape, len(self.critic.heads)))
        for rows, width in self._parts(rollout):
            found[rows, :width] = self.critic.values(rollout.tokens[rows, :width]).to(found)
        return found

    def _parts(self, rollout: Rollout) -> Iterator[tuple[slice, int]]:
        """Rows that fit one forward pass that only reads, and how wide they are."""
        length = rollout.attended.sum(dim=1)
        at_once = max(1, READ_AT_ONCE // rollout.tokens.shape[1])
        for at in range(0, len(length), at_once):
            rows = slice(at, at + at_once)
            yield rows, int(length[rows].max())

    def _passes(self, found: _Learnt) -> dict[str, float]:
        """Passes over the replies in random order; returns means over the last of them."""
        config, kept = self.config, found.signals.kept
        batches = math.ceil(self.replies / self.minibatch)
        figures: dict[str, float] = {}
        learning_mode(self.policy.model, False)
        for _ in range(config.passes):
            sums = {"policy_loss": 0.0, "value_loss": 0.0, "ptx_loss": 0.0, "clipped": 0.0, "kl": 0.0}
            order = torch.as_tensor(self.run.rng("update").permutation(self.replies), device=kept.device)
            for at in range(0, self.replies, self.minibatch):
                rows = order[at : at + self.minibatch]
                if not kept[rows].any():
                    continue
                if self.critic is not None:
                    sums["value_loss"] += self._value_step(found, rows)
                if self.step < self.warmup:
                    continue
                weight = token_weights(kept[rows], config.loss_type, config.sampling.max_tokens)
                if config.loss_type == "dapo":
                    # The mean is over the tokens of the whole step, so that short minibatches weigh less.
                    weight = kept[rows].float() * batches / kept.sum()
                self._policy_step(found, rows, weight, sums)
            figures = {name: total / batches for name, total in sums.items()}
        for name, there in (("value_loss", self.critic is not None), ("ptx_loss", config.ptx is not None)):
            if not there:
                del figures[name]
        return figures

    def _micros(self, rows: Tensor) -> Iterator[slice]:
        size = self.config.micro_batch or len(rows)
        for at in range(0, len(rows), size):
            yield slice(at, at + size)

    def _policy_step(self, found: _Learnt, rows: Tensor, weight: Tensor, sums: dict[str, float]) -> None:
        config, rollout = self.config, found.rollout
        tokens = max(1.0, float(found.signals.kept[rows].sum()))
        total = 0.0
        for micro in self._micros(rows):
            part, w = rows[micro], weight[micro]
            if not w.any():
                continue
            width = int(rollout.attended[part].sum(dim=1).max())
            cut = (part, slice(0, width))
            kept, old = found.signals.kept[cut], found.old_log_prob[cut]
            log_prob = reply_log_prob(self.policy.model, rollout.tokens[cut], kept, config.sampling.temperature)
            loss = policy_loss(log_prob, torch.where(kept, old, 0.0), found.advantage[cut], w[:, :width], config.clip)
            loss.backward()
            total += loss.item()
            with torch.no_grad():
                ratio = (log_prob - old)[kept].exp()
                sums["clipped"] += float(((ratio - 1.0).abs() > config.clip).sum()) / tokens
                sums["kl"] += float((ratio - 1.0 - ratio.log()).sum()) / tokens
        sums["policy_loss"] += total
        if self.ptx_order is not None:
            extra = self._ptx_loss()
            extra.backward()
            sums["ptx_loss"] += extra.item()
            total += extra.item()
        self._stepped(self.optimiser, total, "the policy's loss")

    def _ptx_loss(self) -> Tensor:
        """weight·(mean −log π) of the next rows of text."""
        assert self.config.ptx is not None
        assert self.ptx_order is not None
        places = self.ptx_order.take(self.config.ptx.batch_size)
        rows = [self.ptx[place.source][place.row].rows[0] for place in places]
        batch = padded(rows, self.policy.tokenizer.pad_token_id).to(self.device)
        log_prob = token_scores(self.policy.model, batch).log_prob
        return -self.config.ptx.weight * (log_prob * batch.weight).sum() / batch.weight.sum()

    def _value_step(self, found: _Learnt, rows: Tensor) -> float:
        assert self.critic is not None
        assert self.critic_optimiser is not None
        assert found.value is not None
        assert found.target is not None
        assert isinstance(self.config, OnlinePpo)
        tokens, total = found.signals.kept[rows].sum(), 0.0
        for micro in self._micros(rows):
            part = rows[micro]
            width = int(found.rollout.attended[part].sum(dim=1).max())
            cut = (part, slice(0, width))
            value = self.critic.values(found.rollout.tokens[cut])
            clip = self.config.critic.value_clip
            loss = value_loss(value, found.value[cut], found.target[cut], found.signals.kept[cut], clip) / tokens
            loss.backward()
            total += loss.item()
        self._stepped(self.critic_optimiser, total, "the critic's loss")
        return total

    def _stepped(self, optimiser: Optimiser, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise Diverged(self.step, what, self.run.last_checkpoint)
        norm = float(optimiser.step())
        if not math.isfinite(norm):
            raise Diverged(self.step, what.replace("loss", "gradient"), self.run.last_checkpoint)

    def _log(self, rollout: Rollout, scores: Scores, kl: Tensor | None, figures: Mapping[str, float]) -> str:
        scored = ~scores.missing
        self.cut += int((~rollout.ended).sum())
        self.missing += int(scores.missing.sum())
        scalars = {f"update/{name}": value for name, value in figures.items()}
        scalars["train/length"] = float(rollout.sampled.sum(dim=1).float().mean())
        scalars["train/cut"] = float((~rollout.ended).float().mean())
        scalars["train/missing"] = float(scores.missing.float().mean())
        scalars |= {"train/total_cut": float(self.cut), "train/total_missing": float(self.missing)}
        note = "nothing was scored"
        if scored.any():  # without a reply that was scored there is no estimate, and none is logged
            reward = float(scores.reward.sum(dim=1)[scored].mean())
            cost = episode_cost(scores).mean(dim=0).tolist()
            scalars["train/reward"] = reward
            scalars |= {f"train/{name}": value for name, value in zip(self.costs, cost, strict=True)}
            note = f"reward {reward:.2f}" + (" cost " + " ".join(f"{x:.2f}" for x in cost) if cost else "")
        if kl is not None:
            scalars["train/beta"] = self.beta
            if len(kl):
                scalars["train/kl"] = float(kl.mean())
        if self.config.handler is not None:
            for name, multiplier in zip(self.costs, self.handler_state["multiplier"].tolist(), strict=True):
                scalars[f"constraint/multiplier_{name}"] = multiplier
        self.run.log(self.step, **scalars)
        return note

    def _write_down(self, rollout: Rollout, scores: Scores) -> None:
        """Some replies of this step, with what they earned and cost."""
        n = min(self.config.completions, len(rollout.tokens))
        if n:
            some = Rollout(*(getattr(rollout, name)[:n] for name in Rollout.__slots__))
            first = Scores(scores.reward[:n], scores.cost[:n], scores.missing[:n])
            self.run.write_json(f"completions/step-{self.step:06d}.json", self._told(some, first))

    def _told(self, rollout: Rollout, scores: Scores) -> list[dict[str, Any]]:
        reward, cost = scores.reward.sum(dim=1).tolist(), scores.cost.sum(dim=1).tolist()
        texts = zip(
            prompts_of(rollout, self.policy), replies_of(rollout, self.policy, self.config.sampling), strict=True
        )
        return [
            {
                "prompt": prompt,
                "reply": reply.text,
                "ended": reply.ended,
                "reward": None if scores.missing[r] else reward[r],
                "cost": None if scores.missing[r] else dict(zip(self.costs, cost[r], strict=True)),
            }
            for r, (prompt, reply) in enumerate(texts)
        ]

    @torch.no_grad()
    def _show(self) -> None:
        """Replies to the first prompts of each source, for whoever compares trainings on the same data."""
        own = self.prompts.chats[:-1] if self.config.findings else self.prompts.chats
        each = math.ceil(self.config.completions / len(own))
        asked = [one for source in own for one in source[:each]]
        if not asked:
            return
        self.policy.model.eval()
        rollout = self.sampler.sample(self.policy, asked, self.config.sampling, self.run.rng("show"))
        told = self._told(rollout, self.scorer.score(rollout, self.run.rng("show")))
        write_text(self.run.artefact("media/replies.txt"), "\n\n".join(map(_in_words, told)) + "\n")
        shown = {"kind": "text", "file": "replies.txt", "caption": "Replies to the first prompts of the training data."}
        self.run.write_json("media/list.json", [{**shown, "alt": "prompts, each with a reply and its scores"}])


def _in_words(told: Mapping[str, Any]) -> str:
    scored = "not scored"
    if told["reward"] is not None:
        scored = ", ".join(f"{name} {x:.2f}" for name, x in {"reward": told["reward"], **told["cost"]}.items())
    return f"› {told['prompt']}\n{told['reply'] or '(nothing)'}{'' if told['ended'] else ' …'}\n[{scored}]"


def _start(config: Online, given: Subject | None, rng: np.random.Generator) -> LanguageModel:
    """The policy to train."""
    if given is None:
        return LanguageModel.of(config.model, rng)
    if not isinstance(given, LanguageModel):
        raise ConfigError(f"the warm start is a {given.kind!r}. Give a language model.")
    if config.model.lora is None:
        return given
    adapted = attach_lora(given.model, config.model.lora, int(rng.integers(2**63)))
    return LanguageModel(adapted, given.tokenizer, given.parent, given.history)


# --- the table ---

_SAFE_RLHF: Mapping[str, Any] = {
    "model": {"template": "safe-rlhf"},
    "sampling": {"max_tokens": 512},
    "score_clip": 50.0,
    "optimiser": {
        "lr": 1e-5,
        "schedule": "cosine",
        "warmup": 0.03,
        "weight_decay": 0.01,
        "beta_1": 0.9,
        "beta_2": 0.95,
    },
    "critic": {
        "optimiser": {"lr": 5e-6, "schedule": "constant", "warmup": 0.03, "beta_1": 0.9, "beta_2": 0.95},
        "value_clip": 5.0,
    },
    "estimator": {"whiten": False},
}
_SMALL: Mapping[str, Any] = {
    "sampling": {"max_tokens": 32},
    "batch_size": 64,
    "passes": 2,
    "optimiser": {"lr": 1e-3, "schedule": "constant"},
    "critic": {"optimiser": {"lr": 3e-3, "schedule": "constant"}},
}
_SMALL_GROUP: Mapping[str, Any] = {
    "sampling": {"max_tokens": 32},
    "batch_size": 16,
    "samples": 8,
    "optimiser": {"lr": 1e-3, "schedule": "constant"},
}

LM_PPO = OnlineRecipe("lm-ppo", OnlinePpo, {"safe-rlhf": {**_SAFE_RLHF, "kl": {"weight": 0.02}}, "small": _SMALL})
LM_PPO_LAG = OnlineRecipe(
    "lm-ppo-lag", OnlinePpoLag, {"safe-rlhf": {**_SAFE_RLHF, "kl": {"weight": 0.01}}, "small": _SMALL}
)
RLOO = OnlineRecipe("rloo", OnlineRloo, {"small": _SMALL_GROUP})
GRPO = OnlineRecipe("grpo", OnlineGrpo, {"small": _SMALL_GROUP})
