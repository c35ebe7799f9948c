"""Causal language models: named presets made from scratch, folders and hub names; adapters; conversion of old weights.

Every model is a Hugging Face model with its tokenizer. Weights are read from safetensors only: a pickle can run code.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import ConfigError, MissingExtra, RunError
from trueline.language.templates import TEMPLATES, TemplateName
from trueline.language.vocabulary import Characters, Vocabulary, tokenizer_of

__all__ = [
    "PRESETS",
    "Architecture",
    "Loaded",
    "Lora",
    "ModelRef",
    "attach_lora",
    "check_learns",
    "check_reference",
    "context_of",
    "convert",
    "end_tokens",
    "from_scratch",
    "load_folder",
    "load_model",
    "merged",
    "quiet",
    "reference",
    "token_log_prob",
]


_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # owner/name, or a name of the hub's own


class Architecture(NamedTuple):
    """A Llama architecture; input and output embeddings are one matrix."""

    layers: int
    width: int
    heads: int
    inner: int  # width of the gated perceptron


# About 60 thousand, 0.8 million and 5 million parameters with a vocabulary of a hundred.
PRESETS = {
    "nano": Architecture(2, 48, 3, 128),
    "micro": Architecture(4, 128, 4, 344),
    "mini": Architecture(6, 256, 8, 688),
}


class Lora(Config):
    """Low-rank adapters (Hu et al. 2022): W + (α/r)·B·A, with W frozen and B = 0 at the start."""

    rank: int = Field(16, ge=1)  # r
    alpha: float = Field(16.0, gt=0)  # α
    # Of the adapters' input, where a likelihood is learnt; answers are compared and policies learn without any dropout.
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()  # names of linear layers; none given: every one but the output head


class ModelRef(Config):
    """Which model: a preset to make from scratch, a folder in Hugging Face's layout, or a name on its hub."""

    name: str = "nano"  # nano, micro, mini; a path; or owner/name
    vocabulary: Vocabulary | None = None  # of a preset; none: printable ASCII by character
    context: int | None = Field(None, ge=8)  # tokens a preset is made for; none: 512
    template: TemplateName = "own"  # of chats; own: the tokenizer's
    dtype: Literal["float32", "bfloat16"] = "float32"  # of weights; in bfloat16 adapters alone are trained
    revision: str | None = None  # branch, tag or commit of a hub name
    lora: Lora | None = None  # train adapters and leave the weights as they are

    @model_validator(mode="after")
    def _effective(self) -> ModelRef:
        preset = self.name in PRESETS
        for name in ("vocabulary", "context"):
            if not preset and getattr(self, name) is not None:
                raise ValueError(f"{name} is for {', '.join(PRESETS)}, but the model is {self.name!r}. Drop it.")
        if self.revision is not None and (preset or Path(self.name).exists()):
            raise ValueError(f"revision is for names on the hub, but {self.name!r} is none. Drop it.")
        return self


class Loaded(NamedTuple):
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any


def load_model(ref: ModelRef, rng: np.random.Generator) -> Loaded:
    """The model a reference names, in evaluation mode; `rng` gives a preset's and the adapters' starting weights.

    Raises ConfigError for what is missing, pickled, or unfit for sampling, MissingExtra without transformers.
    """
    _needs("transformers")
    seed = int(rng.integers(2**63))
    if ref.name in PRESETS:
        tokenizer = tokenizer_of(ref.vocabulary or Characters())
        loaded = Loaded(from_scratch(PRESETS[ref.name], tokenizer, seed, ref.context or 512), tokenizer)
        loaded.model.to(getattr(torch, ref.dtype))
    else:
        loaded = load_folder(ref.name, ref.dtype, ref.revision)
    if ref.template != "own":
        loaded.tokenizer.chat_template = TEMPLATES[ref.template]
    if ref.lora is not None:
        loaded = loaded._replace(model=attach_lora(loaded.model, ref.lora, seed))
    loaded.model.eval()
    return loaded


def check_reference(ref: ModelRef) -> None:
    """Raises ConfigError where a reference names no model that could be loaded, as far as no weight has to be read."""
    folder = Path(ref.name)
    if ref.name in PRESETS:
        return
    if folder.exists():
        _needs("transformers")
        _check_folder(folder)
        with _as_refusals(ref.name):
            tokenizer = _tokenizer(ref.name)
        _check_end(tokenizer, ref.name)
    elif not _HUB_NAME.fullmatch(ref.name):
        raise ConfigError(
            f"there is no folder {ref.name}. "
            f"Give a folder in Hugging Face's layout, a name on its hub, or one of {', '.join(PRESETS)}."
        )


def check_learns(parameters: Iterable[Tensor], what: str = "model") -> None:
    """Raises ConfigError for weights to train in a type too short for an optimiser's steps.

    bfloat16 keeps 8 bits, so that a step below 1/512 of a weight is rounded away: at usual rates, most of them.
    """
    short = next((p.dtype for p in parameters if p.requires_grad and p.dtype.itemsize < 4), None)
    if short is not None:
        raise ConfigError(
            f"the {what}'s weights are {str(short).removeprefix('torch.')}, in which most steps of the optimiser are "
            "rounded away. Train float32 weights (model.dtype) with autocast = 'bfloat16', or train adapters (lora)."
        )


def from_scratch(shape: Architecture, tokenizer: Any, seed: int, context: int = 512) -> Any:
    """A Llama model with random weights that depend on `seed` alone; torch's own random state is left as it was."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with _own_randomness(seed):
        return LlamaForCausalLM(config).eval()


def load_folder(name: str, dtype: str | None = None, revision: str | None = None) -> Loaded:
    """The model in a folder or on the hub; `dtype` None keeps the one it was saved in.  Raises as `load_model`."""
    _needs("transformers")
    from transformers import AutoModelForCausalLM

    folder = Path(name)
    if folder.exists():
        _check_folder(folder)
    where: dict[str, Any] = {"revision": revision} if revision else {}
    with _as_refusals(name):
        tokenizer = _tokenizer(name, **where)
        found: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **where,
        )
    model, told = found
    _check_whole(told["missing_keys"], name)
    embedded = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embedded:
        raise ConfigError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens, but its model embeds {embedded}. "
            "Save the two that belong together."
        )
    _mend(tokenizer, name)
    return Loaded(model.eval(), tokenizer)


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a reply: the tokenizer's eos and those of the model's generation settings, sorted."""
    also = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    also = [] if also is None else [also] if isinstance(also, int) else list(also)
    return tuple(sorted({tokenizer.eos_token_id, *also}))


def context_of(model: Any) -> int:
    """Tokens the model can attend to, prompt and reply together."""
    config = model.config
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(found) if found else 2**31 - 1  # recurrent models have no limit


def token_log_prob(model: Any, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log π(token t | tokens before t) at a temperature: tokens [R, L] -> [R, L], column 0 is 0.

    Rows begin at column 0 and are padded on the right, where the result means nothing. In float32 whatever the model's
    type; differentiable.
    """
    # No attention mask: a causal model sees no padding that comes after, and a mask costs it the faster kernel.
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    logits = logits / temperature if temperature != 1.0 else logits
    chosen = logits.gather(-1, tokens[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
    return torch.nn.functional.pad(chosen, (1, 0))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hugging Face's progress bars are off within the context."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# -- adapters ---------------------------------------------------------------------------------------------------------


def attach_lora(model: Any, config: Lora, seed: int, *, headless: bool = False) -> Any:
    """`model` with fresh adapters; only they are trainable, and the output is the model's own until they are.

    `headless` says that it is a body without an output head, as scores and values are read from.

    Raises ConfigError when no linear layer has a name of `targets`.
    """
    _needs("peft")
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft declares an integer, and divides it by the rank
        lora_dropout=config.dropout,
        target_modules=list(config.targets) or "all-linear",
        task_type="FEATURE_EXTRACTION" if headless else "CAUSAL_LM",
    )
    try:
        with _own_randomness(seed):
            return get_peft_model(model, settings).eval()
    except ValueError as error:
        raise ConfigError(f"lora.targets {list(config.targets)} do not fit the model: {error}") from None


@contextlib.contextmanager
def reference(model: Any) -> Iterator[Any]:
    """The model as it was before its adapters were trained: within the context they are off.

    Raises ConfigError for a model without adapters.
    """
    if not hasattr(model, "disable_adapter"):
        raise ConfigError("this model has no adapters to switch off. Set model.lora, or keep a copy as reference.")
    with model.disable_adapter():
        yield model


def merged(model: Any) -> Any:
    """A plain model with the adapters added into its weights; a copy if there are any, else `model` itself."""
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


# -- old weights ------------------------------------------------------------------------------------------------------


def convert(folder: Path | str, out: Path | str) -> Path:
    """Copies a model folder to `out` with its pickled weights rewritten as safetensors, and returns `out`.

    Reads tensors only (torch's weights-only loading), so a file that would run code is refused; copies settings and
    tokenizer files, never programs. Raises ConfigError when there is nothing to convert or `out` exists, RunError when
    a file cannot be read as plain weights.
    """
    from safetensors.torch import save_file

    folder, out = Path(folder), Path(out)
    pickles = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("pytorch_model*.pt")])
    if not pickles:
        raise ConfigError(f"{folder} has no pytorch_model*.bin to convert. Give a folder with pickled weights.")
    if out.exists():
        raise ConfigError(f"{out} exists already. Name a folder that does not.")
    weights: dict[str, Tensor] = {}
    for path in pickles:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001  (whatever a damaged or hostile file raises, it is refused alike)
            raise RunError(
                f"{path} holds more than weights or is damaged ({type(error).__name__}), and was not read further. "
                "Get the model as safetensors from its source."
            ) from None
        weights |= {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    out.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".model", ".jinja", ".md") and not path.name.endswith(".index.json"):
            shutil.copy(path, out / path.name)
    # Names that share one tensor are written twice: which of them a model ties is the model's to know.
    save_file({k: v.clone().contiguous() for k, v in weights.items()}, out / "model.safetensors", {"format": "pt"})
    return out


def _check_folder(folder: Path) -> None:
    """Raises ConfigError for a folder that holds no model, or one whose weights would have to be unpickled."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no model: config.json is missing. Give the folder of a saved model.")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(f"{folder / 'config.json'} is not JSON. Put the file back.") from None
    if not list(folder.glob("*.safetensors")):
        if list(folder.glob("*.bin")) or list(folder.glob("*.pt")):
            raise ConfigError(
                f"the weights in {folder} are pickled, and a pickle can run code when it is read. "
                f"Rewrite them once: trueline convert {folder} OUT."
            )
        raise ConfigError(f"{folder} holds no weights: there is no *.safetensors file. Save the model again.")


@contextlib.contextmanager
def _as_refusals(name: str) -> Iterator[None]:
    """What keeps a model from being loaded is a ConfigError; Hugging Face's progress bars are off."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        place = f"the folder {name}" if Path(name).exists() else f"{name!r}, which is no folder here"
        raise ConfigError(
            f"no causal language model could be loaded from {place}: {first} "
            f"Give a folder in Hugging Face's layout, a name on its hub, or one of {', '.join(PRESETS)}."
        ) from None


def _check_whole(missing: Iterable[str], name: str) -> None:
    """Raises ConfigError for weights that were not found: they begin at random, and nothing would tell it.

    A weight that is tied to another is none of them.
    """
    names = sorted(missing)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ConfigError(
            f"the weights of {name!r} lack {', '.join(names[:3])}{more}, which a causal language model needs. "
            "Give the folder of a whole one: a classifier or an encoder has no output head."
        )


def _tokenizer(name: str, **where: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)


def _check_end(tokenizer: Any, name: str) -> None:
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer of {name!r} has no end token (eos), so no reply could end. "
            "Set eos_token in its tokenizer_config.json."
        )


def _mend(tokenizer: Any, name: str) -> None:
    """Gives the tokenizer a padding token if it has none, with a warning.  Raises ConfigError when it has no eos."""
    _check_end(tokenizer, name)
    if tokenizer.pad_token_id is None:
        # Safe because padding is told apart by masks and lengths everywhere, never by its id.
        tokenizer.pad_token = tokenizer.eos_token
        warnings.warn(
            f"the tokenizer of {name!r} has no padding token; its end token stands in, and is told apart by position.",
            stacklevel=3,
        )


def _needs(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingExtra("language", "a language model")


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Torch's random state on the CPU starts from `seed` within the context, and is put back after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
