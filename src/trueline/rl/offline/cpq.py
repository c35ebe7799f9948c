"""Constraints-penalised Q-learning (Xu, Zhan & Zhu 2022): values that count for nothing where the limit is passed.

    l = d̃, the limit in the unit of Q_c (head of `rl/offline/training.py`);  safe(s, a) = 1{Q_c(s, a) ≤ l}
    y_c = c + γ_c Q'_c(s', a'),   y_r = r + γ·[safe'·min_j Q'_j(s', a') + (1 − safe')·floor],   a' ~ π(·|s')
    Q_c minimises  E_data[(Q_c − y_c)²] + α E_{s, a ~ π}[unseen(s, a)·(m·l − Q_c)²₊]
    policy ascends  E_{s, a ~ π}[safe·min_j Q_j + (1 − safe)·(floor − Σ_k (Q_ck − l_k)₊)]

An action is unseen where a model of the behaviour says that data do not show it: of continuous actions, where the
auto-encoder's latent is further from its prior (in KL) than those of nearly all recorded actions are; of one choice,
where a clone finds it less than τ times as likely as the likeliest option. Unseen actions are driven beyond the limit,
so that no policy takes them.

What it keeps is Q_c ≤ l in every state that data show, not only on average at the start: a cautious problem. On
enough data of a process whose time is observed, the policy is what one backward pass gives: in each (t, s) the best of
the actions seen whose cost to come is within l, or the cheapest where there is none.

Departures from the paper and from OSRL, which has the only maintained version:

1. `floor` is the least that an episode can still pay, from the lowest reward seen (0 where none is negative). The
   originals have 0 there, which for negative rewards makes passing the limit the best thing to do.
2. Where the limit is passed the policy descends the excess, below the floor; the originals leave it without gradient.
3. Unseen actions are pushed by a squared shortfall, up to m·l and no further, with a fixed α; the originals push by a
   slope that a dual variable scales, on average over actions.
4. Actions count as unseen by comparison with the recorded ones. OSRL takes the most unlikely quarter of the policy's
   own draws, which is a quarter even where all of them are as the data have them.
5. Several costs have a critic each, and all must be within their limits.
6. One critic of each cost; OSRL has the lesser of two.
"""

# ruff: noqa: ARG002  (one signature for all updates, of which each has its own use)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.distributions import Choices, Distribution
from trueline.rl.networks import Mlp
from trueline.rl.off_policy.networks import ActorQ, Learner, QPolicy, pessimistic, td_target
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.off_policy.sac import expected
from trueline.rl.offline.behaviour_cloning import all_rows, cloning_loss, q_policy
from trueline.rl.offline.data import OfflineData
from trueline.rl.offline.networks import ActionVae, latent_kl, supported
from trueline.rl.offline.terms import Plan, Terms
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ObservationCodec


def safe(value: Tensor, limit: Tensor) -> Tensor:
    """1{Q_ck ≤ l_k for all k}: value [..., 1 + K], limit [K] -> bool [...]."""
    return (value[..., 1:] <= limit).all(-1)


def penalised(value: Tensor, limit: Tensor, floor: Tensor) -> Tensor:
    """safe·Q_r + (1 − safe)·floor: value [..., 1 + K], limit [K], floor [] -> [...]."""
    return torch.where(safe(value, limit), value[..., 0], floor)


def objective(value: Tensor, limit: Tensor, floor: Tensor) -> Tensor:
    """safe·Q_r + (1 − safe)·(floor − Σ_k (Q_ck − l_k)₊): shapes as in `penalised`."""
    excess = (value[..., 1:] - limit).clamp_min(0.0).sum(-1)
    return torch.where(safe(value, limit), value[..., 0], floor - excess)


def shortfall(q_c: Tensor, target: Tensor, unseen: Tensor) -> Tensor:
    """unseen·(m·l − Q_c)₊: Q_c [..., K], target m·l [K], unseen [...] -> [..., K]."""
    return (target - q_c).clamp_min(0.0) * unseen[..., None]


class CpqLearner:
    """Policy, critics and slow critics; the model of the behaviour; the lowest reward seen."""

    def __init__(self, network: ActorQ, model: ActionVae | Mlp, lr: float, critic_lr: float, model_lr: float) -> None:
        """Moves all parameters into flat tensors."""
        self.network, self.model = network, model
        self.actor = Learner(network, lr, critic_lr)
        self.adam = FlatAdam([Group(list(model.parameters()), model_lr)])
        self.lowest = torch.zeros(())

    def floor(self, reward: Tensor, start: float) -> Tensor:
        """Σ_{t<T} γᵗ times the lowest reward seen so far, those of this batch [B] too; 0 where none is negative."""
        self.lowest = torch.minimum(self.lowest, reward.min())
        return self.lowest / start

    def fit_model(self, loss: Tensor, bound: float) -> Tensor:
        """One step of the model of the behaviour down a loss; returns it."""
        self.adam.zero_grad()
        loss.backward()
        self.adam.step(bound)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Everything beside the policy's network."""
        return {
            "actor": self.actor.state_dict(),
            "model": dict(self.model.state_dict()),
            "adam": self.adam.state_dict(),
            "lowest": self.lowest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up."""
        self.actor.load_state_dict(state["actor"])
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        self.lowest = state["lowest"]


class Cpq(Config):
    """Gradient steps of CPQ; numbers of its own are OSRL's, the rest is as in the other offline rows."""

    takes: ClassVar[tuple[Literal["reward", "weights", "limits"], ...]] = ("limits",)
    twins: ClassVar[int] = 2

    batch: int = Field(256, ge=1)
    lr: float = Field(1e-4, gt=0)  # of the policy
    critic_lr: float = Field(1e-3, gt=0)
    model_lr: float = Field(1e-3, gt=0)  # of the model of the behaviour
    polyak: float = Field(0.005, gt=0, le=1)  # share by which the slow copies follow
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    alpha: float = Field(1.0, gt=0)  # α, of unseen actions against the recorded ones
    margin: float = Field(1.5, gt=1)  # m: unseen actions are driven to m·l
    actions: int = Field(10, ge=1)  # draws of the policy in each state that may be unseen, of continuous actions
    kl_weight: float = Field(0.5, gt=0)  # of the latent's KL
    seen_share: float = Field(0.95, gt=0, lt=1)  # of recorded actions whose KL counts as seen
    threshold: float = Field(0.3, gt=0, le=1)  # τ, of a choice

    def learner(self, plan: Plan, rng: torch.Generator) -> CpqLearner:
        """Policy, critics and a model of the behaviour."""
        network = ActorQ(plan.observation, plan.action, plan.shape(self.twins), rng)
        width, size = network.encoder.width, plan.action.outputs
        made = Mlp if plan.action.kind == "choices" else ActionVae
        return CpqLearner(network, made(width, size, plan.actor, rng), self.lr, self.critic_lr, self.model_lr)

    def policy(
        self,
        learner: CpqLearner,
        observation: ObservationCodec,
        world: WorldRef,
        kept: Mapping[str, Any],
        parent: str | None,
    ) -> QPolicy:
        """The policy; the model of the behaviour is of no use to it."""
        return q_policy(learner.actor, observation, world, kept, parent)

    def rows(self, data: OfflineData, limit: Tensor) -> NDArray[Any]:
        """All. Raises ConfigError for a limit of 0, which no multiple is beyond."""
        if (limit == 0.0).any():
            raise ConfigError("cost_limit is 0, but CPQ drives unseen actions to a multiple of it. Give one above 0.")
        return all_rows(data, limit)

    def learn(
        self, learner: CpqLearner, batch: Transitions, first: Tensor, terms: Terms, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """One step of the model, the critics and the policy."""
        floor, limit = learner.floor(batch.signal[:, 0], terms.start), terms.value_limit.to(batch.obs)
        if learner.network.action.kind == "choices":
            report = self._learn_a_choice(learner, batch, limit, floor)
        else:
            report = self._learn_an_action(learner, batch, limit, floor, rng)
        learner.actor.follow(self.polyak)
        return {**report, "floor": floor}

    # --- continuous actions ---

    def _learn_an_action(
        self, learner: CpqLearner, batch: Transitions, limit: Tensor, floor: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        actor, vae = learner.actor, learner.model
        assert isinstance(vae, ActionVae)
        model_loss = learner.fit_model(vae.loss(batch.obs, batch.action, self.kl_weight, rng), self.grad_norm)
        policy = actor.policy(batch.after)
        following = torch.cat([batch.after, policy.to_action(policy.sample(rng))], dim=1)
        after = pessimistic(actor.target_critics.passes.forward(following)[..., 0].T, self.twins)
        worth = torch.cat([penalised(after, limit, floor)[:, None], after[:, 1:]], dim=1)
        target = td_target(batch.signal, batch.discount, worth)
        many = batch.obs.repeat(self.actions, 1)
        policy = actor.policy(many)
        drawn = policy.to_action(policy.sample(rng))
        unseen = self.unseen(vae, batch, many, drawn)
        critic_loss = self._fit(actor, batch, target, torch.cat([many, drawn], dim=1), unseen, limit)

        def loss(policy: Distribution) -> Tensor:
            q = actor.q(batch.obs, policy.to_action(policy.sample(rng)))
            return -objective(pessimistic(q, self.twins), limit, floor).mean()

        found = actor.improve_policy(batch.obs, loss, self.grad_norm)
        return {
            "model_loss": model_loss,
            "critic_loss": critic_loss,
            "policy_loss": found,
            "unseen": unseen.to(found).mean(),
        }

    @torch.no_grad()
    def unseen(self, vae: ActionVae, batch: Transitions, obs: Tensor, action: Tensor) -> Tensor:
        """Which actions [M, A] at states [M, D] have a latent further from the prior than recorded ones: bool [M]."""
        recorded = latent_kl(*vae.recognise(batch.obs, batch.action)).sum(-1)
        kl = latent_kl(*vae.recognise(obs, action)).sum(-1)
        return kl > torch.quantile(recorded, self.seen_share)

    def _fit(
        self, actor: Learner, batch: Transitions, target: Tensor, other: Tensor, unseen: Tensor, limit: Tensor
    ) -> Tensor:
        """One step on the temporal differences of the recorded actions and the shortfall of other ones [M, D + A]."""
        size = len(batch.obs)
        rows = torch.cat([torch.cat([batch.obs, batch.action], dim=1), other])
        q = actor.critics.forward(rows, keep=True)[..., 0]  # [H, B + M]
        error = q[:, :size] - _of_heads(target, self.twins)
        short = shortfall(q[self.twins :, size:].T, self.margin * limit, unseen).T  # [K, M]
        grad = torch.zeros_like(q)
        grad[:, :size] = error * (2.0 / size)
        grad[self.twins :, size:] = short * (-2.0 * self.alpha / len(other))
        actor.critics.learn(grad[..., None])
        actor.critic_adam.step(self.grad_norm)
        actor.steps += 1
        return error.square().mean(1).sum()

    # --- one choice ---

    def _learn_a_choice(
        self, learner: CpqLearner, batch: Transitions, limit: Tensor, floor: Tensor
    ) -> dict[str, Tensor]:
        actor, sizes = learner.actor, learner.network.action.sizes
        clone = Choices.of(learner.model(batch.obs), sizes)
        model_loss = learner.fit_model(cloning_loss(clone, batch.action), self.grad_norm)
        policy = actor.policy(batch.after)
        assert isinstance(policy, Choices)
        after = pessimistic(actor.target_critics.passes.forward(batch.after).permute(1, 2, 0), self.twins)  # [B, n, ·]
        worth = torch.cat([penalised(after, limit, floor)[..., None], after[..., 1:]], dim=-1)
        target = td_target(batch.signal, batch.discount, expected(worth, policy))
        with torch.no_grad():
            unseen = ~supported(Choices.of(learner.model(batch.obs), sizes).logits[0], self.threshold)  # [B, n]
        critic_loss = self._fit_options(actor, batch, target, unseen, limit)
        q = pessimistic(actor.critics.forward(batch.obs).permute(1, 2, 0), self.twins)
        value = objective(q, limit, floor)
        # Below every option that the data show: where none is safe, the cheapest of these is wanted and no other.
        least = value.masked_fill(unseen, torch.inf).amin(1, keepdim=True)
        value = torch.where(unseen, torch.minimum(value, least - self.margin * limit.sum()), value)

        def loss(policy: Distribution) -> Tensor:
            assert isinstance(policy, Choices)
            return -expected(value, policy).mean()

        found = actor.improve_policy(batch.obs, loss, self.grad_norm)
        return {
            "model_loss": model_loss,
            "critic_loss": critic_loss,
            "policy_loss": found,
            "unseen": unseen.to(found).mean(),
        }

    def _fit_options(self, actor: Learner, batch: Transitions, target: Tensor, unseen: Tensor, limit: Tensor) -> Tensor:
        """One step on the temporal differences of the options taken and the shortfall of unseen ones [B, n]."""
        size, taken = len(batch.obs), batch.action.long()
        q = actor.critics.forward(batch.obs, keep=True)  # [H, B, n]
        index = taken.expand(len(q), -1, -1)
        error = q.gather(-1, index)[..., 0] - _of_heads(target, self.twins)
        short = shortfall(q[self.twins :].permute(1, 2, 0), self.margin * limit, unseen).permute(2, 0, 1)
        grad = torch.zeros_like(q)
        grad[self.twins :] = short * (-2.0 * self.alpha / size)
        grad.scatter_add_(-1, index, error[..., None] * (2.0 / size))
        actor.critics.learn(grad)
        actor.critic_adam.step(self.grad_norm)
        actor.steps += 1
        return error.square().mean(1).sum()


def _of_heads(target: Tensor, twins: int) -> Tensor:
    """Targets [B, 1 + K] for every critic: [twins + K, B]."""
    return torch.cat([target[:, :1].expand(-1, twins), target[:, 1:]], dim=1).T
