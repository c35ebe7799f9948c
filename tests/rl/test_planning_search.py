"""Imagined trajectories and the search over them, against closed forms and the published rules written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_planning_line import EDGE, GAIN, STEPS, Line, gap, moved

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.planning.cross_entropy import Arc, Cem, elite_weights, excess, plan, shifted, soft_weights
from trueline.rl.planning.dynamics import Predicted
from trueline.rl.planning.imagine import Imagined, Judged, imagine, judge, proposed
from trueline.rl.planning.policy import Method, Planner, PlanningPolicy
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec


class Gains:
    """Exact dynamics of the line, of which each member believes in a gain of its own."""

    def __init__(self, *gains: float, deviation: float = 0.0, reach: float = 1.0) -> None:
        self.gains, self.members = torch.tensor(gains).view(-1, 1, 1), len(gains)
        self.deviation, self.reach = deviation, reach

    def predict(self, obs, action):
        after = (obs + self.gains * action).clamp(-self.reach, self.reach)
        signal = torch.cat([after, (after > EDGE).to(after.dtype)], dim=-1)
        return Predicted(after, torch.full_like(after, self.deviation), signal)


def judged(returns, cost=None):
    returns = torch.as_tensor(returns)
    cost = torch.zeros(*returns.shape, 0) if cost is None else torch.as_tensor(cost)
    return Judged(returns, cost)


# --- trajectories ---


@pytest.mark.parametrize(("propagation", "variance"), [("ts-inf", 16.0**2), ("ts1", 16.0)])
def test_a_particle_keeps_its_member_or_is_dealt_anew(propagation, variance, torch_rng):
    """Members move by +1 and −1: kept, a particle is at ±16 after 16 steps; dealt, at the sum of 16 signs.

    Dealing is without replacement: of P particles half move up in every step, which leaves the variance at H·1.
    """
    actions = torch.ones(1, 3, 16, 1)
    seen = imagine(Gains(1.0, -1.0, reach=99.0), torch.zeros(1, 1), actions, 2000, propagation, torch_rng)
    last = seen.last[:, 0, 0, 0]
    assert float(last.mean()) == pytest.approx(0.0, abs=1e-5)
    # The sample variance of 2000 values has a relative deviation of √(2/2000) = 3 %.
    assert float(last.var()) == pytest.approx(variance, rel=0.12)


def test_every_environment_and_candidate_is_imagined_from_its_own_start_with_its_own_actions(torch_rng):
    obs = torch.tensor([[0.1], [-0.3]])
    actions = 2.0 * torch.rand(2, 5, 4, 1, generator=torch_rng) - 1.0
    seen = imagine(Gains(0.1, 0.2), obs, actions, 4, "ts-inf", torch_rng)
    for particle, gain in enumerate((0.1, 0.1, 0.2, 0.2)):
        x = obs[:, None, 0].expand(2, 5).clone()
        for h in range(4):
            x = moved(x, actions[:, :, h, 0], gain)
            torch.testing.assert_close(seen.signal[h, particle, :, :, 0], x)
        torch.testing.assert_close(seen.last[particle, :, :, 0], x)


def test_noise_of_the_model_adds_up_along_a_trajectory(torch_rng):
    """Eight steps of deviation 0.3 leave one of 0.3·√8."""
    dynamics = Gains(0.0, deviation=0.3, reach=99.0)
    seen = imagine(dynamics, torch.zeros(1, 1), torch.zeros(1, 1, 8, 1), 20_000, "ts-inf", torch_rng)
    assert float(seen.last.std()) == pytest.approx(0.3 * math.sqrt(8.0), rel=0.03)
    torch.testing.assert_close(seen.spread, torch.full_like(seen.spread, 0.3))


def test_what_a_world_tells_is_of_the_observations_that_were_drawn(torch_rng):
    def told(obs, action, after):
        return torch.cat([after - obs, action], dim=-1)

    actions = torch.rand(1, 6, 3, 1, generator=torch_rng)
    seen = imagine(Gains(0.1, deviation=0.2), torch.zeros(1, 1), actions, 2, "ts-inf", torch_rng, told)
    torch.testing.assert_close(seen.signal[..., 0].sum(0), seen.last[..., 0])  # the differences telescope
    torch.testing.assert_close(seen.signal[:, 0, 0, :, 1], actions[0, :, :, 0].T)


def test_a_learnt_cost_is_never_below_nothing(torch_rng):
    class Odd(Gains):
        def predict(self, obs, action):
            found = super().predict(obs, action)
            return found._replace(signal=torch.full_like(found.signal, -0.5))

    seen = imagine(Odd(0.1), torch.zeros(1, 1), torch.zeros(1, 2, 2, 1), 1, "ts-inf", torch_rng)
    assert float(seen.signal[..., 1].abs().max()) == 0.0
    assert float(seen.signal[..., 0].max()) == -0.5


def some_seen(torch_rng, h=3, p=4, n=2, s=5, k=2):
    signal = torch.rand(h, p, n, s, 1 + k, generator=torch_rng)
    return Imagined(signal, torch.rand(h, 2, n, s, generator=torch_rng), torch.rand(p, n, s, 1, generator=torch_rng))


def test_returns_are_discounted_means_and_costs_sums_of_means_or_of_the_worst(torch_rng):
    seen, left = some_seen(torch_rng), torch.tensor([3, 9])
    for across, over in (("mean", lambda c: c.mean(0)), ("worst", lambda c: c.max(0).values)):
        found = judge(seen, 0.5, across, left)
        for n in range(2):
            for s in range(5):
                wanted = sum(0.5**h * seen.signal[h, :, n, s, 0].mean() for h in range(3))
                assert float(found.returns[n, s]) == pytest.approx(float(wanted))
                cost = sum(over(seen.signal[h, :, n, s, 1:]) for h in range(3))
                torch.testing.assert_close(found.cost[n, s], cost)


def test_what_lies_beyond_the_end_of_the_episode_does_not_count(torch_rng):
    seen = some_seen(torch_rng)
    found = judge(seen, 1.0, "mean", torch.tensor([1, 2]))
    torch.testing.assert_close(found.returns[0], seen.signal[0, :, 0, :, 0].mean(0))
    torch.testing.assert_close(found.cost[1], seen.signal[:2, :, 1, :, 1:].mean(1).sum(0))


def test_a_value_stands_for_what_comes_after_the_plan(torch_rng):
    seen = some_seen(torch_rng)
    found = judge(seen, 0.5, "mean", torch.tensor([1, 9]), value=lambda obs: 8.0 * obs[:, 0])
    # γᴴ = 1/8; a value knows of no end, so that rewards count whatever is left.
    wanted = sum(0.5**h * seen.signal[h, ..., 0].mean(0) for h in range(3)) + seen.last[..., 0].mean(0)
    torch.testing.assert_close(found.returns, wanted)
    torch.testing.assert_close(found.cost[0], seen.signal[0, :, 0, :, 1:].mean(0))


def test_caution_raises_each_candidates_cost_by_what_is_not_known_of_itself(torch_rng):
    """κ Σ_h u_hs with u of its own candidate; the original deals the penalties out to other candidates."""
    seen, left = some_seen(torch_rng), torch.tensor([9, 9])
    kappa = torch.tensor([2.0, 0.5])
    raised = judge(seen, 1.0, "mean", left, kappa).cost - judge(seen, 1.0, "mean", left).cost
    own = seen.spread.mean(1).sum(0)
    torch.testing.assert_close(raised, own[..., None] * kappa)
    # The original's order of the same numbers: repeated side by side, then read as members by rows.
    members, (h, q, _, s) = 2, seen.spread.shape
    read = seen.spread[:, :, 0].reshape(h, -1).repeat_interleave(members).view(h, members, q * s)
    assert not torch.allclose(read[:, 0], seen.spread[:, :, 0].reshape(h, -1))


def test_a_policys_proposals_are_what_it_would_do(torch_rng):
    """a = −x/2 on the line of gain 0.2: x shrinks by 0.9 a step, whichever member is followed."""
    found = proposed(Gains(0.2, 0.2), lambda x: -0.5 * x, torch.tensor([[0.8], [-0.4]]), 3, 4, torch_rng)
    wanted = -0.5 * torch.tensor([[0.8], [-0.4]]) * 0.9 ** torch.arange(4)
    torch.testing.assert_close(found[..., 0], wanted[:, None].expand(2, 3, 4))


# --- weights ---


def published_elites(returns, cost, limit, k):
    """Constrained cross-entropy, as its algorithm reads: too few feasible, and cost alone decides."""
    feasible = [s for s in range(len(returns)) if cost[s] <= limit]
    if len(feasible) < k:
        return set(np.argsort(cost, kind="stable")[:k].tolist())
    return set(sorted(feasible, key=lambda s: -returns[s])[:k])


@given(seed=st.integers(0, 10_000), k=st.integers(1, 8), limit=st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_elites_are_those_of_constrained_cross_entropy(seed, k, limit):
    rng = np.random.default_rng(seed)
    returns, cost = rng.normal(size=(3, 12)), rng.random((3, 12))
    weights = elite_weights(judged(returns, cost[..., None]), torch.full((3, 1), limit, dtype=torch.float64), k)
    torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=torch.float64))
    for n in range(3):
        assert set(weights[n].nonzero()[:, 0].tolist()) == published_elites(returns[n], cost[n], limit, k)


def test_without_limits_elites_are_the_best_by_return():
    weights = elite_weights(judged([[3.0, 1.0, 2.0, 5.0]]), torch.zeros(1, 0), 2)
    assert weights.tolist() == [[0.5, 0.0, 0.0, 0.5]]


def test_of_several_limits_every_one_must_be_kept():
    cost = [[[0.0, 2.0], [1.0, 1.0], [0.5, 1.4]]]
    allowed = torch.tensor([[1.0, 1.0]])
    found = judged([[9.0, 1.0, 5.0]], cost)
    torch.testing.assert_close(excess(found, allowed), torch.tensor([[1.0, 0.0, 0.4]]))
    assert elite_weights(found, allowed, 1).tolist() == [[0.0, 1.0, 0.0]]
    assert elite_weights(found, allowed, 2).tolist() == [[0.0, 0.5, 0.5]]


def test_soft_weights_go_by_return_among_the_feasible_and_by_excess_while_they_are_few():
    found = judged([[1.0, 2.0, 9.0]], [[[0.0], [0.5], [3.0]]])
    allowed = torch.tensor([[1.0]])
    enough = soft_weights(found, allowed, 2, 0.7, 5.0)
    ratio = math.exp(0.7)  # of returns one apart
    torch.testing.assert_close(enough, torch.tensor([[1.0, ratio, 0.0]]) / (1.0 + ratio))
    few = soft_weights(found, allowed, 3, 0.7, 5.0)
    torch.testing.assert_close(few, torch.tensor([[1.0, 1.0, math.exp(-10.0)]]) / (2.0 + math.exp(-10.0)))


# --- search ---


def test_one_step_of_the_search_is_the_weighted_mean_and_variance(torch_rng):
    """With one iteration m' = βm + (1 − β) mean of the elites; the elites are those of the drawn candidates."""
    drawn = []

    def evaluate(candidates):
        drawn.append(candidates)
        return judged(candidates.sum(dim=(2, 3)))

    planner = Cem(samples=16, elites=4, iterations=1, horizon=2, particles=1, variance=0.25, momentum=0.3)
    start = torch.full((1, 2, 1), 0.1)
    found = plan(planner, evaluate, start, torch.zeros(1, 0), 1.0, torch_rng)
    best = drawn[0][0][drawn[0][0].sum(dim=(1, 2)).topk(4).indices]
    torch.testing.assert_close(found.mean[0], 0.3 * start[0] + 0.7 * best.mean(0))
    assert float(drawn[0].abs().max()) <= 1.0


def test_the_search_finds_the_top_of_a_hill_for_each_environment(torch_rng):
    top = torch.tensor([[0.5, -0.2, 0.1], [-0.7, 0.3, 0.0]])
    planner = Cem(samples=128, elites=16, iterations=8, horizon=3, particles=1, variance=1.0)

    def evaluate(candidates):
        return judged(-(candidates[..., 0] - top[:, None]).square().sum(-1))

    found = plan(planner, evaluate, torch.zeros(2, 3, 1), torch.zeros(2, 0), 1.0, torch_rng)
    torch.testing.assert_close(found.mean[..., 0], top, atol=0.02, rtol=0.0)
    assert found.feasible.tolist() == [1.0, 1.0]


def test_proposals_are_candidates_too(torch_rng):
    """What is proposed lies 50 deviations from where the search looks, and is far better."""

    def evaluate(candidates):
        return judged(-(candidates[..., 0] - 0.9).abs().sum(-1))

    planner = Arc(samples=8, elites=2, iterations=2, horizon=2, particles=1, variance=0.0003, momentum=0.0)
    found = plan(
        planner, evaluate, torch.zeros(1, 2, 1), torch.zeros(1, 0), 5.0, torch_rng, torch.full((1, 1, 2, 1), 0.9)
    )
    torch.testing.assert_close(found.mean, torch.full((1, 2, 1), 0.9), atol=0.01, rtol=0.0)


def test_the_next_search_begins_a_decision_later():
    assert shifted(torch.arange(6.0).view(1, 3, 2)).tolist() == [[[2.0, 3.0], [4.0, 5.0], [4.0, 5.0]]]


def amount(obs, action, after):
    """Reward x', cost (x' − 0.05)₊."""
    return torch.cat([after, (after - 0.05).clamp_min(0.0)], dim=-1)


@pytest.mark.parametrize(
    ("across", "kappa", "best"),
    [
        # Gains 0.1 and 0.2, and 0.03 allowed of (x' − 0.05)₊ after one step with action a:
        ("mean", None, 0.5 + 0.1 / 3.0),  # ½((0.1a − 0.05) + (0.2a − 0.05)) = 0.03
        ("worst", None, 0.4),  # 0.2a − 0.05 = 0.03
        ("mean", 10.0, 0.45),  # ½(0.2a − 0.05) + 10·0.001 = 0.03, where 0.1a < 0.05
        ("worst", 10.0, 0.35),  # 0.2a − 0.05 + 0.01 = 0.03
    ],
)
def test_what_members_disagree_on_is_taken_as_each_rule_says(across, kappa, best, torch_rng):
    dynamics = Gains(0.1, 0.2, deviation=0.001 if kappa else 0.0)
    planner = Cem(samples=256, elites=8, iterations=12, horizon=1, particles=2, variance=1.0)
    caution = None if kappa is None else torch.tensor([kappa])

    def evaluate(candidates):
        seen = imagine(dynamics, torch.zeros(1, 1), candidates, 2, "ts-inf", torch_rng, amount)
        return judge(seen, 1.0, across, torch.tensor([9]), caution)

    found = plan(planner, evaluate, torch.zeros(1, 1, 1), torch.tensor([[0.03]]), 1.0, torch_rng)
    assert float(found.mean[0, 0, 0]) == pytest.approx(best, abs=0.015)  # the model's noise is 0.01 of an action


# --- whole episodes, the dynamics known ---

SEARCH = {"kind": "cem", "horizon": 4, "samples": 256, "elites": 16, "iterations": 8, "particles": 1, "variance": 1.0}


def planning(limit, search=SEARCH, **given):
    """A policy that plans with the line as it is."""
    world = Line(1)
    spaces = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
    small = {"members": 1, "elites": 1, "hidden": (4,), "decay": (0.0, 0.0)}
    limits = {} if limit is None else {"beyond": float(limit)}
    method = build(Method, {"planner": search, "model": small, "steps": STEPS, "limits": limits, **given})
    network = Planner(method, *spaces, torch.Generator().manual_seed(0))
    policy = PlanningPolicy(network, spaces[0], WorldRef(id="line"), method)
    policy._elites = Gains(GAIN)
    return policy


def run(policy, episodes=4):
    return run_episodes(Line(episodes), np.arange(episodes), lambda _: policy_actions(policy, np.random.default_rng(0)))


def test_without_a_limit_the_plan_runs_to_the_end():
    assert run(planning(None)).episode_return.min() > 7.5 - 0.01


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_under_a_limit_episodes_reach_the_optimum_of_the_episode(limit):
    """Four decisions ahead in an episode of twelve: what is left of the limit is shared out so that it is all used."""
    found = run(planning(limit))
    assert (found.cost[:, 0] <= limit).all()
    assert max(gap(r, limit) for r in found.episode_return) <= 0.05


def test_a_plan_of_the_whole_episode_reaches_it_too():
    search = {**SEARCH, "horizon": STEPS, "samples": 512, "iterations": 14}
    found = run(planning(3, search), 2)
    assert (found.cost[:, 0] <= 3).all()
    assert max(gap(r, 3) for r in found.episode_return) <= 0.05


def test_the_originals_rate_never_uses_what_has_been_saved():
    """A third of a step is allowed to four decisions: none can be beyond, and the limit of 1 stays unused."""
    found = run(planning(1, budget="rate"))
    assert (found.cost == 0.0).all()
    assert run(planning(1)).cost.max() == 1.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"elites": 300}, "Give fewer elites"), ({"momentum": 1.0}, "momentum"), ({"horizon": 0}, "horizon")],
)
def test_a_search_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        build(Cem, {"samples": 256, **wrong})
