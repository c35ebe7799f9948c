"""A CMDP as a vector world: learners train in it, and what they learn is evaluated exactly.

The observation is the number t·S + s, so that a policy without hidden layers is a table over time and state; every
episode terminates at the horizon, so that undiscounted values (γ = 1) are exact. The "Box" form gives the same
observation as a one-hot vector and takes one continuous action in [-1, 1], cut into A equal bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.rl.env import SeedSource, Step
from trueline.rl.exact.catalogue import BOX, OWN, OWN_BOX, name_of
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.exact.hashing import uniform
from trueline.rl.exact.suite import instance


class TabularWorld:
    """N episodes of one CMDP. What chance decides in an episode is a function of its seed and the step."""

    def __init__(self, id: str, cmdp: Cmdp, num_envs: int, box: bool = False) -> None:
        self.id, self.cmdp, self.num_envs, self.box = id, cmdp, num_envs, box
        self.costs = cmdp.costs
        self.max_episode_steps = cmdp.horizon
        self.numbers = cmdp.horizon * cmdp.states  # H·S observations
        self.observation_space: gym.Space[Any] = gym.spaces.Discrete(self.numbers)
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(cmdp.actions)
        if box:
            self.observation_space = gym.spaces.Box(0.0, 1.0, (self.numbers,), np.float32)
            self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.episode_seed = np.zeros(num_envs, dtype=np.uint32)
        own = np.random.default_rng()
        self.seed_source: SeedSource = lambda n: own.integers(0, 2**32, n, dtype=np.uint32)
        self.t = np.zeros(num_envs, dtype=np.int64)
        self.state = np.zeros(num_envs, dtype=np.int64)
        self._reward = cmdp.reward.ravel()  # [S·A]
        self._cost = cmdp.cost.reshape(-1, len(cmdp.costs))  # [S·A, K]
        self._start = _thresholds(cmdp.start)  # [S − 1]
        self._after = _thresholds(cmdp.transition).reshape(len(self._reward), -1)  # [S·A, S − 1]
        self._one_hot = np.eye(self.numbers, dtype=np.float32)
        self._luck = np.zeros((cmdp.horizon + 1, num_envs))
        self._rows = np.arange(num_envs)

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> NDArray[Any]:
        """New episodes everywhere."""
        return self.begin(self._rows, self.seed_source(self.num_envs) if seeds is None else seeds)

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[np.uint32]) -> NDArray[Any]:
        """New episodes in `rows` from `seeds`; returns the observations of all rows."""
        self.episode_seed[rows] = seeds
        luck = uniform(self.episode_seed[rows], self.cmdp.horizon + 1)
        self._luck[:, rows] = luck
        self.t[rows] = 0
        self.state[rows] = (self._start <= luck[0][:, None]).sum(1)
        return self._observed(self.t)

    def _observed(self, t: NDArray[np.int64]) -> NDArray[Any]:
        return self.observation(t * self.cmdp.states + self.state)

    def observation(self, number: NDArray[np.int64]) -> NDArray[Any]:
        """Observations t·S + s as the world shows them: [N] numbers, or one-hot [N, H·S] rows."""
        return self._one_hot[number] if self.box else number

    def every_observation(self) -> NDArray[Any]:
        """The observations of (t, s) for every t and s, in the order of a policy table: H·S rows."""
        return self.observation(np.arange(self.numbers))

    def chosen(self, actions: NDArray[Any]) -> NDArray[np.int64]:
        """The action of the CMDP, [N].  Raises ConfigError for a number that is none of its actions."""
        count = self.cmdp.actions
        if self.box:
            share = (np.asarray(actions)[:, 0].clip(-1.0, 1.0) + 1.0) * (0.5 * count)
            return np.minimum(share.astype(np.int64), count - 1)
        chosen = np.asarray(actions)
        if chosen.min() < 0 or chosen.max() >= count:
            raise ConfigError(f"{self.id} was given action {chosen.max()}. Give whole numbers from 0 to {count - 1}.")
        return chosen

    def step(self, actions: NDArray[Any]) -> Step:
        """One step of every episode; one that has reached the horizon terminates.

        Its last observation shows its last state at time H − 1: beyond the horizon there is no time to show, and
        nothing is bootstrapped from it.
        """
        pair = self.state * self.cmdp.actions + self.chosen(actions)
        reward, cost = self._reward[pair], self._cost[pair]
        self.t += 1
        self.state = (self._after[pair] <= self._luck[self.t, self._rows][:, None]).sum(1)
        over = self.t == self.cmdp.horizon
        obs = final_obs = self._observed(self.t - over)
        ended = np.flatnonzero(over)
        if len(ended):
            obs = self.begin(ended, self.seed_source(len(ended)))
        return Step(obs, reward, cost, over, np.zeros(self.num_envs, dtype=np.bool_), final_obs)

    def state_dict(self) -> dict[str, Any]:
        """Steps, states and seeds."""
        return {"t": self.t.copy(), "state": self.state.copy(), "episode_seed": self.episode_seed.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[Any]:
        """Go on from there."""
        self.begin(self._rows, np.asarray(state["episode_seed"]))
        self.t, self.state = np.array(state["t"], dtype=np.int64), np.array(state["state"], dtype=np.int64)
        return self._observed(self.t)

    def close(self) -> None:
        """Nothing to free."""


def _thresholds(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where u in [0, 1) changes from one outcome to the next, [..., S] -> [..., S − 1].

    Outcome s is drawn when exactly s thresholds are at most u. Where rounding leaves the sum a hair under 1, what
    remains must not fall to an outcome that is impossible: no threshold stands there.
    """
    sums = chances.cumsum(-1)[..., :-1]
    return np.where(sums >= 1.0 - 1e-12, np.inf, sums)


def make(
    id: str,
    num_envs: int = 1,
    threads: int = 1,  # noqa: ARG001  (a step is too short to be shared)
    cmdp: Mapping[str, Any] | None = None,
) -> TabularWorld:
    """`num_envs` copies of the world called `id`.

    cmdp: the process of "Cmdp-v0" and "CmdpBox-v0" as `Cmdp.to_json` gives it, and of no other id. Raises ConfigError
    where it is missing, out of place, or no CMDP.
    """
    if (id in (OWN, OWN_BOX)) != (cmdp is not None):
        raise ConfigError(
            f"{id} needs the option `cmdp`: the tables of the process, as Cmdp.to_json() gives them."
            if cmdp is None
            else f"{id} is a process of its own. Give `cmdp` to {OWN} or {OWN_BOX} only."
        )
    process = instance(name_of(id)) if cmdp is None else Cmdp.from_json(cmdp)
    return TabularWorld(id, process, num_envs, id.startswith(BOX))
