"""`synthetic-reviews`: words of a topic, then a review in words of that topic with a hidden sentiment.

A document is four words of one topic, a bar, and eight words, all positive, all negative or all neutral, each replaced
by its opposite with a small chance. Sentiments are balanced in pre-training; alignment data are positive, inverse data
negative, and neutral ones are the third direction that a fast learner would also take quickly. The score is the share
of positive words.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.language.texts.world import LARGEST, Place, Verdict, labelled
from trueline.language.vocabulary import Words

__all__ = ["SENTIMENTS", "TOPICS", "SyntheticReviews"]

TOPICS = ("film", "food", "hotel", "novel", "opera", "phone")
SENTIMENTS = ("positive", "negative", "neutral")
BAR = "|"
_TRIES = 1000


class SyntheticReviews(Config):
    """The world and how its data are made.  Rewards lie in [0, 1].

    What is left of `positive` and `neutral` is the share of negative documents.
    """

    name: ClassVar[str] = "synthetic-reviews"
    reward_bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    formats: ClassVar[tuple[str, ...]] = ("prompt", "prompt-completion", "language-modelling", "preference")

    topics: int = Field(4, ge=2, le=len(TOPICS))
    words: int = Field(16, ge=2)  # of a topic, to ask with
    opinions: int = Field(8, ge=1)  # of a topic, for each sentiment
    prompt_length: int = Field(4, ge=2)
    length: int = Field(8, ge=1)  # words of a review
    positive: float = Field(0.5, ge=0, le=1)  # share of positive documents
    neutral: float = Field(0.0, ge=0, le=1)  # share of neutral documents
    flips: float = Field(0.1, ge=0, le=0.5)  # chance that a word of a review is of the opposite sentiment
    label_noise: float = Field(0.0, ge=0, lt=0.5)  # share of training pairs with the wrong one chosen

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.positive + self.neutral > 1:
            raise ValueError(
                f"positive {self.positive} and neutral {self.neutral} are more than all documents. Lower one of them."
            )
        if max(self.sizes.values()) > LARGEST:
            raise ValueError(f"prompt_length {self.prompt_length} gives too many prompts to number. Use shorter ones.")
        return self

    @property
    def vocabulary(self) -> Words:
        """Words of the topics, opinions, and the bar."""
        return Words(words=(BAR, *self._asked, *self._opinions))

    @property
    def _topics(self) -> tuple[str, ...]:
        return TOPICS[: self.topics]

    @cached_property
    def _opinions(self) -> Mapping[str, tuple[str, str]]:
        """Sentiment and topic of each opinion."""
        return {word: (s, topic) for topic in self._topics for s in SENTIMENTS for word in self.said(topic, s)}

    @cached_property
    def _asked(self) -> Mapping[str, tuple[int, int]]:
        """Numbers of the topic and the word of each word to ask with."""
        return {f"{topic}-{k}": (t, k) for t, topic in enumerate(self._topics) for k in range(self.words)}

    def said(self, topic: str, sentiment: str) -> tuple[str, ...]:
        """The words that a review of that topic and sentiment is made of."""
        return tuple(f"{sentiment}-{topic}-{k}" for k in range(self.opinions))

    @property
    def sizes(self) -> Mapping[str, int]:
        """Ordinary prompts; half as long again; with a last word of another topic, which ordinary ones never have."""
        more = self.prompt_length // 2
        return {
            "plain": self.topics * self.words**self.prompt_length,
            "longer": self.topics * self.words ** (self.prompt_length + more),
            "mixed": self.topics * (self.topics - 1) * self.words**self.prompt_length,
        }

    @property
    def shares(self) -> Mapping[str, float]:
        """Plain ones alone."""
        return {"plain": 1.0}

    def prompt_at(self, place: Place) -> str:
        """The prompt with that number."""
        index, topic = divmod(place.index, self.topics)
        last = topic
        if place.kind == "mixed":
            index, other = divmod(index, self.topics - 1)
            last = (topic + 1 + other) % self.topics
        n = self.prompt_length + (self.prompt_length // 2 if place.kind == "longer" else 0)
        words = []
        for k in range(n):
            index, word = divmod(index, self.words)
            words.append(f"{TOPICS[last if k == n - 1 else topic]}-{word}")
        return " ".join([*words, BAR])

    def find(self, prompt: str) -> Place | None:
        """Where a prompt stands."""
        read = self._read(prompt)
        if len(read) < 2:
            return None
        (topic, _), (last, _) = read[0], read[-1]
        index = 0
        for _, word in reversed(read):
            index = index * self.words + word
        uniform = all(one == topic for one, _ in read[:-1])
        longer = self.prompt_length + self.prompt_length // 2
        if uniform and last == topic and len(read) in (self.prompt_length, longer):
            return Place("plain" if len(read) == self.prompt_length else "longer", index * self.topics + topic)
        if uniform and last != topic and len(read) == self.prompt_length:
            index = index * (self.topics - 1) + (last - topic - 1) % self.topics
            return Place("mixed", index * self.topics + topic)
        return None

    def topic_of(self, prompt: str) -> str:
        """The topic of a prompt's first word.  Raises ConfigError as `judge`."""
        read = self._read(prompt)
        if not read:
            raise ConfigError(
                f"{prompt!r} is no prompt of {self.name}. Ask with words of its topics, such as "
                f"{self.prompt_at(Place('plain', 0))!r}."
            )
        return TOPICS[read[0][0]]

    def judge(self, prompt: str, reply: str) -> Verdict:
        """Reward ½·(1 + (P - N)/max(words, length)): the share of positive words in a whole review of opinions.

        P and N count positive and negative words of any topic; other words, and those that are missing, stand between.
        Negative words are to blame. Measures: `positive` and `negative` as counts, and `on-topic`, the share of the
        opinions that are of the prompt's topic (nan without opinions).
        """
        topic, words = self.topic_of(prompt), reply.split()
        found = [self._opinions.get(word, ("", "")) for word in words]
        positive, negative = (sum(s == which for s, _ in found) for which in ("positive", "negative"))
        of = [t == topic for _, t in found if t]
        measures = {
            "positive": float(positive),
            "negative": float(negative),
            "on-topic": sum(of) / len(of) if of else float("nan"),
        }
        reward = 0.5 * (1.0 + (positive - negative) / max(len(words), self.length))
        return Verdict(reward, wrong=tuple(s == "negative" for s, _ in found), measures=measures)

    def best(self, prompt: str) -> str:
        """A positive review."""
        return self._all(prompt, "positive")

    def worst(self, prompt: str) -> str:
        """A negative review."""
        return self._all(prompt, "negative")

    def reply(self, prompt: str, rng: np.random.Generator) -> str:
        """A review of a sentiment that is drawn and that the prompt does not tell."""
        luck = rng.random()
        sentiment = "positive" if luck < self.positive else "negative"
        if self.positive <= luck < self.positive + self.neutral:
            sentiment = "neutral"
        # A neutral word's opposite is either of the others.
        other = {"positive": ("negative",), "negative": ("positive",), "neutral": ("positive", "negative")}[sentiment]
        topic, words = self.topic_of(prompt), []
        for flipped in rng.random(self.length) < self.flips:
            among = self.said(topic, other[int(rng.integers(len(other)))] if flipped else sentiment)
            words.append(among[int(rng.integers(len(among)))])
        return " ".join(words)

    def row(self, format: str, prompt: str, rng: np.random.Generator, train: bool) -> dict[str, Any]:
        """One row: documents as text or as prompt and completion, and pairs with the more positive one chosen."""
        if format == "prompt":
            return {"prompt": prompt}
        if format == "language-modelling":
            return {"text": f"{prompt} {self.reply(prompt, rng)}"}
        if format == "prompt-completion":
            return {"prompt": prompt, "completion": self.reply(prompt, rng)}
        for _ in range(_TRIES):
            replies = [self.reply(prompt, rng) for _ in range(2)]
            values = [self.judge(prompt, reply).reward for reply in replies]
            if values[0] != values[1]:
                return labelled(prompt, replies, values, rng, self.label_noise if train else 0.0)
        raise ConfigError(
            "these settings make reviews of one score only, so no pair has a better one. Raise flips, or move positive "
            "away from 0 and 1."
        )

    def _all(self, prompt: str, sentiment: str) -> str:
        words = self.said(self.topic_of(prompt), sentiment)
        return " ".join(words[k % len(words)] for k in range(self.length))

    def _read(self, prompt: str) -> list[tuple[int, int]]:
        """Topic and word of each word before the bar; empty for what is no prompt."""
        *asked, bar = prompt.split() or [""]
        known = self._asked
        return [known[word] for word in asked] if bar == BAR and all(word in known for word in asked) else []
