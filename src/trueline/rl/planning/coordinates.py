"""A goal world as coordinates: where the goal and every hazard lie, as no lidar tells, and what that is worth.

Observations are the agent's own senses, its heading (cos, sin) and place, and the goal and the hazards from where it
stands, ahead and to its left: flat offsets in metres. What is planned with them rests on privileged information, so
that no figure stands beside one that an agent with lidar reached.

Reward and cost are functions of these (`Known`): the distance to the goal that was gained, 1 within its radius, and a
cost of 1 within a hazard's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.rl.env import Obs, Stateful, Step, VectorEnv
from trueline.rl.worlds import make

HAZARDS, GOAL, AGENT = "hazards", "goal", "agent"
COST = "cost_hazards"


@runtime_checkable
class Placed(Protocol):
    """Ability of a world: it says where things are, what its observation is made of, and begins episodes when told."""

    autoreset: bool  # False: rows that ended wait for `begin`
    observation_parts: Mapping[str, gym.Space[Any]]  # of the flat observation, in order
    world: Any  # as data; `constraints` names what costs

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[Any] | None = None) -> Obs:
        """Start new episodes in `rows` alone; returns the observations of all."""
        ...

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Environment `i` from above: {"shapes": [{"name", "xy", "radius", "rot", …}, …]}."""
        ...


class Coordinates:
    """N copies of a goal world, observed as coordinates; it is Known, and Stateful where that is."""

    def __init__(self, id: str, env: VectorEnv) -> None:
        """Raises ConfigError for a world without one goal, or with costs other than hazards'."""
        if not isinstance(env, Placed):
            raise ConfigError(f"{env.id} does not say where things are. Use a Goal world such as SafetyPointGoal1-v0.")
        self.id, self._env, self._placed = id, env, env
        self.num_envs, self.costs = env.num_envs, env.costs
        self.max_episode_steps, self.action_space = env.max_episode_steps, env.action_space
        self.episode_seed, self.seed_source = env.episode_seed, env.seed_source
        env.autoreset = False  # the last coordinates of an episode are asked for before the next one begins
        parts = env.observation_parts
        self._senses = sum(
            int(np.prod(part.shape or ())) for name, part in parts.items() if not name.endswith("_lidar")
        )
        env.reset(np.zeros(env.num_envs, dtype=np.uint32))
        shapes = env.scene(0)["shapes"]
        goals, hazards = ([s for s in shapes if s["name"] == name] for name in (GOAL, HAZARDS))
        constraints = set(env.world.constraints)
        if len(goals) != 1 or not constraints <= {COST} or len(env.costs) != 1:
            raise ConfigError(
                f"{env.id} has {len(goals)} goals and costs for {', '.join(sorted(constraints)) or 'nothing'}. Use a "
                "world with one goal whose only cost is that of hazards, as one sum."
            )
        self._goal_m = float(goals[0]["radius"])
        self._hazard_m = float(hazards[0]["radius"]) if hazards and constraints else 0.0
        self._things = 1 + len(hazards)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self._senses + 4 + 2 * self._things,), np.float32)

    def _seen(self, flat: Obs) -> NDArray[np.float32]:
        """Coordinates [N, D] of where things are now, beside the senses of flat observations [N, …]."""
        assert isinstance(flat, np.ndarray)
        rows = []
        for i in range(self.num_envs):
            shapes = self._placed.scene(i)["shapes"]
            agent = next(s for s in shapes if s["name"] == AGENT)
            things = [s["xy"] for s in shapes if s["name"] == GOAL] + [s["xy"] for s in shapes if s["name"] == HAZARDS]
            cos, sin = np.cos(agent["rot"]), np.sin(agent["rot"])
            offset = np.array(things) - agent["xy"]
            ego = offset @ np.array([[cos, -sin], [sin, cos]])  # ahead, and to the left
            rows.append(np.concatenate([[cos, sin], agent["xy"], ego.ravel()]))
        return np.concatenate([flat[:, : self._senses], np.array(rows)], axis=1).astype(np.float32)

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> NDArray[np.float32]:
        """Start a new episode everywhere."""
        return self._seen(self._env.reset(self.seed_source(self.num_envs) if seeds is None else seeds))

    def step(self, actions: NDArray[Any]) -> Step:
        """One control interval."""
        step = self._env.step(actions)
        obs = final_obs = self._seen(step.obs)
        rows = np.flatnonzero(step.ended)
        if len(rows):
            obs = self._seen(self._placed.begin(rows, self.seed_source(len(rows))))
        return Step(obs, step.reward, step.cost, step.terminated, step.truncated, final_obs, step.info)

    def signals(self, obs: Tensor, action: Tensor, after: Tensor, steps: int) -> Tensor:  # noqa: ARG002
        """Reward and cost [..., 2]; what is inside a hazard at the end counts as having been so for all `steps`."""
        before, now = (self._distances(x) for x in (obs, after))
        reward = before[..., 0] - now[..., 0] + (now[..., 0] <= self._goal_m).to(now.dtype)
        inside = (now[..., 1:] < self._hazard_m).any(dim=-1).to(now.dtype)
        return torch.stack([reward, steps * inside], dim=-1)

    def _distances(self, obs: Tensor) -> Tensor:
        """Metres to the goal, then to every hazard, [..., 1 + hazards]."""
        return obs[..., self._senses + 4 :].unflatten(-1, (self._things, 2)).norm(dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """The world's own state.  Raises ConfigError for one that keeps none."""
        return self._stateful().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        """Take it up again."""
        return self._seen(self._stateful().load_state_dict(state))

    def _stateful(self) -> Stateful:
        if not isinstance(self._env, Stateful):
            raise ConfigError(f"{self._env.id} keeps no state.")
        return self._env

    def close(self) -> None:
        """Free the world."""
        self._env.close()


def make_coordinates(
    id: str,
    num_envs: int = 1,
    threads: int = 1,
    of: str = "SafetyPointGoal1-v0",
    options: Mapping[str, Any] | None = None,
) -> Coordinates:
    """`num_envs` copies of the goal world called `of`, made with `options`, as coordinates.

    Raises UnknownName for a world that is none, ConfigError for one that is no goal world, or for its options.
    """
    return Coordinates(id, make(of, num_envs, threads, **(options or {})))
