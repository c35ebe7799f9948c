"""Observation, reward and costs of Button, Push, Circle and Run at given states: the peer's (golden/states.json)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trueline.safety.worlds import make_world

GOLDEN = json.loads((Path(__file__).parent / "golden" / "states.json").read_text())["states"]
SAME_BUT_ROUNDING = 1e-9
OF_FORCES = ("accelerometer", "touch")  # senses that the engine's version decides: what a contact pushes with


def take_up(id: str):
    """A world whose environments are in the peer's states, the rows of the golden file, and these rows."""
    rows = GOLDEN[id]
    env = make_world(id, num_envs=len(rows))
    env.reset(np.arange(len(rows), dtype=np.uint32))
    for i, row in enumerate(rows):
        env._qpos[i, : len(row["qpos"])] = row["qpos"]
        env._qvel[i] = 0.0
        env._qvel[i, : len(row["qvel"])] = row["qvel"]
        for name, places in row["places"].items():
            if name in env._poses:
                env._poses[name][i] = places
            else:
                env._scene.places[name][i, :, :2] = places
                if name in env._pulls:
                    env._pulls[name][0][i, :, :2] = places
        env._scene.chosen[i], env._scene.wait[i] = row.get("goal_button", 0), row.get("timer", 0)
    env.load_state_dict(env.state_dict())  # brings everything that follows from a state up to date
    return env, rows


def sensed(world) -> np.ndarray:
    """Which entries of the observation do not hang on forces."""
    keep = [not name.startswith(OF_FORCES) for name, shape in world.parts.items() for _ in range(int(np.prod(shape)))]
    return np.array(keep)


@pytest.mark.parametrize("id", GOLDEN)
def test_observations_are_the_peers(id):
    env, rows = take_up(id)
    np.testing.assert_allclose(env._position, [row["agent"] for row in rows], rtol=0, atol=SAME_BUT_ROUNDING)
    keep = sensed(env.world)
    assert keep[env.world.agent.senses :].all(), "every lidar counts"
    theirs = np.array([row["obs"] for row in rows])
    np.testing.assert_allclose(env._observe()[:, keep], theirs[:, keep], rtol=0, atol=SAME_BUT_ROUNDING)


@pytest.mark.parametrize("id", GOLDEN)
def test_costs_are_the_peers_where_present_and_where_absent(id):
    env, rows = take_up(id)
    ours = env._indicators()
    names = env.world.constraints
    assert set(names) | {"cost_sum"} == {name for row in rows for name in row["costs"]}
    # While buttons are hidden the peer has no entry for them at all; ours says 0, since every cost is always there.
    theirs = np.array([[row["costs"].get(name, 0.0) for name in names] for row in rows])
    np.testing.assert_array_equal(ours, theirs)
    assert ((theirs == 0).any(axis=0) & (theirs == 1).any(axis=0)).all(), "each cost must occur and be absent"
    np.testing.assert_array_equal(ours.max(axis=1), [row["costs"]["cost_sum"] for row in rows])
    absent = [i for i, row in enumerate(rows) if set(names) - set(row["costs"])]
    assert absent == [i for i, row in enumerate(rows) if row.get("timer", 0) > 0]


@pytest.mark.parametrize("id", GOLDEN)
def test_rewards_and_reached_goals_are_the_peers(id):
    env, rows = take_up(id)
    task, scene = env.world.task, env._scene
    now = task.measure(scene)
    np.testing.assert_allclose(now, [row["now"] for row in rows], rtol=0, atol=SAME_BUT_ROUNDING)
    met = task.achieved(scene, now)
    np.testing.assert_array_equal(met, [row["met"] for row in rows])
    assert met.any() == (task.renews is not None), "a goal must be reached somewhere, where there is one"
    reward = task.reward(scene, np.array([row["before"] for row in rows]), now, met)
    # Run's distances are of a kilometre and its reward is 60 times their difference: 60 * 1000 m * 2e-16 * a few.
    rounding = 1e-7 if "Run" in id else SAME_BUT_ROUNDING
    np.testing.assert_allclose(reward, [row["reward"] for row in rows], rtol=0, atol=rounding)
