"""Return beyond the baselines: zero for what is a baseline itself, and the difference by hand for what is not."""

from __future__ import annotations

import pytest
from point_world import CHASE, Affine, PointWorld

from trueline.core.config import build
from trueline.evidence.audit import Budget, run_audit
from trueline.evidence.records import Verdict
from trueline.rl.audits.usefulness import Usefulness, UsefulnessConfig


@pytest.fixture(autouse=True)
def point(monkeypatch):
    monkeypatch.setattr(
        "trueline.rl.worlds.make", lambda id, n, threads, **options: PointWorld(id, n, threads, **options)
    )


def usefulness(**settings):
    return Usefulness(build(UsefulnessConfig, {"num_envs": 8, **settings}))


def outcomes(policy, audit, rng, n=11):
    cases = audit.cases(policy, "verdict", 0, n, rng)
    return cases, audit.measure(policy, cases, rng)


def test_an_idle_policy_is_worth_nothing_beyond_being_idle(rng):
    _, found = outcomes(Affine(), usefulness(), rng)  # weights of zero: it stands still
    assert [o.values["return above idle"] for o in found] == [0.0] * 11


def test_each_difference_is_that_of_the_same_layout_run_alone(rng):
    policy = Affine(CHASE)
    cases, found = outcomes(policy, usefulness(), rng)
    for case, outcome in zip(cases, found, strict=True):
        world, still = PointWorld(num_envs=1), PointWorld(num_envs=1)
        obs, total, idle = world.reset([case.data["seed"]]), 0.0, 0.0
        still.reset([case.data["seed"]])
        for _ in range(60):
            step = world.step(policy.act(obs, None, None, True)[0])
            obs, total = step.obs, total + step.reward[0]
            idle += still.step([[0.0, 0.0]]).reward[0]
        assert outcome.values["return above idle"] == pytest.approx(total - idle)
        assert outcome.values["return of idle"] == pytest.approx(idle)
        # The random baseline differs from layout to layout, and its difference is against the same number.
        random = outcome.values["return of random"]
        assert outcome.values["return above random"] == pytest.approx(total - random)


def test_moving_about_fails_where_chasing_the_goal_passes():
    budget = Budget(initial=60, batch=60, maximum=60)
    verdicts = {}
    for name, policy in (("chase", Affine(CHASE)), ("jitter", Affine(noise=0.3))):
        evidence = run_audit(usefulness(above=0.5), policy, budget=budget)
        verdicts[name] = next(e.verdict for e in evidence if e.metric == "return above idle")
    assert verdicts == {"chase": Verdict.PASS, "jitter": Verdict.FAIL}
