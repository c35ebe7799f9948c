"""The transitions a run has seen: the last of them in memory to be sampled, all of them on disk to be resumed from.

A row is (s, a, Σ_{i<m} γⁱ r_{t+i}, γᵐ(1 − terminated), s'): what a temporal-difference target is made of, for the
reward and for each cost, with a discount of its own each. m is `n_step`, or less where the episode ended sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.rl.ring import Ring


class Transitions(NamedTuple):
    """B rows of a replay.  Observations are as the world gave them, encoded and not normalised."""

    obs: Tensor  # [B, D]
    action: Tensor  # [B, A] as the world took it; of a single choice [B, 1]
    signal: Tensor  # [B, 1 + K] the reward, then each cost, discounted and summed over m steps
    discount: Tensor  # [B, 1 + K] factor of the value of `after`: 0 where the task had ended
    after: Tensor  # [B, D] the observation m steps later, the last one of an episode that was cut off


class Replay(Ring[Transitions]):
    """The last `capacity` transitions: 4·(2D + A + 2(1 + K)) bytes each."""

    def __init__(self, capacity: int, obs: int, action: int, costs: int, folder: Path) -> None:
        """obs: D, action: A, costs: K; folder: where the segments lie."""
        super().__init__(Transitions, [obs, action, 1 + costs, 1 + costs, obs], capacity, folder)


@dataclass(slots=True)
class NStep:
    """Turns the steps of N environments into rows that look `steps` steps ahead.

    One row comes out for every step that goes in, once it is complete: at the end of an episode those that had to stop
    short come out with it.
    """

    steps: int  # n
    gamma: NDArray[np.float64]  # [1 + K]
    pending: list[list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]]]  # per environment

    @classmethod
    def start(cls, steps: int, gamma: NDArray[np.float64], num_envs: int) -> NStep:
        """Nothing pending."""
        return cls(steps, gamma, [[] for _ in range(num_envs)])

    def push(
        self,
        obs: NDArray[np.float32],
        action: NDArray[np.float32],
        signal: NDArray[np.float64],
        after: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        ended: NDArray[np.bool_],
    ) -> Transitions:
        """The rows complete after one step.

        obs, after [N, D]: before the step, and after it (the last observation of an episode that ended); action [N, A];
        signal [N, 1 + K]: reward, then each cost; terminated, ended [N].
        """
        if self.steps == 1:
            discount = self.gamma * ~terminated[:, None]
            return _tensors(obs, action, signal, discount, after)
        rows = []
        for i, queue in enumerate(self.pending):
            queue.append((obs[i].copy(), action[i].copy(), signal[i].copy()))
            while queue and (len(queue) == self.steps or ended[i]):
                discounted = [self.gamma**m * step[2] for m, step in enumerate(queue)]
                factor = self.gamma ** len(queue) * (not terminated[i])
                first = queue.pop(0)
                rows.append((first[0], first[1], np.sum(discounted, axis=0), factor, after[i]))
        if not rows:
            widths = (obs.shape[1], action.shape[1], signal.shape[1], signal.shape[1], obs.shape[1])
            return _tensors(*(np.zeros((0, width)) for width in widths))
        return _tensors(*(np.stack(part) for part in zip(*rows, strict=True)))

    def state_dict(self) -> list[list[tuple[NDArray[Any], ...]]]:
        """What is pending."""
        return [list(queue) for queue in self.pending]

    def restore(self, state: list[list[tuple[NDArray[Any], ...]]]) -> None:
        """Take it up again."""
        self.pending = [[(obs, action, signal) for obs, action, signal in queue] for queue in state]


def _tensors(*parts: NDArray[Any]) -> Transitions:
    return Transitions(*(torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in parts))
