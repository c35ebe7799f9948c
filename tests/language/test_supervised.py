"""The supervised loop: what it learns, that it goes on where it was, and that a step is a step however it is cut."""

import copy
import json
import math
import tomllib

import numpy as np
import pytest
import torch

from trueline.core.config import build, fields, laid_over, to_toml
from trueline.core.errors import CheckpointError, ConfigError, Diverged, Stopped
from trueline.core.recipe import Checks
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.language import supervised
from trueline.language.batches import Codec, padded
from trueline.language.forward import Models, activation_bytes, token_scores
from trueline.language.models import ModelRef, load_model
from trueline.language.objectives import Dpo, Kto
from trueline.language.optimiser import AdamW, Optimiser, lr_factor
from trueline.language.recipes import COST_MODEL, DPO, REWARD_MODEL, SEQ2SEQ_RM, SFT
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel, ScoreModel, load, load_score_model

torch.set_num_threads(1)
RECIPES = {recipe.name: recipe for recipe in (SFT, REWARD_MODEL, COST_MODEL, DPO, SEQ2SEQ_RM)}


def shifted(text):
    return "".join(chr(ord(c) + 1) for c in text)


def pairs(n, seed=0):
    """A prompt, the answer that is its cipher, and one that is it backwards and longer."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefgh"), size=rng.integers(2, 6))) for _ in range(n)]
    return [(word + "=", shifted(word), word[::-1] + "!") for word in words]


def rows_for(name, n=48, seed=0):
    if name == "sft":
        return [{"prompt": p, "completion": a} for p, a, _ in pairs(n, seed)]
    if name == "cost-model":
        safe = {"safer_response_id": 0, "is_response_0_safe": True, "is_response_1_safe": False}
        return [
            {"prompt": p, "response_0": a, "response_1": b, "better_response_id": 1, **safe}
            for p, a, b in pairs(n, seed)
        ]
    return [{"prompt": p, "chosen": a, "rejected": b} for p, a, b in pairs(n, seed)]


@pytest.fixture
def world(tmp_path):
    """A folder to write rows into and to train in."""
    return World(tmp_path)


class World:
    def __init__(self, folder):
        self.folder, self.runs, self.count = folder, folder / "runs", 0

    def rows(self, name, rows=None):
        path = self.folder / f"{name}.jsonl"
        rows = rows_for(name) if rows is None else rows
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def config(self, name, **settings):
        data = {"path": str(self.folder / f"{name}.jsonl"), **settings.pop("data", {})}
        if not (self.folder / f"{name}.jsonl").exists():
            self.rows(name)
        given = {"data": data, "batch_size": 6, "max_steps": 6, "log_steps": 1, "optimiser": {"lr": 1e-3}}
        return build(RECIPES[name].Config, {**given, **settings})

    def run(self, name, config, seed=3, id=None):
        self.count += 1
        return Run.create(self.runs, kind="train", name=name, config=config, seed=seed, id=id or f"r{self.count}")

    def train(self, name, inputs=None, watch=None, **settings):
        """The subject, and the lines of its log."""
        config = self.config(name, **settings)
        with self.run(name, config) as run:
            run.watch = watch
            subject = RECIPES[name].train(config, run, inputs or {})
            save_subject(subject, run.folder)
        return subject, log(run)


def log(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time/elapsed_s"} for line in lines]


def losses(lines):
    return [line["train/loss"] for line in lines if "train/loss" in line]


def module(subject):
    return subject if isinstance(subject, ScoreModel) else subject.model


def weights(subject):
    return {name: p.detach().clone() for name, p in module(subject).named_parameters()}


def assert_equal(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        if tolerance:
            torch.testing.assert_close(one[name], other[name], **tolerance)
        else:
            assert torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A saved model of another architecture, with dropout."""
    from transformers import AutoModelForCausalLM, GPT2Config

    loaded = load_model(ModelRef(), np.random.default_rng(0))
    ids = {"vocab_size": len(loaded.tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, **ids))
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
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


# --- evaluation and whoever looks on ---


def test_held_out_rows_are_evaluated_without_dropout_and_never_learnt(gpt2, world):
    subject, lines = world.train("sft", model={"name": gpt2}, held_out=0.3, max_steps=4, eval_steps=2)
    found = [line for line in lines if "eval/loss" in line]
    assert [line["step"] for line in found] == [2, 4]
    config = world.config("sft", held_out=0.3)
    prepared = supervised.prepare(config, subject.tokenizer, 512, ())
    learnt = {tuple(item.rows[0].tokens) for source in prepared.sources for item in source}
    rows = [item.rows[0] for item in prepared.evaluation]
    assert learnt.isdisjoint({tuple(row.tokens) for row in rows})
    with torch.no_grad():
        by_hand = -sum(token_scores(subject.model, padded([row], 0)).log_prob.sum() for row in rows)
    assert found[-1]["eval/loss"] == pytest.approx(float(by_hand) / sum(row.weight.sum() for row in rows), abs=1e-5)


def test_a_watcher_sees_the_subject_at_every_evaluation(world):
    seen = []

    def watch(step, subject):
        seen.append((step, subject.model.training))
        return {"watched": float(step)}

    _, lines = world.train("sft", watch=watch, max_steps=5, eval_steps=2)
    assert seen == [(2, False), (4, False), (5, False)]
    assert [line["watched"] for line in lines if "watched" in line] == [2.0, 4.0, 5.0]


def test_the_log_has_the_mean_of_its_steps(world):
    _, each = world.train("sft")
    _, some = world.train("sft", log_steps=4)
    assert [line["step"] for line in some] == [4, 6]
    assert losses(some) == pytest.approx([np.mean(losses(each)[:4]), np.mean(losses(each)[4:])])


def test_the_run_says_what_it_learnt_from(world, capfd):
    world.rows("sft", [*rows_for("sft"), {"prompt": "a", "completion": ""}, {"prompt": "a", "completion": "b" * 40}])
    world.train("sft", data={"unusable": "drop"}, length=24)
    said = capfd.readouterr().err
    assert "sft.jsonl: left out 1 empty\n" in said
    assert "longer than the context: 1 long answer cut\n" in said
    folder = world.runs / f"r{world.count}"
    facts = json.loads((folder / "artefacts" / "data.json").read_text())
    assert facts["sources"][0]["records"] == 49
    assert facts["sources"][0]["dropped"] == {"empty": 1}
    assert json.loads((folder / "manifest.json").read_text())["data"] == facts["sha256"]
    assert len(facts["sha256"]) == 64


# --- dry run ---


def test_a_dry_run_foretells_steps_and_tokens(world):
    settings = {"max_steps": None, "epochs": 2.5, "batch_size": 7}
    told = SFT.dry_run(world.config("sft", **settings))
    _, lines = world.train("sft", **settings)
    assert told.steps == math.ceil(2.5 * 48 / 7) == lines[-1]["step"]
    # The order of a dry run is drawn from another stream, so over part of an epoch the tokens differ by its rows.
    assert told.tokens == pytest.approx(lines[-1]["train/tokens"], rel=0.05)
    same = SFT.dry_run(world.config("sft", max_steps=8, batch_size=6))  # whole epochs: equal to the token
    assert same.tokens == sum(len(p) + len(a) + 1 for p, a, _ in pairs(48))


def test_a_dry_run_shows_rows_as_the_model_reads_them(world):
    p, a, b = pairs(48)[0]
    told = DPO.dry_run(world.config("dpo", data={"shuffle": False}))
    assert told.rows[0] == f"{p}⟦{a}<eos>⟧ | {p}⟦{b}<eos>⟧"
    assert len(told.rows) == 3
    assert all(word in str(told) for word in ("6 steps", "memory about", "48 items of 48 preference rows", "1: "))


def test_memory_is_told_from_shapes(world):
    told = SFT.dry_run(world.config("sft")).memory
    model = LanguageModel.of(ModelRef(), np.random.default_rng(0)).model
    size = 4 * sum(p.numel() for p in model.parameters())
    assert (told.weights, told.gradients, told.moments, told.reference) == (size, size, 2 * size, 0)
    assert DPO.dry_run(world.config("dpo")).memory.reference == size
    lora = DPO.dry_run(world.config("dpo", model={"lora": {"rank": 1}})).memory
    assert lora.reference == 0
    assert lora.gradients < size / 10
    half = SFT.dry_run(world.config("sft", micro_batch=3)).memory
    assert half.activations == pytest.approx(told.activations / 2, rel=0.05)


def test_memory_of_a_forward_pass_is_what_torch_keeps():
    model = load_model(ModelRef(name="micro"), np.random.default_rng(0)).model.train()
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), x)
        return x

    tokens = torch.zeros(2, 64, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        logits = model(input_ids=tokens, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    told = activation_bytes(model, 2, 64, head=True, checkpointing=False)
    assert told == pytest.approx(sum(size for size, _ in kept.values()), rel=0.1)
    assert activation_bytes(model, 2, 64, head=True, checkpointing=True) < told / 2


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("sft", {"held_out": 0.1, "evaluation": {"path": "x"}}, "evaluation and held_out are both given"),
        ("dpo", {"loss": {"kind": "kto"}, "batch_size": 1}, "kto compares each prompt with another's answer"),
        ("reward-model", {"packing": True}, "no setting is called 'packing'"),
        ("dpo", {"loss": {"kind": "ipo", "gamma": 1.0}}, "no setting is called 'loss.gamma'"),
        ("dpo", {"loss": {"kind": "orpo"}}, "'dpo' or 'ipo' or 'simpo' or 'kto'|loss.kind is 'orpo'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, settings, sentence, world):
    with pytest.raises(ConfigError, match=sentence):
        world.config(name, **settings)


def test_what_cannot_be_learnt_from_is_refused_before_a_run_exists(world):
    world.rows("cost-model", rows_for("dpo"))
    with pytest.raises(ConfigError, match=r"cost-model.jsonl is preference data .*A safety-preference row has prompt"):
        COST_MODEL.check(world.config("cost-model"), world.runs)


@pytest.mark.parametrize("name", ["reward-model", "cost-model"])
def test_scores_are_learnt_by_adapters_on_a_body_that_stays(world, name):
    start = LanguageModel.of(ModelRef(), np.random.default_rng(0))
    body = {key: p.detach().clone() for key, p in start.model.base_model.named_parameters()}
    settings = {"model": {"lora": {"rank": 4}}, "max_steps": 40, "optimiser": {"lr": 1e-2}}
    subject, lines = world.train(name, {"policy": start}, **settings)
    assert losses(lines)[-1] < 0.5 * losses(lines)[0]
    learnt = {key for key, p in subject.named_parameters() if p.requires_grad}
    assert all("lora" in key or key.startswith("linear") for key in learnt)
    kept = subject.body.get_base_model()
    for key, p in kept.named_parameters():
        if "lora" not in key:
            assert torch.equal(p, body[key.replace(".base_layer", "")]), key
    subject.save(world.folder / "saved")
    again = load_score_model(world.folder / "saved")
    tokens = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again(tokens), subject.eval()(tokens), atol=1e-4, rtol=1e-4)
    # A model whose adapters were added in goes on under fresh ones, from where it was.
    further, lines = world.train(name, {"policy": again}, **{**settings, "max_steps": 2})
    assert losses(lines)[0] < 0.6 * losses(world.train(name, {"policy": start}, **settings)[1])[0]
    assert hasattr(further.body, "disable_adapter")


def test_inputs_that_have_no_place_are_refused(world):
    model = LanguageModel.of(ModelRef(), np.random.default_rng(0))
    scores = ScoreModel.of(model, ("value",))
    for name, inputs, sentence in (
        ("sft", {"reference": model}, "likelihood has no use for a reference"),
        ("dpo", {"reference": model, "loss": {"kind": "simpo"}}, "simpo has no use for a reference"),
        ("sft", {"policy": scores}, "the warm start is a 'score-model'"),
        ("dpo", {"reference": scores}, "the reference is a 'score-model'"),
        ("reward-model", {"policy": scores}, "gives value, but reward is learnt here"),
    ):
        settings = {key: inputs.pop(key) for key in ("loss", "model") if key in inputs}
        with pytest.raises(ConfigError, match=sentence):
            RECIPES[name].dry_run(world.config(name, **settings), inputs)


def test_an_architecture_that_cannot_recompute_is_refused(world):
    start = LanguageModel.of(ModelRef(), np.random.default_rng(0))
    start.model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM cannot compute activations again"):
        world.train("sft", {"policy": start}, gradient_checkpointing=True)


def test_a_device_that_is_not_there_is_refused(world, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"torch sees no CUDA device here. Set device to 'auto' or 'cpu'"):
        world.train("sft", device="cuda")


def test_nothing_left_to_learn_from_is_said_with_the_reason(world):
    with pytest.raises(ConfigError, match=r"no row of sft.jsonl is left to learn from: 48 long prompt dropped"):
        SFT.dry_run(world.config("sft", length=2, data={"long_prompt": "drop"}))
    world.rows("sft", [{"prompt": "same", "completion": c} for c in "abc"])
    with pytest.raises(ConfigError, match="leaves one side empty"):
        SFT.dry_run(world.config("sft", held_out=0.5))


def test_a_warm_start_goes_on_and_is_named_as_parent(world):
    world.train("sft")
    config = world.config("sft", max_steps=1)
    with Run.create(
        world.runs, kind="train", name="sft", config=config, seed=0, id="on", inputs={"policy": world.runs / "r1"}
    ) as run:
        subject = SFT.train(config, run, {"policy": load(world.runs / "r1" / "subject")})
    assert subject.parent == "r1"
    _, fresh = world.train("sft", max_steps=1)
    assert losses(log(run))[0] < losses(fresh)[0]
    scores, _ = world.train("reward-model", {"policy": load(world.runs / "r1" / "subject")}, max_steps=3)
    _, later = world.train("reward-model", {"policy": scores}, max_steps=1)
    assert losses(later)[0] < math.log(2.0)


# --- recipes ---


@pytest.mark.parametrize("name", RECIPES)
def test_presets_are_settings_and_come_back_from_their_file(name, world):
    recipe = RECIPES[name]
    assert isinstance(recipe, Checks)
    for preset in (None, *recipe.presets):
        given = laid_over(dict(recipe.presets.get(preset, {})), {"data": {"path": ["a.jsonl", "b.jsonl"]}})
        config = build(recipe.Config, given)
        assert build(recipe.Config, tomllib.loads(to_toml(config))) == config
    assert {"data.path", "model.name", "optimiser.lr", "batch_size"} <= {s.key for s in fields(recipe.Config)}


def test_defaults_are_trl_s():
    trl = pytest.importorskip("trl")
    for recipe, theirs in ((SFT, trl.SFTConfig), (REWARD_MODEL, trl.RewardConfig), (DPO, trl.DPOConfig)):
        config, peer = build(recipe.Config, {"data": {"path": "x"}}), theirs(report_to="none", use_cpu=True, bf16=False)
        adam = config.optimiser
        assert (adam.lr, config.length, adam.schedule) == (peer.learning_rate, peer.max_length, peer.lr_scheduler_type)
        assert (adam.clip, adam.weight_decay, adam.warmup) == (peer.max_grad_norm, peer.weight_decay, peer.warmup_steps)
        assert (adam.beta_1, adam.beta_2, adam.epsilon) == (peer.adam_beta1, peer.adam_beta2, peer.adam_epsilon)
        assert config.batch_size == peer.per_device_train_batch_size
    kto = trl.KTOConfig(report_to="none", use_cpu=True, bf16=False)
    assert (Kto().beta, Kto().desirable, Kto().undesirable) == (kto.beta, kto.desirable_weight, kto.undesirable_weight)
    assert Dpo().beta == trl.DPOConfig(report_to="none", use_cpu=True, bf16=False).beta


def test_safe_rlhf_settings_ask_as_it_does(world):
    data = {"path": world.rows("cost-model"), "shuffle": False}
    config = build(COST_MODEL.Config, laid_over(dict(COST_MODEL.presets["safe-rlhf"]), {"data": data}))
    start = LanguageModel.of(ModelRef(), np.random.default_rng(0))  # made with another template
    p, a, b = pairs(48)[0]
    asked = f"<bos>BEGINNING OF CONVERSATION: USER: {p} ASSISTANT:"
    for inputs in ({}, {"policy": start}):
        assert COST_MODEL.dry_run(config, inputs).rows[0] == f"{asked}⟦{a}<eos>⟧ | {asked}⟦{b}<eos>⟧"


# --- every setting has an effect ---


def changed(config, field):
    value = getattr(config, field)
    if field == "schedule":
        return "cosine"
    if field == "clip":
        return 0.01
    return {"lr": 2e-3, "warmup": 0.5, "weight_decay": 0.5}.get(field, value * 0.5 if value else 0.3)


@pytest.mark.parametrize("field", AdamW.model_fields)
def test_every_setting_of_the_optimiser_changes_the_weights(field, world):
    base = AdamW(lr=1e-3)
    values = {"lr": 1e-3, "epsilon": 1e-4} if field == "epsilon" else {"lr": 1e-3, field: changed(base, field)}
    one, _ = world.train("sft", max_steps=3)
    other, _ = world.train("sft", max_steps=3, optimiser=values)
    assert any(not torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize(
    ("name", "loss", "change"),
    [
        ("reward-model", {}, {"rho": 0.5}),
        ("reward-model", {}, {"credit": "token"}),
        ("cost-model", {}, {"rho": 0.5}),
        ("cost-model", {}, {"credit": "token"}),
        ("dpo", {}, {"beta": 0.2}),
        ("dpo", {}, {"label_noise": 0.1}),
        ("dpo", {"kind": "ipo"}, {"beta": 0.2}),
        ("dpo", {"kind": "simpo"}, {"beta": 1.0}),
        ("dpo", {"kind": "simpo"}, {"gamma": 1.0}),
        ("dpo", {"kind": "kto"}, {"beta": 0.2}),
        ("dpo", {"kind": "kto"}, {"desirable": 2.0}),
        ("dpo", {"kind": "kto"}, {"undesirable": 2.0}),
        ("seq2seq-rm", {}, {"identity": 0.5}),
        ("seq2seq-rm", {}, {"separator": " "}),
        ("sft", {}, {"learn": "all"}),
    ],
    ids=str,
)
def test_every_setting_of_a_loss_changes_it(name, loss, change, world):
    _, one = world.train(name, max_steps=3, loss=loss)
    _, other = world.train(name, max_steps=3, loss={**loss, **change})
    assert losses(one)[1:] != losses(other)[1:]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_schedules_are_transformers(schedule, warmup):
    from transformers import get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.SGD([parameter], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, adam, num_warmup_steps=math.ceil(warmup * 20), num_training_steps=20)
    config = AdamW(schedule=schedule, warmup=warmup)
    for step in range(20):
        assert lr_factor(config, step, 20) == pytest.approx(theirs.get_last_lr()[0])
        adam.step()
        theirs.step()


def test_decay_leaves_norms_and_biases_alone(world):
    """Without a gradient worth its name, one step of decay d at rate lr scales matrices by 1 − lr·d."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    Optimiser(AdamW(lr=0.1, weight_decay=0.5, schedule="constant"), model.parameters(), 1).step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if p.ndim == 2 else 1.0))
