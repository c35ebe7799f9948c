"""Disturbances between a policy and its world: noisy and missing sensors, late actions, other dynamics.

The same wrapper randomises training, where every episode draws its own magnitudes (domain randomisation, Tobin et al.
2017; Peng et al. 2018), and sets the one magnitude at which an audit measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.rl.env import (
    LaidOut,
    Obs,
    Perturbable,
    SeedSource,
    Stateful,
    Steerable,
    Step,
    VectorEnv,
    Visible,
    observation_rows,
    with_rows,
)
from trueline.rl.spaces import ObservationCodec

__all__ = ["DYNAMICS", "Disturbance", "NoisySensors", "disturbed"]

Array = NDArray[np.float64]
Range = tuple[float, float]

DYNAMICS = ("mass", "friction", "gear")


class Disturbance(Config):
    """How far from nominal; each field's default is the nominal world."""

    observation_noise: float = Field(0.0, ge=0)  # σ of normal noise, in multiples of each sensor's scale
    dropout: float = Field(0.0, ge=0, le=1)  # probability that one sensor reads 0 in one step
    delay: int = Field(0, ge=0)  # whole steps between an action's choice and its effect
    mass: Range = (1.0, 1.0)  # multiplier, uniform between the two for each episode
    friction: Range = (1.0, 1.0)
    gear: Range = (1.0, 1.0)

    @field_validator("delay", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        # The levels of an audit's axis are floats, and a response copies them here.
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @field_validator(*DYNAMICS)
    @classmethod
    def _ordered(cls, value: Range) -> Range:
        if not 0.0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)} is no range of multipliers. Give [low, high] with 0 < low <= high.")
        return value

    @property
    def nominal(self) -> bool:
        """Whether nothing is disturbed."""
        return not self.model_dump(exclude_defaults=True)

    @property
    def dynamics(self) -> dict[str, Range]:
        """The multipliers that are not nominal, by name."""
        return {name: getattr(self, name) for name in DYNAMICS if getattr(self, name) != (1.0, 1.0)}


def disturbed(
    env: VectorEnv,
    disturbance: Disturbance,
    rng: np.random.Generator,
    fixed: bool = False,
    scale: NDArray[Any] | None = None,
) -> VectorEnv:
    """`env` seen and driven through `disturbance`; with the nominal one it is `env` itself.

    Each episode of each environment draws its magnitudes: σ ~ U(0, observation_noise), dropout ~ U(0, dropout),
    delay ~ U{0, …, delay}; with `fixed` they are the configured ones. Multipliers are uniform on their range either
    way.
    scale: [D] of the flat observation, what one unit of noise is in each sensor's own unit; 1 by default.

    The result has exactly the abilities (`rl/env.py`) of `env`, minus the multipliers that it sets itself.
    Raises ConfigError for multipliers the world does not offer and for disturbances its spaces cannot take.
    """
    if disturbance.nominal:
        return env
    _refuse_what_cannot_take_effect(env, disturbance)
    # An ability is asked for with isinstance, so it has to be there as an attribute exactly when the world has it.
    abilities = tuple(mixin for ability, mixin in _PASSED_ON if isinstance(env, ability))
    return type("Disturbed", (*abilities, _Disturbed), {})(env, disturbance, rng, fixed, scale)


def _refuse_what_cannot_take_effect(env: VectorEnv, disturbance: Disturbance) -> None:
    offered = env.perturbations if isinstance(env, Perturbable) else ()
    for name in disturbance.dynamics:
        if name not in offered:
            can = f"It offers {', '.join(offered)}." if offered else "Its dynamics cannot be changed; leave them out."
            raise ConfigError(f"{env.id} has no multiplier of {name}. {can}")
    if disturbance.delay and not isinstance(env.action_space, gym.spaces.Box):
        raise ConfigError(
            f"{env.id} takes choices, which have no zero to wait with. An action delay needs continuous actions."
        )
    if (disturbance.observation_noise or disturbance.dropout) and not _sensors(env.observation_space):
        raise ConfigError(
            f"{env.id} has no numeric sensor. Noise and dropout need an observation that is not a picture."
        )


def _sensors(space: gym.Space[Any]) -> dict[str, slice]:
    """Keys of the numeric parts of an observation ("" for one that is no dict) and their place in the flat vector."""
    found, at = {}, 0
    for key, how, size in ObservationCodec.of(space).parts:
        if how == "image":
            continue
        width = int(np.sum(size))
        if how == "box":
            found[key] = slice(at, at + width)
        at += width
    return found


@runtime_checkable
class NoisySensors(Protocol):
    """A world whose sensors are disturbed, so that what one unit of noise is has to be said."""

    def set_scale(self, scale: NDArray[Any]) -> None:
        """What one unit of noise is in each sensor's own unit from now on, [D]; not part of the state."""
        ...


class _Disturbed:
    """The wrapper: a `VectorEnv` that keeps the contract, final observations and autoresets included."""

    def __init__(
        self,
        env: VectorEnv,
        disturbance: Disturbance,
        rng: np.random.Generator,
        fixed: bool,
        scale: NDArray[Any] | None,
    ) -> None:
        self.env, self.disturbance, self.rng, self.fixed = env, disturbance, rng, fixed
        self.id, self.num_envs, self.costs = env.id, env.num_envs, env.costs
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.max_episode_steps = env.max_episode_steps
        self.episode_seed = env.episode_seed
        self._sensors = _sensors(env.observation_space)
        width = ObservationCodec.of(env.observation_space).width
        self._scale = np.ones(width) if scale is None else np.asarray(scale, dtype=np.float64)
        if self._scale.shape != (width,):
            raise ConfigError(f"scale has shape {self._scale.shape}, but {env.id} has {width} sensors. Give one each.")
        n = env.num_envs
        self._sigma, self._dropout = np.zeros(n), np.zeros(n)
        self._delay = np.zeros(n, dtype=np.int64)
        self._dynamics = {name: np.ones(n) for name in disturbance.dynamics}
        actions = env.action_space.shape if disturbance.delay else ()
        self._chosen = np.zeros((n, disturbance.delay + 1, *(actions or ())))  # [N, d]: the action chosen d steps ago
        self._obs: Obs = np.zeros(0)

    def set_scale(self, scale: NDArray[Any]) -> None:
        """What one unit of noise is in each sensor's own unit from now on, [D]; not part of the state."""
        self._scale[:] = scale

    @property
    def seed_source(self) -> SeedSource:
        """The inner world's."""
        return self.env.seed_source

    @seed_source.setter
    def seed_source(self, source: SeedSource) -> None:
        self.env.seed_source = source

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Obs:
        """Start a new episode everywhere, with new magnitudes."""
        obs = self.env.reset(seeds)
        self._draw(np.arange(self.num_envs))
        return self._remember(self._sense(obs, np.arange(self.num_envs)))

    def step(self, actions: NDArray[Any]) -> Step:
        """Let the delayed actions take effect and sense what comes of it."""
        step = self.env.step(self._delayed(actions))
        everyone = np.arange(self.num_envs)
        obs = final_obs = self._sense(step.final_obs, everyone)
        if step.ended.any():
            rows = np.flatnonzero(step.ended)
            self._draw(rows)
            obs = with_rows(final_obs, rows, self._sense(observation_rows(step.obs, rows), rows))
        return Step(self._remember(obs), step.reward, step.cost, step.terminated, step.truncated, final_obs, step.info)

    def close(self) -> None:
        """Close the inner world."""
        self.env.close()

    def _remember(self, obs: Obs) -> Obs:
        self._obs = obs
        self.episode_seed = self.env.episode_seed
        return obs

    def _draw(self, rows: NDArray[np.intp]) -> None:
        """Magnitudes of the episodes that now begin in `rows`; nothing chosen in the old ones takes effect."""
        d, n = self.disturbance, len(rows)
        if self.fixed:
            self._sigma[rows], self._dropout[rows], self._delay[rows] = d.observation_noise, d.dropout, d.delay
        else:
            self._sigma[rows] = self.rng.uniform(0.0, d.observation_noise, n)
            self._dropout[rows] = self.rng.uniform(0.0, d.dropout, n)
            self._delay[rows] = self.rng.integers(0, d.delay, n, endpoint=True)
        self._chosen[rows] = 0.0
        for name, (low, high) in d.dynamics.items():
            self._dynamics[name][rows] = self.rng.uniform(low, high, n)
        self._set_dynamics()

    def _set_dynamics(self) -> None:
        if self._dynamics and isinstance(self.env, Perturbable):
            self.env.perturb(**{name: scale.copy() for name, scale in self._dynamics.items()})

    def _delayed(self, actions: NDArray[Any]) -> NDArray[Any]:
        if not self.disturbance.delay:
            return actions
        self._chosen[:, 1:] = self._chosen[:, :-1].copy()
        self._chosen[:, 0] = actions
        return self._chosen[np.arange(self.num_envs), self._delay]

    def _sense(self, obs: Obs, rows: NDArray[np.intp]) -> Obs:
        """What the sensors of environments `rows` read of `obs` [len(rows), ...]: noise first, then dropout."""
        d = self.disturbance
        if not (d.observation_noise or d.dropout):
            return obs
        if isinstance(obs, dict):
            return {k: self._sense_part(v, rows, self._sensors[k]) if k in self._sensors else v for k, v in obs.items()}
        return self._sense_part(obs, rows, self._sensors[""])

    def _sense_part(self, part: NDArray[Any], rows: NDArray[np.intp], at: slice) -> NDArray[Any]:
        d, flat = self.disturbance, part.reshape(len(part), -1)
        if d.observation_noise:
            sigma = self._sigma[rows, None] * self._scale[at]
            flat = (flat + sigma * self.rng.standard_normal(flat.shape)).astype(part.dtype)
        if d.dropout:
            lost = self.rng.random(flat.shape) < self._dropout[rows, None]
            flat = np.where(lost, np.zeros((), part.dtype), flat)
        return flat.reshape(part.shape)


# What the inner world can do beyond stepping, passed on one ability at a time. `env` is typed Any in these: `disturbed`
# adds a mixin only to the wrapper of a world that has the ability.


class _Stateful:
    env: Any

    def state_dict(self: Any) -> dict[str, Any]:
        """The inner world's state, the magnitudes of the running episodes and the stream they are drawn from."""
        return {
            "world": self.env.state_dict(),
            "rng": self.rng.bit_generator.state,
            "sigma": self._sigma.copy(),
            "dropout": self._dropout.copy(),
            "delay": self._delay.copy(),
            "dynamics": {name: scale.copy() for name, scale in self._dynamics.items()},
            "chosen": self._chosen.copy(),
            "obs": self._obs,
        }

    def load_state_dict(self: Any, state: Mapping[str, Any]) -> Obs:
        """Take up a saved state; returns the observations as they were sensed."""
        for name in ("sigma", "dropout", "delay", "chosen"):
            getattr(self, f"_{name}")[:] = state[name]
        for name, scale in self._dynamics.items():
            scale[:] = state["dynamics"][name]
        self._set_dynamics()
        self.env.load_state_dict(state["world"])
        self.rng.bit_generator.state = state["rng"]
        obs: Obs = self._remember(state["obs"])
        return obs


class _Perturbable:
    env: Any

    @property
    def perturbations(self: Any) -> tuple[str, ...]:
        """The inner world's multipliers, without those that are drawn here."""
        return tuple(name for name in self.env.perturbations if name not in self._dynamics)

    def perturb(self: Any, **scale: float | Array) -> None:
        """Multiply quantities that are not drawn here."""
        for name in scale:
            if name not in self.perturbations:
                raise ConfigError(f"{name} is drawn by the disturbance of {self.id}. Set it in one place only.")
        self.env.perturb(**scale)


class _Steerable:
    env: Any

    def set_goal(self, xy: Array, mask: NDArray[np.bool_] | None = None) -> None:
        """Move goals."""
        self.env.set_goal(xy, mask)

    def goal_distance(self) -> Array:
        """True distance from agent to goal, metres [N]."""
        distance: Array = self.env.goal_distance()
        return distance

    def speed(self) -> Array:
        """True planar speed, m/s [N]."""
        speed: Array = self.env.speed()
        return speed

    def position(self) -> Array:
        """True planar position, metres [N, 2]."""
        position: Array = self.env.position()
        return position


class _LaidOut:
    env: Any

    def layout(self, i: int) -> dict[str, Any]:
        """The arrangement environment `i` started from."""
        layout: dict[str, Any] = self.env.layout(i)
        return layout

    def set_layout(self: Any, layouts: Mapping[int, Mapping[str, Any]]) -> Obs:
        """Restart some episodes from arrangements, with new magnitudes."""
        obs = self.env.set_layout(layouts)
        rows = np.array(sorted(layouts), dtype=np.intp)
        self._draw(rows)
        sensed: Obs = with_rows(self._obs, rows, self._sense(observation_rows(obs, rows), rows))
        self._remember(sensed)
        return sensed


class _Visible:
    env: Any

    def render(self, i: int = 0, width: int = 256, height: int = 256, **view: Any) -> NDArray[np.uint8]:
        """Picture of environment `i` as it is, not as it is sensed."""
        picture: NDArray[np.uint8] = self.env.render(i, width, height, **view)
        return picture

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Shapes of environment `i`."""
        scene: dict[str, Any] = self.env.scene(i)
        return scene


_PASSED_ON: tuple[tuple[Any, type], ...] = (
    (Stateful, _Stateful),
    (Perturbable, _Perturbable),
    (Steerable, _Steerable),
    (LaidOut, _LaidOut),
    (Visible, _Visible),
)
