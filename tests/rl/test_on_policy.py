"""The loop around the update: what is mixed at which scale, limits, layouts of training, averaged and warm starts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.recipe import recipe_config
from trueline.core.run import Run
from trueline.core.streams import case_seeds, split_of
from trueline.rl.constraint import Weights, mix
from trueline.rl.on_policy import Constrained, OnPolicy, Trainer, training_seeds, weighed
from trueline.rl.surrogate import standardised

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
    assert len(trainer.recent_return) == 8
    assert len(trainer.recent_cost) == 0
    assert policy.multipliers.tolist() == [0.5]
    assert {split_of(int(seed)).split for seed in policy.layouts_met} == {"respond"}


def test_training_never_meets_a_layout_held_out_for_a_verdict(tmp_path):
    config = build(OnPolicy, TINY)
    with make_run(tmp_path, config) as run:
        seeds = training_seeds(config, run)(5000)
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
        drawn = training_seeds(config, run)(4000)
    share = np.isin(drawn, failed).mean()
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)  # four standard errors
    assert set(failed) <= set(drawn)


def test_findings_of_the_verdict_split_are_refused_as_training_layouts(tmp_path, rng):
    _, config = findings(tmp_path, "verdict", rng)
    with make_run(tmp_path, config) as run, pytest.raises(ConfigError, match="held out for verdicts"):
        training_seeds(config, run)


def test_averaging_gives_the_mean_of_the_last_policies(tmp_path, monkeypatch):
    seen = []
    original = Trainer._one_epoch

    def spy(self):
        note = original(self)
        seen.append([p.detach().clone() for p in self.network.parameters()])
        return note

    monkeypatch.setattr(Trainer, "_one_epoch", spy)
    policy = trained(tmp_path, averaged_share=0.6)  # the last two of three epochs
    assert len(seen) == 3
    for p, second, third in zip(policy.network.parameters(), *seen[1:], strict=True):
        torch.testing.assert_close(p, (second + third) / 2)


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
    assert (update.lr, update.critic_lr, update.schedule, update.critic_l2) == (3e-4, 3e-4, "linear", 0.001)
    assert (faithful.gamma, faithful.lam, faithful.cost_gamma, faithful.cost_lam) == (0.99, 0.95, 0.99, 0.95)
    assert (faithful.constraint.rule, faithful.constraint.lr, faithful.constraint.init) == ("adam", 0.035, 0.001)
    assert faithful.actor.hidden == faithful.critic.hidden == (64, 64)
    assert faithful.standardise == "reward"
