"""What is remembered: targets' parts by brute force, a ring that loses only the oldest, a disk that gives it back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core.errors import CheckpointError
from trueline.rl.off_policy.replay import NStep, Replay, Transitions


def numbered(first, count, costs=1):
    """Rows whose every part is told by their number."""
    n = torch.arange(first, first + count, dtype=torch.float32)[:, None]
    signals = torch.arange(1 + costs, dtype=torch.float32)
    return Transitions(
        n.repeat(1, 3),
        n + 0.25,
        n + 0.5 + 0.01 * signals,
        torch.full((count, 1 + costs), 0.9),
        n + 1.0 + torch.zeros(1, 3),
    )


def played(rng, envs, steps, costs):
    """Random steps of `envs` environments: (obs, action, signal, after, terminated, ended) for every step."""
    obs = rng.normal(size=(steps + 1, envs, 2)).astype(np.float32)
    last = rng.normal(size=(steps, envs, 2)).astype(np.float32)
    terminated = rng.random((steps, envs)) < 0.15
    ended = terminated | (rng.random((steps, envs)) < 0.15)
    after = np.where(ended[..., None], last, obs[1:])
    action = rng.normal(size=(steps, envs, 1)).astype(np.float32)
    return obs[:-1], action, rng.normal(size=(steps, envs, 1 + costs)), after, terminated, ended


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 4), envs=st.integers(1, 3), costs=st.integers(0, 2))
def test_rows_hold_what_an_n_step_target_is_made_of(seed, n, envs, costs):
    rng = np.random.default_rng(seed)
    obs, action, signal, after, terminated, ended = played(rng, envs, 12, costs)
    gamma = np.linspace(0.9, 0.5, 1 + costs)
    steps = NStep.start(n, gamma, envs)
    found = []
    for t in range(12):
        rows = steps.push(obs[t], action[t], signal[t], after[t], terminated[t], ended[t])
        found += list(zip(*(part.numpy() for part in rows), strict=True))
    expected = []
    for i in range(envs):
        for t in range(12):
            total, m = np.zeros(1 + costs), 0
            while True:
                total = total + gamma**m * signal[t + m, i]
                m += 1
                if ended[t + m - 1, i] or m == n or t + m == 12:
                    break
            if not ended[t + m - 1, i] and m < n:
                continue  # still pending when the record stops
            keep = 0.0 if terminated[t + m - 1, i] else 1.0
            expected.append((obs[t, i], action[t, i], total, keep * gamma**m, after[t + m - 1, i]))

    def key(row):
        return tuple(row[0]) + tuple(row[1])

    assert len(found) == len(expected)
    for mine, right in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        for part, wanted in zip(mine, right, strict=True):
            np.testing.assert_allclose(part, wanted, rtol=1e-5, atol=1e-6)


def test_pending_steps_travel_in_a_checkpoint(rng):
    record = played(rng, 2, 10, 1)
    whole, halves = (NStep.start(3, np.array([0.9, 0.8]), 2) for _ in range(2))
    for t in range(10):
        if t == 5:
            again = NStep.start(3, np.array([0.9, 0.8]), 2)
            again.restore(halves.state_dict())
            halves = again
        pairs = zip(whole.push(*(x[t] for x in record)), halves.push(*(x[t] for x in record)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_full_replay_loses_its_oldest_rows(tmp_path, torch_rng):
    replay = Replay(10, 3, 1, 1, tmp_path)
    for first in (0, 7, 14, 21):
        replay.add(numbered(first, 7))
    rows = replay.sample(2000, torch_rng)
    assert len(replay) == 10
    assert sorted(set(rows.obs[:, 0].tolist())) == list(range(18, 28))
    right = numbered(0, 28)  # parts of a row stay together
    number = rows.obs[:, 0].long()
    for mine, theirs in zip(rows, right, strict=True):
        assert torch.equal(mine, theirs[number])


def test_rows_are_drawn_uniformly(tmp_path, torch_rng):
    replay = Replay(8, 3, 1, 1, tmp_path)
    replay.add(numbered(0, 5))
    counts = np.bincount(replay.sample(50_000, torch_rng).obs[:, 0].long().numpy(), minlength=8)
    assert counts[5:].sum() == 0
    assert abs(counts[:5] - 10_000).max() < 4 * np.sqrt(50_000 * 0.2 * 0.8)  # four standard errors


@pytest.mark.parametrize("before", [3, 12, 25])
def test_what_is_restored_is_what_was_recorded(tmp_path, before):
    # Capacity 10: recorded before, at and long after the first row was overwritten; then more, which a resume drops.
    replay = Replay(10, 3, 1, 1, tmp_path)
    for first in range(before):
        replay.add(numbered(first, 1))
    cursor = replay.record()
    drawn = replay.sample(50, torch.Generator().manual_seed(1))
    replay.add(numbered(100, 8))
    replay.record()
    again = Replay(10, 3, 1, 1, tmp_path)
    again.restore(cursor)
    assert again.total == before
    for mine, right in zip(again.sample(50, torch.Generator().manual_seed(1)), drawn, strict=True):
        assert torch.equal(mine, right)
    again.add(numbered(before, 1))
    assert again.sample(500, torch.Generator().manual_seed(2)).obs.max() == before
    again.restore(None)
    assert len(again) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_altered_segment_is_refused(tmp_path):
    replay = Replay(10, 3, 1, 1, tmp_path)
    replay.add(numbered(0, 4))
    cursor = replay.record()
    path = next(tmp_path.iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="altered"):
        Replay(10, 3, 1, 1, tmp_path).restore(cursor)
