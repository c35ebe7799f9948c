"""The on-policy loop, written once: collect, estimate, weigh reward against costs, update.

A row of the table of recipes is an `OnPolicyRecipe`: the update, the constraint its configuration allows, its presets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import ConfigError, Diverged
from trueline.core.progress import progress
from trueline.core.run import Run, resolve, stop_asked
from trueline.core.streams import case_seeds, split_of
from trueline.core.subject import Subject
from trueline.rl.advantage import gae
from trueline.rl.collect import Batch, Collector
from trueline.rl.constraint import Handler, HandlerState, Weights, mix, unconstrained
from trueline.rl.env import VectorEnv
from trueline.rl.lagrange import Lagrangian
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.perturb import Disturbance, NoisySensors, disturbed
from trueline.rl.pid import PidLagrangian
from trueline.rl.policy import NetworkPolicy, WorldRef
from trueline.rl.ppo import Ppo, PpoBatch, optimiser, ppo_update, set_rates
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.surrogate import standardised
from trueline.rl.worlds import make

Constraint = Lagrangian | PidLagrangian  # told apart by `kind`


MOST_MET = 512  # training layouts a policy remembers, for the audit that compares them with unseen ones
FAILED_FROM = 1 << 31  # layout seeds from here on belong to audits (core/streams.py)


class OnPolicy(Config):
    """Settings every on-policy recipe shares."""

    env: str = "SafetyPointGoal1-v0"
    env_options: Mapping[str, Any] = {}  # keyword arguments of the world
    num_envs: int = Field(1, ge=1)  # N
    steps_per_epoch: int = Field(20_000, ge=1)  # over all environments
    total_steps: int = Field(10_000_000, ge=1)
    gamma: float = Field(0.99, gt=0, le=1)
    cost_gamma: float = Field(0.99, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)  # λ of GAE
    cost_lam: float = Field(0.95, ge=0, le=1)
    actor: ActorNetwork = ActorNetwork()
    critic: Network = Network()
    update: Ppo = Ppo()
    learner_threads: int = Field(1, ge=1)  # of the networks; more than one pays from thousands of rows or pictures on
    checkpoint_epochs: int = Field(10, ge=1)  # epochs between checkpoints
    standardise: Literal["reward", "mix"] = "reward"  # which advantage has scale one; see `weighed`
    averaged_share: float = Field(0.0, ge=0, lt=1)  # last share of training whose policies' weights are averaged
    layouts: tuple[str, ...] = ()  # run://ID/artefact each, listing layouts that failed an audit
    layouts_share: float = Field(0.25, gt=0, le=1)  # share of episodes that start from one of those
    disturbance: Disturbance | None = None  # drawn anew for every training episode


class Constrained(OnPolicy):
    """Settings of a recipe that keeps episode costs under a limit."""

    cost_limit: float | tuple[float, ...] = 25.0  # d: undiscounted cost per episode, one number or one per cost
    constraint: Constraint = Lagrangian()
    window: int = Field(100, ge=1)  # finished episodes whose mean is J_C


@dataclass(frozen=True)
class OnPolicyRecipe:
    """A row: a name, the configuration it takes and its named settings."""

    name: str
    Config: type[OnPolicy]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def train(self, config: OnPolicy, run: Run, inputs: Mapping[str, Subject]) -> NetworkPolicy:
        """Train a policy; `inputs["policy"]` is a warm start. Resumes from the run's last checkpoint.

        Raises ConfigError for settings that do not fit the world, BadWorld for a reward or observation that is not
        finite, Diverged when the networks are no longer finite.
        """
        return Trainer(config, run, inputs).train()


def _limits(config: OnPolicy, env: VectorEnv) -> Tensor:
    if not isinstance(config, Constrained):
        return torch.zeros(len(env.costs), dtype=torch.float64)
    if not env.costs:
        raise ConfigError(f"{env.id} reports no cost, so nothing can be constrained. Use an unconstrained recipe.")
    limits = config.cost_limit if isinstance(config.cost_limit, tuple) else (config.cost_limit,) * len(env.costs)
    if len(limits) != len(env.costs):
        raise ConfigError(
            f"cost_limit has {len(limits)} values, but {env.id} reports {len(env.costs)} costs "
            f"({', '.join(env.costs)}). Give one limit per cost, or a single number for all."
        )
    wrong = [limit for limit in limits if not (math.isfinite(limit) and limit >= 0.0)]
    if wrong:
        raise ConfigError(
            f"cost_limit is {wrong[0]}, but the costs of a world are 0 or more. Give a limit of 0 or more."
        )
    return torch.tensor(limits, dtype=torch.float64)


def failing_layouts(reference: str, run: Run) -> list[int]:
    """Layout seeds of a findings artefact. Raises ConfigError when it lists none, or one held out for verdicts."""
    found = json.loads(resolve(reference, run.folder.parent).read_text())
    seeds = sorted({int(f["case"]["data"]["seed"]) for f in found if "seed" in f["case"]["data"]})
    if not seeds:
        raise ConfigError(f"{reference} lists no layout seed. Point `layouts` at the findings of a layout audit.")
    held_out = [seed for seed in seeds if split_of(seed)[0] == "verdict"]
    if held_out:
        raise ConfigError(
            f"{reference} lists layout {held_out[0]}, which is held out for verdicts. "
            "Train on findings of the respond split."
        )
    return seeds


def training_seeds(config: OnPolicy, run: Run) -> Callable[[int], NDArray[np.uint32]]:
    """The layouts of training episodes: fresh ones, mixed with those that failed an audit where there are any."""
    rng = run.rng("layouts")
    failed = np.unique([seed for ref in config.layouts for seed in failing_layouts(ref, run)]).astype(np.uint32)

    def draw(n: int) -> NDArray[np.uint32]:
        fresh = case_seeds("train", 0, n, rng)
        if not len(failed):
            return fresh
        return np.where(rng.random(n) < config.layouts_share, rng.choice(failed, n), fresh).astype(np.uint32)

    return draw


def estimate(batch: Batch, network: ActorCritic, config: OnPolicy, weights: Weights) -> PpoBatch:
    """Values, advantages of reward and costs with truncation bootstrapping, and their mix."""
    steps, n = batch.reward.shape
    with torch.no_grad():
        inputs = network.encoder.normalised({name: x[:steps].flatten(0, 1) for name, x in batch.inputs.items()})
        features = network.encoder(inputs)
        policy = network.policy(features).detach()
        draw = batch.draw.flatten(0, 1)
        log_prob = policy.log_prob(draw)
        value = network.values(features).view(steps, n, -1)
        after = network.values(network.features({name: x[steps] for name, x in batch.inputs.items()}))
        next_value = torch.cat([value[1:], after[None]])
        ended = batch.terminated + batch.truncated
        next_value = next_value * (1.0 - ended)[..., None]
        if len(batch.finals.t):
            next_value[batch.finals.t, batch.finals.i] = network.values(network.features(batch.finals.inputs))
    signal = torch.cat([batch.reward[..., None], batch.cost], dim=-1)
    costs = batch.cost.shape[-1]
    gamma = torch.tensor([config.gamma] + [config.cost_gamma] * costs)
    lam = torch.tensor([config.lam] + [config.cost_lam] * costs)
    advantage = gae(signal, value, next_value, ended[..., None], gamma, lam)
    target = (advantage + value).flatten(0, 1)
    mixed = weighed(advantage[..., 0], advantage[..., 1:], weights, config.standardise)
    return PpoBatch(inputs, draw, log_prob, policy, mixed.flatten(), target)


def weighed(advantage_r: Tensor, advantage_c: Tensor, weights: Weights, standardise: str) -> Tensor:
    """The mixed advantage, at a scale a fixed step size expects.  [T, N], [T, N, K] -> [T, N].

    "reward" is OmniSafe's way: the reward's advantage at scale 1, each cost's at its own, both centred. What a
    multiplier of one means then drifts with the spread of the reward's advantage. "mix" keeps λ in units of reward per
    cost and standardises once, after mixing (corrections L1).
    """
    if standardise == "mix":
        return standardised(mix(advantage_r, advantage_c, weights))
    return mix(standardised(advantage_r), advantage_c - advantage_c.mean(dim=(0, 1)), weights)


class Trainer:
    """One training run: what it holds is exactly what a checkpoint stores."""

    def __init__(self, config: OnPolicy, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds the world and the networks."""
        self.config, self.run = config, run
        # Worlds give the same bits on any number of threads, the learner does not: its number is a setting, so that a
        # run's result depends on its settings and seed alone.
        torch.set_num_threads(config.learner_threads)
        world = make(config.env, config.num_envs, run.manifest["threads"], **config.env_options)
        self.limits = _limits(config, world)
        self.handler: Handler | None = config.constraint if isinstance(config, Constrained) else None
        world.seed_source = training_seeds(config, run)
        self.env = disturbed(world, config.disturbance, run.rng("disturbance")) if config.disturbance else world
        observation = ObservationCodec.of(self.env.observation_space)
        steps = config.steps_per_epoch // config.num_envs
        if steps < 1:
            raise ConfigError(
                f"steps_per_epoch is {config.steps_per_epoch}, fewer than num_envs = {config.num_envs}. "
                "Give each environment at least one step."
            )
        action = ActionCodec.of(self.env.action_space)
        self.network = ActorCritic(
            observation, action, len(self.env.costs), config.actor, config.critic, run.torch_rng("networks")
        )
        parent = inputs.get("policy")
        if parent is not None:
            self._warm_start(parent)
        self.adam = optimiser(self.network, config.update)
        self.collector = Collector(self.env, observation, steps, action.width)
        self.handler_state: HandlerState = {}
        if self.handler is not None:
            learnt = getattr(parent, "multipliers", None)
            self.handler_state = self.handler.start(len(self.env.costs), learnt)
        self.recent_cost = np.zeros((0, len(self.env.costs)))
        self.recent_return = np.zeros(0)
        self.total_cost = np.zeros(len(self.env.costs))  # over the whole training: what learning itself cost
        self.average = {name: torch.zeros_like(p) for name, p in self.network.named_parameters()}
        self.averaged = 0
        self.epoch = 0
        self.epochs = -(-config.total_steps // (steps * config.num_envs))
        self.shape: dict[str, Any] = {
            "actor": config.actor.model_dump(mode="json"),
            "critic": config.critic.model_dump(mode="json"),
            "costs": list(self.env.costs),
        }
        self.parent = run.manifest["inputs"].get("policy", {}).get("run")
        self.met = np.zeros(0, dtype=np.uint32)  # layouts of the last training episodes

    def _warm_start(self, parent: Subject) -> None:
        if not isinstance(parent, NetworkPolicy):
            raise ConfigError(
                f"the warm start is a {parent.kind!r}, not a policy. Give a policy that was trained here."
            )
        try:
            self.network.load_state_dict(parent.network.state_dict())
        except RuntimeError:
            raise ConfigError(
                f"the warm start was trained on {parent.world.id} with other network shapes. "
                "Use the same world, hidden sizes and number of costs."
            ) from None

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "network": dict(self.network.state_dict()),
            "adam": self.adam.state_dict(),
            "handler": dict(self.handler_state),
            "collector": self.collector.state_dict(),
            "recent_cost": self.recent_cost,
            "recent_return": self.recent_return,
            "total_cost": self.total_cost,
            "met": self.met,
            "average": dict(self.average),
            "averaged": self.averaged,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.adam.load_state_dict(state["adam"])
        self.handler_state = dict(state["handler"])
        self.collector.restore(state["collector"])
        self.recent_cost, self.recent_return = state["recent_cost"], state["recent_return"]
        self.total_cost, self.met = state["total_cost"], state["met"]
        self.average, self.averaged = dict(state["average"]), int(state["averaged"])
        self.epoch = int(state["epoch"])

    def train(self) -> NetworkPolicy:
        """All epochs, then the policy: the last one, or the average of the last `averaged_share` of them."""
        saved = self.run.restore()
        if saved is None:
            self.collector.start()
        else:
            self.load_state_dict(saved)
        per_epoch = self.collector.steps * self.config.num_envs
        try:
            with progress(total=self.epochs * per_epoch, label=self.run.manifest["name"]) as bar:
                bar.start_at(self.epoch * per_epoch)
                while self.epoch < self.epochs:
                    note = self._one_epoch()
                    bar.advance(per_epoch, note=note)
                    if self.epoch % self.config.checkpoint_epochs == 0 or self.epoch == self.epochs or stop_asked():
                        self.run.save(self.collector.total_steps, self.state_dict())
        finally:
            self.env.close()
        if self.averaged:
            with torch.no_grad():
                for name, p in self.network.named_parameters():
                    p.copy_(self.average[name])
        if self.handler is not None:
            self.shape["multipliers"] = self.handler_state["multiplier"].tolist()
        world = WorldRef(id=self.config.env, options=dict(self.config.env_options))
        self.shape["layouts_met"] = self.met.tolist()
        return NetworkPolicy(self.network, self.collector.codec, world, self.shape, self.parent)

    def _one_epoch(self) -> str:
        config, run = self.config, self.run
        norm = self.network.encoder.norm
        if isinstance(self.env, NoisySensors) and norm is not None:
            # Noise is stated in deviations of each sensor, as in the audits; these are the deviations seen so far.
            self.env.set_scale(1.0 / norm.scale32.numpy())
        batch = self.collector.collect(self.network, run.torch_rng("collect"))
        window = config.window if isinstance(config, Constrained) else 100
        # The multiplier is steered by E[cost] on fresh layouts: those that failed an audit cost more than the average.
        fresh = batch.episode_seed < FAILED_FROM
        self.recent_cost = np.concatenate([self.recent_cost, batch.episode_cost[fresh]])[-window:]
        self.met = np.concatenate([self.met, batch.episode_seed])[-MOST_MET:]
        self.recent_return = np.concatenate([self.recent_return, batch.episode_return])[-window:]
        self.total_cost += batch.cost.sum(dim=(0, 1)).double().numpy()
        if self.handler is not None and fresh.any():
            measured = torch.as_tensor(self.recent_cost)
            self.handler_state = self.handler.update(self.handler_state, measured, self.limits)
        weights = self.handler.weights(self.handler_state) if self.handler else unconstrained(len(self.env.costs))
        set_rates(self.adam, config.update, self.epoch / self.epochs)
        rows = estimate(batch, self.network, config, weights)
        report = ppo_update(self.network, self.adam, rows, config.update, run.torch_rng("update"))
        self._refuse_divergence()
        if self.network.encoder.norm is not None:
            # After the update, so that the policy that acted and the one that is updated see the same inputs.
            self.network.encoder.norm.update(batch.inputs["vector"][:-1].flatten(0, 1))
        self.epoch += 1
        if config.averaged_share and self.epoch > self.epochs * (1.0 - config.averaged_share):
            self.averaged += 1
            for name, p in self.network.named_parameters():
                self.average[name].lerp_(p.detach(), 1.0 / self.averaged)
        return self._log(batch, weights, report)

    def _refuse_divergence(self) -> None:
        for name, p in self.network.named_parameters():
            if not torch.isfinite(p).all():
                raise Diverged(self.collector.total_steps, name, self.run.last_checkpoint)

    def _log(self, batch: Batch, weights: Weights, report: Any) -> str:
        scalars: dict[str, float] = {
            "update/kl": report.kl,
            "update/passes": float(report.passes),
            "update/policy_loss": report.policy_loss,
            "update/value_loss": report.value_loss,
            "update/entropy": report.entropy,
        }
        if len(batch.episode_return):  # without a finished episode there is no estimate, and none is logged
            scalars["train/return"] = float(batch.episode_return.mean())
            scalars["train/length"] = float(batch.episode_length.mean())
            for k, name in enumerate(self.env.costs):
                scalars[f"train/{name}"] = float(batch.episode_cost[:, k].mean())
        for k, name in enumerate(self.env.costs):
            scalars[f"train/total_{name}"] = float(self.total_cost[k])
        if self.handler is not None:
            for k, name in enumerate(self.env.costs):
                scalars[f"constraint/multiplier_{name}"] = float(weights.cost[k] / weights.reward)
        self.run.log(self.collector.total_steps, **scalars)
        if not len(self.recent_return):
            return ""
        note = f"return {self.recent_return.mean():.1f}"
        if len(self.recent_cost) and self.env.costs:
            note += " cost " + " ".join(f"{x:.1f}" for x in self.recent_cost.mean(0))
        return note
