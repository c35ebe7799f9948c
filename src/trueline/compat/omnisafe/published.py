"""The settings that release 0.5.0 of the original ships for each algorithm: what a key that is not given stands at.

They are here for two reasons: they are the keys that may be given, and some of our settings follow from several of
theirs. What trains is the row's preset, which a test holds against these numbers, key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.compat.omnisafe.algorithms import Algorithm

__all__ = ["Flat", "flat", "preset", "published"]

Flat = dict[str, Any]  # dotted key -> value

_SHARED: Flat = {
    "seed": 0,
    "train_cfgs.device": "cpu",
    "train_cfgs.torch_threads": 16,
    "train_cfgs.vector_env_nums": 1,
    "train_cfgs.parallel": 1,
    "algo_cfgs.reward_normalize": False,
    "algo_cfgs.cost_normalize": False,
    "algo_cfgs.max_grad_norm": 40.0,
    "algo_cfgs.gamma": 0.99,
    "logger_cfgs.use_wandb": False,
    "logger_cfgs.wandb_project": "omnisafe",
    "logger_cfgs.use_tensorboard": True,
    "logger_cfgs.save_model_freq": 100,
    "logger_cfgs.log_dir": "./runs",
    "model_cfgs.weight_initialization_mode": "kaiming_uniform",
    "env_cfgs": {},
}

_ON_POLICY: Flat = {
    **_SHARED,
    "train_cfgs.total_steps": 10_000_000,
    "algo_cfgs.steps_per_epoch": 20_000,
    "algo_cfgs.update_iters": 40,
    "algo_cfgs.batch_size": 64,
    "algo_cfgs.target_kl": 0.02,
    "algo_cfgs.entropy_coef": 0.0,
    "algo_cfgs.obs_normalize": True,
    "algo_cfgs.kl_early_stop": True,
    "algo_cfgs.use_max_grad_norm": True,
    "algo_cfgs.use_critic_norm": True,
    "algo_cfgs.critic_norm_coef": 0.001,
    "algo_cfgs.cost_gamma": 0.99,
    "algo_cfgs.lam": 0.95,
    "algo_cfgs.lam_c": 0.95,
    "algo_cfgs.clip": 0.2,
    "algo_cfgs.adv_estimation_method": "gae",
    "algo_cfgs.standardized_rew_adv": True,
    "algo_cfgs.standardized_cost_adv": True,
    "algo_cfgs.penalty_coef": 0.0,
    "algo_cfgs.use_cost": True,
    "logger_cfgs.window_lens": 100,
    "model_cfgs.actor_type": "gaussian_learning",
    "model_cfgs.linear_lr_decay": True,
    "model_cfgs.exploration_noise_anneal": False,
    "model_cfgs.std_range": [0.5, 0.1],
    "model_cfgs.actor.hidden_sizes": [64, 64],
    "model_cfgs.actor.activation": "tanh",
    "model_cfgs.actor.lr": 3e-4,
    "model_cfgs.critic.hidden_sizes": [64, 64],
    "model_cfgs.critic.activation": "tanh",
    "model_cfgs.critic.lr": 3e-4,
}

_NATURAL: Flat = {
    "algo_cfgs.update_iters": 10,
    "algo_cfgs.batch_size": 128,
    "algo_cfgs.target_kl": 0.01,
    "algo_cfgs.kl_early_stop": False,
    "algo_cfgs.cg_damping": 0.1,
    "algo_cfgs.cg_iters": 15,
    "algo_cfgs.fvp_obs": "None",
    "algo_cfgs.fvp_sample_freq": 1,
    "model_cfgs.linear_lr_decay": False,
    "model_cfgs.actor.lr": None,
    "model_cfgs.critic.lr": 1e-3,
}

_LAGRANGE: Flat = {
    "lagrange_cfgs.cost_limit": 25.0,
    "lagrange_cfgs.lagrangian_multiplier_init": 0.001,
    "lagrange_cfgs.lambda_lr": 0.035,
    "lagrange_cfgs.lambda_optimizer": "Adam",
}

_PID: Flat = {
    "lagrange_cfgs.cost_limit": 25.0,
    "lagrange_cfgs.lagrangian_multiplier_init": 0.001,
    "lagrange_cfgs.pid_kp": 0.1,
    "lagrange_cfgs.pid_ki": 0.01,
    "lagrange_cfgs.pid_kd": 0.01,
    "lagrange_cfgs.pid_d_delay": 10,
    "lagrange_cfgs.pid_delta_p_ema_alpha": 0.95,
    "lagrange_cfgs.pid_delta_d_ema_alpha": 0.95,
    "lagrange_cfgs.sum_norm": True,
    "lagrange_cfgs.diff_norm": False,
    "lagrange_cfgs.penalty_max": 100.0,
}

_SAUTE: Flat = {
    "algo_cfgs.safety_budget": 25.0,
    "algo_cfgs.saute_gamma": 0.999,
    "algo_cfgs.max_ep_len": 1000,
    "algo_cfgs.unsafe_reward": -1.0,
}

_SIMMER: Flat = {
    **_SAUTE,
    "algo_cfgs.upper_budget": 25.0,
    "control_cfgs.kp": 5e-4,
    "control_cfgs.ki": 1e-5,
    "control_cfgs.kd": 0.0,
    "control_cfgs.polyak": 0.995,
}

_OFF_POLICY: Flat = {
    **_SHARED,
    "train_cfgs.total_steps": 1_000_000,
    "train_cfgs.eval_episodes": 1,
    "algo_cfgs.steps_per_epoch": 2000,
    "algo_cfgs.update_cycle": 1,
    "algo_cfgs.update_iters": 1,
    "algo_cfgs.size": 1_000_000,
    "algo_cfgs.batch_size": 256,
    "algo_cfgs.obs_normalize": False,
    "algo_cfgs.use_critic_norm": False,
    "algo_cfgs.critic_norm_coeff": 0.001,
    "algo_cfgs.polyak": 0.005,
    "algo_cfgs.start_learning_steps": 25_000,
    "algo_cfgs.policy_delay": 2,
    "algo_cfgs.use_exploration_noise": True,
    "algo_cfgs.exploration_noise": 0.1,
    "algo_cfgs.use_cost": False,
    "logger_cfgs.window_lens": 10,
    "model_cfgs.actor_type": "mlp",
    "model_cfgs.linear_lr_decay": False,
    "model_cfgs.actor.hidden_sizes": [256, 256],
    "model_cfgs.actor.activation": "relu",
    "model_cfgs.actor.lr": 3e-4,
    "model_cfgs.critic.num_critics": 2,
    "model_cfgs.critic.hidden_sizes": [256, 256],
    "model_cfgs.critic.activation": "relu",
    "model_cfgs.critic.lr": 3e-4,
}

_DDPG: Flat = {"algo_cfgs.policy_delay": 1, "model_cfgs.critic.num_critics": 1}
_TD3: Flat = {"algo_cfgs.policy_noise": 0.2, "algo_cfgs.policy_noise_clip": 0.5}
_SAC: Flat = {
    **_TD3,
    "algo_cfgs.start_learning_steps": 10_000,
    "algo_cfgs.use_exploration_noise": False,
    "algo_cfgs.alpha": 0.2,
    "algo_cfgs.auto_alpha": False,
    "model_cfgs.actor_type": "gaussian_sac",
}
_OFF_POLICY_LIMITED: Flat = {
    "algo_cfgs.cost_normalize": True,
    "algo_cfgs.use_cost": True,
    "algo_cfgs.warmup_epochs": 100,
}
_OFF_POLICY_LAGRANGE: Flat = {**_OFF_POLICY_LIMITED, **_LAGRANGE, "lagrange_cfgs.lambda_lr": 1e-5}
_OFF_POLICY_PID: Flat = {
    **_OFF_POLICY_LIMITED,
    **_PID,
    "lagrange_cfgs.pid_kp": 1e-6,
    "lagrange_cfgs.pid_ki": 1e-7,
    "lagrange_cfgs.pid_kd": 1e-7,
    "model_cfgs.actor.lr": 1e-4,
}

_OFFLINE: Flat = {
    **{key: value for key, value in _SHARED.items() if not key.startswith("algo_cfgs.")},
    "train_cfgs.total_steps": 1_000_000,
    "train_cfgs.dataset": "SafetyPointCircle1-v0_mixed_0.5",
    "train_cfgs.evaluate_epoisodes": 10,
    "algo_cfgs.batch_size": 256,
    "algo_cfgs.steps_per_epoch": 1000,
}
_CLONED: Flat = {
    "model_cfgs.hidden_sizes": [750, 750],
    "model_cfgs.activation": "relu",
    "model_cfgs.learning_rate": 1e-3,
}
_Q_LEARNT: Flat = {
    "algo_cfgs.gamma": 0.99,
    "algo_cfgs.sampled_action_num": 10,
    "algo_cfgs.polyak": 0.005,
    **{f"model_cfgs.{network}.hidden_sizes": [256, 256, 256] for network in ("actor", "critic")},
    **{f"model_cfgs.{network}.activation": "relu" for network in ("actor", "critic")},
    **{f"model_cfgs.{network}.lr": 1e-3 for network in ("actor", "critic")},
}
_OFFLINE_LAGRANGE: Flat = {
    **_LAGRANGE,
    "lagrange_cfgs.lagrangian_multiplier_init": 1.0,
    "lagrange_cfgs.lambda_lr": 1e-3,
    "algo_cfgs.lagrange_start_step": 150_000,
}
_CRR: Flat = {"algo_cfgs.beta": 1, "algo_cfgs.phi": 0.05}
_BCQ: Flat = {"algo_cfgs.phi": 0.05, "algo_cfgs.minimum_weighting": 0.75}

# What an algorithm's own file adds to its family.
_OWN: Mapping[str, Flat] = {
    "PolicyGradient": {"algo_cfgs.update_iters": 10},
    "PDO": {"algo_cfgs.reward_normalize": True, "algo_cfgs.cost_normalize": True},
    "CPO": {"algo_cfgs.cost_limit": 25.0, "model_cfgs.linear_lr_decay": True},
    "PCPO": {"algo_cfgs.cost_limit": 25.0, "model_cfgs.linear_lr_decay": True},
    "FOCOPS": {
        "algo_cfgs.focops_eta": 0.02,
        "algo_cfgs.focops_lam": 1.5,
        "lagrange_cfgs.lagrangian_upper_bound": 2.0,
    },
    "CUP": {"algo_cfgs.target_kl": 0.01, "lagrange_cfgs.lagrangian_upper_bound": 2.0},
    "IPO": {
        **_LAGRANGE,  # in its file, and read by nothing
        "algo_cfgs.update_iters": 10,
        "algo_cfgs.reward_normalize": True,
        "algo_cfgs.cost_normalize": True,
        "algo_cfgs.kappa": 0.01,
        "algo_cfgs.penalty_max": 1.0,
        "algo_cfgs.cost_limit": 25.0,
    },
    "P3O": {"algo_cfgs.update_iters": 10, "algo_cfgs.kappa": 20.0, "algo_cfgs.cost_limit": 25.0},
    "OnCRPO": {"algo_cfgs.cost_limit": 25.0, "algo_cfgs.distance": 2.0},
    "PPOEarlyTerminated": {"algo_cfgs.cost_limit": 25.0},
    "TRPOEarlyTerminated": {"algo_cfgs.cost_limit": 25.0},
    "DDPGPID": {"lagrange_cfgs.lagrangian_multiplier_init": 0.0},
    "BCQ": _BCQ,
    "BCQLag": {**_BCQ, "algo_cfgs.cost_gamma": 0.99},
    "CRR": _CRR,
    "CCRR": _CRR,
}

_WITHOUT_CLIP = ("PolicyGradient", *("CPO", "PCPO", "RCPO", "TRPO", "TRPOLag", "OnCRPO"))
_WITHOUT_COST = ("none", "saute", "simmer", "early")  # constraints whose policy has no critic of the cost

# Worlds for which the original overrides its own defaults.
_GOAL1 = tuple(f"Safety{agent}{task}1-v0" for agent in ("Point", "Car") for task in ("Goal", "Circle"))
_GOAL = tuple(f"Safety{agent}{task}{n}-v0" for agent in ("Point", "Car") for task in ("Goal", "Circle") for n in (1, 2))


def preset(algorithm: Algorithm, env_id: str) -> str:
    """The preset of the row that holds the original's settings for this world."""
    if algorithm.update == "off-policy":
        return "faithful-goal1" if env_id in _GOAL1 else "faithful"
    if algorithm.constraint in ("saute", "simmer") and env_id in _GOAL:
        # Its file of PPOSimmerPID alone has no block for the car's circles.
        if algorithm.name == "PPOSimmerPID" and env_id.startswith("SafetyCarCircle"):
            return "faithful"
        return "faithful-goal"
    return "faithful"


def published(algorithm: Algorithm, env_id: str = "") -> Flat:
    """Every key that may be given for `algorithm`, with what it stands at for the world `env_id`."""
    own = _OWN.get(algorithm.name, {})
    if algorithm.update == "off-policy":
        return {**_off_policy(algorithm), **own, **_goal1(algorithm, env_id)}
    if algorithm.update == "offline":
        return {**_offline(algorithm), **own}
    settings = {**_ON_POLICY, **(_NATURAL if algorithm.update == "natural" else {})}
    match algorithm.constraint:
        case "lagrange":
            settings |= _LAGRANGE
        case "pid":
            settings |= _PID
        case "saute":
            settings |= _SAUTE
        case "simmer":
            settings |= _SIMMER
    if algorithm.constraint in _WITHOUT_COST:
        settings["algo_cfgs.use_cost"] = False
    if algorithm.name in _WITHOUT_CLIP or algorithm.name.startswith(("TRPOE", "TRPOS")):
        del settings["algo_cfgs.clip"]
    settings |= own
    if preset(algorithm, env_id) == "faithful-goal":
        settings |= {"algo_cfgs.saute_gamma": 0.9999, "algo_cfgs.unsafe_reward": -0.2}
        if algorithm.update == "first-order":
            settings["algo_cfgs.update_iters"] = 80
            settings["algo_cfgs.obs_normalize"] = "Goal" not in env_id
    return settings


def _off_policy(algorithm: Algorithm) -> Flat:
    own = _SAC if algorithm.name.startswith("SAC") else _TD3 if algorithm.name.startswith("TD3") else _DDPG
    limited = {"lagrange": _OFF_POLICY_LAGRANGE, "pid": _OFF_POLICY_PID}.get(algorithm.constraint, {})
    return {**_OFF_POLICY, **own, **limited}


def _offline(algorithm: Algorithm) -> Flat:
    if algorithm.name == "VAEBC":
        return {**_OFFLINE, **_CLONED}
    return {**_OFFLINE, **_Q_LEARNT, **(_OFFLINE_LAGRANGE if algorithm.constraint == "lagrange" else {})}


def _goal1(algorithm: Algorithm, env_id: str) -> Flat:
    if preset(algorithm, env_id) != "faithful-goal1":
        return {}
    settings: Flat = {"model_cfgs.actor.lr": 5e-6, "model_cfgs.critic.lr": 1e-3}
    if algorithm.name.startswith("SAC"):
        settings["algo_cfgs.alpha"] = 1e-5
    if algorithm.constraint == "lagrange":
        settings |= {"lagrange_cfgs.lambda_lr": 5e-7, "lagrange_cfgs.lagrangian_multiplier_init": 0.0}
    elif algorithm.constraint == "pid":
        settings |= {"lagrange_cfgs.pid_kp": 5e-7, "lagrange_cfgs.pid_ki": 1e-8, "lagrange_cfgs.pid_kd": 1e-8}
    if algorithm.constraint == "pid" or algorithm.name in ("SACLag", "TD3Lag"):
        settings["algo_cfgs.cost_normalize"] = False
    return settings


def flat(nested: Mapping[str, Any], below: str = "") -> Flat:
    """Nested settings by dotted key; "env_cfgs", whose keys are the world's, stays whole."""
    found: Flat = {}
    for key, value in nested.items():
        name = f"{below}{key}"
        if isinstance(value, Mapping) and name != "env_cfgs":
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found
