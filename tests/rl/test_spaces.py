"""Observation and action codecs against what Gymnasium's own spaces sample."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from trueline.core.errors import ConfigError
from trueline.rl.spaces import ActionCodec, ObservationCodec


def samples(space: gym.Space, n: int) -> object:
    space.seed(5)
    rows = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([row[key] for row in rows]) for key in space.spaces}
    return np.stack(rows)


SPACES = [
    spaces.Box(-1, 1, (4,), np.float64),
    spaces.Box(-1, 1, (2, 3), np.float32),
    spaces.Discrete(5),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiBinary(4),
    spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Discrete(3), "c": spaces.MultiDiscrete([2, 4])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_flat_vector_is_gymnasiums_own_flattening(space: gym.Space) -> None:
    codec, obs = ObservationCodec.of(space), samples(space, 7)
    flat = codec.encode(obs)["vector"]
    assert flat.dtype == np.float32
    assert flat.shape == (7, codec.width) == (7, *codec.shapes()["vector"][0])
    space.seed(5)
    expected = np.stack([spaces.flatten(space, space.sample()) for _ in range(7)])
    np.testing.assert_array_equal(flat, expected.astype(np.float32))


def test_pictures_stay_pictures_beside_the_vector() -> None:
    space = spaces.Dict({"eye": spaces.Box(0, 255, (40, 36, 3), np.uint8), "speed": spaces.Box(0, 9, (2,))})
    codec, obs = ObservationCodec.of(space), samples(space, 3)
    inputs = codec.encode(obs)
    np.testing.assert_array_equal(inputs["image/eye"], obs["eye"])
    np.testing.assert_array_equal(inputs["vector"], obs["speed"])
    assert codec.width == 2
    assert codec.shapes() == {"vector": ((2,), np.float32), "image/eye": ((40, 36, 3), np.uint8)}
    assert "vector" not in ObservationCodec.of(space["eye"]).shapes()


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Text(4), "is a Text"),
        (spaces.Tuple([spaces.Discrete(2)]), "is a Tuple"),
        (spaces.Discrete(3, start=1), "counts from 1"),
        (spaces.MultiDiscrete([3, 2], start=[0, 1]), r"counts from \[0 1\]"),
        (spaces.Dict({"in": spaces.Dict({"x": spaces.Discrete(2)})}), "dict inside a dict"),
    ],
)
def test_what_no_network_reads_is_refused_by_name(space: gym.Space, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ObservationCodec.of(space)


def test_actions_come_back_in_the_worlds_own_shape() -> None:
    box = ActionCodec.of(spaces.Box(-1, 1, (3,)))
    assert (box.kind, box.width, box.outputs) == ("continuous", 3, 3)
    drawn = np.array([[0.5, -0.5, 0.1]], np.float32)
    assert box.to_world(drawn) is drawn

    one = ActionCodec.of(spaces.Discrete(4))
    assert (one.width, one.outputs) == (1, 4)
    world = one.to_world(np.array([[3.0], [0.0]], np.float32))
    assert world.shape == (2,)
    assert all(spaces.Discrete(4).contains(a) for a in world)

    several = ActionCodec.of(spaces.MultiDiscrete([2, 5]))
    assert (several.width, several.outputs) == (2, 7)
    world = several.to_world(np.array([[1.0, 4.0]], np.float32))
    assert spaces.MultiDiscrete([2, 5]).contains(world[0])


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2, 2)), spaces.MultiBinary(3)])
def test_other_action_spaces_are_refused(space: gym.Space) -> None:
    with pytest.raises(ConfigError):
        ActionCodec.of(space)
