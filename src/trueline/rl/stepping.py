"""Acting step by step, for loops that learn between steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import BadWorld
from trueline.rl.env import Obs, Stateful, Step, VectorEnv, observation_rows
from trueline.rl.episodes import MOST_MET, Finished, fresh, latest
from trueline.rl.spaces import ObservationCodec

__all__ = ["Stepping", "Taken"]


class Taken(NamedTuple):
    """One step of all environments."""

    obs: NDArray[np.float32]  # [N, D] that the actions were chosen on
    after: NDArray[np.float32]  # [N, D] that they led to: the last observation of an episode that ended in it
    step: Step


class Stepping:
    """N environments of a loop that learns between steps, and the sums of their running episodes.

    Episodes that no random action was part of are the policy's own, and `Finished.own` tells those of them on fresh
    layouts.
    """

    def __init__(self, env: VectorEnv, codec: ObservationCodec) -> None:
        """Before the first episode; `reset` begins it."""
        n = env.num_envs
        self.env, self.codec = env, codec
        self.obs = np.zeros((n, codec.width), dtype=np.float32)
        self.running_return, self.running_cost = np.zeros(n), np.zeros((n, len(env.costs)))
        self.running_length = np.zeros(n, dtype=np.int64)
        self.random = np.zeros(n, dtype=np.bool_)  # whether the running episode held a random action
        self.met = np.zeros(0, dtype=np.uint32)  # layouts of the last episodes
        self.total_steps = 0  # of all environments

    def reset(self) -> None:
        """Start a new episode everywhere.  Raises BadWorld for an observation that is not finite."""
        self.obs = self._encoded(self.env.reset())
        self._refuse_bad(self.obs, "observation")

    def step(self, actions: NDArray[Any], random: bool = False) -> tuple[Taken, Finished | None]:
        """Take actions, as the world takes them; `random` ones are no policy's. Raises BadWorld at a bad number."""
        before, layouts = self.obs, self.env.episode_seed.copy()  # an autoreset within the step replaces seeds
        step = self.env.step(actions)
        self.obs, last = self._observed(step)
        self.random |= random
        self.running_return += step.reward
        self.running_cost += step.cost
        self.running_length += 1
        self.total_steps += self.env.num_envs
        return Taken(before, last, step), self._finished(step, layouts)

    def _encoded(self, obs: Obs) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self.codec.encode(obs)["vector"]
        return vector

    def _observed(self, step: Step) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The next observations, and those that the step led to: the last ones where an episode ended."""
        after = self._encoded(step.obs)
        last = after
        if step.ended.any():
            rows = np.flatnonzero(step.ended)
            last = after.copy()
            last[rows] = self._encoded(observation_rows(step.final_obs, rows))
        self._refuse_bad(step.reward, "reward")
        self._refuse_bad(step.cost, "cost")
        self._refuse_bad(after, "observation")
        if last is not after:
            # What an episode leads to after the task has ended is not used, but it is the world's error all the same.
            self._refuse_bad(last, "final observation")
        return after, last

    def _refuse_bad(self, values: NDArray[Any], what: str) -> None:
        """values: [N, …]."""
        finite = np.isfinite(values).reshape(len(values), -1)
        if not finite.all():
            bad = int(np.flatnonzero(~finite.all(axis=1))[0])
            raise BadWorld(self.env.id, what, bad, self.total_steps // self.env.num_envs)

    def _finished(self, step: Step, layouts: NDArray[np.uint32]) -> Finished | None:
        """What the episodes that ended came to; their rows begin anew at 0."""
        rows = np.flatnonzero(step.ended)
        if not len(rows):
            return None
        own = fresh(layouts[rows]) & ~self.random[rows]
        found = Finished(rows, self.running_return[rows], self.running_cost[rows], self.running_length[rows], own)
        self.met = latest(self.met, layouts[rows], MOST_MET)
        self.running_return[rows] = 0.0
        self.running_cost[rows] = 0.0
        self.running_length[rows] = 0
        self.random[rows] = False
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores, the world's own state with it where it has one."""
        return {
            "world": self.env.state_dict() if isinstance(self.env, Stateful) else None,
            "obs": self.obs,
            "running_return": self.running_return,
            "running_cost": self.running_cost,
            "running_length": self.running_length,
            "random": self.random,
            "met": self.met,
            "total_steps": self.total_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Take up a saved state; whether its episodes go on: a world without `state_dict` begins new ones instead."""
        self.met, self.total_steps = state["met"], int(state["total_steps"])
        if state["world"] is None or not isinstance(self.env, Stateful):
            self.reset()
            return False
        self.env.load_state_dict(state["world"])
        self.obs, self.random = state["obs"], state["random"]
        self.running_return, self.running_cost = state["running_return"], state["running_cost"]
        self.running_length = state["running_length"]
        return True
