"""Worlds with several agents: the vector world's contract with a row per environment and a column per agent.

N environments; K named costs, which every agent has for itself; agents act at once and live as long as the episode.
`check_multi_agent` is the public checker for one's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.rl.check_env import ROWS, BrokenContract, check_env
from trueline.rl.env import Obs, SeedSource, Stateful, Step, VectorEnv

__all__ = ["MultiAgentStep", "MultiAgentVectorEnv", "as_one", "check_multi_agent"]

ByAgent = dict[str, Any]  # agent -> [N, …], or a dict of such by part


@dataclass(slots=True)
class MultiAgentStep:
    """What one step of a multi-agent world returns; see `trueline.rl.env.Step` for episodes that end in it."""

    obs: ByAgent  # agent -> [N, …]
    state: NDArray[Any]  # [N, …] what a central critic may see of the same moment
    reward: NDArray[np.float64]  # [N, agents]
    cost: NDArray[np.float64]  # [N, agents, K]
    terminated: NDArray[np.bool_]  # [N] for all agents alike
    truncated: NDArray[np.bool_]  # [N]
    final_obs: ByAgent
    final_state: NDArray[Any]
    info: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # arrays with leading N

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[N] whether an episode ended in this step, for either reason."""
        return self.terminated | self.truncated


class MultiAgentVectorEnv(Protocol):
    """N copies of one world of several agents, with same-step autoreset.

    Seeds, autoreset and the range of actions are as in `VectorEnv`; what such a world offers beyond stepping is asked
    for with the same abilities, such as `Stateful`.
    """

    id: str
    num_envs: int
    agents: tuple[str, ...]  # in the order of the columns of reward and cost
    observation_spaces: Mapping[str, gym.Space[Any]]  # of one environment, by agent
    action_spaces: Mapping[str, gym.Space[Any]]
    state_space: gym.Space[Any]
    costs: tuple[str, ...]  # K names
    max_episode_steps: int
    episode_seed: NDArray[np.uint32]  # [N]
    seed_source: SeedSource

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> ByAgent:
        """Start a new episode everywhere, from `seeds` [N] or from `seed_source`; returns the observations."""
        ...

    def state(self) -> NDArray[Any]:
        """The state [N, …] that belongs to the observations returned last."""
        ...

    def step(self, actions: Mapping[str, NDArray[Any]]) -> MultiAgentStep:
        """Advance every environment by one control interval.  actions: agent -> [N, A], or [N] for a discrete space."""
        ...

    def close(self) -> None:
        """Free what the world holds; a closed world is not used again."""
        ...


Factory = Callable[..., MultiAgentVectorEnv]


def check_multi_agent(factory: Factory, steps: int = 200, seed: int = 0) -> None:
    """Raise BrokenContract, a BadWorld, listing every promise of `MultiAgentVectorEnv` that a world does not keep.

    factory: a function from a number of environments to a world; where it takes `threads`, the results must not depend
    on it. The world is seen as one agent that does everything, to which `check_env` applies; see there.
    """
    first = factory(ROWS)
    name, violations = str(getattr(first, "id", type(first).__name__)), list(_form(first, seed))
    first.close()
    if violations:
        raise BrokenContract(name, tuple(dict.fromkeys(violations)))
    if "threads" in inspect.signature(factory).parameters:
        check_env(lambda num_envs, threads=1: as_one(factory(num_envs, threads=threads)), steps, seed)
    else:
        check_env(lambda num_envs: as_one(factory(num_envs)), steps, seed)


def _form(env: MultiAgentVectorEnv, seed: int) -> Iterator[str]:
    """What must be right before the agents can be put together; the rest is `check_env`'s."""
    wanted = (*MultiAgentVectorEnv.__annotations__, "reset", "state", "step", "close")
    missing = [name for name in wanted if not hasattr(env, name)]
    if missing:
        yield f"It has no {', '.join(missing)}."
        return
    if not isinstance(env.agents, tuple) or not env.agents or len({*env.agents}) < len(env.agents):
        yield f"agents is {env.agents!r}, but should be a tuple of one or more different names."
        return
    everyone, n = set(env.agents), env.num_envs
    for what in ("observation_spaces", "action_spaces"):
        if set(getattr(env, what)) != everyone:
            yield f"{what} has the keys {', '.join(map(str, getattr(env, what)))}, but should have one per agent."
            return
    try:
        joint = _Joint(env)
    except ConfigError as refused:
        yield str(refused)
        return
    seeds = np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)
    first = env.reset(seeds)
    yield from _by_agent("reset returned", first, everyone)
    joint.action_space.seed(seed)
    step = env.step(joint.split(np.stack([joint.action_space.sample() for _ in range(n)])))
    yield from _by_agent("step returned", step.obs, everyone)
    yield from _by_agent("final_obs held", step.final_obs, everyone)
    for what, shape in (("reward", (n, len(env.agents))), ("cost", (n, len(env.agents), len(env.costs)))):
        if np.shape(getattr(step, what)) != shape:
            yield f"{what} has the shape {list(np.shape(getattr(step, what)))}, but should have {list(shape)}."
    if not np.array_equal(env.state(), step.state):
        yield "state() does not return the state of the last step."


def _by_agent(what: str, obs: Any, everyone: set[str]) -> Iterator[str]:
    if not isinstance(obs, dict) or set(obs) != everyone:
        yield f"{what} observations that are not a dict with one array per agent."


def _flat(name: str, value: Any) -> dict[str, Any]:
    """An agent's observation or its space under one name, or, where it is a dict, under a name for each part."""
    if isinstance(value, dict | gym.spaces.Dict):
        return {f"{name}/{key}": part for key, part in value.items()}
    return {name: value}


class _Joint:
    """A multi-agent world as a vector world: one agent that sees what all see and the state, and moves all.

    Its reward is the sum; each agent's own reward and costs are its costs, so that none of them goes unwatched.
    """

    def __init__(self, world: MultiAgentVectorEnv) -> None:
        self.world, self.id, self.num_envs = world, world.id, world.num_envs
        self.max_episode_steps = world.max_episode_steps
        spaces: dict[str, gym.Space[Any]] = {"state": world.state_space}
        for agent in world.agents:
            spaces |= _flat(f"obs/{agent}", world.observation_spaces[agent])
        self.observation_space: gym.Space[Any] = gym.spaces.Dict(spaces)
        rewards = [f"{agent}/reward" for agent in world.agents]
        self.costs = (*rewards, *(f"{agent}/{cost}" for agent in world.agents for cost in world.costs))
        self.action_space, self._widths = self._together([world.action_spaces[agent] for agent in world.agents])

    def _together(self, spaces: list[Any]) -> tuple[gym.Space[Any], list[int]]:
        """The agents' action spaces as one, and how many columns of it are each one's; 0 stands for a plain number."""
        if all(isinstance(space, gym.spaces.Discrete) for space in spaces):
            return gym.spaces.MultiDiscrete([space.n for space in spaces]), [0] * len(spaces)
        if all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in spaces):
            low, high = (np.concatenate([getattr(space, end) for space in spaces]) for end in ("low", "high"))
            return gym.spaces.Box(low, high, dtype=spaces[0].dtype), [space.shape[0] for space in spaces]
        kinds = sorted({type(space).__name__ for space in spaces})
        raise ConfigError(
            f"action_spaces are {', '.join(kinds)}, but should be flat Boxes, or Discrete, for all agents."
        )

    @property
    def episode_seed(self) -> NDArray[np.uint32]:
        return self.world.episode_seed

    @property
    def seed_source(self) -> SeedSource:
        return self.world.seed_source

    @seed_source.setter
    def seed_source(self, source: SeedSource) -> None:
        self.world.seed_source = source

    def split(self, actions: NDArray[Any]) -> ByAgent:
        """The agents' parts of actions [N, ΣA]."""
        parts, at = {}, 0
        for agent, width in zip(self.world.agents, self._widths, strict=True):
            parts[agent] = actions[:, at : at + width].copy() if width else actions[:, at].copy()
            at += width or 1
        return parts

    def _joined(self, obs: Obs, state: NDArray[Any]) -> Obs:
        assert isinstance(obs, dict)
        joined: dict[str, NDArray[Any]] = {"state": state}
        for agent, value in obs.items():
            joined |= _flat(f"obs/{agent}", value)
        return joined

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Obs:
        return self._joined(self.world.reset(seeds), self.world.state())

    def step(self, actions: NDArray[Any]) -> Step:
        step = self.world.step(self.split(actions))
        own = np.concatenate([step.reward, step.cost.reshape(self.num_envs, -1)], axis=1)
        obs, final_obs = self._joined(step.obs, step.state), self._joined(step.final_obs, step.final_state)
        return Step(obs, step.reward.sum(axis=1), own, step.terminated, step.truncated, final_obs, step.info)

    def close(self) -> None:
        self.world.close()


class _StatefulJoint(_Joint):
    def state_dict(self) -> dict[str, Any]:
        assert isinstance(self.world, Stateful)
        return self.world.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> Obs:
        assert isinstance(self.world, Stateful)
        obs = self.world.load_state_dict(state)
        return self._joined(obs, self.world.state())


def as_one(world: MultiAgentVectorEnv) -> VectorEnv:
    """The world with all its agents as one: spaces and costs by agent, actions of all, and the sum of their rewards."""
    # Its seeds can be read only, which is all that the checker does; hence the cast.
    return cast(VectorEnv, _StatefulJoint(world) if isinstance(world, Stateful) else _Joint(world))
