"""What every world on MuJoCo's batch asks of a perturbation and of a saved state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, unknown

Array = NDArray[np.float64]


def read_scales(scale: Mapping[str, float | Array], known: Sequence[str], num_envs: int) -> dict[str, Array]:
    """Factors on named nominal quantities as arrays [N].

    Raises ConfigError, before anything has changed, for a name that is not known or a factor that is not positive.
    """
    out = {}
    for name, value in scale.items():
        if name not in known:
            raise ConfigError(unknown("perturbation", name, known))
        values = np.asarray(value, dtype=np.float64)
        if values.shape not in ((), (num_envs,)) or not (np.isfinite(values) & (values > 0)).all():
            raise ConfigError(f"{name} is scaled by {value!r:.80}. Give a positive number or {num_envs} of them.")
        out[name] = np.broadcast_to(values, (num_envs,)).copy()
    return out


def refuse_another(state: Mapping[str, Any], id: str, num_envs: int, shape: tuple[int, ...]) -> None:
    """Raises ConfigError when a saved state is another world's or of another number of environments."""
    if state["world"] != id or state["physics"].shape != shape:
        have, want = f"{len(state['physics'])} × {state['world']}", f"{num_envs} × {id}"
        raise ConfigError(f"the state is of {have}, not of {want}. Make the world with the saved settings.")
