"""Losses of supervised training: closed forms, signs, finite differences, and invariance to how a step is cut up."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trueline.language.losses import (
    cost_loss,
    dpo,
    first_difference,
    held,
    ipo,
    kto,
    kto_reference,
    log_prob_of,
    nll,
    pair_loss,
    simpo,
)

torch.set_num_threads(1)
D = torch.float64


def randoms(*shapes, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng, dtype=D) for shape in shapes]


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def one(value):
    return torch.tensor([value], dtype=D)


# --- likelihood ---


def test_log_prob_is_of_a_distribution():
    logits = randoms((2, 3, 5))[0].float()
    each = torch.stack([log_prob_of(logits, torch.full((2, 3), v)) for v in range(5)])
    torch.testing.assert_close(each.exp().sum(0), torch.ones(2, 3))
    torch.testing.assert_close(each.movedim(0, -1), logits.log_softmax(-1))


def test_nll_of_accumulated_batches_is_that_of_their_union():
    log_prob, weight = randoms((6, 7))[0], (torch.arange(42).reshape(6, 7) % 3 > 0).to(D)
    total = weight.sum()
    parts = sum(nll(log_prob[rows], weight[rows], total) for rows in (slice(0, 1), slice(1, 5), slice(5, 6)))
    torch.testing.assert_close(parts, nll(log_prob, weight, total))
    # The mean of the parts' means, which unequal parts make another number, is not what is computed.
    means = [nll(log_prob[r], weight[r], weight[r].sum()) for r in (slice(0, 1), slice(1, 6))]
    assert not torch.isclose(sum(means) / 2, nll(log_prob, weight, total))


def test_nll_falls_as_the_answer_becomes_likelier():
    # π = 1/4 and 1/2 for two tokens that count, the third does not: (2 log 2 + log 2)/2.
    log_prob = torch.tensor([[math.log(0.25), math.log(0.5), math.log(0.9)]], dtype=D)
    weight = torch.tensor([[1.0, 1.0, 0.0]], dtype=D)
    assert nll(log_prob, weight, 2.0).item() == pytest.approx(1.5 * math.log(2.0))
    assert nll(log_prob + 0.1, weight, 2.0) < nll(log_prob, weight, 2.0)


# --- scalar models ---


def test_bradley_terry_is_a_probability():
    a, b = randoms((4, 1), (4, 1))
    there, back = pair_loss(a, b), pair_loss(b, a)
    torch.testing.assert_close((-there).exp() + (-back).exp(), torch.ones(4, dtype=D))  # P(a ≻ b) + P(b ≻ a) = 1
    torch.testing.assert_close(pair_loss(a + 3.0, b + 3.0), there)  # only differences count


def test_reward_loss_in_numbers():
    # r_w = 1, r_l = −2: −log σ(3) + ρ·(1 + 4)/2.
    found = pair_loss(one(1.0)[None], one(-2.0)[None], rho=0.1)
    assert found.item() == pytest.approx(-math.log(sigmoid(3.0)) + 0.1 * 2.5)


def test_reward_loss_raises_the_chosen_and_lowers_the_rejected():
    chosen, rejected = (torch.zeros(1, 1, dtype=D, requires_grad=True) for _ in range(2))
    pair_loss(chosen, rejected).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.5)
    assert rejected.grad.item() == pytest.approx(0.5)


@pytest.mark.parametrize(("safe_s", "safe_u"), [(True, True), (True, False), (False, False)])
def test_cost_loss_in_numbers(safe_s, safe_u):
    # c_s = −1, c_u = 2, s = −1 for a safe answer, and ρ·(1 + 4)/2.
    s_s, s_u = (-1.0 if safe else 1.0 for safe in (safe_s, safe_u))
    found = cost_loss(one(-1.0)[None], one(2.0)[None], one(s_s), one(s_u), rho=0.2)
    expected = -math.log(sigmoid(3.0)) - math.log(sigmoid(-s_s)) - math.log(sigmoid(2.0 * s_u)) + 0.2 * 2.5
    assert found.item() == pytest.approx(expected)


def test_a_cost_above_zero_says_unsafe():
    """The sign everything downstream rests on: from equal costs of 0 a step makes the unsafe answer's positive."""
    safer, unsafer = (torch.zeros(1, 1, dtype=D, requires_grad=True) for _ in range(2))
    cost_loss(safer, unsafer, one(-1.0), one(1.0)).sum().backward()
    assert safer.grad.item() == pytest.approx(1.0)  # descent lowers it: ½ from the order, ½ from its sign
    assert unsafer.grad.item() == pytest.approx(-1.0)
    both = torch.zeros(1, 1, dtype=D, requires_grad=True)
    cost_loss(both, both, one(1.0), one(1.0)).sum().backward()
    assert both.grad.item() == pytest.approx(-1.0)  # both unsafe: the order cancels, each sign pushes up


def test_compared_from_the_first_difference_to_the_longer_end():
    tokens_w = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0], [5, 6, 7, 8]])
    tokens_l = torch.tensor([[5, 9, 0, 0], [5, 6, 7, 0], [5, 6, 7, 8]])
    mask = first_difference(tokens_w, tokens_l, torch.tensor([4, 2, 4]), torch.tensor([2, 3, 4]))
    # The second pair differs where the shorter one ends, though the padding happens to be a token too.
    assert mask.int().tolist() == [[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_padding_never_enters_a_comparison():
    score, length = randoms((2, 5))[0], torch.tensor([3, 5])
    kept = held(score, length)
    torch.testing.assert_close(kept[0, 3:], score[0, 2].expand(2))
    torch.testing.assert_close(kept[1], score[1])
    other = score.clone()
    other[0, 3:] = 100.0
    torch.testing.assert_close(held(other, length), kept)


def test_token_wise_loss_is_the_mean_over_the_compared_tokens():
    chosen, rejected = randoms((2, 4), (2, 4))
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)
    by_hand = torch.stack([pair_loss(chosen[b][mask[b]][None], rejected[b][mask[b]][None], rho=0.3)[0] for b in (0, 1)])
    torch.testing.assert_close(pair_loss(chosen, rejected, mask, rho=0.3), by_hand)
    signs = torch.tensor([-1.0, 1.0], dtype=D), torch.tensor([1.0, 1.0], dtype=D)
    by_hand = torch.stack(
        [
            cost_loss(chosen[b][mask[b]][None], rejected[b][mask[b]][None], signs[0][b : b + 1], signs[1][b : b + 1])[0]
            for b in (0, 1)
        ]
    )
    torch.testing.assert_close(cost_loss(chosen, rejected, *signs, mask), by_hand)


# --- preferences ---


def test_dpo_is_bradley_terry_of_implicit_rewards():
    h_w, h_l = randoms((5,), (5,))
    torch.testing.assert_close(dpo(h_w, h_l, 0.3), pair_loss(0.3 * h_w[:, None], 0.3 * h_l[:, None]))


def test_dpo_gradient_is_the_papers():
    # ∇ = −β·σ(−βΔ) on h_w and the opposite on h_l (Rafailov et al. 2023, §4).
    h_w, h_l = (x.requires_grad_() for x in randoms((5,), (5,)))
    dpo(h_w, h_l, 0.7).sum().backward()
    expected = -0.7 * torch.sigmoid(-0.7 * (h_w - h_l)).detach()
    torch.testing.assert_close(h_w.grad, expected)
    torch.testing.assert_close(h_l.grad, -expected)


def test_label_noise_is_the_expected_loss_under_flipped_labels():
    h_w, h_l = randoms((5,), (5,))
    torch.testing.assert_close(dpo(h_w, h_l, 0.5, 0.2), 0.8 * dpo(h_w, h_l, 0.5) + 0.2 * dpo(h_l, h_w, 0.5))
    # Its minimum is where σ(βΔ) = 1 − ε, not at infinity.
    best = math.log(0.8 / 0.2) / 0.5
    delta = torch.tensor([best], dtype=D, requires_grad=True)
    dpo(delta, torch.zeros(1, dtype=D), 0.5, 0.2).sum().backward()
    assert delta.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_ipo_in_numbers():
    # h_w/4 = 0.5, h_l/2 = −1, target 1/(2·0.25) = 2: (1.5 − 2)².
    found = ipo(one(2.0), one(-2.0), one(4.0), one(2.0), beta=0.25)
    assert found.item() == pytest.approx(0.25)
    # Below its target the margin grows: descent raises h_w.
    h_w = one(0.0).requires_grad_()
    ipo(h_w, one(0.0), one(4.0), one(2.0), beta=0.25).sum().backward()
    assert h_w.grad.item() == pytest.approx(-2.0 * 2.0 / 4.0)


def test_simpo_in_numbers():
    # β·(−6/3 + 8/2) = 2·2 = 4, minus γ = 1.
    found = simpo(one(-6.0), one(-8.0), one(3.0), one(2.0), beta=2.0, gamma=1.0)
    assert found.item() == pytest.approx(-math.log(sigmoid(3.0)))
    assert simpo(one(-5.0), one(-8.0), one(3.0), one(2.0), 2.0, 1.0) < found  # the chosen answer likelier
    assert simpo(one(-6.0), one(-8.0), one(3.0), one(2.0), 2.0, 2.0) > found  # more is asked for


def test_kto_in_numbers():
    # β(h − z₀) = 0.5·(2 − 1); the bad answer's value is that of the mirrored margin.
    ratio, good = torch.tensor([2.0, 2.0], dtype=D), torch.tensor([True, False])
    found = kto(ratio, good, torch.tensor(1.0, dtype=D), beta=0.5, desirable=2.0, undesirable=3.0)
    torch.testing.assert_close(found, torch.tensor([2.0 * (1 - sigmoid(0.5)), 3.0 * (1 - sigmoid(-0.5))], dtype=D))


def test_kto_raises_good_and_lowers_bad_answers():
    ratio = torch.zeros(2, dtype=D, requires_grad=True)
    kto(ratio, torch.tensor([True, False]), torch.tensor(0.0, dtype=D), 1.0, 1.0, 1.0).sum().backward()
    torch.testing.assert_close(ratio.grad, torch.tensor([-0.25, 0.25], dtype=D))  # σ′(0) = ¼


def test_kto_reference_is_no_less_than_zero_and_takes_no_gradient():
    ratio = torch.tensor([1.0, -4.0], dtype=D, requires_grad=True)
    assert kto_reference(ratio).item() == 0.0
    assert kto_reference(-ratio).item() == pytest.approx(1.5)
    assert not kto_reference(-ratio).requires_grad


SCALAR = {
    "reward": lambda x, y: pair_loss(x[:, None], y[:, None], rho=0.1),
    "cost": lambda x, y: cost_loss(x[:, None], y[:, None], -torch.ones_like(x), torch.ones_like(x), rho=0.1),
    "dpo": lambda x, y: dpo(x, y, 0.4, 0.1),
    "ipo": lambda x, y: ipo(x, y, torch.full_like(x, 3.0), torch.full_like(x, 2.0), 0.4),
    "simpo": lambda x, y: simpo(x, y, torch.full_like(x, 3.0), torch.full_like(x, 2.0), 2.0, 0.5),
    "kto": lambda x, y: kto(x, y > 0, torch.tensor(0.2, dtype=D), 0.4, 1.0, 1.5),
}


@pytest.mark.parametrize("name", SCALAR)
def test_gradients_are_finite_differences(name):
    x, y = (z.requires_grad_() for z in randoms((4,), (4,), seed=3))
    assert torch.autograd.gradcheck(SCALAR[name], (x, y))


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_losses_stay_finite_far_out(a, b):
    for loss in SCALAR.values():
        assert torch.isfinite(loss(one(a), one(b))).all()
