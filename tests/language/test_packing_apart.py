"""Packing on architectures that know restarting positions, and its refusal on those that would mix the sequences."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_models import LETTERS, gpt2, grouped, nano

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.run import Run
from trueline.language.batches import Row, packed, padded
from trueline.language.forward import check_apart, token_scores
from trueline.language.models import Lora, attach_lora
from trueline.language.recipes import SFT
from trueline.language.subject import LanguageModel
from trueline.language.vocabulary import tokenizer_of

torch.set_num_threads(1)
TOKENIZER = tokenizer_of(LETTERS)
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def opt():
    """Positions counted through the row, whatever it is told."""
    from transformers import OPTConfig, OPTForCausalLM

    shape = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OPTConfig(
        vocab_size=len(TOKENIZER), word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.0, **shape, **IDS
    )
    return OPTForCausalLM(config).eval()


def mamba():
    """A recurrence, which runs on."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=len(TOKENIZER), hidden_size=16, state_size=4, num_hidden_layers=1, **IDS)
    return MambaForCausalLM(config).eval()


def made(model):
    torch.manual_seed(0)
    return LanguageModel(model(), TOKENIZER)


@torch.no_grad()
def mixed(subject):
    """How far the second of two sequences is from what it is by itself, once they are packed."""
    weight = np.array([0.0, 1.0, 1.0, 1.0, 1.0], dtype=np.float32)
    rows = [Row(np.array(tokens), weight, 0) for tokens in ([1, 7, 8, 9, 2], [1, 9, 9, 7, 2])]
    apart, together = (token_scores(subject.model, batch(rows, 0)).log_prob.view(-1) for batch in (padded, packed))
    return float((apart - together)[5:].abs().max())


def train(folder, subject, **settings):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in ("ab", "cd", "ef", "gh")))
    config = build(SFT.Config, {"data": {"path": str(path)}, "max_steps": 1, "length": 32, **settings})
    with Run.create(folder / "runs", kind="train", name="sft", config=config, seed=0) as run:
        return SFT.train(config, run, {"policy": subject})


@pytest.mark.parametrize("model", [opt, mamba])
def test_a_model_that_mixes_packed_sequences_is_refused(model, tmp_path):
    subject = made(model)
    assert mixed(subject) > 1e-3  # the reason, on other tokens than those of the check
    with pytest.raises(ConfigError, match=rf"{type(subject.model).__name__} mixes the .* Set packing to false"):
        train(tmp_path, subject, packing=True)
    train(tmp_path, subject)  # without packing it learns like any other


@pytest.mark.parametrize("model", [nano, gpt2, grouped])
def test_a_model_that_keeps_them_apart_is_packed(model, tmp_path):
    assert mixed(model()) < 1e-5
    train(tmp_path, model(), packing=True)


def test_adapters_on_bfloat16_are_packed_and_a_dry_run_tells_too(tmp_path):
    half = nano()
    half.model.bfloat16()
    train(tmp_path, half, packing=True, model={"lora": {"rank": 2}})
    with pytest.raises(ConfigError, match="OPTForCausalLM mixes"):
        SFT.dry_run(
            build(SFT.Config, {"data": {"path": str(tmp_path / "rows.jsonl")}, "packing": True, "length": 32}),
            {"policy": made(opt)},
        )


@pytest.mark.parametrize("context", [2, 8, 64])
def test_the_check_fits_every_context_and_leaves_the_model_out_of_training(context):
    model = attach_lora(nano().model, Lora(rank=2, dropout=0.5), 0)
    model.train()
    check_apart(model, TOKENIZER, context)
    assert not model.training
