"""How a training reads replies: some passes only measure, others are learnt from; each process reads its share.

All of them compute what was drawn at the temperature it was drawn at, in the arithmetic of what learns.

Letters of shapes: R = prompts times samples, L = prompt and response tokens, S signals.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trueline.language.batches import READ_AT_ONCE
from trueline.language.forward import learning_mode
from trueline.language.models import reference
from trueline.language.online.critic import last_hidden
from trueline.language.online.losses import parts_of_like_length, reply_log_prob
from trueline.language.rollout import Rollout
from trueline.language.subject import ScoreModel, values_before
from trueline.rl.parallel import Learners

__all__ = ["Pass", "Reading"]


class Pass(NamedTuple):
    """One reading of replies by what is learnt, with its gradient; None for what was not read."""

    log_prob: Tensor | None  # [R, L]
    value: Tensor | None  # [R, L, S]


@dataclass(frozen=True, slots=True)
class Reading:
    """The models of a training, as they read replies."""

    policy: Any  # Hugging Face's
    reference: Any  # likewise; None: the policy with its adapters off
    critic: ScoreModel | None
    shared: bool  # the critic reads the policy's hidden states
    temperature: float
    bfloat16: bool  # type of the matrix products; else that of the weights
    device: torch.device
    group: Learners

    @property
    def learners(self) -> list[Any]:
        """The Hugging Face models that are learnt: the policy, and the body of a critic that has its own."""
        own = [] if self.critic is None or self.shared else [self.critic.body]
        return [self.policy, *own]

    def begin_learning(self) -> None:
        """What learns is in the mode of a step until it is asked for replies again."""
        for model in self.learners:
            learning_mode(model, False)

    def precision(self) -> AbstractContextManager[Any]:
        """Within, matrix products are of the type that was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()

    def joined(self, found: Tensor) -> Tensor:
        """What every process found for its own rows, which is 0 in the others."""
        self.group.add([found])
        return found

    def shares(self, rollout: Rollout, of: Tensor | None = None, **cut: int | None) -> Iterator[tuple[Tensor, int]]:
        """This process's share of some rows, or of all, in parts of like length; and how wide each part is."""
        rows = torch.arange(len(rollout.tokens), device=rollout.tokens.device) if of is None else of
        own = self.group.share(rows)
        length = rollout.attended.sum(dim=1)[own]
        for part in parts_of_like_length(length, **cut):
            yield own[part], int(length[part].max())

    # --- measured ---

    def log_prob(self, rollout: Rollout) -> Tensor:
        """log π of what was drawn, [R, L]."""
        return self._log_prob(self.policy, rollout)

    def beside(self, rollout: Rollout) -> Tensor:
        """log π_ref of it, [R, L]."""
        if self.reference is not None:
            return self._log_prob(self.reference, rollout)
        with reference(self.policy) as model:
            return self._log_prob(model, rollout)

    @torch.no_grad()
    def _log_prob(self, model: Any, rollout: Rollout) -> Tensor:
        found = torch.zeros_like(rollout.log_prob)
        for rows, width in self.shares(rollout, tokens=READ_AT_ONCE):
            read = rollout.tokens[rows, :width], rollout.sampled[rows, :width]
            found[rows, :width] = self._of_replies(model, *read)
        return self.joined(found)

    @torch.no_grad()
    def values(self, rollout: Rollout) -> Tensor:
        """[R, L, S] by the critic, 0 in the rows of other processes."""
        assert self.critic is not None
        self.critic.eval()
        found = rollout.log_prob.new_zeros((*rollout.tokens.shape, len(self.critic.heads)))
        for rows, width in self.shares(rollout, tokens=READ_AT_ONCE):
            found[rows, :width] = self.value(rollout.tokens[rows, :width])
        return found

    # --- learnt from ---

    def ahead(self, rollout: Rollout) -> Pass:
        """The pass that the only step on this rollout learns from.

        It is made before the loss is known, since it also says what the replies were worth at the rollout.
        """
        assert self.critic is not None
        self.begin_learning()
        log_prob = torch.zeros_like(rollout.log_prob)
        value = log_prob.new_zeros((*log_prob.shape, len(self.critic.heads)))
        for rows, width in self.shares(rollout):
            tokens, sampled = rollout.tokens[rows, :width], rollout.sampled[rows, :width]
            if self.shared:
                read = self.read(tokens, sampled)
                log_prob[rows, :width], value[rows, :width] = read.log_prob, read.value  # type: ignore[assignment]
            else:
                value[rows, :width] = self.value(tokens)
        return Pass(log_prob if self.shared else None, value)

    def read(self, tokens: Tensor, sampled: Tensor) -> Pass:
        """The policy's pass over some replies, with values where the critic reads its hidden states."""
        if not self.shared:
            return Pass(self.of_replies(tokens, sampled), None)
        assert self.critic is not None
        with last_hidden(self.policy) as seen:
            log_prob = self.of_replies(tokens, sampled)
        return Pass(log_prob, values_before(self.critic.read(seen[-1])))

    def of_replies(self, tokens: Tensor, sampled: Tensor) -> Tensor:
        """log π of each sampled token, as what learns computes it: [R, L], [R, L] -> [R, L], in float32."""
        return self._of_replies(self.policy, tokens, sampled)

    def _of_replies(self, model: Any, tokens: Tensor, sampled: Tensor) -> Tensor:
        with self.precision():
            return reply_log_prob(model, tokens, sampled, self.temperature)

    def value(self, tokens: Tensor, heads_alone: bool = False) -> Tensor:
        """[R, L, S] by a critic that reads by itself; heads_alone: with the gradient of its heads and no other.

        Heads compute in float32 whatever the body does.
        """
        assert self.critic is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not heads_alone), self.precision():
            hidden = self.critic.hidden(tokens)
        return values_before(self.critic.read(hidden))
