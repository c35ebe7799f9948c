"""What has to be known of a world before a policy can learn in it without ever leaving what is safe."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.rl.env import VectorEnv
from trueline.rl.spaces import ActionCodec, ObservationCodec

__all__ = ["DIMENSIONS", "Certifiable", "certifiable"]

DIMENSIONS = 2  # of the state: points drawn from a box still lie everywhere in it


@runtime_checkable
class Certifiable(Protocol):
    """Ability of a world: its observation is its state, and what is given of that state in advance."""

    start: Tensor  # [D] s₀, where every episode begins
    region: Tensor  # [D] half-widths of the box about 0 beyond which no state is called safe
    excitation: float  # noise of up to this in every action leaves the controller safe

    def danger(self, obs: Tensor) -> Tensor:
        """B ≥ 0 [...] of states [..., D], differentiable: at least 1 where a state is unsafe or outside the region."""
        ...

    def controller(self, obs: Tensor) -> Tensor:
        """Actions [..., A] of states [..., D] that keep every episode from s₀ on safe."""
        ...


def certifiable(world: VectorEnv) -> Certifiable:
    """The world as what it is asked for here. Raises ConfigError for one that a certificate cannot be learnt in."""
    if not isinstance(world, Certifiable):
        raise ConfigError(
            f"{world.id} does not say what is unsafe, where episodes begin and how to act safely at first. Use a "
            "certifiable world such as DoubleIntegrator-v0."
        )
    observation = ObservationCodec.of(world.observation_space)
    if observation.width != DIMENSIONS or observation.images:
        raise ConfigError(
            f"{world.id} observes {observation.width} numbers, but a certificate is sought in {DIMENSIONS} dimensions. "
            "Use a world whose state is two numbers, or a limit that a multiplier keeps."
        )
    if ActionCodec.of(world.action_space).kind != "continuous":
        raise ConfigError(f"{world.id} takes choices, and a certificate is differentiated by actions: use another row.")
    return world
