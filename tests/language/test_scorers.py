"""Scorers: functions, heads at the right token, the rewriting model against free-running writing, mixes, endpoints."""

import copy
import json
import math
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_stub import chat_stub
from small_models import nano

from trueline.core import registry
from trueline.core.config import Config, build
from trueline.core.errors import ConfigError
from trueline.language.rollout import Message, Rollout, Sampling, chat
from trueline.language.sampler import StaticCache, replies_of
from trueline.language.scorers import (
    Endpoint,
    Function,
    FunctionScorer,
    Judged,
    Judgement,
    ModelScorer,
    Rewriter,
    ScalarModel,
    Scoring,
    Seq2SeqScorer,
    WeightedScorers,
    agreement,
    identity,
    opened,
    trouble_of,
)
from trueline.language.signals import signals_of
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.vocabulary import Characters, tokenizer_of

SAMPLING = Sampling(max_tokens=6)
CHATS = [chat("abc"), chat("abc"), chat("h"), chat("fade.")]


@pytest.fixture(scope="module")
def policy():
    return nano(0)


@pytest.fixture(scope="module")
def judged(policy):
    return Judged(policy, SAMPLING)


@pytest.fixture
def rollout(policy):
    return StaticCache().sample(policy, CHATS, SAMPLING, np.random.default_rng(1))


def replies(rollout, texts, policy, ended=True):
    """The rollout's prompts, answered with these texts."""
    rows = []
    for r, text in enumerate(texts):
        prompt = rollout.tokens[r][rollout.attended[r] & ~rollout.sampled[r]].tolist()
        answer = policy.tokenizer(text, add_special_tokens=False).input_ids + [policy.tokenizer.eos_token_id] * ended
        rows.append((prompt, answer))
    width = max(len(p) + len(a) for p, a in rows)
    tokens = torch.full((len(rows), width), policy.tokenizer.pad_token_id)
    attended, sampled = torch.zeros(len(rows), width, dtype=torch.bool), torch.zeros(len(rows), width, dtype=torch.bool)
    for r, (p, a) in enumerate(rows):
        tokens[r, : len(p) + len(a)] = torch.tensor(p + a)
        attended[r, : len(p) + len(a)] = True
        sampled[r, len(p) : len(p) + len(a)] = True
    n = len(rows)
    over = torch.full((n,), ended, dtype=torch.bool)
    return Rollout(tokens, attended, sampled, torch.zeros(n, width), torch.arange(n), over, rollout.asked)


# --- functions ---


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_function_is_asked_what_an_audits_judge_is_whatever_the_template(policy, template):
    """Templates name roles in plain words; what a reward function matches is what was asked."""
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.chat_template = template or tokenizer.chat_template
    asking = LanguageModel(policy.model, tokenizer)
    turns = (Message("user", "ab"), Message("assistant", "c"), Message("user", "d"))
    drawn = StaticCache().sample(asking, [chat("abc"), turns], SAMPLING, np.random.default_rng(1))
    seen = []

    def remember(prompts, answers):
        seen.extend(prompts)
        return [0.0] * len(answers)

    FunctionScorer(remember, Judged(asking, SAMPLING)).score(drawn, np.random.default_rng(0))
    assert seen == ["abc", "user: ab\nassistant: c\nuser: d"]


def test_a_function_sees_the_texts_and_its_scores_sit_on_the_last_token(policy, judged, rollout):
    seen = []

    def count_a(prompts, answers):
        seen.extend(zip(prompts, answers, strict=True))
        return [Judgement(10.0 + r, {"harm": -1.0 * r}) for r in range(len(answers))]

    scores = FunctionScorer(count_a, judged, ("harm",)).score(rollout, np.random.default_rng(0))
    assert [prompt for prompt, _ in seen] == ["abc", "abc", "h", "fade."]
    assert [answer for _, answer in seen] == replies_of(rollout, policy, SAMPLING)
    for r in range(4):
        last = int(rollout.sampled[r].nonzero()[-1])
        assert scores.reward[r, last] == 10.0 + r
        assert scores.cost[r, last, 0] == -r
        assert scores.reward[r].count_nonzero() == 1
    assert not scores.missing.any()


def test_what_a_function_cannot_judge_is_missing_and_neither_good_nor_bad(judged, rollout):
    found = [1.0, None, math.nan, Judgement(3.0)]
    scores = FunctionScorer(lambda *_: found, judged).score(rollout, np.random.default_rng(0))
    assert scores.missing.tolist() == [False, True, True, False]
    assert scores.reward.sum(1).tolist() == [1.0, 0.0, 0.0, 3.0]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1.0], "gave 1 results for 4 replies"),
        ([Judgement(1.0, {"other": 1.0})] * 4, "gave costs"),
        ([1.0] * 4, "gave costs"),
        ([Judgement(math.inf, {"harm": 0.0})] * 4, "infinite"),
    ],
)
def test_a_function_that_does_not_keep_its_word_is_refused(judged, rollout, found, message):
    with pytest.raises(ConfigError, match=message):
        FunctionScorer(lambda *_: found, judged, ("harm",)).score(rollout, np.random.default_rng(0))


# --- scalar models ---


@pytest.fixture(scope="module")
def scalar(policy):
    model = ScoreModel.of(policy, ("reward", "cost")).eval()
    with torch.no_grad():
        model.linear.weight.normal_(generator=torch.Generator().manual_seed(5))
        model.linear.bias.fill_(0.25)
    return model


def test_heads_are_read_on_the_last_token_of_each_row_alone(judged, scalar, rollout):
    scores = ModelScorer(scalar, judged, "reward", {"harm": "cost"}).score(rollout, np.random.default_rng(0))
    for r in range(4):
        own = rollout.tokens[r, rollout.attended[r]][None]  # without the other rows and the padding
        with torch.no_grad():
            expected = scalar(own)[0, -1]
        assert float(scores.reward[r].sum()) == pytest.approx(float(expected[0]), abs=1e-4)
        assert float(scores.cost[r].sum()) == pytest.approx(float(expected[1]), abs=1e-4)
        assert scores.reward[r].count_nonzero() == 1
        assert scores.reward[r, int(rollout.sampled[r].nonzero()[-1])] != 0


def test_token_wise_heads_score_the_rise_with_every_sampled_token(judged, scalar, rollout):
    rng = np.random.default_rng(0)
    scores = ModelScorer(scalar, judged, "reward", {"harm": "cost"}, token_wise=True).score(rollout, rng)
    with torch.no_grad():
        read = scalar(rollout.tokens)
    for found, so_far in ((scores.reward, read[..., 0]), (scores.cost[..., 0], read[..., 1])):
        for r, sampled in enumerate(rollout.sampled):
            at = sampled.nonzero()[:, 0]
            rises = torch.diff(so_far[r, at], prepend=torch.zeros(1))
            torch.testing.assert_close(found[r, at], rises, atol=1e-4, rtol=1e-4)
            assert not found[r, ~sampled].any()
    whole = ModelScorer(scalar, judged, "reward").score(rollout, rng)
    torch.testing.assert_close(scores.reward.sum(1), whole.reward.sum(1), atol=1e-4, rtol=1e-4)


def test_token_wise_rewards_do_not_know_the_level_of_the_head(judged, scalar, rollout):
    """The loss does not either: without it what is added is added once, however long a reply is."""
    scorer = ModelScorer(scalar, judged, "reward", token_wise=True)
    before = scorer.score(rollout, np.random.default_rng(0)).reward
    with torch.no_grad():
        scalar.linear.bias += 3.0
    after = scorer.score(rollout, np.random.default_rng(0)).reward
    assert len(set(rollout.sampled.sum(1).tolist())) > 1
    torch.testing.assert_close((after - before).sum(1), torch.full((len(before),), 3.0), atol=1e-4, rtol=1e-4)


def test_a_cost_as_a_probability_is_the_logistic_of_the_head(judged, scalar, rollout):
    raw, chance = (
        ModelScorer(scalar, judged, None, {"harm": "cost"}, probability=probability).score(
            rollout, np.random.default_rng(0)
        )
        for probability in (False, True)
    )
    torch.testing.assert_close(chance.cost.sum(1), raw.cost.sum(1).sigmoid())
    assert chance.cost.count_nonzero() == 4
    assert not chance.reward.any()


def test_a_reward_is_the_head_of_that_name_unless_costs_are_named(judged, scalar, rollout):
    rng = np.random.default_rng(0)
    alone = opened([ScalarModel(input="m")], judged, {"m": scalar}).score(rollout, rng)
    assert torch.equal(alone.reward, ModelScorer(scalar, judged, "reward").score(rollout, rng).reward)
    costs = opened([ScalarModel(input="m", costs={"harm": "cost"})], judged, {"m": scalar}).score(rollout, rng)
    assert not costs.reward.any()
    with pytest.raises(ValueError, match="about the cost of a whole reply"):
        ScalarModel(probability=True)


def test_what_a_training_was_to_please_is_known_by_name_address_or_hash():
    assert identity(Function(name="letters", options={"a": 1}), {}) == ("function:letters",)
    asked = {"model": "m", "instruction": "harm?"}
    one, other = (Endpoint(url=f"http://localhost:1/v1{end}", **asked) for end in ("", "/"))
    assert identity(one, {}) == identity(other, {}) == ("endpoint:http://localhost:1/v1#m",)
    assert identity(ScalarModel(input="judge"), {"judge": "abc", "policy": "def"}) == ("model:abc",)


def test_a_score_that_is_no_number_is_missing(judged, scalar, rollout):
    broken = ScoreModel.of(nano(0), ("reward",))
    with torch.no_grad():
        broken.linear.bias.fill_(torch.nan)
    scores = ModelScorer(broken, judged).score(rollout, np.random.default_rng(0))
    assert scores.missing.all()
    assert not scores.reward.isnan().any()


def test_models_that_do_not_fit_are_refused(judged, scalar, policy):
    with pytest.raises(ConfigError, match=r"no head 'rewards'. Did you mean 'reward'"):
        ModelScorer(scalar, judged, "rewards")
    with pytest.raises(ConfigError, match="needs the input 'judge'"):
        opened([ScalarModel(input="judge")], judged, {})
    with pytest.raises(ConfigError, match=r"is a 'language-model'. Give a score model"):
        opened([ScalarModel()], judged, {"reward": policy})
    with pytest.raises(ConfigError, match="no scorer is given"):
        opened([], judged, {})
    other = LanguageModel(policy.model, tokenizer_of(Characters(alphabet="xy")))
    with pytest.raises(ConfigError, match=r"Train the score model from the policy's model, or let a function of texts"):
        ModelScorer(ScoreModel.of(other, ("reward",)), judged)


# --- the rewriting model ---


def test_the_rules_on_one_reply():
    # y against what is written: agrees, agrees, differs, agrees, differs; then padding
    agrees = torch.tensor([[True, True, False, True, False, True]])
    replied = torch.tensor([[True] * 5 + [False]])
    log_prob, best = torch.tensor([[-1.0, -1, -3, -1, -2, -9]]), torch.tensor([[-1.0, -1, -1, -1, -0.5, -1]])
    hard = agreement(log_prob, best, agrees, replied, "hard", 0.5, 0.25)
    assert hard.tolist() == [[0.5, 0.5, -0.25, 0.0, -0.25, 0.0]]
    soft = agreement(log_prob, best, agrees, replied, "soft", 0.5, 0.25)
    assert soft.tolist() == [[0.0, 0.0, -2.0, 0.0, -1.5, 0.0]]


@torch.no_grad()
def written(model, prompt, reply, n):
    """What the model writes freely after [x ; y ; separator], and the least margin between its first two choices."""
    tokens, margin = [*prompt, *reply, model.tokenizer.bos_token_id], math.inf
    out = []
    for _ in range(n):
        top = model.model(input_ids=torch.tensor([tokens])).logits[0, -1].topk(2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        out.append(int(top.indices[0]))
        tokens.append(out[-1])
    return out, margin


def test_one_teacher_forced_pass_equals_writing_freely_up_to_the_first_difference(policy, judged):
    """τ, and every reward up to and with it, from a model that writes by itself, token by token."""
    rng = np.random.default_rng(0)
    model = nano(7)
    chats = [chat("".join(rng.choice(list("abcdefgh"), 3))) for _ in range(48)]
    rollout = StaticCache().sample(policy, chats, SAMPLING, np.random.default_rng(2))
    scorer = Seq2SeqScorer(model, judged, agree=1.0, disagree=1.0)
    # half of the replies begin as the model would write them
    for r in range(0, 48, 2):
        prompt, reply = (
            rollout.tokens[r, m].tolist() for m in (rollout.attended[r] & ~rollout.sampled[r], rollout.sampled[r])
        )
        for at in range(len(reply)):
            reply[at] = written(model, prompt, reply, at + 1)[0][at]
        rollout.tokens[r, rollout.sampled[r]] = torch.tensor(reply)
    got = scorer.score(rollout, np.random.default_rng(0)).reward
    taus = []
    for r in range(48):
        shown, sampled = rollout.attended[r] & ~rollout.sampled[r], rollout.sampled[r]
        prompt, reply = rollout.tokens[r, shown].tolist(), rollout.tokens[r, sampled].tolist()
        free, margin = written(model, prompt, reply, len(reply))
        if margin < 1e-4:
            continue
        tau = next((t for t, (a, b) in enumerate(zip(free, reply, strict=True)) if a != b), len(reply))
        taus.append(tau)
        expected = [1.0] * tau + [-1.0] * (tau < len(reply))
        assert got[r, sampled][: tau + 1].tolist() == expected
    assert len(taus) > 40
    assert max(taus) >= 2, "no reply agreed for more than a token, so nothing was compared"
    assert 0 in taus


def test_rewards_of_a_row_do_not_depend_on_the_other_rows(policy, judged, rollout):
    scorer = Seq2SeqScorer(nano(7), judged, rule="soft")
    whole = scorer.score(rollout, np.random.default_rng(0)).reward
    for r in range(4):
        one = Rollout(*(getattr(rollout, name)[r : r + 1] for name in Rollout.__slots__))
        torch.testing.assert_close(scorer.score(one, np.random.default_rng(0)).reward[0], whole[r])


def test_soft_rewards_are_log_ratios_to_the_likeliest(policy, judged, rollout):
    model = nano(7)
    got = Seq2SeqScorer(model, judged, rule="soft").score(rollout, np.random.default_rng(0)).reward
    assert (got <= 0).all()
    r = 3
    reply = rollout.tokens[r, rollout.sampled[r]]
    whole = torch.cat([rollout.tokens[r, rollout.attended[r]], torch.tensor([model.tokenizer.bos_token_id]), reply])
    with torch.no_grad():
        log_p = model.model(input_ids=whole[None]).logits[0].log_softmax(-1)[-len(reply) - 1 : -1]
    expected = log_p.gather(1, reply[:, None])[:, 0] - log_p.max(1).values
    torch.testing.assert_close(got[r, rollout.sampled[r]], expected, atol=1e-4, rtol=1e-4)


def test_amounts_default_to_one_over_the_length_limit_and_may_be_shared_by_length(policy, judged, rollout):
    model = nano(7)
    plain, shared, doubled = (
        Seq2SeqScorer(model, judged, **given).score(rollout, np.random.default_rng(0)).reward
        for given in ({}, {"per_token": True}, {"agree": 2 / 6, "disagree": 2 / 6})
    )
    assert plain.abs().unique().tolist() == pytest.approx([0.0, 1 / 6])
    torch.testing.assert_close(doubled, 2 * plain)
    torch.testing.assert_close(shared, plain / rollout.sampled.sum(1, keepdim=True))


def test_empty_and_cut_replies_have_rewards_for_the_tokens_they_have(policy, judged, rollout):
    model = nano(7)
    empty = replies(rollout, [""] * 4, policy)
    assert (empty.sampled.sum(1) == 1).all()
    scores = Seq2SeqScorer(model, judged).score(empty, np.random.default_rng(0))
    assert not scores.missing.any()
    assert (scores.reward[empty.sampled] != 0).all()  # agreed or not with ending at once
    cut = replies(rollout, ["ab", "h", "a", "gg"], policy, ended=False)
    found = Seq2SeqScorer(model, judged).score(cut, np.random.default_rng(0)).reward
    assert (found[~cut.sampled] == 0).all()


def test_a_reply_that_does_not_fit_the_context_twice_is_missing(policy, judged, rollout):
    short = nano(7, context=int(rollout.attended.sum(1).max()) + 3)
    need = rollout.attended.sum(1) + 1 + rollout.sampled.sum(1)
    scores = Seq2SeqScorer(short, judged).score(rollout, np.random.default_rng(0))
    assert scores.missing.tolist() == (need > short.model.config.max_position_embeddings).tolist()
    assert scores.missing.any()


# --- mixes ---


class Constant:
    def __init__(self, rewards, costs=(), credit="to-go", missing=None):
        self.rewards, self.costs, self.credit, self.missing = rewards, costs, credit, missing

    def score(self, rollout, rng):
        from trueline.language.scores import Scores

        reward = torch.where(rollout.sampled, torch.arange(1.0, rollout.tokens.shape[1] + 1) * self.rewards, 0.0)
        cost = torch.where(rollout.sampled[..., None], torch.ones(*reward.shape, len(self.costs)), 0.0)
        missing = torch.zeros(len(reward), dtype=torch.bool)
        if self.missing is not None:
            missing[self.missing] = True
        return Scores(reward, cost, missing)


def test_a_mix_weighs_rewards_keeps_costs_apart_and_settles_credit_part_by_part(rollout):
    togo, total = Constant(1.0, ("a",)), Constant(1.0, ("b", "c"), "total", missing=2)
    mix = WeightedScorers(((togo, 2.0), (total, -0.5)))
    scores = mix.score(rollout, np.random.default_rng(0))
    assert mix.costs == ("a", "b", "c")
    assert scores.missing.tolist() == [False, False, True, False]
    assert (scores.reward[2] == 0).all()
    column = torch.arange(1.0, rollout.tokens.shape[1] + 1)
    at = rollout.sampled[0].nonzero()[:, 0]
    first, last = at[0], at[-1]
    assert scores.reward[0, first] == 2.0 * column[first]
    assert scores.reward[0, last] == pytest.approx(float(2.0 * column[last] - 0.5 * column[at].sum()))
    assert scores.cost[0, first].tolist() == [1.0, 0.0, 0.0]
    assert scores.cost[0, last].tolist() == [1.0, len(at), len(at)]
    assert signals_of(rollout, scores, credit=mix.credit).total[2].tolist() == [0.0] * 4


def test_two_costs_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two scorers have a cost called 'a'"):
        WeightedScorers(((Constant(1.0, ("a",)), 1.0), (Constant(1.0, ("a",)), 1.0)))


def test_scorers_are_told_apart_by_kind_and_functions_come_from_the_registry(monkeypatch, judged, rollout):
    class Settings(Config):
        scorers: tuple[Scoring, ...] = ()

    class Times:
        costs = ()

        def __init__(self, factor):
            self.factor = factor

        def __call__(self, prompts, answers):
            return [self.factor * answer.tokens for answer in answers]

    monkeypatch.setattr(registry, "load", lambda kind, name: {("scorer", "times"): Times}[kind, name])
    given = [
        {"kind": "function", "name": "times", "options": {"factor": 2.0}, "weight": 3.0},
        {"kind": "seq2seq-rm", "rule": "soft"},
    ]
    made = build(Settings, {"scorers": given}).scorers
    assert [type(one) for one in made] == [Function, Rewriter]
    scorer = opened(made[:1], judged, {})
    expected = 6.0 * rollout.sampled.sum(1)
    torch.testing.assert_close(scorer.score(rollout, np.random.default_rng(0)).reward.sum(1), expected)
    with pytest.raises(ConfigError, match="amounts of the hard rule"):
        build(Rewriter, {"rule": "soft", "agree": 1.0})


def length(prompts, completions):
    return [float(len(text)) for text in completions]


class Cheap:
    """It can be called, but names no costs."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, prompts, replies):
        return [self.factor] * len(replies)


@pytest.mark.parametrize(
    ("registered", "options", "why"),
    [
        (length, {}, "cannot be made from the options {}: missing a required argument: 'prompts'"),
        (Cheap, {"scale": 2.0}, "cannot be made from the options {'scale': 2.0}: got an unexpected keyword argument"),
        (Cheap, {}, "makes a Cheap without `costs`"),
        (lambda: 3.0, {}, "makes a float"),
    ],
)
def test_what_makes_no_function_of_texts_is_refused_and_told_what_is_expected(
    monkeypatch, judged, registered, options, why
):
    monkeypatch.setattr(registry, "load", lambda kind, name: registered)
    given = Function(name="own", options=options)
    for use in (given.named_costs, lambda: given.open(judged, {})):
        with pytest.raises(ConfigError, match=re.escape(f"the scorer 'own' {why}")) as refused:
            use()
        assert "Register a class that takes the options, names its `costs`" in str(refused.value)


def test_an_error_inside_of_what_makes_a_function_is_its_own(monkeypatch):
    class Broken:
        def __init__(self):
            raise TypeError("mine")

    monkeypatch.setattr(registry, "load", lambda kind, name: Broken)
    with pytest.raises(TypeError, match="mine"):
        Function(name="own").named_costs()


def test_the_documented_function_judges_a_training(trueline, tmp_path, monkeypatch, rollout, judged):
    page = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
    code, more = (
        next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if f"class {name}" in block)
        for name in ("Brief", "Exact")
    )
    entries = 'ENTRIES += (Entry("scorer", "exact", "mine:Exact", "the reference answer"),)'
    (command,) = re.findall(r"^trueline --import mine .*?(?=```)", page, re.S | re.M)
    (tmp_path / "mine.py").write_text(f"{code}\n{more}\n{entries}\n")
    rows = [{"prompt": text, "answer": text[0]} for text in ("ab", "ba", "cd", "dc")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    nano().save(tmp_path / "path" / "to" / "model")
    _, *words = shlex.split(command.replace("\\\n", " "))
    registry.entries()
    try:
        said = trueline(*words, "batch_size=2", "samples=2", "max_steps=1", "sampling.max_tokens=3")
        assert said.code == 0, said.err
        exact = [word.replace('name = "brief", options = {words = 10}', 'name = "exact"') for word in words]
        said = trueline(*exact, "batch_size=2", "samples=2", "max_steps=1", "sampling.max_tokens=3")
        assert said.code == 0, said.err
        right = {"abc": {"answer": "a"}, "h": {"answer": "b"}, "fade.": {"answer": "c"}}
        answered = replies(rollout, [" a", "b", "b ", "a"], judged.policy)
        by_answer = opened([Function(name="exact")], judged._replace(columns=right), {})
        assert by_answer.score(answered, np.random.default_rng(0)).reward.sum(1).tolist() == [1.0, 0.0, 1.0, 0.0]
        scorer = opened([Function(name="brief", options={"words": 10})], judged, {})
        texts = replies_of(rollout, judged.policy, judged.sampling)
        scores = scorer.score(rollout, np.random.default_rng(0))
    finally:
        registry._found.pop(("scorer", "brief"), None)
        registry._found.pop(("scorer", "exact"), None)
        registry._modules.remove("mine")
        sys.modules.pop("mine")
    assert scorer.costs == ("shouting",)
    assert scores.reward.sum(1).tolist() == pytest.approx([-len(one.text.split()) / 10 for one in texts])


# --- endpoints ---


@pytest.fixture
def stub():
    with chat_stub() as made:
        yield made


def judge(url, **given):
    return Endpoint(url=url, model="m", instruction="Is it kind?", timeout_s=0.15, attempts=3, pause_s=0.01, **given)


def test_an_endpoint_is_asked_again_and_what_never_comes_is_missing(stub, judged, rollout, monkeypatch):
    url, script, log = stub
    monkeypatch.setenv("JUDGE_KEY", "secret")
    script.update({"abc": ["0.25"], "h": [500, "very kind", "0.75"], "fade.": ["broken", "sleep", "1.5"]})
    scorer = judge(url, key_variable="JUDGE_KEY").open(judged, {})
    scores = scorer.score(rollout, np.random.default_rng(0))
    assert scores.missing.tolist() == [False, False, False, True]
    assert scores.reward.sum(1).tolist() == [0.25, 0.25, 0.75, 0.0]
    asked = [entry for entry in log if entry[3]["prompt"] == "fade."]
    assert len(asked) == 3
    path, authorization, body, _ = log[0]
    assert (path, authorization, body["temperature"]) == ("/v1/chat/completions", "Bearer secret", 0)


@pytest.mark.parametrize("said", ["", "nan", "yes", "1e9", "-0.1", "0.5 or so", "inf"])
def test_a_malformed_judgement_is_never_a_pass(stub, judged, rollout, said):
    url, script, _ = stub
    script.update({"abc": [said], "h": [said], "fade.": [said]})
    scores = judge(url, cost="harm").open(judged, {}).score(rollout, np.random.default_rng(0))
    assert scores.missing.all()


def test_an_endpoint_may_say_a_cost(stub, judged, rollout):
    url, script, _ = stub
    script.update({"abc": ["0.9"], "h": ["0.5"], "fade.": ["0.1"]})
    scorer = judge(url, cost="harm", threshold=0.5).open(judged, {})
    scores = scorer.score(rollout, np.random.default_rng(0))
    assert scores.cost.sum(1)[:, 0].tolist() == pytest.approx([0.4, 0.4, 0.0, -0.4])
    assert scores.reward.sum() == 0


def test_nobody_at_the_address_is_missing(judged, rollout):
    scores = judge("http://127.0.0.1:9/v1").open(judged, {}).score(rollout, np.random.default_rng(0))
    assert scores.missing.all()


@pytest.mark.parametrize(("status", "asked_again"), [(400, False), (401, False), (404, False), (422, False),
                                                     (408, True), (429, True), (500, True), (503, True)])  # fmt: skip
def test_a_refusal_that_will_not_pass_is_not_asked_for_again(stub, judged, rollout, status, asked_again):
    url, script, log = stub
    script.update({"abc": ["0.5"], "h": [status, "0.75"], "fade.": ["0.5"]})
    scorer = judge(url).open(judged, {})
    scores = scorer.score(rollout, np.random.default_rng(0))
    assert scores.missing.tolist() == [False, False, not asked_again, False]
    assert sum(entry[3]["prompt"] == "h" for entry in log) == 1 + asked_again
    assert trouble_of(scorer).startswith(f"HTTP {status} ")


@pytest.mark.parametrize(
    ("play", "told"),
    [
        ("broken", "JSONDecodeError"),
        ("sleep", "imed out"),
        ("1.5", "1.5 is not from 0 to 1"),
        ("very kind", "could not convert string to float"),
    ],
)
def test_what_went_wrong_last_is_remembered(stub, judged, rollout, play, told):
    url, script, _ = stub
    script.update({None: [play]})
    scorer = judge(url, parallel=1).open(judged, {})
    assert trouble_of(scorer) is None
    assert scorer.score(rollout, np.random.default_rng(0)).missing.all()
    assert told in trouble_of(scorer)
    assert trouble_of(WeightedScorers(((Constant(1.0), 1.0), (scorer, 1.0)))) == trouble_of(scorer)
    assert trouble_of(Constant(1.0)) is None


def test_a_key_that_is_not_there_is_missed_before_anything_is_asked(judged, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("JUDGE_KEY", value)
        with pytest.raises(ConfigError, match="environment variable JUDGE_KEY, which key_variable names, is not set"):
            judge("http://127.0.0.1:9/v1", key_variable="JUDGE_KEY").open(judged, {})
