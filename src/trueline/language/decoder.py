"""Batched decoding of Llama models with a static key-value cache, made for models whose arithmetic is soon done.

With few parameters a step costs by its calls, not by its arithmetic. So each layer is two fused projections in and two
out, with what needs no input of its own folded into the weights once: the norms' gains, the attention's scale, and an
order of the queries' and keys' components in which a rotation by position is one product of complex numbers. The norm
x / √(mean x² + ε) becomes x·√D / ‖x‖ with one more component in x, the constant √(ε·D), which no weight reads.

Every row writes its next token to the same slot of the cache. Prompts begin at slot 0 and leave a gap behind the
shorter ones, which attention skips; a token's position is counted within its own row. Rows that have finished make
room: a live row from the end moves into their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Decoder", "fits"]

_STATIC_ROTATIONS = ("default", "linear", "llama3")  # frequencies that do not depend on a sequence's length
_LARGEST = 2**28  # parameters; beyond, the copy of the weights costs more than the calls it saves


class _Layer(NamedTuple):
    """Weights as right factors [in, out]; D counts the constant component too."""

    qkv: Tensor  # [D, (Hq + 2·Hkv)·d]: gain of the norm and d^-½ within, rotated components in pairs
    out: Tensor  # [Hq·d, D]
    gate_up: Tensor  # [D, 2·inner]: gain of the norm within
    down: Tensor  # [inner, D]


def fits(model: Any) -> bool:
    """Whether `Decoder` computes this model: the Llama architecture without biases or quantisation, with adapters or
    without."""
    plain = _plain(model)
    if type(plain).__name__ != "LlamaForCausalLM" or not type(plain).__module__.startswith("transformers."):
        return False
    config = plain.config
    return (
        config.hidden_act == "silu"
        and not (config.attention_bias or config.mlp_bias)
        and config.rope_parameters["rope_type"] in _STATIC_ROTATIONS
        and sum(p.numel() for p in plain.parameters()) <= _LARGEST
        and all(_readable(linear) for layer in plain.model.layers for linear in _linears(layer))
        and _readable(plain.lm_head)
        and type(plain.get_input_embeddings()) is torch.nn.Embedding
    )


class _Cache(NamedTuple):
    """Views of one layer's cache, of the live rows: by row to write to, by pair of row and head to read from."""

    both: Tensor  # [2, n, H, slots, d]: keys and values
    keys_by_pair: Tensor  # [n·H, d, slots]
    values_by_pair: Tensor  # [n·H, slots, d]


class Decoder:
    """One batch of rows being decoded with the weights `model` had when this was made; without gradient.

    Letters: n live rows, P slots of the longest prompt, V vocabulary, H heads of keys (G queries each) of width d.
    """

    def __init__(self, model: Any) -> None:
        model = _plain(model)
        config = model.config
        self._d = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self._queries, self._keys = int(config.num_attention_heads), int(config.num_key_value_heads)
        with torch.no_grad():
            constant = (config.rms_norm_eps * config.hidden_size) ** 0.5
            self._embedding = F.pad(model.get_input_embeddings().weight, (0, 1), value=constant)
            self._head = _folded(_weight(model.lm_head), model.model.norm.weight)
            self._layers = [self._fused(layer) for layer in model.model.layers]
        rotary = model.model.rotary_emb
        self._frequency = rotary.inv_freq.float()
        self._scale = float(rotary.attention_scaling)
        # Set by `start`.
        self._cache = self._rotation = self._position = self._embedding
        self._live: list[_Cache] = []
        self._hidden: Tensor | None = None
        self._slot = 0

    def start(self, prompts: Tensor, lengths: Tensor, row: Tensor, room: int) -> Tensor:
        """Reads prompts and returns the logits [n, V] of each row's first token.

        prompts [U, P] begin at column 0, lengths [U] ≥ 1; row [n]: which prompt each row goes on from, so that a prompt
        with several replies is read once. room: tokens that will follow at most.
        """
        u, p = prompts.shape
        n, device, dtype = len(row), prompts.device, self._embedding.dtype
        slots = p + room
        angle = torch.arange(slots, device=device)[:, None] * self._frequency
        self._rotation = torch.polar(torch.full_like(angle, self._scale), angle)[:, None]  # [slots, 1, d/2]
        shape = (len(self._layers), 2, n, self._keys, slots, self._d)
        self._cache = torch.empty(shape, dtype=dtype, device=device)
        # Padding is put in for attention alone. It repeats a prompt's last token and needs no mask: what pads a prompt
        # comes after everything that reads it.
        column = torch.arange(p, device=device)
        within = column < lengths[:, None]
        token = within.nonzero(as_tuple=True)  # prompt and column of each of the m tokens
        last = lengths.cumsum(0) - 1
        padded = last[:, None] - (lengths[:, None] - 1 - column).clamp_(min=0)  # [U, P]: which of the m tokens
        x, rotation = self._embedding[prompts[token]], self._rotation[token[1]]
        grouped = self._queries != self._keys
        for layer, cache in zip(self._layers, self._cache, strict=True):
            qkv = self._project(x, layer, rotation)
            q, kv = qkv[padded].transpose(1, 2).split((self._queries, 2 * self._keys), 1)  # [U, H, P, d]
            cache[..., :p, :] = kv[row].unflatten(1, (2, -1)).transpose(0, 1)
            k, v = kv.chunk(2, 1)
            if layer is not self._layers[-1]:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=grouped)
                x = self._perceive(x, y.transpose(1, 2)[token].flatten(1), layer)
            else:  # what the other tokens become in the last layer, nothing reads
                q = qkv[last, : self._queries, None]
                y = F.scaled_dot_product_attention(q, k, v, within[:, None, None], scale=1.0, enable_gqa=grouped)
                x = self._perceive(x[last], y.reshape(u, -1), layer)
        self._position, self._slot, self._hidden = lengths[row], p, None
        self._narrow(n)
        if not bool(within.all()):
            hidden = torch.arange(slots, device=device) >= lengths[row, None]
            hidden[:, p:] = False
            weight = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
            self._hidden = weight.repeat_interleave(self._keys, 0)[:, None]  # [n·H, 1, slots]
        return (self._normed(x) @ self._head)[row]

    def step(self, tokens: Tensor) -> Tensor:
        """Appends one token [n] to every live row and returns the logits [n, V] of the next."""
        n, end = tokens.shape[0], self._slot + 1
        rotation = self._rotation[self._position]
        hidden = None if self._hidden is None else self._hidden.narrow(2, 0, end)
        x = self._embedding[tokens]
        for layer, live in zip(self._layers, self._live, strict=True):
            qkv = self._project(x, layer, rotation)
            live.both.select(3, self._slot).copy_(qkv[:, self._queries :].view(n, 2, -1, self._d).transpose(0, 1))
            q = qkv[:, : self._queries].reshape(n * self._keys, -1, self._d)  # [n·H, G, d]
            seen = live.keys_by_pair.narrow(2, 0, end)
            score = torch.bmm(q, seen) if hidden is None else torch.baddbmm(hidden, q, seen)
            y = torch.bmm(score.softmax(-1), live.values_by_pair.narrow(1, 0, end))
            x = self._perceive(x, y.view(n, -1), layer)
        self._position += 1
        self._slot = end
        return torch.mm(self._normed(x), self._head)

    def keep(self, live: Sequence[bool]) -> list[int]:
        """Drops the rows where `live` [n] is false; returns which row each of the others was, in their new order."""
        n = sum(live)
        order = list(range(n))
        seen = self._cache[..., : self._slot, :]
        hidden = None if self._hidden is None else self._hidden.view(len(live), self._keys, -1)
        free = (r for r in range(n) if not live[r])
        moved = (r for r in range(n, len(live)) if live[r])
        for to, row in zip(free, moved, strict=True):  # few at once, and plain copies beat gathering and scattering
            order[to] = row
            seen[:, :, to] = seen[:, :, row]
            self._position[to] = self._position[row]
            if hidden is not None:
                hidden[to] = hidden[row]
        self._position = self._position[:n]
        if self._hidden is not None:
            self._hidden = self._hidden[: n * self._keys]
        self._narrow(n)
        return order

    def _narrow(self, n: int) -> None:
        """Makes the views of the cache those of its first n rows."""
        self._live = [
            _Cache(both, both[0].flatten(0, 1).transpose(1, 2), both[1].flatten(0, 1)) for both in self._cache[:, :, :n]
        ]

    def _normed(self, x: Tensor) -> Tensor:
        """x / ‖x‖ over all components; gain and √D are in the weights that follow."""
        return (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)).to(x.dtype)

    def _project(self, x: Tensor, layer: _Layer, rotation: Tensor) -> Tensor:
        """Queries and keys, rotated, and values of m tokens: [m, Hq + 2·Hkv, d]."""
        qkv = torch.mm(self._normed(x), layer.qkv).view(len(x), -1, self._d)
        turned = qkv[:, : self._queries + self._keys]
        exact = turned.float()  # itself, where it is in float32
        torch.view_as_complex(exact.view(len(x), -1, self._d // 2, 2)).mul_(rotation)
        turned.copy_(exact)
        return qkv

    def _perceive(self, x: Tensor, attended: Tensor, layer: _Layer) -> Tensor:
        """The residual stream [m, D] after what was attended to [m, Hq·d] and the gated perceptron."""
        x = torch.addmm(x, attended, layer.out)
        gate, up = torch.mm(self._normed(x), layer.gate_up).chunk(2, 1)
        return torch.addmm(x, F.silu(gate) * up, layer.down)

    def _fused(self, layer: Any) -> _Layer:
        q, k, v, out, gate, up, down = (_weight(linear) for linear in _linears(layer))
        # Component i is rotated with i + d/2; side by side they are the two parts of a complex number.
        pairs = torch.arange(self._d).view(2, -1).T.flatten().to(q.device)
        q, k = (w.unflatten(0, (-1, self._d))[:, pairs].flatten(0, 1) for w in (q * self._d**-0.5, k))
        return _Layer(
            _folded(torch.cat([q, k, v]), layer.input_layernorm.weight),
            F.pad(out.T, (0, 1)),
            _folded(torch.cat([gate, up]), layer.post_attention_layernorm.weight),
            F.pad(down.T, (0, 1)),
        )


def _plain(model: Any) -> Any:
    """The model within adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _linears(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_proj,
        mlp.up_proj,
        mlp.down_proj,
    )


def _readable(linear: Any) -> bool:
    """Whether `_weight` is all there is to a layer: a plain one, with low-rank adapters of its own type or without.

    Added into a shorter type, adapters would be rounded away.
    """
    if not hasattr(linear, "get_delta_weight"):
        return type(linear) is torch.nn.Linear
    base = linear.get_base_layer()
    plain = type(base) is torch.nn.Linear and all(a.weight.dtype == base.weight.dtype for a in linear.lora_A.values())
    return plain and not any(name in linear.lora_variant or linear.lora_bias[name] for name in linear.lora_A)


def _weight(linear: Any) -> Tensor:
    """The weight [out, in] a readable layer works with, its active adapters added."""
    if not hasattr(linear, "get_delta_weight"):
        return linear.weight
    weight: Tensor = linear.get_base_layer().weight
    if linear.disable_adapters or linear.merged:
        return weight
    return weight + sum(linear.get_delta_weight(name) for name in linear.active_adapters if name in linear.lora_A)


def _folded(weight: Tensor, gain: Tensor) -> Tensor:
    """[out, D] and the gain [D] of the norm before it -> [D + 1, out], whose last row reads nothing."""
    folded = weight.float() * (gain.float() * len(gain) ** 0.5)
    return F.pad(folded.T, (0, 0, 0, 1)).to(weight.dtype)
