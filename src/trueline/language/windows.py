"""Context windows: how much a model reads at once, and by which tokenizer, known without any weight.

That decides whether a prompt leaves room for a reply, and can be asked before a run exists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from trueline.core.errors import ConfigError
from trueline.language.models import PRESETS, ModelRef, context_of, load_model, quiet
from trueline.language.subject import LanguageModel
from trueline.language.templates import TEMPLATES, TemplateName

__all__ = ["Window", "window_in", "window_of"]


class Window(NamedTuple):
    """A context window, and what fills it with tokens."""

    tokenizer: Any
    tokens: int  # of a prompt and its reply together

    @classmethod
    def of(cls, policy: LanguageModel) -> Window:
        """Of a model that is there."""
        return cls(policy.tokenizer, context_of(policy.model))


def window_of(ref: ModelRef) -> Window | None:
    """Of the model that a reference names; None of a name on the hub, where nobody is asked before there is a run.

    Raises ConfigError as `window_in`.
    """
    if ref.name in PRESETS:
        with torch.device("meta"):  # shapes without numbers
            loaded = load_model(ref.model_copy(update={"lora": None}), np.random.default_rng(0))
        return Window(loaded.tokenizer, context_of(loaded.model))
    folder = Path(ref.name)
    return window_in(folder, ref.template) if folder.is_dir() else None


def window_in(folder: Path, template: TemplateName = "own") -> Window:
    """Of the causal language model in `folder`, or in the `subject/` of the run in `folder`; no weight is read.

    Raises ConfigError where there is none.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    path = folder / "subject" if (folder / "subject").is_dir() else folder
    try:
        with quiet(), torch.device("meta"):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path, trust_remote_code=False))
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(f"{folder} holds no causal language model: {first} Give one in its place.") from None
    if template != "own":
        tokenizer.chat_template = TEMPLATES[template]
    return Window(tokenizer, context_of(model))
