"""The function that a grid of experiments calls for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.compat.omnisafe.agent import Agent, Result

__all__ = ["train"]


def train(exp_id: str, algo: str, env_id: str, custom_cfgs: Mapping[str, Any]) -> Result:  # noqa: ARG001
    """Train one experiment in the run `seed-NNN` of its log_dir, going on with that run where it was begun before."""
    agent = Agent(algo, env_id, custom_cfgs=custom_cfgs)
    return agent.learn(id=f"seed-{agent.plan.seed:03d}")
