"""Running statistics against NumPy's over everything seen."""

from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.rl.normalise import RunningNorm


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_any_batches_give_the_mean_and_deviation_of_all_data(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale, shift = 10.0 ** rng.uniform(-1, 2, 3), 100 * rng.normal(size=3)
    batches = [shift + scale * rng.normal(size=(n, 3)) for n in sizes]
    norm = RunningNorm(3)
    for batch in batches:
        norm.update(torch.as_tensor(batch))
    data = np.concatenate(batches)
    assert float(norm.count) == len(data)
    np.testing.assert_allclose(norm.mean.numpy(), data.mean(0), rtol=1e-10)
    np.testing.assert_allclose((norm.square / norm.count).sqrt().numpy(), data.std(0), rtol=1e-8, atol=1e-10)


def test_forward_standardises_and_clips(rng: np.random.Generator) -> None:
    data = rng.normal(size=(500, 2)) * [3.0, 0.2] + [5.0, -1.0]
    norm = RunningNorm(2, clip=1.5)
    norm.update(torch.as_tensor(data, dtype=torch.float32))
    expected = np.clip((data - data.mean(0)) / data.std(0), -1.5, 1.5)
    out = norm(torch.as_tensor(data, dtype=torch.float32))
    np.testing.assert_allclose(out.numpy(), expected, atol=2e-6)
    assert out.abs().max() == 1.5


def test_a_constant_feature_is_divided_by_the_floor() -> None:
    norm = RunningNorm(1, floor=0.5)
    norm.update(torch.full((10, 1), 3.0))
    torch.testing.assert_close(norm(torch.tensor([[4.0]])), torch.tensor([[2.0]]))  # (4 − 3)/0.5


def test_before_the_first_update_only_the_clip_acts() -> None:
    torch.testing.assert_close(RunningNorm(2)(torch.tensor([0.3, -9.0])), torch.tensor([0.3, -5.0]))


def test_applying_never_updates_in_either_mode() -> None:
    norm = RunningNorm(2)
    norm.update(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)))
    before = copy.deepcopy(norm.state_dict())
    for mode in (True, False):
        norm.train(mode)
        norm(torch.full((50, 2), 100.0))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_counts_beyond_float32_still_grow() -> None:
    norm = RunningNorm(1)
    norm.count.fill_(2.0**24)
    norm.update(torch.zeros(1, 1))
    assert float(norm.count) == 2**24 + 1


def test_leading_dimensions_are_free() -> None:
    norm = RunningNorm(3)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1))
    norm.update(x.flatten(0, 1))
    torch.testing.assert_close(norm(x).flatten(0, 1), norm(x.flatten(0, 1)), rtol=0, atol=0)
