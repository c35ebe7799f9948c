"""Small cooperative games with costs, whose joint optimum is known, and the checker of team recipes on them.

A game is a CMDP whose action is everybody's at once. Its optimum over all joint policies is a linear programme's
(`rl/exact/optimum.py`). A team draws its agents' actions independently of each other, so that it can reach that optimum
where the programme has a solution in which each state's action is independent between agents: `independent` tells, and
every game of `GAMES` has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.config import Config, laid_over
from trueline.core.errors import ConfigError
from trueline.core.recipe import Recipe
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.rl.env import SeedSource, Step
from trueline.rl.exact.cmdp import Array, Cmdp
from trueline.rl.exact.evaluate import evaluate, occupancy
from trueline.rl.exact.gap import Gap, Settings, measure_gap
from trueline.rl.exact.optimum import Expected, Problem
from trueline.rl.exact.suite import garnet
from trueline.rl.exact.world import TabularWorld
from trueline.rl.multi_agent import MultiAgentStep
from trueline.rl.teams.training import TeamSettings

__all__ = [
    "GAMES",
    "WORLD",
    "Game",
    "GameWorld",
    "best_response",
    "independent",
    "make_game",
    "marginals",
    "measure_team_gap",
    "team_settings",
]

WORLD = "TeamCmdp-v0"


# --- games ---


@dataclass(frozen=True, slots=True)
class Game:
    """A CMDP on joint actions.  Raises ConfigError for numbers of actions or costs that do not fit it.

    Joint actions count as digits do, the first agent's the slowest. The reward is everybody's; of the costs, named
    "AGENT/COST", each agent has the same number, agent by agent.
    """

    cmdp: Cmdp
    actions: tuple[int, ...]  # of each agent

    def __post_init__(self) -> None:
        joint = math.prod(self.actions)
        if joint != self.cmdp.actions:
            raise ConfigError(
                f"game {self.cmdp.name!r} has agents with {self.actions} actions, {joint} together, but its process "
                f"has {self.cmdp.actions}. Give it one action for each of their combinations."
            )
        wanted = tuple(f"{agent}/{cost}" for agent in self.agents for cost in self.own_costs)
        if self.cmdp.costs != wanted:
            raise ConfigError(
                f"game {self.cmdp.name!r} has the costs {', '.join(self.cmdp.costs)}. Name them AGENT/COST, with the "
                f"same ones for each of {', '.join(self.agents)}."
            )

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents."""
        return tuple(f"agent_{i}" for i in range(len(self.actions)))

    @property
    def own_costs(self) -> tuple[str, ...]:
        """Names of the K costs that each agent has."""
        return tuple(name.partition("/")[2] for name in self.cmdp.costs[: len(self.cmdp.costs) // len(self.actions)])


def of_a_team(cmdp: Cmdp, actions: tuple[int, ...]) -> Game:
    """A game of a process: a single cost is everybody's, otherwise there is one for each agent."""
    agents = [f"agent_{i}/cost" for i in range(len(actions))]
    if len(cmdp.costs) == 1:
        cost, limit = np.repeat(cmdp.cost, len(agents), axis=-1), cmdp.limit * len(agents)
    else:
        cost, limit = cmdp.cost, cmdp.limit
    return Game(
        Cmdp(cmdp.name, cmdp.transition, cmdp.reward, cost, cmdp.start, cmdp.horizon, limit, tuple(agents)), actions
    )


def lift() -> Game:
    """One decision of two: rest, lift or heave. The load pays only when both take hold; whoever heaves strains both.

    It is worth most when both heave, but under the limit the second agent alone should heave, half of the time.
    """
    pays = np.array([[0.0, 0.1, 0.1], [0.1, 1.0, 1.5], [0.1, 1.3, 1.6]])
    strain = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 2.0]])
    return of_a_team(
        Cmdp("Lift", np.ones((1, 9, 1)), pays.reshape(1, 9), strain.reshape(1, 9, 1), np.ones(1), 1, (0.5,)), (3, 3)
    )


def toll_bridge() -> Game:
    """Two carts meet at a bridge for one, again and again; each pays a toll of its own for each time it crosses.

    Both wait: nothing. One crosses: 1, and 1.2 for the second cart, which carries more. Both: they block each other.
    """
    pays = np.array([[0.0, 1.2], [1.0, -0.5]])
    toll = np.zeros((2, 2, 2))
    toll[1, :, 0] = toll[:, 1, 1] = 1.0
    return of_a_team(
        Cmdp(
            "TollBridge",
            np.ones((1, 4, 1)),
            pays.reshape(1, 4),
            toll.reshape(1, 4, 2),
            np.ones(1),
            4,
            (1.0, 2.0),
            ("first", "second"),
        ),
        (2, 2),
    )


def pair(
    name: str, seed: int, actions: tuple[int, int], limit: tuple[float, ...], states: int = 5, horizon: int = 5
) -> Game:
    """A random process on the joint actions of two: one cost of both, or one of each, that what both do decides."""
    return of_a_team(garnet(name, seed, states, math.prod(actions), len(limit), horizon, limit), actions)


# Limits half-way between what the safest and the best policy cost. The seeds are the first, from 20 on, whose optimum
# can be drawn independently, and in which each limit binds.
GAMES: Mapping[str, Game] = MappingProxyType(
    {
        game.cmdp.name: game
        for game in (
            lift(),
            toll_bridge(),
            pair("Pair1", 20, (2, 2), (4.8,)),
            pair("Pair2", 21, (2, 2), (4.7,)),
            pair("Pair3", 20, (3, 2), (2.5,)),
            pair("Pair4", 25, (2, 2), (4.9, 3.1)),
            pair("Pair5", 30, (2, 2), (1.8, 4.0)),
        )
    }
)


def independent(game: Game, policy: Array, tolerance: float = 1e-7) -> bool:
    """Whether a joint policy [H, S, ΠA] draws the agents' actions independently wherever it gets to."""
    reached = occupancy(game.cmdp, policy).sum(-1) > tolerance  # [H, S]
    joint = policy[reached].reshape(-1, *game.actions)
    product = np.ones((len(joint), *(1 for _ in game.actions)))
    for i in range(len(game.actions)):
        others = tuple(1 + j for j in range(len(game.actions)) if j != i)
        product = product * joint.sum(axis=others, keepdims=True)
    return bool(np.abs(joint - product).max(initial=0.0) <= tolerance)


def marginals(game: Game, policy: Array) -> list[Array]:
    """What each agent does under a joint policy [H, S, ΠA]: [H, S, A] of each."""
    joint = policy.reshape(*policy.shape[:2], *game.actions)
    agents = range(len(game.actions))
    return [joint.sum(axis=tuple(2 + j for j in agents if j != i)) for i in agents]


def best_response(game: Game, policies: Sequence[Array], agent: int) -> float:
    """The largest return to which this agent alone could bring the team, all others doing as they do.

    policies: [H, S, A] of each agent. Costs stay within the limits, or what they are now where that is more. No agent
    can gain by itself exactly where this is the team's return for all of them (a generalised Nash equilibrium): with a
    cost that several share, that need not be the joint optimum, since each could only spend what another would have to
    save.
    """
    cmdp, (h, s) = game.cmdp, policies[0].shape[:2]
    others = np.ones((h, s, *(1 for _ in game.actions)))
    for i, policy in enumerate(policies):
        if i != agent:
            others = others * policy.reshape(h, s, *(n if j == i else 1 for j, n in enumerate(game.actions)))

    def met(table: Array) -> Array:
        """A table [S, ΠA, …] as this agent meets it at each time: [H, S, A, …]."""
        shaped = table.reshape(s, *game.actions, -1)
        weighed = others[..., None] * shaped
        own = weighed.sum(axis=tuple(2 + j for j in range(len(game.actions)) if j != agent))
        return own.reshape(h, s, game.actions[agent], *table.shape[2:])

    # Others act by time and state, so that time is a part of the state here: (t, s) is number t·S + s.
    transition = np.zeros((h, s, game.actions[agent], h, s))
    moves = met(cmdp.transition)
    for t in range(h):
        transition[t, :, :, min(t + 1, h - 1)] = moves[t]
    start = np.zeros((h, s))
    start[0] = cmdp.start
    joint = np.ones((h, s, 1))
    for policy in policies:
        joint = (joint[..., None] * policy[:, :, None, :]).reshape(h, s, -1)
    limit = tuple(np.maximum(cmdp.limit, evaluate(cmdp, joint).cost))
    alone = Cmdp(
        cmdp.name,
        transition.reshape(h * s, -1, h * s),
        met(cmdp.reward).reshape(h * s, -1),
        met(cmdp.cost).reshape(h * s, -1, len(cmdp.costs)),
        start.ravel(),
        h,
        limit,
        cmdp.costs,
    )
    return Expected(limit).solve(alone).value


# --- the world ---


class GameWorld:
    """N episodes of one game, as a MultiAgentVectorEnv with state: everybody observes the number t·S + s."""

    def __init__(self, id: str, game: Game, num_envs: int) -> None:
        self._world = TabularWorld(id, game.cmdp, num_envs)
        self.id, self.num_envs, self.game = id, num_envs, game
        self.agents, self.costs = game.agents, game.own_costs
        self.max_episode_steps = game.cmdp.horizon
        numbers = self._world.numbers
        self.observation_spaces: dict[str, gym.Space[Any]] = {
            agent: gym.spaces.Discrete(numbers) for agent in game.agents
        }
        self.action_spaces: dict[str, gym.Space[Any]] = {
            agent: gym.spaces.Discrete(n) for agent, n in zip(game.agents, game.actions, strict=True)
        }
        self.state_space: gym.Space[Any] = gym.spaces.Discrete(numbers)
        self.episode_seed = self._world.episode_seed
        self._seen = np.zeros(num_envs, dtype=np.int64)

    @property
    def seed_source(self) -> SeedSource:
        """Where the seeds of coming episodes are drawn from."""
        return self._world.seed_source

    @seed_source.setter
    def seed_source(self, source: SeedSource) -> None:
        self._world.seed_source = source

    def _views(self, seen: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {agent: seen.copy() for agent in self.agents}

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> dict[str, NDArray[Any]]:
        """New episodes everywhere."""
        self._seen = self._world.reset(seeds)
        return self._views(self._seen)

    def state(self) -> NDArray[Any]:
        """What everybody observes, [N]."""
        return self._seen.copy()

    def step(self, actions: Mapping[str, NDArray[Any]]) -> MultiAgentStep:
        """One step of every episode.  Raises ConfigError for an agent without actions, or one it does not have."""
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise ConfigError(
                f"{self.id} was given no actions for {missing[0]}. Give them for {', '.join(self.agents)}."
            )
        joint = np.zeros(self.num_envs, dtype=np.int64)
        for agent, n in zip(self.agents, self.game.actions, strict=True):
            own = np.asarray(actions[agent])
            if own.min() < 0 or own.max() >= n:
                raise ConfigError(
                    f"{self.id} was given action {own.max()} for {agent}. Give whole numbers from 0 to {n - 1}."
                )
            joint = joint * n + own
        return self._told(self._world.step(joint))

    def _told(self, step: Step) -> MultiAgentStep:
        self._seen = np.asarray(step.obs)
        last, agents = np.asarray(step.final_obs), len(self.agents)
        return MultiAgentStep(
            self._views(self._seen),
            self.state(),
            np.repeat(step.reward[:, None], agents, axis=1),
            step.cost.reshape(self.num_envs, agents, -1).copy(),
            step.terminated,
            step.truncated,
            self._views(last),
            last.copy(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Steps, states and seeds."""
        return self._world.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Go on from there."""
        self._seen = self._world.load_state_dict(state)
        return self._views(self._seen)

    def close(self) -> None:
        """Nothing to free."""


def make_game(
    id: str,
    num_envs: int = 1,
    threads: int = 1,  # noqa: ARG001  (a step is too short to be shared)
    cmdp: Mapping[str, Any] | None = None,
    actions: Sequence[int] = (),
) -> GameWorld:
    """`num_envs` copies of the game with this process, as `Cmdp.to_json` gives it, and numbers of actions by agent.

    Raises ConfigError where they are missing or do not fit.
    """
    if cmdp is None or not actions:
        raise ConfigError(
            f"{id} needs the options `cmdp`, the tables of the process on joint actions, and `actions`, how many each "
            "agent has."
        )
    return GameWorld(id, Game(Cmdp.from_json(cmdp), tuple(actions)), num_envs)


# --- the checker ---


class _AsOneAgents:
    """A recipe of teams as the checker trains one: what it is told of a process, the team is told of the game."""

    def __init__(self, recipe: Recipe, games: Mapping[str, Game]) -> None:
        self.recipe, self.games = recipe, games
        self.name = str(getattr(recipe, "name", type(recipe).__name__))
        self.Config: type[Config] = recipe.Config
        self.presets = recipe.presets

    def train(self, config: Any, run: Run, inputs: Mapping[str, Subject]) -> Subject:
        game = self.games[config.env_options["cmdp"]["name"]]
        options = {**config.env_options, "actions": list(game.actions)}
        return self.recipe.train(config.model_copy(update={"env": WORLD, "env_options": options}), run, inputs)


def measure_team_gap(
    recipe: Recipe,
    problem: str | Callable[[Cmdp], Problem] = "expected",
    games: Sequence[str | Game] | None = None,
    settings: Settings | None = None,
    seeds: Sequence[int] = (0,),
) -> Gap:
    """`measure_gap` for a recipe of teams: against the optimum over all joint policies of each game.

    recipe: any value with `Config` and `train` whose subjects tell `action_probabilities` of joint choices. games:
    names of `GAMES` or games of one's own; all of `GAMES` unless given. settings are laid over `team_settings` where
    the recipe's Config is a TeamSettings. Raises as `measure_gap` does, and ConfigError for an unknown game.
    """
    named = GAMES if games is None else {g.cmdp.name: g for g in map(_game, games)}

    def laid(cmdp: Cmdp, what: Problem) -> Mapping[str, Any]:
        own = settings(cmdp, what) if callable(settings) else settings or {}
        base = team_settings(recipe.Config, cmdp) if issubclass(recipe.Config, TeamSettings) else {}
        return laid_over(base, own)

    instances = [game.cmdp for game in named.values()]
    return measure_gap(_AsOneAgents(recipe, named), problem, instances, laid, seeds)


def _game(given: str | Game) -> Game:
    if isinstance(given, Game):
        return given
    if given not in GAMES:
        raise ConfigError(f"no game is called {given!r}. Choose from {', '.join(GAMES)}.")
    return GAMES[given]


ENVS, EPISODES, EPOCHS = 64, 256, 300  # of a training: environments, episodes an epoch, epochs


def team_settings(config: type[TeamSettings], cmdp: Cmdp) -> dict[str, Any]:
    """Settings with which a row learns tabular policies in seconds; as `rl.exact.gap.on_policy_settings` does."""
    steps = EPISODES * cmdp.horizon
    every: dict[str, Any] = {
        "num_envs": ENVS,
        "steps_per_epoch": steps,
        "total_steps": EPOCHS * steps,
        "gamma": 1.0,
        "cost_gamma": 1.0,
        "actor": {"hidden": [], "last_gain": 0.01},
        "critic": {"hidden": []},
        "window": EPISODES,
        "checkpoint_epochs": EPOCHS,
        "update": {"passes": 4, "minibatch": steps, "critic_lr": 0.05},
    }
    update = config.model_fields["update"].default
    if update.takes == "mixed":
        every["standardise"] = "mix"
        every["update"] |= {"lr": 0.02, "target_kl": None}
    return {key: value for key, value in every.items() if key in config.model_fields}
