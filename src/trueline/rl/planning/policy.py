"""A policy that plans: it imagines what candidates lead to and takes the first action of the best sequence found.

Between calls it remembers its plan, from which the next search begins; how long it still holds its action; and, where
costs are limited, what the episode has cost so far, by its own reckoning: an actor is not told its costs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trueline.core.config import Config, build
from trueline.core.errors import ConfigError, RunError
from trueline.rl import worlds
from trueline.rl.env import Obs
from trueline.rl.off_policy.networks import ActorQ, QNetwork, Shape
from trueline.rl.planning.cross_entropy import Arc, Cem, Planned, plan, shifted
from trueline.rl.planning.dynamics import Elites, Ensemble, Model
from trueline.rl.planning.imagine import Judged, imagine, judge, proposed
from trueline.rl.planning.known import Known
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec


class Critic(Config):
    """Networks of the policy and the value that stand behind a plan (LOOP)."""

    actor: QNetwork = QNetwork(hidden=(64, 64))
    critic: QNetwork = QNetwork(hidden=(64, 64))


class Method(Config):
    """How a policy plans."""

    planner: Cem | Arc
    model: Model
    critic: Critic | None = None  # of a plan that ends in a value
    gamma: float = Field(1.0, gt=0, le=1)
    repeat: int = Field(1, ge=1)  # steps that an action is held
    signals: Literal["learnt", "known"] = "learnt"  # reward and costs: of the model, or as the world tells them
    steps: int = Field(ge=1)  # T of an episode
    limits: Mapping[str, float] = {}  # d by cost; {} limits nothing
    across: Literal["mean", "worst"] = "mean"  # cost of a candidate over its particles
    budget: Literal["rest", "rate"] = "rest"  # what a plan may cost: its part of what is left of d, or of d itself

    def allowed(self, spent: Tensor, left: Tensor) -> Tensor:
        """What a plan may cost, [N, K], where an episode has cost `spent` [N, K] and has `left` [N] steps to go.

        "rest": max(0, d − spent)·min(1, H/left): never more than is left, and all of it when the plan reaches the end.
        "rate": d·H/T.
        """
        d = torch.tensor(list(self.limits.values()), dtype=torch.float32)
        span = self.planner.horizon * self.repeat
        if self.budget == "rate":
            return (d * span / self.steps).expand_as(spent)
        return (d - spent).clamp_min(0.0) * (span / left).clamp_max(1.0)[:, None]

    def ensemble(self, observation: ObservationCodec, action: ActionCodec, rng: torch.Generator) -> Ensemble:
        """A fresh model of a world with these spaces.  Raises ConfigError for spaces a planner cannot take."""
        if action.kind != "continuous":
            raise ConfigError(
                "the action is a choice, but a planner draws from normals. Use a world of continuous ones."
            )
        if observation.images:
            raise ConfigError("a planner imagines vectors, not pictures. Use an on-policy recipe for pictures.")
        signals = 1 + len(self.limits) if self.signals == "learnt" else 0
        return Ensemble(self.model, observation.width, action.width, signals, observation.one_hot, rng)


class Planner(nn.Module):
    """Everything learnt: the model, and where a plan ends in a value the policy and critics it is from."""

    def __init__(
        self, method: Method, observation: ObservationCodec, action: ActionCodec, rng: torch.Generator
    ) -> None:
        """Raises ConfigError for spaces a planner cannot take."""
        super().__init__()
        self.action = action
        self.dynamics = method.ensemble(observation, action, rng)
        self.critic: ActorQ | None = None
        if method.critic is not None:
            shape = Shape(2, (), method.critic.actor, method.critic.critic, stochastic=True, normalise=False)
            self.critic = ActorQ(observation, action, shape, rng)

    def value(self, obs: Tensor) -> Tensor:
        """V(s) = min_j Q_j(s, π(s)), [B]."""
        assert self.critic is not None
        return self.critic.values(self.critic.features({"vector": obs}))[:, 0]


@dataclass(slots=True)
class Memory:
    """What N planning actors remember."""

    mean: Tensor  # [N, H, A] where the next search begins
    action: Tensor  # [N, A] that is being taken
    obs: Tensor  # [N, D] that it was decided on
    wait: Tensor  # [N] steps that it is still taken
    left: Tensor  # [N] steps to the end of the episode
    spent: Tensor  # [N, K] cost of the episode so far

    @classmethod
    def start(cls, method: Method, n: int, obs: int, action: int) -> Memory:
        """At the start of episodes."""
        mean = torch.zeros(n, method.planner.horizon, action)
        whole = torch.zeros(n, dtype=torch.int64)
        spent = torch.zeros(n, len(method.limits))
        return cls(mean, torch.zeros(n, action), torch.zeros(n, obs), whole, whole + method.steps, spent)

    def begin(self, rows: Tensor, steps: int) -> None:
        """New episodes in `rows`."""
        self.mean[rows], self.wait[rows], self.left[rows], self.spent[rows] = 0.0, 0, steps, 0.0

    def copy(self) -> Memory:
        """Tensors of its own."""
        return Memory(*(getattr(self, name).clone() for name in self.__slots__))

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint stores."""
        return {name: getattr(self, name) for name in self.__slots__}


class PlanningPolicy:
    """Acts by planning."""

    kind: ClassVar[str] = "planning-policy"

    def __init__(
        self,
        network: Planner,
        observation: ObservationCodec,
        world: WorldRef,
        method: Method,
        caution: Tensor | None = None,
        layouts: Sequence[int] = (),
        parent: str | None = None,
        told: Known | None = None,
    ) -> None:
        """caution: κ [K]; layouts: seeds of the last training episodes; told: a world whose signals are known.

        Without `told` a policy that needs it asks a copy of its own world.
        """
        self.network, self.observation, self.world, self.method = network, observation, world, method
        self.caution, self.layouts, self.parent = caution, tuple(layouts), parent
        self._told = told
        self._elites: Elites | None = None
        network.eval()

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of the costs it limits."""
        return tuple(self.method.limits)

    @property
    def layouts_met(self) -> NDArray[np.uint32]:
        """Layout seeds of the last training episodes; empty when unknown."""
        return np.array(self.layouts, dtype=np.uint32)

    @property
    def multipliers(self) -> Tensor | None:
        """κ [K] at the end of training; None for a policy without."""
        return self.caution

    # -- acting --

    @torch.no_grad()
    def act(
        self, obs: Obs, memory: Memory | None, rng: np.random.Generator, deterministic: bool = False
    ) -> tuple[NDArray[Any], Memory]:
        """Actions for N observations. Without a memory episodes begin.

        deterministic: the search draws the same candidates in every call, so that it is a function of what is observed
        and remembered.
        """
        vector = torch.from_numpy(self.observation.encode(obs)["vector"])
        if memory is None:
            kept = Memory.start(self.method, len(vector), self.observation.width, self.network.action.width)
        else:
            kept = memory.copy()
            self._reckon(kept, vector)
        seed = 0 if deterministic else int(rng.integers(2**63 - 1))
        self.step(kept, vector, torch.Generator().manual_seed(seed))
        return self.network.action.to_world(kept.action.numpy()), kept

    @torch.no_grad()
    def step(self, kept: Memory, vector: Tensor, rng: torch.Generator) -> Planned | None:
        """Plan anew where an action has been held to its end, and count a step; `kept` is written into."""
        due = (kept.wait == 0).nonzero()[:, 0]
        planned = None
        if len(due):
            planned = self.plan(vector[due], kept.mean[due], kept.spent[due], kept.left[due], rng)
            kept.action[due] = planned.mean[:, 0]
            kept.mean[due] = shifted(planned.mean)
            kept.obs[due], kept.wait[due] = vector[due], self.method.repeat
        kept.wait -= 1
        kept.left.sub_(1).clamp_(min=1)
        return planned

    @torch.no_grad()
    def plan(self, vector: Tensor, start: Tensor, spent: Tensor, left: Tensor, rng: torch.Generator) -> Planned:
        """The best sequences found from observations [N, D], the search beginning at `start` [N, H, A].

        spent [N, K]: cost of each episode so far; left [N]: steps to its end.
        """
        method, network, elites = self.method, self.network, self._members()
        planner = method.planner
        decisions = -(-left // method.repeat)
        value = network.value if network.critic is not None else None
        caution = self.caution

        def evaluate(candidates: Tensor) -> Judged:
            told = self._signals if method.signals == "known" else None
            seen = imagine(elites, vector, candidates, planner.particles, planner.propagation, rng, told)
            return judge(seen, method.gamma, method.across, decisions, caution, value)

        proposals = None
        if network.critic is not None and isinstance(planner, Arc):
            proposals = proposed(elites, self._drawn(rng), vector, planner.proposed, planner.horizon, rng)
        episodes = method.steps / (planner.horizon * method.repeat)
        return plan(planner, evaluate, start, method.allowed(spent, left), episodes, rng, proposals)

    def _members(self) -> Elites:
        if self._elites is None:
            self._elites = self.network.dynamics.elites()
        return self._elites

    def _drawn(self, rng: torch.Generator) -> Any:
        critic = self.network.critic
        assert critic is not None

        def draw(obs: Tensor) -> Tensor:
            policy = critic.policy(critic.features({"vector": obs}))
            return policy.to_action(policy.sample(rng))

        return draw

    def _signals(self, obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """Reward and limited costs as the world tells them."""
        if self._told is None:
            world = worlds.of(self.world)
            if not isinstance(world, Known):
                raise ConfigError(f"{world.id} does not tell its reward and costs, which this policy plans with.")
            self._told = world
        return self._told.signals(obs, action, after, self.method.repeat)[..., : 1 + len(self.method.limits)]

    def _reckon(self, kept: Memory, vector: Tensor) -> None:
        """Add what the actions that have been held to their end have cost."""
        done = (kept.wait == 0).nonzero()[:, 0]
        if not self.method.limits or not len(done):
            return
        obs, action, after = kept.obs[done], kept.action[done], vector[done]
        if self.method.signals == "known":
            signal = self._signals(obs, action, after)
        else:
            members = self._members()
            every = members.members, -1, -1
            signal = members.predict(obs.expand(every), action.expand(every)).signal.mean(dim=0)
        kept.spent[done] += signal[:, 1:].clamp_min(0.0)

    def show(self, seed: int, folder: Path) -> Sequence[Mapping[str, str]]:
        """Pictures and a film of one episode; see `rl.show`."""
        from trueline.rl.show import show_policy

        return show_policy(self, seed, folder)

    # -- storage --

    def save(self, folder: Path) -> None:
        """weights.safetensors and policy.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.network.state_dict().items()}, folder / "weights.safetensors")
        action = self.network.action
        record = {
            "parent": self.parent,
            "world": self.world.model_dump(mode="json"),
            "observation": [list(part) for part in self.observation.parts],
            "action": [action.kind, list(action.sizes), action.flat],
            "method": self.method.model_dump(mode="json"),
            "limits": [[name, limit] for name, limit in self.method.limits.items()],  # in the world's order
            "caution": None if self.caution is None else self.caution.tolist(),
            "layouts_met": list(self.layouts),
        }
        (folder / "policy.json").write_text(json.dumps(record, indent=1, sort_keys=True))


def load(folder: Path) -> PlanningPolicy:
    """The policy saved in `folder`. Raises RunError naming what is missing or does not fit."""
    try:
        record = json.loads((folder / "policy.json").read_text())
        weights = load_file(folder / "weights.safetensors")
        observation = ObservationCodec(tuple((k, how, tuple(size)) for k, how, size in record["observation"]))
        kind, sizes, flat = record["action"]
        method = build(Method, {**record["method"], "limits": dict(record["limits"])})
        network = Planner(method, observation, ActionCodec(kind, tuple(sizes), flat), torch.Generator().manual_seed(0))
        network.load_state_dict(weights)
        caution = None if record["caution"] is None else torch.tensor(record["caution"], dtype=torch.float64)
        world = build(WorldRef, record["world"])
    except FileNotFoundError as missing:
        raise RunError(f"{folder} holds no saved policy: {Path(missing.filename).name} is missing.") from None
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError, json.JSONDecodeError) as damage:
        raise RunError(f"the policy in {folder} is damaged or of another version: {damage}.") from None
    return PlanningPolicy(network, observation, world, method, caution, record["layouts_met"], record["parent"])
