"""What several processes that train one language model need besides `rl/parallel.py`: shares, sums, weights cut up.

    torchrun --nproc-per-node 4 -m trueline.cli train sft data.path=rows.jsonl model.name=path/to/model

All processes draw the same random numbers and so know the whole step: its rows, and what its loss is divided by
(tokens, pairs, replies). Each sums the loss of its own share over that divisor, so that the sum of the gradients is the
gradient of one process, up to rounding, whatever the shares are.

Weights are either whole in every process, or cut up among them (FSDP2: parameters, gradients and moments; a layer is
put together when it computes).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trueline.core.errors import ConfigError
from trueline.rl.parallel import Learners, learners

__all__ = [
    "Sharded",
    "cut_like",
    "cut_up",
    "dealt",
    "device_of",
    "draws_of",
    "is_cut",
    "span",
    "sum_gradients",
    "sums",
    "whole",
]

T = TypeVar("T")


# --- devices ---


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device a setting names; "auto" is the accelerator if there is one."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError("device is 'cuda', but torch sees no CUDA device here. Set device to 'auto' or 'cpu'.")
    if found and name != "cpu" and learners().size > 1:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no accelerator: there are {torch.cuda.device_count()}. "
                "Start no more processes than that."
            )
        torch.cuda.set_device(local)
    return torch.device("cuda" if found and name != "cpu" else "cpu")


# --- shares ---


def span(group: Learners, n: int) -> slice:
    """This process's of n things in a row."""
    own = group.share(torch.arange(n))
    return slice(int(own[0]), int(own[-1]) + 1) if len(own) else slice(0, 0)


def dealt(group: Learners, things: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """This process's of some things, and whether each counts.

    Every process gets equally many: where they do not come out even it is handed one of another's, not to be counted,
    since weights that are cut up are put together by all at once.
    """
    if group.size == 1:
        yield from ((thing, True) for thing in things)
        return
    listed = list(things)
    for at in range(group.rank, group.size * -(-len(listed) // group.size), group.size):
        yield (listed[at], True) if at < len(listed) else (listed[0], False)


@contextmanager
def draws_of(group: Learners, rng: np.random.Generator, own: slice, n: int, each: int) -> Iterator[None]:
    """Within, a stream stands where this process's rows begin, of `each` numbers; afterwards behind all n rows."""
    if group.size == 1:
        yield
        return
    bits: Any = rng.bit_generator
    start = bits.state
    bits.advance(own.start * each)
    try:
        yield
    finally:
        bits.state = start
        bits.advance(n * each)


# --- sums ---


def sums(group: Learners, numbers: Sequence[float]) -> list[float]:
    """Of each number, its sum over all processes."""
    total = torch.tensor(numbers, dtype=torch.float64)
    group.add([total])
    summed: list[float] = total.tolist()
    return summed


def sum_gradients(group: Learners, parameters: Sequence[nn.Parameter]) -> None:
    """Each gradient becomes the sum over all processes; one that no process has stays away."""
    own = [p for p in parameters if not is_cut(p)]
    if group.size == 1 or not own:
        return
    there = sums(group, [float(p.grad is not None) for p in own])
    moved = [p for p, processes in zip(own, there, strict=True) if processes]
    for p in moved:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    for kind in dict.fromkeys(p.dtype for p in moved):
        group.add([p.grad for p in moved if p.dtype == kind and p.grad is not None])


# --- weights cut up ---


def is_cut(tensor: Any) -> bool:
    """Whether each process holds a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def whole(state: Any) -> Any:
    """A state with every tensor put together; all processes call this at once."""
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    return state.full_tensor() if is_cut(state) else state


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, as `like` is cut; the tensor itself where it is not."""
    if not is_cut(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    other: Any = like
    return distribute_tensor(tensor.to(like.device), other.device_mesh, other.placements)


def cut_up(model: nn.Module, group: Learners) -> None:
    """Weights of a model are from now on cut up among the processes, layer by layer (FSDP2).

    Layers are what Hugging Face's model says must not be split; a part whose type is another than the rest's, such as
    heads in float32 on a body in bfloat16, is cut up by itself.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    layers = [part for part in model.modules() if type(part).__name__ in names]
    inside = {id(p) for layer in layers for p in layer.parameters()}
    if len({p.dtype for p in model.parameters() if id(p) not in inside}) > 1:
        layers += [part for part in model.children() if isinstance(part, nn.Linear)]
    device = next(model.parameters()).device.type
    # The group itself talks by gloo (rl/parallel.py), which does not gather on accelerators.
    accelerated: Any = {"mesh_dim_names": ("parts",), "backend_override": {"parts": "nccl"}} if device == "cuda" else {}
    mesh = init_device_mesh(device, (group.size,), **accelerated)
    for part in [*layers, model]:
        # The whole too, which would by itself stay together until its backward pass: an evaluation has none.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


class Sharded:
    """A model that is cut up, and a whole copy of it on the CPU of the first process, in which it is saved."""

    def __init__(self, model: nn.Module, group: Learners) -> None:
        self.model = model
        self._copy = copy.deepcopy(model).cpu() if group.leads else None
        cut_up(model, group)

    @torch.no_grad()
    def whole(self) -> nn.Module:
        """The model put together; all processes call this at once, and all but the first get what they hold of it."""
        named = {name: whole(p) for name, p in self.model.named_parameters()}
        if self._copy is None:
            return self.model
        for name, p in self._copy.named_parameters():
            p.copy_(named[name])
        return self._copy.eval()
