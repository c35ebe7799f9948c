"""How a policy and its critic learn from replies that were drawn and scored: passes, minibatches, steps of optimisers.

Letters of shapes: R = prompts times samples, L = prompt and response tokens, S signals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trueline.core.errors import Diverged
from trueline.core.run import Run
from trueline.language.batches import padded
from trueline.language.estimators import token_weights
from trueline.language.forward import token_scores
from trueline.language.online.critic import SharedCritic, learnt_by_itself
from trueline.language.online.kept_text import KeptText
from trueline.language.online.losses import kl_loss, policy_loss, value_loss
from trueline.language.online.reading import Pass, Reading
from trueline.language.online.settings import Online, OnlinePpo
from trueline.language.optimiser import Optimiser
from trueline.language.parallel import sum_gradients, sums
from trueline.language.rollout import Rollout
from trueline.language.signals import Signals
from trueline.language.subject import LanguageModel

__all__ = ["Learning", "Learnt"]


class Learnt(NamedTuple):
    """What a step learns from, [R, L] each unless said."""

    rollout: Rollout
    signals: Signals
    old_log_prob: Tensor
    advantage: Tensor
    beside: Tensor | None  # log π_ref, where the divergence is a term of the loss
    beta: float
    value: Tensor | None = None  # [R, L, S] at the rollout
    target: Tensor | None = None  # [R, L, S]
    ahead: Pass | None = None  # of the whole rollout, where one step learns all of it


class _Terms(NamedTuple):
    """Of one part of a minibatch, as its share of the whole: the losses, and how far the policy has moved."""

    policy_loss: float
    value_loss: float
    clipped: float
    kl: float


class Learning:
    """The optimisers of a training, and what decides their steps."""

    def __init__(
        self, config: Online, policy: LanguageModel, reading: Reading, text: KeptText | None, steps: int, run: Run
    ) -> None:
        """steps: of the whole training, for the schedules."""
        self.config, self.policy, self.reading, self.text, self.run = config, policy, reading, text, run
        self.group, self.critic = reading.group, reading.critic
        self.minibatch = config.minibatch or config.replies
        self.batches = math.ceil(config.replies / self.minibatch)
        a_step = config.passes * self.batches
        self.optimiser = Optimiser(config.optimiser, policy.model.parameters(), (steps - config.warmup) * a_step)
        self.critic_optimiser: Optimiser | None = None
        if isinstance(config, OnlinePpo):
            own = self._of_critic().values()
            self.critic_optimiser = Optimiser(config.critic.optimiser, own, max(1, steps * a_step))

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        """Weights that are learnt, moments, and which text comes next."""
        state: dict[str, Any] = {
            "weights": {name: p.detach() for name, p in self._of_policy().items()},
            "optimiser": self.optimiser.state_dict(),
        }
        if self.critic_optimiser is not None:
            state["critic"] = {name: p.detach() for name, p in self._of_critic().items()}
            state["critic_optimiser"] = self.critic_optimiser.state_dict()
        if self.text is not None:
            state["ptx"] = self.text.state_dict()
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for name, p in self._of_policy().items():
            p.copy_(state["weights"][name])
        for name, p in self._of_critic().items():
            p.copy_(state["critic"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.critic_optimiser is not None:
            self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        if self.text is not None:
            self.text.load_state_dict(state["ptx"])

    def _of_policy(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.policy.model.named_parameters() if p.requires_grad}

    def _of_critic(self) -> dict[str, Any]:
        if self.critic is None or not isinstance(self.config, OnlinePpo):
            return {}
        return dict(learnt_by_itself(self.config.critic, self.critic))

    # --- passes ---

    def learn(self, found: Learnt, step: int) -> dict[str, float]:
        """Passes over the replies in random order; returns means over the last of them.  Raises Diverged.

        step: how many the training has made.
        """
        kept = found.signals.kept
        totals: dict[str, float] = {}
        self.reading.begin_learning()
        for _ in range(self.config.passes):
            totals = {"policy_loss": 0.0, "value_loss": 0.0, "ptx_loss": 0.0, "clipped": 0.0, "kl": 0.0}
            order = torch.as_tensor(self.run.rng("update").permutation(len(kept)), device=kept.device)
            for rows in order.split(self.minibatch):
                if not kept[rows].any():
                    continue
                if self.critic is not None and (not self.reading.shared or step < self.config.warmup):
                    self._value_step(found, rows, totals, step)
                if step >= self.config.warmup:
                    self._policy_step(found, rows, totals, step)
        means = sums(self.group, [total / self.batches for total in totals.values()])
        there = {"value_loss": self.critic is not None, "ptx_loss": self.text is not None}
        return {name: mean for name, mean in zip(totals, means, strict=True) if there.get(name, True)}

    def _parts(self, found: Learnt, rows: Tensor) -> Iterator[tuple[Tensor, slice]]:
        """This process's share of a minibatch, as it is learnt: whole where it was read ahead, else cut up."""
        if found.ahead is None:
            for part, width in self.reading.shares(found.rollout, rows, rows=self.config.micro_batch):
                yield part, slice(0, width)
            return
        own = self.group.share(rows.sort().values)  # as it was read: a step on all replies knows no order
        if len(own):
            yield own, slice(0, found.rollout.tokens.shape[1])

    # --- the policy ---

    def _policy_step(self, found: Learnt, rows: Tensor, totals: dict[str, float], step: int) -> None:
        """One step of the policy on a minibatch, with the values that its body is shared with."""
        kept, weight = found.signals.kept, self._weight(found, rows)
        tokens, losses = max(1.0, float(kept[rows].sum())), {"policy_loss": 0.0, "value_loss": 0.0, "ptx_loss": 0.0}
        for cut in self._parts(found, rows):
            if not kept[cut].any():
                continue
            terms = self._backward(found, cut, weight[cut], tokens)
            losses["policy_loss"] += terms.policy_loss
            losses["value_loss"] += terms.value_loss
            totals["clipped"] += terms.clipped
            totals["kl"] += terms.kl
        losses["ptx_loss"] += self.keep_text()
        for name, total in losses.items():
            totals[name] += total
        self.take_step(self.optimiser, sum(losses.values()), "the policy's loss", step)
        if self.reading.shared and self.critic_optimiser is not None:
            self.take_step(self.critic_optimiser, losses["value_loss"], "the critic's loss", step)

    def _weight(self, found: Learnt, rows: Tensor) -> Tensor:
        """What each token of a minibatch weighs in the loss, [R, L]; 0 in the other rows."""
        config, kept = self.config, found.signals.kept
        weight = torch.zeros_like(found.advantage)
        if config.loss_type == "dapo":
            # The mean is over the tokens of the whole step, so that short minibatches weigh less.
            weight[rows] = kept[rows].float() * self.batches / kept.sum()
        else:
            weight[rows] = token_weights(kept[rows], config.loss_type, config.sampling.max_tokens)
        return weight

    def _backward(self, found: Learnt, cut: tuple[Tensor, slice], weight: Tensor, tokens: float) -> _Terms:
        """Adds the gradient of some rows, of a minibatch of so many tokens."""
        config, kept = self.config, found.signals.kept[cut]
        read = self._pass(found, cut)
        assert read.log_prob is not None
        log_prob = torch.where(kept, read.log_prob, 0.0)
        old = torch.where(kept, found.old_log_prob[cut], 0.0)
        loss = policy_loss(log_prob, old, found.advantage[cut], weight, config.clip)
        if found.beside is not None:
            assert config.kl.estimator != "k1"
            beside = torch.where(kept, found.beside[cut], 0.0)
            loss = loss + found.beta * kl_loss(log_prob, old, beside, weight, config.kl.estimator)
        of_policy, of_value = loss.item(), 0.0
        if read.value is not None:
            assert isinstance(config, OnlinePpo)
            assert isinstance(config.critic, SharedCritic)
            about_value = self._value_loss(found, read.value, cut) / tokens
            of_value = about_value.item()
            loss = loss + config.critic.weight * about_value
        loss.backward()
        with torch.no_grad():
            ratio = (log_prob - old)[kept].exp()
            clipped = float(((ratio - 1.0).abs() > config.clip).sum()) / tokens
            return _Terms(of_policy, of_value, clipped, float((ratio - 1.0 - ratio.log()).sum()) / tokens)

    def _pass(self, found: Learnt, cut: tuple[Tensor, slice]) -> Pass:
        if found.ahead is not None and self.reading.shared:
            return Pass(*(None if x is None else x[cut] for x in found.ahead))
        return self.reading.read(found.rollout.tokens[cut], found.signals.kept[cut])

    def keep_text(self) -> float:
        """Adds the gradient of weight·(mean −log π) of the next rows of text, this process's share of it; that loss."""
        if self.text is None:
            return 0.0
        rows = self.text.take()
        whole, own = sum(float(row.weight.sum()) for row in rows), rows[self.group.rank :: self.group.size]
        if not own:
            return 0.0
        batch = padded(own, self.policy.tokenizer.pad_token_id).to(self.reading.device)
        with self.reading.precision():
            log_prob = token_scores(self.policy.model, batch).log_prob
        loss = -self.text.config.weight * (log_prob * batch.weight).sum() / whole
        loss.backward()
        return loss.item()

    # --- the critic ---

    def _value_step(self, found: Learnt, rows: Tensor, totals: dict[str, float], step: int) -> None:
        """One step of what the critic learns by itself: all of its own body, or the heads on the policy's."""
        assert self.critic_optimiser is not None
        tokens, total = float(found.signals.kept[rows].sum()), 0.0
        for cut in self._parts(found, rows):
            if found.ahead is not None and found.ahead.value is not None:
                value = found.ahead.value[cut]
            else:
                value = self.reading.value(found.rollout.tokens[cut], heads_alone=self.reading.shared)
            loss = self._value_loss(found, value, cut) / tokens
            loss.backward()
            total += loss.item()
        totals["value_loss"] += total
        self.take_step(self.critic_optimiser, total, "the critic's loss", step)

    def _value_loss(self, found: Learnt, value: Tensor, cut: tuple[Tensor, slice]) -> Tensor:
        """Summed over the tokens of some rows."""
        assert found.value is not None
        assert found.target is not None
        assert isinstance(self.config, OnlinePpo)
        clip = self.config.critic.value_clip
        return value_loss(value, found.value[cut], found.target[cut], found.signals.kept[cut], clip)

    # --- steps ---

    def take_step(self, optimiser: Optimiser, loss: float, what: str, step: int) -> None:
        """One step on the sum of all processes' gradients.  Raises Diverged."""
        (loss,) = sums(self.group, [loss])
        if not math.isfinite(loss):
            raise Diverged(step, what, self.run.last_checkpoint)
        sum_gradients(self.group, optimiser.parameters)
        norm = float(optimiser.step())
        if not math.isfinite(norm):
            raise Diverged(step, what.replace("loss", "gradient"), self.run.last_checkpoint)
