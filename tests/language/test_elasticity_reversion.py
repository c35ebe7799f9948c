"""Items to revert, what is looked at on the way, and resistance between checkpoints."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from small_models import nano

from trueline.core.errors import ConfigError
from trueline.language.elasticity.resistance import resistance, towards, written
from trueline.language.elasticity.reversion import (
    Crossing,
    Exam,
    divergence,
    even_marks,
    followed,
    items_to,
    soonest,
    trend,
    value_at,
)
from trueline.language.elasticity.tuning import TuneProtocol, tuning_on
from trueline.language.models import token_log_prob
from trueline.language.optimiser import AdamW
from trueline.language.rollout import Sampling, chat
from trueline.language.sampler import Auto
from trueline.language.subject import LanguageModel

torch.set_num_threads(1)
CHATS = (chat("abc"), chat("h"), chat("d. d."), chat("gg"))
SAMPLING = Sampling(max_tokens=6)


def rng(seed=0):
    return np.random.default_rng(seed)


def protocol(lr=1e-3, **settings):
    return TuneProtocol(optimiser=AdamW(lr=lr, schedule="constant"), **settings)


# --- items to a level ---


@given(st.floats(0.5, 3.0), st.floats(0.01, 0.5), st.floats(0.0, 0.99), st.integers(2, 30), st.booleans())
def test_a_score_that_is_linear_in_the_root_is_found_exactly(start, slope, share, looks, falling):
    """s(m) = a - b·√m reaches L at ((a - L)/b)², wherever the looks are."""
    most = 400
    level = start - share * slope * math.sqrt(most)
    marks = [0, *sorted({max(1, round(most * (j / looks) ** 1.5)) for j in range(1, looks)} - {most}), most]
    scores = [start - slope * math.sqrt(m) for m in marks]
    sign = 1.0 if falling else -1.0
    found = items_to(sign * level, marks, [sign * s for s in scores], falling)
    assert not found.censored
    assert found.items == pytest.approx(((start - level) / slope) ** 2, rel=1e-6, abs=1e-6)


@given(st.floats(0.0, 64.0), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
def test_a_value_between_looks_is_linear_in_the_root(item, start, slope):
    marks = (0, 4, 9, 30, 64)
    values = [start + slope * math.sqrt(m) for m in marks]
    assert value_at(item, marks, values) == pytest.approx(start + slope * math.sqrt(item), abs=1e-9)


def test_a_score_that_does_not_come_back_is_no_number():
    found = items_to(0.5, [0, 8, 32], [0.9, 0.8, 0.6])
    assert found == Crossing(32.0, censored=True)
    assert str(found) == "> 32"
    assert str(Crossing(7.25, censored=False)) == "7.2"


def test_what_is_there_already_takes_no_items():
    assert items_to(0.5, [0, 8], [0.4, 0.9]) == Crossing(0.0, censored=False)
    assert items_to(0.5, [0, 8], [0.4, 0.9], falling=False).items == pytest.approx(8 * 0.2**2)


def test_the_first_return_counts_and_missing_looks_are_passed_over():
    # √m runs 0, 2, 4, 6: from 0.9 to 0.3 between 0 and 4 crosses 0.5 at √m = 4·(0.4/0.6).
    assert items_to(0.5, [0, 4, 16, 36], [0.9, math.nan, 0.3, 0.8]).items == pytest.approx((8 / 3) ** 2)


def test_the_attacker_takes_the_least_that_returned():
    assert soonest([Crossing(90, False), Crossing(12, True), Crossing(40, False)]) == Crossing(40, False)
    assert soonest([Crossing(64, True), Crossing(128, True)]) == Crossing(128, True)


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=7, unique=True))
def test_the_trend_is_kendalls(counts):
    crossings = [Crossing(float(m), False) for m in counts]
    assert trend(crossings) == pytest.approx(kendalltau(range(len(counts)), counts).statistic)
    assert trend(crossings[::-1]) == pytest.approx(-trend(crossings))


def test_more_than_some_is_above_what_it_is_known_to_exceed_and_no_more():
    beyond = Crossing(100.0, True)
    assert trend([beyond, Crossing(100.0, False)]) == -1.0
    assert trend([Crossing(20.0, False), beyond]) == 1.0
    assert trend([beyond, Crossing(120.0, False)]) == 0.0
    assert trend([beyond, Crossing(50.0, True)]) == 0.0
    # Of the three pairs of this list two fall, and the two that did not return are alike.
    assert trend([beyond, beyond, Crossing(3.0, False)]) == pytest.approx(-2 / 3)


@given(st.integers(8, 2000), st.integers(2, 20), st.integers(1, 16))
def test_marks_are_whole_batches_even_on_the_scale_of_the_root(most, points, size):
    marks = even_marks(most, points, size)
    assert marks[0] == 0
    assert marks[-1] == most
    assert list(marks) == sorted(set(marks))
    assert all(mark % size == 0 for mark in marks[:-1])
    widest = max(math.sqrt(b) - math.sqrt(a) for a, b in itertools.pairwise(marks))
    assert widest <= math.sqrt(math.ceil(most / size) * size) / points + 2 * math.sqrt(size)


@pytest.mark.parametrize(("aligned", "ratio"), [(0.70, 0.65), (0.84, 0.42), (0.90, 0.30), (0.95, 0.19)])
def test_coming_back_sooner_is_nothing_that_a_single_logit_does_not_do(aligned, ratio):
    """Gradient ascent on log σ(z), then on log σ(-z): why no ratio of items back to items away is ever reported.

    Away takes z + e^z - 1 and back z + 1 - e^-z of time.
    """
    z, dt = 0.0, 1e-4
    away = back = 0.0
    while 1 / (1 + math.exp(-z)) < aligned:
        z, away = z + dt / (1 + math.exp(z)), away + dt
    reached = z
    while z > 0:
        z, back = z - dt / (1 + math.exp(-z)), back + dt
    assert back / away == pytest.approx(ratio, abs=0.006)
    assert away == pytest.approx(reached + math.exp(reached) - 1, abs=2e-3)
    assert back == pytest.approx(reached + 1 - math.exp(-reached), abs=2e-3)


# --- what is looked at ---


def first_token(subject, asked, model=None):
    """log π of the first token of a reply, in full."""
    rollout = Auto().sample(subject, [asked], Sampling(max_tokens=1), rng())
    start = int(rollout.sampled[0].float().argmax())
    with torch.no_grad():
        return (model or subject).model(rollout.tokens[:, :start]).logits[0, -1].double().log_softmax(-1)


def test_the_divergence_of_one_token_is_exact():
    subject, base = nano(0), nano(1)
    rollout = Auto().sample(subject, CHATS, Sampling(max_tokens=1), rng())
    expected = []
    for asked in CHATS:
        p, q = first_token(subject, asked), first_token(subject, asked, base)
        expected.append(float((p.exp() * (p - q)).sum()))
    assert divergence(subject, base, rollout) == pytest.approx(np.mean(expected), rel=1e-4)
    assert divergence(subject, subject, rollout) == 0.0


def test_the_divergence_of_replies_is_that_of_their_distributions(monkeypatch):
    """Against the mean log-ratio of the replies themselves, which has the same expectation and more noise."""
    subject, base = nano(0), nano(1)
    rollout = Auto().sample(subject, CHATS[:1] * 600, Sampling(max_tokens=3), rng())
    with torch.no_grad():
        ratio = token_log_prob(subject.model, rollout.tokens) - token_log_prob(base.model, rollout.tokens)
    by_reply = (ratio * rollout.sampled).sum(dim=1).double()
    error = float(by_reply.std() / math.sqrt(len(by_reply)))
    whole = divergence(subject, base, rollout)
    assert whole == pytest.approx(float(by_reply.mean()), abs=4 * error)
    assert error < whole / 4
    monkeypatch.setattr("trueline.language.elasticity.reversion._NUMBERS_AT_ONCE", 7000)
    assert divergence(subject, base, rollout) == pytest.approx(whole, rel=1e-6)


def test_models_of_other_tokens_have_no_divergence():
    from trueline.language.models import ModelRef

    other = LanguageModel.of(ModelRef(), rng())
    rollout = Auto().sample(nano(), CHATS, SAMPLING, rng())
    with pytest.raises(ConfigError, match="different tokenizers"):
        divergence(nano(), other, rollout)


def test_an_exam_has_the_same_luck_at_every_sitting():
    lengths = []

    def judge(chats, replies):
        assert chats == CHATS
        lengths.append([reply.tokens for reply in replies])
        return [math.nan, *[float(n) for n in lengths[-1][1:]]]

    exam = Exam(CHATS, SAMPLING, judge, seed=3)
    first = exam.score(nano())
    assert first == pytest.approx(np.mean(lengths[0][1:]))  # the reply without a number is left out
    assert exam.score(nano()) == first
    assert math.isnan(Exam(CHATS, SAMPLING, lambda c, r: [math.nan] * len(r), 3).score(nano()))
    seen = exam.look(nano(1))(nano())
    assert seen["score"] == first
    assert seen["divergence"] == divergence(nano(), nano(1), exam.answers(nano()))
    assert set(exam.look()(nano())) == {"score"}


def test_a_path_holds_what_was_seen_and_ends_where_the_model_breaks():
    subject, exam = nano(), Exam(CHATS, SAMPLING, lambda c, r: [float(x.tokens) for x in r], 0)
    items = written(nano(1), CHATS * 4, SAMPLING, rng()).items
    path = followed(tuning_on(subject, items, protocol(marks=(0, 8)), rng()), exam.look(nano(1)))
    assert path.items == (0, 8, 16)
    assert path.values["score"][0] == exam.score(subject)
    assert path.values["divergence"][2] < path.values["divergence"][0]  # it learns what the base writes
    assert path.tokens[0] == 0 < path.tokens[1] < path.tokens[2]
    level = sum(path.values["divergence"][1:]) / 2
    assert 8 < path.items_to(level, "divergence").items < 16
    broken = followed(tuning_on(subject, items, protocol(lr=1e30, marks=(0,)), rng()), exam.look())
    assert broken.items == (0,)
    assert broken.items_to(-1.0).censored
    wrecked = followed(tuning_on(subject, items[:8], protocol(lr=1e30, marks=(0,)), rng()), exam.look())
    assert wrecked.items == (0, 8)
    assert math.isnan(wrecked.values["score"][1])  # no loss was computed since, but its replies have no probability


# --- resistance ---


def test_what_is_written_costs_its_writer_what_it_says():
    subject = nano()
    data = written(subject, CHATS * 8, SAMPLING, rng())
    nll = tokens = 0.0
    for item in data.items:
        (row,) = item.rows
        with torch.no_grad():
            log_prob = token_log_prob(subject.model, torch.tensor(row.tokens)[None])[0].double().numpy()
        assert row.weight[: row.start].sum() == 0
        nll, tokens = nll - float(log_prob @ row.weight), tokens + row.weight.sum()
    assert data.nll == pytest.approx(nll / tokens, rel=1e-4)


def test_a_model_pulled_to_its_own_replies_has_no_excess():
    subject = nano()
    data = written(subject, CHATS * 8, SAMPLING, rng())
    questions = Auto().sample(subject, CHATS, SAMPLING, rng(1))
    found = towards(subject, subject, data, protocol(lr=1e-12, marks=(0,)), rng(), questions, epsilon=0.01)
    assert found.excess == pytest.approx(0.0, abs=1e-5)
    assert found.loss == pytest.approx(data.nll, abs=1e-5)
    assert found.items == Crossing(0.0, False)


def test_nearness_is_the_divergence_of_the_writer_from_the_copy():
    one, two = nano(0), nano(1)
    data, questions = written(one, CHATS, SAMPLING, rng()), Auto().sample(one, CHATS * 4, SAMPLING, rng(1))
    apart, other_way = divergence(one, two, questions), divergence(two, one, questions)
    assert abs(apart - other_way) > 0.02 * apart
    for share, reached in ((1.01, True), (0.99, False)):
        found = towards(two, one, data, protocol(lr=1e-12, marks=(0,)), rng(), questions, share * apart)
        assert found.items.censored is not reached


def test_excess_is_the_log_ratio_and_raw_differs_by_the_writers_entropies():
    one, two = nano(0), nano(1)
    chats = CHATS * 8
    (pair,) = resistance([one, two], chats, SAMPLING, protocol(lr=1e-12, marks=(0,)), seed=4, epsilon=1e-3)
    assert (pair.earlier, pair.later) == (0, 1)
    data = [written(model, chats, SAMPLING, rng([4, 0])) for model in (one, two)]

    def log_ratio(writer, reader, items):
        total = tokens = 0.0
        for item in items:
            row = item.rows[0]
            with torch.no_grad():
                p, q = (token_log_prob(m.model, torch.tensor(row.tokens)[None])[0].double() for m in (writer, reader))
            total, tokens = total + float((p - q).numpy() @ row.weight), tokens + row.weight.sum()
        return total / tokens

    assert pair.forward.excess == pytest.approx(log_ratio(two, one, data[1].items), rel=1e-3)
    assert pair.inverse.excess == pytest.approx(log_ratio(one, two, data[0].items), rel=1e-3)
    assert pair.excess == pytest.approx(pair.forward.excess - pair.inverse.excess)
    assert pair.raw == pytest.approx(pair.excess + data[1].nll - data[0].nll, abs=1e-5)
    assert pair.forward.items.censored  # at no rate at all nobody comes nearer
    assert pair.inverse.items.censored


def test_training_brings_a_model_near_the_one_that_wrote():
    models, chats = [nano(0), nano(1)], CHATS * 12
    asked = Auto().sample(models[1], chats, SAMPLING, rng([0, 1]))
    near = 0.95 * divergence(models[1], models[0], asked)
    (pair,) = resistance(models, chats, SAMPLING, protocol(lr=1e-3, marks=(0,)), 0, epsilon=near)
    (still,) = resistance(models, chats, SAMPLING, protocol(lr=1e-12, marks=(0,)), 0, epsilon=near)
    assert pair.forward.excess < still.forward.excess
    assert pair.inverse.excess < still.inverse.excess
    assert 0 < pair.forward.items.items < 48
    assert still.forward.items == Crossing(48.0, True)


def test_every_pair_is_compared():
    pairs = resistance([nano(k) for k in range(3)], CHATS, SAMPLING, protocol(), 0)
    assert [(pair.earlier, pair.later) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]


def test_the_divergence_is_taken_on_other_replies_than_are_learnt(monkeypatch):
    seen, sample = [], Auto.sample
    monkeypatch.setattr(Auto, "sample", lambda *given: seen.append(sample(*given)) or seen[-1])
    resistance([nano(0), nano(1)], CHATS, SAMPLING, protocol(marks=(0,)), 0)
    assert len(seen) == 4  # of each model its data, then its questions
    for data, asked in zip(seen[:2], seen[2:], strict=True):
        assert data.tokens.shape != asked.tokens.shape or not torch.equal(data.tokens, asked.tokens)


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.9}, {"stop": ("a",)}])
def test_sampling_that_hides_the_writers_own_loss_is_refused(settings):
    with pytest.raises(ConfigError, match="temperature 1"):
        resistance([nano(0), nano(1)], CHATS, Sampling(**settings), protocol(), 0)
    with pytest.raises(ConfigError, match="two or more"):
        resistance([nano(0)], CHATS, SAMPLING, protocol(), 0)
