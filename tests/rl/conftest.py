"""Fixtures of the tests of `rl`."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture
def torch_rng() -> torch.Generator:
    return torch.Generator().manual_seed(20240607)
