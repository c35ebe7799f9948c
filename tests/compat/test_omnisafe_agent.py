"""OmniSafe's tutorials over our rows: train, evaluate, plot, film, and compare a grid."""

import json
import math
import os
import signal
from typing import ClassVar

import numpy as np
import pytest
from test_omnisafe_envs import Corridor

import trueline.compat.omnisafe as omnisafe
from trueline.compat.omnisafe.common.experiment_grid import ExperimentGrid
from trueline.compat.omnisafe.envs.core import env_register, env_unregister
from trueline.compat.omnisafe.figures import _smoothed, curve
from trueline.compat.omnisafe.utils.exp_grid_tools import train
from trueline.core.errors import ConfigError, RunError, Stopped, UnknownName
from trueline.core.metrics import read_metrics
from trueline.core.run import read_manifest
from trueline.rl import worlds


class Walk(Corridor):
    """The corridor, which counts its episodes."""

    _support_envs: ClassVar[list[str]] = ["Walk-v0"]

    def spec_log(self, logger):
        logger.store({"Env/Last_x": self._x, "Env/Episodes": 1.0})


@pytest.fixture(autouse=True)
def walk():
    env_register(env_unregister(Walk))
    yield
    env_unregister(Walk)


def tiny(tmp_path, **more):
    return {
        "train_cfgs": {"total_steps": 80, "vector_env_nums": 2, "torch_threads": 1},
        "algo_cfgs": {"steps_per_epoch": 40, "update_iters": 1},
        "logger_cfgs": {"log_dir": str(tmp_path), "use_wandb": False},
        **more,
    }


@pytest.fixture
def agent(tmp_path):
    agent = omnisafe.Agent("PPOLag", "Walk-v0", custom_cfgs=tiny(tmp_path, env_cfgs={"slip": 0.01}))
    agent.learned = agent.learn()
    return agent


def test_the_customisation_tutorial(agent):
    episode_return, cost, length = agent.learned
    assert length == 10.0
    assert math.isfinite(episode_return)
    assert cost >= 0.0
    rows = list(read_metrics(agent.run / "metrics.jsonl"))
    assert [row["step"] for row in rows if "train/return" in row] == [40, 80]
    assert agent.learned.episode_return == [row for row in rows if "train/return" in row][-1]["train/return"]
    # Four episodes of ten steps in each epoch; what the environment logs about them is averaged.
    logged = [row["Env/Last_x"] for row in rows if "Env/Last_x" in row]
    assert len(logged) == 2
    assert all(math.isfinite(x) for x in logged)
    assert read_manifest(agent.run)["name"] == "ppo-lag"
    assert agent.config.env_options == {"slip": 0.01}


def test_a_policy_is_evaluated_on_the_same_layouts_each_time_and_the_discount_counts_costs(agent):
    first, second = agent.evaluate(3), agent.evaluate(3)
    assert first == second
    assert len(first.rewards) == len(first.costs) == 3
    evaluator = omnisafe.Evaluator()
    evaluator.load_saved(save_dir=str(agent.run))
    assert evaluator.evaluate(3).rewards == first.rewards
    assert all(c == 0.0 for c in evaluator.evaluate(3, cost_criteria=0.0).costs)  # the first step is never beyond 1
    whole, halved = evaluator.evaluate(20).costs, evaluator.evaluate(20, cost_criteria=0.5).costs
    assert all(h <= w for h, w in zip(halved, whole, strict=True))


def test_evaluation_waves_sum_each_episodes_own_costs(agent):
    # 20 episodes go in a wave of 16 and one of 4: alone, one after another, they are the same.
    evaluator = omnisafe.Evaluator()
    evaluator.load_saved(agent.run)
    together = evaluator.evaluate(20)
    seeds, world = evaluator._layouts(20, 0), worlds.make("Walk-v0", slip=0.01)
    alone = [evaluator._run(world, seeds[n : n + 1], 1.0) for n in range(20)]
    assert together.rewards == pytest.approx([one.rewards[0] for one in alone])
    assert together.costs == [one.costs[0] for one in alone]
    assert len(set(together.rewards)) == 20
    assert evaluator.evaluate(3).rewards == pytest.approx(together.rewards[:3])


def test_a_run_is_plotted_and_filmed(agent):
    assert agent.plot(smooth=2).read_bytes().startswith(b"\x89PNG")
    shown = agent.render(num_episodes=2)
    assert shown.rewards == pytest.approx(agent.evaluate(2).rewards)
    assert {path.name for path in (agent.run / "video").iterdir()} == {
        "eval-episode-0.mp4",
        "eval-episode-1.mp4",
        "result.txt",
    }
    assert f"return {shown.rewards[1]:.6g}" in (agent.run / "video" / "result.txt").read_text()


def test_the_getting_started_tutorial(tmp_path, capsys):
    custom_cfgs = {
        "seed": 1,
        "train_cfgs": {"total_steps": 20, "vector_env_nums": 1, "parallel": 1, "device": "cpu"},
        "algo_cfgs": {"steps_per_epoch": 10, "update_iters": 1},
        "logger_cfgs": {"use_wandb": False, "use_tensorboard": True, "log_dir": str(tmp_path)},
    }
    agent = omnisafe.Agent("PPOLag", "SafetyPointGoal1-v0", custom_cfgs=custom_cfgs)
    assert capsys.readouterr().err.count("logger_cfgs.use_tensorboard") == 1
    ep_ret, ep_cost, ep_len = agent.learn()
    assert all(math.isnan(x) for x in (ep_ret, ep_cost, ep_len))  # no episode of 1000 steps has ended
    assert read_manifest(agent.run)["seed"] == 1


def test_an_off_policy_agent_trains(tmp_path):
    cfgs = tiny(tmp_path)
    cfgs["algo_cfgs"] = {"steps_per_epoch": 40, "start_learning_steps": 40, "batch_size": 16}
    agent = omnisafe.Agent("SACLag", "Walk-v0", {"total_steps": 80}, cfgs)
    assert agent.algo_type == "off-policy"
    assert agent.config.updates_per_step == 0.5
    assert agent.learn().length == 10.0


def test_an_offline_agent_learns_from_a_file_and_measures_by_its_evaluations(tmp_path):
    rng = np.random.default_rng(0)
    x, action = rng.uniform(-0.5, 0.5, 64), rng.uniform(-1.0, 1.0, 64)
    after = x + 0.5 * action  # a scaled action of 1 is 2 of the corridor's own, a quarter of which is a step
    seen = {"obs": x, "next_obs": after}
    columns = {name: np.column_stack([value, np.ones(64)]).astype(np.float32) for name, value in seen.items()}
    np.savez(
        tmp_path / "walk.npz", action=action[:, None].astype(np.float32), reward=after - x,
        cost=(after > 1.0).astype(np.float64), done=np.ones(64), **columns,
    )  # fmt: skip
    cfgs = {
        "train_cfgs": {"total_steps": 4, "evaluate_epoisodes": 2, "torch_threads": 1},
        "algo_cfgs": {"steps_per_epoch": 2, "batch_size": 8, "lagrange_start_step": 0},
        "model_cfgs": {name: {"hidden_sizes": [8]} for name in ("actor", "critic")},
        "logger_cfgs": {"log_dir": str(tmp_path / "runs")},
    }
    with pytest.raises(ConfigError, match=r"BCQLag learns from recorded data\. Give its file as train_cfgs\.dataset"):
        omnisafe.Agent("BCQLag", "Walk-v0", custom_cfgs=cfgs)
    agent = omnisafe.Agent("BCQLag", "Walk-v0", {"dataset": str(tmp_path / "walk.npz")}, cfgs)
    assert (agent.algo_type, agent.plan.recipe) == ("offline", "bcq-lag")
    learned = agent.learn()
    evaluated = [row for row in read_metrics(agent.run / "metrics.jsonl") if "eval/return" in row]
    assert [row["step"] for row in evaluated] == [2, 4]
    assert learned == tuple(evaluated[-1][f"eval/{name}"] for name in ("return", "cost", "length"))
    assert agent.plot().is_file()
    assert len(agent.evaluate(2).rewards) == 2


def test_a_run_of_the_same_id_is_read_and_one_of_other_settings_refused(tmp_path):
    first = omnisafe.Agent("PPO", "Walk-v0", custom_cfgs=tiny(tmp_path))
    learned = first.learn(id="mine")
    again = omnisafe.Agent("PPO", "Walk-v0", custom_cfgs=tiny(tmp_path))
    assert again.learn(id="mine") == learned
    assert again.run == first.run
    for cfgs in (tiny(tmp_path, seed=1), tiny(tmp_path, env_cfgs={"slip": 0.2})):
        with pytest.raises(ConfigError, match=r"of another row or seed|was begun with other settings"):
            omnisafe.Agent("PPO", "Walk-v0", custom_cfgs=cfgs).learn(id="mine")


class Halts(Walk):
    """It is interrupted when it has logged for the first time."""

    _support_envs: ClassVar[list[str]] = ["Halts-v0"]
    asked: ClassVar[list[bool]] = []

    def spec_log(self, logger):
        super().spec_log(logger)
        if not Halts.asked:
            Halts.asked.append(True)
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_training_logs_its_worlds_own_metrics_when_it_goes_on(tmp_path):
    env_register(Halts)
    try:
        with pytest.raises(Stopped):
            omnisafe.Agent("PPO", "Halts-v0", custom_cfgs=tiny(tmp_path)).learn(id="mine")
        agent = omnisafe.Agent("PPO", "Halts-v0", custom_cfgs=tiny(tmp_path))
        agent.learn(id="mine")
    finally:
        env_unregister(Halts)
    rows = list(read_metrics(agent.run / "metrics.jsonl"))
    assert [row["step"] for row in rows if "Env/Last_x" in row] == [40, 80]


def test_bad_use_is_told_in_one_sentence(tmp_path, agent):
    with pytest.raises(UnknownName, match="Did you mean 'Walk-v0'"):
        omnisafe.Agent("PPO", "Wallk-v0")
    fresh = omnisafe.Agent("PPO", "Walk-v0", custom_cfgs={"logger_cfgs": {"log_dir": str(tmp_path)}})
    for use in (fresh.plot, fresh.evaluate, fresh.render):
        with pytest.raises(ConfigError, match=r"Call learn\(\) first"):
            use()
    with pytest.raises(ConfigError, match="Call load_saved"):
        omnisafe.Evaluator().evaluate()
    with pytest.raises(ConfigError, match="no window is opened"):
        agent.render(1, render_mode="human")
    with pytest.raises(ConfigError, match="Leave model_name out"):
        omnisafe.Evaluator().load_saved(agent.run, "epoch-10.pt")
    (tmp_path / "theirs" / "torch_save").mkdir(parents=True)
    with pytest.raises(RunError, match="no pickle is read"):
        omnisafe.Evaluator().load_saved(tmp_path / "theirs")


def test_a_moving_mean_starts_with_fewer():
    np.testing.assert_allclose(_smoothed(np.array([[2.0, 4.0, 9.0, 2.0]]), 2), [[2.0, 3.0, 6.5, 5.5]])


@pytest.fixture
def grid(tmp_path):
    grid = ExperimentGrid(exp_name="corridor")
    grid.add("algo", ["PPO", "PPOLag"])
    grid.add("env_id", ["Walk-v0"])
    grid.add("logger_cfgs:use_wandb", [False])
    grid.add("train_cfgs:vector_env_nums", [2])
    grid.add("train_cfgs:total_steps", [40])
    grid.add("algo_cfgs:steps_per_epoch", [40])
    grid.add("algo_cfgs:update_iters", [1])
    grid.add("seed", [0, 5])
    grid.results = grid.run(train, num_pool=1, parent_dir=tmp_path)
    return grid


def test_a_grid_trains_every_combination_and_compares_them(grid):
    assert [v["seed"] for v in grid.variants()] == [0, 5, 0, 5]
    runs = sorted(grid.log_dir.glob("*/seed-*"))
    assert [run.name for run in runs] == ["seed-000", "seed-005"] * 2
    rows = {row.value: row for row in ExperimentGrid.read(grid.log_dir).analyze("algo", cost_limit=25.0)}
    assert rows["PPO"].seeds == (0, 5)
    assert set(rows) == {"PPO", "PPOLag"}
    by_hand = [curve(run).episode_return[-1] for run in runs if "-PPO-" in run.parent.name]
    assert rows["PPO"].episode_return.value == pytest.approx(np.mean(by_hand))
    assert math.isnan(rows["PPO"].episode_return.low)  # two seeds give no interval
    assert len(list((grid.log_dir / "analysis").glob("*.png"))) == 1
    assert len((grid.log_dir / "exp-x-results.txt").read_text().splitlines()) == 4
    assert len(grid.evaluate(num_episodes=2)) == 4


def test_a_grid_goes_on_where_it_was_and_refuses_another(grid, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in grid.log_dir.glob("*/seed-*/metrics.jsonl")}
    assert grid.run(train, parent_dir=tmp_path) == grid.results
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = ExperimentGrid("corridor")
    other.add("algo", ["PPO"])
    other.add("env_id", "Walk-v0")
    with pytest.raises(ConfigError, match="holds another grid"):
        other.run(train, parent_dir=tmp_path)


def test_nothing_of_a_wrong_grid_is_trained(tmp_path):
    grid = ExperimentGrid("wrong")
    grid.add("algo", ["PPO"])
    grid.add("env_id", ["Walk-v0"])
    grid.add("algo_cfgs:gama", [0.9])
    with pytest.raises(ConfigError, match=r"Did you mean 'algo_cfgs\.gamma'"):
        grid.run(train, parent_dir=tmp_path)
    assert not (tmp_path / "wrong").exists()
    with pytest.raises(ConfigError, match="in the grid already"):
        grid.add("algo", ["PPOLag"])
    with pytest.raises(ConfigError, match="a value twice"):
        grid.add("seed", [0, 0])
    with pytest.raises(ConfigError, match="has not been run"):
        grid.analyze("algo")
    with pytest.raises(ConfigError, match="cannot be compared"):
        grid.analyze("alg")


def test_a_grid_varies_a_key_within_a_table_that_is_given_beside_it():
    table = {"steps_per_epoch": 40, "gamma": 0.9}
    grid = ExperimentGrid("nested")
    grid.add("algo", ["PPO"])
    grid.add("env_id", ["Walk-v0"])
    grid.add("algo_cfgs:gamma", [0.5, 0.1])
    grid.add("algo_cfgs", [table])  # the order of the two is nothing to it
    trained = [variant["algo_cfgs"] for variant in grid.variants()]
    assert trained == [{"steps_per_epoch": 40, "gamma": gamma} for gamma in (0.5, 0.1)]
    assert table == {"steps_per_epoch": 40, "gamma": 0.9}


def test_a_grid_whose_function_trains_elsewhere_has_nothing_to_compare(tmp_path):
    grid = ExperimentGrid("elsewhere")
    grid.add("algo", ["PPO", "PPOLag"])
    grid.add("env_id", ["Walk-v0"])
    grid.run(lambda number, algo, env_id, custom_cfgs: (0.0, 0.0, 0.0), parent_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"holds no run with such values.*logger_cfgs\.log_dir"):
        grid.analyze("algo")


def test_a_grids_settings_are_beside_its_runs(grid):
    paths = list(grid.log_dir.glob("*/exps_config.json"))
    assert len(paths) == 2  # one of each algorithm
    for path in paths:
        settings = json.loads(path.read_text())
        assert settings["train_cfgs"] == {"vector_env_nums": 2, "total_steps": 40}
        assert "seed" not in settings
