"""Loops that run in every step, against the same formulas on whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from trueline.safety.worlds.scene import Scene, ground_distances
from trueline.safety.worlds.tasks import RunCircle, circling

N, K = 7, 5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def scene(rng: np.random.Generator) -> Scene:
    """Parts of larger arrays, as the engine's are."""
    wide = rng.normal(size=(N, 9))
    return Scene(
        agent=wide[:, 2:5],
        rotation=np.broadcast_to(np.eye(3), (N, 3, 3)),
        velocity=rng.normal(size=(N, 2)),
        places={"hazards": rng.normal(size=(N, K + 2, 3))[:, 1 : K + 1]},
        speeds={},
        touches={},
        chosen=np.zeros(N, np.intp),
        wait=np.zeros(N, np.int64),
    )


def test_distances_along_the_ground_are_those_of_whole_arrays_to_the_bit(rng):
    there = scene(rng)
    offset = there.places["hazards"][:, :, :2] - there.agent[:, None, :2]
    expected = np.sqrt(np.square(offset).sum(axis=2))
    np.testing.assert_array_equal(there.ground_distance("hazards"), expected)
    plain = np.empty((N, K))
    ground_distances(there.places["hazards"], there.agent, plain)  # not compiled
    np.testing.assert_array_equal(plain, expected)


@pytest.mark.parametrize("task", [RunCircle(), RunCircle(radius_m=0.7, scale=-2.0)])
def test_running_along_the_rim_pays_what_the_formula_says(rng, task):
    # 0.1·(−u·y + v·x)/ρ/(1 + |ρ − r|)
    there = scene(rng)
    x, y, u, v = *there.agent[:, :2].T, *there.velocity.T
    rho = np.sqrt(x * x + y * y)
    expected = ((-u * y + v * x) / rho) / (1.0 + np.abs(rho - task.radius_m)) * task.scale
    none = np.zeros((N, 0))
    np.testing.assert_array_equal(task.reward(there, none, none, np.zeros(N, bool)), expected)
    plain = np.empty(N)
    circling(np.array([task.radius_m, task.scale]), there.agent, there.velocity, plain)  # not compiled
    np.testing.assert_array_equal(plain, expected)


def test_at_the_very_centre_nothing_is_paid(rng):
    there = scene(rng)
    there.agent[2, :2] = 0.0
    none = np.zeros((N, 0))
    reward = RunCircle().reward(there, none, none, np.zeros(N, bool))
    assert np.flatnonzero(reward == 0.0).tolist() == [2]
