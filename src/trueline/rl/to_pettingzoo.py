"""Multi-agent worlds behind PettingZoo's parallel interface, one environment at a time.

PettingZoo comes with the extra `games`; importing this module without it raises MissingExtra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, MissingExtra
from trueline.rl import worlds
from trueline.rl.multi_agent import MultiAgentVectorEnv
from trueline.rl.to_gymnasium import Held, Lens

try:
    from pettingzoo.utils.env import ParallelEnv
except ImportError as missing:
    raise MissingExtra("games", "PettingZoo's interface") from missing

__all__ = ["ToPettingZoo"]


def _one(value: Any) -> Any:
    """The only environment's part of an array, or of a dict of arrays, a copy; of plain numbers the number."""
    if isinstance(value, dict):
        return {key: _one(part) for key, part in value.items()}
    row = np.array(value[0])
    return row[()] if row.ndim == 0 else row


class ToPettingZoo(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # PettingZoo ships no types
    """One copy of a multi-agent world as a `pettingzoo.ParallelEnv`.

    `reset(seed=s)` starts exactly the world's episode of seed s; later resets without a seed draw on from it.
    infos[agent]["cost"] is the sum of the agent's costs, which are also there by name; infos[agent]["episode_seed"]
    says which episode runs, and what the world tells about its steps is there too. `state()` is the world's.
    """

    def __init__(
        self,
        factory: Callable[[int], MultiAgentVectorEnv] | str,
        render_mode: str | None = None,
        camera_name: str | None = None,
        width: int | None = None,
        height: int | None = None,
        **options: Any,
    ) -> None:
        """factory: the id of a world of several agents, made with `options`, or a function from a number of
        environments to such a world; called with 1. render_mode, camera_name, width and height: as for `ToGymnasium`.

        Raises UnknownName for an id, ConfigError when pictures are asked for that the world does not have.
        """
        self.world = worlds.make_multi_agent(factory, 1, **options) if isinstance(factory, str) else factory(1)
        if self.world.num_envs != 1:
            raise ConfigError(f"the factory made {self.world.num_envs} copies of {self.world.id}, but was asked for 1.")
        self._lens = Lens(self.world, render_mode, camera_name, width, height)
        self.render_mode = render_mode
        self.metadata = {"name": self.world.id, **self._lens.metadata, "is_parallelizable": True}
        self.possible_agents: list[str] = list(self.world.agents)
        self.agents: list[str] = []
        self.observation_spaces = dict(self.world.observation_spaces)
        self.action_spaces = dict(self.world.action_spaces)
        self._draw = np.random.default_rng()
        self.world.seed_source = lambda n: self._draw.integers(0, 2**32, size=n, dtype=np.uint32)
        self._picture: Any = None  # the last one drawn
        if isinstance(self.world, Held):
            self.world.autoreset = False  # so that the end of an episode can be seen
        # The others start their next episode in the step that ends one; a plain reset then hands out that start.
        self._next: Mapping[str, Any] | None = None  # observations as `reset` returns them
        self._state: NDArray[Any] | None = None

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """The agent's observation space, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """The agent's action space, always the same object."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """The first observations of the episode of `seed`, or of the next drawn one. `options` are not used."""
        del options
        chosen = None
        if seed is not None:
            if not 0 <= seed < 2**32:
                raise ConfigError(f"seed is {seed}, but episodes have 32-bit seeds. Use one from 0 to 4294967295.")
            chosen, self._draw = np.array([seed], np.uint32), np.random.default_rng(seed)
        if seed is None and self._next is not None:
            first = self._next
        else:
            first = {agent: _one(value) for agent, value in self.world.reset(chosen).items()}
        self._next, self._state = None, _one(self.world.state())
        self.agents = list(self.possible_agents)
        number = int(self.world.episode_seed[0])
        return {agent: first[agent] for agent in self.agents}, {
            agent: {"episode_seed": number} for agent in self.agents
        }

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One step of all agents; observations are always those of the episode the actions were taken in."""
        if not self.agents:
            raise ConfigError(f"{self.world.id} was stepped outside an episode. Call reset() first.")
        absent = [agent for agent in self.agents if agent not in actions]
        if absent:
            raise ConfigError(f"{self.world.id} was given no action for {absent[0]}. Give one for every agent.")
        number, acting = int(self.world.episode_seed[0]), self.agents
        step = self.world.step({agent: np.asarray(actions[agent])[None] for agent in acting})
        told = {name: value[0] for name, value in step.info.items()} | {"episode_seed": number}
        ended = bool(step.ended[0])
        begun = ended and not isinstance(self.world, Held)
        self._next = {agent: _one(value) for agent, value in step.obs.items()} if begun else None
        self._state = _one(step.final_state)
        self.agents = [] if ended else acting
        if self.render_mode == "human":
            self.render()
        costs = {agent: step.cost[0, k] for k, agent in enumerate(acting)}
        named = {agent: dict(zip(self.world.costs, own.tolist(), strict=True)) for agent, own in costs.items()}
        return (
            {agent: _one(step.final_obs[agent]) for agent in acting},
            {agent: float(step.reward[0, k]) for k, agent in enumerate(acting)},
            dict.fromkeys(acting, bool(step.terminated[0])),
            dict.fromkeys(acting, bool(step.truncated[0])),
            {agent: {**told, "cost": float(costs[agent].sum()), **named[agent]} for agent in acting},
        )

    def state(self) -> NDArray[Any]:
        """What a central critic may see of the moment observed last."""
        if self._state is None:
            raise ConfigError(f"{self.world.id} has no state before its first reset. Call reset() once.")
        return self._state

    def render(self) -> Any:
        """A picture as `to_gymnasium.MODES` says, or None without a render mode and with a window.

        At the end of an episode it shows that end, where the world can wait there; the others have begun the next by
        then, and what was drawn last is drawn again.
        """
        if self._next is None or self._picture is None:
            self._picture = self._lens.draw(0)
        return None if self._picture is None else self._picture.copy()

    def close(self) -> None:
        """Free the world."""
        self.world.close()
