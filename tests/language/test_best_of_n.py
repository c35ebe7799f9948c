"""Best of N against its closed form and brute force; rejection sampling on a token bandit, and where it goes on."""

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from token_world import whole_and_resumed

from trueline.core import registry
from trueline.core.config import build, laid_over, to_toml
from trueline.core.errors import CheckpointError, ConfigError
from trueline.core.recipe import Checks
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.language import supervised
from trueline.language.best_of_n import RFT, BestOfN, best_of_n, best_of_n_distribution, best_rows, excess_of
from trueline.language.models import Architecture, from_scratch
from trueline.language.recipes import SFT
from trueline.language.rollout import Sampling, chat
from trueline.language.sampler import StaticCache, replies_of
from trueline.language.scorers import Function, Judgement
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.templates import prompt_tokens
from trueline.language.vocabulary import Characters, tokenizer_of

torch.set_num_threads(1)
TOKENIZER = tokenizer_of(Characters(alphabet="abcdxy"))
REWARD, COST = {"a": 1.0, "b": 0.4, "c": 0.4}, {"a": 1.0}


class Letters:
    """Reward and cost of a reply's letters; it cannot judge those with a letter of `unjudged`."""

    def __init__(self, costs=(), unjudged=""):
        self.costs, self.unjudged = tuple(costs), unjudged

    def __call__(self, prompts, replies):
        return [self.judged(reply.text) for reply in replies]

    def judged(self, text):
        if any(letter in text for letter in self.unjudged):
            return None
        reward = sum(REWARD.get(letter, 0.0) for letter in text)
        return Judgement(reward, dict.fromkeys(self.costs, sum(COST.get(letter, 0.0) for letter in text)))


@pytest.fixture(autouse=True)
def _letters(monkeypatch):
    known = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name: Letters if (kind, name) == ("scorer", "letters") else known(kind, name)
    )


def letters(**options):
    return [Function(name="letters", options=options)]


def tiny(seed=0):
    """A policy of a few thousand parameters, far enough from uniform that tokens differ."""
    model = from_scratch(Architecture(1, 16, 2, 32), TOKENIZER, seed, 32)
    with torch.no_grad():
        model.lm_head.weight.mul_(4.0)
    return LanguageModel(model, TOKENIZER)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A policy that has learnt to say one letter and end: d mostly, a rarely."""
    folder = tmp_path_factory.mktemp("talker")
    rows = [{"prompt": x, "completion": y} for x in ("x", "y", "xy", "yx") for y in "abbccddddx"]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"data": {"path": str(path), "as_chat": True}, "batch_size": 40, "max_steps": 80}
    config = build(SFT.Config, {**settings, "optimiser": {"lr": 2e-2, "schedule": "cosine"}})
    with Run.create(folder / "runs", kind="train", name="sft", config=config, seed=0) as run:
        return SFT.train(config, run, {"policy": tiny()})


def first_token(policy, prompt="x"):
    """Probability of each token as the first of a reply."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt_tokens(TOKENIZER, chat(prompt))])).logits[0, -1]
    return logits.double().softmax(-1).numpy()


def rewards():
    """Of each token as the whole reply."""
    letter = TOKENIZER.convert_ids_to_tokens(range(len(TOKENIZER)))
    return np.array([REWARD.get(one, 0.0) for one in letter])


# --- choosing ---


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0, math.nan]), st.sampled_from([0.0, 0.5]))),
    st.integers(1, 3),
)
def test_the_best_rows_of_each_group_by_sorting_it_alone(rows, keep):
    expected = []
    for group in sorted({group for group, _, _ in rows}):
        own = [k for k, (g, reward, _) in enumerate(rows) if g == group and not math.isnan(reward)]
        expected += sorted(own, key=lambda k: (rows[k][2], -rows[k][1], k))[:keep]
    group, reward, excess = (torch.tensor([row[i] for row in rows]) for i in range(3))
    assert best_rows(reward, group, keep, excess).tolist() == expected


def test_excess_counts_what_lies_above_each_limit():
    cost = torch.tensor([[1.0, 0.0], [0.2, 0.9], [-1.0, 0.3]])
    torch.testing.assert_close(excess_of(cost, torch.tensor([0.5, 0.4])), torch.tensor([0.5, 0.5, 0.0]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 2)), min_size=1, max_size=4), st.integers(1, 4))
def test_the_closed_form_is_that_of_all_outcomes_of_n_draws(rows, n):
    """V^n outcomes; of draws that are equally good the first is kept."""
    p, reward = (np.array(x, dtype=float) for x in zip(*rows, strict=True))
    if p.sum() == 0.0:
        return
    p /= p.sum()
    expected = np.zeros(len(p))
    for drawn in itertools.product(range(len(p)), repeat=n):
        expected[drawn[int(np.argmax(reward[list(drawn)]))]] += np.prod(p[list(drawn)])
    np.testing.assert_allclose(best_of_n_distribution(p, reward, n), expected, atol=1e-12)


def test_the_best_of_n_of_a_token_bandit_is_drawn_from_the_closed_form():
    policy, n, count = tiny(), 4, 1500
    best = best_of_n(policy, [chat("x")] * count, n, letters(), Sampling(max_tokens=1), np.random.default_rng(0))
    expected = best_of_n_distribution(first_token(policy), rewards(), n)
    seen = np.bincount(best.rollout.tokens[best.rollout.sampled].numpy(), minlength=len(expected))
    there = expected * count >= 5.0
    assert seen[~there].sum() < 20
    plain = first_token(policy)
    right, wrong = (p[there] / p[there].sum() * seen[there].sum() for p in (expected, plain))
    assert chisquare(seen[there], right).pvalue > 1e-3
    assert chisquare(seen[there], wrong).pvalue < 1e-9
    np.testing.assert_allclose(best.reward.numpy(), rewards()[best.rollout.tokens[best.rollout.sampled]], atol=1e-6)


def test_a_reply_beyond_the_limit_loses_to_any_within_it():
    policy, sampling = tiny(), Sampling(max_tokens=1)
    chats = [chat("x"), chat("y"), chat("xy")] * 30
    found = best_of_n(policy, chats, 4, letters(costs=("harm",)), sampling, np.random.default_rng(1), cost_limit=0.5)
    drawn = StaticCache().sample(policy, [one for one in chats for _ in range(4)], sampling, np.random.default_rng(1))
    texts = [reply.text for reply in replies_of(drawn, policy, sampling)]
    for k, (reward, cost) in enumerate(zip(found.reward.tolist(), found.cost[:, 0].tolist(), strict=True)):
        four = texts[4 * k : 4 * k + 4]
        within = [REWARD.get(text, 0.0) for text in four if text != "a"]
        assert cost == (0.0 if within else 1.0)
        assert reward == pytest.approx(max(within) if within else 1.0)
    assert any("a" in texts[4 * k : 4 * k + 4] for k in range(len(chats)))


def test_where_nothing_could_be_judged_the_first_draw_stands_in_and_says_so():
    sampling, policy = Sampling(max_tokens=2), tiny()
    found = best_of_n(policy, [chat("x")] * 3, 2, letters(unjudged="abcdxy<"), sampling, np.random.default_rng(0))
    drawn = StaticCache().sample(policy, [chat("x")] * 6, sampling, np.random.default_rng(0))
    judged = [reply.text == "" for reply in replies_of(drawn, policy, sampling)]
    for k, row in enumerate(found.rollout.tokens):
        if not any(judged[2 * k : 2 * k + 2]):
            assert math.isnan(float(found.reward[k]))
            width = int(found.rollout.attended[k].sum())
            assert torch.equal(row[:width], drawn.tokens[2 * k, :width])
    assert found.reward.isnan().any()


def test_as_a_sampler_it_gives_the_same_rollout():
    policy, sampling, chats = tiny(), Sampling(max_tokens=3), [chat("x"), chat("y"), chat("x")]
    sampler = BestOfN(3, letters())
    rollout = sampler.sample(policy, chats, sampling, np.random.default_rng(2))
    same = best_of_n(policy, chats, 3, letters(), sampling, np.random.default_rng(2)).rollout
    for name in rollout.__slots__:
        one, other = getattr(rollout, name), getattr(same, name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, name
    assert rollout.asked == ("x", "y", "x")
    assert rollout.group.tolist() == [0, 1, 0]
    assert rollout.attended.any(dim=0).all(), "no column of padding alone"
    replies = policy.reply(chats, sampling, np.random.default_rng(2), sampler)
    assert [reply.tokens for reply in replies] == rollout.sampled.sum(dim=1).tolist()


@pytest.mark.parametrize(
    ("options", "limit", "message"),
    [
        ({}, 0.5, "cost_limit is given, but no scorer gives a cost"),
        ({"costs": ("harm",)}, (0.5, 1.0), "there are 1 costs"),
        ({"costs": ("harm",)}, math.inf, "Give one finite limit"),
    ],
)
def test_limits_that_fit_no_costs_are_refused(options, limit, message):
    with pytest.raises(ConfigError, match=message):
        best_of_n(
            tiny(), [chat("x")], 2, letters(**options), Sampling(max_tokens=1), np.random.default_rng(0),
            cost_limit=limit,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="the best of 0 replies does not exist"):
        best_of_n(tiny(), [chat("x")], 0, letters(), Sampling(max_tokens=1), np.random.default_rng(0))


# --- rejection-sampling fine-tuning ---


@pytest.fixture
def world(tmp_path, talker):
    return World(tmp_path, talker)


class World:
    def __init__(self, folder, talker):
        self.runs, self.count, self.talker = folder / "runs", 0, talker
        self.prompts = folder / "prompts.jsonl"
        self.ask(["x", "y", "xy", "yx"])

    def ask(self, prompts):
        self.prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))

    def config(self, **settings):
        options = settings.pop("options", {})
        given = {
            "prompts": {"path": str(self.prompts)},
            "scorers": [{"kind": "function", "name": "letters", "options": options}],
            "sampling": {"max_tokens": 2},
            "samples": 4,
            "tuning": {"batch_size": 4, "optimiser": {"lr": 1e-2, "schedule": "constant"}},
        }
        return build(RFT.Config, laid_over(given, settings))

    def policy(self):
        return copy.deepcopy(self.talker)

    def run(self, config, id=None, seed=3):
        self.count += 1
        return Run.create(self.runs, kind="train", name="rft", config=config, seed=seed, id=id or f"r{self.count}")

    def train(self, inputs=None, watch=None, **settings):
        config = self.config(**settings)
        with self.run(config) as run:
            run.watch = watch
            subject = RFT.train(config, run, {"policy": self.policy(), **(inputs or {})})
            save_subject(subject, run.folder)
        return subject, log(run), run


def log(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time/elapsed_s"} for line in lines]


def kept(run, round=1):
    path = run.folder / "artefacts" / "kept" / f"round-{round}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_round_learns_the_distribution_of_the_best_that_ended(world):
    """Replies of a letter and the end token; the model comes to say what was kept, as often as it was kept."""
    world.ask(["x"] * 400)
    p = first_token(world.policy())
    subject, _, run = world.train(
        samples=2,
        tuning={"epochs": 8.0, "batch_size": 100, "optimiser": {"lr": 2e-2, "schedule": "linear"}},
    )
    counts = np.zeros(len(p))
    for row in kept(run):
        text = row["completion"][0]["content"]
        if text:
            counts[TOKENIZER.convert_tokens_to_ids(text)] += 1.0
    share = counts / counts.sum()
    learnt = first_token(subject)
    assert np.abs(learnt - share).max() < 0.05
    assert np.abs(learnt - p).max() > 0.1
    a = TOKENIZER.convert_tokens_to_ids("a")
    assert learnt[a] > p[a] + 0.1


def test_rounds_go_to_the_best_reply_and_are_logged(world):
    seen = []
    world.ask(["x", "y"] * 16)
    subject, lines, run = world.train(
        rounds=4, samples=6, watch=lambda round, policy: seen.append((round, first_token(policy)[7])),
        tuning={"epochs": 3.0, "batch_size": 16, "optimiser": {"lr": 2e-2}},
    )  # fmt: skip
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [round for round, _ in seen] == [1, 2, 3, 4]
    assert [line["train/kept_reward"] >= line["train/reward"] for line in lines] == [True] * 4
    assert lines[-1]["train/reward"] > lines[0]["train/reward"] + 0.3
    assert first_token(subject)[7] == pytest.approx(seen[-1][1])  # token 7 is the letter a
    assert subject.history.judged_by == (*world.talker.history.judged_by, "function:letters")
    assert len(list((run.folder / "artefacts" / "rounds").glob("round-*/subject/model.safetensors"))) == 4


def test_what_is_kept_is_the_best_distinct_ended_replies_that_are_good_enough(world):
    _, lines, run = world.train(samples=24, keep=2, at_least=0.4, sampling={"max_tokens": 3})
    rows = kept(run)
    assert rows
    for row in rows:
        text = row["completion"][0]["content"]
        assert len(text) <= 2, "a reply of three letters has no room for its end"
        assert row["reward"] == pytest.approx(Letters().judged(text).reward)
        assert row["reward"] >= 0.39
    for _, group in itertools.groupby(rows, key=lambda row: row["prompt"][0]["content"]):
        own = [(row["reward"], row["completion"][0]["content"]) for row in group]
        assert len(own) <= 2 == len({text for _, text in own}) + 2 - len(own)
        assert [reward for reward, _ in own] == sorted((reward for reward, _ in own), reverse=True)
    assert lines[0]["train/kept"] == len(rows)
    assert 0.0 < lines[0]["train/prompts_kept"] <= 1.0


def test_two_kept_replies_to_a_prompt_differ(world):
    world.ask(["x"])
    _, _, run = world.train(samples=64, keep=3, sampling={"max_tokens": 2})
    texts = [row["completion"][0]["content"] for row in kept(run)]
    assert len(texts) == len(set(texts)) == 3
    values = [row["reward"] for row in kept(run)]
    assert values == sorted(values, reverse=True)


def test_limits_decide_before_rewards(world):
    world.ask(["x"] * 20)
    given = {"samples": 8, "options": {"costs": ("harm",)}}
    free, held = (world.train(**given, **more)[2] for more in ({}, {"cost_limit": 0.5}))
    costly = ["a" in row["completion"][0]["content"] for row in kept(free)]
    assert any(costly)
    assert sum("a" in row["completion"][0]["content"] for row in kept(held)) < sum(costly)
    assert RFT.limits(world.config(**given, cost_limit=0.5)) == {"harm": 0.5}
    assert RFT.limits(world.config(**given)) == {}
    assert log(held)[0]["train/kept_harm"] < log(free)[0]["train/kept_harm"]


def test_a_round_in_which_nothing_is_good_enough_says_so(world):
    with pytest.raises(ConfigError, match=r"in round 1 no reply with a reward of 9 or more ended within 2 tokens"):
        world.train(at_least=9.0)


def test_prompts_of_a_round_go_on_where_the_last_round_stopped(world):
    _, _, run = world.train(rounds=2, round_prompts=2, samples=16)
    asked = [{row["prompt"][0]["content"] for row in kept(run, round)} for round in (1, 2)]
    assert asked[0] | asked[1] == {"x", "y", "xy", "yx"}
    assert not asked[0] & asked[1]


def test_prompts_that_failed_an_audit_get_their_share_of_a_round(world, tmp_path):
    failed = tmp_path / "failed.json"
    chats = [[{"role": "user", "content": "ab"}]]
    failed.write_text(json.dumps([{"case": {"data": {"split": "respond", "chat": one}}} for one in chats]))
    _, _, run = world.train(samples=16, findings=(str(failed),), findings_share=0.5)
    asked = [row["prompt"][0]["content"] for row in kept(run)]
    assert asked.count("ab") == 2
    assert len(asked) == 4


def test_a_run_that_is_killed_inside_a_round_goes_on_to_the_same_bytes(world, monkeypatch):
    config = world.config(rounds=3, tuning={"epochs": 2.0})
    whole, resumed = whole_and_resumed(world.runs, RFT, config, monkeypatch, world.policy, supervised.Trainer, steps=3)
    assert resumed == whole
    assert {f"artefacts/kept/round-{k}.jsonl" for k in (1, 2, 3)} < whole[1].keys()


def test_prompts_that_changed_are_refused_on_resume(world):
    config = world.config()
    with world.run(config, id="a") as run:
        RFT.train(config, run, {"policy": world.policy()})
    world.ask(["x"])
    with pytest.raises(CheckpointError, match="prompts of run a changed"), Run.reopen(run.folder) as again:
        RFT.train(config, again, {"policy": world.policy()})


def test_adapters_are_merged_at_the_end_of_each_round(world):
    subject, _, _ = world.train(rounds=2, model={"lora": {"rank": 2, "alpha": 4.0}})
    assert not hasattr(subject.model, "disable_adapter")
    before = dict(world.policy().model.named_parameters())
    after = dict(subject.model.named_parameters())
    assert before.keys() == after.keys()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


def test_the_recipe_has_the_abilities_of_recipes_and_refuses_what_does_not_fit(world):
    assert isinstance(RFT, Checks)
    config = world.config()
    RFT.check(config, world.runs)
    assert to_toml(build(RFT.Config, laid_over(dict(RFT.presets["small"]), {"prompts": {"path": "p"}, "scorers": []})))
    with pytest.raises(ConfigError, match="training draws by temperature alone"):
        RFT.check(world.config(sampling={"top_k": 3}), world.runs)
    with pytest.raises(ConfigError, match="the warm start is a 'score-model'"):
        world.train(inputs={"policy": ScoreModel.of(world.policy(), ("reward",))})
