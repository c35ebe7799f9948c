"""The seq2seq-rm claims: what they count by brute force, what they state, and one seed of each in small."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core.config import build
from trueline.core.progress import set_quiet
from trueline.core.run import Run
from trueline.core.streams import Streams
from trueline.evidence.claims import ClaimResult, Scale, run_claim
from trueline.evidence.over_seeds import FEWEST_SEEDS, holm, sign_flip
from trueline.language.claims import trainings
from trueline.language.claims.seq2seq import SEQ2SEQ_ACCURACY, SEQ2SEQ_LENGTH, SEQ2SEQ_POLICY, policies
from trueline.language.claims.seq2seq.laboratory import PER_TOKEN, RULES, SCALAR, SOFT, Laboratory, Sizes
from trueline.language.claims.seq2seq.models import agreed, auc, localisation, pair_accuracy, unseen_pairs
from trueline.language.claims.seq2seq.policies import ARMS, OTHERS, length_slopes, players_of, slope, wins
from trueline.language.claims.seq2seq.secondaries import SECONDARIES, Secondary, compared, secondaries
from trueline.language.evaluation import rollout_of, win_rate
from trueline.language.rollout import chat
from trueline.language.subject import LanguageModel, ScoreModel

torch.set_num_threads(1)
CLAIMS = (SEQ2SEQ_ACCURACY, SEQ2SEQ_POLICY, SEQ2SEQ_LENGTH)
TINY = {"sft_replies": 24, "sft_steps": 2, "model_steps": 2, "looks": 2, "test_pairs": 6}
TINY_POLICIES = {**TINY, "pairs": (24,), "policy_steps": 1, "policy_prompts": 12, "test_prompts": 4}


@pytest.fixture(autouse=True)
def _quiet():
    set_quiet(True)
    yield
    set_quiet(False)


# --- what is counted ---

NUMBERS = st.sampled_from([-1.0, 0.0, 0.5, 2.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_pair_accuracy_counts_ties_half(pairs):
    better, worse = zip(*pairs, strict=True)
    expected = np.mean([1.0 if b > w else 0.5 if b == w else 0.0 for b, w in pairs])
    assert pair_accuracy(better, worse) == pytest.approx(expected)
    assert pair_accuracy(better, worse) + pair_accuracy(worse, better) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=9))
def test_auc_compares_every_hit_with_every_miss(rows):
    hits, misses = ([score for score, hit in rows if hit is wanted] for wanted in (True, False))
    found = auc([score for score, _ in rows], [hit for _, hit in rows])
    if not hits or not misses:
        assert math.isnan(found)
        return
    expected = np.mean([1.0 if h > m else 0.5 if h == m else 0.0 for h in hits for m in misses])
    assert found == pytest.approx(expected)


def test_the_slope_is_that_of_a_regression_with_an_intercept_for_each_group():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 4)
    words = rng.integers(0, 5, size=24).astype(float)
    score = 0.7 * words + rng.normal(size=6)[group] + 0.1 * rng.normal(size=24)
    design = np.column_stack([words, *(group == g for g in range(6))]).astype(float)
    expected = np.linalg.lstsq(design, score, rcond=None)[0][0]
    assert slope(score, words, group) == pytest.approx(expected)
    assert math.isnan(slope(score, np.ones(24), group))


# --- what is stated ---


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_states_seeds_hours_and_what_it_can_detect_before_it_runs(claim):
    laptop, quick = claim.scales["laptop"], claim.scales["ci"]
    assert len(laptop.seeds) == 10 >= FEWEST_SEEDS
    assert 0.0 < laptop.cpu_hours <= 3.0
    assert 0.0 < laptop.smallest_effect < min(claim.effect, 2.0)
    assert quick.cpu_hours * 60.0 < 2.0
    for scale in (laptop, quick):
        assert build(Sizes, scale.params).max_tokens > 10, "a prompt half as long again needs nine words and an end"


def test_secondaries_are_paired_over_seeds_and_corrected_together():
    rng = np.random.default_rng(2)
    a, c = rng.normal(size=(2, 10))
    rows = [{"a": x, "b": x + 0.5 + 0.1 * e, "c": z} for x, e, z in zip(a, rng.normal(size=10), c, strict=True)]
    rows[3]["c"] = math.nan
    listed = [Secondary("b above a", "b", "a"), Secondary("c above a", "c", "a")]
    first, second = compared(rows, listed)
    gap = [row["b"] - row["a"] for row in rows]
    assert first.comparison.difference.value == pytest.approx(np.mean(gap))
    assert first.comparison.p == pytest.approx(sign_flip(gap)) == pytest.approx(2 / 2**10)
    assert second.comparison.difference.n == 9
    expected = holm([first.comparison.p, second.comparison.p])
    assert [first.p_holm, second.p_holm] == pytest.approx(list(expected))


# --- one seed ---


def rows_of(claim, params, folder, monkeypatch):
    kept = []
    monkeypatch.setattr(Laboratory, "clean", lambda self: kept.append(self.folder))
    scale = Scale((0,), 0.0, math.nan, {**claim.scales["ci"].params, **params})
    with Run.create(folder, kind="claim", name=claim.name, config={}, seed=0) as run:
        result = run_claim(replace(claim, scales={"tiny": scale}), "tiny", run)
    return result, kept[0]


def laboratory(models, **more):
    """Of the seed that was measured: its trainings are there."""
    sizes = build(Sizes, {**SEQ2SEQ_ACCURACY.scales["ci"].params, **TINY, "pairs": (24, 32), **more})
    return Laboratory(sizes, 0, models[1])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return rows_of(SEQ2SEQ_ACCURACY, {**TINY, "pairs": (24, 32)}, tmp_path_factory.mktemp("models"), patch)


def test_a_seed_of_models_has_every_number_that_is_compared(models):
    result, _ = models
    assert result.outcome == "inconclusive"
    row = result.per_seed[0]
    for one in SECONDARIES["accuracy"](build(Sizes, result.params)):
        assert {one.a, one.b} <= row.keys()
    assert row["gain"] == row["accuracy/24/sft/seq2seq-hard"] - row["accuracy/24/sft/scalar"]
    for name, value in row.items():
        if name.startswith(("accuracy", "agreement")):
            assert 0.0 <= value <= 1.0, name
    again = ClaimResult.from_json(result.to_json())
    assert [one.secondary.says for one in secondaries(again)] == [one.secondary.says for one in secondaries(result)]


def test_fewer_pairs_are_among_more_and_none_is_tested_on(models):
    _, folder = models
    few, many = (
        [json.loads(line) for line in (folder / f"pairs-{n}.jsonl").read_text().splitlines()] for n in (24, 32)
    )
    assert many[:24] == few
    lab = laboratory(models)
    tested = {prompt for kind in ("plain", "longer") for prompt in unseen_pairs(lab, kind).prompts}
    asked = {json.loads(line)["prompt"] for line in (folder / "sft.jsonl").read_text().splitlines()}
    assert not tested & ({row["prompt"] for row in many} | asked)


def test_a_training_that_was_finished_is_not_repeated(models, monkeypatch):
    monkeypatch.setattr(trainings.Run, "create", lambda *a, **k: pytest.fail("a training began again"))
    lab = laboratory(models)
    assert isinstance(lab.start, LanguageModel)
    pairs = lab.pairs(24)
    model = lab.reward_model("seq2seq", "sft", 24, pairs)
    assert lab.reward_model("scalar", "sft", 24, pairs).heads == ("reward",)
    # What was measured with it comes out again.
    test = unseen_pairs(lab, "plain")
    assert agreed(lab, model, test.prompts, test.better) == pytest.approx(
        models[0].per_seed[0]["agreement-plain/24/sft/chosen"]
    )


def test_blame_is_laid_on_words_and_not_on_the_end(models, monkeypatch):
    """A reward of −1 on each wrong word and 0 elsewhere, the end token included, localises perfectly."""
    lab = laboratory(models)
    test = unseen_pairs(lab, "plain")

    def knows(self, scoring, model, rollout):
        reward = torch.zeros(rollout.tokens.shape)
        for r, (x, y) in enumerate(zip([*test.prompts] * 2, [*test.better, *test.worse], strict=True)):
            wrong = torch.tensor([*lab.world.judge(x, y).wrong, False])
            reward[r, rollout.sampled[r]] = torch.where(wrong, -1.0, 0.0)
        return reward

    monkeypatch.setattr(Laboratory, "read", knows)
    assert localisation(lab, "seq2seq", SOFT, None, test) == 1.0


def test_a_scalar_model_blames_the_words_that_lower_its_score(models):
    """A score that falls by 1 with each wrong word and rises by 1 with each right one localises perfectly."""
    lab = laboratory(models)
    test = unseen_pairs(lab, "plain")
    replies = list(zip([*test.prompts] * 2, [*test.better, *test.worse], strict=True))

    def scores(tokens):
        found = torch.full((*tokens.shape, 1), 5.0)
        sampled = rollout_of(lab.start, *map(list, zip(*replies, strict=True))).sampled
        for r, (x, y) in enumerate(replies):
            steps = torch.tensor([-1.0 if wrong else 1.0 for wrong in (*lab.world.judge(x, y).wrong, True)])
            found[r, sampled[r], 0] = 5.0 + steps.cumsum(0)
        return found

    assert localisation(lab, "scalar", SCALAR, scores, test) == 1.0


def test_agreement_is_the_share_of_tokens_without_a_loss(models, monkeypatch):
    lab = laboratory(models)
    test = unseen_pairs(lab, "plain")

    def first_alone(self, scoring, model, rollout):
        before = rollout.sampled.cumsum(dim=1)
        return torch.where(before == 1, 0.0, -0.1)

    monkeypatch.setattr(Laboratory, "read", first_alone)
    assert agreed(lab, None, test.prompts, test.better) == pytest.approx(1 / 7)  # six words and the end


def test_the_slope_is_of_the_same_answer_with_more_filler(models, monkeypatch):
    """A score of half a point for every word of filler and nothing else."""
    lab = laboratory(models, test_prompts=4)
    asked = []

    def pays_for_filler(self, scoring, model, prompts, replies):
        asked.extend(zip(prompts, replies, strict=True))
        return np.array(
            [0.5 * self.world.judge(x, y).measures["filler"] for x, y in zip(prompts, replies, strict=True)]
        )

    monkeypatch.setattr(Laboratory, "totals", pays_for_filler)
    found = length_slopes(lab, {"scalar": None, "seq2seq": None})
    words = np.arange(0, lab.world.longest_filler + 1, 2)
    assert found == pytest.approx(dict.fromkeys(found, 1.0 / words.std()))
    assert found.keys() == {"scalar", *RULES, *PER_TOKEN}
    for _, group in itertools.groupby(asked[:20], key=lambda pair: pair[0]):
        assert len({lab.world.judge(x, y).reward for x, y in group}) == 1, "the oracle finds them equal"


def test_a_word_is_a_token(models):
    lab = laboratory(models)
    test = unseen_pairs(lab, "longer")
    rollout = rollout_of(lab.start, test.prompts, test.worse)
    words = torch.tensor([len(reply.split()) for reply in test.worse])
    assert torch.equal(rollout.sampled.sum(dim=1), words + 1)


@pytest.mark.parametrize("claim", [SEQ2SEQ_POLICY, SEQ2SEQ_LENGTH], ids=lambda claim: claim.name)
def test_a_seed_of_policies_has_every_number_that_is_compared(claim, tmp_path, monkeypatch):
    result, _ = rows_of(claim, TINY_POLICIES, tmp_path, monkeypatch)
    row = result.per_seed[0]
    sizes = build(Sizes, result.params)
    for one in SECONDARIES[claim.name](sizes):
        assert {one.a, one.b} <= row.keys()
    for name, kind in itertools.product((*ARMS, *OTHERS), ("plain", "combined", "longer")):
        assert 0.0 <= row[f"gold-{kind}/{name}"] <= 1.0
        assert row[f"win-{kind}/scalar/scalar"] == 0.5
        assert row[f"words-{kind}/{name}"] >= row[f"filler-{kind}/{name}"]
    assert row["win_rate"] == row["win-plain/seq2seq/scalar"]
    assert row["filler_gap"] == row["filler-plain/scalar"] - row["filler-plain/seq2seq"]
    assert bool(sizes.world.filler_bias) == (claim is SEQ2SEQ_LENGTH)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_wins_are_those_of_the_win_rate(prompts, n, m, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 3, (prompts, n)) / 2, rng.integers(0, 3, (prompts, m)) / 2
    assert wins(a, b) == pytest.approx(win_rate(a, b).estimate.value)
    assert wins(a, b) + wins(b, a) == pytest.approx(1.0)


def test_the_best_of_eight_is_the_best_by_its_own_reward(models, monkeypatch):
    """Eight are drawn to each prompt; by one reward the longest is kept, by the other the shortest."""
    lab = laboratory(models, policy_prompts=12, test_prompts=4, policy_steps=1)
    monkeypatch.setattr(policies, "_policy", lambda lab, *_: lab.start)
    monkeypatch.setattr(policies, "_preferring", lambda lab, *_: lab.start)
    monkeypatch.setattr(policies, "HARD", SCALAR)
    long, short = Lengths(lab.start, 1.0), Lengths(lab.start, -1.0)
    players = players_of(lab, {"scalar": long, "token-wise": long, "seq2seq": short}, lab.pairs(24))
    assert players.keys() == {*ARMS, *OTHERS}
    tested = lab.prompts(3, "verdict", "plain", "best")
    asked = [chat(prompt) for prompt in tested for _ in range(16)]
    drawn = [reply.tokens for reply in lab.start.reply(asked, lab.sampling, Streams(0).rng("once"))]
    for name, extreme in (("best-of", max), ("best-of-seq2seq", min)):
        lab.streams = Streams(0)
        said = players[name].answers(lab, tested, "once")
        assert said.per_prompt == 2
        assert [reply.tokens for reply in said.replies] == [extreme(drawn[at : at + 8]) for at in range(0, 48, 8)]


class Lengths(ScoreModel):
    """Scores a token by its place: the last one's score is how long the whole is, with a sign."""

    def __init__(self, start, sign):
        super().__init__(start.model.base_model, start.tokenizer, ("reward",))
        self.sign = sign

    def forward(self, tokens):
        return self.sign * torch.arange(tokens.shape[1]).float()[None, :, None].expand(len(tokens), -1, 1)
