"""Supervised recipes: looks while they train, dry runs, what is refused, and that every setting has an effect."""

import json
import math
import tomllib

import numpy as np
import pytest
import torch
from supervised_cases import RECIPES, World, log, losses, pairs, rows_for, save_gpt2, weights

from trueline.core.config import build, fields, laid_over, to_toml
from trueline.core.errors import ConfigError
from trueline.core.recipe import Checks
from trueline.core.run import Run
from trueline.language import supervised
from trueline.language.batches import padded
from trueline.language.forward import activation_bytes, token_scores
from trueline.language.models import ModelRef, load_model
from trueline.language.objectives import Dpo, Kto
from trueline.language.optimiser import AdamW, Optimiser, lr_factor
from trueline.language.recipes import COST_MODEL, DPO, REWARD_MODEL, SFT
from trueline.language.subject import LanguageModel, ScoreModel, load, load_score_model

torch.set_num_threads(1)


@pytest.fixture
def world(tmp_path):
    """A folder to write rows into and to train in."""
    return World(tmp_path)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    save_gpt2(folder)
    return str(folder)


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
        ("dpo", {"loss": {"kind": "ipo", "gamma": 1.0}}, "loss.gamma is a setting of kind 'simpo'"),
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
