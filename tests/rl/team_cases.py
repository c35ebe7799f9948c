"""Teams in games of tables, which tests of several files train."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueline.core.config import build
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.networks import ActorNetwork, Network
from trueline.rl.teams.exact import WORLD, Game, GameWorld
from trueline.rl.teams.networks import Roster, Team
from trueline.rl.teams.training import (
    TeamSettings,
)

LINEAR = {"hidden": []}


def a_game(actions=(2, 3), states=2, horizon=3, seed=0, own=True) -> Game:
    """Dense random tables, and costs that differ between agents."""
    rng = np.random.default_rng(seed)
    joint, agents = math.prod(actions), len(actions)
    cost = rng.integers(0, 3, (states, joint, agents)).astype(float)
    if not own:
        cost[:] = cost[..., :1]
    return Game(
        Cmdp(
            f"drawn{seed}",
            rng.dirichlet(np.ones(states), (states, joint)),
            rng.random((states, joint)) + 0.3 * cost.sum(-1),
            cost,
            rng.dirichlet(np.ones(states)),
            horizon,
            (1.5,) * agents,
            tuple(f"agent_{i}/cost" for i in range(agents)),
        ),
        actions,
    )


def on(game: Game, **more: Any) -> dict[str, Any]:
    """Settings that train on a game in a second."""
    return {
        "env": WORLD,
        "env_options": {"cmdp": game.cmdp.to_json(), "actions": list(game.actions)},
        "num_envs": 4,
        "steps_per_epoch": 48,
        "total_steps": 192,
        "actor": {"hidden": [4]},
        "critic": {"hidden": [4]},
        "checkpoint_epochs": 1,
        "update": {"passes": 2, "minibatch": 24},
        **more,
    }


def a_team(game: Game, seed=0, **shape: Any) -> Team:
    config = build(TeamSettings, {**on(game), **shape})
    roster = Roster.of(GameWorld("game", game, 1), config.reward, config.parameters, config.critic_sees)
    return Team(roster, ActorNetwork(hidden=()), Network(hidden=()), torch.Generator().manual_seed(seed))
