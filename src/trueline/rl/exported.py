"""Runs a policy that Trueline exported. It needs NumPy and nothing else, and may be copied and used anywhere.

policy = Policy("policy.npz")
actions = policy.act(observations)                             # the deterministic actions of N observations
actions = policy.act(observations, np.random.default_rng(0))   # draws from the policy

Actions have the units and the shape of the environment's own action space, and lie within its bounds.
"""

import json
from typing import Any

import numpy as np

ACTIVATION: dict[str, Any] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


class Policy:
    """A policy in a file: observations of N worlds to N actions of the environment's own space."""

    def __init__(self, path: Any) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.arrays: dict[str, Any] = {name: file[name] for name in file.files}
        self.meta = json.loads(str(self.arrays["meta"]))

    def encode(self, obs: Any) -> Any:
        """Observations as rows [N, D], one-hot where they are choices."""
        rows: list[Any] = []
        for key, how, sizes in self.meta["observation"]:
            part = np.asarray(obs[key] if isinstance(obs, dict) else obs)
            part = part.reshape(len(part), -1)
            rows += [part] if how == "box" else [np.eye(n)[part[:, j].astype(int)] for j, n in enumerate(sizes)]
        return np.concatenate(rows, axis=1).astype(np.float32)

    def output(self, rows: Any) -> Any:
        """What the network gives for rows [N, D]."""
        a, layers = self.arrays, self.meta["layers"]
        x = np.clip((rows - a["shift"]) * a["scale"], -a["clip"], a["clip"])
        for layer in range(layers):
            x = x @ a[f"weight{layer}"] + a[f"bias{layer}"]
            x = ACTIVATION[self.meta["activation"]](x) if layer < layers - 1 else x
        return x

    def act(self, obs: Any, rng: np.random.Generator | None = None) -> Any:
        """The deterministic actions, or draws from `rng`."""
        x = self.output(self.encode(obs))
        shape, low, high = self.meta["shape"], self.arrays["low"], self.arrays["high"]
        if self.meta["kind"] == "choices":
            scores = x if rng is None else x + rng.gumbel(size=x.shape)
            parts = np.split(scores, np.cumsum(self.meta["sizes"])[:-1], axis=1)
            chosen = np.stack([part.argmax(axis=1) for part in parts], axis=1)
            return (low + chosen).reshape(len(x), *shape)
        mean, log_std = np.split(x, 2, axis=1) if self.meta["own_deviation"] else (x, self.arrays["log_std"])
        deviation = np.exp(np.clip(log_std, *self.meta["log_std_range"]))
        drawn = mean if rng is None else mean + deviation * rng.standard_normal(mean.shape)
        drawn = np.tanh(drawn) if self.meta["squashed"] else drawn
        return rescaled(drawn, low, high).reshape(len(x), *shape)


def rescaled(action: Any, low: Any, high: Any) -> Any:
    """Actions [N, A], clipped, from [-1, 1] to [low, high]; a column without two finite bounds stays as it is."""
    bounded = np.isfinite(low) & np.isfinite(high)
    least, most = np.where(bounded, low, -1.0).astype(np.float64), np.where(bounded, high, 1.0).astype(np.float64)
    scaled = least + 0.5 * (np.clip(action, -1.0, 1.0) + 1.0) * (most - least)
    # Rounding may leave the range by one unit in the last place, which environments that check would refuse.
    return np.where(bounded, np.clip(scaled, least, most), action).astype(low.dtype)
