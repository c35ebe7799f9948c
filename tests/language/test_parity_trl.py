"""Step by step the losses of TRL's trainers, on the same weights and the same rows of text."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trueline.core.config import build
from trueline.core.run import Run
from trueline.language.losses import simpo
from trueline.language.models import ModelRef, load_model
from trueline.language.recipes import DPO, REWARD_MODEL, SFT
from trueline.language.subject import LanguageModel, ScoreModel

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

torch.set_num_threads(1)
STEPS, BATCH = 6, 4
EQUAL = {"abs": 1e-5, "rel": 0}
USER, REPLY = "user", "assistant"


def texts(seed=0):
    """Prompts, and answers of different lengths, of three letters."""
    rng = np.random.default_rng(seed)
    word = lambda: "".join(rng.choice(list("abc"), size=rng.integers(2, 9)))  # noqa: E731
    return [(word() + "=", word(), word() + "!") for _ in range(STEPS * BATCH)]


PREFERENCES = [{"prompt": p, "chosen": a, "rejected": b} for p, a, b in texts()]
COMPLETIONS = [{"prompt": p, "completion": a} for p, a, _ in texts()]
CHATS = [
    {"prompt": [{"role": USER, "content": p}], "completion": [{"role": REPLY, "content": a}]} for p, a, _ in texts()
]


@pytest.fixture(scope="module")
def loaded():
    return load_model(ModelRef(name="nano", context=64), np.random.default_rng(5))


def ours(recipe, rows, inputs, folder, **settings):
    """Loss and gradient norm of every step."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(path), "shuffle": False}
    given = {"data": data, "batch_size": BATCH, "log_steps": 1, "length": 64, **settings}
    config = build(recipe.Config, given)
    with Run.create(folder / "runs", kind="train", name="parity", config=config, seed=0) as run:
        recipe.train(config, run, inputs)
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["train/loss"], line["train/gradient_norm"]) for line in lines if "train/loss" in line]


def theirs(trainer, config, model, rows, tokenizer, folder, inputs=(), **settings):
    """The same of a trainer of TRL, before it rounds anything; `inputs` are arguments of the trainer itself."""
    arguments = config(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        max_length=64,
        train_sampling_strategy="sequential",
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )

    losses = []

    class Watched(trainer):
        def compute_loss(self, *given, **named):
            loss = super().compute_loss(*given, **named)
            losses.append(loss.item())
            return loss

    made = Watched(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        **dict(inputs),
    )
    made.train()
    norms = [line["grad_norm"] for line in made.state.log_history if "grad_norm" in line]
    return list(zip(losses, norms, strict=True))


def compare(found, expected):
    assert len(found) == STEPS
    assert np.ptp([loss for loss, _ in expected]) > 1e-3  # it learns: the last losses are not the first ones
    for (loss, norm), (their_loss, their_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(their_loss, **EQUAL)
        assert norm == pytest.approx(their_norm, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("rows", "learn"), [(COMPLETIONS, "completion"), (COMPLETIONS, "all"), (CHATS, "completion")])
def test_fine_tuning(rows, learn, loaded, tmp_path):
    model = copy.deepcopy(loaded.model)
    start = LanguageModel(copy.deepcopy(loaded.model), loaded.tokenizer)
    expected = theirs(
        trl.SFTTrainer,
        trl.SFTConfig,
        model,
        rows,
        loaded.tokenizer,
        tmp_path,
        learning_rate=1e-3,
        completion_only_loss=learn == "completion",
        lr_scheduler_type="cosine",
        warmup_steps=2,
        weight_decay=0.1,
    )
    optimiser = {"lr": 1e-3, "schedule": "cosine", "warmup": 1.5 / STEPS, "weight_decay": 0.1}
    compare(ours(SFT, rows, {"policy": start}, tmp_path, optimiser=optimiser, loss={"learn": learn}), expected)


def test_accumulation_counts_tokens_over_the_step(loaded, tmp_path):
    """Two batches of two with answers of different lengths are one step, by TRL's global count and by ours."""
    model = copy.deepcopy(loaded.model)
    start = LanguageModel(copy.deepcopy(loaded.model), loaded.tokenizer)
    whole = theirs(trl.SFTTrainer, trl.SFTConfig, model, COMPLETIONS, loaded.tokenizer, tmp_path, learning_rate=1e-3)
    cut = ours(SFT, COMPLETIONS, {"policy": start}, tmp_path, optimiser={"lr": 1e-3}, micro_batch=1)
    compare(cut, whole)


def test_reward_model(loaded, tmp_path):
    from transformers import LlamaForSequenceClassification

    config = copy.deepcopy(loaded.model.config)
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(loaded.model.model.state_dict())
    start = ScoreModel.of(LanguageModel(loaded.model, loaded.tokenizer), ("reward",))
    with torch.no_grad():
        start.linear.weight.copy_(model.score.weight)
    expected = theirs(
        trl.RewardTrainer, trl.RewardConfig, model, PREFERENCES, loaded.tokenizer, tmp_path, learning_rate=1e-3
    )
    found = ours(REWARD_MODEL, PREFERENCES, {"policy": start}, tmp_path, optimiser={"lr": 1e-3}, loss={"rho": 0.0})
    compare(found, expected)


@pytest.mark.parametrize(("kind", "their_kind"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_preferences(kind, their_kind, loaded, tmp_path):
    start = LanguageModel(copy.deepcopy(loaded.model), loaded.tokenizer)
    expected = theirs(
        trl.DPOTrainer,
        trl.DPOConfig,
        copy.deepcopy(loaded.model),
        PREFERENCES,
        loaded.tokenizer,
        tmp_path,
        {"ref_model": copy.deepcopy(loaded.model)},
        learning_rate=1e-3,
        loss_type=[their_kind],
        beta=0.2,
    )
    settings = {"optimiser": {"lr": 1e-3}, "loss": {"kind": kind, "beta": 0.2}}
    compare(ours(DPO, PREFERENCES, {"policy": start}, tmp_path, **settings), expected)


def test_unpaired_preferences(loaded, tmp_path):
    """z₀ too: each prompt with the answer of the row before it in the step, cut only where the context ends."""
    rng = np.random.default_rng(12)
    word = lambda fewest, most: "".join(rng.choice(list("abc"), size=rng.integers(fewest, most)))  # noqa: E731
    rows = [{"prompt": word(2, 41) + "=", "completion": word(2, 21), "label": k % 3 > 0} for k in range(STEPS * BATCH)]
    start = LanguageModel(copy.deepcopy(loaded.model), loaded.tokenizer)
    expected = theirs(
        trl.KTOTrainer,
        trl.KTOConfig,
        copy.deepcopy(loaded.model),
        rows,
        loaded.tokenizer,
        tmp_path,
        {"ref_model": copy.deepcopy(loaded.model)},
        learning_rate=1e-3,
        beta=0.5,
        desirable_weight=1.5,
    )
    settings = {"optimiser": {"lr": 1e-3}, "loss": {"kind": "kto", "beta": 0.5, "desirable": 1.5}}
    compare(ours(DPO, rows, {"policy": start}, tmp_path, **settings), expected)


def test_simpo_on_the_same_log_probabilities():
    """TRL's trainer with this loss puts other tokens in front, so the losses are compared by themselves."""
    cpo = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    sums, lengths = torch.randn(2, 5) - 8.0, torch.randint(1, 9, (2, 5)).float()
    accelerator = SimpleNamespace(device="cpu")
    self = SimpleNamespace(
        loss_type="simpo", beta=2.5, simpo_gamma=0.7, label_smoothing=0.0, alpha=0.0, accelerator=accelerator
    )
    expected, *_ = cpo.cpo_loss(self, *(sums / lengths))
    torch.testing.assert_close(simpo(*sums, *lengths, beta=2.5, gamma=0.7), expected)
