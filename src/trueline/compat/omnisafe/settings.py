"""From the original's nested settings to a row's, key by key.

Three things can become of a key: it is *translated*, on its own or with keys it only means something together with; it
has *one value* that is the row's way, and any other is refused with the reason; or it is *idle*: accepted, without
effect here, and listed once. What nobody gives is left to the row's preset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any, NamedTuple

from trueline.compat.omnisafe.algorithms import Algorithm
from trueline.compat.omnisafe.published import Flat, flat, preset, published
from trueline.core.errors import ConfigError, nearest

__all__ = ["Plan", "plan"]

_INITS = {"kaiming_uniform": "kaiming", "orthogonal": "orthogonal"}
_ACTIVATIONS = {"tanh": "tanh", "relu": "relu"}
_RULES = {"Adam": "adam", "SGD": "sgd"}
_EVALUATED = "train_cfgs.evaluate_epoisodes"  # as the original spells it
# One move of an off-policy multiplier stands for the thousand gradient steps of an episode.
_STEPS_PER_MOVE = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """What `Agent` trains, from the original's settings."""

    recipe: str
    preset: str
    env: str
    settings: Mapping[str, Any]  # dotted key of the row -> value, what was given alone
    seed: int = 0
    root: str = "./runs"
    wandb: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)  # dotted key of the row -> the key it was given by
    idle: Mapping[str, str] = field(default_factory=dict)  # keys that were given and do nothing here, and why


class _Translated(NamedTuple):
    """Keys, and what they become: a function of their values, in that order."""

    keys: tuple[str, ...]
    become: Callable[..., Flat]


class _One(NamedTuple):
    """A key that can only stand at some values."""

    key: str
    values: tuple[Any, ...]
    why: str


class _Idle(NamedTuple):
    """A key that changes nothing."""

    key: str
    why: str


_Meaning = _Translated | _One | _Idle


def plan(
    algorithm: Algorithm,
    env_id: str,
    custom_cfgs: Mapping[str, Any] | None = None,
    train_terminal_cfgs: Mapping[str, Any] | None = None,
) -> Plan:
    """The row, preset and settings for what was given; `train_terminal_cfgs` are laid over train_cfgs.

    Raises ConfigError for a key that the algorithm does not have, with the nearest that it has, and for a value that
    means something no row can do.
    """
    defaults = published(algorithm, env_id)
    for name, cfgs in (("custom_cfgs", custom_cfgs), ("train_terminal_cfgs", train_terminal_cfgs)):
        if cfgs is not None and not isinstance(cfgs, Mapping):
            raise ConfigError(f"{name} is {cfgs!r}. Give a dict of settings by name, or leave it out.")
    given = {**_given(custom_cfgs or {}), **_given({"train_cfgs": train_terminal_cfgs or {}})}
    for key, value in given.items():
        if key not in defaults:
            raise _unknown(algorithm, key, value, defaults)
    if algorithm.type == "offline":
        # Nothing is played while it learns: what became of the policy is known by evaluations alone.
        given.setdefault(_EVALUATED, defaults[_EVALUATED])
    whole = {**defaults, **given}
    settings: Flat = {}
    sources: dict[str, str] = {}
    idle: dict[str, str] = {}
    for meaning in _meanings(algorithm):
        match meaning:
            case _Translated(keys, become) if any(key in given for key in keys):
                became = become(*(whole[key] for key in keys))
                settings |= became
                sources |= dict.fromkeys(became, " and ".join(key for key in keys if key in given))
            case _One(key, values, why) if key in given:
                if not any(given[key] == value and type(given[key]) is type(value) for value in values):
                    raise ConfigError(
                        f"{key} is {given[key]!r}, but {why}. Give {' or '.join(map(repr, values))}, or leave it out."
                    )
                if given[key] != _ours(algorithm, key):
                    idle[key] = why
            case _Idle(key, why) if key in given:
                idle[key] = why
    return Plan(
        recipe=algorithm.recipe,
        preset=preset(algorithm, env_id),
        env=env_id,
        settings=settings,
        seed=_whole_number("seed", whole["seed"]),
        root=str(whole["logger_cfgs.log_dir"]),
        wandb=str(whole["logger_cfgs.wandb_project"])
        if _truth("logger_cfgs.use_wandb", whole["logger_cfgs.use_wandb"])
        else None,
        sources=sources,
        idle=idle,
    )


def _given(nested: Mapping[str, Any]) -> Flat:
    """What was given, by dotted key, without the two that `Agent` takes as arguments."""
    own = {
        section: {k: v for k, v in table.items() if k not in ("algo", "env_id")}
        if section == "train_cfgs" and isinstance(table, Mapping)
        else table
        for section, table in nested.items()
        if section not in ("algo", "env_id")
    }
    return flat(own)


def _unknown(algorithm: Algorithm, key: str, value: Any, known: Mapping[str, Any]) -> ConfigError:
    within = [name.removeprefix(f"{key}.") for name in known if name.startswith(f"{key}.")]
    if within:
        return ConfigError(f"{key} is {value!r}, but is a section. Give a dict with some of {', '.join(within)}.")
    section, _, last = key.rpartition(".")
    # A key that is right in another section is the likeliest mistake; then one misspelt in its own.
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    top, sections = key.partition(".")[0], sorted({name.partition(".")[0] for name in known})
    near = f" Did you mean {elsewhere[0]!r}?" if elsewhere else nearest(key, known)
    bare = [name.removesuffix("_cfgs") for name in sections]  # or all would be alike in half of their letters
    if not elsewhere and not nearest(top.removesuffix("_cfgs"), bare):
        near = ""  # no slip of a letter: this algorithm has no such part
    if near:
        return ConfigError(f"{algorithm.name} has no setting {key!r}.{near}")
    inside = [name for name in known if name.startswith(f"{section or top}.")]
    listed = ", ".join(inside or sections)
    return ConfigError(f"{algorithm.name} has no setting {key!r}. There are {listed}.")


def _ours(algorithm: Algorithm, key: str) -> Any:
    """The one value of a key that says what the row does anyway, where the original's default says otherwise."""
    departs = {"algo_cfgs.reward_normalize": False, "algo_cfgs.cost_normalize": False, "algo_cfgs.obs_normalize": True}
    return departs.get(key, published(algorithm)[key])


# --- what each key means ---


def _same(key: str, *targets: str) -> _Translated:
    return _Translated((key,), lambda value: dict.fromkeys(targets, value))


def _real(key: str, *targets: str, times: float = 1.0) -> _Translated:
    def become(value: Any) -> Flat:
        number = _number(key, value)
        # To twelve digits: 1e-7 a thousand times is 1e-4, and not one unit in the last place below.
        return dict.fromkeys(targets, number if times == 1.0 else float(f"{number * times:.12g}"))

    return _Translated((key,), become)


def _switched(switch: str, key: str, target: str, off: float | None) -> _Translated:
    """A number that another key turns on; `off` is what stands for it where that is False."""

    def become(on: Any, value: Any) -> Flat:
        number = _number(key, value)
        return {target: number if _truth(switch, on) else off}

    return _Translated((switch, key), become)


def _count(key: str, *targets: str) -> _Translated:
    """A whole number, which the original also takes as 1e6."""
    return _Translated((key,), lambda value: dict.fromkeys(targets, _whole_number(key, value)))


def _choice(key: str, options: Mapping[str, str], *targets: str) -> _Translated:
    def become(value: Any) -> Flat:
        if not isinstance(value, str) or value not in options:
            near = nearest(str(value), options)
            raise ConfigError(f"{key} is {value!r}.{near} There are {', '.join(options)}.")
        return dict.fromkeys(targets, options[value])

    return _Translated((key,), become)


def _whole_number(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        raise ConfigError(f"{key} is {value!r}. Give a whole number.")
    return int(value)


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key} is {value!r}. Give a number.")
    return float(value)


def _truth(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {value!r}. Give True or False.")
    return value


def _at_least_one(key: str, value: Any) -> int:
    number = _whole_number(key, value)
    if number < 1:
        raise ConfigError(f"{key} is {value!r}. Give at least 1.")
    return number


def _sizes(key: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key} is {value!r}. Give a list with the size of each hidden layer, such as [64, 64].")
    return tuple(value)


def _meanings(algorithm: Algorithm) -> Iterator[_Meaning]:
    yield from _everywhere()
    if algorithm.update == "off-policy":
        yield from _off_policy(algorithm)
    elif algorithm.update == "offline":
        yield from _offline(algorithm)
    else:
        yield from _on_policy(algorithm)
        yield from _first_order(algorithm) if algorithm.update == "first-order" else _natural()
    yield from _constraint(algorithm)


def _everywhere() -> Iterator[_Meaning]:
    yield _One("train_cfgs.device", ("cpu",), "training runs on the CPU")
    yield _count("train_cfgs.torch_threads", "learner_threads")
    yield _One("train_cfgs.parallel", (1,), "one process learns, and vector_env_nums is what it steps at once")
    yield _count("train_cfgs.total_steps", "total_steps")
    yield _count("algo_cfgs.steps_per_epoch", "steps_per_epoch")
    yield _Idle("logger_cfgs.use_tensorboard", "event files are always written, into the run's events/")
    yield _Idle("logger_cfgs.save_model_freq", "a run can be resumed at any time and keeps its last policy")
    for network in ("actor", "critic"):
        key = f"model_cfgs.{network}.hidden_sizes"
        yield _Translated((key,), lambda sizes, network=network, key=key: {f"{network}.hidden": _sizes(key, sizes)})
        yield _choice(f"model_cfgs.{network}.activation", _ACTIVATIONS, f"{network}.activation")
    yield _choice("model_cfgs.weight_initialization_mode", _INITS, "actor.init", "critic.init")
    yield _real("model_cfgs.critic.lr", "update.critic_lr")
    yield _same("env_cfgs", "env_options")


def _on_policy(algorithm: Algorithm) -> Iterator[_Meaning]:
    yield _count("train_cfgs.vector_env_nums", "num_envs")
    yield _count("algo_cfgs.update_iters", "update.passes")
    yield _count("algo_cfgs.batch_size", "update.minibatch")
    yield _real("algo_cfgs.gamma", "gamma")
    yield _real("algo_cfgs.cost_gamma", "cost_gamma")
    yield _real("algo_cfgs.lam", "lam")
    yield _real("algo_cfgs.lam_c", "cost_lam")
    yield _switched("algo_cfgs.use_max_grad_norm", "algo_cfgs.max_grad_norm", "update.grad_norm", math.inf)
    yield _switched("algo_cfgs.use_critic_norm", "algo_cfgs.critic_norm_coef", "update.critic_l2", 0.0)
    departs = algorithm.name in ("PDO", "IPO")
    either = (False, True) if departs else (False,)
    why = "the reward's advantage is standardised anyway, and costs keep their unit"
    yield _One("algo_cfgs.reward_normalize", either, why)
    yield _One("algo_cfgs.cost_normalize", either, why)
    budget = algorithm.constraint in ("saute", "simmer")
    seen = (True, False) if budget and algorithm.update == "first-order" else (True,)
    yield _One("algo_cfgs.obs_normalize", seen, "on-policy rows always normalise observations")
    yield _One("algo_cfgs.adv_estimation_method", ("gae",), "advantages are estimated by GAE")
    yield _One("algo_cfgs.standardized_rew_adv", (True,), "the reward's advantage is always standardised")
    yield _One("algo_cfgs.standardized_cost_adv", (True,), "the costs' advantages are always centred")
    yield _One("algo_cfgs.penalty_coef", (0.0, 0), "no row subtracts the cost from the reward")
    limited = algorithm.constraint in ("lagrange", "pid", "limit", "barrier", "switch")
    yield _One(
        "algo_cfgs.use_cost",
        (True,) if limited else (False, True),
        "a row with a limit learns the cost's value" if limited else "critics of the costs always learn",
    )
    if algorithm.constraint == "none":
        yield _Idle("logger_cfgs.window_lens", "nothing is limited, so nothing is averaged over a window")
    else:
        yield _count("logger_cfgs.window_lens", "window")
    yield _One("model_cfgs.actor_type", ("gaussian_learning",), "the policy's deviation is learnt, one for all states")
    yield _One("model_cfgs.exploration_noise_anneal", (False,), "the policy's deviation is learnt, not annealed")
    yield _Idle("model_cfgs.std_range", "the policy's deviation is learnt, not annealed")


def _first_order(algorithm: Algorithm) -> Iterator[_Meaning]:
    yield _switched("algo_cfgs.kl_early_stop", "algo_cfgs.target_kl", "update.target_kl", None)
    yield _real("algo_cfgs.entropy_coef", "update.entropy")
    yield _real("model_cfgs.actor.lr", "update.lr")
    decay = "model_cfgs.linear_lr_decay"
    yield _Translated((decay,), lambda decays: {"update.schedule": "linear" if _truth(decay, decays) else "constant"})
    if algorithm.name in ("PDO", "FOCOPS"):
        yield _Idle("algo_cfgs.clip", "the original's update does not clip either")
    else:
        yield _real("algo_cfgs.clip", "update.clip")
    if algorithm.name == "FOCOPS":
        yield _real("algo_cfgs.focops_eta", "update.eta")
        yield _real("algo_cfgs.focops_lam", "update.lam")
    if algorithm.name == "P3O":
        yield _real("algo_cfgs.kappa", "update.kappa")


def _natural() -> Iterator[_Meaning]:
    yield _real("algo_cfgs.target_kl", "update.target_kl")
    yield _One("algo_cfgs.kl_early_stop", (False,), "one step is taken, so that nothing can be stopped early")
    yield _One("algo_cfgs.entropy_coef", (0.0, 0), "no natural step has an entropy bonus")
    yield _Idle("algo_cfgs.clip", "the trust region takes its place")
    yield _real("algo_cfgs.cg_damping", "update.cg_damping")
    yield _count("algo_cfgs.cg_iters", "update.cg_iters")
    yield _count("algo_cfgs.fvp_sample_freq", "update.fisher_stride")
    yield _One("algo_cfgs.fvp_obs", ("None", None), "the Fisher matrix is taken over the collected rows")
    yield _One("model_cfgs.actor.lr", (None, "None"), "the trust region sets the policy's step")
    yield _Idle("model_cfgs.linear_lr_decay", "the policy's step has no rate")


def _off_policy(algorithm: Algorithm) -> Iterator[_Meaning]:
    rhythm = ("train_cfgs.vector_env_nums", "algo_cfgs.update_cycle", "algo_cfgs.update_iters")

    def become(*given: Any) -> Flat:
        # There: so many gradient steps for every `cycle` steps of all environments together.
        envs, cycle, steps = map(_at_least_one, rhythm, given)
        return {"num_envs": envs, "updates_per_step": steps / (cycle * envs)}

    yield _Translated(rhythm, become)
    yield _Idle("train_cfgs.eval_episodes", "policies are evaluated after training, by evaluate()")
    yield _count("algo_cfgs.size", "capacity")
    yield _count("algo_cfgs.batch_size", "update.batch")
    yield _count("algo_cfgs.start_learning_steps", "warm_up")
    yield _count("algo_cfgs.policy_delay", "update.delay")
    yield _real("algo_cfgs.gamma", "gamma", "cost_gamma")
    yield _real("algo_cfgs.polyak", "update.polyak")
    yield _real("algo_cfgs.max_grad_norm", "update.grad_norm")
    yield _real("model_cfgs.actor.lr", "update.lr")
    yield _same("algo_cfgs.obs_normalize", "normalise")
    yield _One("algo_cfgs.reward_normalize", (False,), "rewards keep their unit")
    either = (True, False) if algorithm.constraint != "none" else (False,)
    yield _One("algo_cfgs.cost_normalize", either, "costs keep their unit")
    yield _One("algo_cfgs.use_cost", (algorithm.constraint != "none",), "a critic of the cost comes with a limit")
    yield _One("algo_cfgs.use_critic_norm", (False,), "off-policy critics have no weight penalty")
    yield _Idle("algo_cfgs.critic_norm_coeff", "off-policy critics have no weight penalty")
    yield _One("algo_cfgs.warmup_epochs", (100,), "the multiplier moves as soon as an episode of the policy has ended")
    yield _Idle("logger_cfgs.window_lens", "the original averages 50 episodes whatever this says, and so does the row")
    kind = "gaussian_sac" if algorithm.name.startswith("SAC") else "mlp"
    yield _One("model_cfgs.actor_type", (kind,), "the update decides what its policy is")
    yield _One("model_cfgs.linear_lr_decay", (False,), "off-policy rates do not decay")
    if algorithm.name.startswith("SAC"):
        yield _real("algo_cfgs.alpha", "update.alpha")
        yield _same("algo_cfgs.auto_alpha", "update.auto_alpha")
        yield _One("model_cfgs.critic.num_critics", (2,), "SAC has two critics of the reward")
        yield _One("algo_cfgs.use_exploration_noise", (False,), "SAC explores by its own deviation")
        for key in ("exploration_noise", "policy_noise", "policy_noise_clip"):
            yield _Idle(f"algo_cfgs.{key}", "SAC explores by its own deviation")
        return
    yield _count("model_cfgs.critic.num_critics", "update.twins")
    yield _switched("algo_cfgs.use_exploration_noise", "algo_cfgs.exploration_noise", "update.exploration", 0.0)
    yield _real("algo_cfgs.policy_noise", "update.target_noise")
    yield _real("algo_cfgs.policy_noise_clip", "update.noise_clip")


def _offline(algorithm: Algorithm) -> Iterator[_Meaning]:
    yield _Translated(("train_cfgs.dataset",), _data)
    yield _Translated((_EVALUATED,), _evaluation)
    yield _One("train_cfgs.vector_env_nums", (1,), "nothing is stepped while a policy learns from data")
    yield _count("algo_cfgs.batch_size", "update.batch")
    if algorithm.name == "VAEBC":
        hidden = "model_cfgs.hidden_sizes"
        yield _Translated((hidden,), lambda sizes: {"actor.hidden": _sizes(hidden, sizes)})
        yield _choice("model_cfgs.activation", _ACTIVATIONS, "actor.activation")
        yield _real("model_cfgs.learning_rate", "update.lr")
        return
    yield _real("algo_cfgs.gamma", "gamma")
    yield _real("algo_cfgs.polyak", "update.polyak")
    yield _real("model_cfgs.actor.lr", "update.lr")
    if algorithm.name in ("BCQ", "BCQLag"):
        yield _real("algo_cfgs.phi", "update.phi")
        yield _count("algo_cfgs.sampled_action_num", "update.candidates")
        yield _real("algo_cfgs.minimum_weighting", "update.least_weight")
    else:
        yield _real("algo_cfgs.beta", "update.beta")
        yield _Idle("algo_cfgs.phi", "the original's update does not read it either")
        yield _count("algo_cfgs.sampled_action_num", "update.actions")
    yield _real("algo_cfgs.cost_gamma", "cost_gamma")
    yield _count("algo_cfgs.lagrange_start_step", "multiplier_after")


def _data(path: Any) -> Flat:
    """The file of recorded steps; the original takes the actions of its own kind of file for scaled ones."""
    if not isinstance(path, str | PathLike):
        raise ConfigError(f"train_cfgs.dataset is {path!r}. Give the path of a file of recorded steps.")
    found: Flat = {"dataset": fspath(path)}
    return found | {"actions": "scaled"} if found["dataset"].endswith(".npz") else found


def _evaluation(episodes: Any) -> Flat:
    """Evaluations of so many episodes, after every epoch as there, and of what was learnt in the end."""
    count = _at_least_one(_EVALUATED, episodes)
    return {"evaluation.every": 1, "evaluation.episodes": count, "evaluation.final_episodes": count}


def _constraint(algorithm: Algorithm) -> Iterator[_Meaning]:
    moves = _STEPS_PER_MOVE if algorithm.update == "off-policy" else 1
    match algorithm.constraint:
        case "lagrange":
            yield _real("lagrange_cfgs.cost_limit", "cost_limit")
            yield _real("lagrange_cfgs.lagrangian_multiplier_init", "constraint.init")
            yield _real("lagrange_cfgs.lambda_lr", "constraint.lr", times=moves)
            yield _choice("lagrange_cfgs.lambda_optimizer", _RULES, "constraint.rule")
            yield _same("lagrange_cfgs.lagrangian_upper_bound", "constraint.upper")
        case "pid":
            yield from _pid(algorithm, moves)
        case "limit" | "early":
            yield _real("algo_cfgs.cost_limit", "cost_limit")
        case "barrier":
            yield _real("algo_cfgs.cost_limit", "cost_limit")
            yield _real("algo_cfgs.kappa", "constraint.kappa")
            yield _real("algo_cfgs.penalty_max", "constraint.penalty_max")
            for key in ("cost_limit", "lagrangian_multiplier_init", "lambda_lr", "lambda_optimizer"):
                yield _Idle(f"lagrange_cfgs.{key}", "the barrier has no multiplier that is learnt")
        case "switch":
            yield _real("algo_cfgs.cost_limit", "cost_limit")
            yield _real("algo_cfgs.distance", "constraint.distance")
        case "saute" | "simmer":
            yield from _budget(algorithm)


def _pid(algorithm: Algorithm, moves: int) -> Iterator[_Meaning]:
    yield _real("lagrange_cfgs.cost_limit", "cost_limit")
    yield _real("lagrange_cfgs.lagrangian_multiplier_init", "constraint.init")
    yield _real("lagrange_cfgs.pid_kp", "constraint.kp")
    yield _real("lagrange_cfgs.pid_ki", "constraint.ki", times=moves)  # of the three, the one that adds up
    yield _real("lagrange_cfgs.pid_kd", "constraint.kd")
    yield _count("lagrange_cfgs.pid_d_delay", "constraint.delay")
    ema = ("lagrange_cfgs.pid_delta_p_ema_alpha", "lagrange_cfgs.pid_delta_d_ema_alpha")
    if algorithm.update == "off-policy":
        for key in ema:
            yield _One(key, (0.95,), "over the thousand gradient steps of a move that averages to nothing")
    else:
        yield _Translated(ema, _smoothing)
    yield _One("lagrange_cfgs.sum_norm", (True,), "reward and cost are weighed by 1/(1 + λ) and λ/(1 + λ)")
    yield _One("lagrange_cfgs.diff_norm", (False,), "reward and cost are weighed by 1/(1 + λ) and λ/(1 + λ)")
    yield _Idle("lagrange_cfgs.penalty_max", "under sum_norm the original does not read it either")


def _smoothing(proportional: Any, rise: Any) -> Flat:
    smoothing = _number("lagrange_cfgs.pid_delta_p_ema_alpha", proportional)
    if smoothing != _number("lagrange_cfgs.pid_delta_d_ema_alpha", rise):
        raise ConfigError(
            f"lagrange_cfgs.pid_delta_p_ema_alpha is {proportional} and pid_delta_d_ema_alpha is {rise}. "
            "Give one number for both: the controller smooths the cost once."
        )
    return {"constraint.smoothing": smoothing}


def _first_budget(first: Any, upper: Any) -> Flat:
    """Simmer's first budget, as a share of the last."""
    least, most = _number("algo_cfgs.safety_budget", first), _number("algo_cfgs.upper_budget", upper)
    if most <= 0.0:
        raise ConfigError(f"algo_cfgs.upper_budget is {upper!r}. Give a number above 0: the first budget is its share.")
    return {"cost_limit": most, "augmentation.init": least / most}


def _budget(algorithm: Algorithm) -> Iterator[_Meaning]:
    yield _real("algo_cfgs.saute_gamma", "augmentation.gamma")
    yield _real("algo_cfgs.unsafe_reward", "augmentation.unsafe_reward")
    yield _Idle("algo_cfgs.max_ep_len", "the length of an episode is the world's own")
    if algorithm.constraint == "saute":
        yield _real("algo_cfgs.safety_budget", "cost_limit")
        return
    yield _Translated(("algo_cfgs.safety_budget", "algo_cfgs.upper_budget"), _first_budget)
    yield _real("control_cfgs.kp", "augmentation.kp")
    yield _real("control_cfgs.ki", "augmentation.ki")
    yield _real("control_cfgs.kd", "augmentation.kd")
    yield _real("control_cfgs.polyak", "augmentation.smoothing")
