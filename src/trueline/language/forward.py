"""One pass of the models of a training run over a batch, and what such a pass keeps in memory.

Attention is the model's own business (`Batch.inputs`). Of its outputs, only the columns that count are computed where
the model allows it: the product with the vocabulary is the largest one of a small model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

from trueline.core.errors import ConfigError
from trueline.language.batches import Batch, Row, packed, padded
from trueline.language.losses import log_prob_of
from trueline.language.models import reference
from trueline.language.objectives import TokenScores

__all__ = [
    "Memory",
    "Models",
    "activation_bytes",
    "cache_bytes",
    "check_apart",
    "checkpoint_activations",
    "late_logits",
    "learning_mode",
    "plain",
    "token_scores",
    "weight_bytes",
]


def plain(model: Any) -> Any:
    """The Hugging Face model inside adapters, or itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def token_scores(model: Any, batch: Batch, hits: bool = False) -> TokenScores:
    """log π(y_t | y_<t) of every token with a weight, 0 elsewhere; with `hits`, whether it was the likeliest."""
    wanted, target = batch.weight[:, 1:] > 0, batch.tokens[:, 1:]
    first, logits = late_logits(model, wanted, batch.inputs())
    wanted, target = wanted[:, first:], target[:, first:]

    def spread(x: Tensor) -> Tensor:
        """Column t about token t, as in the batch."""
        return pad(x, (first + 1, 0))

    log_prob = spread(torch.where(wanted, log_prob_of(logits, target), 0.0))
    if not hits:
        return TokenScores(log_prob)
    logits = logits.detach()
    likeliest = logits.gather(-1, target[..., None])[..., 0] == logits.amax(dim=-1)
    return TokenScores(log_prob, spread(likeliest & wanted))


def late_logits(model: Any, wanted: Tensor, inputs: Mapping[str, Any]) -> tuple[int, Tensor]:
    """The first column that is wanted in any row, and the logits from there on.  wanted [R, T − 1], of the next tokens.

    Logits are [R, T − 1 − first, V]. What lies before does not go through the output head, where the model can leave it
    out: prompts, mostly. A slice, unlike a choice of columns, costs nothing on the way back.
    """
    columns = wanted.any(dim=0).nonzero()
    first = int(columns[0]) if len(columns) else 0
    if first and _keeps_late_columns(model):
        return first, model(**inputs, logits_to_keep=wanted.shape[1] + 1 - first).logits[:, :-1]
    return first, model(**inputs).logits[:, first:-1]


def _keeps_late_columns(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(plain(model).forward).parameters


class Models:
    """What is trained, and the reference beside it; computed in bfloat16 where asked."""

    def __init__(
        self,
        model: Any,
        *,
        scorer: Callable[[Batch], Tensor] | None = None,
        frozen: Any = None,
        compares: bool = False,
        bfloat16: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """`scorer` gives scores [R, T] of a scalar model.

        `frozen` is the reference; where one is needed and none given, it is the model with its adapters off, or a copy
        of the model as it is now.
        """
        self.model, self._scorer, self._bfloat16, self._device = model, scorer, bfloat16, torch.device(device)
        self.frozen: Any = None
        if compares and (frozen is not None or not hasattr(model, "disable_adapter")):
            self.frozen = copy.deepcopy(model) if frozen is None else frozen
            self.frozen.requires_grad_(False).eval()

    def tokens(self, batch: Batch, hits: bool = False) -> TokenScores:
        """Of the model that is trained."""
        with self._precision():
            return token_scores(self.model, batch.to(self._device), hits)

    def reference(self, batch: Batch) -> Tensor:
        """Of the reference, without gradient."""
        batch = batch.to(self._device)
        with torch.no_grad(), self._precision():
            if self.frozen is not None:
                return token_scores(self.frozen, batch).log_prob
            with reference(self.model) as model:
                return token_scores(model, batch).log_prob

    def scores(self, batch: Batch) -> Tensor:
        """Of the scalar model that is trained, in float32."""
        assert self._scorer is not None
        with self._precision():
            return self._scorer(batch.to(self._device)).float()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16) if self._bfloat16 else nullcontext()


def learning_mode(model: nn.Module, dropout: bool) -> None:
    """Put a model into training, with its dropout or without.

    Without, every part is in evaluation mode but for those that recompute activations: they do so in training only.
    """
    model.train(dropout)
    if not dropout:
        for part in model.modules():
            if getattr(part, "gradient_checkpointing", False):
                part.training = True


@torch.no_grad()
def check_apart(model: Any, tokenizer: Any, context: int) -> None:
    """Raises ConfigError for an architecture that mixes the sequences of a packed row.

    Restarting positions keep them apart where attention is masked by positions; recurrences and convolutions run on,
    and other ways of telling positions do not start anew. So two short rows are read apart and packed.
    """
    model.eval()
    size = max(2, min(8, context // 2))
    weight = np.array([0.0] + [1.0] * (size - 1), dtype=np.float32)
    rows = [Row(np.arange(first, first + size) % len(tokenizer), weight, 0) for first in (0, size)]
    apart, together = (
        token_scores(model, batch.to(model.device)).log_prob.view(2, size)
        for batch in (padded(rows, tokenizer.pad_token_id), packed(rows, tokenizer.pad_token_id))
    )
    found = float((apart - together).abs().max())
    # Of equal sequences float32 is off by some 1e-5, and bfloat16, which rounds a logit of 16 to 0.1, by some of those.
    if found > (1e-4 if plain(model).dtype == torch.float32 else 0.5):
        raise ConfigError(
            f"{type(plain(model)).__name__} mixes the sequences of a packed row: log-probabilities are off by "
            f"{found:.2g}. Set packing to false."
        )


# --- memory ---


def checkpoint_activations(model: Any) -> None:
    """Let a Hugging Face model compute its layers' activations again in the backward pass.

    Raises ConfigError for an architecture that cannot.
    """
    # transformers renamed the method in 5.x and warns about the older name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError:
        raise ConfigError(
            f"{type(model).__name__} cannot compute activations again. Set gradient_checkpointing to false."
        ) from None


class Memory(NamedTuple):
    """Bytes of a training run, as estimated from shapes; what the allocator and the libraries add is not in it."""

    weights: int
    gradients: int
    moments: int  # of the optimiser
    reference: int
    activations: int  # of the largest batch: what the backward pass needs
    critic: int = 0  # weights, gradients and moments of what values replies
    scorers: int = 0  # models that judge them
    cache: int = 0  # of keys and values, while they are drawn

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def weight_bytes(parameters: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(p.numel() * p.element_size() for p in parameters)


def cache_bytes(model: Any, rows: int, length: int) -> int:
    """Bytes of the keys and values of [rows, length] tokens in every layer."""
    config = plain(model).config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * rows * length * int(config.num_hidden_layers * heads * width) * int(plain(model).dtype.itemsize)


def activation_bytes(model: Any, rows: int, length: int, *, head: bool, checkpointing: bool) -> int:
    """Bytes that one forward pass over [rows, length] tokens keeps for its backward pass.

    Counted on a copy of the architecture whose tensors have shapes and no contents, so that nothing is computed; its
    attention keeps queries, keys, values and outputs, as fused kernels do. `head` counts logits and loss too. With
    gradient checkpointing the layers keep their inputs, and one layer at a time is computed again.
    """
    config = plain(model).config
    if not checkpointing:
        return _saved_bytes(config, rows, length, head)
    layers = int(config.num_hidden_layers)
    inputs = rows * length * int(config.hidden_size) * plain(model).dtype.itemsize
    return _saved_bytes(_with_layers(config, 1), rows, length, head) + (layers - 1) * inputs


def _with_layers(config: Any, n: int) -> Any:
    shallow = copy.deepcopy(config)
    shallow.num_hidden_layers = n
    if getattr(shallow, "layer_types", None):
        shallow.layer_types = shallow.layer_types[:n]
    return shallow


def _saved_bytes(config: Any, rows: int, length: int, head: bool) -> int:
    from transformers import AutoModel, AutoModelForCausalLM

    with torch.device("meta"):
        model = (AutoModelForCausalLM if head else AutoModel).from_config(config).train()
        tokens = torch.zeros(rows, length, dtype=torch.int64)
        # Whole masks are taken as they are; from anything less the library would read values, of which there are none.
        seen = torch.zeros(1, 1, length, length, dtype=torch.bool)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), x)  # held, so that no later storage takes its number
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), _FusedAttention():
        found = model(input_ids=tokens, attention_mask=seen, use_cache=False)
        if head:
            log_prob_of(found.logits[:, :-1], tokens[:, 1:]).sum()
    return sum(size for size, _ in kept.values())


class _Attention(torch.autograd.Function):
    """The shapes of an attention that never holds its weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out


class _FusedAttention(TorchFunctionMode):
    """Within, scaled dot-product attention has the shapes of a fused kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))
