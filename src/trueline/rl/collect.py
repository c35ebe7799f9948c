"""Collecting T steps of N environments into buffers allocated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import BadWorld
from trueline.rl.env import Stateful, VectorEnv, observation_rows
from trueline.rl.networks import ActorCritic
from trueline.rl.spaces import ObservationCodec


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
            self.inputs[name][t].numpy()[...] = value

    @torch.no_grad()
    def collect(self, network: ActorCritic, rng: torch.Generator) -> Batch:
        """T steps with the current policy. Raises BadWorld at the first number of the world that is not finite."""
        env, action = self.env, network.action
        for buffer in self.inputs.values():
            buffer[0].copy_(buffer[self.steps])
        if network.memory_width and self.memory is None:
            self.memory = torch.zeros(env.num_envs, network.memory_width)
        before = self.memory
        final_t, final_i, final_inputs = [], [], []
        returns, costs, lengths, seeds = [], [], [], []
        for t in range(self.steps):
            features = network.features({name: x[t] for name, x in self.inputs.items()}, self.memory)
            policy = network.policy(features)
            draw = policy.sample(rng)
            self.draw[t].copy_(draw)
            layouts = env.episode_seed.copy()  # an autoreset within the step replaces those that end
            step = env.step(action.to_world(policy.to_action(draw).numpy()))
            self.reward[t].numpy()[...] = step.reward
            self.cost[t].numpy()[...] = step.cost
            self._store(t + 1, step.obs)
            self.running_return += step.reward
            self.running_cost += step.cost
            self.running_length += 1
            ended = step.ended
            if self.memory is not None:
                self.memory = features.masked_fill(torch.from_numpy(ended)[:, None], 0.0)
            self.terminated[t].numpy()[...] = step.terminated
            self.truncated[t].numpy()[...] = step.truncated & ~step.terminated
            if ended.any():
                cut = np.flatnonzero(step.truncated & ~step.terminated)
                if len(cut):
                    final_t.append(np.full(len(cut), t))
                    final_i.append(cut)
                    final_inputs.append(self.codec.encode(observation_rows(step.final_obs, cut)))
                rows = np.flatnonzero(ended)
                returns.append(self.running_return[rows].copy())
                costs.append(self.running_cost[rows].copy())
                lengths.append(self.running_length[rows].copy())
                seeds.append(layouts[rows])
                self.running_return[rows] = 0.0
                self.running_cost[rows] = 0.0
                self.running_length[rows] = 0
        finals = Finals(
            np.concatenate(final_t) if final_t else np.zeros(0, np.int64),
            np.concatenate(final_i) if final_i else np.zeros(0, np.int64),
            {
                name: torch.as_tensor(np.concatenate([part[name] for part in final_inputs]))
                for name in (self.inputs if final_inputs else ())
            },
        )
        self._refuse_what_is_not_finite(finals)
        self.total_steps += self.steps * env.num_envs
        k = len(env.costs)
        return Batch(
            self.inputs,
            self.draw,
            self.reward,
            self.cost,
            self.terminated,
            self.truncated,
            finals,
            before,
            np.concatenate(returns) if returns else np.zeros(0),
            np.concatenate(costs) if costs else np.zeros((0, k)),
            np.concatenate(lengths) if lengths else np.zeros(0, np.int64),
            np.concatenate(seeds) if seeds else np.zeros(0, np.uint32),
        )

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
