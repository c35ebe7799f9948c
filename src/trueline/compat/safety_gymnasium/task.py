"""`env.task` as scripts read it: where the agent and the things are, and what the episode is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium.abilities import Described, Located
from trueline.core.errors import ConfigError

if TYPE_CHECKING:
    from trueline.compat.safety_gymnasium.env import SafetyEnv
    from trueline.compat.safety_gymnasium.multi_agent import SafetyMultiAgentEnv
    from trueline.safety.worlds import World

Array = NDArray[np.float64]
Places = Callable[[], Mapping[str, Array]]


def _listed(names: Mapping[str, Any]) -> str:
    return f"There are {', '.join(names)}." if names else "This world names none."


class ReadOnly(ConfigError, AttributeError):
    """An attribute of a view was to be changed; an AttributeError too, as Python's own."""


class View:
    """What can be read and not set: a change here would not reach the world."""

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise ReadOnly(
            f"{name} was set to {value!r:.40}, but env.task is a view to read. Give make() a config, or use another id."
        )


@dataclass(frozen=True, slots=True)
class LidarConf:
    """What the lidar reads, in the original's words; see `safety.worlds.lidar`."""

    num_bins: int
    max_dist: float | None
    exp_gain: float
    type: Literal["pseudo", "natural"]
    alias: bool


def _lidar_conf(world: World) -> LidarConf:
    kind: Literal["pseudo", "natural"] = "pseudo" if world.lidar == "bins" else "natural"
    return LidarConf(world.bins, world.sight_m, world.gain_per_m, kind, world.leaks)


class AgentView(View):
    """The agent as it is now: `pos` [3] metres, `mat` [3, 3] body to world, `vel` [3] m/s."""

    _places: Places
    _sensed: Places

    def __init__(self, places: Places, sensed: Places) -> None:
        self.__dict__.update(_places=places, _sensed=sensed)

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


class ThingView(View):
    """One kind of thing as it is now."""

    name: str
    _places: Places
    _world: World | None

    def __init__(self, name: str, places: Places, world: World | None) -> None:
        self.__dict__.update(name=name, _places=places, _world=world)

    @property
    def pos(self) -> Any:
        """Its centre [3], metres; of a kind in the plural, such as hazards, a list of them."""
        centres = [centre.copy() for centre in self._places()[self.name]]
        return centres if self.name.endswith("s") else centres[0]

    @property
    def num(self) -> int:
        """How many there are."""
        return len(self._places()[self.name])

    @property
    def size(self) -> float:
        """Its radius, of a box half its longer side, metres."""
        solid = self._thing.solids[0]
        return max(solid.size_m[:2]) if solid.kind == "box" else solid.size_m[0]

    @property
    def keepout(self) -> float:
        """The room that it claims when a layout is drawn, metres."""
        return float(self._thing.keepout_m)

    @property
    def _thing(self) -> Any:
        thing = None if self._world is None else self._world.thing(self.name)
        if thing is None:
            raise AttributeError(f"the world does not say what {self.name} are made of.")
        return thing


class Task(View):
    """A read-only view of one environment: `agent`, each kind of thing by name (`goal`, …), and its settings."""

    agent: AgentView
    _env: SafetyEnv

    def __init__(self, env: SafetyEnv) -> None:
        self.__dict__.update(_env=env, agent=AgentView(self._located, env.sensed))

    def _located(self) -> Mapping[str, Array]:
        world = self._env.world
        if not isinstance(world, Located):
            raise ConfigError(f"{world.id} does not tell where things are. Use what it observes, or `layout`.")
        return world.located(self._env.row)

    def _described(self) -> World | None:
        world: Any = self._env.world
        return world.world if isinstance(world, Described) else None

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            world = self._described()
            if name == "lidar_conf" and world is not None:
                return _lidar_conf(world)
            if name == "goal_achieved" and world is not None:
                return self._achieved(world)
            if isinstance(self._env.world, Located) and name in self._located():
                return ThingView(name, self._located, world)
        raise AttributeError(
            f"task has no {name!r} here. It has agent, obs, dist_goal, num_steps, action_space, observation_space, "
            "and, where the world tells, goal, hazards and the like, goal_achieved and lidar_conf."
        )

    def _achieved(self, world: World) -> bool:
        """Whether the goal is reached as things are now: after a step that met it, it already lies elsewhere."""
        from trueline.safety.worlds.tasks import PressButton, PushToGoal, ReachGoal

        task = world.task
        if isinstance(task, ReachGoal):
            return self.dist_goal() <= task.radius_m
        if isinstance(task, PushToGoal):
            apart = self.push_box.pos - self.goal.pos
            return bool(np.linalg.norm(apart[:2] if task.flat else apart) <= task.radius_m)
        if isinstance(task, PressButton) or task.renews is not None:
            raise AttributeError("this task does not say by itself whether its goal is reached. Read info['goal_met'].")
        return False

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


class RoomTask(View):
    """A read-only view of a room of several agents: what all of them observe together, and its settings."""

    _env: SafetyMultiAgentEnv

    def __init__(self, env: SafetyMultiAgentEnv) -> None:
        self.__dict__.update(_env=env)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"the task of a room has no {name!r} here. It has obs, num_steps, action_space, observation_space, "
            "observation_flatten, observe_vision and lidar_conf."
        )

    def obs(self) -> Any:
        """What both agents observe now."""
        return self._env.state

    @property
    def num_steps(self) -> int:
        """Steps after which the task truncates an episode."""
        return self._env.num_steps

    @property
    def action_space(self) -> dict[str, gym.spaces.Box]:
        """By agent."""
        return self._env.action_spaces

    @property
    def observation_space(self) -> gym.Space[Any]:
        """Of all that both observe."""
        return self._env.observation_space(self._env.possible_agents[0])

    @property
    def observation_flatten(self) -> bool:
        """Whether observations are one vector."""
        return self._env.settings.observation_flatten

    @property
    def observe_vision(self) -> bool:
        """Whether observations hold pictures."""
        return self._env.settings.observe_vision

    @property
    def lidar_conf(self) -> LidarConf:
        """What the lidars read."""
        return _lidar_conf(self._env.world.world)
