"""The interface equals safety-gymnasium 1.0.0's; `benchmarks/parity_compat.py` wrote down what that does.

The functions that the peer ran are run here over ours.
"""

import importlib.util
import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from trueline.compat.safety_gymnasium.ids import parse
from trueline.compat.safety_gymnasium.pictures import CAMERAS
from trueline.compat.safety_gymnasium.registration import safe_registry
from trueline.core import registry

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "safety" / "golden" / "compat.json").read_text())

SENSED = 1e-9  # lidar and sensors at the start of an episode: sums in another order
PHYSICS = 1e-6  # rewards of the first steps, in another MuJoCo


@pytest.fixture(scope="module")
def peer_ran():
    """The script that the peer ran."""
    folder = ROOT / "benchmarks"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("parity_compat", folder / "parity_compat.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


IDS = ("SafetyPointGoal1-v0", "SafetyCarGoal1-v0")


@pytest.mark.parametrize("id", IDS)
def test_spaces_are_the_peers(sg, peer_ran, id):
    ours, theirs = peer_ran.spaces(sg, id, id[6:-8]), GOLDEN["spaces"][id]
    assert list(ours["parts"]) == list(theirs["parts"])  # the order of the flat vector
    assert ours == theirs


@pytest.mark.parametrize("id", IDS)
def test_what_make_returns_is_wrapped_and_speaks_as_the_peers(sg, peer_ran, id):
    assert peer_ran.face(sg, id) == GOLDEN["face"][id]


@pytest.mark.parametrize("id", IDS)
def test_resets_without_a_seed_go_on_with_the_stream_as_the_peers(sg, peer_ran, id):
    ours, theirs = peer_ran.episodes(sg, id), GOLDEN["episodes"][id]
    compared = 0
    for mine, other in zip(ours, theirs, strict=True):
        first, second = np.array(mine.pop("first")), np.array(other["first"])
        np.testing.assert_allclose(first[3:], second[3:], atol=SENSED)
        # Whether a Car's wheel touches the floor at the start hangs on a last bit, which the versions of MuJoCo compute
        # differently; the accelerometer gives it away, and only where it agrees do the first steps.
        rewards = mine.pop("rewards")
        if np.allclose(first[:3], second[:3], atol=SENSED) or id == IDS[0]:
            np.testing.assert_allclose(rewards, other["rewards"], atol=PHYSICS)
            compared += 1
        assert mine == {key: value for key, value in other.items() if key not in ("first", "rewards")}
    assert compared >= 2


@pytest.mark.parametrize("id", sorted(GOLDEN["velocity"]))
def test_velocity_tasks_tell_what_the_peers_tell(sg, peer_ran, id):
    ours, theirs = peer_ran.velocity(sg, id), dict(GOLDEN["velocity"][id])
    for key in ("action", "spec", "cost", "ends"):
        assert ours[key] == theirs[key], key
    physics = 1e-4 if "Humanoid" in id else PHYSICS  # many contacts: the versions of MuJoCo part earlier
    assert ours["reward"] == pytest.approx(
        theirs["reward"], abs=physics
    )  # with the control cost of 1.5, as it was given
    assert ours["info"] == pytest.approx(theirs["info"], abs=physics)
    np.testing.assert_allclose(ours["firsts"], theirs["firsts"], atol=SENSED)  # the second goes on with the stream


def test_an_unseeded_environment_takes_its_seed_from_numpy(sg, peer_ran):
    np.testing.assert_allclose(peer_ran.unseeded(sg, IDS[0]), GOLDEN["unseeded"], atol=SENSED)


def test_autoreset_hands_out_the_next_episode_as_the_peer(sg, peer_ran):
    ours, theirs = peer_ran.autoreset(sg, IDS[0]), GOLDEN["autoreset"]
    np.testing.assert_allclose(ours.pop("next"), theirs["next"], atol=SENSED)
    assert ours == {key: value for key, value in theirs.items() if key != "next"}


def test_three_in_a_batch_give_what_the_peers_give(sg, peer_ran):
    ours, theirs = peer_ran.vector(sg, IDS[0]), GOLDEN["vector"]
    np.testing.assert_allclose(ours["first"], theirs["first"], atol=SENSED)
    np.testing.assert_allclose(ours["again"], theirs["again"], atol=SENSED)
    assert ours["reset_info"] == theirs["reset_info"]
    for mine, other in zip(ours["steps"], theirs["steps"], strict=True):
        np.testing.assert_allclose(mine.pop("reward"), other.pop("reward"), atol=1e-4)  # later steps: physics drifts
        first, second = mine.pop("next"), other.pop("next")
        assert (first is None) == (second is None)
        if first is not None:
            np.testing.assert_allclose(first, second, atol=SENSED)
        assert mine == other


def numbers(value):
    """All numbers in nested lists and dicts, and what is not a number, in order."""
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in [key, *numbers(value[key])]]
    if isinstance(value, list):
        return [x for each in value for x in numbers(each)]
    return [value]


@pytest.mark.parametrize("batched", ["one", "batch"])
def test_wrappers_compute_what_the_peers_compute(sg, peer_ran, batched):
    ours, theirs = peer_ran.wrapped(gymnasium, sg)[batched], GOLDEN["wrapped"][batched]
    assert ours.keys() == theirs.keys()
    for name in theirs:
        mine, other = numbers(ours[name]), numbers(theirs[name])
        assert len(mine) == len(other), name
        for a, b in zip(mine, other, strict=True):
            if isinstance(b, float):
                assert a == pytest.approx(b, abs=1e-12, rel=1e-9), name
            else:
                assert a == b, name


class Keyboard:
    def __init__(self, pressed):
        self.pressed = pressed

    def held(self):
        return frozenset(self.pressed)

    def close(self):
        pass


def test_pictures_are_tiled_as_the_peers(sg, peer_ran):
    assert peer_ran.tiles(sg.vector.tile_images) == GOLDEN["tiles"]


def test_cameras_have_the_peers_numbers():
    assert list(CAMERAS) == GOLDEN["cameras"]


@pytest.mark.parametrize("agent", ["Point", "Car"])
def test_keys_drive_as_the_peers(sg, agent):
    env = sg.make(f"Safety{agent}Goal0Debug-v0").unwrapped
    for pressed, action in GOLDEN["keys"][agent].items():
        if {"J", "L"} <= set(pressed):
            continue  # which of the two the original sees first hangs on the order of a set
        env.world.window = Keyboard(pressed)
        np.testing.assert_allclose(env.keyboard_action(), action, atol=1e-7, err_msg=pressed)


def test_public_names_are_the_peers(sg):
    assert set(GOLDEN["public"]) <= {*sg.__all__, "__version__"}
    assert set(GOLDEN["wrappers"]) == set(sg.wrappers.__all__)
    assert sg.__version__ == GOLDEN["versions"]["safety-gymnasium"]


def test_every_id_of_the_peer_is_read_as_what_it_is():
    for id in GOLDEN["ids"]:
        name = parse(id)
        if "Velocity" in id:
            assert name.agent is None
            continue
        view = "Vision" if "Vision" in id else "Debug" if "Debug" in id else ""
        assert f"Safety{name.agent}{name.task}" in id
        assert (name.view, name.task_id) == (view, id.replace(view, "") if view else id)


def test_every_id_of_the_peer_is_registered_with_six_values_and_with_five(sg):
    worlds = {entry.name for entry in registry.entries("env")}
    for id in GOLDEN["ids"]:
        name = parse(id)
        assert id in safe_registry
        assert name.task_id in worlds
        assert gymnasium.spec(name.gymnasium_id).kwargs["task_id"] == name.task_id
