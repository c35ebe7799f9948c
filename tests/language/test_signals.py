"""Signals: the weight of the divergence, what is left out, cut replies, advantages against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trueline.language.online.losses import kl_loss
from trueline.language.rollout import Rollout
from trueline.language.scores import Scores
from trueline.language.signals import (
    AdaptiveKl,
    Signals,
    adapted,
    credited,
    episode_cost,
    estimated,
    kl_of,
    mixed,
    signals_of,
    whitened,
    with_kl,
)
from trueline.rl.handlers.constraint import Weights, normalised

PROMPT, REPLY = 2, 5


def rows(count, ended=None, missing=None, costs=1, seed=0):
    """A rollout and scores of replies with these lengths, after prompts of 1 + r tokens; no two rows alike."""
    rng = torch.Generator().manual_seed(seed)
    n, starts = len(count), [1 + r % 3 for r in range(len(count))]
    width = max(a + b for a, b in zip(starts, count, strict=True)) + 1
    column = torch.arange(width)
    start, end = torch.tensor(starts)[:, None], torch.tensor(starts)[:, None] + torch.tensor(count)[:, None]
    attended, sampled = column < end, (column >= start) & (column < end)
    log_prob = torch.where(sampled, -torch.rand(n, width, generator=rng, dtype=torch.float64), 0.0)
    scores = Scores(
        torch.where(sampled, torch.randn(n, width, generator=rng, dtype=torch.float64), 0.0),
        torch.where(sampled[..., None], torch.randn(n, width, costs, generator=rng, dtype=torch.float64), 0.0),
        torch.tensor(missing or [False] * n),
    )
    rollout = Rollout(
        torch.zeros(n, width, dtype=torch.int64),
        attended,
        sampled,
        log_prob,
        torch.arange(n) // 2,
        torch.tensor(ended or [True] * n),
        ("",) * n,
    )
    return rollout, scores


def random_like(x, seed):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the weight of the divergence ---


@pytest.mark.parametrize("costs", [0, 1, 3])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.6), (1.0, 1.0)])
def test_the_divergence_weighs_beta_whatever_the_multipliers_and_critics(costs, gamma, lam):
    """(A[r − βk] − Σλ·A[c + βk])/(1 + Σλ) = mixed signals, with the penalised sums' own critics."""
    rollout, scores = rows([5, 1, 3, 4], costs=costs)
    kl = torch.where(rollout.sampled, random_like(rollout.log_prob, 1), 0.0)
    signals = signals_of(rollout, scores, kl)
    value, beta = random_like(signals.signal, 2), 0.37
    multiplier = torch.tensor([0.5, 2.0, 0.1], dtype=torch.float64)[:costs]
    ours = mixed(estimated(signals, value, gamma, lam).advantage, with_kl(normalised(multiplier), beta))

    # reward − βk and cost + βk each, with the critic that is the same combination of the random ones
    combine = torch.eye(1 + costs, dtype=torch.float64)
    share = torch.cat([combine, torch.tensor([[-beta] + [beta] * costs], dtype=torch.float64)])
    penalised = estimated(Signals(signals.signal @ share, signals.kept), value @ share, gamma, lam).advantage
    theirs = (penalised[..., 0] - (penalised[..., 1:] * multiplier).sum(-1)) / (1 + multiplier.sum())
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert ours[rollout.sampled].abs().min() > 1e-4


def test_the_divergence_inside_a_whitened_or_differently_discounted_signal_is_another_method():
    """The identity is not vacuous: with a λ of its own for the divergence the two sides part."""
    rollout, scores = rows([5, 4, 3])
    kl = torch.where(rollout.sampled, random_like(rollout.log_prob, 1), 0.0)
    signals = signals_of(rollout, scores, kl)
    value = random_like(signals.signal, 2)
    a, b = (estimated(signals, value, 1.0, lam).advantage for lam in (0.95, 0.5))
    weights = with_kl(normalised(torch.tensor([0.5], dtype=torch.float64)), 0.3)
    other = torch.cat([a[..., :-1], b[..., -1:]], dim=-1)
    assert (mixed(a, weights) - mixed(other, weights)).abs().max() > 1e-2


def test_the_divergence_never_enters_the_measured_cost():
    rollout, scores = rows([3, 2], missing=[False, True])
    expected = scores.cost[0].sum(0)
    torch.testing.assert_close(episode_cost(scores), expected[None])
    signals = signals_of(rollout, scores, torch.ones_like(rollout.log_prob))
    torch.testing.assert_close(signals.total[0, 1:2], expected)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_kl_estimators_are_unbiased(name):
    """Σ π·k = KL(π ‖ π_ref), enumerated; k2 is half the mean square, which is not it but near for near policies."""
    logits = torch.tensor([0.3, -1.0, 0.7, 0.0], dtype=torch.float64)
    p, q = torch.log_softmax(logits, 0), torch.log_softmax(-0.5 * logits, 0)
    kl = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * kl_of(p, q, name)).sum(), kl)
    assert (kl_of(p, q, "k3") >= 0).all()
    near = torch.log_softmax(1.01 * logits, 0)
    small = (p.exp() * (p - near)).sum()
    torch.testing.assert_close((p.exp() * kl_of(p, near, "k2")).sum(), small, rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_kl_estimators_have_the_gradient_of_a_divergence(name):
    """As they are used: k1 credited to what π drew, k2 and k3 differentiated on what another drew; enumerated."""
    logits = torch.tensor([0.3, -1.0, 0.7, 0.0], dtype=torch.float64, requires_grad=True)
    q, old = (torch.log_softmax(scale * logits.detach(), 0) for scale in (-0.5, 2.0))
    p = torch.log_softmax(logits, 0)
    if name == "k1":
        estimate = (p.exp().detach() * kl_of(p.detach(), q, name) * p).sum()
    else:
        estimate = kl_loss(p, old, q, old.exp(), name)
    (expected,) = torch.autograd.grad((p.exp() * (p - q)).sum(), logits, retain_graph=True)
    (got,) = torch.autograd.grad(estimate, logits)
    torch.testing.assert_close(got, expected)
    assert expected.abs().max() > 0.05


def test_adaptive_weight_moves_towards_the_target():
    # 50 % above the target is clipped to 20 %: 0.1·(1 + 0.2·100/1000) = 0.102; 10 % below: 0.1·(1 − 0.1·0.1) = 0.099
    settings = AdaptiveKl(target=2.0, horizon=1000.0)
    assert adapted(0.1, settings, 3.0, 100) == pytest.approx(0.102)
    assert adapted(0.1, settings, 1.8, 100) == pytest.approx(0.099)
    assert adapted(0.1, settings, 0.0, 100) == pytest.approx(0.098)


# --- what is left out ---


def test_missing_rows_are_out_of_signals_and_of_the_measured_cost():
    rollout, scores = rows([3, 4, 2], missing=[False, True, False])
    scores.reward[1, 3] = torch.nan  # what was not scored may hold anything
    signals = signals_of(rollout, scores, torch.ones_like(rollout.log_prob))
    assert not signals.kept[1].any()
    assert (signals.signal[1] == 0).all()
    assert signals.kept[[0, 2]].sum() == 5
    assert len(episode_cost(scores)) == 2
    estimates = estimated(signals, random_like(signals.signal, 0), 1.0, 0.95)
    assert (estimates.advantage[1] == 0).all()
    assert (estimates.target[~signals.kept] == 0).all()
    assert whitened(estimates.advantage[..., 0], signals.kept)[1].abs().sum() == 0


def test_a_cut_reply_pays_the_penalty_on_its_last_token_alone():
    rollout, scores = rows([3, 3], ended=[True, False])
    with_penalty, without = (signals_of(rollout, scores, cut_penalty=p).signal for p in (2.5, 0.0))
    difference = without - with_penalty
    assert difference.sum() == pytest.approx(2.5)
    last = int(rollout.sampled[1].nonzero()[-1])
    assert difference[1, last, 0] == pytest.approx(2.5)


def test_a_score_clip_bounds_what_a_token_earns_but_not_the_measured_cost():
    rollout, scores = rows([1, 1])
    scores.cost[0, 1, 0] = 80.0
    assert signals_of(rollout, scores, score_clip=50.0).total[0, 1] == 50.0
    assert episode_cost(scores)[0, 0] == 80.0
    kl = torch.where(rollout.sampled, 7.0, 0.0).double()
    clipped = signals_of(rollout, scores, kl, score_clip=0.5).signal
    torch.testing.assert_close(clipped[..., -1], kl)  # the divergence is no score
    assert clipped[..., :-1].abs().max() == 0.5


# --- advantages ---


@pytest.mark.parametrize("ended", [True, False])
def test_after_the_last_token_comes_nothing_whether_the_reply_ended_or_was_cut(ended):
    rollout, scores = rows([3, 5], ended=[ended, True])
    signals = signals_of(rollout, scores)
    value = random_like(signals.signal, 4)
    got = estimated(signals, value, 0.9, 0.7)
    at = rollout.sampled[0].nonzero()[:, 0].tolist()
    reward, v = signals.signal[0, at], value[0, at]
    # three tokens, written out
    d2 = reward[2] - v[2]
    d1 = reward[1] + 0.9 * v[2] - v[1]
    d0 = reward[0] + 0.9 * v[1] - v[0]
    expected = torch.stack([d0 + 0.63 * (d1 + 0.63 * d2), d1 + 0.63 * d2, d2])
    torch.testing.assert_close(got.advantage[0, at], expected)
    torch.testing.assert_close(got.target[0, at], expected + v)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(0, 1000))
def test_lambda_one_is_what_follows_minus_value_and_rows_do_not_touch(counts, seed):
    rollout, scores = rows(counts, seed=seed)
    signals = signals_of(rollout, scores)
    value = random_like(signals.signal, seed)
    got = estimated(signals, value, 1.0, 1.0).advantage
    follows = signals.signal.flip(1).cumsum(1).flip(1)
    expected = torch.where(rollout.sampled[..., None], follows - value, 0.0)
    torch.testing.assert_close(got, expected)


def test_whitening_uses_kept_tokens_alone():
    rollout, scores = rows([5, 2, 4], missing=[False, True, False])
    signals = signals_of(rollout, scores)
    advantage = 3.0 + 2.0 * random_like(rollout.log_prob, 3)  # prompts and padding hold numbers too
    white = whitened(advantage, signals.kept)
    kept = white[signals.kept]
    assert kept.mean() == pytest.approx(0.0, abs=1e-9)
    assert kept.std(correction=0) == pytest.approx(1.0, abs=1e-6)
    assert (white[~signals.kept] == 0).all()


# --- credit ---


def gradient(logits, signal, credit):
    """Σ_y p(y)·Σ_t A_t·∇log π(y_t | y_<t), enumerated over two-token replies, with A of a critic that says 0.

    logits [3]: of the first token being 1, and of the second being 1 after 0 and after 1.
    """
    total = torch.zeros(3, dtype=torch.float64)
    for y in itertools.product((0, 1), repeat=2):
        leaf = logits.clone().requires_grad_()
        log_p = torch.stack([torch.nn.functional.logsigmoid((2 * y[0] - 1) * leaf[0])])
        second = torch.nn.functional.logsigmoid((2 * y[1] - 1) * leaf[1 + y[0]])
        log_p = torch.cat([log_p, second[None]])
        sampled = torch.tensor([[False, True, True]])
        scores = torch.tensor([[0.0, *signal(y)]], dtype=torch.float64)
        given = credited(scores, sampled, credit)[..., None]
        advantage = estimated(Signals(given, sampled), torch.zeros_like(given), 1.0, 1.0).advantage[0, 1:, 0]
        (advantage * log_p).sum().backward()
        total += log_p.sum().exp().detach() * leaf.grad
    return total


def exact(logits, signal):
    leaf = logits.clone().requires_grad_()
    value = 0.0
    for y in itertools.product((0, 1), repeat=2):
        first = torch.nn.functional.logsigmoid((2 * y[0] - 1) * leaf[0])
        second = torch.nn.functional.logsigmoid((2 * y[1] - 1) * leaf[1 + y[0]])
        value = value + (first + second).exp() * sum(signal(y))
    value.backward()
    return leaf.grad


def reads_ahead(y):
    """The first token's score is decided by the second token."""
    return (1.0 if y[1] else -1.0, 0.0)


def test_scores_that_read_later_tokens_need_total_credit():
    logits = torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64)
    right = exact(logits, reads_ahead)
    torch.testing.assert_close(gradient(logits, reads_ahead, "total"), right)
    # to-go: the second token, the only one that matters, gets nothing at all
    assert (gradient(logits, reads_ahead, "to-go")[1:] == 0).all()
    assert right[1:].abs().min() > 0.1


def test_scores_that_read_earlier_tokens_alone_are_right_either_way():
    def causal(y):
        return (0.7 * y[0], 1.3 * y[0] * y[1] - y[1])

    logits = torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64)
    for credit in ("to-go", "total"):
        torch.testing.assert_close(gradient(logits, causal, credit), exact(logits, causal))


def test_total_credit_keeps_the_sums_and_leaves_the_divergence_where_it_is():
    rollout, scores = rows([4, 2])
    kl = torch.where(rollout.sampled, random_like(rollout.log_prob, 1), 0.0)
    togo, total = (signals_of(rollout, scores, kl, credit=credit) for credit in ("to-go", "total"))
    torch.testing.assert_close(togo.total, total.total)
    torch.testing.assert_close(togo.signal[..., -1], total.signal[..., -1])
    assert (total.signal[..., 0] != 0).sum() == 2


def test_unweighted_costs_do_not_move_the_mix():
    rollout, scores = rows([3, 3], costs=2)
    advantage = estimated(signals_of(rollout, scores), torch.zeros(2, rollout.tokens.shape[1], 3), 1.0, 1.0).advantage
    weights = Weights(torch.tensor(1.0), torch.tensor([0.0, 0.0]))
    np.testing.assert_allclose(mixed(advantage, weights), advantage[..., 0])
    worse = mixed(advantage, Weights(torch.tensor(1.0), torch.tensor([0.5, 0.0])))
    np.testing.assert_allclose(worse, advantage[..., 0] - 0.5 * advantage[..., 1])
