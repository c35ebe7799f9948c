"""A policy behind a safety filter: it acts, is audited, saved and loaded as any other subject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.core.subject import Subject
from trueline.rl.env import Obs
from trueline.rl.filters.barrier import WallBarrier
from trueline.rl.filters.linear_cost import LinearCostFilter
from trueline.rl.filters.projection import Projected
from trueline.rl.policy import Acts, Memory, WorldRef

__all__ = ["Filter", "FilteredPolicy", "Filters", "load"]


class Filter(Protocol):
    """Anything that changes actions [N, A] in [−1, 1] at N observations where it has to."""

    @property
    def kind(self) -> str:
        """Which of the filters that can be saved it is."""
        ...

    def __call__(self, obs: Obs, action: NDArray[np.floating]) -> Projected:
        """The actions to take in place of `action`."""
        ...


@runtime_checkable
class Filters(Acts, Protocol):
    """Capability: a policy whose filter can be taken off, so that what the filter does can be measured."""

    policy: Acts
    filter: Filter


class FilteredPolicy:
    """`policy` with every action passed through `filter`."""

    kind: ClassVar[str] = "filtered-policy"

    def __init__(self, policy: Acts, filter: Filter) -> None:
        self.policy, self.filter = policy, filter
        self.world: WorldRef = policy.world
        self.parent: str | None = getattr(policy, "parent", None)

    def act(
        self, obs: Obs, memory: Memory, rng: np.random.Generator, deterministic: bool = False
    ) -> tuple[NDArray[Any], Memory]:
        """The filtered actions; the policy's memory and noise are its own."""
        action, memory = self.policy.act(obs, memory, rng, deterministic)
        return self.filter(obs, action).action, memory

    def save(self, folder: Path) -> None:
        """The policy in policy/, the filter in filter.json beside what it has learnt.

        Raises ConfigError for a policy or a filter that cannot be saved.
        """
        if not isinstance(self.policy, Subject):
            raise ConfigError("the policy behind the filter cannot be saved. Give a trained one.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "policy").mkdir()
        self.policy.save(folder / "policy")
        match self.filter:
            case WallBarrier():
                record = {"settings": self.filter.model_dump(mode="json")}
            case LinearCostFilter():
                record = self.filter.save(folder)
            case _:
                raise ConfigError(f"a filter of kind {self.filter.kind!r} cannot be saved. Use it from Python.")
        card = {"policy": self.policy.kind, "kind": self.filter.kind, "filter": record}
        (folder / "filter.json").write_text(json.dumps(card, indent=1, sort_keys=True))


def load(folder: Path) -> FilteredPolicy:
    """The filtered policy saved in `folder`.  Raises RunError naming what is missing or does not fit."""
    try:
        card = json.loads((folder / "filter.json").read_text())
        policy = registry.load("subject", card["policy"])(folder / "policy")
        kind, record = card["kind"], card["filter"]
        if kind == "walls":
            return FilteredPolicy(policy, build(WallBarrier, record["settings"]))
        if kind == LinearCostFilter.kind:
            return FilteredPolicy(policy, LinearCostFilter.load(folder, record))
    except FileNotFoundError as missing:
        raise RunError(f"{folder} holds no saved filtered policy: {Path(missing.filename).name} is missing.") from None
    except (KeyError, ValueError, RuntimeError, ConfigError) as damage:
        raise RunError(f"the filtered policy in {folder} is damaged or of another version: {damage}.") from None
    raise RunError(f"the filter in {folder} is of kind {kind!r}, which this version does not know.")
