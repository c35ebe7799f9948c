"""Group estimators against loops and enumeration, per-signal centring, and the names of length normalisation."""

import itertools

import numpy as np
import pytest
import torch

from trueline.language.estimators import Gae, Grpo, Rloo, token_weights
from trueline.language.signals import Signals, estimated, mixed, whitened
from trueline.rl.handlers.constraint import Weights, normalised

WEIGHTS = normalised(torch.tensor([0.8, 0.3], dtype=torch.float64))


def batch(seed=0, missing=()):
    """Seven replies to three prompts (3, 2 and 2), lengths 1 to 4, three signals on every token."""
    rng = np.random.default_rng(seed)
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    length = np.array([4, 1, 2, 3, 3, 2, 4])
    kept = torch.tensor(np.arange(5) < length[:, None] + 1) & (torch.arange(5) >= 1)
    kept[list(missing)] = False
    signal = torch.tensor(rng.normal(size=(7, 5, 3))) * kept[..., None]
    return Signals(signal, kept), group


def looped(signals, group, weights, centre):
    """Mixed advantage of each row, row by row."""
    total, rows = signals.total.numpy(), range(len(group))
    scored = signals.kept.any(1).numpy()
    out = np.zeros(len(group))
    for r in rows:
        others = [q for q in rows if group[q] == group[r] and scored[q] and (centre == "mean" or q != r)]
        if scored[r] and others:
            diff = total[r] - total[others].mean(0)
            out[r] = float(weights.reward) * diff[0] - float(weights.cost @ torch.tensor(diff[1:]))
    return out


@pytest.mark.parametrize("missing", [(), (1,), (3,), (5, 6)])
def test_rloo_leaves_one_out_in_every_signal_and_mixes_after(missing):
    signals, group = batch(missing=missing)
    got = Rloo().advantage(signals, group, WEIGHTS)
    expected = looped(signals, group, WEIGHTS, "others")
    np.testing.assert_allclose(got.numpy(), np.where(signals.kept, expected[:, None], 0.0), atol=1e-12)


@pytest.mark.parametrize("missing", [(), (1,), (5, 6)])
def test_grpo_divides_what_is_mixed_alone(missing):
    signals, group = batch(missing=missing)
    centred = looped(signals, group, WEIGHTS, "mean")
    scored = signals.kept.any(1).numpy()
    expected = np.zeros(7)
    for r in range(7):
        mates = [q for q in range(7) if group[q] == group[r] and scored[q]]
        if scored[r]:
            std = np.std(centred[mates], ddof=1) if len(mates) > 1 else 0.0
            expected[r] = centred[r] / (std + 1e-4)
    got = Grpo().advantage(signals, group, WEIGHTS)
    np.testing.assert_allclose(got.numpy(), np.where(signals.kept, expected[:, None], 0.0), atol=1e-9)
    none = Grpo(scale_rewards="none").advantage(signals, group, WEIGHTS)
    np.testing.assert_allclose(none.numpy(), np.where(signals.kept, centred[:, None], 0.0), atol=1e-12)


def test_grpo_on_the_scale_of_the_batch():
    signals, group = batch()
    row = mixed(signals.total, WEIGHTS)
    centred = torch.tensor(looped(signals, group, WEIGHTS, "mean"))
    got = Grpo(scale_rewards="batch").advantage(signals, group, WEIGHTS)
    torch.testing.assert_close(got[:, 1], centred / (row.std() + 1e-4))


@pytest.mark.parametrize("estimator", [Rloo(), Rloo(whiten=True), Grpo(), Grpo(scale_rewards="batch")])
def test_what_all_replies_to_a_prompt_share_is_no_advantage(estimator):
    signals, group = batch()
    last = signals.kept & ~torch.nn.functional.pad(signals.kept[:, 1:], (0, 1))
    # the same reward for every reply to a prompt; the cost likewise
    offset = torch.tensor([5.0, -3.0, 0.0], dtype=torch.float64)
    more = Signals(signals.signal + last[..., None] * offset, signals.kept)
    got, same = (estimator.advantage(one, group, WEIGHTS) for one in (more, signals))
    torch.testing.assert_close(got, same)


def test_whitened_rloo_has_mean_zero_and_scale_one_over_replies():
    signals, group = batch(missing=(2,))
    row = Rloo(whiten=True).advantage(signals, group, WEIGHTS)[[0, 1, 3, 4, 5, 6], 1]
    assert float(row.mean()) == pytest.approx(0.0, abs=1e-9)
    assert float(row.std()) == pytest.approx(1.0, abs=1e-3)


def test_rloo_is_an_unbiased_policy_gradient():
    """Enumerated: two replies of one token each to one prompt, three tokens; E[Σ A·∇log π/2] = ∇E[r − c]."""
    logits = torch.tensor([0.1, -0.5, 0.8], dtype=torch.float64)
    reward, cost = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 0.9, -1.0])
    weights = Weights(torch.tensor(1.0), torch.tensor([1.0]))
    estimate = torch.zeros(3, dtype=torch.float64)
    kept, group = torch.tensor([[True], [True]]), torch.tensor([0, 0])
    for pair in itertools.product(range(3), repeat=2):
        y = torch.tensor(pair)
        leaf = logits.clone().requires_grad_()
        log_p = torch.log_softmax(leaf, 0)[y]
        signals = Signals(torch.stack([reward[y], cost[y]], dim=-1)[:, None].double(), kept)
        advantage = Rloo().advantage(signals, group, weights)[:, 0]
        ((advantage * log_p) @ token_weights(kept, "luspo", 1)[:, 0].double()).backward()
        estimate += log_p.sum().exp().detach() * leaf.grad
    leaf = logits.clone().requires_grad_()
    (torch.softmax(leaf, 0) @ (reward - cost).double()).backward()
    torch.testing.assert_close(estimate, leaf.grad)


def test_gae_whitens_once_after_mixing():
    signals, _ = batch()
    value = torch.randn(signals.signal.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    settings = Gae(gamma=0.9, lam=0.5)
    estimates = settings.estimates(signals, value)
    expected = mixed(estimated(signals, value, 0.9, 0.5).advantage, WEIGHTS)
    plain = Gae(gamma=0.9, lam=0.5, whiten=False).mixed(signals, estimates, WEIGHTS)
    torch.testing.assert_close(plain, expected)
    torch.testing.assert_close(settings.mixed(signals, estimates, WEIGHTS), whitened(expected, signals.kept))


def test_length_normalisation_by_its_names():
    # replies of 1 and 3 tokens, and a row that was not scored; T_max = 4
    kept = torch.tensor([[False, True, False, False], [False, True, True, True], [False] * 4])
    first, second = kept[0], kept[1]
    for name, one, three in (
        ("grpo", 1 / 2, 1 / 6),
        ("dr_grpo", 1 / 8, 1 / 8),
        ("dapo", 1 / 4, 1 / 4),
        ("bnpo", 1 / 4, 1 / 4),
        ("luspo", 1 / 2, 1 / 2),
    ):
        got = token_weights(kept, name, 4)
        torch.testing.assert_close(got[0, first], torch.full((1,), one))
        torch.testing.assert_close(got[1, second], torch.full((3,), three))
        assert got[2].sum() == 0


def trl_losses():
    """TRL's own expressions on one tensor of losses, from its GRPO trainer's published equations."""
    return {
        "grpo": lambda x, mask, top: ((x * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean(),
        "bnpo": lambda x, mask, top: (x * mask).sum() / mask.sum().clamp(min=1.0),
        "dr_grpo": lambda x, mask, top: (x * mask).sum() / (x.size(0) * top),
        "luspo": lambda x, mask, top: (x * mask).sum(-1).mean(),
    }


@pytest.mark.parametrize("name", ["grpo", "bnpo", "dr_grpo", "luspo"])
def test_weighted_losses_equal_the_formulas_behind_the_names(name):
    signals, _ = batch()
    x = torch.randn(signals.kept.shape, generator=torch.Generator().manual_seed(1))
    ours = (x * token_weights(signals.kept, name, 9)).sum()
    torch.testing.assert_close(ours, trl_losses()[name](x, signals.kept.float(), 9))
