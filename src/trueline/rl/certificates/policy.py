"""A policy that does only what its certificate vouches for, and otherwise what the certificate was made for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load as tensors_of
from safetensors.torch import save_file

from trueline.core.config import Config, build
from trueline.core.errors import ConfigError, RunError
from trueline.rl import worlds
from trueline.rl.certificates.certifiable import certifiable
from trueline.rl.certificates.certificate import Certificate, Core
from trueline.rl.certificates.update import TWINS
from trueline.rl.env import Obs, VectorEnv
from trueline.rl.filters.filtered import FilteredPolicy
from trueline.rl.filters.projection import Projected
from trueline.rl.networks import Mlp, Network
from trueline.rl.off_policy.networks import ActorQ, QNetwork, QPolicy, Shape
from trueline.rl.off_policy.networks import load as load_policy
from trueline.rl.planning.dynamics import Ensemble, Model
from trueline.rl.spaces import ActionCodec, ObservationCodec

__all__ = ["CertifiedPolicy", "Guard", "Members", "Shapes", "load"]


class Members(Config):
    """The ensemble of models, and how it is fitted; U is the worst that any of them says."""

    members: int = Field(3, ge=2)  # E: what they disagree about is what is not known
    widened: float = Field(3.0, ge=1)  # β: their differences are taken for so many times as large
    hidden: tuple[int, ...] = (32, 32)
    lr: float = Field(2e-3, gt=0)
    batch: int = Field(128, ge=1)  # rows of a gradient step, of each member its own
    held_out: float = Field(0.1, gt=0, le=0.5)  # share of rows that no member learns from
    patience: int = Field(4, ge=1)  # passes without a member's progress that end a fit
    passes: int = Field(30, ge=1)  # that end it in any case

    def model(self) -> Model:
        """As the ensemble takes it; every member counts."""
        fit = self.model_dump(exclude={"hidden", "widened"})
        return Model(**fit, hidden=self.hidden, elites=self.members, decay=(0.0,) * (len(self.hidden) + 1))


class Shapes(Config):
    """What the networks are made from, beside their world."""

    actor: QNetwork = QNetwork(hidden=(32, 32))
    critic: QNetwork = QNetwork(hidden=(64, 64))
    safe: Network = Network(hidden=(32, 32))  # the certified policy
    barrier: Network = Network(hidden=(32, 32), last_gain=0.1)  # f of the certificate
    beyond: float = Field(2.0, ge=1.3)  # times the box of what has been seen; from 1.3 on s₀ is safe whatever that is
    model: Members = Members()

    def network(self, world: VectorEnv, rng: torch.Generator) -> ActorQ:
        """Policy and critics of the reward."""
        shape = Shape(TWINS, (), self.actor, self.critic, stochastic=True, normalise=False)
        return ActorQ(ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space), shape, rng)

    def core(self, world: VectorEnv, rng: torch.Generator) -> Core:
        """A fresh core.  Raises ConfigError for a world that a certificate cannot be learnt in."""
        known = certifiable(world)
        observation, action = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
        certificate = Certificate(known, self.barrier, self.beyond, rng)
        policy = Mlp(observation.width, action.outputs, self.safe, rng)
        dynamics = Ensemble(self.model.model(), observation.width, action.width, 0, observation.one_hot, rng)
        return Core(certificate, policy, dynamics, self.model.widened)


class Guard:
    """The filter that does of what is wanted as much as is certain; see `Core.restrained`."""

    kind: ClassVar[str] = "certificate"

    def __init__(self, core: Core) -> None:
        """core: policy, barrier and models, as they were certified together."""
        self.core = core

    def __call__(self, obs: Obs, action: NDArray[np.floating]) -> Projected:
        """The actions to take in place of `action` [N, A]; infeasible where the certified policy's is not certain."""
        states = torch.as_tensor(np.asarray(obs, dtype=np.float32))
        wanted = torch.as_tensor(np.asarray(action, dtype=np.float32)).clamp(-1.0, 1.0)
        found = self.core.restrained(states, wanted)
        return Projected(found.action.double().numpy(), found.changed.numpy(), found.certain.numpy())


class CertifiedPolicy(FilteredPolicy):
    """A policy behind the guard of the core that was certified last."""

    kind: ClassVar[str] = "certified-policy"

    policy: QPolicy
    filter: Guard

    def __init__(self, policy: QPolicy, core: Core, shapes: Shapes) -> None:
        super().__init__(policy, Guard(core))
        self.shapes = shapes

    @property
    def layouts_met(self) -> NDArray[np.uint32]:
        """Layout seeds of the last training episodes."""
        return self.policy.layouts_met

    def save(self, folder: Path) -> None:
        """The policy in policy/; core.safetensors and certificate.json. B is not saved: the world says it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "policy").mkdir()
        self.policy.save(folder / "policy")
        state = {name: value.contiguous() for name, value in self.filter.core.state_dict().items()}
        save_file(state, folder / "core.safetensors")
        card = {"shapes": self.shapes.model_dump(mode="json")}
        (folder / "certificate.json").write_text(json.dumps(card, indent=1, sort_keys=True))


def load(folder: Path) -> CertifiedPolicy:
    """The certified policy saved in `folder`.  Raises RunError naming what is missing or does not fit."""
    try:
        card: Mapping[str, Any] = json.loads((folder / "certificate.json").read_text())
        state = tensors_of((folder / "core.safetensors").read_bytes())
        policy, shapes = load_policy(folder / "policy"), build(Shapes, card["shapes"])
        core = shapes.core(worlds.of(policy.world), torch.Generator().manual_seed(0))
        core.load_state_dict(state)
    except FileNotFoundError as missing:
        raise RunError(f"{folder} holds no saved certified policy: {Path(missing.filename).name} is missing.") from None
    except (KeyError, ValueError, RuntimeError, ConfigError) as damage:
        raise RunError(f"the certified policy in {folder} is damaged or of another version: {damage}.") from None
    return CertifiedPolicy(policy, core, shapes)
