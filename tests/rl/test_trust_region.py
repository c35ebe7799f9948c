"""Trust-region steps against an exact solver on random problems, and against the formulas that the originals have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from trueline.core.errors import ConfigError
from trueline.rl.updates.trust_region import (
    Case,
    Step,
    conjugate_gradient,
    constrained_step,
    natural_step,
    projected_step,
    projection,
    span_of,
)

DELTA = 0.01


class Problem:
    """max gᵀx s.t. Bx + c ≤ 0, ½xᵀHx ≤ δ in `width` dimensions; costs may be copies, multiples or opposites."""

    def __init__(self, seed: int, costs: int, kind: str = "any") -> None:
        rng = np.random.default_rng(seed)
        self.width = int(rng.integers(costs + 1, 8))
        root = rng.normal(size=(self.width, self.width)) * np.exp(rng.normal(size=self.width))
        self.h = root @ root.T + 0.1 * np.eye(self.width)
        self.g = rng.normal(size=self.width)
        self.b = rng.normal(size=(costs, self.width)) * np.exp(2.0 * rng.normal(size=(costs, 1)))
        for k in range(1, costs):
            relation = rng.integers(6)
            if relation == 0:
                self.b[k] = self.b[k - 1]  # duplicated
            elif relation == 1:
                self.b[k] = -0.5 * self.b[k - 1]  # opposite
            elif relation == 2:
                self.b[k] = 3.0 * self.b[0]  # parallel
        self.delta = DELTA
        reach = np.sqrt(2.0 * self.delta * np.einsum("ki,ik->k", self.b, np.linalg.solve(self.h, self.b.T)))
        self.c = reach * rng.normal(size=costs) * 0.8
        if kind == "kept":
            self.c = -np.abs(self.c)
        if kind == "conflict":  # the reward's direction is the first cost's
            self.g = self.b[0] * rng.uniform(0.5, 2.0) + 1e-3 * self.g

    @property
    def gram(self) -> np.ndarray:
        v = np.vstack([self.g, self.b])
        return v @ np.linalg.solve(self.h, v.T)

    def x(self, step: Step) -> np.ndarray:
        return np.linalg.solve(self.h, np.vstack([self.g, self.b]).T @ step.coefficients)

    def over(self, x: np.ndarray) -> float:
        """The most by which a limit or the trust region is left, in units of what the region can reach."""
        reach = np.sqrt(2.0 * self.delta * np.diag(self.gram)[1:])
        return max(float(((self.b @ x + self.c) / reach).max()), float(0.5 * x @ self.h @ x / self.delta - 1.0))

    @property
    def apart(self) -> float:
        """Share of g, squared and measured by H⁻¹, that no combination of the costs' gradients makes up."""
        g, *b = solve_triangular(np.linalg.cholesky(self.h), np.vstack([self.g, self.b]).T, lower=True).T
        left = g - np.transpose(b) @ np.linalg.lstsq(np.transpose(b), g, rcond=None)[0]
        return float(left @ left / (g @ g))

    def solve(self, least: bool = False) -> tuple[np.ndarray, bool]:
        """SLSQP from several starts in whitened coordinates y, x = √(2δ)·L⁻ᵀy; `least`: nearest to 0, not best."""
        back = np.sqrt(2.0 * self.delta) * np.linalg.inv(np.linalg.cholesky(self.h)).T
        slope, rows = self.g @ back, self.b @ back
        slope = slope / np.linalg.norm(slope)
        unit = np.linalg.norm(rows, axis=1, keepdims=True)
        rows, c = rows / unit, self.c / unit[:, 0]
        limits = [{"type": "ineq", "fun": lambda y: -(rows @ y + c), "jac": lambda _: -rows}]
        if not least:
            limits.append({"type": "ineq", "fun": lambda y: 1.0 - y @ y, "jac": lambda y: -2.0 * y})
        best, found = None, np.inf
        for start in (np.zeros(self.width), 0.5 * slope, -rows.sum(0) * 0.3):
            objective = (lambda y: y @ y, lambda y: 2.0 * y) if least else (lambda y: -slope @ y, lambda _: -slope)
            result = minimize(
                objective[0], start, jac=objective[1], constraints=limits, options={"maxiter": 300, "ftol": 1e-15}
            )
            y = result.x
            kept = (rows @ y + c).max(initial=0.0) < 1e-7 and (least or y @ y < 1.0 + 1e-7)
            if kept and objective[0](y) < found:
                best, found = y, objective[0](y)
        return (back @ best, True) if best is not None else (np.zeros(self.width), False)


@pytest.mark.parametrize("kind", ["any", "kept", "conflict"])
@pytest.mark.parametrize("costs", [1, 2, 3, 4])
def test_the_constrained_step_is_that_of_an_exact_solver(costs: int, kind: str) -> None:
    seen = dict.fromkeys(Case, 0)
    for seed in range(25):
        problem = Problem(1000 * costs + seed, costs, kind)
        step = constrained_step(problem.gram, problem.c, DELTA)
        seen[step.case] += 1
        x, (best, solved) = problem.x(step), problem.solve()
        if step.case is Case.INFEASIBLE:
            assert not solved
            continue
        # The Gram matrix, which is all that the step is told, has the share that is left of g but for its rounding.
        assert problem.over(x) < 1e-10 + 8.0 * np.finfo(np.float64).eps / problem.apart
        gain = np.sqrt(2.0 * DELTA * problem.gram[0, 0])  # of the free step
        # Where limits are exclusive within the solver's tolerance it may find nothing; ours is then the better of both.
        assert problem.g @ x >= problem.g @ best - 1e-6 * gain or not solved
        # The multipliers prove optimality: H x λ = g − Bᵀν, ν ≥ 0, and neither a free limit nor a free region pulls.
        assert (step.nu >= -1e-6 * np.abs(step.nu).max()).all()
        pull = problem.g - problem.b.T @ step.nu
        np.testing.assert_allclose(step.lam * problem.h @ x, pull, atol=1e-5 * np.abs(problem.g).max())
        free = problem.b @ x + problem.c < -1e-5 * np.sqrt(2.0 * DELTA * np.diag(problem.gram)[1:])
        assert (np.abs(step.nu[free]) * np.sqrt(np.diag(problem.gram)[1:][free]) < 1e-5).all()
    assert seen[Case.CUT] > 0
    if kind == "any":
        assert seen[Case.VIOLATED] > 0
        assert seen[Case.INFEASIBLE] > 0


@pytest.mark.parametrize("costs", [1, 2, 3, 4])
def test_a_recovery_heads_for_the_nearest_point_that_keeps_all_limits(costs: int) -> None:
    recoveries = 0
    for seed in range(40):
        problem = Problem(5000 * costs + seed, costs)
        problem.c = np.abs(problem.c) * 2.0
        step = constrained_step(problem.gram, problem.c, DELTA)
        nearest, solved = problem.solve(least=True)
        distance = np.sqrt(nearest @ problem.h @ nearest / (2.0 * DELTA))
        if step.case is not Case.INFEASIBLE or not solved:
            assert not solved or distance < 1.0 + 1e-6
            continue
        recoveries += 1
        np.testing.assert_allclose(problem.x(step), nearest / distance, atol=2e-5)
    assert recoveries > 10


# --- one cost ---


def closed_form(q: float, r: float, s: float, c: float, delta: float) -> tuple[float, float] | None:
    """(λ, ν) in closed form: the dual −f is concave on either side of −r/c, and the smaller dual value is the step's
    gain. None where no step meets the limit."""
    a, b = q - r * r / s, 2.0 * delta - c * c / s
    if b < 0.0:
        return None if c > 0.0 else (np.sqrt(q / (2.0 * delta)), 0.0)
    # ν > 0 where r + λc > 0: λ > −r/c for c > 0, λ < −r/c for c < 0.
    split = -r / c
    inside, outside = ((max(0.0, split), np.inf), (0.0, max(0.0, split)))[:: 1 if c > 0.0 else -1]
    lam_a = max(inside[0], min(inside[1], np.sqrt(a / b)))
    lam_b = max(outside[0], min(outside[1], np.sqrt(q / (2.0 * delta))))
    f_a = -0.5 * (a / lam_a + b * lam_a) + r * c / s if lam_a > 0.0 else -np.inf
    f_b = -0.5 * (q / lam_b + 2.0 * delta * lam_b) if lam_b > 0.0 else -np.inf
    if inside[1] <= inside[0]:
        f_a = -np.inf
    if outside[1] <= outside[0]:
        f_b = -np.inf
    lam = lam_a if f_a >= f_b else lam_b
    return lam, max(0.0, (r + lam * c) / s)


@pytest.mark.parametrize("kind", ["any", "kept", "conflict"])
def test_one_cost_has_the_closed_form(kind: str) -> None:
    for seed in range(300):
        problem = Problem(seed, 1, kind)
        (q, r), (_, s) = problem.gram
        step = constrained_step(problem.gram, problem.c, DELTA)
        expected = closed_form(q, r, s, float(problem.c[0]), DELTA)
        if expected is None:
            assert step.case is Case.INFEASIBLE
            np.testing.assert_allclose(step.coefficients, [0.0, -np.sqrt(2.0 * DELTA / s)])
            continue
        lam, nu = expected
        if 1.0 - r * r / (q * s) < 1e-9:  # parallel: λ is all rounding, and what counts is what the step gains
            gain, best = (problem.gram[0] @ a for a in (step.coefficients, np.array([1.0, -nu]) / lam))
            assert gain == pytest.approx(best, abs=1e-5 * np.sqrt(2.0 * DELTA * q))
            continue
        np.testing.assert_allclose([step.lam, step.nu[0]], [lam, nu], rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(step.coefficients, [1.0 / lam, -nu / lam], rtol=1e-5, atol=1e-8)


def omnisafe_coefficients(q: float, r: float, s: float, c: float, delta: float) -> tuple[np.ndarray, int]:
    """The step of OmniSafe 0.5.0's CPO in coefficients of H⁻¹g and H⁻¹b, from what its documentation and code compute:
    the gradient of ascent with ν = max(0, λc − r)/s and intervals that meet at r/c, which belong to descent."""
    a, b = q - r * r / s, 2.0 * delta - c * c / s
    case = 3 if c < 0.0 and b < 0.0 else 2 if c < 0.0 else 1 if b >= 0.0 else 0
    if case == 3:
        return np.array([np.sqrt(2.0 * delta / q), 0.0]), case
    if case == 0:
        return np.array([0.0, -np.sqrt(2.0 * delta / s)]), case
    low, high = (0.0, r / c) if c < 0.0 else (r / c, np.inf)
    other = (r / c, np.inf) if c < 0.0 else (0.0, r / c)
    lam_a, lam_b = min(max(np.sqrt(a / b), low), high), min(max(np.sqrt(q / (2.0 * delta)), other[0]), other[1])
    f_a = -0.5 * (a / (lam_a + 1e-8) + b * lam_a) - r * c / s
    f_b = -0.5 * (q / (lam_b + 1e-8) + 2.0 * delta * lam_b)
    lam = lam_a if f_a >= f_b else lam_b
    return np.array([1.0, -max(lam * c - r, 0.0) / s]) / (lam + 1e-8), case


def test_the_originals_step_for_one_cost_is_wrong_on_most_problems() -> None:
    """OmniSafe's sign of the constraint's gradient. Wrong: worse than the best by 1 %, or over a limit by 1 %."""
    wrong, total, conflicts, wrong_conflicts = 0, 0, 0, 0
    for seed in range(600):
        problem = Problem(70_000 + seed, 1)
        (q, r), (_, s) = problem.gram
        coefficients, case = omnisafe_coefficients(q, r, s, float(problem.c[0]), DELTA)
        if case not in (1, 2):
            continue
        theirs = problem.x(Step(coefficients, 0.0, np.zeros(1), Case(case)))
        ours = problem.x(constrained_step(problem.gram, problem.c, DELTA))
        bad = problem.over(theirs) > 0.01 or problem.g @ theirs < problem.g @ ours - 0.01 * np.sqrt(2 * DELTA * q)
        assert problem.over(ours) < 1e-9
        wrong, total = wrong + bad, total + 1
        conflicts, wrong_conflicts = conflicts + (r > 0.0), wrong_conflicts + (bad and r > 0.0)
    assert total > 300
    assert wrong / total > 0.7
    assert wrong_conflicts / conflicts > 0.9


def test_a_slack_in_costs_per_episode_turns_a_reachable_limit_into_a_recovery() -> None:
    """Row 7: with 1,000 steps an episode, an excess of 5 a thousandth of which is reachable in a step gives up the
    reward when it is not divided by the length."""
    problem = Problem(3, 1)
    reach = np.sqrt(2.0 * DELTA * problem.gram[1, 1])
    length, excess = 1000.0, 0.5 * reach * 1000.0
    per_step = constrained_step(problem.gram, np.array([excess / length]), DELTA)
    per_episode = constrained_step(problem.gram, np.array([excess]), DELTA)
    assert per_step.case is Case.VIOLATED
    assert problem.g @ problem.x(per_step) > problem.g @ problem.x(per_episode)
    assert problem.b[0] @ problem.x(per_step) == pytest.approx(-excess / length)
    assert per_episode.case is Case.INFEASIBLE
    # A limit that is kept by as much seems out of reach and is ignored.
    assert constrained_step(problem.gram, np.array([-excess]), DELTA).case is Case.INSIDE
    assert constrained_step(problem.gram, np.array([-excess / length]), DELTA).case is Case.CUT


# --- the projection ---


def test_the_projected_step_of_one_cost_is_the_published_one() -> None:
    for seed in range(200):
        problem = Problem(seed, 1)
        (q, r), (_, s) = problem.gram
        ahead = np.sqrt(2.0 * DELTA / q)
        expected = [ahead, -max(0.0, (ahead * r + problem.c[0]) / s)]
        np.testing.assert_allclose(projected_step(problem.gram, problem.c, DELTA).coefficients, expected, rtol=1e-9)


@pytest.mark.parametrize("costs", [1, 2, 3, 4])
def test_the_projected_step_is_the_nearest_to_the_natural_one(costs: int) -> None:
    checked = 0
    for seed in range(40):
        problem = Problem(9000 * costs + seed, costs)
        step, free = projected_step(problem.gram, problem.c, DELTA), natural_step(problem.gram, DELTA)
        moved = Problem(9000 * costs + seed, costs)
        moved.c = problem.c + problem.b @ problem.x(free)  # limits as seen from the natural step
        nearest, solved = moved.solve(least=True)
        if step.case is Case.INFEASIBLE:
            assert not solved
            continue
        if solved:
            checked += 1
            np.testing.assert_allclose(problem.x(step), problem.x(free) + nearest, atol=2e-5)
            # λ and ν mean what they mean in CPO: x = (H⁻¹g − Σν·H⁻¹b)/λ.
            np.testing.assert_allclose(step.coefficients, np.concatenate([[1.0], -step.nu]) / step.lam)
    assert checked > 20


def test_the_originals_projection_goes_along_the_plain_gradient() -> None:
    """Row 1: with H·x in place of x = H⁻¹g the first term is √(2δ/q)·g, of another length, which a badly scaled policy
    follows far out of the trust region."""
    h, g = np.diag([400.0, 1.0]), np.array([1.0, 1.0])
    q = g @ np.linalg.solve(h, g)
    gram = np.array([[q, 0.0], [0.0, 1.0]])
    right = np.linalg.solve(h, g) * projected_step(gram, np.array([-1.0]), DELTA).coefficients[0]
    theirs = h @ np.linalg.solve(h, g) * np.sqrt(2.0 * DELTA / q)
    np.testing.assert_allclose(theirs, g * np.sqrt(2.0 * DELTA / q))
    assert 0.5 * right @ h @ right == pytest.approx(DELTA)
    assert 0.5 * theirs @ h @ theirs > 100.0 * DELTA


def test_exclusive_limits_are_met_half_way() -> None:
    # x₀ ≤ −1 and x₀ ≥ 0.5 in the metric 1: least squares of what is over both is x₀ = −0.25, and x₁ stays.
    s = np.array([[1.0, -1.0], [-1.0, 1.0]])
    nearest = projection(s, np.array([1.0, 0.5]))
    assert not nearest.met
    assert -(nearest.nu[0] - nearest.nu[1]) == pytest.approx(-0.25)
    gram = np.block([[np.ones((1, 1)), np.zeros((1, 2))], [np.zeros((2, 1)), s]])
    assert constrained_step(gram, np.array([1.0, 0.5]), 1.0).case is Case.INFEASIBLE
    assert projected_step(gram, np.array([1.0, 0.5]), 1.0).case is Case.INFEASIBLE


def test_a_cost_without_a_gradient_binds_only_when_it_is_violated() -> None:
    gram = np.diag([2.0, 0.0])
    kept, violated = (constrained_step(gram, np.array([c]), DELTA) for c in (-0.1, 0.1))
    np.testing.assert_allclose(kept.coefficients, natural_step(gram, DELTA).coefficients)
    assert kept.case is Case.INSIDE
    assert violated.case is Case.INFEASIBLE
    np.testing.assert_array_equal(violated.coefficients, 0.0)


def test_without_a_reward_gradient_a_violated_limit_is_met_by_the_shortest_step() -> None:
    gram = np.diag([0.0, 4.0])
    step = constrained_step(gram, np.array([0.1]), DELTA)  # −½·0.1/√… : a₁ = −c/s
    np.testing.assert_allclose(step.coefficients, [0.0, -0.1 / 4.0])
    np.testing.assert_array_equal(constrained_step(gram, np.array([-0.1]), DELTA).coefficients, 0.0)


def test_units_of_reward_and_costs_change_nothing() -> None:
    for seed in range(30):
        problem = Problem(seed, 3)
        scale = np.array([1e-4, 1e5, 1e-6, 1.0])
        one = constrained_step(problem.gram, problem.c, DELTA)
        other = constrained_step(problem.gram * np.outer(scale, scale), problem.c * scale[1:], DELTA)
        radius = np.sqrt(2.0 * DELTA / np.diag(np.linalg.inv(problem.h)))  # of each coordinate
        step = problem.x(Step(other.coefficients * scale, 0.0, other.nu, other.case))
        np.testing.assert_allclose(step / radius, problem.x(one) / radius, atol=1e-5)
        assert one.case is other.case


def test_ten_costs_are_solved_for_and_eleven_refused() -> None:
    rng = np.random.default_rng(0)
    v = rng.normal(size=(12, 30))
    step = constrained_step(v[:11] @ v[:11].T, -0.05 * np.ones(10), 0.5)
    x = v[:11].T @ step.coefficients
    assert 0.5 * x @ x == pytest.approx(0.5)
    assert (v[1:11] @ x <= 0.05 + 1e-9).all()
    with pytest.raises(ConfigError, match="11 limits"):
        constrained_step(v @ v.T, np.zeros(11), 0.5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), costs=st.integers(1, 4))
def test_a_step_never_leaves_the_region_nor_a_limit_it_can_keep(seed: int, costs: int) -> None:
    problem = Problem(seed, costs)
    step = constrained_step(problem.gram, problem.c, DELTA)
    x = problem.x(step)
    assert 0.5 * x @ problem.h @ x <= DELTA * (1.0 + 1e-7)
    if step.case is not Case.INFEASIBLE:
        assert problem.over(x) < 1e-6


# --- conjugate gradients and their span ---


def random_metric(rng: np.random.Generator, width: int) -> torch.Tensor:
    root = torch.as_tensor(rng.normal(size=(width, width)))
    return root @ root.T + 0.1 * torch.eye(width)


def test_conjugate_gradients_solve_all_right_hand_sides(rng: np.random.Generator) -> None:
    h = random_metric(rng, 9)
    rhs = torch.as_tensor(rng.normal(size=(3, 9)) * [[1.0], [1e-8], [0.0]])
    x, residual = conjugate_gradient(lambda v: v @ h, rhs, 40)
    torch.testing.assert_close(x[:2] @ h, rhs[:2], rtol=1e-6, atol=1e-14)
    assert not x[2].any()
    assert residual.abs().max() < 1e-8


def test_each_right_hand_side_is_solved_as_if_alone(rng: np.random.Generator) -> None:
    h, rhs = random_metric(rng, 9), torch.as_tensor(rng.normal(size=(3, 9)))
    together = conjugate_gradient(lambda v: v @ h, rhs, 4)
    for row in range(3):
        alone = conjugate_gradient(lambda v: v @ h, rhs[row : row + 1], 4)
        torch.testing.assert_close(together.x[row], alone.x[0])
        torch.testing.assert_close(together.residual[row], (rhs - together.x @ h)[row])  # the true one


def test_a_step_keeps_the_region_and_its_limits_however_few_iterations(rng: np.random.Generator) -> None:
    """After two iterations H⁻¹b is far off; VᵀY for the Gram matrix, as in the originals, then breaks the limit."""
    broken = 0
    for _ in range(50):
        h, v = random_metric(rng, 12), torch.as_tensor(rng.normal(size=(3, 12)))
        solved = conjugate_gradient(lambda x, h=h: x @ h, v, 2)
        span = span_of(v, solved)
        slack = -0.3 * np.sqrt(2.0 * DELTA * np.diag(span.gram)[1:])
        step = constrained_step(span.gram, slack, DELTA)
        x = span.step(step.coefficients)
        assert 0.5 * x @ h @ x <= DELTA * (1.0 + 1e-9)
        assert (v[1:] @ x + torch.as_tensor(slack) <= 1e-9).all()
        naive = constrained_step((v @ solved.x.T).numpy(), slack, DELTA)
        off = torch.as_tensor(naive.coefficients) @ solved.x
        broken += bool(0.5 * off @ h @ off > 1.01 * DELTA or (v[1:] @ off + torch.as_tensor(slack) > 1e-3).any())
    assert broken > 10


def test_with_exact_solutions_the_span_is_that_of_the_gradients(rng: np.random.Generator) -> None:
    h, v = random_metric(rng, 9), torch.as_tensor(rng.normal(size=(4, 9)))
    v[3] = -2.0 * v[2]  # parallel costs
    exact = torch.linalg.solve(h, v.T).T
    span = span_of(v, conjugate_gradient(lambda x: x @ h, v, 60))
    np.testing.assert_allclose(span.gram, (v @ exact.T).numpy(), rtol=1e-6)
    coefficients = np.array([1.0, -0.5, 0.2, 0.7])
    torch.testing.assert_close(span.step(coefficients), torch.as_tensor(coefficients) @ exact, rtol=1e-6, atol=1e-8)


def test_gradients_that_are_not_finite_are_refused(rng: np.random.Generator) -> None:
    h, v = random_metric(rng, 5), torch.full((2, 5), torch.nan, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="not finite"):
        span_of(v, conjugate_gradient(lambda x: x @ h, v, 3))
