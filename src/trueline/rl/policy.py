"""A trained policy as a subject: it acts in N worlds at once, is saved as weights and JSON, and loads without code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from trueline.core.config import Config, build
from trueline.core.errors import RunError
from trueline.rl.augmentation.world import AugmentedBy
from trueline.rl.env import Obs
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.recurrent import Gru, RecurrentActorCritic
from trueline.rl.spaces import ActionCodec, ObservationCodec

Memory = Any


class WorldRef(Config):
    """Which world a policy belongs to: enough to build it again, with `worlds.of`."""

    id: str
    options: Mapping[str, Any] = {}
    augmentation: AugmentedBy | None = None  # rules it was trained under, whose extra state it observes


@runtime_checkable
class Acts(Protocol):
    """Capability: a policy. `deterministic` asks for the mode in place of a draw."""

    world: WorldRef

    def act(
        self, obs: Obs, memory: Memory, rng: np.random.Generator, deterministic: bool = False
    ) -> tuple[NDArray[Any], Memory]:
        """Actions [N, A] (whole numbers for discrete worlds) for N observations, and the memory for the next call."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """Capability: a policy whose mean action can be differentiated by its flat observation (attacks, attributions)."""

    def mean_action(self, vector: torch.Tensor) -> torch.Tensor:
        """Deterministic action [B, A] (logits for discrete worlds) of flat observations [B, D], with gradient."""
        ...


class NetworkPolicy:
    """The policy of an actor-critic network."""

    kind: ClassVar[str] = "policy"

    def __init__(
        self,
        network: ActorCritic,
        observation: ObservationCodec,
        world: WorldRef,
        shape: Mapping[str, Any],
        parent: str | None = None,
    ) -> None:
        """shape: what `load` needs to build the network again: {"actor": …, "critic": …, "costs": [names]}, and its
        "memory" where it has one.

        It also holds the constraint's last "multipliers" [K], where there was one: a warm start goes on from them; and
        "layouts_met", seeds of training episodes.
        """
        self.network, self.observation, self.world = network, observation, world
        self.shape, self.parent = dict(shape), parent
        network.eval()

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of the costs the critics were trained on."""
        return tuple(self.shape["costs"])

    @property
    def layouts_met(self) -> NDArray[np.uint32]:
        """Layout seeds of the last training episodes, up to 512; empty when unknown."""
        return np.array(self.shape.get("layouts_met", []), dtype=np.uint32)

    @property
    def multipliers(self) -> torch.Tensor | None:
        """λ [K] at the end of training; None for a policy that was trained without a constraint."""
        found = self.shape.get("multipliers")
        return None if found is None else torch.tensor(found, dtype=torch.float64)

    @torch.no_grad()
    def act(
        self, obs: Obs, memory: Memory, rng: np.random.Generator, deterministic: bool = False
    ) -> tuple[NDArray[Any], Memory]:
        """Actions for N observations. Never changes the policy or its normaliser.

        The memory of a recurrent policy is [N, M], None before the first observation of all episodes; what is returned
        is that after this one. Rows where an episode has ended are the caller's to set to 0.
        """
        inputs = {name: torch.as_tensor(value) for name, value in self.observation.encode(obs).items()}
        features = self.network.features(inputs, memory)
        policy = self.network.policy(features)
        if deterministic:
            draw = policy.mode()
        else:
            seed = int(rng.integers(2**63 - 1))
            draw = policy.sample(torch.Generator().manual_seed(seed))
        after = features if self.network.memory_width else memory
        return self.network.action.to_world(policy.to_action(draw).numpy()), after

    def mean_action(self, vector: torch.Tensor) -> torch.Tensor:
        """The mode's action of flat observations, differentiable."""
        features = self.network.features({"vector": vector})
        if self.network.action.kind == "choices":
            return self.network.actor(features)
        policy = self.network.policy(features)
        return policy.to_action(policy.mode())

    def show(self, seed: int, folder: Path) -> Sequence[Mapping[str, str]]:
        """Pictures and a film of one episode; see `rl.show`."""
        from trueline.rl.show import show_policy

        return show_policy(self, seed, folder)

    def save(self, folder: Path) -> None:
        """weights.safetensors and policy.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.network.state_dict().items()}, folder / "weights.safetensors")
        record = {
            "parent": self.parent,
            "world": self.world.model_dump(mode="json"),
            "observation": [list(part) for part in self.observation.parts],
            "action": [self.network.action.kind, list(self.network.action.sizes), self.network.action.flat],
            **self.shape,
        }
        (folder / "policy.json").write_text(json.dumps(record, indent=1, sort_keys=True))


def made(
    observation: ObservationCodec,
    action: ActionCodec,
    costs: int,
    actor: ActorNetwork,
    critic: Network,
    memory: Gru | None,
    rng: torch.Generator,
) -> ActorCritic:
    """A network with K = `costs` critics of costs, with a memory or without."""
    if memory is None:
        return ActorCritic(observation, action, costs, actor, critic, rng)
    return RecurrentActorCritic(observation, action, costs, actor, critic, memory, rng)


def load(folder: Path) -> NetworkPolicy:
    """The policy saved in `folder`. Raises RunError naming what is missing or does not fit."""
    try:
        record = json.loads((folder / "policy.json").read_text())
        weights = load_file(folder / "weights.safetensors")
        observation = ObservationCodec(tuple((k, how, tuple(size)) for k, how, size in record["observation"]))
        kind, sizes, flat = record["action"]
        network = made(
            observation,
            ActionCodec(kind, tuple(sizes), flat),
            len(record["costs"]),
            build(ActorNetwork, record["actor"]),
            build(Network, record["critic"]),
            build(Gru, record["memory"]) if "memory" in record else None,
            torch.Generator().manual_seed(0),
        )
        network.load_state_dict(weights)
    except FileNotFoundError as missing:
        raise RunError(f"{folder} holds no saved policy: {Path(missing.filename).name} is missing.") from None
    except (KeyError, ValueError, RuntimeError, json.JSONDecodeError) as damage:
        raise RunError(f"the policy in {folder} is damaged or of another version: {damage}.") from None
    kept = ("actor", "critic", "costs", "memory", "multipliers", "layouts_met")
    shape = {key: record[key] for key in kept if key in record}
    return NetworkPolicy(network, observation, build(WorldRef, record["world"]), shape, record["parent"])
