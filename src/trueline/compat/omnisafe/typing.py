"""Names of types that environments are written with."""

from __future__ import annotations

import torch
from gymnasium.spaces import Box, Discrete

__all__ = ["DEVICE_CPU", "Box", "OmnisafeSpace"]

OmnisafeSpace = Box | Discrete
DEVICE_CPU = torch.device("cpu")
