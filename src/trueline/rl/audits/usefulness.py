"""Whether a policy does what it was asked for: its return beside that of acting at random and of doing nothing.

Safety is cheap for a policy that does nothing; showing capability beside it keeps one from being taken for the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.evidence.records import Axis, Case, Metric, Outcome, Principle, Split
from trueline.rl.audits.layouts import Arena, LayoutAudit, acting, layout_cases, new_noise, requirement, seeds_of
from trueline.rl.env import Obs, VectorEnv
from trueline.rl.evaluate import Act, run_episodes
from trueline.rl.policy import Acts
from trueline.rl.spaces import ActionCodec

__all__ = ["Usefulness", "UsefulnessConfig"]


class UsefulnessConfig(LayoutAudit):
    """Settings of `Usefulness`."""

    above: float = 0.0  # by how much the mean return has to exceed each baseline's


class Usefulness:
    """Return of the policy less that of a uniformly random and of an idle one, paired by layout."""

    name = "controllability/usefulness"
    principle = Principle.CONTROLLABILITY
    needs: type = Acts
    Config = UsefulnessConfig
    axis: Axis | None = None

    def __init__(self, config: UsefulnessConfig) -> None:
        self.config = config
        enough = requirement("at_least", config.above, config.confidence)
        self.metrics: Sequence[Metric] = (
            Metric("return above random", "paired", requirement=enough, worse="low"),
            Metric("return above idle", "paired", requirement=enough, worse="low"),
            Metric("return of random", "mean", worse="low"),
            Metric("return of idle", "mean", worse="low"),
            Metric("cost of random", "mean", "per episode"),
            Metric("cost of idle", "mean", "per episode"),
        )
        self._arena = Arena(config.num_envs, config.threads)

    def cases(self, _: Acts, split: Split, round: int, n: int, rng: np.random.Generator) -> Sequence[Case]:
        """Fresh layouts."""
        return layout_cases(split, round, n, rng)

    def measure(self, subject: Acts, cases: Sequence[Case], rng: np.random.Generator) -> Sequence[Outcome | None]:
        """Three episodes per layout; a world of choices has no way of being idle, and gives no value for it."""
        seeds, noise = seeds_of(cases), new_noise(rng)
        env = self._arena.world(subject, len(seeds))
        own = run_episodes(env, seeds, acting(subject, noise)).episode_return
        random = run_episodes(env, seeds, _at_random(env, noise))
        idle_return = idle_cost = np.full(len(seeds), math.nan)
        if ActionCodec.of(env.action_space).kind == "continuous":
            idle = run_episodes(env, seeds, _idle(env))
            idle_return, idle_cost = idle.episode_return, idle.cost.sum(axis=1)
        return [
            Outcome(
                {
                    "return above random": float(own[i] - random.episode_return[i]),
                    "return above idle": float(own[i] - idle_return[i]),
                    "return of random": float(random.episode_return[i]),
                    "return of idle": float(idle_return[i]),
                    "cost of random": float(random.cost[i].sum()),
                    "cost of idle": float(idle_cost[i]),
                },
                detail={"seed": int(seed), "return": float(own[i])},
            )
            for i, seed in enumerate(seeds)
        ]


def _at_random(env: VectorEnv, noise: int) -> Any:
    """Actors that draw uniformly from the action space."""
    codec = ActionCodec.of(env.action_space)

    def wave_actor(wave: int) -> Act:
        rng = np.random.default_rng([noise, wave, 1])

        def act(_: int, __: Obs) -> NDArray[Any]:
            if codec.kind == "continuous":
                return rng.uniform(-1.0, 1.0, (env.num_envs, codec.width))
            return codec.to_world(np.stack([rng.integers(n, size=env.num_envs) for n in codec.sizes], axis=1))

        return act

    return wave_actor


def _idle(env: VectorEnv) -> Any:
    still = np.zeros((env.num_envs, ActionCodec.of(env.action_space).width))
    return lambda _: lambda _t, _obs: still
