"""Environments of one's own: the base class and the register."""

from __future__ import annotations

from trueline.compat.omnisafe.envs.core import CMDP, env_register, env_unregister, make, support_envs

__all__ = ["CMDP", "env_register", "env_unregister", "make", "support_envs"]
