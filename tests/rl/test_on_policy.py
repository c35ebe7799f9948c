"""The loop around the update: what is mixed at which scale, limits, layouts of training, averaged and warm starts."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from toy_worlds import Bandit, SavedDrift

from trueline.core import registry
from trueline.core.config import Config, build, fields, to_toml
from trueline.core.errors import ConfigError
from trueline.core.recipe import recipe_config
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.streams import case_seeds, split_of
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.estimates import slack_of, weighed
from trueline.rl.handlers.constraint import Weights, mix
from trueline.rl.on_policy import Constrained, Limited, OnPolicy, OnPolicyRecipe, Trainer
from trueline.rl.training import Averaged, training_seeds
from trueline.rl.updates.ppo import Ppo
from trueline.rl.updates.rows import Rows
from trueline.rl.updates.surrogate import standardised

TINY = {
    "env": "SafetyPointGoal0-v0",
    "num_envs": 4,
    "steps_per_epoch": 80,
    "total_steps": 240,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [8]},
    "update": {"passes": 1, "minibatch": 40},
}


def make_run(tmp_path, config, id="run", seed=0):
    return Run.create(tmp_path, kind="train", name="ppo", config=config, seed=seed, id=id)


def trained(tmp_path, cls=OnPolicy, id="run", inputs=None, **settings):
    config = build(cls, {**TINY, **settings})
    with make_run(tmp_path, config, id) as run:
        return Trainer(config, run, inputs or {}).train()


def test_multipliers_keep_their_unit_when_the_mix_is_standardised(torch_rng):
    a_r, a_c = torch.randn(6, 3, generator=torch_rng), torch.randn(6, 3, 2, generator=torch_rng)
    weights = Weights(torch.tensor(0.5), torch.tensor([0.3, 0.2]))
    whole = weighed(a_r, a_c, weights, "mix")
    # Rewards in cents instead of euros, and λ accordingly: the same policy is asked for.
    cents = weighed(100 * a_r, a_c, Weights(weights.reward / 100, weights.cost), "mix")
    torch.testing.assert_close(whole, cents)
    torch.testing.assert_close(whole, standardised(mix(a_r, a_c, weights)))
    # OmniSafe's way does not know the reward's unit at all, and centres each cost.
    reward = weighed(a_r, a_c, weights, "reward")
    torch.testing.assert_close(reward, weighed(100 * a_r, a_c + 7.0, weights, "reward"))
    torch.testing.assert_close(reward.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("total", "envs", "said"),
    [(240, 4, ""), (100, 4, "total_steps is 100, but an epoch is 80 steps"), (160, 3, "training takes 234")],
)
def test_whole_epochs_that_make_more_steps_than_asked_for_are_told(total, envs, said, tmp_path, capfd):
    trained(tmp_path, total_steps=total, num_envs=envs)
    told = [line for line in capfd.readouterr().err.splitlines() if "total_steps" in line]
    assert len(told) == bool(said)
    assert said in "".join(told)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == {240: 240, 100: 160, 160: 234}[total]


def test_each_cost_needs_its_limit(tmp_path):
    with pytest.raises(ConfigError, match="2 values, but SafetyPointGoal0-v0 reports 1 costs"):
        trained(tmp_path, Constrained, cost_limit=[1.0, 2.0])


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_a_limit_no_episode_could_meet_is_refused(tmp_path, limit):
    with pytest.raises(ConfigError, match="0 or more"):
        trained(tmp_path, Constrained, cost_limit=limit)


def test_layouts_that_failed_do_not_steer_the_multiplier(tmp_path, rng, monkeypatch):
    # Every episode is one of a failed layout, so J_C of fresh layouts is never measured and λ stays where it began.
    _, config = findings(tmp_path, "respond", rng)
    config = build(
        Constrained,
        {**TINY, "env": "SafetyPointGoal1-v0", "steps_per_epoch": 4000, "total_steps": 8000, "layouts_share": 1.0,
         "layouts": list(config.layouts), "constraint": {"init": 0.5}},
    )  # fmt: skip
    with make_run(tmp_path, config) as run:
        trainer = Trainer(config, run, {})
        policy = trainer.train()
    assert len(trainer.recent.episode_return) == 8
    assert len(trainer.steering.cost) == 0
    assert policy.multipliers.tolist() == [0.5]
    assert {split_of(int(seed)).split for seed in policy.layouts_met} == {"respond"}


def test_training_never_meets_a_layout_held_out_for_a_verdict(tmp_path):
    config = build(OnPolicy, TINY)
    with make_run(tmp_path, config) as run:
        seeds = training_seeds(run, config.layouts, config.layouts_share)(5000)
    assert {split_of(int(seed)).split for seed in seeds} == {"train"}


def findings(tmp_path, split, rng):
    seeds = case_seeds(split, 1, 3, rng)
    folder = tmp_path / "audited" / "artefacts"
    folder.mkdir(parents=True)
    rows = [{"case": {"data": {"seed": int(seed)}}} for seed in seeds]
    (folder / "found.json").write_text(json.dumps(rows))
    return seeds, build(OnPolicy, {**TINY, "layouts": ["run://audited/found.json"], "layouts_share": 0.25})


def test_failed_layouts_get_their_share_of_the_episodes(tmp_path, rng):
    failed, config = findings(tmp_path, "respond", rng)
    with make_run(tmp_path, config) as run:
        drawn = training_seeds(run, config.layouts, config.layouts_share)(4000)
    share = np.isin(drawn, failed).mean()
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)  # four standard errors
    assert set(failed) <= set(drawn)


def test_findings_of_the_verdict_split_are_refused_as_training_layouts(tmp_path, rng):
    _, config = findings(tmp_path, "verdict", rng)
    with make_run(tmp_path, config) as run, pytest.raises(ConfigError, match="held out for verdicts"):
        training_seeds(run, config.layouts, config.layouts_share)


def test_averaging_gives_the_mean_of_the_last_policies(tmp_path, monkeypatch):
    seen = []
    original = Trainer.one_epoch

    def spy(self):
        note = original(self)
        seen.append([p.detach().clone() for p in self.network.parameters()])
        return note

    monkeypatch.setattr(Trainer, "one_epoch", spy)
    policy = trained(tmp_path, averaged_share=0.6)  # the last two of three epochs
    assert len(seen) == 3
    for p, second, third in zip(policy.network.parameters(), *seen[1:], strict=True):
        torch.testing.assert_close(p, (second + third) / 2)


@pytest.mark.parametrize(("share", "epochs", "count"), [(0.5, 4, 2), (0.8, 10, 8), (0.9, 10, 9)])
def test_an_epoch_at_whose_end_the_share_begins_is_not_part_of_it(share, epochs, count):
    averaged = Averaged(torch.nn.Linear(1, 1), share)
    for epoch in range(1, epochs + 1):
        averaged.take(epoch, epochs)
    assert averaged.count == count


def test_a_warm_start_goes_on_from_policy_and_multiplier(tmp_path):
    settings = {"env": "SafetyPointGoal1-v0", "cost_limit": 0.0, "constraint": {"rule": "sgd", "lr": 0.01, "init": 0.7}}
    first = trained(tmp_path, Constrained, "first", **settings)
    assert first.multipliers is not None
    config = build(Constrained, {**TINY, **settings})
    with make_run(tmp_path, config, "second") as run:
        second = Trainer(config, run, {"policy": first})
        for p, q in zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0)
        torch.testing.assert_close(second.handler_state["multiplier"], first.multipliers)
        second.env.close()


def test_a_warm_start_of_another_shape_is_refused(tmp_path):
    first = trained(tmp_path, OnPolicy, "first")
    with pytest.raises(ConfigError, match="other network shapes"):
        trained(tmp_path, OnPolicy, "second", inputs={"policy": first}, actor={"hidden": [9]})


def test_faithful_settings_are_the_published_ones():
    faithful = recipe_config("ppo-lag", "faithful")
    assert (faithful.steps_per_epoch, faithful.total_steps, faithful.window) == (20_000, 10_000_000, 100)
    update = faithful.update
    assert (update.passes, update.minibatch, update.clip, update.target_kl) == (40, 64, 0.2, 0.02)
    assert (update.lr, update.critic_lr, update.critic_l2) == (3e-4, 3e-4, 0.001)
    assert (update.schedule, update.critic_schedule) == (
        "linear",
        "constant",
    )  # as in both originals
    assert (faithful.gamma, faithful.lam, faithful.cost_gamma, faithful.cost_lam) == (0.99, 0.95, 0.99, 0.95)
    assert (faithful.constraint.rule, faithful.constraint.lr, faithful.constraint.init) == ("adam", 0.035, 0.001)
    assert faithful.actor.hidden == faithful.critic.hidden == (64, 64)
    assert faithful.standardise == "reward"


# --- rows of the table: an update, and what the settings say of costs ---


@dataclass(frozen=True)
class Kept:
    """What the updates below report."""

    rows: int


class Mixing(Config):
    """An update that keeps its rows and changes nothing; it takes one mixed advantage."""

    takes: ClassVar[str] = "mixed"
    seen: ClassVar[list[Rows]] = []

    depth: int = 7

    def optimiser(self, network):
        return FlatAdam([Group(list(network.critics.parameters()), 1e-3, rows=network.critics.heads)])

    def learn(self, network, adam, rows, progress, rng):
        self.seen.append(rows)
        return Kept(len(rows.draw))


class Weighing(Mixing):
    """The same, taking weights."""

    takes: ClassVar[str] = "weights"


class Slackening(Mixing):
    """The same, taking slack."""

    takes: ClassVar[str] = "slack"


class ExactPenalty(Config):
    """max E[ρA_r] − κ·Σ(E[ρA_c] + slack)₊ by gradient: it holds limits without a multiplier, for κ above λ*."""

    takes: ClassVar[str] = "slack"

    kappa: float = 1.2
    lr: float = 5e-3

    def optimiser(self, network):
        critics = Group(list(network.critics.parameters()), self.lr, rows=network.critics.heads)
        return FlatAdam([Group(network.actor_parameters(), self.lr), critics])

    def learn(self, network, adam, rows, progress, rng):
        reward, cost, slack = rows.advantage
        for _ in range(4):
            features = network.encoder(rows.inputs)
            ratio = (network.policy(features).log_prob(rows.draw) - rows.log_prob).exp()
            violation = ((ratio[:, None] * cost).mean(0) + slack).clamp_min(0.0).sum()
            value = (network.values(features) - rows.target).square().mean(0).sum()
            adam.zero_grad()
            (self.kappa * violation - (ratio * reward).mean() + value).backward()
            adam.step(40.0)
        return Kept(len(ratio))


@pytest.fixture
def _toys():
    registry.add(Entry("env", "Toy-Drift-v0", "test_on_policy:drift", "two costs, episodes that end early"), "tests")
    registry.add(Entry("env", "Toy-Bandit-v0", "test_on_policy:bandit", "one cost, one-step episodes"), "tests")


def drift(id, num_envs, threads=1):
    return SavedDrift(num_envs)


def bandit(id, num_envs, threads=1):
    return Bandit(num_envs)


@pytest.mark.usefixtures("_toys")
def test_of_episodes_on_both_only_those_on_fresh_layouts_are_measured(tmp_path, rng):
    _, config = findings(tmp_path, "respond", rng)
    given = {**TINY, "env": "Toy-Drift-v0", "layouts_share": 0.5, "layouts": list(config.layouts)}
    config = build(Constrained, given)
    with make_run(tmp_path, config) as run:
        trainer = Trainer(config, run, {})
        trainer.train()
    fresh = sum(split_of(int(seed)).split == "train" for seed in trainer.met)
    assert 0 < fresh < len(trainer.met) == len(trainer.recent.episode_return)
    assert len(trainer.steering.cost) == len(trainer.steering.length) == len(trainer.recent.cost) == fresh


def test_a_handler_on_an_update_that_takes_slack_is_refused_where_the_row_is_made():
    with pytest.raises(ConfigError, match="'cpo-lag' puts a constraint handler on an update that takes slack"):
        OnPolicyRecipe("cpo-lag", Constrained, update=Slackening())


@pytest.mark.parametrize(
    ("settings", "update", "words"),
    [
        (OnPolicy, Weighing(), "takes weights and nothing to set them"),
        (Limited, Weighing(), "takes weights and nothing to set them"),
        (OnPolicy, Slackening(), "takes slack, but no limit"),
        (Limited, Mixing(), "limits that a mixed advantage cannot know of"),
    ],
)
def test_an_update_gets_no_more_and_no_less_than_it_takes(settings, update, words):
    with pytest.raises(ConfigError, match=words):
        OnPolicyRecipe("row", settings, update=update)


def test_rows_that_compose():
    for settings, update in ((OnPolicy, Mixing()), (Constrained, Mixing()), (Constrained, Weighing()),
                             (Limited, Slackening())):  # fmt: skip
        assert issubclass(OnPolicyRecipe("row", settings, update=update).Config, settings)
    assert OnPolicyRecipe("row", OnPolicy).Config is OnPolicy  # which has PPO as its default already


def test_a_rows_settings_are_those_of_its_update():
    row = OnPolicyRecipe("row", Limited, {"deep": {"update": {"depth": 9}}}, update=Slackening(depth=8))
    assert row.Config().update == Slackening(depth=8)
    given = build(row.Config, {"cost_limit": [1.0, 2.0]}, ("update.depth=3",))
    assert given.update == Slackening(depth=3)
    assert build(row.Config, tomllib.loads(to_toml(given))) == given
    assert {(s.key, s.default) for s in fields(row.Config) if s.key.startswith("update")} == {("update.depth", "8")}
    with pytest.raises(ConfigError, match=r"no setting is called 'update.clip'"):
        build(row.Config, {}, ("update.clip=0.1",))


def test_a_mix_of_what_is_not_mixed_is_refused():
    with pytest.raises(ConfigError, match="standardise is 'mix', but this update takes slack"):
        build(OnPolicyRecipe("row", Limited, update=Slackening()).Config, {"standardise": "mix"})
    assert build(OnPolicyRecipe("row", OnPolicy, update=Mixing()).Config, {"standardise": "mix"})


def rows_of(tmp_path, settings, update, monkeypatch, **given):
    monkeypatch.setattr(Mixing, "seen", [])
    row = OnPolicyRecipe("row", settings, update=update)
    config = build(row.Config, {**TINY, "env": "Toy-Drift-v0", "update": {}, **given})
    with make_run(tmp_path, config, id=update.takes) as run:
        trainer = Trainer(config, run, {})
        trainer.train()
    assert len(Mixing.seen) == 3
    logged = [json.loads(line) for line in (tmp_path / update.takes / "metrics.jsonl").read_text().splitlines()]
    assert [line["update/rows"] for line in logged] == [80.0] * 3
    return trainer, Mixing.seen[-1]


@pytest.mark.usefixtures("_toys")
def test_weights_and_slack_come_with_the_advantages_that_a_mix_is_made_of(tmp_path, monkeypatch):
    # The policy never changes, so that all three rows are collected and estimated alike.
    limits = {"cost_limit": [1.0, 3.0], "constraint": {"rule": "sgd", "lr": 0.1}, "cost_gamma": 0.9, "cost_lam": 0.8}
    mixing, mixed = rows_of(tmp_path, Constrained, Mixing(), monkeypatch, **limits)
    _, weighed_ = rows_of(tmp_path, Constrained, Weighing(), monkeypatch, **limits)
    del limits["constraint"]
    slackening, slack = rows_of(tmp_path, Limited, Slackening(), monkeypatch, **limits)
    taken = weighed_.advantage
    assert mixed.advantage.shape == taken.reward.shape == (80,)
    assert taken.cost.shape == slack.advantage.cost.shape == (80, 2)
    torch.testing.assert_close(mix(taken.reward, taken.cost, taken.weights), mixed.advantage)
    torch.testing.assert_close(taken.weights, mixing.handler.weights(mixing.handler_state))
    assert taken.weights.cost.min() > 0
    assert (taken.cost_gamma, taken.cost_lam) == (0.9, 0.8)
    torch.testing.assert_close(slack.advantage[:2], taken[:2])
    # Reward at scale one, costs in their own unit, both centred.
    torch.testing.assert_close(taken.reward.std(correction=0), torch.tensor(1.0))
    torch.testing.assert_close(taken.cost.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    # Slack is (J_C − d) over the mean length of the same episodes, of which this world ends many early.
    cost, length = slackening.steering.cost, slackening.steering.length
    assert len(cost) == len(length) > 10
    assert 1 < length.mean() < 12
    expected = (cost.mean(0) - [1.0, 3.0]) / length.mean()
    np.testing.assert_allclose(slack.advantage.slack, expected, rtol=1e-6)


def test_slack_is_what_a_step_costs_beyond_its_share_of_the_limit():
    # Two episodes of 10 and 30 steps that cost 0.5 and 2 in each: J_C = 10 and 40, and d = 5 is 0.25 a step.
    length, limits = np.array([10, 30]), torch.tensor([5.0, 60.0])
    cost = length[:, None] * [0.5, 2.0]
    np.testing.assert_allclose(slack_of(cost, length, limits), [0.5 - 0.25, 2.0 - 3.0])
    assert slack_of(np.zeros((0, 2)), np.zeros(0), limits).isnan().all()


@pytest.mark.usefixtures("_toys")
def test_before_an_episode_has_ended_there_is_no_slack(tmp_path, monkeypatch):
    # Drift's episodes end after 12 steps or when it leaves the disc; one step in each of 80 worlds ends hardly any.
    row = OnPolicyRecipe("row", Limited, update=Slackening())
    monkeypatch.setattr(Mixing, "seen", [])
    monkeypatch.setattr(SavedDrift, "radius", np.inf)
    config = build(row.Config, {**TINY, "env": "Toy-Drift-v0", "update": {}, "num_envs": 8, "steps_per_epoch": 64})
    with make_run(tmp_path, config) as run:
        Trainer(config, run, {}).train()
    assert [bool(rows.advantage.slack.isnan().all()) for rows in Mixing.seen] == [True, False, False, False]


@pytest.mark.usefixtures("_toys")
def test_an_update_that_takes_slack_holds_its_limit_in_this_very_loop(tmp_path):
    # Arm 1 pays 1 and costs 1, arm 2 pays 0.8 and costs nothing: under a mean cost of 0.3 the best is arm 1 with
    # probability 0.3 (test_ppo.py). Pay is standardised, so that λ* = 0.39, and κ = 1.2 is above it.
    row = OnPolicyRecipe("penalty", Limited, update=ExactPenalty())
    given = {"env": "Toy-Bandit-v0", "num_envs": 64, "steps_per_epoch": 256, "total_steps": 256 * 120,
             "cost_limit": 0.3, "window": 256, "averaged_share": 0.33, "actor": {"hidden": [16]},
             "critic": {"hidden": [16]}, "checkpoint_epochs": 1000}  # fmt: skip
    config = build(row.Config, given)
    with make_run(tmp_path, config) as run:
        policy = row.train(config, run, {})
    with torch.no_grad():
        arms = policy.network.policy(policy.network.features({"vector": torch.ones(1, 1)})).logits[0][0].exp()
    assert arms.tolist() == pytest.approx([0.0, 0.3, 0.7], abs=0.05)
    assert policy.multipliers is None


@pytest.mark.usefixtures("_toys")
def test_a_recipe_tells_which_limit_is_whose():
    ppo_lag, ppo = OnPolicyRecipe("ppo-lag", Constrained), OnPolicyRecipe("ppo", OnPolicy)
    given = {"env": "Toy-Drift-v0"}
    assert ppo_lag.limits(build(Constrained, {**given, "cost_limit": [1.0, 2.0]})) == {"right": 1.0, "off_axis": 2.0}
    assert ppo_lag.limits(build(Constrained, {**given, "cost_limit": 4.0})) == {"right": 4.0, "off_axis": 4.0}
    assert ppo.limits(build(OnPolicy, given)) == {}
    assert ppo.update == Ppo()
