"""First-order constrained optimisation in policy space (Zhang, Vuong & Ross 2020)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from trueline.rl.distributions import Distribution
from trueline.rl.updates.ppo import Gain, RowByRow, ratio_of
from trueline.rl.updates.rows import Rows


def focops_loss(ratio: Tensor, advantage: Tensor, kl: Tensor, lam: float, eta: float) -> Tensor:
    """[KL(π‖π_old) − ρA/λ]·1{KL ≤ η}, each row by its own KL.  ratio, advantage, kl [...] -> [...]. To be minimised.

    Without the indicator, its mean over actions of π_old is least at π ∝ π_old·exp(A/λ): the best policy of the mixed
    advantage at a price of λ per nat. Rows of a state that has moved by more than η are left out of the mean (eq. 11).
    """
    return (kl - ratio * advantage / lam) * (kl.detach() <= eta)


class Focops(RowByRow):
    """Passes on the mixed advantage, pulled towards the best policy within a trust region of each state.

    OmniSafe and SafePO multiply KL as a column [B, 1] by a row [B]: their indicator weighs every state with the mean
    surrogate of the whole minibatch, and a state that has moved too far goes on being pushed. Here it is by row.
    """

    lam: float = Field(1.5, gt=0)  # λ: price of a nat of KL, in units of the advantage
    eta: float = Field(0.02, gt=0)  # η: KL of a state beyond which its rows no longer push

    def gain(self, batch: Rows[Tensor]) -> Gain:
        """−`focops_loss`."""

        def gain(policy: Distribution, rows: Tensor) -> Tensor:
            kl = policy.kl(batch.policy.rows(rows))
            return -focops_loss(ratio_of(policy, batch, rows), batch.advantage[rows], kl, self.lam, self.eta)

        return gain
