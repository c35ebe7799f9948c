"""`env.task` as scripts read it: where the agent and the things are, and what the episode is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium.abilities import Located
from trueline.core.errors import ConfigError

if TYPE_CHECKING:
    from trueline.compat.safety_gymnasium.env import SafetyEnv

Array = NDArray[np.float64]
Places = Callable[[], Mapping[str, Array]]


def _listed(names: Mapping[str, Any]) -> str:
    return f"There are {', '.join(names)}." if names else "This world names none."


class AgentView:
    """The agent as it is now: `pos` [3] metres, `mat` [3, 3] body to world, `vel` [3] m/s."""

    def __init__(self, places: Places, sensed: Places) -> None:
        self._places, self._sensed = places, sensed

    def get_sensor(self, name: str) -> Array:
        """What one of its sensors reads [k], as it is observed.  Raises ConfigError naming the sensors."""
        readings = {key: value for key, value in self._sensed().items() if value.ndim == 1}
        if name not in readings:
            raise ConfigError(f"the agent has no sensor {name!r} that is observed as it is. {_listed(readings)}")
        return readings[name]

    @property
    def pos(self) -> Array:
        """Its centre."""
        return self._places()["agent"][0].copy()

    @property
    def mat(self) -> Array:
        """Its orientation."""
        return self._places()["agent_rotation"].copy()

    @property
    def vel(self) -> Array:
        """The velocity of its centre."""
        return self._places()["agent_velocity"].copy()

    def dist_xy(self, pos: Any) -> float:
        """Distance along the ground to a place [2] or [3]."""
        return float(np.linalg.norm(np.asarray(pos)[:2] - self.pos[:2]))


class ThingView:
    """One kind of thing as it is now."""

    def __init__(self, name: str, places: Places) -> None:
        self.name, self._places = name, places

    @property
    def pos(self) -> Any:
        """Its centre [3], metres; of a kind in the plural, such as hazards, a list of them."""
        centres = [centre.copy() for centre in self._places()[self.name]]
        return centres if self.name.endswith("s") else centres[0]

    @property
    def num(self) -> int:
        """How many there are."""
        return len(self._places()[self.name])


class Task:
    """A read-only view of one environment: `agent`, each kind of thing by name (`goal`, …), and its settings."""

    def __init__(self, env: SafetyEnv) -> None:
        self._env = env
        self.agent = AgentView(self._located, env.sensed)

    def _located(self) -> Mapping[str, Array]:
        world = self._env.world
        if not isinstance(world, Located):
            raise ConfigError(f"{world.id} does not tell where things are. Use what it observes, or `layout`.")
        return world.located(self._env.row)

    def __getattr__(self, name: str) -> ThingView:
        if not name.startswith("_") and isinstance(self._env.world, Located) and name in self._located():
            return ThingView(name, self._located)
        raise AttributeError(
            f"task has no {name!r} here. It has agent, obs, dist_goal, num_steps, action_space, observation_space, "
            "and, where the world tells, goal, hazards and the like."
        )

    @property
    def num_steps(self) -> int:
        """Steps after which the task truncates an episode."""
        return self._env.num_steps

    @property
    def action_space(self) -> gym.Space[Any]:
        """As the environment's."""
        return self._env.action_space

    @property
    def observation_space(self) -> gym.Space[Any]:
        """As the environment's."""
        return self._env.observation_space

    @property
    def observation_flatten(self) -> bool:
        """Whether observations are one vector."""
        return self._env.settings.observation_flatten

    @property
    def observe_vision(self) -> bool:
        """Whether observations hold a picture."""
        return self._env.settings.observe_vision

    def obs(self) -> Any:
        """The present observation."""
        return self._env.observation()

    def dist_goal(self) -> float:
        """Distance from the agent to the goal along the ground, metres."""
        return self.agent.dist_xy(self.goal.pos)
