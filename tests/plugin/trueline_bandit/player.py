"""A subject of another kind: what is saved is a probability per arm, and what it can do is pull."""

import json
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Pulls(Protocol):
    """Capability: pulls arms."""

    def pull(self, rng: np.random.Generator) -> int: ...


@dataclass(frozen=True)
class Player:
    probability: tuple[float, ...]
    parent: str | None = None
    kind: ClassVar[str] = "bandit"

    def pull(self, rng):
        return int(rng.choice(len(self.probability), p=self.probability))

    def save(self, folder):
        (folder / "player.json").write_text(json.dumps([list(self.probability), self.parent]))


def load(folder):
    probability, parent = json.loads((folder / "player.json").read_text())
    return Player(tuple(probability), parent)
