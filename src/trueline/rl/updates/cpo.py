"""Constrained policy optimisation and its projection-based form, for any number of costs.

CPO (Achiam et al. 2017) takes the best step of those in the trust region that keep the linearised limits; PCPO (Yang et
al. 2020) takes the natural step and goes to the nearest point that keeps them. Both solve for the limits themselves:
they take the slack (J_C − d)/mean episode length, in the unit of a surrogate, and no multiplier has a memory.

Departures from OmniSafe 0.5.0 and SafePO:

1. The sign of the limit's gradient: the originals put gradients of ascent into formulas for descent.
2. The slack is per step. The originals' per-episode excess makes most limits look out of reach or far away.
3. PCPO's first term is the natural gradient H⁻¹g. The originals multiply by H once more and are left with g.
4. Before the first episode has ended nothing is known of the costs, and the step is TRPO's.
5. What `rl.natural` departs in.
6. Where no limit is violated and a step promises a higher reward, it has to keep that promise: PCPO's search in the
   originals asks for it nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from trueline.rl.adam import FlatAdam
from trueline.rl.networks import ActorCritic
from trueline.rl.updates.natural import Here, Searched, Trial, backtrack, fit_critics, natural_span
from trueline.rl.updates.rows import Rows, SlackAdvantage
from trueline.rl.updates.trust_region import (
    Array,
    Case,
    Span,
    Step,
    constrained_step,
    natural_step,
    projected_step,
    projection,
)


@dataclass(frozen=True, slots=True)
class ConstrainedReport:
    """What an update did."""

    kl: float
    fraction: float  # of the full step that was taken; 0: none was acceptable
    case: float  # 0 infeasible, 1 violated, 2 cut, 3 inside, 4 unmeasured: see trust_region.Case
    lam: float  # λ of the trust region
    nu: float  # Σₖ νₖ of the limits
    gain: float  # rise of the reward's surrogate
    cost_rise: float  # largest rise of a cost's surrogate
    gradient_norm: float  # of the reward's surrogate
    value_loss: float  # mean over the minibatches of the last pass
    entropy: float


class Cpo(Searched):
    """max gᵀx s.t. bₖᵀx + cₖ ≤ 0 and ½xᵀHx ≤ δ, then a search; a recovery where no step keeps all limits."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "slack"

    search_tries: int = Field(20, ge=1)

    def learn(
        self,
        network: ActorCritic,
        adam: FlatAdam,
        batch: Rows[SlackAdvantage],
        progress: float,  # noqa: ARG002  (nothing follows a schedule)
        rng: torch.Generator,
    ) -> ConstrainedReport:
        """One step of the policy, then the critics."""

        def solve(span: Span, slack: Array) -> tuple[Step, Tensor]:
            step = constrained_step(span.gram, slack, self.target_kl)
            return step, span.step(step.coefficients)

        return _limited_step(self, network, adam, batch, rng, solve)


class Pcpo(Searched):
    """The natural step, projected onto bₖᵀx + cₖ ≤ 0 in the metric of the KL or of the parameters, then a search."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "slack"

    projection: Literal["kl", "l2"] = "kl"  # the distance in which the nearest point is meant
    search_tries: int = Field(200, ge=1)

    def learn(
        self,
        network: ActorCritic,
        adam: FlatAdam,
        batch: Rows[SlackAdvantage],
        progress: float,  # noqa: ARG002  (nothing follows a schedule)
        rng: torch.Generator,
    ) -> ConstrainedReport:
        """One step of the policy, then the critics."""

        def solve(span: Span, slack: Array) -> tuple[Step, Tensor]:
            step = projected_step(span.gram, slack, self.target_kl)
            if self.projection == "kl":
                return step, span.step(step.coefficients)
            free = span.step(natural_step(span.gram, self.target_kl).coefficients)
            limits = span.gradients[1:]
            nearest = projection((limits @ limits.T).numpy(), (limits @ free).numpy() + slack)
            case = step.case if nearest.met else Case.INFEASIBLE
            moved = free - torch.as_tensor(nearest.nu) @ limits
            return step._replace(nu=step.lam * nearest.nu, case=case), moved

        return _limited_step(self, network, adam, batch, rng, solve)


def _limited_step(
    settings: Searched,
    network: ActorCritic,
    adam: FlatAdam,
    batch: Rows[SlackAdvantage],
    rng: torch.Generator,
    solve: Callable[[Span, Array], tuple[Step, Tensor]],
) -> ConstrainedReport:
    advantage = batch.advantage
    here = Here(network, batch, torch.cat([advantage.reward[:, None], advantage.cost], dim=1))
    span = natural_span(settings, here)
    slack = advantage.slack.double().numpy()
    if np.isnan(slack).any():
        slack = np.full(len(slack), -np.inf)
        step = natural_step(span.gram, settings.target_kl)
        direction = span.step(step.coefficients)
    else:
        step, direction = solve(span, slack)
    promised = float(here.gradients[0] @ direction) > 0.0 and not (slack > 0.0).any()

    def accept(trial: Trial) -> bool:
        gain, *rises = trial.change
        return (
            trial.kl <= settings.target_kl and (gain >= 0.0 or not promised) and kept(np.array(rises), slack, step.case)
        )

    taken = backtrack(here, direction, accept, settings.search_tries, settings.search_shrink)
    value_loss = fit_critics(settings, network, adam, batch, rng)
    return ConstrainedReport(
        kl=taken.kl,
        fraction=taken.fraction,
        case=float(step.case),
        lam=step.lam,
        nu=float(step.nu.sum()),
        gain=taken.change[0],
        cost_rise=max(taken.change[1:]),
        gradient_norm=float(here.gradients[0].norm()),
        value_loss=value_loss,
        entropy=taken.entropy,
    )


def kept(rises: Array, slack: Array, case: Case) -> bool:
    """Whether costs whose surrogates rise by so much keep their limits: Δₖ ≤ max(−cₖ, 0), each [K].

    Where no step meets all limits, the sum of what is over them must not rise: limits that exclude each other can never
    come nearer all at once.
    """
    if case is Case.INFEASIBLE:
        return bool(np.maximum(slack + rises, 0.0).sum() <= np.maximum(slack, 0.0).sum())
    return bool((rises <= np.maximum(-slack, 0.0)).all())
