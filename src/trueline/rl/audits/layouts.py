"""Audits whose cases are layouts: drawing them, the world they are met in, and acting on them with repeatable noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.core.streams import case_seeds
from trueline.evidence.records import Bound, Case, NotMeasurable, Requirement, Split
from trueline.rl import worlds
from trueline.rl.env import Obs, VectorEnv
from trueline.rl.evaluate import Act, Episodes, policy_actions, run_episodes
from trueline.rl.policy import Acts, NetworkPolicy, WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec

__all__ = [
    "Arena",
    "LayoutAudit",
    "Visits",
    "acting",
    "cost_column",
    "flat",
    "flat_codec",
    "layout_cases",
    "mean_action",
    "new_noise",
    "observation_scale",
    "refuse_choices",
    "requirement",
    "seeds_of",
    "unflat",
    "visits",
    "waves",
]

Array = NDArray[np.float64]
Seeds = NDArray[np.uint32]


class LayoutAudit(Config):
    """Settings of every audit that runs episodes."""

    num_envs: int = Field(64, ge=1)  # N at most: episodes run side by side
    threads: int = Field(1, ge=1)  # results do not depend on it
    cost: str = ""  # which of the world's costs; empty: its only one
    cost_bound: float = Field(1000.0, gt=0)  # no episode can cost more: the intervals of costs rest on it
    confidence: float = Field(0.95, gt=0.5, lt=1)  # of the intervals that verdicts are read from


def requirement(bound: Bound, threshold: float | None, confidence: float) -> Requirement | None:
    """The requirement a setting states; none for None."""
    if threshold is None:
        return None
    return Requirement(bound=bound, threshold=threshold, confidence=confidence)


def layout_cases(split: Split, round: int, n: int, rng: np.random.Generator) -> list[Case]:
    """n fresh layouts of a split and round, each an independent unit."""
    return [Case(f"layout-{seed}", str(seed), {"seed": int(seed)}) for seed in case_seeds(split, round, n, rng)]


def seeds_of(cases: Sequence[Case]) -> Seeds:
    """Layout seeds of cases, [n]."""
    return np.array([case.data["seed"] for case in cases], dtype=np.uint32)


class Arena:
    """The world of the subject under audit, made when first needed and kept for the next look."""

    def __init__(self, num_envs: int, threads: int) -> None:
        self._num_envs, self._threads = num_envs, threads
        torch.set_num_threads(1)  # what an audit finds must not depend on how many cores there are
        self._of: WorldRef | None = None
        self._worlds: dict[int, VectorEnv] = {}

    def world(self, subject: Acts, episodes: int) -> VectorEnv:
        """Copies of the subject's world for so many episodes: no more than the episodes, and no more than num_envs."""
        if subject.world != self._of:
            for world in self._worlds.values():
                world.close()
            self._worlds, self._of = {}, subject.world
        size = min(self._num_envs, episodes)
        if size not in self._worlds:
            self._worlds[size] = worlds.of(subject.world, size, self._threads)
        return self._worlds[size]


def cost_column(env: VectorEnv, name: str, bound: float) -> int:
    """Column of the cost called `name`.

    Raises NotMeasurable when the world has no cost at all; ConfigError when it has none of that name, when it has
    several and none is named, and when an episode can cost more than `bound` at a cost of 1 per step.
    """
    if env.max_episode_steps > bound:
        raise ConfigError(
            f"cost_bound is {bound:g}, but an episode of {env.id} has {env.max_episode_steps} steps that may cost 1 "
            f"each. Set cost_bound={env.max_episode_steps}."
        )
    if not env.costs:
        raise NotMeasurable(f"{env.id} reports no cost, so none can be audited.")
    if not name and len(env.costs) == 1:
        return 0
    if name in env.costs:
        return env.costs.index(name)
    reports = f"It reports {', '.join(env.costs)}"
    if not name:
        raise ConfigError(f"which cost of {env.id} is audited was not said. {reports}; name one as cost.")
    raise ConfigError(f"{env.id} has no cost {name!r}. {reports}.")


def acting(policy: Acts, noise: int, deterministic: bool = False) -> Callable[[int], Act]:
    """Actors for `run_episodes`. The same `noise` on the same seeds draws the same action noise again."""
    return lambda wave: policy_actions(policy, np.random.default_rng([noise, wave]), deterministic)


def new_noise(rng: np.random.Generator) -> int:
    """A name for a fresh stream of action noise."""
    return int(rng.integers(2**63 - 1))


def waves(env: VectorEnv, seeds: Seeds) -> Iterator[tuple[int, Seeds]]:
    """The seeds N at a time, numbered, for what has to be recorded wave by wave."""
    for wave, first in enumerate(range(0, len(seeds), env.num_envs)):
        yield wave, seeds[first : first + env.num_envs]


def observation_scale(policy: Acts, width: int) -> Array:
    """Standard deviation of each sensor as the policy normalises it, [D]; 1 for a policy that does not normalise."""
    if isinstance(policy, NetworkPolicy) and policy.network.encoder.norm is not None:
        scale: Array = 1.0 / policy.network.encoder.norm.scale32.numpy().astype(np.float64)
        return scale
    return np.ones(width)


def flat_codec(env: VectorEnv) -> ObservationCodec:
    """The codec of a world whose observation is nothing but numbers.  Raises NotMeasurable for pictures and choices."""
    codec = ObservationCodec.of(env.observation_space)
    other = [how for _, how, _ in codec.parts if how != "box"]
    if other:
        raise NotMeasurable(
            f"{env.id} observes a part of kind {other[0]!r}. This audit needs observations that are numbers."
        )
    return codec


def flat(codec: ObservationCodec, obs: Obs) -> NDArray[np.float32]:
    """Observations as rows [N, D]."""
    rows: NDArray[np.float32] = codec.encode(obs)["vector"]
    return rows


def unflat(codec: ObservationCodec, rows: NDArray[Any], like: Obs) -> Obs:
    """The observations whose flat rows [N, D] are given, shaped and typed as `like`."""
    if not isinstance(like, dict):
        return rows.reshape(like.shape).astype(like.dtype)
    obs, at = {}, 0
    for key, _, (width,) in codec.parts:
        obs[key] = rows[:, at : at + width].reshape(like[key].shape).astype(like[key].dtype)
        at += width
    return obs


def refuse_choices(env: VectorEnv) -> None:
    """Raises NotMeasurable for a world whose actions are not continuous: they have no zero and no mean."""
    if ActionCodec.of(env.action_space).kind != "continuous":
        raise NotMeasurable(f"{env.id} takes choices. This audit needs continuous actions.")


@dataclass(slots=True)
class Visits:
    """What a policy saw on E layouts, and what it meant to do: its action without noise, clipped to [-1, 1]."""

    vector: list[NDArray[np.float32]]  # E x [T, D]
    mean: list[Array]  # E x [T, A]
    episodes: Episodes


def visits(env: VectorEnv, policy: Acts, seeds: Seeds, noise: int) -> Visits:
    """Run the stochastic policy on the layouts and keep every observation with its mean action."""
    codec = flat_codec(env)
    refuse_choices(env)
    vector: list[NDArray[np.float32]] = []
    mean: list[Array] = []
    parts: list[Episodes] = []
    for wave, here in waves(env, seeds):
        record = _Record(codec, policy, acting(policy, noise)(wave))
        part = run_episodes(env, here, record.begin)
        parts.append(part)
        for i, length in enumerate(part.length):
            vector.append(np.stack([row[i] for row in record.rows[:length]]))
            mean.append(np.stack([row[i] for row in record.means[:length]]))
    return Visits(vector, mean, _joined(parts))


class _Record:
    """An actor that keeps what it observed and what it would have done without noise."""

    def __init__(self, codec: ObservationCodec, policy: Acts, act: Act) -> None:
        self._codec, self._policy, self._act = codec, policy, act
        self.rows: list[NDArray[np.float32]] = []
        self.means: list[Array] = []

    def begin(self, _: int) -> Act:
        """The actor of its one wave."""
        return self

    def __call__(self, t: int, obs: Obs) -> NDArray[Any]:
        self.rows.append(flat(self._codec, obs).copy())
        self.means.append(mean_action(self._policy, obs))
        return self._act(t, obs)


def _joined(parts: Sequence[Episodes]) -> Episodes:
    """The episodes of several runs, one after another."""
    return Episodes(
        np.concatenate([part.seed for part in parts]),
        np.concatenate([part.episode_return for part in parts]),
        np.concatenate([part.cost for part in parts]),
        np.concatenate([part.length for part in parts]),
    )


# A policy with memory is asked for its mean action without it; nothing random may be drawn for that.
_NO_NOISE = 0


def mean_action(policy: Acts, obs: Obs) -> Array:
    """Actions without noise, as the world clips them, [N, A]."""
    actions, _ = policy.act(obs, None, np.random.default_rng(_NO_NOISE), True)
    clipped: Array = np.clip(actions, -1.0, 1.0).astype(np.float64)
    return clipped
