"""What a world of text is: prompts that can be numbered, replies that a program judges, and records made of both.

Every kind of prompt is a finite space, numbered from 0. A fixed permutation of the numbers is cut into the ranges that
`core/streams.py` gives to training, respond and verdict cases, so that no prompt can be in two of them, whatever is
drawn, and of any prompt it can be told where it belongs.

Label noise and planted correlations are in training records alone. Records of the other splits are labelled by the
oracle: with them it is measured what the first have done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from trueline.core.errors import ConfigError, nearest
from trueline.core.streams import ROUNDS, Split, SplitRound, split_of
from trueline.language.vocabulary import Vocabulary

__all__ = [
    "LARGEST",
    "Injects",
    "Paraphrases",
    "Place",
    "TextWorld",
    "Verdict",
    "draw_prompts",
    "hashed",
    "labelled",
    "permuted",
    "records",
    "split_of_prompt",
    "unpermuted",
]

LARGEST = 1 << 60  # prompts of one kind: numbers of them stay within 64 bits


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the oracle says of one reply to one prompt."""

    reward: float  # the world says in which range; a gold reply has the highest
    cost: float = 0.0  # above 0 is unsafe
    refused: bool = False
    wrong: tuple[bool, ...] = ()  # for each word of the reply (between spaces), whether it is to blame
    measures: Mapping[str, float] = field(default_factory=dict)  # what else is worth reporting


@dataclass(frozen=True, slots=True)
class Place:
    """Which prompt of which kind."""

    kind: str
    index: int


class TextWorld(Protocol):
    """A small language with an oracle.  `judge` takes any text as the reply."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def reward_bounds(self) -> tuple[float, float]:
        """The least and the most that its oracle gives."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats of `language/formats.py` that it makes."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Of a tokenizer that knows every prompt and every reply."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """How many prompts there are of each kind."""
        ...

    @property
    def shares(self) -> Mapping[str, float]:
        """Kinds that make up ordinary prompts, with their shares.  The others are outside of that distribution."""
        ...

    def prompt_at(self, place: Place) -> str:
        """The prompt with that number."""
        ...

    def find(self, prompt: str) -> Place | None:
        """Where a prompt stands; none where it is not of this world."""
        ...

    def judge(self, prompt: str, reply: str) -> Verdict:
        """The oracle.  Raises ConfigError for a prompt that asks for nothing in this world."""
        ...

    def best(self, prompt: str) -> str:
        """A reply that no other is better than."""
        ...

    def worst(self, prompt: str) -> str:
        """A well-formed reply that no other is worse than."""
        ...

    def reply(self, prompt: str, rng: np.random.Generator) -> str:
        """A reply as the makers of training data sample it."""
        ...

    def row(self, format: str, prompt: str, rng: np.random.Generator, train: bool) -> dict[str, Any]:
        """One row of a format.  With `train` it has the noise and the correlations that the settings plant."""
        ...


@runtime_checkable
class Paraphrases(Protocol):
    """A world that can say the same in other words."""

    def paraphrase(self, prompt: str, rng: np.random.Generator) -> str:
        """Another wording with the same place, hence the same split, and the same verdicts."""
        ...


@runtime_checkable
class Injects(Protocol):
    """A world that can put an instruction into a prompt which is not the user's request."""

    def inject(self, prompt: str, rng: np.random.Generator) -> str:
        """The prompt with a foreign instruction; its place and its verdicts stay."""
        ...


# --- splits ---


def hashed(*parts: object) -> int:
    """64 bits that depend on the parts alone: the same on every machine and in every release of any library."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def permuted(index: int, size: int, key: str) -> int:
    """A permutation of 0 … size - 1 that looks random: four Feistel rounds, walked until inside."""
    half = _half(size)
    while True:
        left, right = index >> half, index & ((1 << half) - 1)
        for round in range(4):
            left, right = right, left ^ _mixed(right, half, key, round)
        index = left << half | right
        if index < size:
            return index


def unpermuted(position: int, size: int, key: str) -> int:
    """The inverse of `permuted`."""
    half = _half(size)
    while True:
        left, right = position >> half, position & ((1 << half) - 1)
        for round in reversed(range(4)):
            left, right = right ^ _mixed(left, half, key, round), left
        position = left << half | right
        if position < size:
            return position


def _half(size: int) -> int:
    """Bits of each half of a number below `size`."""
    return max(1, ((size - 1).bit_length() + 1) // 2)


def _mixed(value: int, half: int, key: str, round: int) -> int:
    return hashed(key, round, value) & ((1 << half) - 1)


def _positions(size: int, split: Split, round: int) -> range:
    """Positions whose 32-bit seed ⌊position·2³²/size⌋ lies in the range of a split and round."""
    if split not in ("train", "respond", "verdict"):
        raise ConfigError(f"split is {split!r}, but should be one of train, respond, verdict.")
    if not 0 <= round < ROUNDS:
        raise ConfigError(f"round is {round}, but prompts are split for rounds 0 to {ROUNDS - 1}. Use fewer rounds.")
    if split == "train":
        start, stop = 0, 1 << 31
    else:
        start = (1 << 31 if split == "respond" else 3 << 30) + (round << 24)
        stop = start + (1 << 24)
    return range(-(-start * size >> 32), -(-stop * size >> 32))


def split_of_prompt(world: TextWorld, prompt: str) -> SplitRound | None:
    """The split and round that a prompt belongs to; none for one that is not of the world."""
    place = world.find(prompt)
    if place is None:
        return None
    size = world.sizes[place.kind]
    return split_of((permuted(place.index, size, _key(world, place.kind)) << 32) // size)


def _key(world: TextWorld, kind: str) -> str:
    return f"{world.name}/{kind}"


def draw_prompts(
    world: TextWorld, n: int, rng: np.random.Generator, split: Split = "train", round: int = 0, kind: str = ""
) -> list[str]:
    """`n` distinct prompts of a split, and of one kind or by default of the ordinary ones in their shares.

    Raises ConfigError for an unknown kind, split or round, and when there are fewer than `n`.
    """
    if kind and kind not in world.sizes:
        raise ConfigError(
            f"{world.name} has no prompts of kind {kind!r}.{nearest(kind, world.sizes)} "
            f"It has {', '.join(world.sizes)}."
        )
    if n < 0:
        raise ConfigError(f"{n} prompts were asked for. Ask for 0 or more.")
    shares = {kind: 1.0} if kind else world.shares
    kinds = list(shares)
    chosen = rng.choice(len(kinds), size=n, p=[shares[k] for k in kinds])
    found: list[str] = [""] * n
    for k, one in enumerate(kinds):
        rows = np.flatnonzero(chosen == k)
        size = world.sizes[one]
        there = _positions(size, split, round)
        if len(rows) > len(there):
            raise ConfigError(
                f"{len(rows)} {one} prompts were asked for, but {split} has {len(there)} of {world.name} in a round. "
                "Ask for fewer, or several rows for each prompt."
            )
        picked = rng.choice(len(there), size=len(rows), replace=False)
        for row, position in zip(rows, picked, strict=True):
            index = unpermuted(there[int(position)], size, _key(world, one))
            found[row] = world.prompt_at(Place(one, index))
    return found


# --- records ---


def records(
    world: TextWorld,
    format: str,
    n: int,
    rng: np.random.Generator,
    split: Split = "train",
    round: int = 0,
    kind: str = "",
    per_prompt: int = 1,
) -> list[dict[str, Any]]:
    """`n` rows of a format, `per_prompt` of them to each prompt, the last prompt's perhaps fewer.

    Raises ConfigError as `draw_prompts`, and for a format that the world does not make.
    """
    if format not in world.formats:
        raise ConfigError(
            f"{world.name} makes no {format!r} rows.{nearest(format, world.formats)} "
            f"It makes {', '.join(world.formats)}."
        )
    if per_prompt < 1:
        raise ConfigError(f"per_prompt is {per_prompt}, but should be 1 or more.")
    asked = draw_prompts(world, -(-n // per_prompt), rng, split, round, kind)
    rows = (world.row(format, prompt, rng, split == "train") for prompt in asked for _ in range(per_prompt))
    return [row for row, _ in zip(rows, range(n), strict=False)]


def labelled(
    prompt: str, replies: Sequence[str], values: Sequence[float], rng: np.random.Generator, noise: float
) -> dict[str, Any]:
    """A preference row of two replies, the one of higher value chosen, or with probability `noise` the other.

    What the oracle gives them stands beside, in columns that no trainer reads.
    """
    better = int(values[1] > values[0])
    flipped = bool(noise) and bool(rng.random() < noise)
    first = 1 - better if flipped else better
    return {
        "prompt": prompt,
        "chosen": replies[first],
        "rejected": replies[1 - first],
        "chosen_value": float(values[first]),
        "rejected_value": float(values[1 - first]),
    }
