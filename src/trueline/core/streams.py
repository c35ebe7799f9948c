"""Randomness: named streams of one seed, and the split of layout seeds into training and audit cases.

A stream's start depends on the seed and its name alone, never on which other streams exist or the order they were
asked for in; its state travels in every checkpoint.

Layout seeds are 32-bit. The split is fixed in advance, so that no case that decides a verdict can be trained on:

    train      0x00000000 … 0x7fffffff     one range for all rounds
    respond    0x80000000 … 0xbfffffff     64 rounds of 2^24
    verdict    0xc0000000 … 0xffffffff     64 rounds of 2^24
"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from trueline.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["ROUNDS", "Split", "SplitRound", "Streams", "case_seeds", "split_of"]

Split = Literal["train", "respond", "verdict"]

ROUNDS = 64
_PER_ROUND = 1 << 24
_START: dict[str, int] = {"train": 0, "respond": 1 << 31, "verdict": 3 << 30}


class SplitRound(NamedTuple):
    """Where a layout seed belongs; the round of a training seed is always 0."""

    split: Split
    round: int


class Streams:
    """Named, independent random streams of one non-negative seed."""

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ConfigError(f"seed is {seed}, but should be 0 or more.")
        self.seed = seed
        self._numpy: dict[str, np.random.Generator] = {}
        self._torch: dict[str, torch.Generator] = {}

    def rng(self, name: str) -> np.random.Generator:
        """The NumPy stream `name` (PCG64); every call returns the same, advancing generator."""
        if name not in self._numpy:
            self._numpy[name] = np.random.Generator(np.random.PCG64(self._sequence(name)))
        return self._numpy[name]

    def torch_rng(self, name: str) -> "torch.Generator":
        """The torch stream `name` (CPU); independent of the NumPy stream of that name."""
        if name not in self._torch:
            import torch

            self._torch[name] = torch.Generator().manual_seed(self._torch_seed(name))
        return self._torch[name]

    def state_dict(self) -> dict[str, Any]:
        """Seed and the state of every stream asked for so far: JSON for NumPy, uint8 arrays for torch."""
        return {
            "seed": self.seed,
            "numpy": {name: rng.bit_generator.state for name, rng in self._numpy.items()},
            "torch": {name: rng.get_state().numpy().copy() for name, rng in self._torch.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts every stream where `state_dict` found it, in place: generators already handed out move too.

        A stream that did not exist then returns to its start. Raises `CheckpointError` for the state of another seed.
        """
        if state["seed"] != self.seed:
            raise CheckpointError(
                f"the checkpoint's streams have seed {state['seed']}, but this run has {self.seed}. Give that seed."
            )
        for name in {*self._numpy, *state["numpy"]}:
            start = np.random.PCG64(self._sequence(name)).state
            self.rng(name).bit_generator.state = state["numpy"].get(name, start)
        for name in {*self._torch, *state["torch"]}:
            generator = self.torch_rng(name)
            if name in state["torch"]:
                import torch

                generator.set_state(torch.from_numpy(np.array(state["torch"][name])))
            else:
                generator.manual_seed(self._torch_seed(name))

    def _sequence(self, name: str) -> np.random.SeedSequence:
        # Python's own hash() of a string differs from process to process.
        return np.random.SeedSequence([self.seed, int.from_bytes(hashlib.sha256(name.encode()).digest(), "little")])

    def _torch_seed(self, name: str) -> int:
        low, high = self._sequence("torch/" + name).generate_state(2, np.uint32)
        return int(low) | (int(high) >> 1) << 32  # 63 bits: torch reads the seed as a signed number


def case_seeds(split: Split, round: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` distinct layout seeds of one split and round, uint32 [n], uniform on the range in the module's table.

    Distinct within one call only. Raises `ConfigError` for an unknown split, a round outside 0..63 or too many seeds.
    """
    if split not in _START:
        raise ConfigError(f"split is {split!r}, but should be one of {', '.join(_START)}.")
    if not 0 <= round < ROUNDS:
        raise ConfigError(
            f"round is {round}, but layout seeds are split for rounds 0 to {ROUNDS - 1}. Use fewer rounds."
        )
    start, size = _START[split], _START["respond"]
    if split != "train":
        start, size = start + round * _PER_ROUND, _PER_ROUND
    if not 0 <= n <= size:
        raise ConfigError(f"{n} layout seeds were asked for, but {split} has {size} in a round. Ask for fewer.")
    return (start + rng.choice(size, size=n, replace=False)).astype(np.uint32)


def split_of(seed: int) -> SplitRound:
    """The split and round a 32-bit layout seed belongs to: the inverse of `case_seeds`."""
    seed = int(seed)
    if not 0 <= seed < 1 << 32:
        raise ConfigError(f"layout seed {seed} is outside 32 bits. Layout seeds lie between 0 and 4294967295.")
    if seed < _START["respond"]:
        return SplitRound("train", 0)
    split: Split = "respond" if seed < _START["verdict"] else "verdict"
    return SplitRound(split, (seed - _START[split]) // _PER_ROUND)
