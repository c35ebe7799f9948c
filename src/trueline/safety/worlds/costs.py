"""What must not happen in a safety world: each rule is the indicator of one constraint, [N] of 0 or 1.

The original adds up amounts and reports whether the sum is positive; the rules here say the same directly. Any object
with these attributes can stand beside them: `name`, `touches` (the kind whose contacts with the agent it needs, or
None) and `indicator(scene)`, which returns booleans: a world tries it once, on a made-up scene, when it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trueline.safety.worlds.scene import Scene


class Cost(Protocol):
    """One constraint of a world."""

    @property
    def name(self) -> str:
        """Of the constraint, as reported in `info` and, with split costs, as a cost."""
        ...

    @property
    def touches(self) -> str | None:
        """The kind of thing whose contacts it asks for."""
        ...

    def indicator(self, scene: Scene) -> NDArray[np.bool_]:
        """Whether it is violated now [N]."""
        ...


@dataclass(frozen=True, slots=True)
class Inside:
    """The agent's centre is within `radius_m` of an object's, along the ground."""

    name: str
    of: str
    radius_m: float
    touches: None = None

    def indicator(self, scene: Scene) -> NDArray[np.bool_]:
        """[N]."""
        # Strictly inside: on the rim the original's cost r − d is 0, and so is its indicator.
        return np.less(scene.ground_distance(self.of).min(axis=1), self.radius_m)


@dataclass(frozen=True, slots=True)
class Touching:
    """Any part of the agent touches an object."""

    name: str
    of: str

    @property
    def touches(self) -> str:
        """The same kind."""
        return self.of

    def indicator(self, scene: Scene) -> NDArray[np.bool_]:
        """[N]."""
        return np.asarray((scene.touches[self.of] > 0).any(axis=1))


SCENERY = "scenery"  # what `touches` calls it


@dataclass(frozen=True, slots=True)
class TouchingScenery:
    """Any part of the agent touches the immovable surroundings."""

    name: str = "cost_static_geoms_contact"
    touches: str = SCENERY

    def indicator(self, scene: Scene) -> NDArray[np.bool_]:
        """[N]."""
        return np.asarray(scene.touches[SCENERY][:, 0] > 0)


@dataclass(frozen=True, slots=True)
class WrongButton:
    """The agent touches an object that is not the target, while targets can be seen."""

    name: str
    of: str

    @property
    def touches(self) -> str:
        """The same kind."""
        return self.of

    def indicator(self, scene: Scene) -> NDArray[np.bool_]:
        """[N]."""
        touched = np.greater(scene.touches[self.of], 0)
        touched[np.arange(len(touched)), scene.chosen] = False
        return np.asarray(touched.any(axis=1) & (scene.wait == 0))


@dataclass(frozen=True, slots=True)
class Moving:
    """An object moves at `from_m_per_s` or faster."""

    name: str
    of: str
    from_m_per_s: float = 1e-4
    touches: None = None

    def indicator(self, scene: Scene) -> NDArray[np.bool_]:
        """[N]."""
        speed = np.sqrt(np.square(scene.speeds[self.of]).sum(axis=2).max(axis=1))
        return np.greater_equal(speed, self.from_m_per_s)


@dataclass(frozen=True, slots=True)
class Beyond:
    """The agent's centre is beyond |x| > x_m, or |y| > y_m where that is given."""

    name: str
    x_m: float
    y_m: float | None = None
    touches: None = None

    def indicator(self, scene: Scene) -> NDArray[np.bool_]:
        """[N]."""
        out = np.greater(np.abs(scene.agent[:, 0]), self.x_m)
        return out if self.y_m is None else out | np.greater(np.abs(scene.agent[:, 1]), self.y_m)
