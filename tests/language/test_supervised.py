"""Supervised recipes: what they learn, that a step is a step, that they go on where they stopped."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from supervised_cases import RECIPES, World, log, losses, module, pairs, rows_for, save_gpt2, weights

from trueline.core.errors import CheckpointError, Diverged, Stopped
from trueline.core.run import Run
from trueline.language import supervised
from trueline.language.batches import Codec, padded
from trueline.language.forward import Models, token_scores
from trueline.language.models import ModelRef
from trueline.language.recipes import SFT
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel, ScoreModel, load

torch.set_num_threads(1)


def assert_equal(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        if tolerance:
            torch.testing.assert_close(one[name], other[name], **tolerance)
        else:
            assert torch.equal(one[name], other[name]), name


@pytest.fixture
def world(tmp_path):
    """A folder to write rows into and to train in."""
    return World(tmp_path)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    save_gpt2(folder)
    return str(folder)


# --- what is learnt ---


def test_fine_tuning_reaches_the_entropy_of_its_data(world):
    """Three answers of equal length with chances ½, ¼, ¼: nothing can be below H = 1.5·log 2 an answer."""
    world.rows("sft", [{"prompt": "q", "completion": a} for a in "aabc"])
    _, lines = world.train(
        "sft", max_steps=80, batch_size=4, optimiser={"lr": 3e-3, "schedule": "constant"}, data={"shuffle": False}
    )
    per_token = 1.5 * math.log(2.0) / 2  # the end token follows for certain
    assert losses(lines)[-1] == pytest.approx(per_token, abs=0.01)
    assert losses(lines)[0] > 4.0


@pytest.mark.parametrize("name", ["reward-model", "cost-model"])
@pytest.mark.parametrize("credit", ["sequence", "token"])
def test_scores_are_learnt_and_hold_on_other_rows(name, credit, world):
    path = world.folder / "other.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_for(name, 40, seed=9)))
    subject, lines = world.train(
        name,
        max_steps=40,
        batch_size=16,
        optimiser={"lr": 3e-3},
        loss={"credit": credit},
        evaluation={"path": str(path)},
    )
    assert isinstance(subject, ScoreModel)
    assert lines[-1]["eval/accuracy"] > 0.95
    if name == "cost-model":
        assert lines[-1]["eval/sign_accuracy"] > 0.95
        assert lines[-1]["eval/unsafer"] > 0 > lines[-1]["eval/safer"]  # a cost above 0 says unsafe


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo", "kto"])
def test_preferences_make_the_chosen_answer_likelier_than_the_rejected(kind, world):
    start = LanguageModel.of(ModelRef(), np.random.default_rng(0))
    before = copy.deepcopy(start)
    loss = {"kind": kind, **({"beta": 0.5} if kind == "kto" else {})}
    subject, lines = world.train("dpo", {"policy": start}, max_steps=25, loss=loss, optimiser={"lr": 1e-3})

    def log_ratio(model):
        chats = [padded([row], 0) for row in _pair_rows(model)]
        with torch.no_grad():
            chosen, rejected = (token_scores(model.model, batch).log_prob.sum() for batch in chats)
        return float(chosen - rejected)

    assert log_ratio(subject) > log_ratio(before) + 0.5
    assert np.mean(losses(lines)[-5:]) < losses(lines)[0]


def _pair_rows(model):
    (p, a, b), codec = pairs(1)[0], Codec(model.tokenizer, Data(path="unused"), 64)
    return codec.answers(p, [a, b], "row")


def test_before_the_first_step_the_reference_is_the_policy(world):
    """DPO begins at log 2 and IPO at 1/(4β²) beside a copy or switched-off adapters, but not beside another model."""
    start = LanguageModel.of(ModelRef(), np.random.default_rng(0))
    for settings in ({}, {"model": {"lora": {"rank": 2}}}):
        _, lines = world.train("dpo", {"policy": copy.deepcopy(start)}, max_steps=2, **settings)
        assert losses(lines)[0] == pytest.approx(math.log(2.0), abs=1e-6)
        assert losses(lines)[1] < math.log(2.0)
    _, lines = world.train("dpo", {"policy": copy.deepcopy(start)}, max_steps=1, loss={"kind": "ipo", "beta": 0.25})
    assert losses(lines)[0] == pytest.approx(4.0, abs=1e-5)
    other = LanguageModel.of(ModelRef(), np.random.default_rng(1))
    _, lines = world.train("dpo", {"policy": copy.deepcopy(start), "reference": other}, max_steps=1)
    assert losses(lines)[0] != pytest.approx(math.log(2.0), abs=1e-3)


@pytest.mark.parametrize("kind", ["dpo", "ipo", "kto"])
def test_the_reference_is_read_while_no_activations_are_held(kind, world, monkeypatch):
    order = []

    def told(name):
        real = getattr(Models, name)

        def read(self, *given, **named):
            order.append(name if name == "reference" or torch.is_grad_enabled() else "without gradient")
            return real(self, *given, **named)

        monkeypatch.setattr(Models, name, read)

    told("tokens")
    told("reference")
    world.train("dpo", loss={"kind": kind}, max_steps=2, micro_batch=3)
    of_losses = [name for name in order if name != "without gradient"]
    assert of_losses[-4:] == ["reference", "tokens"] * 2
    assert of_losses.count("tokens") == 4


def test_a_rewriter_copies_what_is_right_and_corrects_what_is_wrong(world):
    world.rows("seq2seq-rm", [{"prompt": "q", "chosen": "ab", "rejected": "cd"}])
    _, lines = world.train("seq2seq-rm", max_steps=30, batch_size=2, optimiser={"lr": 3e-3})
    assert lines[-1]["train/accuracy"] == 1.0
    # The two mappings are two sequences: without identity there are half the tokens.
    _, alone = world.train("seq2seq-rm", max_steps=1, batch_size=2, loss={"identity": 0.0})
    assert lines[0]["train/tokens"] == 2 * alone[0]["train/tokens"]


def test_dropout_is_on_where_a_likelihood_is_learnt_and_off_where_answers_are_compared(gpt2, world):
    for name, differs in (("sft", True), ("reward-model", False), ("dpo", False)):
        traces = []
        for seed in (1, 2):  # the rows come as they lie and the weights are given, so dropout alone could differ
            config = world.config(name, model={"name": gpt2}, data={"shuffle": False}, max_steps=3)
            with world.run(name, config, seed=seed) as run:
                RECIPES[name].train(config, run, {})
            traces.append(losses(log(run)))
        assert (traces[0] != traces[1]) == differs, name


# --- a step is a step ---

CUTS = [{"micro_batch": 1}, {"micro_batch": 4}, {"packing": True}, {"packing": True, "micro_batch": 1, "length": 24}]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("name", ["sft", "seq2seq-rm"])
def test_cutting_and_packing_change_nothing(name, cut, world):
    whole, lines = world.train(name, optimiser={"lr": 1e-3, "epsilon": 1e-3})
    parts, other = world.train(name, optimiser={"lr": 1e-3, "epsilon": 1e-3}, **cut)
    assert losses(other) == pytest.approx(losses(lines), abs=1e-5)
    assert_equal(weights(whole), weights(parts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("loss", [{}, {"kind": "ipo"}, {"kind": "simpo"}, {"kind": "kto"}], ids=str)
def test_cutting_changes_no_step_over_pairs(loss, world):
    """kto's z₀ is that of the whole step however it is cut."""
    whole, lines = world.train("dpo", loss=loss, optimiser={"lr": 1e-3, "epsilon": 1e-3})
    parts, other = world.train("dpo", loss=loss, optimiser={"lr": 1e-3, "epsilon": 1e-3}, micro_batch=2)
    assert losses(other) == pytest.approx(losses(lines), abs=1e-5)
    assert_equal(weights(whole), weights(parts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sft", "reward-model"])
def test_recomputing_activations_changes_nothing(name, gpt2, world):
    model = {"name": gpt2} if name == "sft" else {"name": "nano"}  # with dropout, whose draws are recomputed alike
    whole, lines = world.train(name, model=model)
    again, other = world.train(name, model=model, gradient_checkpointing=True)
    assert losses(other) == pytest.approx(losses(lines), abs=1e-6)
    assert_equal(weights(whole), weights(again), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["sft", "reward-model"])
def test_activations_are_recomputed_where_asked(name, world):
    """With dropout or without, every layer runs twice a step."""
    calls = {"n": 0}
    for checkpointing in (False, True):
        start = LanguageModel.of(ModelRef(), np.random.default_rng(0))
        if name == "reward-model":
            start = ScoreModel.of(start, ("reward",))
        body = start.body if isinstance(start, ScoreModel) else start.model.model
        before = calls["n"]
        forward = body.layers[0].self_attn.forward

        def counted(*given, forward=forward, **named):
            calls["n"] += 1
            return forward(*given, **named)

        body.layers[0].self_attn.forward = counted
        world.train(name, {"policy": start}, max_steps=2, gradient_checkpointing=checkpointing)
        assert calls["n"] - before == (4 if checkpointing else 2)


def test_bfloat16_products_leave_the_weights_in_float32(world):
    _, lines = world.train("sft")
    half, other = world.train("sft", autocast="bfloat16")
    assert losses(other) == pytest.approx(losses(lines), rel=0.02)
    assert losses(other) != losses(lines)
    assert {p.dtype for p in module(half).parameters()} == {torch.float32}


def test_adapters_alone_are_trained_and_saved_merged(world):
    start = LanguageModel.of(ModelRef(), np.random.default_rng(0))
    before = weights(start)
    subject, _ = world.train("sft", {"policy": start}, model={"lora": {"rank": 2}})
    after = {name: p for name, p in subject.model.named_parameters() if "lora" not in name}
    for (name, p), old in zip(after.items(), before.values(), strict=True):
        assert torch.equal(p, old), name
    saved = load(world.runs / f"r{world.count}" / "subject")
    tokens = torch.arange(10, 20)[None]
    with torch.no_grad():
        plain, with_adapters = saved.model(input_ids=tokens).logits, subject.model(input_ids=tokens).logits
    torch.testing.assert_close(plain, with_adapters, atol=1e-5, rtol=1e-5)
    assert torch.equal(saved.model.get_input_embeddings().weight, start.model.get_input_embeddings().weight)
    assert any(not torch.equal(p, before[name]) for name, p in saved.model.named_parameters())


# --- going on ---


def interrupted(world, name, settings, at, monkeypatch):
    """Train, be told to stop at step `at`, and resume from the folder."""
    config = world.config(name, **settings)
    steps = {"n": 0}

    def asked():
        steps["n"] += 1
        return steps["n"] == at

    monkeypatch.setattr(supervised.training, "stop_asked", asked)
    real, saved = Run.save, []

    def save_and_stop(self, step, state):
        real(self, step, state)
        saved.append(step)
        if step == at:
            raise Stopped(self.id)

    monkeypatch.setattr(Run, "save", save_and_stop)
    with pytest.raises(Stopped), world.run(name, config, id=f"stopped-{name}") as run:
        RECIPES[name].train(config, run, {})
    monkeypatch.undo()
    with Run.reopen(world.runs / f"stopped-{name}") as run:
        subject = RECIPES[name].train(config, run, {})
    return subject, log(run)


CASES = {
    "sft": {"packing": True, "micro_batch": 2, "held_out": 0.2, "eval_steps": 2, "log_steps": 4},
    "reward-model": {"log_steps": 4},
    "dpo": {"model": {"lora": {"rank": 2, "dropout": 0.3}}, "loss": {"kind": "kto"}},
    "seq2seq-rm": {"data": {"limit": 5}},
}


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_ends_with_the_same_bits(name, gpt2, world, monkeypatch):
    settings = dict(CASES[name])
    if name == "sft":
        settings["model"] = {"name": gpt2}  # with dropout
    whole, lines = world.train(name, **settings)
    resumed, other = interrupted(world, name, settings, 3, monkeypatch)
    assert_equal(weights(whole), weights(resumed))
    assert lines == other


def test_other_rows_are_no_resumption(world, monkeypatch):
    config = world.config("sft")
    with world.run("sft", config, id="changed") as run:
        SFT.train(config, run, {})
    world.rows("sft", rows_for("sft", seed=5))
    with Run.reopen(world.runs / "changed") as run, pytest.raises(CheckpointError, match="data of run changed changed"):
        SFT.train(config, run, {})


def test_torch_s_own_random_state_is_left_alone(world):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    world.train("sft", max_steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_loss_that_is_no_number_names_its_step(world):
    start = LanguageModel.of(ModelRef(), np.random.default_rng(0))
    with torch.no_grad():
        start.model.get_input_embeddings().weight[40] = math.nan
    with pytest.raises(Diverged, match=r"the loss is not finite at step 1: training diverged. No checkpoint"):
        world.train("sft", {"policy": start}, batch_size=48)
    config = world.config("sft", optimiser={"lr": 1e30, "clip": None}, checkpoint_steps=1)
    with world.run("sft", config) as run, pytest.raises(Diverged, match=r"at step [23].*last good checkpoint is"):
        SFT.train(config, run, {})
