"""The named instances: hand-made ones that can be read, and random ones that no method was made for.

Each limit lies between the cost of the safest policy and that of the best one, so that it binds.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from trueline.core.errors import UnknownName, unknown
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.exact.hashing import uniform

# --- hand-made ---


def corridor() -> Cmdp:
    """A short way over a hot floor, and a long cool one on which a step may slip; 1 per step spent at the goal.

    States: 0 fork, 1 hot floor, 2 to 4 the cool way, 5 goal. At the fork action 0 takes the hot way and 1 the cool one;
    elsewhere 0 is onward, and 1 is back from the hot floor, waiting on the cool way, leaving the reward at the goal.
    Every step on the hot floor costs 1.
    """
    transition = np.zeros((6, 2, 6))
    transition[0, 0, 1] = transition[0, 1, 2] = 1.0
    transition[1, 0, [5, 1]] = 0.6, 0.4
    transition[1, 1, 0] = 1.0
    for state in (2, 3, 4):
        transition[state, 0, [state + 1, state]] = 0.9, 0.1
        transition[state, 1, state] = 1.0
    transition[5, :, 5] = 1.0
    reward, cost = np.zeros((6, 2)), np.zeros((6, 2, 1))
    reward[5, 0] = 1.0
    cost[1] = 1.0
    return Cmdp("Corridor", transition, reward, cost, np.eye(6)[0], 8, (0.8,))


def gamble() -> Cmdp:
    """Two decisions: how much to stake, and how to pay when it goes wrong.

    States: 0 the table, 1 won, 2 lost a little, 3 lost much. Actions at the table: 0 decline, 1 a small stake, 2 a
    large one; afterwards 0 pay in full, 1 pay half and lose standing, 2 flee. Only paying costs. Means, chances and
    tails of the cost call for different policies.
    """
    transition = np.zeros((4, 3, 4))
    transition[0, 0, 1] = 1.0
    transition[0, 1, [1, 2]] = 0.5, 0.5
    transition[0, 2, [1, 2, 3]] = 0.6, 0.3, 0.1
    transition[1:, :, 1] = 1.0
    reward = np.array([[0.0, 1.0, 2.0], [0.5, 0.5, 0.0], [0.0, -0.4, -1.5], [0.0, -0.8, -3.0]])
    cost = np.zeros((4, 3, 1))
    cost[2, :2, 0] = 2.0, 1.0
    cost[3, :2, 0] = 6.0, 3.0
    return Cmdp("Gamble", transition, reward, cost, np.eye(4)[0], 2, (0.7,))


def tolls() -> Cmdp:
    """Deterministic: two rows of four places, some of which pay and most of which that pay ask a toll.

    Places 0 1 2 3 above 4 5 6 7; the start is 0. Actions: 0 left, 1 right, 2 change rows, 3 stay. What a place pays
    and asks for is due on arrival; staying pays half and asks for nothing.
    """
    pays = np.array([0.0, 0.2, 1.0, 3.0, 0.1, 0.4, 1.5, 0.6])
    asks = np.array([0, 0, 2, 3, 0, 1, 1, 2])
    place = np.arange(8)
    row, column = place // 4, place % 4
    moves = [
        4 * row + np.maximum(column - 1, 0),
        4 * row + np.minimum(column + 1, 3),
        4 * (1 - row) + column,
        place,
    ]
    after = np.stack(moves, axis=1)  # [S, A]
    reward, cost = pays[after], asks[after][..., None].astype(float)
    reward[:, 3], cost[:, 3] = 0.5 * pays, 0.0
    return Cmdp("Tolls", np.eye(8)[after], reward, cost, np.eye(8)[0], 6, (3.0,))


def foundry() -> Cmdp:
    """Deterministic, two costs: a furnace that earns more the hotter it runs, with limits on wear and on noise.

    States: cold, warm, hot, glowing. Actions: 0 rest (two steps cooler), 1 hold, 2 stoke (one hotter), 3 blast (two
    hotter, and loud). Wear is 1 when the step ends hot and 2 when glowing; noise is 2 for a blast and 1 for stoking.
    """
    heat = np.arange(4)
    after = np.clip(np.stack([heat - 2, heat, heat + 1, heat + 2], axis=1), 0, 3)
    reward = np.array([0.0, 0.8, 1.7, 2.4])[after] + np.array([0.1, 0.0, 0.0, 0.3])
    wear = np.array([0, 0, 1, 2])[after]
    noise = np.broadcast_to([0, 0, 1, 2], (4, 4))
    cost = np.stack([wear, noise], axis=-1).astype(float)
    return Cmdp("Foundry", np.eye(4)[after], reward, cost, np.eye(4)[0], 6, (4.0, 2.0), ("wear", "noise"))


# --- random ---


def garnet(
    name: str,
    seed: int,
    states: int,
    actions: int,
    costs: int,
    horizon: int,
    limit: tuple[float, ...],
    branches: int = 3,
) -> Cmdp:
    """A random process (Archibald, McKinnon & Thomas 1995): each pair leads to `branches` states, others at random.

    Costs are 0, 1 or 2 with equal chance, but 0 for action 0 in the even states; a reward is uniform on [0, 1] and
    rises by 0.3 for each unit of cost, so that what pays is what costs. A function of `seed` alone.
    """
    pairs = states * actions
    luck = iter(uniform(np.array([seed], dtype=np.uint32), pairs * (2 * states + 1 + costs))[:, 0])

    def draw(*shape: int) -> np.ndarray:
        return np.array([next(luck) for _ in range(int(np.prod(shape)))]).reshape(shape)

    order = draw(pairs, states).argsort(axis=1)
    weight = np.where(order < branches, -np.log(1.0 - draw(pairs, states)), 0.0)  # uniform on the simplex
    transition = (weight / weight.sum(1, keepdims=True)).reshape(states, actions, states)
    cost = np.floor(3.0 * draw(states, actions, costs))
    cost[::2, 0] = 0.0
    reward = draw(states, actions) + 0.3 * cost.sum(-1)
    named = ("cost",) if costs == 1 else tuple(f"cost_{k + 1}" for k in range(costs))
    return Cmdp(name, transition, reward, cost, np.eye(states)[0], horizon, limit, named)


SUITE: Mapping[str, Cmdp] = MappingProxyType(
    {
        cmdp.name: cmdp
        for cmdp in (
            corridor(),
            gamble(),
            tolls(),
            foundry(),
            garnet("Garnet1", 1, 5, 3, 1, 5, (3.0,)),
            garnet("Garnet2", 2, 6, 4, 1, 6, (4.0,)),
            garnet("Garnet3", 3, 4, 2, 1, 8, (6.0,)),
            garnet("Garnet4", 4, 6, 3, 2, 6, (4.0, 4.0)),
            garnet("Garnet5", 5, 8, 4, 2, 8, (5.0, 4.0)),
            garnet("Garnet6", 6, 8, 4, 3, 7, (5.0, 6.0, 6.0)),
        )
    }
)


def instance(name: str) -> Cmdp:
    """The instance called `name`.  Raises UnknownName with the nearest."""
    if name not in SUITE:
        raise UnknownName(unknown("exact CMDP", name, list(SUITE)))
    return SUITE[name]
