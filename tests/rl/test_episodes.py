"""Which episodes steer a constraint, and the last of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trueline.core.streams import case_seeds, split_of
from trueline.rl.episodes import FAILED_FROM, Recent, Steering, fresh


def test_fresh_layouts_are_those_of_training_and_no_audits(rng):
    parts = [case_seeds(split, 1, 50, rng) for split in ("train", "respond", "verdict")]
    seeds = np.concatenate([*parts, np.array([FAILED_FROM - 1, FAILED_FROM], np.uint32)])
    np.testing.assert_array_equal(fresh(seeds), [split_of(int(seed)).split == "train" for seed in seeds])


@given(st.integers(1, 6), st.lists(st.integers(0, 5), max_size=6))
def test_the_window_is_the_last_episodes_however_they_come_in(window, counts):
    steering, whole, total = Steering(2, window), Steering(2, window), sum(counts)
    cost, length = np.arange(2.0 * total).reshape(total, 2), np.arange(total)
    for last, n in zip(np.cumsum(counts), counts, strict=True):
        steering.add(cost[last - n : last], length[last - n : last])
    whole.add(cost, length)
    for made in (steering, whole):
        np.testing.assert_array_equal(made.cost, cost[max(0, total - window) :])
        np.testing.assert_array_equal(made.length, length[max(0, total - window) :])


def test_a_shift_moves_what_was_counted_and_nothing_that_comes_after():
    steering = Steering(2, 3)
    steering.add(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([10, 20]))
    steering.shift(np.array([0.5, -1.0]))
    steering.add(np.array([[5.0, 6.0]]), np.array([30]))
    np.testing.assert_array_equal(steering.cost, [[1.5, 1.0], [3.5, 3.0], [5.0, 6.0]])
    np.testing.assert_array_equal(steering.length, [10, 20, 30])
    again = Steering(2, 3)
    again.load_state_dict(steering.state_dict())
    again.add(np.array([[7.0, 8.0]]), np.array([40]))
    np.testing.assert_array_equal(again.cost, [[3.5, 3.0], [5.0, 6.0], [7.0, 8.0]])
    np.testing.assert_array_equal(steering.length, [10, 20, 30])  # what was saved goes on by itself


def test_what_is_shown_are_the_means_of_the_last_episodes():
    recent = Recent(2, 2)
    assert recent.shown() == ""
    recent.add(np.array([9.0, 1.0]), np.array([[5.0, 0.0]]))
    recent.add(np.array([2.0]), np.zeros((0, 2)))  # not every episode tells its cost
    assert recent.shown() == "return 1.5 cost 5.0 0.0"
    free = Recent(0, 2)
    free.add(np.array([3.0]), np.zeros((1, 0)))
    assert free.shown() == "return 3.0"
