"""Barrier certificates: each equation against a closed form, brute force, or what a lost sign would turn it into."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core.config import build
from trueline.rl.certificates import search
from trueline.rl.certificates.certificate import (
    MOST_SLOPE,
    NEAR,
    SHARES,
    Box,
    Core,
    Examined,
    examined,
    outside_loss,
    violation_loss,
)
from trueline.rl.certificates.policy import Guard, Shapes
from trueline.rl.certificates.search import climbed, drawn
from trueline.rl.certificates.truth import against_truth, cells_of
from trueline.rl.certificates.update import CertifiedSac, certain_value
from trueline.rl.exact.double_integrator import DoubleIntegrator
from trueline.rl.off_policy.replay import Transitions

WORLD = DoubleIntegrator("double-integrator", 1)
REGION = Box(torch.zeros(2), WORLD.region)
SMALL = build(
    Shapes,
    {
        "actor": {"hidden": [16]},
        "critic": {"hidden": [16]},
        "safe": {"hidden": [16]},
        "barrier": {"hidden": [16]},
        "model": {"members": 3, "hidden": [8]},
    },
)


class Told(Core):
    """A core whose models are told how the world moves, each off by a shift of its own [E, 2]."""

    shifts = torch.zeros(1, 2)

    def foreseen(self, obs, action):
        dt, top = WORLD.interval, WORLD.acceleration
        gained = top * dt * action[:, 0].clamp(-1.0, 1.0)
        after = torch.stack([obs[:, 0] + dt * (obs[:, 1] + 0.5 * gained), obs[:, 1] + gained], dim=1)
        return after + self.shifts[:, None]


class Parabola(torch.nn.Module):
    """The viable set of weaker brakes: h = extent − max(|p|, ahead + v²/2a') in metres; its set is known."""

    def __init__(self, brakes=0.7, extent=0.95):
        super().__init__()
        self.brakes, self.extent, self.region, self.danger = brakes, extent, WORLD.region, WORLD.danger

    def box(self):
        return REGION

    def forward(self, obs):
        p, v = obs[..., 0], obs[..., 1]
        ahead = torch.where(v >= 0.0, p, -p)
        return torch.minimum(self.extent - p.abs(), self.extent - ahead - v.square() / (2.0 * self.brakes))


def core_of(seed=0, cls=Core, certificate=None, shifts=None, widened=1.0):
    made = SMALL.core(WORLD, torch.Generator().manual_seed(seed))
    made.certificate.see(0.5 * torch.stack([-WORLD.region, WORLD.region]))  # the box is twice as wide
    core = cls(certificate or made.certificate, made.policy, made.dynamics, widened)
    if shifts is not None:
        core.shifts = torch.tensor(shifts)
    return core


def braking(core, gain=4.0):
    """The same core with a policy that brakes: tanh(−gain·(p + 1.5v))."""
    core.intended = lambda obs: torch.tanh(-gain * (obs[:, :1] + 1.5 * obs[:, 1:]))
    return core


# --- h ---


@settings(max_examples=40)
@given(st.integers(0, 1000), st.floats(0.1, 100.0))
def test_the_start_is_safe_and_nothing_dangerous_is_whatever_the_network(seed, scale):
    certificate = core_of(seed).certificate
    with torch.no_grad():
        for p in certificate.parameters():
            p.mul_(scale)
    states = 1.5 * drawn(500, REGION, torch.Generator().manual_seed(seed))
    h, danger = certificate(states), WORLD.danger(states)
    assert bool((h[danger >= 1.0] < 0.0).all())
    assert float(certificate(WORLD.start).detach()) == pytest.approx(1.0 - np.log(2.0), abs=1e-6)  # f(s₀) − f(s₀) = 0
    assert bool((h <= 1.0 - danger + 1e-5).all())


def test_h_falls_with_f_and_with_danger(torch_rng):
    certificate = core_of().certificate
    states = 0.9 * drawn(50, REGION, torch_rng)
    f = certificate.net(states / WORLD.region)[:, 0]
    f_start = certificate.net(WORLD.start / WORLD.region)[0]
    beyond = (states / WORLD.region).pow(8).sum(1)  # of the box, which is the region here
    wanted = 1.0 - torch.log1p(torch.exp(f - f_start)) - WORLD.danger(states) - beyond
    torch.testing.assert_close(certificate(states), wanted)


def test_what_is_unlike_anything_seen_is_not_called_safe():
    certificate = core_of().certificate
    fresh = SMALL.core(WORLD, torch.Generator().manual_seed(0)).certificate
    fresh.see(torch.tensor([[0.1, -0.2], [0.3, 0.2], [-0.1, 0.0]]))
    box = fresh.box()
    torch.testing.assert_close(box.middle, torch.tensor([0.1, 0.0]))
    torch.testing.assert_close(box.half, SMALL.beyond * torch.tensor([0.2, 0.2]))
    at = box.middle + box.half * torch.tensor([[1.01, 0.0], [0.0, -1.01], [0.5, 0.5]])
    strange = fresh.strangeness(at)
    assert bool((strange[:2] > 1.0).all())
    assert float(strange[2]) == pytest.approx(2.0 * 0.5**8, rel=1e-4)
    assert bool((fresh(at[:2]) < 0.0).all())
    assert bool((fresh(at) <= certificate(at) - strange + certificate.strangeness(at) + 1e-5).all())  # the same f


# --- U ---


def test_members_foresee_what_planners_would_be_told(torch_rng):
    core = core_of()
    core.dynamics.inputs.update(2.0 * torch.randn(50, 3, generator=torch_rng) + 1.0)
    core.dynamics.targets.update(0.1 * torch.randn(50, 2, generator=torch_rng) - 0.3)
    obs, action = torch.randn(7, 2, generator=torch_rng), torch.randn(7, 1, generator=torch_rng)
    wanted = core.dynamics.elites().predict(obs.expand(3, -1, -1), action.expand(3, -1, -1)).after
    torch.testing.assert_close(core.foreseen(obs, action), wanted)


def test_risk_is_of_the_worst_member(torch_rng):
    shifts = [[0.0, 0.0], [0.05, 0.1], [-0.02, -0.2]]
    core = core_of(cls=Told, certificate=Parabola(), shifts=shifts)
    states, action = drawn(200, REGION, torch_rng), 2.0 * torch.rand(200, 1, generator=torch_rng) - 1.0
    truly = torch.from_numpy(WORLD.after(states.double().numpy(), action[:, 0].numpy()))
    of_each = torch.stack([-Parabola()(truly + torch.tensor(shift)) for shift in shifts])
    torch.testing.assert_close(core.risk(states, action), of_each.max(dim=0).values.float(), atol=1e-5, rtol=1e-5)
    assert len(of_each.argmax(dim=0).unique()) > 1  # each of them is the worst somewhere


def test_widened_members_differ_the_more_from_their_mean(torch_rng):
    shifts = torch.tensor([[0.0, 0.0], [0.03, 0.1], [-0.06, -0.2]])
    middle = shifts.mean(0)
    core = core_of(cls=Told, certificate=Parabola(), shifts=shifts.tolist(), widened=3.0)
    wider = core_of(cls=Told, certificate=Parabola(), shifts=(middle + 3.0 * (shifts - middle)).tolist())
    states, action = drawn(200, REGION, torch_rng), 2.0 * torch.rand(200, 1, generator=torch_rng) - 1.0
    torch.testing.assert_close(core.risk(states, action), wider.risk(states, action), atol=1e-5, rtol=1e-5)


# --- the worst state, and how it changes with the barrier ---


def disc(phi, states=None, gain=0.8, push=0.5):
    """h = φ − |s|², s' = gain·s + (push, 0): U = |s'|² − φ is largest on the disc at s* = (√φ, 0)."""
    core = SimpleNamespace(
        certificate=lambda s: phi - s.square().sum(-1),
        risk=lambda s, _: (gain * s + torch.tensor([push, 0.0])).square().sum(-1) - phi,
        intended=lambda s: s,
    )
    return core if states is None else examined(core, states, 0.0)


def test_the_loss_has_the_gradient_of_the_constrained_maximum():
    # C*(φ) = (0.8√φ + 0.5)² − φ, so that C*'(φ) = 2(0.8√φ + 0.5)·0.4/√φ − 1: at φ = 1 that is 1.04 − 1.
    phi = torch.tensor(1.0, requires_grad=True)
    found = disc(phi, torch.tensor([[1.0 - 1e-6, 0.0]]))
    assert found.broken
    (slope,) = torch.autograd.grad(violation_loss(found), phi)
    assert float(slope) == pytest.approx(0.04, abs=1e-4)
    angles = torch.linspace(0.0, 2.0 * np.pi, 10_001)

    def worst(size):
        rim = float(np.sqrt(size)) * torch.stack([angles.cos(), angles.sin()], dim=1)
        return float(disc(torch.tensor(size)).risk(rim, None).max())

    assert float(slope) == pytest.approx((worst(1.01) - worst(0.99)) / 0.02, abs=1e-3)


def test_violated_is_what_is_called_safe_and_leads_out_by_the_margin():
    states = torch.tensor([[0.0, 0.0], [0.9, 0.0], [-0.9, 0.0], [1.1, 0.0]])  # lead to 0.5, 1.22, −0.22, 1.38
    assert disc(torch.tensor(1.0), states).violated.tolist() == [False, True, False, False]
    core = disc(torch.tensor(1.0))
    assert examined(core, states, 0.8).violated.tolist() == [True, True, False, False]  # U = −0.75 at the first


def test_slopes_are_those_of_finite_differences(torch_rng):
    core = core_of()
    states = 0.8 * drawn(20, REGION, torch_rng)
    found = examined(core, states, 0.0)
    eps = 1e-3
    for axis in range(2):
        step = eps * torch.eye(2)[axis]
        up, down = examined(core, states + step, 0.0), examined(core, states - step, 0.0)
        torch.testing.assert_close(found.h_slope[:, axis], (up.h - down.h) / (2 * eps), atol=5e-3, rtol=5e-2)
        torch.testing.assert_close(found.risk_slope[:, axis], (up.risk - down.risk) / (2 * eps), atol=5e-3, rtol=5e-2)


def test_the_multiplier_is_a_quotient_of_slopes_and_bounded():
    h, risk = torch.tensor([0.1, 0.2, -0.1]), torch.tensor([0.3, 0.4, 0.5])
    slopes = torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    found = Examined(torch.zeros(3, 2), h, risk, slopes[1], slopes[0], torch.tensor([True, True, False]))
    wanted = ((0.3 + 2.5 * 0.1) + (0.4 + MOST_SLOPE * 0.2)) / 2.0
    assert float(violation_loss(found)) == pytest.approx(wanted, rel=1e-6)


def test_a_step_down_the_loss_raises_h_where_a_state_leads_and_lowers_it_there(torch_rng):
    """With λ = 0 only U falls, with λ large h(s*) falls, as each alone has its sign."""
    core = core_of(cls=Told)
    found = examined(core, drawn(300, REGION, torch_rng), 0.0)
    states = found.states[found.violated][:1]

    def after_a_step(slope):
        core = core_of(cls=Told)
        seen = examined(core, states, 0.0)._replace(h_slope=torch.tensor([[1.0, 0.0]]), risk_slope=slope)
        parameters = list(core.certificate.net.parameters())
        violation_loss(seen).backward(inputs=parameters)
        with torch.no_grad():
            for p in parameters:
                p.sub_(1e-3 * p.grad)
        then = examined(core, states, 0.0)
        return float((then.risk - seen.risk).detach()), float((then.h - seen.h).detach())

    assert after_a_step(torch.tensor([[0.0, 0.0]]))[0] < 0.0
    assert after_a_step(torch.tensor([[MOST_SLOPE, 0.0]]))[1] < 0.0


def test_outward_pushes_only_what_is_outside_and_possible(torch_rng):
    certificate = core_of().certificate
    with torch.no_grad():
        certificate.net.weights[-1].mul_(200.0)  # so that some of the region is outside
    states = drawn(2000, REGION, torch_rng)
    h = certificate(states).detach()
    possible = WORLD.danger(states) + certificate.strangeness(states) < 1.0
    outside = (h < 0.0) & possible
    assert 0.02 < float(outside.float().mean()) < 0.9
    wanted = float((-h[outside]).clamp_max(NEAR).sum()) / len(states)
    loss = outside_loss(certificate, states)
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-4)
    loss.backward(inputs=list(certificate.net.parameters()))
    with torch.no_grad():
        for p in certificate.net.parameters():
            p.sub_(1e-3 * p.grad / torch.linalg.vector_norm(p.grad).clamp_min(1.0))
    near = outside & (h > -NEAR)
    assert float(certificate(states)[near].mean()) > float(h[near].mean())


# --- the search ---


def test_points_climb_to_the_worst_state_and_never_leave_the_set(torch_rng, monkeypatch):
    monkeypatch.setattr(search, "RENEWED", 0.0)
    core = braking(core_of(cls=Told, certificate=Parabola(brakes=1.3)))
    every = torch.from_numpy(cells_of(WORLD, 300)).float()
    inside = core.certificate(every) >= 0.0
    worst = float(core.risk(every, core.intended(every))[inside].max())
    points = drawn(200, REGION, torch_rng)
    best = -np.inf
    for _ in range(60):
        found = examined(core, points, 0.0)
        stayed = found.h >= 0.0
        points = climbed(found, core.certificate, 0.02, torch_rng)
        assert bool((core.certificate(points)[stayed] >= 0.0).all())
        best = max(best, float(found.risk[stayed].max()))
    assert best == pytest.approx(worst, abs=0.01)
    assert float(found.risk[stayed].mean()) > float(core.risk(every, core.intended(every))[inside].mean()) + 0.05


def test_a_share_of_the_points_is_drawn_anew(torch_rng):
    core = core_of(cls=Told, certificate=Parabola(brakes=10.0))
    points = torch.zeros(4000, 2)
    moved = climbed(examined(core, points, 0.0), core.certificate, 0.02, torch_rng)
    far = (moved / WORLD.region).norm(dim=1) > 0.2
    assert float(far.float().mean()) == pytest.approx(search.RENEWED, abs=0.02)


# --- the policy's gradient ---


def test_an_uncertain_action_is_worth_its_risk_and_a_certain_one_its_q():
    risk = torch.tensor([-0.1, 0.2], requires_grad=True)
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    value = certain_value(q, risk, 100.0)
    torch.testing.assert_close(value, torch.tensor([[1.0, 2.0], [-20.0, -20.0]]))
    value[:, 0].sum().backward()
    assert risk.grad.tolist() == [0.0, -100.0]
    assert q.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def rows_of(n, rng):
    states = drawn(n, REGION, rng) * torch.tensor([0.8, 0.4])
    action = 2.0 * torch.rand(n, 1, generator=rng) - 1.0
    after = torch.from_numpy(WORLD.after(states.double().numpy(), action[:, 0].numpy())).float()
    return Transitions(states, action, after[:, :1], torch.zeros(n, 1), after)


def test_the_policy_learns_to_do_what_is_certain_where_its_reward_would_lead_out(torch_rng):
    """One step pays p', which is the more the larger u: certain actions are the largest with h(s') ≥ 0."""
    core = core_of(cls=Told, certificate=Parabola())
    update = build(CertifiedSac, {"lr": 1e-2, "critic_lr": 1e-2, "alpha": 1e-3, "weight": 10.0})
    network = SMALL.network(WORLD, torch_rng)
    learner = update.learner(network)
    batch = rows_of(256, torch_rng)
    for _ in range(250):
        update.learn(learner, batch, core, torch_rng)
    states = drawn(2000, REGION, torch_rng) * torch.tensor([0.8, 0.4])
    at = {u: core.risk(states, torch.full((2000, 1), u)) for u in (-1.0, 1.0)}
    policy = learner.policy(states)
    own, free = policy.to_action(policy.mode()), at[1.0] < -0.1
    bound = (at[1.0] > 0.1) & (at[-1.0] < -0.05)
    assert float(own[free].mean()) > 0.5
    assert float((core.risk(states, own)[bound] <= 0.05).float().mean()) > 0.9


def test_a_values_next_action_is_one_that_is_done(torch_rng):
    """Where nothing is certain, the value is that of the certified policy's action, whatever is drawn."""
    core = core_of(cls=Told, certificate=Parabola(extent=-1.0))  # nothing is safe
    update = build(CertifiedSac, {"alpha": 1e-9})
    learner = update.learner(SMALL.network(WORLD, torch_rng))
    after = drawn(20, REGION, torch_rng)
    first, second = (update._value_after(learner, after, core, torch.Generator().manual_seed(s)) for s in (1, 2))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0.0)  # but for α log π
    safe = core_of(cls=Told, certificate=Parabola(brakes=100.0, extent=100.0))
    first, second = (update._value_after(learner, after, safe, torch.Generator().manual_seed(s)) for s in (1, 2))
    assert float((first - second).abs().max()) > 1e-4


def test_the_certified_policy_learns_to_stay_where_it_can(torch_rng):
    """A barrier that needs six tenths of the brakes, held fixed: the policy alone goes down the loss."""
    core = core_of(cls=Told, certificate=Parabola(brakes=0.6))
    points, parameters = drawn(300, REGION, torch_rng), list(core.policy.parameters())
    adam = torch.optim.Adam(parameters, lr=1e-2)
    seen = []
    for _ in range(300):
        found = examined(core, points, 0.0)
        seen.append(int(found.violated.sum()))
        if found.broken:
            adam.zero_grad()
            violation_loss(found).backward(inputs=parameters)
            adam.step()
        points = climbed(found, core.certificate, 0.02, torch_rng)
    assert max(seen[:30]) > 20
    assert max(seen[-30:]) <= 6


# --- the guard ---


def test_the_guard_takes_the_farthest_certain_share_of_the_way(torch_rng):
    core = braking(core_of(cls=Told, certificate=Parabola()))
    guard = Guard(core)
    states = drawn(400, REGION, torch_rng)
    wanted = 2.0 * torch.rand(400, 1, generator=torch_rng) - 1.0
    found = guard(states.numpy(), wanted.numpy())
    own = core.intended(states)
    for i in range(len(states)):
        for share in np.linspace(1.0, 0.0, SHARES + 1):
            action = own[i] + float(share) * (wanted[i] - own[i])
            certain = float(core.risk(states[i : i + 1], action[None])) <= 0.0
            if certain or share == 0.0:
                break
        assert found.action[i] == pytest.approx(action.numpy(), abs=1e-6)
        assert found.intervened[i] == (share < 1.0)
        assert found.feasible[i] == certain
    assert 0.05 < found.intervened.mean() < 0.95


def test_behind_the_guard_no_policy_leaves_a_set_that_is_invariant(torch_rng):
    """h is a barrier for a braking policy: checked on a grid, then every action is wanted in every state of it."""
    core = braking(core_of(cls=Told, certificate=Parabola(brakes=0.7, extent=0.9)), gain=30.0)
    every = torch.from_numpy(cells_of(WORLD, 150)).float()
    inside = every[core.certificate(every) >= 0.0]
    assert float(core.risk(inside, core.intended(inside)).max()) <= 0.0
    guard = Guard(core)
    for u in np.linspace(-1.0, 1.0, 9):
        found = guard(inside.numpy(), np.full((len(inside), 1), u))
        after = WORLD.after(inside.double().numpy(), found.action[:, 0])
        assert float(core.certificate(torch.from_numpy(after)).min()) >= -1e-6
        assert found.feasible.all()


# --- measured against the truth ---


def test_the_truth_of_a_known_set(torch_rng):
    """Weaker brakes: area of the viable set is 8/3·√(4a)·extent^1.5, so that the share is √(0.7)·0.9^1.5 of it."""
    core = braking(core_of(cls=Told, certificate=Parabola(brakes=0.7, extent=0.9)), gain=30.0)
    truth = against_truth(core, WORLD, 300)
    assert truth.false == truth.left == 0.0
    assert truth.farthest <= 0.0
    assert truth.error == pytest.approx(0.0, abs=1e-5)
    assert truth.covered == pytest.approx(np.sqrt(0.7) * 0.9**1.5, abs=0.01)


def test_a_set_that_is_too_large_and_models_that_are_wrong_are_found_out():
    too_large = against_truth(braking(core_of(cls=Told, certificate=Parabola(brakes=2.0, extent=1.1))), WORLD)
    assert too_large.covered == 1.0
    assert too_large.false > 0.2
    assert too_large.left > 0.01
    wrong = against_truth(braking(core_of(cls=Told, certificate=Parabola(), shifts=[[0.1, 0.0]])), WORLD)
    assert wrong.error == pytest.approx(0.1, abs=0.02)
