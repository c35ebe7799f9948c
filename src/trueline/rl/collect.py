"""Collecting T steps of N environments into buffers allocated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import BadWorld
from trueline.rl.env import Stateful, VectorEnv, observation_rows
from trueline.rl.networks import ActorCritic
from trueline.rl.spaces import ObservationCodec

_STEPWISE = ("draw", "reward", "cost", "terminated", "truncated")  # buffers [T, N, ...]


@dataclass(slots=True)
class Finals:
    """Last observations of the episodes that were cut off by time: their values are bootstrapped."""

    t: NDArray[np.int64]  # [F] step
    i: NDArray[np.int64]  # [F] environment
    inputs: dict[str, Tensor]  # [F, ...]


@dataclass(slots=True)
class Batch:
    """What one collection yields. Tensors are views of the collector's buffers, valid until the next collection."""

    inputs: dict[str, Tensor]  # [T + 1, N, ...]: row T is the observation after the last step
    draw: Tensor  # [T, N, A] actions as drawn
    reward: Tensor  # [T, N]
    cost: Tensor  # [T, N, K]
    terminated: Tensor  # [T, N]
    truncated: Tensor  # [T, N]
    finals: Finals
    memory: Tensor | None  # [N, M] before the first step; None for a network without
    episode_return: NDArray[np.float64]  # [E] episodes that ended during the collection
    episode_cost: NDArray[np.float64]  # [E, K]
    episode_length: NDArray[np.int64]  # [E]
    episode_seed: NDArray[np.uint32]  # [E] the layouts they ran on


def columns_of(batch: Batch, columns: slice) -> Batch:
    """The part of a batch that some of its environments, next to one another, have collected."""

    def within(i: NDArray[np.intp]) -> NDArray[np.bool_]:
        return (i >= columns.start) & (i < columns.stop)

    ended = (batch.terminated + batch.truncated).numpy() > 0.0
    own = within(np.nonzero(ended)[1])  # episodes stand in the order of steps and environments
    final = within(batch.finals.i)
    return Batch(
        {name: x[:, columns] for name, x in batch.inputs.items()},
        batch.draw[:, columns],
        batch.reward[:, columns],
        batch.cost[:, columns],
        batch.terminated[:, columns],
        batch.truncated[:, columns],
        Finals(
            batch.finals.t[final],
            batch.finals.i[final] - columns.start,
            {name: x[final] for name, x in batch.finals.inputs.items()},
        ),
        None if batch.memory is None else batch.memory[columns],
        batch.episode_return[own],
        batch.episode_cost[own],
        batch.episode_length[own],
        batch.episode_seed[own],
    )


@dataclass(slots=True)
class _Ended:
    """What of a collection is known when episodes end, a list entry for every step in which some did."""

    final_t: list[NDArray[np.int64]] = field(default_factory=list)
    final_i: list[NDArray[np.int64]] = field(default_factory=list)
    final_inputs: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    returns: list[NDArray[np.float64]] = field(default_factory=list)
    costs: list[NDArray[np.float64]] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    seeds: list[NDArray[np.uint32]] = field(default_factory=list)


class Collector:
    """Runs a policy in a vector world. Observations' statistics are never updated here."""

    def __init__(self, env: VectorEnv, codec: ObservationCodec, steps: int, action_width: int) -> None:
        """steps: T of each collection."""
        n, k = env.num_envs, len(env.costs)
        self.env, self.codec, self.steps = env, codec, steps
        self.inputs = {
            name: torch.zeros((steps + 1, n, *shape), dtype=torch.uint8 if dtype is np.uint8 else torch.float32)
            for name, (shape, dtype) in codec.shapes().items()
        }
        self.draw = torch.zeros(steps, n, action_width)
        self.reward = torch.zeros(steps, n)
        self.cost = torch.zeros(steps, n, k)
        self.terminated = torch.zeros(steps, n)
        self.truncated = torch.zeros(steps, n)
        self._see_arrays()
        self._ended = _Ended()
        self.running_return = np.zeros(n)
        self.running_cost = np.zeros((n, k))
        self.running_length = np.zeros(n, dtype=np.int64)
        self.memory: Tensor | None = None  # [N, M] before the next step; None: empty, or a network without
        self.total_steps = 0

    def start(self) -> None:
        """Reset every environment; the first observation goes where the next collection begins."""
        self._store(self.steps, self.env.reset())
        self.memory = None
        self.running_return[:] = 0.0
        self.running_cost[:] = 0.0
        self.running_length[:] = 0

    def _store(self, t: int, obs: Any) -> None:
        for name, value in self.codec.encode(obs).items():
            self._encoded[name][t] = value

    @torch.no_grad()
    def collect(self, network: ActorCritic, rng: torch.Generator) -> Batch:
        """T steps with the current policy. Raises BadWorld at the first number of the world that is not finite."""
        action = network.action
        self.begin()
        if network.memory_width and self.memory is None:
            self.memory = torch.zeros(self.env.num_envs, network.memory_width)
        before = self.memory
        for t in range(self.steps):
            features = network.features({name: x[t] for name, x in self.inputs.items()}, self.memory)
            policy = network.policy(features)
            draw = policy.sample(rng)
            ended = self.act(t, draw.numpy(), action.to_world(policy.to_action(draw).numpy()))
            if self.memory is not None:
                self.memory = features.masked_fill(torch.from_numpy(ended)[:, None], 0.0)
        return self.finish(before)

    def begin(self) -> None:
        """Begin a collection with the observations that the one before ended with."""
        for buffer in self.inputs.values():
            buffer[0].copy_(buffer[self.steps])
        self._ended = _Ended()

    def act(self, t: int, draw: NDArray[np.floating], action: NDArray[Any]) -> NDArray[np.bool_]:
        """Take actions in step t of the collection, drawn as `draw` [N, A]; returns where an episode ended [N]."""
        env, kept = self.env, self._ended
        self._arrays["draw"][t] = draw
        layouts = env.episode_seed.copy()  # an autoreset within the step replaces those that end
        step = env.step(action)
        self._arrays["reward"][t] = step.reward
        self._arrays["cost"][t] = step.cost
        self._store(t + 1, step.obs)
        self.running_return += step.reward
        self.running_cost += step.cost
        self.running_length += 1
        ended = step.ended
        cut = step.truncated & ~step.terminated
        self._arrays["terminated"][t] = step.terminated
        self._arrays["truncated"][t] = cut
        if ended.any():
            final = np.flatnonzero(cut)
            if len(final):
                kept.final_t.append(np.full(len(final), t))
                kept.final_i.append(final)
                kept.final_inputs.append(self.codec.encode(observation_rows(step.final_obs, final)))
            rows = np.flatnonzero(ended)
            kept.returns.append(self.running_return[rows].copy())
            kept.costs.append(self.running_cost[rows].copy())
            kept.lengths.append(self.running_length[rows].copy())
            kept.seeds.append(layouts[rows])
            self.running_return[rows] = 0.0
            self.running_cost[rows] = 0.0
            self.running_length[rows] = 0
        return ended

    def finish(self, memory: Tensor | None = None) -> Batch:
        """The collection, all its steps taken; `memory` [N, M] is that before the first. Raises BadWorld."""
        return self.accept(self.collected(memory))

    def collected(self, memory: Tensor | None = None) -> Batch:
        """What the buffers hold, as it is."""
        kept, k = self._ended, len(self.env.costs)
        finals = Finals(
            np.concatenate(kept.final_t) if kept.final_t else np.zeros(0, np.int64),
            np.concatenate(kept.final_i) if kept.final_i else np.zeros(0, np.int64),
            {
                name: torch.as_tensor(np.concatenate([part[name] for part in kept.final_inputs]))
                for name in (self.inputs if kept.final_inputs else ())
            },
        )
        return Batch(
            self.inputs,
            self.draw,
            self.reward,
            self.cost,
            self.terminated,
            self.truncated,
            finals,
            memory,
            np.concatenate(kept.returns) if kept.returns else np.zeros(0),
            np.concatenate(kept.costs) if kept.costs else np.zeros((0, k)),
            np.concatenate(kept.lengths) if kept.lengths else np.zeros(0, np.int64),
            np.concatenate(kept.seeds) if kept.seeds else np.zeros(0, np.uint32),
        )

    def accept(self, batch: Batch) -> Batch:
        """Count the steps of a collection. Raises BadWorld for the first of its numbers that is not finite."""
        self._refuse_what_is_not_finite(batch.finals)
        self.total_steps += self.steps * self.env.num_envs
        return batch

    def lie_in(self, whole: Collector, columns: slice) -> None:
        """Have what is collected in columns of another collector's buffers, which fills them."""
        self.inputs = {name: x[:, columns] for name, x in whole.inputs.items()}
        for name in _STEPWISE:
            setattr(self, name, getattr(whole, name)[:, columns])
        self.running_return, self.running_cost = whole.running_return[columns], whole.running_cost[columns]
        self.running_length = whole.running_length[columns]
        self._see_arrays()

    def _see_arrays(self) -> None:
        # The same memory as arrays: writing a row of a tensor costs ten times as much.
        self._arrays = {name: getattr(self, name).numpy() for name in _STEPWISE}
        self._encoded = {name: x.numpy() for name, x in self.inputs.items()}

    def _refuse_what_is_not_finite(self, finals: Finals) -> None:
        # One pass over the buffers per collection costs nothing; a check in every step would.
        before = self.total_steps // self.env.num_envs
        # The earliest is the cause: an observation that is not finite makes actions, and then rewards, that are not.
        checked = {"observation": self.inputs["vector"]} if "vector" in self.inputs else {}
        checked |= {"reward": self.reward, "cost": self.cost}
        found = []
        for what, values in checked.items():
            bad = ~torch.isfinite(values)
            if bad.any():
                t, i = (int(x) for x in bad.nonzero()[0][:2])
                found.append((t, what, i))
        if found:
            t, what, i = min(found, key=lambda first: first[0])
            raise BadWorld(self.env.id, what, i, before + t)
        if "vector" in finals.inputs:
            rows = np.flatnonzero(~torch.isfinite(finals.inputs["vector"]).all(dim=1).numpy())
            if len(rows):
                f = rows[0]
                raise BadWorld(self.env.id, "final observation", int(finals.i[f]), before + int(finals.t[f]))

    def state_dict(self) -> dict[str, Any]:
        """Everything the next collection depends on. Raises nothing for a world without state: see `restore`."""
        world = self.env.state_dict() if isinstance(self.env, Stateful) else None
        return {
            "world": world,
            "obs": {name: buffer[self.steps].clone() for name, buffer in self.inputs.items()},
            "memory": self.memory,
            "running_return": self.running_return.copy(),
            "running_cost": self.running_cost.copy(),
            "running_length": self.running_length.copy(),
            "total_steps": self.total_steps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state; a world without `state_dict` starts new episodes instead."""
        self.total_steps = int(state["total_steps"])
        if state["world"] is None or not isinstance(self.env, Stateful):
            self.start()
            return
        self.env.load_state_dict(state["world"])
        for name, buffer in self.inputs.items():
            buffer[self.steps].copy_(state["obs"][name])
        self.memory = state["memory"]
        self.running_return[:] = state["running_return"]
        self.running_cost[:] = state["running_cost"]
        self.running_length[:] = state["running_length"]
