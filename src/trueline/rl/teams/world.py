"""A world of several agents as a team is judged in it: one reward, the agents' mean, and each agent's own costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from trueline.rl.env import Step, VectorEnv

__all__ = ["as_team"]


def as_team(env: VectorEnv, agents: int, totals: bool = False) -> VectorEnv:
    """A world of several agents seen as one agent's (`as_one`), its reward their mean and its costs AGENT/COST alone.

    totals: what all agents cost together is told too, behind those and by the cost's own name.
    """
    return cast(VectorEnv, _AsTeam(env, agents, totals))  # it has what the world has; see `__getattr__`


class _AsTeam:
    """The wrapper; everything but reward and costs is the world's."""

    def __init__(self, env: VectorEnv, agents: int, totals: bool) -> None:
        self._env, self._agents, self._totals = env, agents, totals
        own = env.costs[agents:]  # each agent's reward stands before them
        together = tuple(name.partition("/")[2] for name in own[: len(own) // agents])
        self.costs = own + together if totals else own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, actions: NDArray[Any]) -> Step:
        """One step, its reward and costs told as the team's."""
        step = self._env.step(actions)
        reward, cost = step.cost[:, : self._agents].mean(axis=1), step.cost[:, self._agents :]
        if self._totals:
            together = cost.reshape(len(cost), self._agents, -1).sum(axis=1)
            cost = np.concatenate([cost, together], axis=1)
        return replace(step, reward=reward, cost=cost)
