"""What a trained policy does in a tabular world, exactly: its probabilities over (t, s), and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.rl.augmentation.augment import Terms
from trueline.rl.augmentation.world import EXTRA, WORLD, AugmentedBy
from trueline.rl.distributions import Choices, Distribution, Gaussian, SquashedGaussian
from trueline.rl.env import Obs
from trueline.rl.exact.cmdp import Array, Cmdp
from trueline.rl.exact.evaluate import Outcome, evaluate, evaluate_under_rules
from trueline.rl.exact.world import TabularWorld
from trueline.rl.policy import NetworkPolicy


@runtime_checkable
class TellsProbabilities(Protocol):
    """Ability of a policy: it can say how likely each of A actions is."""

    def action_probabilities(self, obs: Obs, actions: int) -> NDArray[np.float64]:
        """[N, A] for N observations; of a continuous action, the chance of each of A equal bins of [-1, 1]."""
        ...


def policy_table(policy: object, world: TabularWorld) -> Array:
    """π_t(a | s) of a policy in a tabular world, [H, S, A].

    Raises ConfigError for a policy that is no network's and does not tell its probabilities.
    """
    cmdp = world.cmdp
    return _asked(policy, world.every_observation(), cmdp.actions).reshape(cmdp.horizon, cmdp.states, cmdp.actions)


def outcome_of(policy: object, world: TabularWorld, law: bool = False) -> Outcome:
    """The exact outcome of a policy in a tabular world; `law` asks for that of its (only) accumulated cost.

    A policy that was trained under an augmentation sees the extra state it was trained to see. Raises as
    `policy_table` does.
    """
    by = policy.world.augmentation if isinstance(policy, NetworkPolicy) else None
    cmdp = world.cmdp
    if by is None or by.rules.observed(*_first(by, cmdp)).shape[1] == 0:
        return evaluate(cmdp, policy_table(policy, world), 0 if law else None)
    terms, _ = _first(by, cmdp)

    def table(t: int, z: Array) -> Array:
        number = np.tile(t * cmdp.states + np.arange(cmdp.states), len(z))
        extra = by.rules.observed(terms, z).repeat(cmdp.states, axis=0).astype(np.float32)
        seen = world.observation(number)
        # As the wrapper joins them: behind a flat observation of floats, beside any other.
        obs: Obs = np.concatenate([seen, extra], axis=1) if world.box else {WORLD: seen, EXTRA: extra}
        return _asked(policy, obs, cmdp.actions).reshape(len(z), cmdp.states, cmdp.actions)

    return evaluate_under_rules(cmdp, by.rules, terms.limit, _arrays(by.parameters), table)


def _first(by: AugmentedBy, cmdp: Cmdp) -> tuple[Terms, Array]:
    """The terms of the rules, and z of an episode that begins."""
    terms = Terms(np.array(by.limit), cmdp.horizon)
    return terms, by.rules.start(terms, _arrays(by.parameters), 1)


def _arrays(parameters: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(value, dtype=np.float64) for name, value in parameters.items()}


@torch.no_grad()
def _asked(policy: object, obs: Obs, actions: int) -> Array:
    """[N, A] probabilities of N observations."""
    if isinstance(policy, TellsProbabilities):
        return np.asarray(policy.action_probabilities(obs, actions), dtype=np.float64)
    if isinstance(policy, NetworkPolicy):
        if policy.network.memory_width:
            raise ConfigError("a policy with a memory is no table of time and state. Evaluate it by its episodes.")
        inputs = {name: torch.as_tensor(value) for name, value in policy.observation.encode(obs).items()}
        return probabilities(policy.network.policy(policy.network.features(inputs)), actions).numpy()
    raise ConfigError(
        f"a {type(policy).__name__} cannot be evaluated exactly. Give it "
        "action_probabilities(obs, actions) -> [N, actions], or train a network's policy."
    )


def probabilities(policy: Distribution, actions: int) -> Tensor:
    """[N, A] in float64: of one choice itself, of one continuous action those of its bins."""
    if isinstance(policy, Choices):
        return policy.logits[0].double().softmax(-1)
    if isinstance(policy, SquashedGaussian | Gaussian):
        return bin_probabilities(policy, actions)
    raise ConfigError(f"the bins of a {type(policy).__name__} have no known probabilities. Use a normal policy.")


def bin_probabilities(policy: Gaussian | SquashedGaussian, bins: int) -> Tensor:
    """The chance that the action lies in each of `bins` equal parts of [-1, 1]: [N, bins] of one action dimension.

    Between the edges e the chance is Φ((e' − μ)/σ) − Φ((e − μ)/σ), at artanh e where the action is tanh of the normal.
    The world clips, so that the outer bins hold the tails. σ = 0 is a deterministic action; one on an edge belongs to
    the bin above it, as in the world.
    """
    edges = torch.linspace(-1.0, 1.0, bins + 1, dtype=torch.float64)[1:-1]
    if isinstance(policy, SquashedGaussian):
        edges = edges.atanh()
    mean = policy.mean.double()
    below = torch.special.ndtr((edges - mean) / policy.log_std.double().exp()).nan_to_num(0.0)  # [N, bins − 1]
    ends = below.new_zeros(len(below), 1), below.new_ones(len(below), 1)
    return torch.cat([ends[0], below, ends[1]], dim=-1).diff(dim=-1)
