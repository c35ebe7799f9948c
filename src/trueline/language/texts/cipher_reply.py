"""`cipher-reply`: symbols are asked, and each is to be answered by its cipher.

The prompt is K symbols x_0 … x_{K-1}. The gold reply is g(x_i + i) at each position i, with g a fixed permutation and
sums modulo S. Sampled replies are wrong at each position with probability p. The oracle counts wrong positions, and
ignores polite filler words, so that a preference for length is a bias; a universal refusal is mediocre whatever was
asked, so that a preference for refusing is one too. Training pairs can be made so that either goes with being chosen.

With several references each position has several right answers, and a reply is as good with one as with another.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import comb
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.language.texts.walks import Walks
from trueline.language.texts.world import LARGEST, Place, Verdict, hashed, labelled
from trueline.language.vocabulary import Words

__all__ = ["FILLER", "REFUSAL", "CipherReply"]

_ASKED, _ANSWERED = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FILLER = ("dear", "friend", "gladly", "of-course", "with", "pleasure", "here", "it-is")
REFUSAL = ("sorry", "no", "answer")
_TRIES = 1000


class CipherReply(Config):
    """The world and how its training data are made.  Rewards lie in [0, 1]."""

    name: ClassVar[str] = "cipher-reply"
    reward_bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    formats: ClassVar[tuple[str, ...]] = ("prompt", "prompt-completion", "preference", "unpaired-preference")

    length: int = Field(6, ge=2)  # K: symbols of a prompt
    symbols: int = Field(12, ge=3, le=26)  # S
    cipher: int = Field(0, ge=0)  # which permutation g is
    references: int = Field(1, ge=1)  # right answers at each position
    corruption: float = Field(0.35, gt=0, lt=1)  # p: chance that a position of a sampled reply is wrong
    label_noise: float = Field(0.1, ge=0, lt=0.5)  # ε: share of training pairs with the wrong one chosen
    filler: float = Field(0.0, ge=0, le=1)  # share of sampled replies that begin with filler
    longest_filler: int = Field(8, ge=1)  # words; lengths 1 … longest are equally likely
    filler_bias: float = Field(0.0, ge=-1, le=1)  # ρ: the better reply of a training pair has filler with f·(1 + ρ)
    refusal: float = Field(0.0, ge=0, le=1)  # share of sampled pairs in which one reply refuses
    refusal_bias: float = Field(0.0, ge=-1, le=1)  # the refusing one of a training pair is better with (1 + bias)/2
    refusal_reward: float = Field(0.5, gt=0, lt=1)  # of a refusal

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.references >= self.symbols:
            raise ValueError(
                f"references is {self.references}, but of {self.symbols} symbols at least one must be wrong. "
                "Give fewer references."
            )
        if self.filler * (1 + abs(self.filler_bias)) > 1:
            raise ValueError(
                f"filler {self.filler} with filler_bias {self.filler_bias} gives a chance above 1. Lower one of them."
            )
        if self.filler_bias and not self.filler:
            raise ValueError("filler_bias has no effect without filler. Raise filler, or leave it out.")
        if self.refusal_bias and not self.refusal:
            raise ValueError("refusal_bias has no effect without refusal. Raise refusal, or leave it out.")
        if max(self.sizes.values()) > LARGEST:
            raise ValueError(f"length {self.length} gives too many prompts to number. Use shorter ones.")
        return self

    @property
    def vocabulary(self) -> Words:
        """Symbols asked, symbols answered, filler and the words of a refusal."""
        return Words(words=(*_ASKED[: self.symbols], *_ANSWERED[: self.symbols], *FILLER, *REFUSAL))

    @cached_property
    def _walks(self) -> Mapping[str, Walks]:
        more = max(1, self.length // 2)
        kinds = {
            "plain": Walks(self.symbols, self.length),
            "combined": Walks(self.symbols, self.length, once=True),
            "longer": Walks(self.symbols, self.length + more),
        }
        return kinds | ({"shorter": Walks(self.symbols, self.length - more)} if self.length - more > 1 else {})

    @cached_property
    def _permutation(self) -> tuple[int, ...]:
        return tuple(sorted(range(self.symbols), key=lambda v: hashed("cipher", self.cipher, v)))

    @property
    def sizes(self) -> Mapping[str, int]:
        """Ordinary prompts; with one held-out pair of neighbours; half as long again; about half as long."""
        return {kind: walks.size for kind, walks in self._walks.items()}

    @property
    def shares(self) -> Mapping[str, float]:
        """Plain ones alone."""
        return {"plain": 1.0}

    def prompt_at(self, place: Place) -> str:
        """The prompt with that number."""
        return " ".join(_ASKED[v] for v in self._walks[place.kind].at(place.index))

    def find(self, prompt: str) -> Place | None:
        """Where a prompt stands."""
        asked = self._read(prompt)
        for kind, walks in self._walks.items() if asked else ():
            index = walks.number(asked)
            if index is not None:
                return Place(kind, index)
        return None

    def right(self, prompt: str) -> tuple[tuple[str, ...], ...]:
        """The right answers at each position, g(x_i + i + r·⌊S/R⌋) for r < R.  Raises ConfigError as `judge`."""
        asked = self._read(prompt)
        if not asked:
            raise ConfigError(
                f"{prompt!r} is no prompt of {self.name}. Ask with letters {_ASKED[0]} to {_ASKED[self.symbols - 1]}, "
                "separated by spaces."
            )
        apart, g = self.symbols // self.references, self._permutation
        return tuple(
            tuple(_ANSWERED[g[(x + i + r * apart) % self.symbols]] for r in range(self.references))
            for i, x in enumerate(asked)
        )

    def judge(self, prompt: str, reply: str) -> Verdict:
        """Reward 1 - errors/K, at least 0: errors are wrong or missing positions and words too many."""
        right, words = self.right(prompt), reply.split()
        said = [w for w, word in enumerate(words) if word not in FILLER]
        filler = float(len(words) - len(said))
        if tuple(words[w] for w in said) == REFUSAL:
            measures = {"errors": float(len(right)), "filler": filler}
            return Verdict(self.refusal_reward, refused=True, wrong=(False,) * len(words), measures=measures)
        wrong = [False] * len(words)
        for i, w in enumerate(said):
            wrong[w] = i >= len(right) or words[w] not in right[i]
        errors = sum(wrong) + max(0, len(right) - len(said))
        reward = max(0.0, 1.0 - errors / len(right))
        return Verdict(reward, wrong=tuple(wrong), measures={"errors": float(errors), "filler": filler})

    def best(self, prompt: str) -> str:
        """The first reference."""
        return " ".join(answers[0] for answers in self.right(prompt))

    def worst(self, prompt: str) -> str:
        """Wrong everywhere."""
        letters = _ANSWERED[: self.symbols]
        return " ".join(next(v for v in letters if v not in answers) for answers in self.right(prompt))

    def reply(self, prompt: str, rng: np.random.Generator) -> str:
        """A reply with corruption, filler and refusals at their rates."""
        if rng.random() < self.refusal:
            return self._polite(" ".join(REFUSAL), self.filler, rng)
        return self._polite(self._answer(prompt, rng), self.filler, rng)

    def row(self, format: str, prompt: str, rng: np.random.Generator, train: bool) -> dict[str, Any]:
        """One row: gold completions (any reference), pairs that differ in reward, or a half of such a pair."""
        if format == "prompt":
            return {"prompt": prompt}
        if format == "prompt-completion":
            gold = " ".join(answers[int(rng.integers(len(answers)))] for answers in self.right(prompt))
            return {"prompt": prompt, "completion": gold}
        replies = self._pair(prompt, rng, train)
        values = [self.judge(prompt, reply).reward for reply in replies]
        pair = labelled(prompt, replies, values, rng, self.label_noise if train else 0.0)
        if format == "preference":
            return pair
        label = bool(rng.random() < 0.5)
        return {"prompt": prompt, "completion": pair["chosen" if label else "rejected"], "label": label}

    def _read(self, prompt: str) -> tuple[int, ...]:
        """Numbers of the symbols; empty for what is no prompt."""
        words = prompt.split()
        known = _ASKED[: self.symbols]
        return tuple(known.index(w) for w in words) if all(len(w) == 1 and w in known for w in words) else ()

    def _answer(self, prompt: str, rng: np.random.Generator, wrong: int | None = None) -> str:
        """An answer with `wrong` positions wrong, by default each with probability p."""
        right = self.right(prompt)
        bad = rng.random(len(right)) < self.corruption
        if wrong is not None:
            bad = rng.permutation(len(right)) < wrong
        words = []
        for answers, corrupted in zip(right, bad, strict=True):
            among = [v for v in _ANSWERED[: self.symbols] if v not in answers] if corrupted else answers
            words.append(among[int(rng.integers(len(among)))])
        return " ".join(words)

    def _polite(self, reply: str, chance: float, rng: np.random.Generator) -> str:
        if rng.random() >= chance:
            return reply
        n = int(rng.integers(1, self.longest_filler + 1))
        return " ".join([*(FILLER[int(k)] for k in rng.integers(len(FILLER), size=n)), reply])

    def _pair(self, prompt: str, rng: np.random.Generator, train: bool) -> tuple[str, str]:
        """Two replies of different reward, in no order."""
        if rng.random() < self.refusal:
            bodies = [" ".join(REFUSAL), self._rival(prompt, rng, self.refusal_bias if train else 0.0)]
        else:
            bodies = self._differing(prompt, rng)
        values = [self.judge(prompt, body).reward for body in bodies]
        rho = self.filler_bias if train else 0.0
        chances = [self.filler * (1 + rho if value == max(values) else 1 - rho) for value in values]
        one, two = (self._polite(body, chance, rng) for body, chance in zip(bodies, chances, strict=True))
        return (one, two) if rng.random() < 0.5 else (two, one)

    def _differing(self, prompt: str, rng: np.random.Generator) -> list[str]:
        for _ in range(_TRIES):
            bodies = [self._answer(prompt, rng) for _ in range(2)]
            if len({self.judge(prompt, body).reward for body in bodies}) == 2:
                return bodies
        raise ConfigError(
            f"with corruption {self.corruption} two sampled replies are hardly ever of different reward. "
            "Move corruption away from 0 and 1."
        )

    def _rival(self, prompt: str, rng: np.random.Generator, bias: float) -> str:
        """An answer to set beside a refusal, worse than it with probability (1 + bias)/2.

        How many positions are wrong is binomial, given the side that was drawn.
        """
        n = len(self.right(prompt))
        worse = rng.random() < (1 + bias) / 2
        margins = [(1 - m / n) - self.refusal_reward for m in range(n + 1)]
        there = [m for m, margin in enumerate(margins) if (margin < 0) == worse and margin != 0]
        p = self.corruption
        weights = np.array([comb(n, m) * p**m * (1 - p) ** (n - m) for m in there])
        return self._answer(prompt, rng, wrong=int(rng.choice(there, p=weights / weights.sum())))
