"""How a team learns from one collection: every agent a step of its own, together or in turn (Kuba et al. 2022).

Together, each agent ascends its surrogate as if the others stood still (MAPPO: Yu et al. 2022). In turn, in an order
drawn anew, an agent reckons with what those before it have become: its advantage is multiplied by

    M(s, a) = Π π_new(aˡ|s)/π_old(aˡ|s)  over the agents l before it,

so that E[M·ρ·A] under the old joint policy is the advantage of the new policies of those before together with its own
(the multi-agent advantage decomposition), and the team's return cannot fall but by what surrogates get wrong (HAPPO,
MACPO: Gu et al. 2021).

What an agent's update is given are ordinary `Rows`: its own observations and actions, and an advantage that is the
team's or its own. So an update is one of `rl/updates`, told which agents learn when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.distributions import Distribution, side_by_side
from trueline.rl.networks import ActorCritic
from trueline.rl.teams.networks import CentralCritic, Member, Team
from trueline.rl.updates.cpo import ConstrainedReport, Cpo
from trueline.rl.updates.ppo import MinibatchPasses, PassesReport, ascend
from trueline.rl.updates.rows import Rows, SlackAdvantage
from trueline.rl.updates.surrogate import clipped_surrogate

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Takes = Literal["mixed", "weights", "slack"]


class TeamUpdate(Protocol):
    """How an agent's policy learns from rows, and how the critic's minibatch steps are set."""

    takes: ClassVar[Takes]  # "mixed" or "slack"; see rl.updates.rows
    in_turn: ClassVar[bool]  # agent after agent, each reckoning with those before; otherwise all at once

    @property
    def passes(self) -> int:
        """Of the critic over the collection."""
        ...

    @property
    def minibatch(self) -> int:
        """Samples per gradient step of the critic."""
        ...

    @property
    def grad_norm(self) -> float:
        """The gradient of each of the critic's values is scaled down to this norm."""
        ...

    @property
    def critic_lr(self) -> float:
        """Of the critic, at the start."""
        ...

    @property
    def critic_l2(self) -> float:
        """Adds l2·Σθ² to each value's loss."""
        ...

    def critic_rate(self, progress: float) -> float:
        """The critic's learning rate at `progress` in [0, 1] of the training."""
        ...

    def optimiser(self, network: ActorCritic) -> FlatAdam:
        """The moments kept of one policy."""
        ...

    def learn(
        self, network: ActorCritic, adam: FlatAdam, batch: Rows[Any], progress: float, rng: torch.Generator
    ) -> DataclassInstance:
        """Change the policy alone."""
        ...


# --- what an agent passes on to those after it ---


def passed_on(factor: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """M of the next agent: M·π_new/π_old of what this agent did.  factor, log-probabilities before and after: [B]."""
    return factor * (after - before).exp()


def reckoned(advantage: Any, factor: Tensor) -> Any:
    """An agent's advantage once those before it have moved, whose ratios multiply to `factor` M [B].

    Advantages become M·A. Of a cost, E[M·A_c] is by how much those before have raised it, per step: its slack is what
    is left of the limit after them. Counted from the policies that acted, as the originals count it, every agent in
    turn would use up the same slack again.
    """
    if not isinstance(advantage, SlackAdvantage):
        return factor * advantage
    used = ((factor - 1.0)[:, None] * advantage.cost).mean(dim=0)
    return SlackAdvantage(factor * advantage.reward, factor[:, None] * advantage.cost, advantage.slack + used)


def learn_in_turn(
    update: TeamUpdate,
    team: Team,
    adams: Sequence[FlatAdam],
    rows: Sequence[Rows[Any]],
    order: Sequence[int],
    progress: float,
    rng: torch.Generator,
) -> dict[int, DataclassInstance]:
    """Agents learn in this order from their rows, each with the factor M of those before it; reports by agent."""
    factor = torch.ones_like(rows[0].log_prob)
    reports = {}
    for agent in order:
        own = rows[agent]
        reports[agent] = update.learn(
            team.member(agent), adams[agent], replace(own, advantage=reckoned(own.advantage, factor)), progress, rng
        )
        factor = passed_on(factor, own.log_prob, log_prob_of(team.member(agent), own))
    return reports


def learn_together(
    update: TeamUpdate,
    team: Team,
    adams: Sequence[FlatAdam],
    rows: Sequence[Rows[Any]],
    progress: float,
    rng: torch.Generator,
) -> dict[int, DataclassInstance]:
    """Every agent learns from its rows; a policy that all share learns from the rows of all. Reports by policy."""
    if team.roster.shared:
        return {0: update.learn(team.member(0), adams[0], joined(rows), progress, rng)}
    return {i: update.learn(team.member(i), adams[i], own, progress, rng) for i, own in enumerate(rows)}


@torch.no_grad()
def log_prob_of(member: Member, rows: Rows[Any]) -> Tensor:
    """log π of the actions taken, under the policy as it stands.  [B]."""
    return member.policy(member.encoder(rows.inputs)).log_prob(rows.draw)


def joined(rows: Sequence[Rows[Any]]) -> Rows[Any]:
    """The rows of agents that share a policy as those of one; slack is of costs that each has to keep for itself."""
    inputs = {name: torch.cat([own.inputs[name] for own in rows]) for name in rows[0].inputs}
    draw = torch.cat([own.draw for own in rows])
    return Rows(
        inputs,
        draw,
        torch.cat([own.log_prob for own in rows]),
        side_by_side([own.policy for own in rows]),
        torch.cat([own.advantage for own in rows]),
        torch.cat([own.target for own in rows]),
    )


# --- updates ---


class Mappo(MinibatchPasses):
    """Each agent ascends the clipped surrogate of an advantage that the central critic tells (Yu et al. 2022)."""

    takes: ClassVar[Takes] = "mixed"
    in_turn: ClassVar[bool] = False

    clip: float = Field(0.2, gt=0, lt=1)  # ε of the surrogate

    def optimiser(self, network: ActorCritic) -> FlatAdam:
        """Adam over the policy; the critic has one of its own."""
        return FlatAdam([Group(network.actor_parameters(), self.lr)])

    def critic_rate(self, progress: float) -> float:
        """By the schedule of both rates."""
        return self.critic_lr * self._left(progress)

    def _left(self, progress: float) -> float:
        return 1.0 - progress if self.schedule == "linear" else 1.0

    def learn(
        self, network: ActorCritic, adam: FlatAdam, batch: Rows[Tensor], progress: float, rng: torch.Generator
    ) -> PassesReport:
        """Passes of minibatch steps of the policy."""
        adam.groups[0].lr = self.lr * self._left(progress)

        def surrogate(policy: Distribution, rows: Tensor) -> Tensor:
            log_prob = policy.log_prob(batch.draw[rows])
            return clipped_surrogate(log_prob, batch.log_prob[rows], batch.advantage[rows], self.clip).mean()

        return ascend(self, network, adam, batch, surrogate, rng, values=False)


class Happo(Mappo):
    """The same in turn: min(ρMA, clip(ρ)MA), M the ratios of the agents before (Kuba et al. 2022)."""

    in_turn: ClassVar[bool] = True


class Macpo(Cpo):
    """CPO's step agent by agent, on M·A_r and M·A_c and within what is left of the limits (Gu et al. 2021)."""

    in_turn: ClassVar[bool] = True

    def optimiser(self, network: ActorCritic) -> FlatAdam:  # noqa: ARG002  (policies move by natural steps alone)
        """None: the critic's moments are the team's."""
        return FlatAdam([])

    def critic_rate(self, progress: float) -> float:  # noqa: ARG002  (nothing follows a schedule)
        """The same throughout."""
        return self.critic_lr

    def learn(
        self, network: ActorCritic, adam: FlatAdam, batch: Rows[SlackAdvantage], progress: float, rng: torch.Generator
    ) -> ConstrainedReport:
        """One step of the policy. A member has no critics to pass over: the team's is fitted once, for all."""
        return Cpo.learn(self.model_copy(update={"passes": 0}), network, adam, batch, progress, rng)


# --- the critic ---


class ValueFit(Config):
    """The loss of the central critic; the defaults are those of the published multi-agent PPO (Yu et al. 2022)."""

    memory: float | None = Field(0.9, ge=0, lt=1)  # weight of earlier collections in targets' μ and σ; none: raw values
    huber: float | None = Field(10.0, gt=0)  # δ from where on the loss is linear, in units of the fit; none: squares
    clip: float | None = Field(0.2, gt=0)  # bound on how far a value moves in an update; none: no bound

    def loss(self, value: Tensor, old: Tensor, target: Tensor) -> Tensor:
        """Mean over rows, summed over values: max(ℓ(V − R), ℓ(clip(V, V_old ± ε) − R)).  [b, H] each."""
        error = self._of(value - target)
        if self.clip is not None:
            near = old + (value - old).clamp(-self.clip, self.clip)
            error = torch.maximum(error, self._of(near - target))
        return error.mean(0).sum()

    def _of(self, error: Tensor) -> Tensor:
        """½e², or δ(|e| − ½δ) beyond δ."""
        if self.huber is None:
            return 0.5 * error.square()
        size = error.abs()
        return torch.where(size <= self.huber, 0.5 * error.square(), self.huber * (size - 0.5 * self.huber))


def critic_optimiser(update: TeamUpdate, critic: CentralCritic) -> FlatAdam:
    """Adam over the critic's values, which share nothing."""
    values = critic.critics
    return FlatAdam([Group(list(values.parameters()), update.critic_lr, rows=values.heads, l2=update.critic_l2)])


def fit_values(
    fit: ValueFit,
    update: TeamUpdate,
    critic: CentralCritic,
    adam: FlatAdam,
    vector: Tensor,
    target: Tensor,
    progress: float,
    rng: torch.Generator,
) -> float:
    """Passes of minibatch steps on targets [B, H], after their statistics were taken in; the last pass's mean loss.

    vector: [B, D], what the critic sees.
    """
    adam.groups[0].lr = update.critic_rate(progress)
    if fit.memory is not None:
        critic.absorb(target, fit.memory)
    with torch.no_grad():
        features = critic.features(vector)
        old, aim = critic.normalised_values(features), critic.norm.normalised(target)
    total, minibatches = torch.zeros(()), 1
    for _ in range(update.passes):
        cuts = torch.randperm(len(features), generator=rng).split(update.minibatch)
        total, minibatches = torch.zeros(()), len(cuts)
        for rows in cuts:
            loss = fit.loss(critic.normalised_values(features[rows]), old[rows], aim[rows])
            adam.zero_grad()
            loss.backward()
            adam.step(update.grad_norm)
            total += loss.detach()
    return float(total) / minibatches if update.passes else float("nan")


def by_policy(team: Team, update: TeamUpdate) -> list[FlatAdam]:
    """The moments of each policy."""
    return [update.optimiser(team.member(i)) for i in range(len(team.members))]


def moments(adams: Sequence[FlatAdam]) -> dict[str, Any]:
    """What a checkpoint stores of several optimisers."""
    return {str(i): adam.state_dict() for i, adam in enumerate(adams)}


def take_up(adams: Sequence[FlatAdam], saved: Mapping[str, Any]) -> None:
    """Go on from saved moments."""
    for i, adam in enumerate(adams):
        adam.load_state_dict(saved[str(i)])
