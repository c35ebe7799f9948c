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
    assert f"{found['files']} on-policy and off-policy files" in page


@pytest.mark.parametrize("env", [RUN, GOAL])
@pytest.mark.parametrize("algo", ALGORITHMS["all"])
def test_the_published_file_of_each_algorithm_is_its_faithful_preset(algo, env):
    whole = published(algorithms.find(algo), env)
    del whole["train_cfgs.torch_threads"]  # 16 there; here a row's result depends on it, and the default is one
    got = made(algo, nested(whole), env)
    expected = recipe_config(got.recipe, got.preset, {"env": env})
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
    assert set(got.settings) <= {key, "cost_gamma", "gamma", "num_envs", "updates_per_step", "cost_limit"}


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
    ],
)
def test_a_setting_that_means_nothing_here_is_refused_with_one_sentence(algo, given, sentence):
    with pytest.raises(ConfigError, match=sentence) as raised:
        made(algo, given)
    assert "\n" not in str(raised.value)


def test_a_value_that_the_row_refuses_is_named_by_the_key_it_was_given_by():
    with pytest.raises(ConfigError, match=r"update\.clip is algo_cfgs\.clip"):
        _config(made("PPOLag", {"algo_cfgs": {"clip": 2.0}}))


def test_other_algorithms_are_refused_with_what_there_is():
    with pytest.raises(UnknownName, match="Did you mean 'PPOLag'"):
        algorithms.find("PPOLagg")


@pytest.mark.parametrize("name", algorithms.OTHERS)
def test_an_algorithm_with_settings_of_its_own_is_refused_with_its_command(name):
    folder, row = algorithms.OTHERS[name]
    known = {entry.name for entry in registry.entries("recipe")}
    if name != "CRABS":
        assert row in known
    sentence = rf"{name} \({folder}\).*`trueline train {row} env=ENV" if row in known else "has no row"
    with pytest.raises(UnknownName, match=sentence):
        algorithms.find(name)
