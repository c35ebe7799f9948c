"""Win rates, reply statistics and over-optimisation curves: against loops over pairs, subsets and tokens."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LETTERS, nano

from trueline.core import registry
from trueline.core.errors import ConfigError
from trueline.evidence.records import EvidenceError
from trueline.evidence.statistics import mean_sequence
from trueline.language.best_of_n import best_of_n_distribution
from trueline.language.evaluation import (
    Answers,
    OptimisationWatch,
    answered,
    best_of_n_curve,
    best_of_n_kl_bound,
    best_of_n_mean,
    difference,
    divergence,
    optimisation_point,
    reply_statistics,
    rollout_of,
    values_of,
    win_rate,
)
from trueline.language.rollout import Reply, Rollout, Sampling, chat
from trueline.language.sampler import StaticCache, replies_of
from trueline.language.scorers import Function, Judgement

torch.set_num_threads(1)
GRADES = st.sampled_from([0.0, 0.5, 1.0, math.nan])


def tables(prompts, replies):
    return st.lists(st.lists(GRADES, min_size=replies, max_size=replies), min_size=prompts, max_size=prompts)


def won_by_hand(a, b):
    """Mean over prompts of the mean over pairs of 1, ½ or 0; and how many prompts have no pair."""
    shares = []
    for x, y in zip(a, b, strict=True):
        pairs = [(p, q) for p in x for q in y if not math.isnan(p) and not math.isnan(q)]
        if pairs:
            shares.append(sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs))
    return (sum(shares) / len(shares) if shares else math.nan), len(a) - len(shares)


@settings(max_examples=60, deadline=None)
@given(tables(5, 2), tables(5, 3))
def test_the_win_rate_is_that_of_all_pairs_prompt_by_prompt(a, b):
    found, back = win_rate(a, b), win_rate(b, a)
    expected, missing = won_by_hand(a, b)
    assert found.missing == back.missing == missing
    assert found.estimate.clusters == 5 - missing
    if missing == 5:
        assert math.isnan(found.estimate.value)
        return
    assert found.estimate.value == pytest.approx(expected)
    assert found.wins + 0.5 * found.ties == pytest.approx(expected)
    assert found.wins + found.ties + found.losses == pytest.approx(1.0)
    assert found.estimate.value + back.estimate.value == pytest.approx(1.0)
    assert found.wins == pytest.approx(back.losses)


def test_more_replies_to_a_prompt_are_not_more_prompts():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30, 1))
    once, often = win_rate(a, b).estimate, win_rate(np.repeat(a, 9, axis=1), np.repeat(b, 4, axis=1)).estimate
    assert (once.low, once.high, once.clusters) == (often.low, often.high, 30)
    same = mean_sequence((a > b)[:, 0].astype(float), (0.0, 1.0))
    assert (once.value, once.low, once.high) == (same.value, same.low, same.high)


def test_win_rates_of_other_shapes_are_refused():
    with pytest.raises(EvidenceError, match=r"values of shapes \(2, 1\) and \(3, 1\) cannot be compared"):
        win_rate(np.zeros((2, 1)), np.zeros((3, 1)))


def test_a_difference_is_of_prompt_means_and_leaves_out_what_one_side_lacks():
    a = np.array([[1.0, 0.0], [0.5, math.nan], [math.nan, math.nan], [0.2, 0.4]])
    b = np.array([[0.25], [0.0], [1.0], [0.9]])
    found = difference(a, b, bounds=(0.0, 1.0))
    assert found.value == pytest.approx(np.mean([0.25, 0.5, -0.6]))
    assert found.clusters == 3
    assert difference(b, a, bounds=(0.0, 1.0)).value == pytest.approx(-found.value)


def test_statistics_of_replies():
    replies = (Reply("a b", 3, True), Reply("no", 2, True), Reply("c c c c", 4, False), Reply(" ", 1, True))
    found = reply_statistics(Answers(("x", "y"), replies), 4, lambda prompt, reply: reply == "no" and prompt == "x")
    assert found.length.value == pytest.approx((2.5 + 2.5) / 2)
    assert found.quartiles == tuple(np.quantile([3, 2, 4, 1], (0.25, 0.5, 0.75)))
    assert (found.cut.value, found.empty.value, found.refused.value) == (0.25, 0.25, 0.25)
    assert found.length.clusters == found.refused.clusters == 2
    assert 0.0 <= found.length.low <= found.length.value <= found.length.high <= 4.0
    assert reply_statistics(Answers(("x", "y"), replies), 4).refused is None


def test_a_judge_may_give_numbers_judgements_or_nothing():
    answers = Answers(("x", "y"), tuple(Reply(text, 1, True) for text in "abcd"))
    said = [0.5, None, Judgement(2.0), math.nan]
    found = values_of(answers, lambda prompts, replies: said)
    np.testing.assert_array_equal(found, [[0.5, math.nan], [2.0, math.nan]])
    assert answers.asked == ["x", "x", "y", "y"]
    with pytest.raises(ConfigError, match="gave 1 values for 4 replies"):
        values_of(answers, lambda prompts, replies: [1.0])


def test_replies_come_prompt_by_prompt():
    class Echo:
        def reply(self, chats, sampling, rng):
            return [Reply(one[-1].content * 2, 2, True) for one in chats]

    found = answered(Echo(), ["a", "b"], Sampling(), np.random.default_rng(0), per_prompt=2)
    assert [reply.text for reply in found.replies] == ["aa", "aa", "bb", "bb"]
    with pytest.raises(ConfigError, match="0 prompts with 1 replies each"):
        answered(Echo(), [], Sampling(), np.random.default_rng(0))


# --- rollouts of given texts, and divergence ---


@pytest.fixture(scope="module")
def policy():
    return nano()


def test_given_replies_become_the_rollout_that_would_have_drawn_them(policy):
    asked, sampling = ["abc", "dd", "e"] * 40, Sampling(max_tokens=3)
    drawn = StaticCache().sample(policy, [chat(x) for x in asked], sampling, np.random.default_rng(1))
    texts = [reply.text for reply in replies_of(drawn, policy, sampling)]
    plain = [all(letter in LETTERS.alphabet for letter in text) for text in texts]
    same = [k for k, text in enumerate(texts) if plain[k] and len(text) + drawn.ended[k] == drawn.sampled[k].sum()]
    assert {bool(drawn.ended[k]) for k in same} == {True, False}, "both kinds of ending are to be compared"
    made = rollout_of(policy, [asked[k] for k in same], [texts[k] for k in same], [bool(drawn.ended[k]) for k in same])
    width = made.tokens.shape[1]
    for name in ("attended", "sampled"):
        assert torch.equal(getattr(made, name), getattr(drawn, name)[same, :width])
    assert torch.equal(made.tokens[made.attended], drawn.tokens[same, :width][made.attended])
    assert torch.equal(made.ended, drawn.ended[same])


def first_token_rollout(policy, prompt, temperature):
    """A row for every token that may come first, with its log-probability."""
    shown = rollout_of(policy, [prompt], [""]).tokens[0, :-1]
    with torch.no_grad():
        log_p = (policy.model(input_ids=shown[None]).logits[0, -1].double() / temperature).log_softmax(-1)
    count = len(log_p)
    tokens = torch.cat([shown.expand(count, -1), torch.arange(count)[:, None]], dim=1)
    sampled = torch.zeros(tokens.shape, dtype=torch.bool)
    sampled[:, -1] = True
    log_prob = torch.zeros(tokens.shape, dtype=torch.float64)
    log_prob[:, -1] = log_p
    ended = torch.ones(count, dtype=torch.bool)
    group = torch.zeros(count, dtype=torch.int64)
    return Rollout(tokens, torch.ones_like(sampled), sampled, log_prob, group, ended, (prompt,) * count)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_mean_divergence_of_all_replies_is_the_kl_divergence(policy, temperature):
    """One token long: Σ_v π(v)·(log π(v) − log π_ref(v)), both at the temperature."""
    other = nano(seed=3)
    ours, theirs = (first_token_rollout(model, "ab", temperature) for model in (policy, other))
    p, q = (rollout.log_prob[:, -1] for rollout in (ours, theirs))
    expected = float((p.exp() * (p - q)).sum())
    assert float((p.exp() * divergence(ours, other, temperature)).sum()) == pytest.approx(expected, rel=1e-5)
    assert expected > 0.1
    assert float(divergence(ours, policy, temperature).abs().max()) < 1e-5


# --- best of n ---


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1)), min_size=1, max_size=6), st.integers(1, 6))
def test_the_best_of_n_mean_is_that_of_all_subsets(pairs, n):
    """Over every subset of n; of the best ones that are equal by the proxy each is as likely."""
    proxy, gold = (np.array(x, dtype=float) for x in zip(*pairs, strict=True))
    if n > len(pairs):
        with pytest.raises(EvidenceError, match=f"best of {n} cannot be told from {len(pairs)}"):
            best_of_n_mean(proxy, gold, n)
        return
    subsets = [list(subset) for subset in itertools.combinations(range(len(pairs)), n)]
    expected = np.mean([gold[s][proxy[s] == proxy[s].max()].mean() for s in subsets])
    assert best_of_n_mean(proxy, gold, n) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(0, 4)), min_size=1, max_size=8), st.integers(1, 20))
def test_no_best_of_n_diverges_more_than_the_bound(rows, n):
    p, reward = (np.array(x, dtype=float) for x in zip(*rows, strict=True))
    p /= p.sum()
    q = best_of_n_distribution(p, reward, n)
    kl = float(np.sum(np.where(q > 0, q * np.log(np.maximum(q, 1e-300) / p), 0.0)))
    assert -1e-12 <= kl <= best_of_n_kl_bound(n) + 1e-12


def test_the_bound_is_the_divergence_where_every_reply_is_rare_and_rewards_differ():
    p = np.full(20_000, 1 / 20_000)
    q = best_of_n_distribution(p, np.arange(20_000.0), 8)
    assert float(np.sum(q * np.log(q / p))) == pytest.approx(best_of_n_kl_bound(8), abs=1e-3)
    two = best_of_n_distribution([0.5, 0.5], [0.0, 1.0], 8)  # few replies: at most log 2, whatever n
    assert float(np.sum(two * np.log(two / 0.5))) < math.log(2) < best_of_n_kl_bound(8)


def test_a_curve_uses_what_was_judged_and_says_that_its_divergence_is_a_bound():
    rng = np.random.default_rng(2)
    gold = rng.random((40, 8))
    proxy = gold + rng.normal(size=gold.shape)
    proxy[0, 3:] = math.nan
    gold[1, 0] = math.nan
    points = best_of_n_curve(proxy, gold, [1, 4, 8], gold_bounds=(0.0, 1.0))
    assert [point.label for point in points] == ["1", "4", "8"]
    assert points[0].gold.value == pytest.approx(
        np.mean([gold[0, :3].mean(), gold[1, 1:].mean(), *gold[2:].mean(axis=1)])
    )
    assert points[2].gold.value == pytest.approx(
        np.mean([g[np.argmax(p)] for p, g in zip(proxy[2:], gold[2:], strict=True)])
    )
    assert [point.gold.clusters for point in points] == [40, 39, 38]
    assert [point.missing for point in points] == [6, 6, 6]
    bound = points[1].kl
    assert (bound.value, bound.low, bound.high) == (pytest.approx(math.log(4) - 0.75), 0.0, bound.value)
    assert bound.method.startswith("upper bound")
    rises = [point.proxy.value for point in points]
    assert rises == sorted(rises)
    with pytest.raises(EvidenceError, match="no prompt has 9 judged replies"):
        best_of_n_curve(proxy, gold, [9])


# --- a policy's point ---


class CountsA:
    costs = ()

    def __call__(self, prompts, replies):
        return [None if "g" in reply.text else float(reply.text.count("a")) for reply in replies]


@pytest.fixture
def letters(monkeypatch):
    known = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name: CountsA if (kind, name) == ("scorer", "a") else known(kind, name)
    )
    return [Function(name="a")]


def test_a_point_is_of_the_replies_that_both_judges_could_judge(policy, letters):
    """The proxy knows nothing of replies with g, the gold judge nothing of those with b."""
    sampling, prompts = Sampling(max_tokens=5), ["ab", "cd", "e", "ff"]

    def gold(asked, replies):
        return [None if "b" in reply.text else float(len(reply.text)) for reply in replies]

    point = optimisation_point(
        policy, nano(seed=3), prompts, letters, gold, sampling, np.random.default_rng(5), per_prompt=8,
        gold_bounds=(0.0, 5.0), label="7",
    )  # fmt: skip
    drawn = StaticCache().sample(
        policy, [chat(x) for x in prompts for _ in range(8)], sampling, np.random.default_rng(5)
    )
    texts = [reply.text for reply in replies_of(drawn, policy, sampling)]
    kept = [[t for t in texts[k : k + 8] if "g" not in t and "b" not in t] for k in range(0, 32, 8)]
    kept = [some for some in kept if some]
    assert point.missing == 32 - sum(map(len, kept)) > 0
    assert point.proxy.value == pytest.approx(np.mean([np.mean([t.count("a") for t in some]) for some in kept]))
    assert point.gold.value == pytest.approx(np.mean([np.mean([len(t) for t in some]) for some in kept]))
    assert point.kl.value == pytest.approx(float(divergence(drawn, nano(seed=3)).mean()), rel=1e-5)
    worth = [float(len(t)) for some in kept for t in some]
    of_prompt = np.repeat(np.arange(len(kept)), [len(some) for some in kept])
    assert point.gold == mean_sequence(worth, (0.0, 5.0), 0.95, of_prompt)
    assert point.proxy.clusters == point.gold.clusters == len(kept)
    assert point.label == "7"


def test_a_watch_asks_the_same_at_every_look_and_logs_the_policy_alone(letters):
    policy, reference = nano(), nano()
    watch = OptimisationWatch(reference, ["ab", "c"], letters, lambda p, r: [1.0] * len(r), Sampling(max_tokens=4))
    first, again = watch(1, policy), watch(2, policy)
    assert first == again
    assert first["look/kl"] == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.7)
    moved = watch(3, policy)
    assert abs(moved["look/kl"]) > 1e-2
    assert [point.label for point in watch.points] == ["1", "2", "3"]
