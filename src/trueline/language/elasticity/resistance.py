"""Resistance: is it easier to train a model back to where it was than on to where it went?

A training is cut into checkpoints θ₁, θ₂, …, and each replies to the same questions, which gives data D₁, D₂, …. For
k < l the *forward* training takes θ_k to D_l and the *inverse* one takes θ_l to D_k; the paper reads resistance from
the inverse loss being lower. But a loss on data has the entropy of the data in it, and a checkpoint that writes more
narrowly makes data that anyone learns more easily. The *excess* loss, less the generator's own -log π on its replies,
is free of that: it is an estimate of the divergence of the model in training from the one that wrote. Both are given.
A third reading has no loss in it: items until the divergence from the goal is down to ε, from the same two end points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trueline.core.errors import ConfigError
from trueline.language.batches import Item, Row
from trueline.language.elasticity.reversion import Crossing, divergence, items_to
from trueline.language.elasticity.tuning import Stage, TuneProtocol, tuning_on
from trueline.language.rollout import Chat, Rollout, Sampling
from trueline.language.sampler import Auto
from trueline.language.subject import LanguageModel

__all__ = ["Pull", "Resistance", "Written", "resistance", "towards", "written"]


class Written(NamedTuple):
    """Replies of a model as items to learn, and what they cost the model that wrote them."""

    items: tuple[Item, ...]
    nll: float  # mean over tokens of its own -log π, nats


class Pull(NamedTuple):
    """One training towards another model's replies."""

    loss: float  # mean over tokens, each before the step that learns it, nats
    excess: float  # less the writer's own: 0 for a model that writes alike
    items: Crossing  # until the divergence from the writer is at most ε


@dataclass(frozen=True, slots=True)
class Resistance:
    """Checkpoints k < l, trained on each other's replies."""

    earlier: int  # k
    later: int  # l
    forward: Pull  # θ_k on D_l
    inverse: Pull  # θ_l on D_k

    @property
    def raw(self) -> float:
        """Forward less inverse loss, nats a token: positive is the paper's resistance."""
        return self.forward.loss - self.inverse.loss

    @property
    def excess(self) -> float:
        """The same of the excess losses, without what the entropies of the two sets add to it."""
        return self.forward.excess - self.inverse.excess


def written(subject: LanguageModel, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator) -> Written:
    """One reply to each chat, in the very tokens that were drawn.  Raises ConfigError as `resistance`."""
    _check(sampling)
    rollout = Auto().sample(subject, chats, sampling, rng)
    own = -float(rollout.log_prob.double().sum()) / int(rollout.sampled.sum())
    return Written(_items(rollout), own)


def towards(
    subject: LanguageModel,
    writer: LanguageModel,
    data: Written,
    protocol: TuneProtocol,
    rng: np.random.Generator,
    questions: Rollout,
    epsilon: float,
) -> Pull:
    """Train a copy of `subject` on what `writer` wrote; the divergence is taken on replies of the writer, `questions`.

    The divergence is KL(writer ‖ copy), which is what the excess loss estimates.
    """
    stage: Stage | None = None
    marks, apart = [], []
    for stage in tuning_on(subject, data.items, protocol, rng):
        marks.append(stage.items)
        apart.append(divergence(writer, stage.subject, questions))
    assert stage is not None
    return Pull(stage.loss, stage.loss - data.nll, items_to(epsilon, marks, apart))


def resistance(
    checkpoints: Sequence[LanguageModel],
    chats: Sequence[Chat],
    sampling: Sampling,
    protocol: TuneProtocol,
    seed: int,
    epsilon: float = 0.1,
) -> list[Resistance]:
    """Every pair of checkpoints, earliest first, both ways.

    Every checkpoint replies with the same luck, and both ways of a pair see their items in the same order. ε is in
    nats a reply, and looked for at the protocol's marks. Raises ConfigError for fewer than two checkpoints, and for
    sampling under which -log π is not the reply's own: another temperature than 1, or a truncation.
    """
    if len(checkpoints) < 2:
        raise ConfigError(f"{len(checkpoints)} checkpoint cannot resist anything. Give two or more of one training.")
    _check(sampling)
    data = [written(one, chats, sampling, np.random.default_rng([seed, 0])) for one in checkpoints]
    asked = [Auto().sample(one, chats, sampling, np.random.default_rng([seed, 1])) for one in checkpoints]

    def pull(start: int, goal: int) -> Pull:
        rng = np.random.default_rng([seed, 2])
        return towards(checkpoints[start], checkpoints[goal], data[goal], protocol, rng, asked[goal], epsilon)

    n = range(len(checkpoints))
    return [Resistance(k, l, pull(k, l), pull(l, k)) for l in n for k in range(l)]  # noqa: E741


def _items(rollout: Rollout) -> tuple[Item, ...]:
    """Each reply as a row that is learnt where it was sampled."""
    made = []
    for tokens, attended, sampled in zip(rollout.tokens, rollout.attended, rollout.sampled, strict=True):
        weight = sampled[attended].float().cpu().numpy()
        start = int(np.argmax(weight > 0))
        made.append(Item((Row(tokens[attended].cpu().numpy(), weight, start),)))
    return tuple(made)


def _check(sampling: Sampling) -> None:
    if sampling.temperature != 1.0 or sampling.top_k is not None or sampling.top_p is not None or sampling.stop:
        raise ConfigError(
            "a reply's own -log π is known for sampling at temperature 1 without top_k, top_p or stop alone. "
            "Leave those out."
        )
