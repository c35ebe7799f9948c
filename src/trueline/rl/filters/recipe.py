"""`safety-filter`: a filter behind the policy of another run, fitted where it has something to learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.rl import worlds
from trueline.rl.env import Obs, VectorEnv
from trueline.rl.evaluate import Act, policy_actions
from trueline.rl.filters.barrier import WallBarrier
from trueline.rl.filters.filtered import Filter, FilteredPolicy
from trueline.rl.filters.linear_cost import LinearCost, fit_linear_cost, record_signals, refuse_other_columns
from trueline.rl.offline.recording import random_actions
from trueline.rl.policy import Acts
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.training import training_seeds

__all__ = ["SAFETY_FILTER", "SafetyFilter"]


class SafetyFilter(Config):
    """Which filter, and on how many recorded steps one that learns is fitted."""

    filter: WallBarrier | LinearCost
    record_steps: int = Field(20_000, ge=1)  # over all environments
    num_envs: int = Field(16, ge=1)  # N
    random_share: float = Field(
        0.5, ge=0, le=1
    )  # of the environments that act at random; the policy acts in the others


class SafetyFilterRecipe:
    """Its input "policy" is what the filter is put behind."""

    name: ClassVar[str] = "safety-filter"
    Config: ClassVar[type[SafetyFilter]] = SafetyFilter
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def inputs_of(self, config: SafetyFilter) -> Mapping[str, bool]:  # noqa: ARG002
        """What the filter is put behind."""
        return {"policy": True}

    def train(self, config: SafetyFilter, run: Run, inputs: Mapping[str, Subject]) -> FilteredPolicy:
        """Fit the filter on layouts of the training range. A run that is killed begins again, by the same streams.

        Raises ConfigError for a policy that does not act or chooses among options, and for columns that
        its world does not observe.
        """
        run.restore()
        policy = inputs["policy"]
        if not isinstance(policy, Acts):
            raise ConfigError(f"the input policy is a {policy.kind!r} and does not act. Give a run that made a policy.")
        env = worlds.of(policy.world, config.num_envs, run.manifest["threads"])
        try:
            if ActionCodec.of(env.action_space).kind != "continuous":
                raise ConfigError(f"{env.id} takes choices. A filter that projects needs continuous actions.")
            env.seed_source = training_seeds(run)
            made = self._filter(config, env, policy, run)
        finally:
            env.close()
        filtered = FilteredPolicy(policy, made)
        filtered.parent = run.parent()
        return filtered

    def _filter(self, config: SafetyFilter, env: VectorEnv, policy: Acts, run: Run) -> Filter:
        if isinstance(config.filter, WallBarrier):
            highest = max(config.filter.position + config.filter.velocity)
            width = ObservationCodec.of(env.observation_space).width
            if highest >= width:
                raise ConfigError(f"the barrier reads column {highest}, but {env.id} observes {width} numbers.")
            axes, actions = len(config.filter.position), ActionCodec.of(env.action_space).width
            if axes != actions:
                raise ConfigError(
                    f"the barrier has {axes} axes, but {env.id} takes {actions} actions. Give one of each."
                )
            return config.filter
        refuse_other_columns(config.filter, env)
        act = _mixed(env, policy, config.random_share, run.rng("behaviour"))
        steps = -(-config.record_steps // config.num_envs)
        data = record_signals(env, act, config.filter.signals, steps)
        found = fit_linear_cost(config.filter, env, data, run.torch_rng("fit"))
        change, error = found.errors(data)
        run.log(len(data.obs), **{"fit/change": change, "fit/error": error})
        return found


def _mixed(env: VectorEnv, policy: Acts, random_share: float, rng: np.random.Generator) -> Act:
    """The policy's actions, in the first share of the environments random ones."""
    own, other = policy_actions(policy, rng), random_actions(env, rng)
    at_random = np.arange(env.num_envs) < math.floor(random_share * env.num_envs + 0.5)

    def act(t: int, obs: Obs) -> np.ndarray:
        return np.where(at_random[:, None], other(t, obs), own(t, obs))

    return act


SAFETY_FILTER = SafetyFilterRecipe()
