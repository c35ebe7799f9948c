"""Constraints-penalised Q-learning: its fixed point within the data's support, its equations by their signs."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from offline_cases import CASES, EPISODES, behaviour, data_of, drawn_actions, recorded, trained, trained_on_actions

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.exact.suite import instance
from trueline.rl.handlers.constraint import unconstrained
from trueline.rl.off_policy.networks import QNetwork, pessimistic
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.offline.cpq import Cpq, CpqLearner, objective, penalised, safe, shortfall
from trueline.rl.offline.data import write_parquet
from trueline.rl.offline.terms import Plan, Terms
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.safety.recipes.offline import CPQ


@pytest.mark.parametrize("name", ["cpq, rewards above 0", "cpq, rewards below 0"])
def test_it_is_its_fixed_point_within_the_datas_support(name, tmp_path):
    case = CASES[name]
    found, exact = trained(case, recorded(case, tmp_path)), case.target()
    scale = found.unconstrained - found.safest
    assert abs(found.average.episode_return - exact.episode_return) < 0.03 * scale
    assert found.average.constrained[0] == pytest.approx(exact.cost[0], abs=0.03 * found.span[0])
    # It keeps the limit on average too, and is not the best that does: it keeps it in every state.
    assert exact.cost[0] <= case.cmdp.limit[0]
    assert found.average.gap > -0.03


def test_with_a_floor_of_zero_negative_rewards_make_passing_the_limit_best(tmp_path, monkeypatch):
    monkeypatch.setattr(CpqLearner, "floor", lambda self, reward, start: torch.zeros(()))
    case = CASES["cpq, rewards below 0"]
    found = trained(case, recorded(case, tmp_path))
    assert case.target().cost[0] < case.cmdp.limit[0] < found.average.constrained[0] - 0.3


# -- continuous actions: one step that pays −(a − 0.8)² and costs 1 + a ------------------------------------------------


def on_the_slope(tmp_path, steps, limit, top=1.0, **update):
    """Of actions uniform on [−1, top]: mean action of the policy, and its deviation."""
    action = np.random.default_rng(0).uniform(-1.0, top, EPISODES)
    quick = {"batch": 128, "lr": 5e-3, "critic_lr": 1e-2, "model_lr": 5e-3, "polyak": 0.1}
    update = {**quick, "kl_weight": 0.05, "actions": 4, **update}
    settings = {"total_steps": steps, "steps_per_epoch": steps, "cost_limit": limit, "update": update}
    found = drawn_actions(trained_on_actions(tmp_path, CPQ, action, settings), 2000)
    return float(found.mean()), float(found.std())


def test_the_best_action_within_the_limit_is_found(tmp_path):
    # 1 + a ≤ 1.2. A draw beyond is pulled back as the others are pushed on, so that the mean ends at the edge.
    mean, deviation = on_the_slope(tmp_path, 600, 1.2)
    assert mean == pytest.approx(0.2, abs=0.05)
    assert deviation < 0.1


@pytest.mark.parametrize(("alpha", "inside"), [(1.0, True), (1e-9, False)])
def test_actions_that_the_data_do_not_show_are_left_alone(alpha, inside, tmp_path):
    # The best action is 0.8, and the data end at 0.3. No cost is near a limit of 2 in the data.
    mean, deviation = on_the_slope(tmp_path, 600, 2.0, top=0.3, alpha=alpha)
    assert (mean + deviation < 0.4) is inside


# -- equations --------------------------------------------------------------------------------------------------------


def test_a_value_counts_where_every_cost_is_within_its_limit():
    value = torch.tensor([[5.0, 1.0, 2.0], [5.0, 1.5, 2.0], [5.0, 1.0, 2.5], [5.0, 2.0, 3.0]])
    limit, floor = torch.tensor([1.0, 2.0]), torch.tensor(-3.0)
    assert safe(value, limit).tolist() == [True, False, False, False]
    assert penalised(value, limit, floor).tolist() == [5.0, -3.0, -3.0, -3.0]
    assert objective(value, limit, floor).tolist() == [5.0, -3.5, -3.5, -5.0]


def test_outside_the_limit_the_policy_descends_the_cost_and_inside_it_ascends_the_reward():
    value = torch.tensor([[5.0, 0.5], [5.0, 1.5]], requires_grad=True)
    objective(value, torch.tensor([1.0]), torch.tensor(0.0)).sum().backward()
    assert value.grad.tolist() == [[1.0, 0.0], [0.0, -1.0]]


def test_unseen_actions_fall_short_of_the_dear_end_and_seen_ones_of_nothing():
    q_c = torch.tensor([[0.5, 4.0], [0.5, 1.0], [2.0, 4.0]])
    short = shortfall(q_c, torch.tensor([1.5, 3.0]), torch.tensor([True, False, True]))
    assert short.tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_the_floor_is_the_lowest_reward_seen_in_every_step_of_an_episode():
    learner = learner_of(Cpq())
    assert float(learner.floor(torch.tensor([0.5, 2.0]), 0.1)) == 0.0
    assert float(learner.floor(torch.tensor([-0.5, 2.0]), 0.1)) == -5.0
    assert float(learner.floor(torch.tensor([1.0]), 0.1)) == -5.0


def learner_of(update, discrete=False):
    net = QNetwork(hidden=(8,))
    observation = ObservationCodec.of(gym.spaces.Box(-1, 1, (3,)))
    action = ActionCodec.of(gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-1, 1, (2,)))
    return update.learner(Plan(observation, action, ("c", "d"), net, net, False), torch.Generator().manual_seed(0))


def batch_of(discrete=False, n=24):
    rng = torch.Generator().manual_seed(1)
    obs, after = torch.randn(2, n, 3, generator=rng)
    action = torch.rand(n, 2, generator=rng) * 2 - 1
    if discrete:
        action = torch.randint(3, (n, 1), generator=rng).float()
    return Transitions(obs, action, torch.randn(n, 3, generator=rng), torch.full((n, 3), 0.9), after)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_critics_step_is_the_gradient_of_the_stated_loss(discrete):
    update, limit = Cpq(alpha=0.7, margin=2.0), torch.tensor([0.2, 0.4])
    learner, batch = learner_of(update, discrete), batch_of(discrete)
    rng = torch.Generator().manual_seed(2)
    target = torch.randn(24, 3, generator=rng)
    critics = learner.network.critics
    if discrete:
        unseen = torch.rand(24, 3, generator=rng) < 0.4
        q = critics(batch.obs)  # [B, H, n]
        taken = q.gather(-1, batch.action.long()[:, None].expand(-1, 4, 1))[..., 0]
        short = unseen[:, None] * (2.0 * limit[:, None] - q[:, 2:]).clamp_min(0.0)  # [B, K, n]
        pushed = short.square().sum((1, 2)).mean()
    else:
        other, unseen = torch.randn(40, 5, generator=rng), torch.rand(40, generator=rng) < 0.4
        taken = critics(torch.cat([batch.obs, batch.action], dim=1))[..., 0]
        short = unseen[:, None] * (2.0 * limit - critics(other)[:, 2:, 0]).clamp_min(0.0)
        pushed = short.square().sum(1).mean()
    wanted = torch.cat([target[:, :1].expand(-1, 2), target[:, 1:]], dim=1)
    loss = (taken - wanted).square().mean(0).sum() + 0.7 * pushed
    expected = torch.autograd.grad(loss, list(critics.parameters()))
    assert float(pushed.detach()) > 0.0
    if discrete:
        update._fit_options(learner.actor, batch, target, unseen, limit)
    else:
        update._fit(learner.actor, batch, target, other, unseen, limit)
    # The step itself is Adam's; the gradients it was made from are still there, scaled down to the norm at most.
    for p, g in zip(critics.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-5)


def test_what_follows_counts_by_the_slow_critics_and_the_policys_own_draw():
    update = Cpq(critic_lr=1e-12, model_lr=1e-12, lr=1e-12, polyak=1e-12)
    learner, batch = learner_of(update, discrete=True), batch_of(discrete=True)
    limit = torch.tensor([0.05, 0.05], dtype=torch.float64)
    report = update.learn(learner, batch, batch.obs, terms_of(limit), torch.Generator().manual_seed(0))
    chance = learner.network.policy(batch.after).logits[0].exp()
    after = pessimistic(learner.network.critics(batch.after).transpose(1, 2), 2)
    floor = 10.0 * min(0.0, float(batch.signal[:, 0].min()))
    worth = torch.where((after[..., 1:] <= 0.05).all(-1), after[..., 0], floor)
    follows = (chance[..., None] * torch.cat([worth[..., None], after[..., 1:]], dim=-1)).sum(1)
    target = batch.signal + 0.9 * follows
    q = learner.network.critics(batch.obs).gather(-1, batch.action.long()[:, None].expand(-1, 4, 1))[..., 0]
    wanted = torch.cat([target[:, :1].expand(-1, 2), target[:, 1:]], dim=1)
    assert float(report["critic_loss"]) == pytest.approx(float((q - wanted).detach().square().mean(0).sum()), rel=1e-4)
    assert float(report["floor"]) == pytest.approx(floor)


def terms_of(limit):
    return Terms(unconstrained(len(limit)), limit / 10.0, limit, 0.1)


def test_seen_and_unseen_are_told_apart_by_the_model_of_the_behaviour():
    update = Cpq(kl_weight=0.05, seen_share=0.95, model_lr=5e-3)
    learner, rng = learner_of(update), torch.Generator().manual_seed(3)
    obs = torch.randn(512, 3, generator=rng)
    action = 0.3 * torch.rand(512, 2, generator=rng) - 0.5  # in one corner of the square
    for _ in range(300):
        learner.fit_model(learner.model.loss(obs, action, 0.05, rng), 40.0)
    batch = Transitions(obs, action, torch.zeros(512, 3), torch.zeros(512, 3), obs)
    assert float(update.unseen(learner.model, batch, obs, action).float().mean()) == pytest.approx(0.05, abs=0.01)
    assert float(update.unseen(learner.model, batch, obs, action + 1.2).float().mean()) > 0.9


def test_a_limit_of_zero_is_refused(tmp_path):
    cmdp = instance("Tolls")
    write_parquet(data_of(cmdp, behaviour(cmdp, 0), 5), tmp_path / "d.parquet")
    given = {"env": "Cmdp-Tolls-v0", "dataset": str(tmp_path / "d.parquet"), "cost_limit": 0.0}
    with pytest.raises(ConfigError, match="multiple of it"):
        CPQ.check(build(CPQ.Config, given), tmp_path)


def test_faithful_settings_are_those_of_the_maintained_version():
    faithful = build(CPQ.Config, dict(CPQ.presets["faithful"]))
    assert (faithful.total_steps, faithful.gamma, faithful.actor.hidden, faithful.critic.hidden) == (
        100_000, 0.99, (300, 300), (400, 400),
    )  # fmt: skip
    update = faithful.update
    assert (update.batch, update.lr, update.critic_lr, update.model_lr, update.polyak) == (512, 1e-4, 1e-3, 1e-3, 5e-3)
    assert (update.actions, update.kl_weight, update.margin) == (10, 0.5, 1.5)
