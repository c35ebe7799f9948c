"""On-line DPO: gradients in closed form, where it comes to rest by enumeration and in training, refusals."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_world import whole_and_resumed

from trueline.core import registry
from trueline.core.config import build, laid_over, to_toml
from trueline.core.errors import ConfigError
from trueline.core.recipe import Checks
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.language import online_dpo
from trueline.language.losses import dpo
from trueline.language.models import Architecture, from_scratch
from trueline.language.online_dpo import ONLINE_DPO, OnlineDpo, labels_of, pair_losses
from trueline.language.rollout import chat
from trueline.language.scorers import Judgement
from trueline.language.subject import LanguageModel
from trueline.language.templates import prompt_tokens
from trueline.language.vocabulary import Characters, tokenizer_of

torch.set_num_threads(1)
TOKENIZER = tokenizer_of(Characters(alphabet="abcdxy"))
REWARD = {"a": 1.0, "b": 0.4}


class Letters:
    """Reward of a reply's letters; a reply with a letter of `unjudged` is one it cannot judge."""

    def __init__(self, costs=(), unjudged="", scale=1.0):
        self.costs, self.unjudged, self.scale = tuple(costs), unjudged, scale

    def __call__(self, prompts, replies):
        return [self.judged(reply.text) for reply in replies]

    def judged(self, text):
        if any(letter in text for letter in self.unjudged):
            return None
        reward = self.scale * sum(REWARD.get(letter, 0.0) for letter in text)
        return Judgement(reward, dict.fromkeys(self.costs, float(text.count("a"))))


@pytest.fixture(autouse=True)
def _letters(monkeypatch):
    known = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name: Letters if (kind, name) == ("scorer", "letters") else known(kind, name)
    )


def tiny(seed=0):
    return LanguageModel(from_scratch(Architecture(1, 16, 2, 32), TOKENIZER, seed, 32), TOKENIZER)


def first_token(policy, prompt="x"):
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt_tokens(TOKENIZER, chat(prompt))])).logits[0, -1]
    return logits.double().softmax(-1).numpy()


def rewards():
    return np.array([REWARD.get(one, 0.0) for one in TOKENIZER.convert_ids_to_tokens(range(len(TOKENIZER)))])


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class World:
    def __init__(self, folder):
        self.runs, self.count = folder / "runs", 0
        self.prompts = folder / "prompts.jsonl"
        self.prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("x", "y", "xy", "yx")))

    def config(self, **settings):
        options = settings.pop("options", {})
        given = {
            "prompts": {"path": str(self.prompts)},
            "scorers": [{"kind": "function", "name": "letters", "options": options}],
            "sampling": {"max_tokens": 3},
            "batch_size": 4,
            "max_steps": 3,
            "optimiser": {"lr": 1e-2, "schedule": "constant"},
        }
        return build(OnlineDpo, laid_over(given, settings))

    def run(self, config, id=None, seed=3):
        self.count += 1
        return Run.create(
            self.runs, kind="train", name="online-dpo", config=config, seed=seed, id=id or f"r{self.count}"
        )

    def train(self, inputs=None, **settings):
        config = self.config(**settings)
        with self.run(config) as run:
            subject = ONLINE_DPO.train(config, run, {"policy": tiny(), **(inputs or {})})
            save_subject(subject, run.folder)
        return subject, log(run)


def log(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time/elapsed_s"} for line in lines]


def weights(subject):
    return torch.cat([p.detach().flatten() for p in subject.model.parameters()])


# --- loss and labels ---


@settings(max_examples=50, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 1), st.floats(0.05, 2))
def test_the_gradient_of_a_pair_is_beta_times_what_the_label_lacks(h1, h2, label, beta):
    """∂/∂h₁ = β(σ(β(h₁ − h₂)) − p), and the opposite for h₂."""
    one, two = (torch.tensor([h], dtype=torch.float64, requires_grad=True) for h in (h1, h2))
    pair_losses(one, two, torch.tensor([label], dtype=torch.float64), beta).sum().backward()
    lacks = beta * (1.0 / (1.0 + np.exp(-beta * (h1 - h2))) - label)
    assert float(one.grad) == pytest.approx(lacks, abs=1e-9)
    assert float(two.grad) == pytest.approx(-lacks, abs=1e-9)


def test_certain_labels_give_the_loss_of_dpo_with_the_better_reply_first():
    h = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    better = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    expected = torch.where(better.bool(), dpo(h[0], h[1], 0.3), dpo(h[1], h[0], 0.3))
    torch.testing.assert_close(pair_losses(h[0], h[1], better, 0.3), expected)


def test_labels_by_sign_and_by_bradley_and_terry():
    r1, r2 = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(labels_of(r1, r2, "hard", 1.0), torch.tensor([1.0, 0.5, 0.0]))
    expected = 1.0 / (1.0 + torch.exp(-(r1 - r2) / 0.5))
    torch.testing.assert_close(labels_of(r1, r2, "bradley-terry", 0.5), expected)
    torch.testing.assert_close(
        labels_of(r1, r2, "bradley-terry", 0.5) + labels_of(r2, r1, "bradley-terry", 0.5), torch.ones(3)
    )


def expected_gradient(logits, reference, reward, labels, temperature, beta, drawn):
    """Of the loss over all pairs of a token bandit, each pair with the chance that `drawn` gives it."""
    leaf = logits.clone().requires_grad_()
    h = leaf.log_softmax(-1) - reference.log()
    for i, j in itertools.product(range(len(logits)), repeat=2):
        label = labels_of(reward[i], reward[j], labels, temperature)
        (drawn[i] * drawn[j] * pair_losses(h[i], h[j], label, beta)).backward(retain_graph=True)
    return leaf.grad


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_bradley_terry_labels_come_to_rest_at_the_regularised_optimum_whatever_is_drawn(temperature):
    """π ∝ π_ref·exp(r/(βτ)), by enumeration; and nowhere near it."""
    beta, rng = 0.5, torch.Generator().manual_seed(1)
    reference = torch.randn(5, generator=rng, dtype=torch.float64).softmax(-1)
    reward = torch.randn(5, generator=rng, dtype=torch.float64)
    optimum = reference.log() + reward / (beta * temperature)
    for drawn in (optimum.softmax(-1), torch.full((5,), 0.2, dtype=torch.float64)):
        at_rest, moved, mirrored = (
            expected_gradient(logits, reference, reward, "bradley-terry", temperature, beta, drawn).abs().max()
            for logits in (optimum, optimum + reward, reference.log() - reward / (beta * temperature))
        )
        assert at_rest < 1e-12
        assert min(moved, mirrored) > 1e-3


def test_hard_labels_come_to_rest_nowhere():
    """Along π ∝ π_ref·exp(c·r) the loss falls for every c: only certainty ends it."""
    rng = torch.Generator().manual_seed(1)
    reference = torch.randn(4, generator=rng, dtype=torch.float64).softmax(-1)
    reward = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64)
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    for c in (0.0, 1.0, 10.0, 50.0):
        gradient = expected_gradient(reference.log() + c * reward, reference, reward, "hard", 1.0, 0.5, uniform)
        assert float(gradient @ reward) < 0.0


# --- token bandits ---

BANDIT = {
    "sampling": {"max_tokens": 1},
    "batch_size": 32,
    "optimiser": {"lr": 1e-2, "schedule": "linear"},
}


def test_training_reaches_the_optimum_of_reward_less_divergence(world):
    """One token: π ∝ π_ref·exp(r/β), the policy that maximises E[r] − β·KL(π ‖ π_ref)."""
    beta = 0.5
    optimum = first_token(tiny()) * np.exp(rewards() / beta)
    optimum /= optimum.sum()
    subject, lines = world.train(
        **{**BANDIT, "max_steps": 120, "labels": "bradley-terry", "kl": {"weight": beta}, "samples": 4}
    )
    learnt = first_token(subject)
    assert np.abs(learnt - optimum).max() < 0.03
    assert np.abs(first_token(tiny()) - optimum).max() > 0.2
    last = lines[-30:]
    assert np.mean([line["train/reward"] for line in last]) == pytest.approx(optimum @ rewards(), abs=0.04)
    kl = float(np.sum(optimum * np.log(optimum / first_token(tiny()))))
    assert np.mean([line["train/kl"] for line in last]) == pytest.approx(kl, abs=0.05)


def test_a_temperature_of_labels_multiplies_beta(world):
    given = {**BANDIT, "max_steps": 80, "labels": "bradley-terry", "samples": 4}
    subject, _ = world.train(**given, temperature=2.0, kl={"weight": 0.25})
    optimum = first_token(tiny()) * np.exp(rewards() / 0.5)
    assert np.abs(first_token(subject) - optimum / optimum.sum()).max() < 0.06


def test_with_hard_labels_the_best_token_wins(world):
    subject, lines = world.train(**{**BANDIT, "max_steps": 60, "kl": {"weight": 0.5}})
    assert first_token(subject)[TOKENIZER.convert_tokens_to_ids("a")] > 0.95
    assert lines[0]["update/margin"] == pytest.approx(0.0, abs=1e-5)
    assert lines[-1]["update/policy_loss"] < lines[0]["update/policy_loss"]
    assert subject.history.judged_by == ("function:letters",)


def test_replies_that_were_not_scored_are_in_no_pair(world):
    """The best letter goes unjudged, so the next best one wins over the rest."""
    subject, lines = world.train(**{**BANDIT, "max_steps": 50, "options": {"unjudged": "a"}, "kl": {"weight": 0.3}})
    a, b = first_token(subject)[TOKENIZER.convert_tokens_to_ids(["a", "b"])]
    assert b > 0.5 > a
    assert lines[0]["train/missing"] > 0


def test_a_step_without_a_whole_pair_changes_nothing(world, monkeypatch):
    """Of each pair one reply goes unjudged."""
    whole = Letters.__call__
    monkeypatch.setattr(Letters, "__call__", lambda self, *given: [
        None if at % 2 else found for at, found in enumerate(whole(self, *given))])  # fmt: skip
    subject, lines = world.train()
    assert torch.equal(weights(subject), weights(tiny()))
    assert all("train/reward" in line and "update/policy_loss" not in line for line in lines)


def test_costs_are_measured_and_adapters_have_themselves_as_reference(world):
    subject, lines = world.train(options={"costs": ("harm",)}, model={"lora": {"rank": 2, "alpha": 4.0}})
    assert hasattr(subject.model, "disable_adapter")
    assert "train/harm" in lines[0]
    assert lines[0]["train/kl"] == pytest.approx(0.0, abs=1e-4)
    assert lines[-1]["train/kl"] != 0.0


# --- the loop ---


def test_accumulated_batches_make_the_step_of_their_union(world):
    whole, parts = (
        weights(world.train(**{"optimiser": {"lr": 1e-3}, "max_steps": 2, **more})[0])
        for more in ({}, {"micro_batch": 2})
    )
    torch.testing.assert_close(whole, parts, atol=2e-5, rtol=0)


def test_a_run_that_is_killed_and_resumed_leaves_the_same_bytes(world, monkeypatch):
    config = world.config(max_steps=4, checkpoint_steps=1, passes=2, minibatch=4)
    whole, resumed = whole_and_resumed(world.runs, ONLINE_DPO, config, monkeypatch, tiny, online_dpo._Trainer)
    assert resumed == whole


CHANGES = {
    "labels": {"labels": "bradley-terry"},
    "temperature": {"labels": "bradley-terry", "temperature": 0.2},
    "kl.weight": {"kl": {"weight": 2.0}},
    "samples": {"samples": 4},
    "passes": {"passes": 2},
    "minibatch": {"minibatch": 2},
    "score_clip": {"labels": "bradley-terry", "score_clip": 0.3},
    "cut_penalty": {"cut_penalty": 3.0},
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_setting_changes_the_policy(world, name):
    base = {"optimiser": {"lr": 3e-2, "epsilon": 1e-2}, "passes": 1}
    if name in ("temperature", "score_clip"):
        base["labels"] = "bradley-terry"
    one, other = (weights(world.train(**given)[0]) for given in (base, laid_over(base, CHANGES[name])))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 0.1}, "clip is given, but the loss of pairs has no use for it"),
        ({"loss_type": "grpo"}, "loss_type is given"),
        ({"kl": {"weight": 0.0}}, "kl is β of the loss here"),
        ({"kl": {"adaptive": {}}}, "Give kl.weight alone"),
        ({"temperature": 0.5}, "temperature is of Bradley–Terry labels"),
        ({"samples": 3}, "samples is 3, but replies come in pairs"),
        ({"minibatch": 3}, "minibatch is 3, but replies come in pairs"),
    ],
)
def test_settings_that_cannot_take_effect_are_refused(world, settings, message):
    with pytest.raises(ConfigError, match=message):
        world.config(**settings)


def test_the_recipe_has_the_abilities_of_recipes(world):
    assert isinstance(ONLINE_DPO, Checks)
    ONLINE_DPO.check(world.config(), world.runs)
    assert ONLINE_DPO.limits(world.config(options={"costs": ("harm",)})) == {}
    for preset in ONLINE_DPO.presets.values():
        assert to_toml(build(OnlineDpo, laid_over(dict(preset), {"prompts": {"path": "p"}, "scorers": []})))
    trl = build(OnlineDpo, laid_over(dict(ONLINE_DPO.presets["trl"]), {"prompts": {"path": "p"}, "scorers": []}))
    assert (trl.kl.weight, trl.optimiser.lr, trl.sampling.max_tokens, trl.sampling.temperature) == (0.1, 5e-7, 64, 0.9)
