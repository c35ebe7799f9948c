"""Several agents in one environment: observations, actions, rewards and costs are dicts by agent.

`make_ma` is the original's velocity tasks with a body shared out among agents; ids such as SafetyPointMultiGoal1-v0
are two agents in one room. Both stand on a `rl.multi_agent.MultiAgentVectorEnv` of one environment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium.abilities import AgentsStepNative
from trueline.compat.safety_gymnasium.config import layout_seed, open_world, read, refuse_unknown
from trueline.compat.safety_gymnasium.env import BadAction, check_action, drawn_seed
from trueline.compat.safety_gymnasium.episodes import Episodes, check_seed
from trueline.compat.safety_gymnasium.ids import KEYBOARD_AGENTS, parse
from trueline.compat.safety_gymnasium.infos import of_body
from trueline.compat.safety_gymnasium.pictures import (
    CAMERAS,
    MODES,
    NAVIGATION_PIXELS,
    VELOCITY_CAMERAS,
    VELOCITY_PIXELS,
    Pictures,
    RenderConf,
)
from trueline.compat.safety_gymnasium.task import RoomTask
from trueline.core.errors import ConfigError

Array = NDArray[np.float64]

_MEETING = "cost_contact_other"  # of agents that touch each other


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One step of all agents, by agent."""

    obs: dict[str, Any]
    reward: dict[str, float]
    cost: dict[str, float]
    terminated: dict[str, bool]
    truncated: dict[str, bool]
    told: Mapping[str, NDArray[Any]]  # what the world says besides, [1, …] each, of all agents together


def _first(obs: Any) -> Any:
    """The only environment's part of one agent's observation, copies."""
    return {key: np.array(part[0]) for key, part in obs.items()} if isinstance(obs, dict) else np.array(obs[0])


class _Agents:
    """The agents of one environment and the episodes they are in."""

    def __init__(self, world: Any, seed: int, steps_limit: int | None = None) -> None:
        self.world, self.names = world, tuple(world.agents)
        native = isinstance(world, AgentsStepNative)
        self.action_spaces = dict(world.native_action_spaces if native else world.action_spaces)
        self.episodes = Episodes(world, [seed], world.step_native if native else world.step, steps_limit)

    @property
    def over(self) -> bool:
        """Whether the episode is over or has not begun."""
        return bool(self.episodes.ended[0])

    def observations(self) -> dict[str, Any]:
        """The present observation of each agent, an array or a dict of arrays by sensor."""
        obs: Any = self.episodes.obs
        return {name: _first(obs[name]) for name in self.names}

    def reset(self, seed: int | None) -> dict[str, Any]:
        """The first observations of the episode of `seed`, or of the next on the stream."""
        self.episodes.start([seed])
        return self.observations()

    def step(self, actions: Mapping[str, Any]) -> _Outcome:
        """One control interval.  Raises BadAction naming the agent, ResetNeeded when the episode is over."""
        if self.over:
            raise gym.error.ResetNeeded("the episode is over or has not begun. Call reset() before step().")
        given = {}
        for name in self.names:
            if name not in actions:
                raise BadAction(f"no action was given for {name}. Give one for each of {', '.join(self.names)}.")
            given[name] = check_action(name, actions[name], self.action_spaces[name].shape or ())[None]
        step: Any = self.episodes.step(given)
        return _Outcome(
            self.observations(),
            {name: float(step.reward[0, k]) for k, name in enumerate(self.names)},
            {name: float(step.cost[0, k].sum()) for k, name in enumerate(self.names)},
            dict.fromkeys(self.names, bool(self.episodes.terminated[0])),
            dict.fromkeys(self.names, bool(self.episodes.truncated[0])),
            step.info,
        )

    def state(self) -> Array:
        """What all agents together could know [S]."""
        return np.array(self.world.state()[0])


class MultiAgentMujoco:
    """A body shared out among agents, without costs: what `SafeMAEnv` has inside, with five dicts per step."""

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": list(MODES),
        "name": "MaMuJoCo",
        "is_parallelizable": True,
    }

    def __init__(self, body: str, world: Any, how: RenderConf) -> None:
        # As Gymnasium's environments do, from the system's entropy when no seed is given.
        seed = int(np.random.SeedSequence().generate_state(1)[0])
        self.inner = _Agents(world, seed)
        self._pictures = Pictures(how, VELOCITY_CAMERAS, "track")
        self.body, self.render_mode = body, how.mode
        self.possible_agents = list(self.inner.names)
        self.agents = list(self.possible_agents)
        self.observation_spaces = dict(world.observation_spaces)
        self.action_spaces = self.inner.action_spaces
        self.agent_action_partitions = [tuple(range(space.shape[0])) for space in self.action_spaces.values()]

    @property
    def num_agents(self) -> int:
        """How many agents take part now: none once the episode is over."""
        return len(self.agents)

    @property
    def max_num_agents(self) -> int:
        """How many agents there are."""
        return len(self.possible_agents)

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """What an agent observes."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """What an agent does."""
        return self.action_spaces[agent]

    def state(self) -> Array:
        """The whole body's observation."""
        return self.inner.state()

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """First observations and infos, by agent. `options` are not used."""
        del options
        self.agents = list(self.possible_agents)
        return self.inner.reset(seed), {name: {} for name in self.possible_agents}

    def outcome(self, actions: Mapping[str, Any]) -> _Outcome:
        """One step, costs included."""
        out = self.inner.step(actions)
        if self.render_mode == "human":
            self.render()
        if self.inner.over:
            self.agents = []
        return out

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """One step: observations, rewards, terminations, truncations and infos by agent."""
        out = self.outcome(actions)
        return out.obs, out.reward, out.terminated, out.truncated, self.infos(out)

    def infos(self, out: _Outcome) -> dict[str, Any]:
        """What Gymnasium's body tells of a step, the same for each agent."""
        told = {key: float(values[0]) for key, values in of_body(self.body, out.told).items()}
        return {name: dict(told) for name in self.possible_agents}

    def render(self) -> Any:
        """A picture uint8 [H, W, 3], a depth buffer float32 [H, W], or None after showing a window."""
        return self._pictures.draw(self.inner.world, 0)

    def close(self) -> None:
        """Free the world, and with it its window."""
        self.inner.world.close()


class SafeMAEnv:
    """A body shared out among agents that must not be too fast; six dicts per step."""

    def __init__(
        self,
        scenario: str,
        agent_conf: str | None = None,
        agent_obsk: int | None = 1,
        agent_factorization: dict[str, Any] | None = None,
        local_categories: list[list[str]] | None = None,
        global_categories: tuple[str, ...] | None = None,
        render_mode: str | None = None,
        width: int = VELOCITY_PIXELS,
        height: int = VELOCITY_PIXELS,
        camera_id: int | None = None,
        camera_name: str | None = None,
        **options: Any,
    ) -> None:
        """scenario: the body, such as Ant; agent_conf: how it is shared out, such as 2x4; options: the world's own.

        Raises ConfigError for a factorisation of one's own or an unknown option, and what the worlds raise for an
        unknown body.
        """
        own = {"agent_factorization": agent_factorization, "local_categories": local_categories}
        for name, value in {**own, "global_categories": global_categories}.items():
            if value is not None:
                raise ConfigError(
                    f"{name} was given, but bodies are shared out here as the original's table says. Leave it out."
                )
        if "MultiGoal" in scenario:
            raise ConfigError(
                f"make_ma takes a body, such as 'Ant', and its shares, '2x4'. Open {scenario} with make({scenario!r})."
            )
        if agent_conf is None or agent_obsk is None:
            raise ConfigError(
                f"{scenario} was asked for as one agent. Use make('Safety{scenario}Velocity-v1') for that."
            )
        from trueline.safety.worlds.velocity_agents import make_multi_agent

        self.agent = scenario
        refuse_unknown(f"make_ma({scenario!r}, …)", options, make_multi_agent)
        world = make_multi_agent(scenario, agent_conf, agent_obsk=agent_obsk, **options)
        self.env = MultiAgentMujoco(scenario, world, RenderConf(render_mode, width, height, camera_id, camera_name))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.env, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> SafeMAEnv:
        raise ConfigError(f"{self.env.inner.world.id} shared out among agents cannot be copied. Make another instead.")

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """First observations and infos, by agent."""
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """One step: observations, rewards, costs, terminations, truncations and infos by agent."""
        out = self.env.outcome(action)
        return out.obs, out.reward, out.cost, out.terminated, out.truncated, self.env.infos(out)


make_ma = SafeMAEnv


class SafetyMultiAgentEnv(gym.Env[Any, Any]):
    """Two agents in one room; six dicts per step.

    Both observe the whole room, and the infos of both are the same: each agent's costs by name.
    """

    metadata: dict[str, Any] = {"render_modes": list(MODES), "render_fps": 30}  # noqa: RUF012  (Gymnasium's own)

    def __init__(
        self,
        task_id: str,
        config: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        width: int = NAVIGATION_PIXELS,
        height: int = NAVIGATION_PIXELS,
        camera_id: int | None = None,
        camera_name: str | None = None,
        **options: Any,
    ) -> None:
        self.settings = settings = read(task_id, config)
        self.task_id, self.config, self.options = task_id, dict(config or {}), options
        self.render_parameters = RenderConf(render_mode, width, height, camera_id, camera_name)
        self._agent = str(parse(task_id).agent)
        if settings.debug and self._agent not in KEYBOARD_AGENTS:
            raise ConfigError(f"{task_id} cannot be driven by keys. Only {', '.join(KEYBOARD_AGENTS)} can.")
        if settings.observe_vision and (settings.observation_flatten or settings.vision_size != (256, 256)):
            raise ConfigError(
                f"{task_id} shows its pictures of 256 × 256 in a dict. Leave vision_size out, and observation_flatten "
                "at False."
            )
        if not settings.observation_flatten:
            options = {"observe": "vision" if settings.observe_vision else "parts", **options}
        world: Any = open_world(task_id, 1, settings, options)
        self._inner = _Agents(world, drawn_seed(), settings.num_steps)
        self._last: _Outcome | None = None
        self._pictures = Pictures(self.render_parameters, CAMERAS, "vision")
        self.possible_agents = list(self._inner.names)
        self.task = RoomTask(self)

    @property
    def world(self) -> Any:
        """The world behind it."""
        return self._inner.world

    @property
    def agents(self) -> list[str]:
        """All of them: both stay to the end."""
        return list(self.possible_agents)

    @property
    def num_agents(self) -> int:
        """How many there are."""
        return len(self.possible_agents)

    def observation_space(self, agent: str) -> gym.Space[Any]:  # type: ignore[override]
        """What an agent observes."""
        return self._inner.world.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:  # type: ignore[override]
        """What an agent does."""
        return self._inner.action_spaces[agent]

    @property
    def action_spaces(self) -> dict[str, gym.spaces.Box]:
        """What each agent does."""
        return self._inner.action_spaces

    @property
    def obs_space_dict(self) -> gym.spaces.Dict:
        """The spaces of the parts of what both together observe, in order."""
        space = self.observation_space(self.possible_agents[0])
        return space if isinstance(space, gym.spaces.Dict) else _parts_of_both(self._inner.world.world)

    @property
    def state(self) -> Any:
        """What both together observe now: a vector, or by sensor where observations are."""
        if not self._inner.episodes.started:
            raise gym.error.ResetNeeded("there is no observation before the first reset(). Call it.")
        if self.settings.observation_flatten:
            return self._inner.state()
        return self._inner.observations()[self.possible_agents[0]]

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """None, human, rgb_array or depth_array."""
        return self.render_parameters.mode

    @property
    def steps(self) -> int:
        """Steps taken in this episode."""
        return int(self._inner.episodes.steps[0])

    @property
    def num_steps(self) -> int:
        """Steps after which the task truncates an episode."""
        return self._inner.episodes.limit

    @property
    def terminated(self) -> bool:
        """Whether the task ended the episode, or none has begun."""
        return bool(self._inner.episodes.terminated[0])

    @property
    def truncated(self) -> bool:
        """Whether time ended the episode."""
        return bool(self._inner.episodes.truncated[0])

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self._inner.over

    @property
    def cost(self) -> dict[str, dict[str, float]] | None:
        """Each agent's costs of the last step by name; None before the first step."""
        return None if self._last is None else self._costs(self._last)

    def set_seed(self, seed: int | None = None) -> None:
        """Let the next episode start from `seed`, or from one that NumPy's global generator draws."""
        self._inner.episodes.seed_next(0, drawn_seed() if seed is None else seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """First observations and infos, by agent. `options` are not used."""
        del options
        seed = layout_seed(self.settings, None if seed is None else check_seed(seed))
        super().reset(seed=seed)
        self._last = None
        return self._inner.reset(seed), {name: {} for name in self.possible_agents}

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:  # type: ignore[override]
        """One step: observations, rewards, costs, terminations, truncations and infos by agent.

        The infos of every agent hold each agent's costs by name, "reward_sum", and "goal_met" where one was; nothing
        but "cost_exception" where the simulation diverged.
        """
        if self.settings.debug:
            action = self.keyboard_actions()
        out = self._last = self._inner.step(action)
        if self.render_mode == "human":
            self.render()
        infos = {name: self._told(out) for name in self.possible_agents}
        return out.obs, out.reward, out.cost, out.terminated, out.truncated, infos

    def _told(self, out: _Outcome) -> dict[str, Any]:
        if "diverged" in out.told and out.told["diverged"][0]:
            return {"cost_exception": 1.0}
        told: dict[str, Any] = {**self._costs(out), "reward_sum": sum(out.reward.values())}
        if "goal_met" in out.told and out.told["goal_met"][0]:
            told["goal_met"] = True
        return told

    def _costs(self, out: _Outcome) -> dict[str, dict[str, float]]:
        named: dict[str, dict[str, float]] = {}
        for k, name in enumerate(self.possible_agents):
            own = {key: float(of[0, k]) for key, of in out.told.items() if key.startswith("cost_")}
            if not own.get(_MEETING, 1.0):
                del own[_MEETING]  # told only where it happens
            named[name] = {**own, "cost_sum": out.cost[name]}
        return named

    def keyboard_actions(self) -> dict[str, Array]:
        """What the keys held down in the window ask of agent_0, as the original's do; agent_1 rests."""
        from trueline.safety.worlds.viewer import command

        window = self._inner.world.window
        asked = command(self._agent.lower(), window.held() if window else ())
        return {name: asked if k == 0 else np.zeros_like(asked) for k, name in enumerate(self.possible_agents)}

    def render(self) -> Any:
        """A picture uint8 [H, W, 3], a depth buffer float32 [H, W], or None after showing a window."""
        return self._pictures.draw(self._inner.world, 0)

    def close(self) -> None:
        """Free the world, and with it its window."""
        self._inner.episodes.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> SafetyMultiAgentEnv:
        """An environment in the same state, which then goes its own way."""
        how = self.render_parameters
        pictures = (how.mode, how.width, how.height, how.camera_id, how.camera_name)
        other = SafetyMultiAgentEnv(self.task_id, self.config or None, *pictures, **self.options)
        memo[id(self)] = other
        other.spec = deepcopy(self.spec, memo)
        other._inner.episodes.copy_from(self._inner.episodes)
        other._last = deepcopy(self._last, memo)
        other._np_random, other._np_random_seed = deepcopy(self._np_random, memo), self._np_random_seed
        return other


def _parts_of_both(world: Any) -> gym.spaces.Dict:
    """The parts of the flat observation of a room: those of agent_0, then those of agent_1, whose names end in 1."""
    spaces: OrderedDict[str, gym.Space[Any]] = OrderedDict()  # a plain dict would be sorted
    for suffix in ("", "1"):
        for name, shape in world.parts.items():
            low, high = (0.0, 1.0) if name.endswith("_lidar") else (-np.inf, np.inf)
            spaces[name + suffix] = gym.spaces.Box(low, high, shape, np.float64)
    return gym.spaces.Dict(spaces)
