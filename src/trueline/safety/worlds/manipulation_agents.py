"""The two-hand worlds with an agent for each hand: they share reward and cost, and each feels its own hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, UnknownName, unknown
from trueline.rl.env import SeedSource, Step
from trueline.rl.multi_agent import MultiAgentStep
from trueline.safety.worlds.checks import read_actions
from trueline.safety.worlds.manipulation_engine import ManipulationWorlds
from trueline.safety.worlds.manipulation_hand_tasks import HAND_TASKS, HANDS, HandTask, TwoHands

if TYPE_CHECKING:
    from trueline.safety.worlds.render import Mode

__all__ = ["HAND_TEAMS", "HandAgents", "make_hand_agents"]

Array = NDArray[np.float64]

HAND_TEAMS: dict[str, HandTask] = {f"Trueline{name}-TwoAgents-v0": task for name, task in HAND_TASKS.items()}


class HandAgents:
    """N copies of one two-hand world for two agents; see `trueline.rl.multi_agent` for the contract.

    It is a MultiAgentVectorEnv that is also Stateful, Perturbable and Visible. An agent observes its hand's part of
    what `TwoHands` describes, then egg, goal and the turn between; the state is all of it.
    """

    agents = HANDS
    perturbations = ManipulationWorlds.perturbations
    render_modes = ManipulationWorlds.render_modes

    def __init__(
        self,
        id: str,
        task: HandTask,
        num_envs: int,
        threads: int = 1,
        costs: Literal["sum", "split"] = "sum",
        seed: int = 0,
    ) -> None:
        self._world = ManipulationWorlds(id, task, num_envs, threads, costs, seed)
        rig = self._world.rig
        assert isinstance(rig, TwoHands)
        self.id, self.num_envs, self.costs = id, num_envs, self._world.costs
        self.max_episode_steps = task.steps
        self.interval_s = self._world.interval_s
        self.episode_seed = self._world.episode_seed  # one array, kept up to date there
        everything = np.arange(rig.observation_size)
        rest = everything[2 * rig.block :]
        self._seen = {
            hand: np.concatenate([everything[k * rig.block : (k + 1) * rig.block], rest])
            for k, hand in enumerate(HANDS)
        }
        self._each = rig.actions // 2
        self.observation_spaces = {
            hand: gym.spaces.Box(-np.inf, np.inf, seen.shape, np.float64) for hand, seen in self._seen.items()
        }
        self.action_spaces = {hand: gym.spaces.Box(-1.0, 1.0, (self._each,), np.float64) for hand in HANDS}
        self.state_space = self._world.observation_space
        self._state = np.zeros((num_envs, rig.observation_size))

    @property
    def seed_source(self) -> SeedSource:
        """Where the seeds of coming episodes are drawn from."""
        return self._world.seed_source

    @seed_source.setter
    def seed_source(self, source: SeedSource) -> None:
        self._world.seed_source = source

    def _views(self, state: Array) -> dict[str, Array]:
        return {hand: state[:, seen] for hand, seen in self._seen.items()}

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> dict[str, Array]:
        """Start a new episode everywhere; seeds [N] or None -> observations by agent."""
        self._state = self._world.reset(seeds)
        return self._views(self._state)

    def state(self) -> Array:
        """What the single agent would observe now, [N, S]."""
        return self._state.copy()

    def step(self, actions: Mapping[str, NDArray[Any]]) -> MultiAgentStep:
        """One control interval.  actions: agent -> [N, A], clipped to [-1, 1].

        Raises ConfigError for a missing agent, and for actions of another shape or that are not numbers.
        """
        wanted = (self.num_envs, self._each)
        joint = np.empty((self.num_envs, 2 * self._each))
        for k, hand in enumerate(HANDS):
            if hand not in actions:
                raise ConfigError(f"{self.id} was given no actions for {hand}. Give them for {', '.join(HANDS)}.")
            joint[:, k * self._each : (k + 1) * self._each] = read_actions(self.id, actions[hand], wanted, hand)
        return self._told(self._world.step(joint))

    def _told(self, step: Step) -> MultiAgentStep:
        self._state, final_state = np.asarray(step.obs), np.asarray(step.final_obs)
        return MultiAgentStep(
            self._views(self._state),
            self._state.copy(),
            np.repeat(step.reward[:, None], len(HANDS), axis=1),
            np.repeat(step.cost[:, None], len(HANDS), axis=1),
            step.terminated,
            step.truncated,
            self._views(final_state),
            final_state,
            step.info,
        )

    def perturb(self, **scale: float | Array) -> None:
        """Multiply nominal dynamics; see `ManipulationWorlds.perturb`."""
        self._world.perturb(**scale)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, and what the current observations show."""
        return self._world.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> dict[str, Array]:
        """Take up a state of the same world and N -> the observations that belong to it."""
        self._state = self._world.load_state_dict(state)
        return self._views(self._state)

    def render(
        self, i: int = 0, width: int = 256, height: int = 256, camera: str = "fixedfar", mode: Mode = "rgb"
    ) -> NDArray[Any]:
        """Picture of environment `i`; see `ManipulationWorlds.render`."""
        return self._world.render(i, width, height, camera, mode)

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Shapes of environment `i`; see `ManipulationWorlds.scene`."""
        return self._world.scene(i)

    def close(self) -> None:
        """Free the simulations."""
        self._world.close()


def make_hand_agents(
    id: str, num_envs: int, threads: int = 1, costs: Literal["sum", "split"] = "sum", seed: int = 0
) -> HandAgents:
    """`num_envs` copies of the world called `id`, such as TruelineHandOver-Finger-TwoAgents-v0.

    Raises UnknownName for an unknown id, ConfigError for a setting.
    """
    if id not in HAND_TEAMS:
        raise UnknownName(unknown("env", id, HAND_TEAMS))
    return HandAgents(id, HAND_TEAMS[id], num_envs, threads, costs, seed)
