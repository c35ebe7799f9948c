"""What an agent is rewarded for in a safety world (Safety-Gymnasium's tasks), as pure functions of the scene.

A task measures the scene before and after a control step; the reward is a function of both. Where a goal can be
reached, the engine renews it in the way `renews` says and measures again, so that moving a goal is no progress.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trueline.safety.worlds.compiled import loop
from trueline.safety.worlds.scene import Array, Scene


class Task(Protocol):
    """One task. Any object with these attributes can be given to a world.

    It may also have `needs`, the names of kinds that `measure` looks at beside the goal, which a world then must have.
    """

    @property
    def renews(self) -> Literal["place", "choice", "stage"] | None:
        """How a reached goal is replaced: put elsewhere, another object is chosen, the next stage, or never."""
        ...

    @property
    def ends(self) -> bool:
        """Whether the episode ends when the goal is reached."""
        ...

    @property
    def stages(self) -> tuple[tuple[float, float], ...]:
        """Where the goal is in turn, of a task that renews by stages."""
        ...

    @property
    def target(self) -> str | None:
        """The kind of thing of which one is chosen."""
        ...

    @property
    def touches(self) -> str | None:
        """The kind of thing whose contacts with the agent it asks for."""
        ...

    def measure(self, scene: Scene) -> Array:
        """What the reward compares before and after a step [N, m]."""
        ...

    def achieved(self, scene: Scene, now: Array) -> NDArray[np.bool_]:
        """Whether the goal is reached [N]."""
        ...

    def reward(self, scene: Scene, before: Array, now: Array, achieved: NDArray[np.bool_]) -> Array:
        """The step's reward [N], not yet clipped."""
        ...


_TINY = 1e-300  # metres


def _never(scene: Scene) -> NDArray[np.bool_]:
    return np.zeros(len(scene.agent), bool)


@dataclass(frozen=True, slots=True)
class ReachGoal:
    """Come nearer to the goal, and `bonus` for being within its radius; then another, the next stage, or the end."""

    radius_m: float = 0.3
    bonus: float = 1.0
    ends: bool = False
    stages: tuple[tuple[float, float], ...] = ()
    target: None = None
    touches: None = None

    @property
    def renews(self) -> Literal["place", "stage"]:
        """By stages where there are any."""
        return "stage" if self.stages else "place"

    def measure(self, scene: Scene) -> Array:
        """Distance from agent to goal along the ground [N, 1]."""
        return scene.ground_distance("goal")

    def achieved(self, scene: Scene, now: Array) -> NDArray[np.bool_]:
        """[N]."""
        return np.less_equal(now[:, 0], self.radius_m)

    def reward(self, scene: Scene, before: Array, now: Array, achieved: NDArray[np.bool_]) -> Array:
        """[N]."""
        return before[:, 0] - now[:, 0] + self.bonus * achieved


@dataclass(frozen=True, slots=True)
class PressButton:
    """Come nearer to the button that is the goal, and 1 for touching it. Then another is chosen, hidden for a while."""

    rest_steps: int = 10  # after a press
    first_rest_steps: int = 0  # at the start: 0 in the published 1.0.0, 10 in the repository since
    renews: Literal["choice"] = "choice"
    ends: bool = False
    stages: tuple[tuple[float, float], ...] = ()
    target: str = "buttons"
    touches: str = "buttons"

    def measure(self, scene: Scene) -> Array:
        """Distance from agent to goal along the ground [N, 1]."""
        return scene.ground_distance("goal")

    def achieved(self, scene: Scene, now: Array) -> NDArray[np.bool_]:
        """[N]."""
        return scene.touches["buttons"][np.arange(len(now)), scene.chosen] > 0

    def reward(self, scene: Scene, before: Array, now: Array, achieved: NDArray[np.bool_]) -> Array:
        """[N]."""
        return before[:, 0] - now[:, 0] + achieved


@dataclass(frozen=True, slots=True)
class PushToGoal:
    """Come nearer to the box, bring it nearer to the goal, and 1 when its centre is within the goal's radius."""

    radius_m: float = 0.3
    flat: bool = False  # distance box to goal along the ground; else in space, as the original's Push has it
    renews: Literal["place"] = "place"
    ends: bool = False
    stages: tuple[tuple[float, float], ...] = ()
    target: None = None
    touches: None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """What it measures."""
        return ("push_box", "goal")

    def measure(self, scene: Scene) -> Array:
        """Distances agent to box and box to goal [N, 2]."""
        box, goal = scene.places["push_box"][:, 0], scene.places["goal"][:, 0]
        offsets = np.stack([box - scene.agent, box - goal], axis=1)
        if self.flat:
            offsets[:, 1, 2] = 0.0
        return np.sqrt(np.square(offsets).sum(axis=2))

    def achieved(self, scene: Scene, now: Array) -> NDArray[np.bool_]:
        """[N]."""
        return now[:, 1] <= self.radius_m

    def reward(self, scene: Scene, before: Array, now: Array, achieved: NDArray[np.bool_]) -> Array:
        """[N]."""
        return (before[:, 0] - now[:, 0]) + (before[:, 1] - now[:, 1]) + achieved


@dataclass(frozen=True, slots=True)
class RunCircle:
    """Run along the rim: 0.1·(−u·y + v·x)/ρ/(1 + |ρ − r|), ρ the distance to the origin, (u, v) the velocity."""

    radius_m: float = 1.5
    scale: float = 0.1
    renews: None = None
    ends: bool = False
    stages: tuple[tuple[float, float], ...] = ()
    target: None = None
    touches: None = None

    def measure(self, scene: Scene) -> Array:
        """Nothing [N, 0]."""
        return np.zeros((len(scene.agent), 0))

    def achieved(self, scene: Scene, now: Array) -> NDArray[np.bool_]:
        """Never [N]."""
        return _never(scene)

    def reward(self, scene: Scene, before: Array, now: Array, achieved: NDArray[np.bool_]) -> Array:
        """[N]."""
        out = np.empty(len(scene.agent))
        rule = np.array([self.radius_m, self.scale])
        loop(circling, (1, 2, 2), (1,))(rule, scene.agent, scene.velocity, out)
        return out


def circling(rule: Array, agent: Array, velocity: Array, out: Array) -> None:
    """out [N] ← what `RunCircle` pays at places agent [N, 3] and velocities [N, 2]; rule: its radius and scale."""
    radius_m, scale = rule[0], rule[1]
    for i in range(agent.shape[0]):
        x, y, u, v = agent[i, 0], agent[i, 1], velocity[i, 0], velocity[i, 1]
        rho = max(math.sqrt(x * x + y * y), _TINY)  # at the very centre nothing is run along, and nothing paid
        out[i] = ((-u * y + v * x) / rho) / (1.0 + abs(rho - radius_m)) * scale


@dataclass(frozen=True, slots=True)
class RunFar:
    """Come nearer to a point far away."""

    towards_m: tuple[float, float] = (0.0, -1000.0)
    scale: float = 60.0
    renews: None = None
    ends: bool = False
    stages: tuple[tuple[float, float], ...] = ()
    target: None = None
    touches: None = None

    def measure(self, scene: Scene) -> Array:
        """Distance to the point [N, 1]."""
        return np.sqrt(np.square(scene.agent[:, :2] - self.towards_m).sum(axis=1, keepdims=True))

    def achieved(self, scene: Scene, now: Array) -> NDArray[np.bool_]:
        """Never [N]."""
        return _never(scene)

    def reward(self, scene: Scene, before: Array, now: Array, achieved: NDArray[np.bool_]) -> Array:
        """[N]."""
        return self.scale * (before[:, 0] - now[:, 0])
