"""From OmniSafe's names and keys to ours."""

import json
import math
from pathlib import Path

import pytest

from trueline.compat.omnisafe import ALGORITHMS, algorithms
from trueline.compat.omnisafe.agent import _config
from trueline.compat.omnisafe.published import published
from trueline.compat.omnisafe.settings import plan
from trueline.core import registry
from trueline.core.errors import ConfigError, UnknownName
from trueline.core.recipe import recipe_config

GOAL, RUN = "SafetyPointGoal1-v0", "SafetyPointRun0-v0"


def nested(flat):
    tree = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        table = tree
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return tree


TABLE = {algorithm.name: algorithm for algorithm in algorithms._TABLE}
OFFLINE = {algorithm.recipe for algorithm in algorithms._TABLE if algorithm.type == "offline"}


def made(algo, cfgs=None, env=RUN, terminal=None):
    return plan(TABLE[algo], env, cfgs, terminal)


def test_every_key_of_ppo_lags_file_is_translated():
    whole = published(algorithms.find("PPOLag"))
    got = made("PPOLag", nested(whole))
    assert dict(got.settings) == {
        "learner_threads": 16,
        "num_envs": 1,
        "total_steps": 10_000_000,
        "steps_per_epoch": 20_000,
        "update.passes": 40,
        "update.minibatch": 64,
        "update.target_kl": 0.02,
        "update.entropy": 0.0,
        "update.grad_norm": 40.0,
        "update.critic_l2": 0.001,
        "gamma": 0.99,
        "cost_gamma": 0.99,
        "lam": 0.95,
        "cost_lam": 0.95,
        "update.clip": 0.2,
        "window": 100,
        "actor.init": "kaiming",
        "critic.init": "kaiming",
        "update.schedule": "linear",
        "actor.hidden": (64, 64),
        "actor.activation": "tanh",
        "update.lr": 3e-4,
        "critic.hidden": (64, 64),
        "critic.activation": "tanh",
        "update.critic_lr": 3e-4,
        "cost_limit": 25.0,
        "constraint.init": 0.001,
        "constraint.lr": 0.035,
        "constraint.rule": "adam",
        "env_options": {},
    }
    assert (got.recipe, got.preset, got.seed, got.root, got.wandb) == ("ppo-lag", "faithful", 0, "./runs", None)
    # Each key of the file is translated, has one value, or is listed as idle: none is dropped in silence.
    assert set(got.idle) == {
        "logger_cfgs.use_tensorboard",
        "logger_cfgs.save_model_freq",
        "model_cfgs.std_range",
    }


def test_the_releases_files_were_read_and_none_of_their_values_is_different():
    root = Path(__file__).parents[2]
    found = json.loads((root / "benchmarks" / "results" / "omnisafe_defaults.json").read_text())
    assert (found["release"], found["different"]) == ("0.5.0", [])
    assert set(found["values_by_file"]) == set(TABLE)
    # A file that is read whole has at least the keys that we know, but env_cfgs.
    assert all(count >= len(published(TABLE[name])) - 1 for name, count in found["values_by_file"].items())
    page = (root / "docs" / "migrating_from_omnisafe.md").read_text()
    assert f"{found['values']:,} values" in page
    assert f"{found['files']} files" in page


@pytest.mark.parametrize("env", [RUN, GOAL])
@pytest.mark.parametrize("algo", ALGORITHMS["all"])
def test_the_published_file_of_each_algorithm_is_its_faithful_preset(algo, env):
    whole = published(algorithms.find(algo), env)
    del whole["train_cfgs.torch_threads"]  # 16 there; here a row's result depends on it, and the default is one
    got = made(algo, nested(whole), env)
    own = {}
    if got.recipe in OFFLINE:  # no row evaluates itself unless it is asked to, and none has a data set of its own
        own = {"dataset": "SafetyPointCircle1-v0_mixed_0.5"}
        own["evaluation"] = {"every": 1, "episodes": 10, "final_episodes": 10}
    expected = recipe_config(got.recipe, got.preset, {"env": env, **own})
    config = _config(got)
    if algo == "DDPGPID":  # its multiplier starts at 0, those of the other PID files at 0.001
        assert config.constraint.init == 0.0
        config = config.model_copy(update={"constraint": expected.constraint})
    assert config == expected


@pytest.mark.parametrize("algo", ALGORITHMS["all"])
def test_every_published_key_has_a_meaning(algo):
    from trueline.compat.omnisafe.settings import _meanings, _Translated

    algorithm = algorithms.find(algo)
    known = set()
    for meaning in _meanings(algorithm):
        known |= set(meaning.keys) if isinstance(meaning, _Translated) else {meaning.key}
    handled = {"seed", "logger_cfgs.log_dir", "logger_cfgs.use_wandb", "logger_cfgs.wandb_project"}
    assert set(published(algorithm)) <= known | handled


@pytest.mark.parametrize("algo", ALGORITHMS["all"])
def test_every_algorithm_is_a_registered_row_with_the_preset(algo):
    got = made(algo)
    assert got.preset in registry.load("recipe", got.recipe).presets
    assert got.preset in registry.load("recipe", made(algo, env=GOAL).recipe).presets


def test_the_lists_of_algorithms_are_the_originals():
    every = {*ALGORITHMS["all"], *algorithms.OTHERS}
    assert len(every) == 23 + 10 + 6 + 6  # on-policy, off-policy with CRABS, model-based, offline
    assert {"PPOLag", "CPO", "FOCOPS", "TRPOSaute"} <= set(ALGORITHMS["on-policy"])
    assert algorithms.ALGORITHM2TYPE["SACLag"] == "off-policy"
    assert ALGORITHMS["offline"] == ("VAEBC", "BCQ", "BCQLag", "CRR", "CCRR")
    assert set(ALGORITHMS["all"]).isdisjoint(algorithms.OTHERS)


@pytest.mark.parametrize(
    ("algo", "given", "key", "value"),
    [
        ("PPOLag", {"algo_cfgs": {"kl_early_stop": False}}, "update.target_kl", None),
        ("PPOLag", {"algo_cfgs": {"use_max_grad_norm": False}}, "update.grad_norm", math.inf),
        ("PPOLag", {"algo_cfgs": {"use_critic_norm": False}}, "update.critic_l2", 0.0),
        ("PPOLag", {"algo_cfgs": {"critic_norm_coef": 0.01}}, "update.critic_l2", 0.01),
        ("PPOLag", {"model_cfgs": {"linear_lr_decay": False}}, "update.schedule", "constant"),
        ("PPOLag", {"lagrange_cfgs": {"lambda_optimizer": "SGD"}}, "constraint.rule", "sgd"),
        # Keys whose published values are equal, so that a swap would not show in the files.
        ("PPOLag", {"algo_cfgs": {"gamma": 0.9}}, "gamma", 0.9),
        ("PPOLag", {"algo_cfgs": {"cost_gamma": 0.9}}, "cost_gamma", 0.9),
        ("PPOLag", {"algo_cfgs": {"lam": 0.9}}, "lam", 0.9),
        ("PPOLag", {"algo_cfgs": {"lam_c": 0.9}}, "cost_lam", 0.9),
        ("PPOLag", {"model_cfgs": {"actor": {"lr": 1e-4}}}, "update.lr", 1e-4),
        ("PPOLag", {"model_cfgs": {"critic": {"lr": 1e-4}}}, "update.critic_lr", 1e-4),
        ("PPOLag", {"model_cfgs": {"actor": {"hidden_sizes": [32]}}}, "actor.hidden", (32,)),
        ("PPOLag", {"model_cfgs": {"critic": {"hidden_sizes": [32]}}}, "critic.hidden", (32,)),
        ("PPOLag", {"model_cfgs": {"actor": {"activation": "relu"}}}, "actor.activation", "relu"),
        ("PPOLag", {"model_cfgs": {"critic": {"activation": "relu"}}}, "critic.activation", "relu"),
        ("CPPOPID", {"lagrange_cfgs": {"pid_kd": 0.5}}, "constraint.kd", 0.5),
        ("SACPID", {"lagrange_cfgs": {"pid_kp": 1e-5}}, "constraint.kp", 1e-5),
        ("SACPID", {"lagrange_cfgs": {"pid_kd": 1e-5}}, "constraint.kd", 1e-5),
        ("SAC", {"model_cfgs": {"actor": {"lr": 1e-4}}}, "update.lr", 1e-4),
        ("SAC", {"model_cfgs": {"critic": {"lr": 1e-4}}}, "update.critic_lr", 1e-4),
        ("SAC", {"algo_cfgs": {"obs_normalize": True}}, "normalise", True),
        ("CUP", {"lagrange_cfgs": {"lagrangian_upper_bound": 3.0}}, "constraint.upper", 3.0),
        ("CPPOPID", {"lagrange_cfgs": {"pid_ki": 0.02}}, "constraint.ki", 0.02),
        ("SACPID", {"lagrange_cfgs": {"pid_ki": 2e-7}}, "constraint.ki", 2e-4),
        ("SACLag", {"lagrange_cfgs": {"lambda_lr": 2e-5}}, "constraint.lr", 2e-2),
        ("SAC", {"algo_cfgs": {"gamma": 0.9}}, "cost_gamma", 0.9),
        ("SAC", {"train_cfgs": {"vector_env_nums": 4}}, "updates_per_step", 0.25),
        ("SAC", {"algo_cfgs": {"update_cycle": 10, "update_iters": 5}}, "updates_per_step", 0.5),
        ("TD3", {"algo_cfgs": {"use_exploration_noise": False}}, "update.exploration", 0.0),
        ("CPO", {"algo_cfgs": {"cost_limit": 10}}, "cost_limit", 10.0),
        ("TRPO", {"algo_cfgs": {"fvp_sample_freq": 4}}, "update.fisher_stride", 4),
        ("IPO", {"algo_cfgs": {"kappa": 0.1}}, "constraint.kappa", 0.1),
        ("P3O", {"algo_cfgs": {"kappa": 10.0}}, "update.kappa", 10.0),
        ("OnCRPO", {"algo_cfgs": {"distance": 1.0}}, "constraint.distance", 1.0),
        ("PPOSaute", {"algo_cfgs": {"safety_budget": 15.0}}, "cost_limit", 15.0),
        ("PPOSimmerPID", {"algo_cfgs": {"safety_budget": 10.0}}, "augmentation.init", 0.4),
        ("TRPOSimmerPID", {"control_cfgs": {"polyak": 0.9}}, "augmentation.smoothing", 0.9),
        ("FOCOPS", {"algo_cfgs": {"focops_lam": 1.0}}, "update.lam", 1.0),
        ("PPOLag", {"train_cfgs": {"total_steps": 1e6}}, "total_steps", 1_000_000),
        ("VAEBC", {"model_cfgs": {"hidden_sizes": [32]}}, "actor.hidden", (32,)),
        ("VAEBC", {"model_cfgs": {"learning_rate": 1e-4}}, "update.lr", 1e-4),
        ("BCQ", {"algo_cfgs": {"phi": 0.1}}, "update.phi", 0.1),
        ("BCQ", {"algo_cfgs": {"sampled_action_num": 5}}, "update.candidates", 5),
        ("BCQ", {"algo_cfgs": {"minimum_weighting": 0.5}}, "update.least_weight", 0.5),
        ("BCQ", {"train_cfgs": {"evaluate_epoisodes": 3}}, "evaluation.final_episodes", 3),
        ("BCQLag", {"algo_cfgs": {"cost_gamma": 0.9}}, "cost_gamma", 0.9),
        ("BCQLag", {"lagrange_cfgs": {"lambda_lr": 1e-4}}, "constraint.lr", 1e-4),
        ("CRR", {"algo_cfgs": {"beta": 2}}, "update.beta", 2.0),
        ("CRR", {"algo_cfgs": {"sampled_action_num": 5}}, "update.actions", 5),
        ("CCRR", {"algo_cfgs": {"lagrange_start_step": 100}}, "multiplier_after", 100),
        ("CCRR", {"train_cfgs": {"dataset": "mine.parquet"}}, "dataset", "mine.parquet"),
    ],
)
def test_a_key_becomes_the_setting_it_means(algo, given, key, value):
    got = made(algo, given)
    found = got.settings[key]
    assert found == (pytest.approx(value) if isinstance(value, float) and math.isfinite(value) else value)
    if algo not in ALGORITHMS["all"]:
        return
    config = _config(got)  # and the row takes it
    for part in key.split("."):
        config = getattr(config, part)
    assert config == found
    # Nothing else is set, beyond what one key stands for together with another.
    beside = {"cost_gamma", "gamma", "num_envs", "updates_per_step", "cost_limit"}
    if got.recipe in OFFLINE:
        beside |= {"evaluation.every", "evaluation.episodes", "evaluation.final_episodes"}
    assert set(got.settings) <= {key, *beside}


def test_the_originals_own_files_have_scaled_actions_as_it_reads_them():
    assert made("BCQ", {"train_cfgs": {"dataset": "mine.npz"}}).settings["actions"] == "scaled"
    assert "actions" not in made("BCQ", {"train_cfgs": {"dataset": "run://a/data.parquet"}}).settings


def test_terminal_settings_are_laid_over_the_others_and_names_in_them_are_left_out():
    terminal = {"algo": "PPOLag", "env_id": RUN, "total_steps": 2048, "vector_env_nums": 2, "parallel": 1}
    got = made("PPOLag", {"seed": 3, "train_cfgs": {"total_steps": 4096}}, terminal=terminal)
    assert (got.settings["total_steps"], got.settings["num_envs"], got.seed) == (2048, 2, 3)


def test_a_world_with_overrides_gets_the_preset_that_holds_them():
    assert made("SACLag", env=GOAL).preset == "faithful-goal1"
    assert made("PPOSaute", env="SafetyCarCircle2-v0").preset == "faithful-goal"
    assert made("PPOSimmerPID", env="SafetyCarCircle2-v0").preset == "faithful"
    assert made("PPOLag", env=GOAL).preset == "faithful"


@pytest.mark.parametrize(
    ("algo", "given", "sentence"),
    [
        ("PPOLag", {"algo_cfgs": {"update_iter": 4}}, "Did you mean 'algo_cfgs.update_iters'"),
        ("PPOLag", {"lagrange_cfgs": {"cost_limits": 4.0}}, "Did you mean 'lagrange_cfgs.cost_limit'"),
        ("PPOLag", {"algo_cfgs": {"cost_limit": 4.0}}, "Did you mean 'lagrange_cfgs.cost_limit'"),
        ("CPO", {"algo_cfgs": {"clip": 0.1}}, "CPO has no setting 'algo_cfgs.clip'"),
        ("PPOLag", {"train_cfgs": {"device": "cuda:0"}}, "runs on the CPU"),
        ("PPOLag", {"train_cfgs": {"parallel": 4}}, "one process learns"),
        ("PPOLag", {"algo_cfgs": {"reward_normalize": True}}, "standardised anyway"),
        ("PPOLag", {"algo_cfgs": {"adv_estimation_method": "vtrace"}}, "estimated by GAE"),
        ("PPOLag", {"model_cfgs": {"actor": {"activation": "sigmoid"}}}, "There are tanh, relu"),
        ("PPOLag", {"train_cfgs": {"total_steps": 10.5}}, "Give a whole number"),
        ("PPOLag", {"seed": "zero"}, "seed is 'zero'"),
        ("CPPOPID", {"lagrange_cfgs": {"pid_delta_p_ema_alpha": 0.5}}, "one number for both"),
        ("SACLag", {"algo_cfgs": {"warmup_epochs": 10}}, "as soon as an episode"),
        ("PPOLag", {"model_cfgs": {"actor": {"hidden_sizes": 64}}}, r"actor\.hidden_sizes is 64\. Give a list"),
        ("PPOLag", {"model_cfgs": {"critic": {"hidden_sizes": "64"}}}, r"critic\.hidden_sizes is '64'\. Give a list"),
        ("PPOSimmerPID", {"algo_cfgs": {"upper_budget": 0.0}}, r"upper_budget is 0\.0\. Give a number above 0"),
        ("PPOSimmerPID", {"algo_cfgs": {"safety_budget": "x"}}, "safety_budget is 'x'. Give a number"),
        ("SACLag", {"train_cfgs": {"vector_env_nums": 0}}, "vector_env_nums is 0. Give at least 1"),
        ("SACLag", {"algo_cfgs": {"update_cycle": 0}}, "update_cycle is 0. Give at least 1"),
        ("SACLag", {"algo_cfgs": {"update_iters": "a"}}, "update_iters is 'a'. Give a whole number"),
        ("PPOLag", {"algo_cfgs": {"kl_early_stop": "yes"}}, "kl_early_stop is 'yes'. Give True or False"),
        ("PPOLag", {"algo_cfgs": {"target_kl": "x"}}, "target_kl is 'x'. Give a number"),
        ("PPOLag", {"algo_cfgs": {"max_grad_norm": "x"}}, "max_grad_norm is 'x'. Give a number"),
        ("PPOLag", {"algo_cfgs": {"use_max_grad_norm": 1}}, "use_max_grad_norm is 1. Give True or False"),
        ("PPOLag", {"algo_cfgs": {"critic_norm_coef": None}}, "critic_norm_coef is None. Give a number"),
        ("PPOLag", {"model_cfgs": {"linear_lr_decay": "no"}}, "linear_lr_decay is 'no'. Give True or False"),
        ("PPOLag", {"model_cfgs": {"actor": {"activation": ["tanh"]}}}, "There are tanh, relu"),
        ("TD3", {"algo_cfgs": {"use_exploration_noise": "no"}}, "use_exploration_noise is 'no'. Give True or False"),
        ("CPPOPID", {"lagrange_cfgs": {"pid_delta_d_ema_alpha": "x"}}, "pid_delta_d_ema_alpha is 'x'. Give a number"),
        ("PPOLag", {"logger_cfgs": {"use_wandb": "no"}}, "use_wandb is 'no'. Give True or False"),
        ("PPOLag", "text", r"custom_cfgs is 'text'\. Give a dict of settings by name"),
        ("PPOLag", {"algo_cfgs": 5}, r"algo_cfgs is 5, but is a section\. Give a dict with some of .*steps_per_epoch"),
        ("PPOLag", {"model_cfgs": {"actor": 5}}, r"model_cfgs\.actor is 5, but is a section\..*hidden_sizes"),
        ("BCQ", {"train_cfgs": {"dataset": 5}}, r"train_cfgs\.dataset is 5\. Give the path"),
        ("BCQ", {"train_cfgs": {"evaluate_epoisodes": 0}}, "evaluate_epoisodes is 0. Give at least 1"),
        ("BCQ", {"train_cfgs": {"vector_env_nums": 2}}, "nothing is stepped"),
        ("CRR", {"algo_cfgs": {"minimum_weighting": 0.5}}, "CRR has no setting 'algo_cfgs.minimum_weighting'"),
        ("VAEBC", {"model_cfgs": {"actor": {"lr": 1e-3}}}, "VAEBC has no setting 'model_cfgs.actor.lr'"),
        ("PPO", {"lagrange_cfgs": {"cost_limit": 10.0}}, r"'lagrange_cfgs\.cost_limit'\. There are algo_cfgs, "),
        ("VAEBC", {"model_cfgs": {"hidden_sizes": 64}}, r"model_cfgs\.hidden_sizes is 64\. Give a list"),
    ],
)
def test_a_setting_that_means_nothing_here_is_refused_with_one_sentence(algo, given, sentence):
    with pytest.raises(ConfigError, match=sentence) as raised:
        made(algo, given)
    assert "\n" not in str(raised.value)


def test_terminal_settings_that_are_no_dict_are_refused():
    with pytest.raises(ConfigError, match=r"train_terminal_cfgs is \[1\]\. Give a dict"):
        made("PPOLag", {}, terminal=[1])


def test_a_value_that_the_row_refuses_is_named_by_the_key_it_was_given_by():
    with pytest.raises(ConfigError, match=r"update\.clip is algo_cfgs\.clip"):
        _config(made("PPOLag", {"algo_cfgs": {"clip": 2.0}}))


def test_other_algorithms_are_refused_with_what_there_is():
    with pytest.raises(UnknownName, match="Did you mean 'PPOLag'"):
        algorithms.find("PPOLagg")


@pytest.mark.parametrize("name", algorithms.OTHERS)
def test_an_algorithm_with_settings_of_its_own_is_refused_with_its_command(name):
    folder, row, needs = algorithms.OTHERS[name]
    assert row in {entry.name for entry in registry.entries("recipe")}
    with pytest.raises(UnknownName, match=rf"{name} \({folder}\).*`trueline train {row} {needs}`"):
        algorithms.find(name)
    page = (Path(__file__).parents[2] / "docs" / "migrating_from_omnisafe.md").read_text()
    assert name in page


@pytest.mark.parametrize(
    ("row", "preset", "given"),
    [
        ("crabs", None, algorithms.OTHERS["CRABS"][2]),
        ("cce-pets", "faithful", "env_options.of=SafetyCarGoal1-v0"),  # SafetyCarGoal1-v0-modelbased
    ],
)
def test_the_commands_of_the_page_name_a_world_that_the_row_takes(row, preset, given):
    page = (Path(__file__).parents[2] / "docs" / "migrating_from_omnisafe.md").read_text()
    assert f"trueline train {row} {f'--preset {preset} ' if preset else ''}{given}`" in page
    registry.load("recipe", row).check(recipe_config(row, preset, None, (given,)), Path())
