"""Every setting of an update changes what the update makes of the same rows."""

from __future__ import annotations

from typing import Any

import pytest
import test_cpo
import test_cup
import test_p3o
import torch
from test_natural import fresh_batch, learn
from test_ppo import actor_critic, some_batch

from trueline.rl.updates.cpo import Cpo, Pcpo
from trueline.rl.updates.cup import Cup
from trueline.rl.updates.focops import Focops
from trueline.rl.updates.natural import Trpo
from trueline.rl.updates.p3o import P3o
from trueline.rl.updates.ppo import Ppo

BATCHES: dict[Any, Any] = {
    Ppo: some_batch,
    Focops: some_batch,
    Cup: lambda network: test_cup.weighted_batch(network, [0.2, 0.1]),
    P3o: lambda network: test_p3o.slack_batch(network, [0.5, -0.1]),
    Trpo: lambda network: fresh_batch(network, -1.0),
    Cpo: lambda network: test_cpo.slack_batch(network, [-0.02, -0.01]),
    Pcpo: lambda network: test_cpo.slack_batch(network, [-0.02, -0.01]),
}
# The gradient of P3O's penalty at κ = 20 is above the default grad_norm, and Adam hardly knows scales.
OWN: dict[Any, Any] = {P3o: {"kappa": 1.0}}
FAR = {"target_kl": 3.0, "cg_damping": 0.01}  # where the full step is not acceptable, so that there is a search
CHANGED = {
    "clip": 0.05,
    "lam": 0.5,
    "eta": 1e-9,
    "horizon": 3,
    "kappa": 2.0,
    "passes": 3,
    "minibatch": 10,
    "lr": 1e-3,
    "critic_lr": 2e-3,
    "schedule": "constant",
    "critic_schedule": "linear",
    "target_kl": 1e-9,
    "entropy": 0.1,
    "grad_norm": 1e-3,
    "critic_l2": 0.1,
    "cg_iters": 2,
    "cg_damping": 0.5,
    "fisher_stride": 7,
    "search_tries": 1,
    "search_shrink": 0.5,
    "projection": "l2",
}


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in BATCHES for field in kind.model_fields])
def test_every_field_changes_the_update(kind: Any, field: str) -> None:
    base = {"passes": 2, "minibatch": 25, **OWN.get(kind, {}), **(FAR if field.startswith("search") else {})}

    def parameters(**settings: Any) -> torch.Tensor:
        network = actor_critic()
        learn(kind(**{**base, **settings}), network, BATCHES[kind](network))
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    assert not torch.equal(parameters(), parameters(**{field: CHANGED[field]}))
