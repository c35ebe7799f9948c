"""`grammar-essay`: a reply is D segments, each one of K productions, and random tables say what they are worth.

The gold reward is r = (1/D)·Σ_j f_j(x, s_j, s_{j-1}) with f_j = ±1 at random, fixed by the world's number. How much a
pair of essays tells about others is governed by D, K and the order of interaction: 0 lets f_j see the production s_j
alone, 1 also the one before it, 2 also the prompt's symbol x_{j mod P}. Labels are Bradley-Terry: P(a ≻ b) =
σ(β·(r_a - r_b)). A full stop ends each segment, which is where a tree of replies branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import exp
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.language.texts.walks import Walks
from trueline.language.texts.world import LARGEST, Place, Verdict, hashed, labelled
from trueline.language.vocabulary import Words

__all__ = ["GrammarEssay"]

_SUBJECTS = ("birds", "rivers", "cities", "poems")
_VERBS = ("sing", "wander", "remember", "grow", "listen", "return", "shine", "change")
_THEMES = ("winter", "harvest", "journey", "silence", "fire", "childhood", "harbour", "mountain", "letters", "bread")


class GrammarEssay(Config):
    """The world and how its training data are made.  Rewards lie in [-1, 1]."""

    name: ClassVar[str] = "grammar-essay"
    reward_bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    formats: ClassVar[tuple[str, ...]] = ("prompt", "prompt-completion", "preference")

    segments: int = Field(6, ge=1)  # D
    productions: int = Field(8, ge=2, le=len(_SUBJECTS) * len(_VERBS))  # K
    order: int = Field(2, ge=0, le=2)  # of the interactions that f_j sees
    prompt_length: int = Field(8, ge=2)  # P
    themes: int = Field(8, ge=3, le=len(_THEMES))  # symbols of prompts
    tables: int = Field(0, ge=0)  # which random tables
    beta: float = Field(6.0, gt=0)  # β: at 6 an essay better by two segments of six is preferred with 0.98
    near_miss: float = Field(0.0, ge=0, le=1)  # share of pairs that differ in one segment only

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if max(self.sizes.values()) > LARGEST:
            raise ValueError(f"prompt_length {self.prompt_length} gives too many prompts to number. Use shorter ones.")
        return self

    @property
    def vocabulary(self) -> Words:
        """Themes, words of productions, and the full stop."""
        return Words(words=(*_THEMES[: self.themes], *_SUBJECTS, *_VERBS, "."))

    @cached_property
    def _walks(self) -> Mapping[str, Walks]:
        more = self.prompt_length // 2
        return {
            "plain": Walks(self.themes, self.prompt_length),
            "combined": Walks(self.themes, self.prompt_length, once=True),
            "longer": Walks(self.themes, self.prompt_length + more),
        }

    @property
    def sizes(self) -> Mapping[str, int]:
        """Ordinary prompts; with one held-out pair of neighbours; half as long again."""
        return {kind: walks.size for kind, walks in self._walks.items()}

    @property
    def shares(self) -> Mapping[str, float]:
        """Plain ones alone."""
        return {"plain": 1.0}

    def prompt_at(self, place: Place) -> str:
        """The prompt with that number."""
        return " ".join(_THEMES[v] for v in self._walks[place.kind].at(place.index))

    def find(self, prompt: str) -> Place | None:
        """Where a prompt stands."""
        themes = self._read(prompt)
        for kind, walks in self._walks.items() if themes else ():
            index = walks.number(themes)
            if index is not None:
                return Place(kind, index)
        return None

    def segment(self, production: int) -> str:
        """The text of a production."""
        return f"{_SUBJECTS[production % len(_SUBJECTS)]} {_VERBS[production // len(_SUBJECTS)]} ."

    def essay(self, productions: Sequence[int]) -> str:
        """The reply of these productions."""
        return " ".join(self.segment(production) for production in productions)

    @cached_property
    def _values(self) -> NDArray[np.int8]:
        """f [D, themes, K, K + 1], in ±1; the last index is the production before, K where there is none."""
        shape = (self.segments, self.themes, self.productions, self.productions + 1)
        # A table that does not see an argument is the same for all its values.
        seen = (1, int(self.order > 1), 1, int(self.order > 0))
        small = tuple(n if s else 1 for n, s in zip(shape, seen, strict=True))
        signs = [1 - 2 * (hashed("essay", self.tables, self.order, *at) & 1) for at in np.ndindex(*small)]
        return np.broadcast_to(np.array(signs, np.int8).reshape(small), shape)

    def values(self, prompt: str) -> NDArray[np.int8]:
        """f_j(x, s, s') for one prompt, [D, K, K + 1] in ±1; s' = K where no production stands before.

        Raises ConfigError as `judge`.
        """
        themes = self._read(prompt)
        if not themes:
            raise ConfigError(
                f"{prompt!r} is no prompt of {self.name}. Ask with its themes: {', '.join(_THEMES[: self.themes])}."
            )
        return np.stack([self._values[j, themes[j % len(themes)]] for j in range(self.segments)])

    def judge(self, prompt: str, reply: str) -> Verdict:
        """The gold reward.  A segment that is no production, is missing, or is one too many counts -1, r ≥ -1."""
        f, spans = self.values(prompt), _segments(reply.split())
        words, missing = reply.split(), max(0, self.segments - len(spans))
        known = {self.segment(k): k for k in range(self.productions)}
        found = [known.get(" ".join(words[a:b]), self.productions) for a, b in spans]
        before = [self.productions, *found]
        wrong, total = [False] * len(words), -missing
        for j, (a, b) in enumerate(spans):
            fits = j < self.segments and found[j] < self.productions
            worth = int(f[j, found[j], before[j]]) if fits else -1
            total += worth
            wrong[a:b] = [worth < 0] * (b - a)
        measures = {"productions": float(sum(k < self.productions for k in found)), "segments": float(len(spans))}
        return Verdict(max(-1.0, total / self.segments), wrong=tuple(wrong), measures=measures)

    def best(self, prompt: str) -> str:
        """By dynamic programming over the segments."""
        return self.essay(_extreme(self.values(prompt).astype(int)))

    def worst(self, prompt: str) -> str:
        """The essay of D productions with the least reward."""
        return self.essay(_extreme(-self.values(prompt).astype(int)))

    def reply(self, prompt: str, rng: np.random.Generator) -> str:
        """D productions, each equally likely, whatever the prompt.  Raises ConfigError as `judge`."""
        self.values(prompt)
        return self.essay(rng.integers(self.productions, size=self.segments).tolist())

    def row(self, format: str, prompt: str, rng: np.random.Generator, train: bool) -> dict[str, Any]:
        """One row: sampled essays, and pairs labelled by Bradley-Terry in training, else by reward."""
        if format == "prompt":
            return {"prompt": prompt}
        if format == "prompt-completion":
            return {"prompt": prompt, "completion": self.reply(prompt, rng)}
        while True:
            one = rng.integers(self.productions, size=self.segments)
            two = rng.integers(self.productions, size=self.segments)
            if rng.random() < self.near_miss:
                two = one.copy()
                j = int(rng.integers(self.segments))
                two[j] = (one[j] + rng.integers(1, self.productions)) % self.productions
            replies = [self.essay(one.tolist()), self.essay(two.tolist())]
            values = [self.judge(prompt, reply).reward for reply in replies]
            if replies[0] != replies[1] and (train or values[0] != values[1]):
                break
            if not train and not self._separable(prompt):
                raise ConfigError(f"all essays on {prompt!r} are worth the same. Use other tables, or more segments.")
        # The probability that Bradley-Terry gives to the worse one; a coin where both are worth the same.
        noise = 1 / (1 + exp(self.beta * abs(values[0] - values[1]))) if train else 0.0
        return labelled(prompt, replies, values, rng, noise)

    def _read(self, prompt: str) -> tuple[int, ...]:
        """Numbers of the themes; empty for what is no prompt."""
        words, known = prompt.split(), _THEMES[: self.themes]
        return tuple(known.index(word) for word in words) if all(word in known for word in words) else ()

    def _separable(self, prompt: str) -> bool:
        return self.judge(prompt, self.best(prompt)).reward > self.judge(prompt, self.worst(prompt)).reward


def _segments(words: Sequence[str]) -> list[tuple[int, int]]:
    """Where segments begin and end, full stop included; words after the last full stop are a segment too."""
    ends = [w + 1 for w, word in enumerate(words) if word == "."]
    if words and (not ends or ends[-1] < len(words)):
        ends.append(len(words))
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def _extreme(f: NDArray[Any]) -> list[int]:
    """The productions with the largest Σ_j f_j(s_j, s_{j-1}).  f: [D, K, K + 1]."""
    segments, productions = f.shape[:2]
    best = f[0, :, productions].copy()  # of essays that end in each production
    choices = []
    for j in range(1, segments):
        through = f[j, :, :productions] + best  # [K now, K before]
        choices.append(through.argmax(axis=1))
        best = through.max(axis=1)
    path = [int(best.argmax())]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return path[::-1]
