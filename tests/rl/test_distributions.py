"""Action distributions against torch's own, numerical integration and counted draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions as peer

from trueline.rl.distributions import Choices, Gaussian, SquashedGaussian


def two_gaussians(kind: type, rng: torch.Generator, shape: tuple[int, ...] = (5, 3)) -> tuple:
    made = []
    for _ in range(2):
        mean = torch.randn(shape, generator=rng, dtype=torch.float64)
        log_std = 0.5 * torch.randn(shape[-1], generator=rng, dtype=torch.float64)
        made.append(kind(mean, log_std))
    return tuple(made)


def torch_normal(d: Gaussian) -> peer.Independent:
    return peer.Independent(peer.Normal(d.mean, d.log_std.exp().expand_as(d.mean)), 1)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3)])
def test_gaussian_equals_torchs(shape: tuple[int, ...], torch_rng: torch.Generator) -> None:
    p, q = two_gaussians(Gaussian, torch_rng, shape)
    x = torch.randn(shape, generator=torch_rng, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), torch_normal(p).log_prob(x))
    torch.testing.assert_close(p.entropy(), torch_normal(p).entropy())
    torch.testing.assert_close(p.kl(q), peer.kl_divergence(torch_normal(p), torch_normal(q)))
    torch.testing.assert_close(p.mode(), p.mean)


def test_gaussian_with_a_spread_of_its_own_in_each_row(torch_rng: torch.Generator) -> None:
    mean, log_std = torch.randn(2, 6, 3, generator=torch_rng, dtype=torch.float64)
    p, q = Gaussian(mean, log_std), Gaussian(mean.flip(0), 0.5 * log_std.flip(0))
    torch.testing.assert_close(p.kl(q), peer.kl_divergence(torch_normal(p), torch_normal(q)))
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(p.rows(rows).kl(q.rows(rows)), p.kl(q)[rows])


def test_gaussian_draws_have_its_mean_and_spread(torch_rng: torch.Generator) -> None:
    n = 40_000
    p = Gaussian(torch.tensor([1.0, -2.0]).expand(n, 2), torch.tensor([0.5, -1.0]))
    x = p.sample(torch_rng)
    five_standard_errors = 5 * p.log_std.exp() / n**0.5
    assert ((x.mean(0) - p.mean[0]).abs() < five_standard_errors).all()
    # The standard error of log s is 1/√(2n).
    assert ((x.std(0).log() - p.log_std).abs() < 5 / (2 * n) ** 0.5).all()


def test_kl_of_a_distribution_to_itself_is_zero_and_otherwise_positive(torch_rng: torch.Generator) -> None:
    for kind in (Gaussian, SquashedGaussian):
        p, q = two_gaussians(kind, torch_rng)
        torch.testing.assert_close(p.kl(p), torch.zeros(5, dtype=torch.float64))
        assert (p.kl(q) > 0).all()
    p, q = (Choices.of(torch.randn(8, 5, generator=torch_rng), (2, 3)) for _ in range(2))
    torch.testing.assert_close(p.kl(p), torch.zeros(8))
    assert (p.kl(q) > 0).all()


def test_squashed_log_prob_equals_torchs_transformed_normal(torch_rng: torch.Generator) -> None:
    p, _ = two_gaussians(SquashedGaussian, torch_rng)
    u = p.sample(torch_rng)
    base = peer.Normal(p.mean, p.log_std.exp().expand_as(p.mean))
    squashed = peer.TransformedDistribution(base, [peer.TanhTransform()])
    torch.testing.assert_close(p.log_prob(u), squashed.log_prob(p.to_action(u)).sum(-1), rtol=1e-6, atol=1e-8)


def density(mean: float, std: float, a: np.ndarray) -> np.ndarray:
    return stats.norm.pdf(np.arctanh(a), mean, std) / (1 - a**2)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5), (-1.5, 0.3), (0.2, 1.5)])
def test_squashed_density_integrates_to_one_and_gives_the_entropy(mean: float, std: float) -> None:
    p = SquashedGaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([np.log(std)], dtype=torch.float64))

    def ours(a: float) -> float:
        return float(p.log_prob(torch.tensor([np.arctanh(a)])).exp())

    edge = 1 - 1e-13
    total, _ = integrate.quad(ours, -edge, edge, limit=400)
    assert total == pytest.approx(1.0, abs=1e-6)
    for a in (-0.9, 0.1, 0.8):
        assert ours(a) == pytest.approx(float(density(mean, std, np.array(a))))
    # H = −∫ p log p over actions; integrated over the base, where nothing is singular.
    entropy, _ = integrate.quad(
        lambda u: -stats.norm.pdf(u, mean, std) * (stats.norm.logpdf(u, mean, std) - 2 * np.log(1 / np.cosh(u))),
        mean - 12 * std,
        mean + 12 * std,
        limit=400,
    )
    # 32 nodes integrate log cosh, which is not a polynomial: exact to a ten-thousandth of a nat at these spreads.
    assert float(p.entropy()) == pytest.approx(entropy, abs=2e-4)


def test_squashed_kl_by_integration() -> None:
    p, q = (
        SquashedGaussian(torch.tensor([m], dtype=torch.float64), torch.tensor([s], dtype=torch.float64))
        for m, s in ((0.3, -0.5), (-0.2, 0.1))
    )

    def integrand(a: float) -> float:
        u = torch.tensor([np.arctanh(a)])
        return float(p.log_prob(u).exp() * (p.log_prob(u) - q.log_prob(u)))

    kl, _ = integrate.quad(integrand, -1 + 1e-12, 1 - 1e-12, limit=400)
    assert float(p.kl(q)) == pytest.approx(kl, rel=1e-6)


def test_squashed_log_prob_stays_finite_where_tanh_is_one() -> None:
    p = SquashedGaussian(torch.zeros(2), torch.zeros(2))
    u = torch.tensor([30.0, -30.0], requires_grad=True)
    log_prob = p.log_prob(u)
    log_prob.backward()
    # log(1 − tanh²u) → 2 log 2 − 2|u|:  −½·900·2 − log 2π − 2·(2 log 2 − 60)
    assert float(log_prob.detach()) == pytest.approx(-900 - np.log(2 * np.pi) + 120 - 4 * np.log(2))
    assert torch.isfinite(u.grad).all()


def test_squashed_actions_lie_inside(torch_rng: torch.Generator) -> None:
    p = SquashedGaussian(torch.zeros(1000, 2), torch.ones(2))
    action = p.to_action(p.sample(torch_rng))
    assert (action.abs() <= 1).all()
    torch.testing.assert_close(p.to_action(p.mode()), torch.zeros(1000, 2))


def test_choices_equal_torchs_categorical(torch_rng: torch.Generator) -> None:
    sizes = (2, 4, 3)
    outputs = 2.0 * torch.randn(2, 6, 9, generator=torch_rng, dtype=torch.float64)
    p, q = (Choices.of(output, sizes) for output in outputs)
    theirs = [[peer.Categorical(logits=x) for x in output.split(sizes, -1)] for output in outputs]
    draw = p.sample(torch_rng)
    assert draw.shape == (6, 3)
    torch.testing.assert_close(p.log_prob(draw), sum(d.log_prob(draw[:, j]) for j, d in enumerate(theirs[0])))
    torch.testing.assert_close(p.entropy(), sum(d.entropy() for d in theirs[0]))
    torch.testing.assert_close(p.kl(q), sum(peer.kl_divergence(a, b) for a, b in zip(*theirs, strict=True)))
    torch.testing.assert_close(p.mode(), torch.stack([d.probs.argmax(-1) for d in theirs[0]], -1).double())


def test_choices_are_drawn_as_often_as_their_softmax_says(torch_rng: torch.Generator) -> None:
    n, logits = 20_000, torch.tensor([1.0, -1.0, 0.5, -3.0, 0.0, 2.0])
    p = Choices.of(logits.expand(n, 6), (4, 2))
    draw = p.sample(torch_rng)
    for j, part in enumerate(logits.split((4, 2))):
        count = torch.bincount(draw[:, j].long(), minlength=len(part)).numpy()
        expected = part.softmax(0).double().numpy() * n
        statistic = ((count - expected) ** 2 / expected).sum()
        # One false alarm in a million draws of this test, were its stream not fixed.
        assert statistic < stats.chi2.ppf(1 - 1e-6, len(part) - 1)
    # Two choices are independent: their joint count is that of the product.
    joint = torch.bincount((draw[:, 0] * 2 + draw[:, 1]).long(), minlength=8).numpy()
    expected = np.outer(logits[:4].softmax(0), logits[4:].softmax(0)).ravel() * n
    assert ((joint - expected) ** 2 / expected).sum() < stats.chi2.ppf(1 - 1e-6, 7)


def test_draws_follow_their_generator_alone(torch_rng: torch.Generator) -> None:
    for p in (Gaussian(torch.zeros(4, 2), torch.zeros(2)), Choices.of(torch.zeros(4, 5), (2, 3))):
        state = torch_rng.get_state()
        first = p.sample(torch_rng)
        torch.manual_seed(1)
        torch_rng.set_state(state)
        torch.testing.assert_close(p.sample(torch_rng), first, rtol=0, atol=0)
        assert not torch.equal(p.sample(torch_rng), first)


def test_rows_and_detach_keep_the_numbers(torch_rng: torch.Generator) -> None:
    output = torch.randn(6, 5, generator=torch_rng, requires_grad=True)
    rows = torch.tensor([5, 0, 2])
    for p, draw in (
        (Gaussian(output, torch.zeros(5)), torch.randn(6, 5, generator=torch_rng)),
        (SquashedGaussian(output, torch.zeros(5)), torch.randn(6, 5, generator=torch_rng)),
        (Choices.of(output, (2, 3)), torch.ones(6, 2)),
    ):
        torch.testing.assert_close(p.rows(rows).log_prob(draw[rows]), p.log_prob(draw)[rows])
        assert p.log_prob(draw).requires_grad
        assert not p.detach().log_prob(draw).requires_grad
        torch.testing.assert_close(p.detach().entropy(), p.entropy())
