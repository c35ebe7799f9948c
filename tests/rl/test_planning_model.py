"""The ensemble: its likelihood, what it learns of a world whose noise is known, bootstrap samples, elites."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.distributions import Gaussian
from trueline.rl.planning.dynamics import FAR, LOG_VAR, Ensemble, Model, bounded, nll
from trueline.rl.planning.experience import Experience, Seen, bootstrap, resampled

SMALL = {"members": 3, "elites": 2, "hidden": (24,), "decay": (0.0, 0.0), "batch": 64, "lr": 5e-3, "passes": 40}


def model(**given):
    return build(Model, {**SMALL, **given})


def ensemble(settings, obs=2, action=1, signals=2, seed=0):
    kept = np.zeros(obs, np.bool_)
    return Ensemble(settings, obs, action, signals, kept, torch.Generator().manual_seed(seed))


def rows_of(obs, action, signal, after, members=3, jumped=None, seed=0, held_out=0.2):
    counts = torch.from_numpy(bootstrap(0, len(obs), members, held_out, np.random.default_rng(seed)))
    jumped = torch.zeros(len(obs), 1) if jumped is None else jumped
    return Seen(obs, action, signal, torch.ones(len(obs), 1), after, jumped, counts)


# --- likelihood ---


def test_the_loss_is_twice_the_negative_log_likelihood_of_a_normal(torch_rng):
    mean, target = torch.randn(2, 3, 5, 4, generator=torch_rng, dtype=torch.float64)
    log_var = torch.randn(3, 5, 4, generator=torch_rng, dtype=torch.float64)
    log_prob = Gaussian(mean, 0.5 * log_var).log_prob(target)  # summed over 4 outputs
    wanted = (-0.5 * log_prob - math.log(2.0 * math.pi)).mean(dim=1).sum()
    torch.testing.assert_close(nll(mean, log_var, target, torch.ones_like(mean)), wanted)


def test_what_is_not_counted_has_no_part_in_the_loss(torch_rng):
    mean, log_var, target = torch.randn(3, 2, 6, 3, generator=torch_rng)
    counted = (torch.rand(2, 6, 3, generator=torch_rng) > 0.5).float()
    moved = torch.where(counted == 0.0, target + 100.0, target)
    assert nll(mean, log_var, moved, counted) == nll(mean, log_var, target, counted)


def test_bounds_hold_and_leave_alone_what_lies_far_inside():
    least, most = torch.tensor(-10.0), torch.tensor(0.5)
    raw = torch.linspace(-40.0, 40.0, 401)
    found = bounded(raw, least, most)
    # softplus leaves less than log 2 over at its corner, and nothing far from it
    assert float(found.min()) >= -10.0
    assert float(found.max()) <= 0.5 + math.log1p(math.exp(-10.5)) + 1e-6
    assert bool((found.diff() >= 0.0).all())
    assert float(bounded(torch.tensor(-4.5), least, most)) == pytest.approx(-4.5, abs=0.01)


def test_members_in_one_product_are_members_alone(torch_rng):
    made = ensemble(model())
    obs, action = torch.randn(3, 7, 2, generator=torch_rng), torch.randn(3, 7, 1, generator=torch_rng)
    mean, log_var = made(obs, action)
    for e in range(3):
        h = torch.cat([obs[e], action[e]], dim=1)
        for layer, (weight, bias) in enumerate(zip(made.net.weights, made.net.biases, strict=True)):
            h = h @ weight[e] + bias[e]
            h = h * torch.sigmoid(h) if layer == 0 else h
        torch.testing.assert_close(mean[e], h[:, :4])
        torch.testing.assert_close(log_var[e, :, 2:], bounded(h[:, 4:], made.least[e], made.most[e]))
        assert bool((log_var[e, :, :2] == made.noise[e]).all())


def test_each_layers_weights_decay_at_their_own_rate():
    """One step with d and one without differ in the gradient by d·W, the derivative of ½ d ‖W‖²."""
    grads = []
    for decay in ((0.0, 0.0), (0.3, 0.7)):
        made = ensemble(model(decay=decay))
        before = [w.detach().clone() for w in made.net.weights]
        g = torch.Generator().manual_seed(1)
        obs, action, signal, after = (torch.randn(64, n, generator=g) for n in (2, 1, 2, 2))
        rows = rows_of(obs, action, signal, after)
        adam = made.optimiser()
        made._step(rows, made.target(rows), made.counted(rows), torch.arange(64).expand(3, -1), adam)
        grads.append([w.grad.clone() for w in made.net.weights])
    for without, with_it, weight, d in zip(*grads, before, (0.3, 0.7), strict=True):
        torch.testing.assert_close(with_it - without, d * weight, rtol=1e-4, atol=1e-6)


def test_the_bounds_of_the_variance_are_drawn_together():
    """Their gradient is that of the likelihood, and a hundredth up for the upper, down for the lower."""
    made = ensemble(model())
    g = torch.Generator().manual_seed(1)
    obs, action, signal, after = (torch.randn(64, n, generator=g) for n in (2, 1, 2, 2))
    rows, index = rows_of(obs, action, signal, after), torch.arange(64).expand(3, -1)
    target, counted = made.target(rows), made.counted(rows)
    mean, log_var = made(rows.obs[index], rows.action[index])
    alone = torch.autograd.grad(nll(mean, log_var, target[index], counted[index]), [made.most, made.least])
    made._step(rows, target, counted, index, made.optimiser())
    torch.testing.assert_close(made.most.grad - alone[0], torch.full_like(alone[0], 0.01), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(made.least.grad - alone[1], torch.full_like(alone[1], -0.01), rtol=1e-3, atol=1e-5)


# --- what is learnt ---


def noisy(n, seed):
    """s'_1 = s_1 + 0.1·a + 0.02·ε, s'_2 = −s_2 exactly; reward s_1 + a with noise 0.3, cost 1{s_2 > 0}."""
    g = torch.Generator().manual_seed(seed)
    obs, action = 2.0 * torch.rand(n, 2, generator=g) - 1.0, 2.0 * torch.rand(n, 1, generator=g) - 1.0
    first = obs[:, :1] + 0.1 * action + 0.02 * torch.randn(n, 1, generator=g)
    reward = obs[:, :1] + action + 0.3 * torch.randn(n, 1, generator=g)
    return obs, action, torch.cat([reward, (obs[:, 1:] > 0.0).float()], 1), torch.cat([first, -obs[:, 1:]], 1)


def test_a_known_worlds_means_and_noise_are_learnt():
    made = ensemble(model(passes=60))
    rows = rows_of(*noisy(1500, 0))
    made.take_in(rows)
    found = made.fit(rows, made.optimiser(), torch.Generator().manual_seed(2))
    assert 1 <= found.passes <= 60
    obs, action, _, _ = noisy(300, 9)
    seen = made.elites().predict(obs.expand(2, -1, -1), action.expand(2, -1, -1))
    change = seen.after - obs
    assert float((change[..., 0] - 0.1 * action[:, 0]).abs().mean()) < 0.005  # a quarter of the noise
    assert float((seen.after[..., 1] + obs[:, 1]).abs().mean()) < 0.05
    assert float(seen.deviation[..., 0].mean()) == pytest.approx(0.02, rel=0.15)
    # The reward's noise does not keep its mean from being learnt: 0.3/√1500 is 0.008, and a network has more freedom.
    assert float((seen.signal[..., 0] - obs[:, 0] - action[:, 0]).abs().mean()) < 0.08


def test_a_goal_that_is_put_elsewhere_teaches_nothing_of_the_dynamics():
    obs, action, signal, after = noisy(600, 0)
    jumped = (torch.arange(600) % 4 == 0).float()[:, None]
    spoilt = torch.where(jumped > 0, after + 50.0, after)
    found = []
    for given_after in (after, spoilt):
        made = ensemble(model(passes=3))
        rows = rows_of(obs, action, signal, given_after, jumped=jumped)
        made.take_in(rows)
        made.fit(rows, made.optimiser(), torch.Generator().manual_seed(2))
        found.append([p.detach().clone() for p in made.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("hidden", [(), (24,), (24, 16, 8, 12)])
def test_elites_are_the_members_of_least_held_out_error_in_the_worlds_own_units(hidden):
    made = ensemble(model(hidden=hidden, decay=(0.0,) * (len(hidden) + 1)))
    rows = rows_of(*noisy(200, 0))
    made.take_in(rows)
    made.error.copy_(torch.tensor([0.5, 0.1, 0.3]))
    obs, action = rows.obs[:9].expand(2, -1, -1), rows.action[:9].expand(2, -1, -1)
    elites = made.elites()
    for n in (40, 3):  # what earlier predictions have left behind does not matter
        elites.predict(rows.obs[:n].expand(2, -1, -1), rows.action[:n].expand(2, -1, -1))
    found = elites.predict(obs, action)
    every = made(rows.obs[:9].expand(3, -1, -1), rows.action[:9].expand(3, -1, -1))
    scale, shift = made.targets.scale32, made.targets.shift32
    mean = (every[0] / scale + shift)[[1, 2]]
    torch.testing.assert_close(found.signal, mean[..., :2])
    torch.testing.assert_close(found.after, obs + mean[..., 2:])
    torch.testing.assert_close(found.deviation, ((0.5 * every[1]).exp() / scale)[[1, 2], :, 2:])


def test_short_numbers_inside_change_a_prediction_by_less_than_a_hundredth_of_a_deviation():
    wide = {"hidden": (64, 64, 64), "decay": (0.0,) * 4}
    changes = []
    for arithmetic in ("float32", "bfloat16"):
        made = ensemble(model(**wide, arithmetic=arithmetic))
        rows = rows_of(*noisy(400, 0))
        made.take_in(rows)
        predicted = made.elites().predict(rows.obs.expand(2, -1, -1), rows.action.expand(2, -1, -1))
        changes.append((predicted.after - rows.obs) * made.targets.scale32[2:])
    difference = float((changes[0] - changes[1]).abs().mean())
    assert 0.0 < difference < 0.01


def test_inputs_far_from_all_data_count_as_no_farther():
    made = ensemble(model())
    rows = rows_of(*noisy(200, 0))
    made.take_in(rows)
    elites = made.elites()
    scale = 1.0 / made.inputs.scale32
    edge = (made.inputs.shift32 + 1.01 * FAR * scale)[None]
    near, far = (
        elites.predict((k * edge)[:, :2].expand(2, -1, -1), (k * edge)[:, 2:].expand(2, -1, -1)) for k in (1.0, 9.0)
    )
    torch.testing.assert_close(near.signal, far.signal)


# --- bootstrap and storage ---


@given(first=st.integers(0, 1000), rows=st.integers(1, 200), share=st.sampled_from([0.1, 0.2, 0.25, 0.5]))
@settings(max_examples=30, deadline=None)
def test_the_share_held_out_is_exact_and_the_same_for_all_members(first, rows, share):
    counts = bootstrap(first, rows, 4, share, np.random.default_rng(0))
    out = [math.floor((i + 1) * share) > math.floor(i * share) for i in range(first, first + rows)]
    assert (counts[out] == 0.0).all()
    assert abs(sum(out) - share * rows) < 1.0 + 1e-9


def test_counts_are_those_of_a_bootstrap():
    """A row is in a sample of as many draws n times with the law of Poisson(1): mean 1, variance 1, absent e⁻¹."""
    counts = bootstrap(0, 20_000, 3, 0.2, np.random.default_rng(0))
    kept = counts[[math.floor((i + 1) * 0.2) == math.floor(i * 0.2) for i in range(20_000)]]
    assert kept.mean() == pytest.approx(1.0, abs=0.02)
    assert kept.var() == pytest.approx(1.0, abs=0.04)
    assert (kept == 0.0).mean() == pytest.approx(math.exp(-1.0), abs=0.01)
    assert np.corrcoef(kept.T)[0, 1] == pytest.approx(0.0, abs=0.03)


def test_a_pass_holds_each_row_as_often_as_the_members_sample_does():
    counts = torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    order = resampled(counts, torch.Generator().manual_seed(0))
    assert order.shape == (2, 3)
    for e in range(2):
        assert torch.bincount(order[e], minlength=4).tolist() == counts[:, e].tolist()


def test_experience_gives_back_its_last_rows_from_memory_and_from_disk(tmp_path, torch_rng):
    def some(first, n):
        number = torch.arange(first, first + n, dtype=torch.float32)[:, None]
        return Seen(
            number.expand(-1, 2),
            -number,
            number.expand(-1, 2),
            number * 0.5,
            (number + 1.0).expand(-1, 2),
            number % 2,
            number.expand(-1, 3),
        )

    store = Experience(10, 2, 1, 1, 3, tmp_path)
    store.add(some(0, 4))
    cursor = store.record()
    store.add(some(4, 9))
    assert len(store) == 10
    assert store.since(9).obs[:, 0].tolist() == [9.0, 10.0, 11.0, 12.0]
    assert sorted(store.all().after[:, 0].tolist()) == [float(i + 1) for i in range(3, 13)]
    drawn = store.sample(50, torch_rng)
    assert bool((drawn.action[:, 0] == -drawn.obs[:, 0]).all())
    again = Experience(10, 2, 1, 1, 3, tmp_path)
    again.restore(cursor)
    assert again.all().obs[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"elites": 4}, "more than the 3 members"),
        ({"decay": (0.1,)}, "decay has 1 values"),
        ({"held_out": 0.9}, "held_out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        model(**wrong)


def test_bounds_start_where_published():
    made = ensemble(model())
    assert float(made.least.detach().mean()) == LOG_VAR[0]
    assert float(made.most.detach().mean()) == LOG_VAR[1]
