"""The loop of on-line learning, written once: sample, score, estimate, weigh, update.

Of several processes (`parallel.py`) each draws, scores, reads and learns a share of every step; what they found is put
together in between, so that multipliers, advantages and the order of the replies are the same in all of them.

Letters of shapes: R = prompts times samples, L = prompt and response tokens, S signals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trueline.core.errors import CheckpointError, ConfigError, TruelineError
from trueline.core.progress import progress, stage
from trueline.core.run import Run
from trueline.core.stopping import stop_asked
from trueline.core.subject import Subject
from trueline.evidence.experiments.endings import write_limits
from trueline.language.estimators import Grpo, Rloo
from trueline.language.forward import checkpoint_activations, plain
from trueline.language.online.gathering import gathered
from trueline.language.online.kept_text import KeptText
from trueline.language.online.learning import Learning, Learnt
from trueline.language.online.making import Made
from trueline.language.online.reading import Reading
from trueline.language.online.settings import Online, OnlinePpo
from trueline.language.online.telling import Telling, figures_of, in_short
from trueline.language.parallel import device_of, draws_of, span
from trueline.language.rollout import Chat, Rollout
from trueline.language.scorers import identity, reference_records, trouble_of
from trueline.language.scores import Scores
from trueline.language.signals import Signals, adapted, episode_cost, signals_of, with_kl
from trueline.language.sources import exposed
from trueline.language.subject import LanguageModel, judges_behind
from trueline.rl.handlers.constraint import HandlerState, Weights, unconstrained
from trueline.rl.parallel import followed, followers_states, learners, stop_together

__all__ = ["UNSCORED", "Step", "Trainer"]

UNSCORED = 5  # steps on end without a single score, after which a training ends: nothing mends itself any more


class Step(NamedTuple):
    """What one step came to."""

    figures: Mapping[str, float]  # means over its last pass
    kl: Tensor | None  # [E]: divergence of each reply that was scored, where it is measured


class _Divergence(NamedTuple):
    """From the reference; None for what is not measured."""

    signal: Tensor | None = None  # [R, L], where replies are credited with it
    beside: Tensor | None = None  # [R, L]: log π_ref, where it is a term of the loss
    of_reply: Tensor | None = None  # [E], of the replies that were scored


class Trainer:
    """One training run: what it holds is what a checkpoint stores."""

    def __init__(self, config: Online, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds models and scorers and reads the prompts."""
        self.config, self.run, self.group = config, run, learners()
        torch.set_num_threads(config.learner_threads)
        self.device, root = device_of(config.device), run.folder.parent
        made = Made.of(config, inputs, run.rng("model"), root, self.device)
        self.policy, self.critic, self.scorer = made.policy, made.critic, made.scorer
        self.limited, self.prompts, self.costs = made.limits, made.asked, tuple(made.scorer.costs)
        self.sampler = config.sampler.open()
        self.order = self.prompts.order(config.prompts.shuffle, int(run.rng("order").integers(2**31)))
        self.steps, self.replies = config.steps(self.prompts.epoch), config.replies
        self._check_sizes()
        self.reading = Reading(
            policy=made.policy.model,
            reference=made.reference,
            critic=made.critic,
            shared=config.shares_body,
            temperature=config.sampling.temperature,
            bfloat16=config.autocast is not None,
            device=self.device,
            group=self.group,
        )
        if config.gradient_checkpointing:
            for model in self.reading.learners:
                checkpoint_activations(plain(model))
        text = None if config.ptx is None else KeptText(config.ptx, made.kept, int(run.rng("ptx").integers(2**31)))
        self.learning = Learning(config, self.policy, self.reading, text, self.steps, run)
        self.telling = Telling(run, self.policy, config.sampling, self.costs)
        self.handler_state: HandlerState = {}
        if config.handler is not None:
            self.handler_state = config.handler.start(len(self.costs), self._learnt_multipliers())
        self.beta = config.kl.weight
        self.recent_cost = torch.zeros((0, len(self.costs)), dtype=torch.float64)
        self.step, self.cut, self.missing = 0, 0, 0
        self.unscored = 0  # steps since the last one in which a reply was scored
        self.fresh = torch.ones(self.replies, dtype=torch.bool)  # which replies of a step are to prompts of the data
        self.parent = run.parent()
        run.manifest["inputs"] |= reference_records(config.scorers, root)  # so that a resume finds the same models
        hashes = {role: given["sha256"] for role, given in run.manifest["inputs"].items()}
        self.judged_by = (
            *(name for one in config.scorers for name in identity(one, hashes)),
            *judges_behind(made.judges),  # their scores are the labels that they learnt
        )

    def _check_sizes(self) -> None:
        """Raises ConfigError for more processes than replies, and for a training that would be all warm-up."""
        if self.replies < self.group.size:
            raise ConfigError(
                f"a step has {self.replies} replies for {self.group.size} processes. Start fewer of them, or give a "
                "larger batch_size."
            )
        if self.config.warmup >= self.steps:
            raise ConfigError(
                f"critic.warmup is {self.config.warmup}, but there are {self.steps} steps, so the policy would never "
                "learn. Give fewer."
            )

    def _learnt_multipliers(self) -> Tensor | None:
        """Of the same costs, as the training that is gone on with left them."""
        known = self.policy.history.multipliers
        if set(known) != set(self.costs):
            return None
        return torch.tensor([known[name] for name in self.costs], dtype=torch.float64)

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, besides the run's streams."""
        state: dict[str, Any] = {
            **self.learning.state_dict(),
            "order": self.order.state_dict(),
            "handler": dict(self.handler_state),
            "recent_cost": self.recent_cost,
            "beta": self.beta,
            "step": self.step,
            "cut": self.cut,
            "missing": self.missing,
            "unscored": self.unscored,
            "prompts": self.prompts.sha256,
        }
        if self.group.size > 1:
            state["followers"] = followers_states(self.group, self.run, {})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        if state["prompts"] != self.prompts.sha256:
            raise CheckpointError(
                f"the prompts of run {self.run.id} changed since it began. Put the rows back, or start the run again."
            )
        self.learning.load_state_dict(state)
        self.order.load_state_dict(state["order"])
        self.handler_state = dict(state["handler"])
        self.recent_cost, self.beta = state["recent_cost"], float(state["beta"])
        self.step, self.cut, self.missing = int(state["step"]), int(state["cut"]), int(state["missing"])
        self.unscored = int(state["unscored"])

    # --- the loop ---

    def train(self) -> LanguageModel:
        """All steps, then the policy.  Raises TruelineError where there was nothing to learn for UNSCORED steps."""
        config = self.config
        self.run.manifest["data"] = self.prompts.sha256
        saved = self.group.from_first(self.run.restore())
        if saved is not None:
            self.load_state_dict(followed(self.run, saved, self.group))
        write_limits(self.run, {f"train/{name}": limit for name, limit in self.limited.items()})
        self.run.write_json("data.json", self.prompts.facts)
        for sentence in self.prompts.left_out():
            stage(sentence)
        with progress(self.steps, self.run.manifest["name"]) as bar:
            bar.start_at(self.step)
            while self.step < self.steps:
                bar.advance(1, self.one_step())
                self._check_scored()
                last = self.step == self.steps
                if self.step % config.eval_steps == 0 or last:
                    self.run.offer(self.step, self.subject)
                stop_together(self.group, self.run)
                if self.step % config.checkpoint_steps == 0 or last or stop_asked():
                    self.run.save(self.step, self.state_dict())
        if self.group.leads:
            self._show()
        return self.subject()

    def subject(self) -> LanguageModel:
        """The policy as it stands; it shares its weights with the training."""
        self.policy.model.eval()
        before = self.policy.history
        multipliers = dict(before.multipliers)
        if self.config.handler is not None:
            multipliers = dict(zip(self.costs, self.handler_state["multiplier"].tolist(), strict=True))
        data = (self.config.prompts, *(() if self.config.ptx is None else (self.config.ptx.data,)))
        trained_on = [path for one in data for path in exposed(one, self.run.folder.parent)]
        rate = self.config.optimiser.lr
        history = before.taught(judged_by=self.judged_by, trained_on=trained_on, chats=True, rate=rate)
        history = history._replace(multipliers=multipliers)
        return LanguageModel(self.policy.model, self.policy.tokenizer, self.parent, history)

    def one_step(self) -> str:
        """Sample, score, weigh, learn.  Returns a note for whoever waits; raises Diverged."""
        self.policy.model.eval()
        rollout, scores = self._sampled(self._chats())
        step = self._learn(rollout, scores)
        self.step += 1
        note = self._log(rollout, scores, step)
        if self.step % self.config.completion_steps == 0 or self.step == self.steps:
            self.telling.write_down(self.step, self.config.completions, rollout, scores)
        return note

    def _chats(self) -> list[Chat]:
        """What the next step asks, each prompt as often as it is replied to."""
        places, samples = self.order.take(self.config.batch_size), self.config.samples
        # Constraints are steered by fresh prompts: those that failed an audit cost more than the average.
        failed = len(self.prompts.chats) - 1 if self.config.findings else -1
        self.fresh = torch.tensor([place.source != failed for place in places for _ in range(samples)])
        return [self.prompts.chats[place.source][place.row] for place in places for _ in range(samples)]

    @torch.no_grad()
    def _sampled(self, chats: Sequence[Chat]) -> tuple[Rollout, Scores]:
        """A reply to each chat, and its scores; of several processes each draws and scores its own, and all know all.

        A reply is decided by its own row of the stream's numbers (sampler.py), so that shares change no reply.
        """
        sampling, draws, judging = self.config.sampling, self.run.rng("sample"), self.run.rng("score")
        own = span(self.group, len(chats))
        with draws_of(self.group, draws, own, len(chats), sampling.max_tokens):
            rollout = self.sampler.sample(self.policy, chats[own], sampling, draws)
        with draws_of(self.group, judging, own, len(chats), 1):
            scores = self.scorer.score(rollout, judging)
        return gathered(self.group, rollout, scores, chats, self.policy.tokenizer.pad_token_id)

    def _check_scored(self) -> None:
        if self.unscored < min(UNSCORED, self.steps):
            return
        trouble = trouble_of(self.scorer)
        raise TruelineError(
            f"no reply of the last {self.unscored} steps could be scored"
            + (f"; the last answer of an endpoint was: {trouble}. " if trouble else ". ")
            + f"Mend what scores, then go on with `trueline resume {self.run.id}`."
        )

    # --- what is learnt ---

    def _learn(self, rollout: Rollout, scores: Scores) -> Step:
        """From the replies of a step."""
        found, kl = self._learnt(rollout, scores)
        return Step(self.learning.learn(found, self.step), kl)

    def _learnt(self, rollout: Rollout, scores: Scores) -> tuple[Learnt, Tensor | None]:
        """Advantages under the weights as the last replies' costs leave them; and the divergence of each reply [E]."""
        config, old, beta = self.config, self._old(rollout), self.beta
        apart = self._divergence(rollout, scores, old)
        signals = signals_of(
            rollout,
            scores,
            apart.signal,
            credit=self.scorer.credit,
            cut_penalty=config.cut_penalty,
            score_clip=config.score_clip,
        )
        weights = self._weights(scores)
        weights = with_kl(weights, beta) if config.kl.is_signal else weights
        if self.critic is not None:
            return self._valued(rollout, signals, weights, old, apart.beside, beta), apart.of_reply
        group: Rloo | Grpo = config.estimator  # type: ignore[attr-defined]  # what has no critic compares
        advantage = group.advantage(signals, rollout.group, weights)
        return Learnt(rollout, signals, old, advantage, apart.beside, beta), apart.of_reply

    def _valued(
        self, rollout: Rollout, signals: Signals, weights: Weights, old: Tensor, beside: Tensor | None, beta: float
    ) -> Learnt:
        """With what the critic says the replies are worth."""
        config = self.config
        assert isinstance(config, OnlinePpo)
        ahead = self.reading.ahead(rollout) if config.learnt_at_once and self.step >= config.warmup else None
        value = self.reading.values(rollout) if ahead is None else ahead.value
        assert value is not None
        value = self.reading.joined(value.detach().clone())
        estimates = config.estimator.estimates(signals, value)
        advantage = config.estimator.mixed(signals, estimates, weights)
        return Learnt(rollout, signals, old, advantage, beside, beta, value, estimates.target, ahead)

    def _old(self, rollout: Rollout) -> Tensor:
        """log π of what was drawn, in the trainer's own arithmetic."""
        return self.reading.log_prob(rollout) if self.config.reads_again else rollout.log_prob

    def _divergence(self, rollout: Rollout, scores: Scores, old: Tensor) -> _Divergence:
        """By token and by reply; moves its weight where that adapts."""
        if not self.config.needs_reference:
            return _Divergence()
        kl, beside = self.config.kl, self.reading.beside(rollout)
        of_reply = torch.where(rollout.sampled, old - beside, 0.0).sum(dim=1)[~scores.missing]
        if kl.adaptive is not None and len(of_reply):
            self.beta = adapted(self.beta, kl.adaptive, float(of_reply.mean()), len(of_reply))
        if kl.is_signal:
            return _Divergence(signal=old - beside, of_reply=of_reply)
        return _Divergence(beside=beside, of_reply=of_reply)

    def _weights(self, scores: Scores) -> Weights:
        """After one step of the multipliers on the raw costs of the last replies."""
        handler = self.config.handler
        if handler is None:
            return unconstrained(len(self.costs))
        told = ~scores.missing.cpu()
        fresh = episode_cost(scores).double().cpu()[self.fresh[told]]
        window: int = self.config.window  # type: ignore[attr-defined]  # settings with a handler have it
        self.recent_cost = torch.cat([self.recent_cost, fresh])[-window:]
        if self.step >= self.config.warmup and len(fresh):
            limits = torch.tensor(list(self.limited.values()), dtype=torch.float64)
            self.handler_state = handler.update(self.handler_state, self.recent_cost, limits)
        return handler.weights(self.handler_state)

    # --- telling ---

    def _log(self, rollout: Rollout, scores: Scores, step: Step) -> str:
        """Figures of a step into the run; returns a note."""
        self.cut += int((~rollout.ended).sum())
        self.missing += int(scores.missing.sum())
        self.unscored = self.unscored + 1 if scores.missing.all() else 0
        found = figures_of(rollout, scores, self.costs)
        scalars = {f"update/{name}": value for name, value in step.figures.items()}
        scalars |= {f"train/{name}": value for name, value in found.items()}
        scalars |= {"train/total_cut": float(self.cut), "train/total_missing": float(self.missing)}
        if step.kl is not None:
            scalars["train/beta"] = self.beta
            if len(step.kl):
                scalars["train/kl"] = float(step.kl.mean())
        if self.config.handler is not None:
            for name, multiplier in zip(self.costs, self.handler_state["multiplier"].tolist(), strict=True):
                scalars[f"constraint/multiplier_{name}"] = multiplier
        self.run.log(self.step, **scalars)
        return in_short(found, self.costs)

    @torch.no_grad()
    def _show(self) -> None:
        """Replies to the first prompts of each source."""
        own = self.prompts.chats[:-1] if self.config.findings else self.prompts.chats
        each = math.ceil(self.config.completions / len(own))
        asked = [one for source in own for one in source[:each]]
        if not asked:
            return
        self.policy.model.eval()
        rollout = self.sampler.sample(self.policy, asked, self.config.sampling, self.run.rng("show"))
        self.telling.show(rollout, self.scorer.score(rollout, self.run.rng("show")))
