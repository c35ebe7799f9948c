"""Small language models with weights large enough that their distributions are far from uniform."""

from __future__ import annotations

import numpy as np
import torch

from trueline.language.models import ModelRef
from trueline.language.subject import LanguageModel
from trueline.language.vocabulary import Characters, tokenizer_of

LETTERS = Characters(alphabet="abcdefgh .")


def sharpened(model, seed: int = 0, factor: float = 6.0):
    """The same model with matrices scaled and vectors (gains, biases) moved, so that no equation can be left out."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
            else:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))
    return model


def nano(seed: int = 0, context: int = 128) -> LanguageModel:
    """A Llama of the preset nano over ten letters."""
    subject = LanguageModel.of(ModelRef(vocabulary=LETTERS, context=context), np.random.default_rng(seed))
    sharpened(subject.model, seed)
    return subject


def gpt2(seed: int = 0, context: int = 128) -> LanguageModel:
    """Another architecture: learnt positions, biases, one matrix for queries, keys and values."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tokenizer_of(LETTERS)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=context, n_embd=32, n_layer=2, n_head=2, use_cache=True, **ids
    )
    torch.manual_seed(seed)
    return LanguageModel(sharpened(GPT2LMHeadModel(config).eval(), seed, 8.0), tokenizer)


def grouped(seed: int = 0) -> LanguageModel:
    """A Llama with two query heads to each head of keys, an output head of its own, and stretched rotations."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_of(LETTERS)
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_parameters={**rope, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
        rms_norm_eps=1e-2,  # large enough that leaving it out would show
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    return LanguageModel(sharpened(LlamaForCausalLM(config).eval(), seed), tokenizer)
