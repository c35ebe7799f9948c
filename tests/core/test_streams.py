import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trueline.core.errors import CheckpointError, ConfigError
from trueline.core.streams import ROUNDS, Streams, case_seeds, split_of

splits = st.sampled_from(["train", "respond", "verdict"])


def test_a_stream_depends_on_seed_and_name_only():
    one, other = Streams(7), Streams(7)
    other.rng("something else").random(5)
    assert one.rng("collect").random() == other.rng("collect").random()
    draws = {Streams(seed).rng(name).random() for seed in (0, 1) for name in ("a", "b", "ab")}
    assert len(draws) == 6


PINNED, PINNED_TORCH = [1131911553, 3495403684, 2764645314], [1918567879, 1353317162]


def test_the_start_of_a_stream_is_pinned():
    # Written down once: a change here changes every seeded run that anyone has published.
    assert Streams(0).rng("collect").integers(0, 2**32, 3).tolist() == PINNED
    assert torch.randint(0, 2**31, (2,), generator=Streams(0).torch_rng("update")).tolist() == PINNED_TORCH


def test_the_same_generator_is_handed_out_again():
    streams = Streams(0)
    assert streams.rng("a") is streams.rng("a")
    assert streams.torch_rng("a") is streams.torch_rng("a")


def test_state_goes_through_json_and_moves_generators_already_handed_out():
    streams = Streams(3)
    numpy_rng, torch_rng = streams.rng("a"), streams.torch_rng("a")
    numpy_rng.random(5)
    torch.rand(5, generator=torch_rng)
    state = streams.state_dict()
    assert json.loads(json.dumps(state["numpy"])) == state["numpy"]
    expected = numpy_rng.random(), torch.rand(1, generator=torch_rng).item()
    fresh_later = streams.rng("later").random()
    streams.load_state_dict(state)
    assert (numpy_rng.random(), torch.rand(1, generator=torch_rng).item()) == expected
    # A stream first asked for after the checkpoint begins at its start again.
    assert streams.rng("later").random() == fresh_later


def test_another_seeds_state_is_refused():
    with pytest.raises(CheckpointError, match="seed 1"):
        Streams(2).load_state_dict(Streams(1).state_dict())


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed is -1"):
        Streams(-1)


@given(splits, st.integers(0, ROUNDS - 1), st.integers(0, 200), st.integers(0, 2**32))
def test_case_seeds_are_distinct_and_know_where_they_belong(split, round, n, seed):
    seeds = case_seeds(split, round, n, np.random.default_rng(seed))
    assert seeds.dtype == np.uint32
    assert len(set(seeds.tolist())) == n
    assert {split_of(s) for s in seeds} <= {(split, 0 if split == "train" else round)}


@given(st.integers(0, 2**32 - 1))
def test_every_32_bit_seed_belongs_to_exactly_one_split_and_round(seed):
    # Disjointness: the ranges of all splits and rounds, written out, hold each seed once, and it is the one we name.
    ranges = {("train", 0): range(2**31)}
    for round in range(64):
        ranges["respond", round] = range(2**31 + round * 2**24, 2**31 + (round + 1) * 2**24)
        ranges["verdict", round] = range(3 * 2**30 + round * 2**24, 3 * 2**30 + (round + 1) * 2**24)
    assert [where for where, seeds in ranges.items() if seed in seeds] == [split_of(seed)]


class Ends:
    """Stands in for a generator: draws the first and the last of what it may choose from."""

    def choice(self, a, size, replace):
        return np.array([0, a - 1])


def test_the_ends_of_a_range_belong_to_it():
    assert [split_of(s) for s in case_seeds("respond", 5, 2, Ends())] == [("respond", 5)] * 2
    assert case_seeds("verdict", 63, 2, Ends()).tolist()[1] == 2**32 - 1
    assert case_seeds("train", 9, 2, Ends()).tolist() == [0, 2**31 - 1]


@pytest.mark.parametrize(
    ("split", "round", "n"), [("test", 0, 1), ("verdict", 64, 1), ("respond", -1, 1), ("verdict", 0, 2**24 + 1)]
)
def test_what_lies_outside_the_split_is_refused(split, round, n):
    with pytest.raises(ConfigError):
        case_seeds(split, round, n, np.random.default_rng(0))


def test_seeds_beyond_32_bits_are_refused():
    with pytest.raises(ConfigError, match="32 bits"):
        split_of(2**32)
