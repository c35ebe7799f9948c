"""GAE against the sum it abbreviates, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.rl.advantage import gae


def problem(rng: np.random.Generator, steps: int = 9, n: int = 3, signals: int = 1) -> dict[str, np.ndarray]:
    """Episodes that end by termination or truncation at random; every row and signal holds other numbers."""
    terminated = rng.random((steps, n)) < 0.2
    truncated = ~terminated & (rng.random((steps, n)) < 0.2)
    value = rng.normal(size=(steps, n, signals))
    final_value = rng.normal(size=(steps, n, signals))  # V(final_obs), where an episode was cut off
    after = rng.normal(size=(1, n, signals))
    following = np.concatenate([value[1:], after])
    next_value = np.where(truncated[..., None], final_value, np.where(terminated[..., None], 0.0, following))
    return {
        "signal": rng.normal(size=(steps, n, signals)),
        "value": value,
        "next_value": next_value,
        "ended": (terminated | truncated).astype(float),
    }


def brute_force(p: dict[str, np.ndarray], gamma: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """A_t = Σ_l (γλ)^l δ_{t+l}, the sum running to the end of the episode that t belongs to (eq. 16)."""
    advantage = np.zeros_like(p["signal"])
    steps, n, signals = p["signal"].shape
    for i in range(n):
        for k in range(signals):
            for t in range(steps):
                for later in range(t, steps):
                    delta = p["signal"][later, i, k] + gamma[k] * p["next_value"][later, i, k] - p["value"][later, i, k]
                    advantage[t, i, k] += (gamma[k] * lam[k]) ** (later - t) * delta
                    if p["ended"][later, i]:
                        break
    return advantage


def run(p: dict[str, np.ndarray], gamma: float | np.ndarray, lam: float | np.ndarray) -> np.ndarray:
    tensors = {name: torch.as_tensor(x) for name, x in p.items()}
    tensors["ended"] = tensors["ended"][..., None]
    gamma, lam = (x if isinstance(x, float) else torch.as_tensor(x) for x in (gamma, lam))
    return gae(**tensors, gamma=gamma, lam=lam).numpy()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gamma=st.floats(0.1, 1.0), lam=st.floats(0.0, 1.0))
def test_it_is_the_discounted_sum_of_residuals_within_the_episode(seed: int, gamma: float, lam: float) -> None:
    p = problem(np.random.default_rng(seed), signals=2)
    np.testing.assert_allclose(run(p, gamma, lam), brute_force(p, np.full(2, gamma), np.full(2, lam)), atol=1e-12)


def test_each_signal_has_its_own_discount_and_equals_its_own_computation(rng: np.random.Generator) -> None:
    p = problem(rng, signals=3)
    gamma, lam = np.array([0.99, 0.9, 1.0]), np.array([0.95, 1.0, 0.5])
    together = run(p, gamma, lam)
    np.testing.assert_allclose(together, brute_force(p, gamma, lam), atol=1e-12)
    for k in range(3):
        alone = {name: x if name == "ended" else x[..., k : k + 1] for name, x in p.items()}
        np.testing.assert_array_equal(run(alone, float(gamma[k]), float(lam[k]))[..., 0], together[..., k])


def test_lambda_one_is_the_return_minus_the_value(rng: np.random.Generator) -> None:
    p = problem(rng)
    p["ended"][:] = 0.0
    p["ended"][-1], p["next_value"][-1] = 1.0, 0.0  # one episode, terminated by the last step
    p["next_value"][:-1] = p["value"][1:]
    returns = np.zeros_like(p["signal"])
    for t in reversed(range(9)):
        returns[t] = p["signal"][t] + 0.9 * (returns[t + 1] if t < 8 else 0.0)
    np.testing.assert_allclose(run(p, 0.9, 1.0), returns - p["value"], atol=1e-12)


def test_lambda_zero_is_the_one_step_residual(rng: np.random.Generator) -> None:
    p = problem(rng)
    np.testing.assert_allclose(run(p, 0.9, 0.0), p["signal"] + 0.9 * p["next_value"] - p["value"], atol=1e-12)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    # One step each, reward 1, V = 2, V(final_obs) = 10: 1 + 0.5·10 − 2 = 4 when cut off, 1 − 2 = −1 when terminated.
    p = {
        "signal": np.ones((1, 2, 1)),
        "value": np.full((1, 2, 1), 2.0),
        "next_value": np.array([[[10.0], [0.0]]]),
        "ended": np.ones((1, 2)),
    }
    np.testing.assert_allclose(run(p, 0.5, 0.95)[0, :, 0], [4.0, -1.0])


def test_nothing_crosses_the_border_between_episodes(rng: np.random.Generator) -> None:
    p = problem(rng)
    p["ended"][:] = 0.0
    p["ended"][4] = 1.0
    before = run(p, 0.99, 0.95)
    p["signal"][5:] += 100.0
    after = run(p, 0.99, 0.95)
    np.testing.assert_array_equal(before[:5], after[:5])
    assert (before[5:] != after[5:]).all()


@pytest.mark.parametrize("shape", [(7,), (7, 2), (7, 2, 3), (7, 2, 3, 4)])
def test_leading_dimensions_behind_time_are_free(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    p = [torch.as_tensor(rng.normal(size=shape)) for _ in range(3)]
    ended = torch.as_tensor((rng.random(shape) < 0.3).astype(float))
    whole = gae(*p, ended, 0.9, 0.8)
    flat = gae(*(x.reshape(7, -1) for x in p), ended.reshape(7, -1), 0.9, 0.8)
    torch.testing.assert_close(whole.reshape(7, -1), flat, rtol=0, atol=0)
