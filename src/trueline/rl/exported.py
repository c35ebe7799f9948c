"""Runs a policy that Trueline exported. It needs NumPy and nothing else, and may be copied and used anywhere.

policy = Policy("policy.npz")
actions = policy.act(observations)                             # the deterministic actions of N observations
actions = policy.act(observations, np.random.default_rng(0))   # draws from the policy
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
    """A policy in a file: observations of N worlds to actions [N, A], whole numbers [N] or [N, J] for choices."""

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
        if self.meta["kind"] == "choices":
            scores = x if rng is None else x + rng.gumbel(size=x.shape)
            parts = np.split(scores, np.cumsum(self.meta["sizes"])[:-1], axis=1)
            chosen = np.stack([part.argmax(axis=1) for part in parts], axis=1)
            return chosen[:, 0] if self.meta["flat"] else chosen
        mean, log_std = np.split(x, 2, axis=1) if self.meta["own_deviation"] else (x, self.arrays["log_std"])
        deviation = np.exp(np.clip(log_std, *self.meta["log_std_range"]))
        drawn = mean if rng is None else mean + deviation * rng.standard_normal(mean.shape)
        return np.tanh(drawn) if self.meta["squashed"] else drawn
