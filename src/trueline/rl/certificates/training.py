"""The certifying loop, written once: act within the certificate, fit the models, improve the policy, certify anew.

What holds for every epoch:

* Until something is certified the world's own controller acts, with the noise it can bear. A safe policy learns to do
  as it does, and is the first to be certified.
* From then on what the policy wants is done as far as the core that was certified last is certain of it, and drawn back
  towards that core's safe policy where it is not. That core stays as it is while models, safe policy and barrier go on
  learning in another.
* A barrier is pushed outward, then taken back until a search finds nothing for `quiet` steps in a row. The core as it
  then stands is certified whole, and acts from the next epoch on if it calls no less safe than the one before. When
  that does not happen in time, learning goes on from where it is behind the guard that there was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import RunError
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.evidence.experiments.endings import write_limits
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.certificates.certifiable import certifiable
from trueline.rl.certificates.certificate import examined, outside_loss, violation_loss
from trueline.rl.certificates.policy import CertifiedPolicy, Guard, Shapes
from trueline.rl.certificates.search import climbed, drawn
from trueline.rl.certificates.update import CertifiedSac
from trueline.rl.episodes import Ended, Finished, Recent
from trueline.rl.off_policy.networks import QPolicy, described
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.planning.dynamics import Fitted
from trueline.rl.planning.experience import Experience, Seen, bootstrap
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ObservationCodec
from trueline.rl.stepping import Stepping, Taken
from trueline.rl.training import (
    ActingSettings,
    account_of,
    evaluated,
    failing_layouts,
    limits_of,
    one_world,
    refuse_divergence,
    run_epochs,
    training_world,
)

__all__ = ["Certified", "CertifiedRecipe", "Certifying", "Trainer"]

WINDOW = 50  # episodes that are shown beside the bar
NO_COST = 0.0  # d of every cost: what is unsafe is never done
LOOKED_AT = 4096  # states whose share within the set is logged
TURNING = 0.1  # chance of a wanderer in every step to want something else


# --- settings ---


class Certifying(Config):
    """How a barrier is sought."""

    lr: float = Field(3e-3, gt=0)
    points: int = Field(256, ge=1)  # that search for violations, and as many that push outward
    stride: float = Field(0.02, gt=0)  # length of a search step, in half-widths of the box
    margin: float = Field(0.005, ge=0)  # ε: U + ε ≤ 0 is asked for, so that a model may err by ε in h
    outward: float = Field(3.0, ge=0)  # weight of what pushes outward
    grow_steps: int = Field(250, ge=1)  # that push outward
    repair_steps: int = Field(800, ge=1)  # at most, that only take back
    quiet: int = Field(100, ge=1)  # steps in a row that find no violation


class Certified(ActingSettings):
    """Settings of a recipe that acts within a learnt certificate."""

    env: str = "DoubleIntegrator-v0"
    num_envs: int = Field(8, ge=1)
    total_steps: int = Field(5760, ge=1)
    steps_per_epoch: int = Field(480, ge=1)  # over all environments, between two certificates
    gamma: float = Field(0.95, gt=0, le=1)
    shapes: Shapes = Shapes()
    update: CertifiedSac = CertifiedSac()
    updates_per_step: float = Field(0.4, gt=0)  # gradient steps of the policy per step of an environment
    imitate_steps: int = Field(500, ge=1)  # towards the controller, in every epoch without a certificate
    certificate: Certifying = Certifying()
    wandering: float = Field(0.25, ge=0, le=1)  # share of the environments that do what chance wants, as far as certain
    capacity: int = Field(1_000_000, ge=1)  # transitions that are learnt from: the last so many


@dataclass(frozen=True)
class CertifiedRecipe:
    """A row: a name and its named settings."""

    name: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    Config: type[Certified] = Certified

    def inputs_of(self, config: Certified) -> Mapping[str, bool]:  # noqa: ARG002
        """No input: it begins with its world's controller."""
        return {}

    def check(self, config: Certified, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise at its start for the world or the layouts it is given.

        `root` is the folder of runs.
        """
        for reference in config.layouts:
            failing_layouts(reference, root)
        with one_world(config.env, config.env_options) as world:
            limits_of(NO_COST, world)
            config.shapes.core(world, torch.Generator().manual_seed(0))

    def limits(self, config: Certified) -> dict[str, float]:
        """0 for every cost of the world."""
        with one_world(config.env, config.env_options) as world:
            return limits_of(NO_COST, world)

    def train(self, config: Certified, run: Run, inputs: Mapping[str, Subject]) -> CertifiedPolicy:  # noqa: ARG002
        """Train a policy.  Resumes from the run's last checkpoint.

        Raises ConfigError for a world that a certificate cannot be learnt in; BadWorld for a
        reward or observation that is not finite, Diverged when the networks are no longer finite, RunError when no
        certificate was found.
        """
        return Trainer(config, run).train()


# --- the loop ---


@dataclass(slots=True)
class Epoch:
    """What happened in an epoch."""

    ended: Ended = field(default_factory=Ended)  # of the policy's own episodes
    cost: list[NDArray[np.float64]] = field(default_factory=list)  # [K] of each episode, whoever wanted what was done
    changed: list[float] = field(default_factory=list)  # share of the wanted actions that were not certain
    unsure: list[float] = field(default_factory=list)  # share of the states where no action was
    updates: dict[str, list[Tensor]] = field(default_factory=dict)


class Trainer:
    """One training run: what it holds is exactly what a checkpoint stores."""

    def __init__(self, config: Certified, run: Run) -> None:
        """Builds the world and the networks."""
        self.config, self.run = config, run
        torch.set_num_threads(config.learner_threads)
        self.env = training_world(config, run)
        self.known = certifiable(self.env)
        self.limited = limits_of(NO_COST, self.env)
        self.codec = ObservationCodec.of(self.env.observation_space)
        self.core = config.shapes.core(self.env, run.torch_rng("networks"))
        self.network = config.shapes.network(self.env, run.torch_rng("networks"))
        self.learner = config.update.learner(self.network)
        safe = [*self.core.certificate.net.parameters(), *self.core.policy.parameters()]
        self.adam = FlatAdam([Group(safe, config.certificate.lr)])
        self.model_adam = self.core.dynamics.optimiser()
        self.certified = config.shapes.core(self.env, torch.Generator().manual_seed(0))  # written by `_certify`
        self.guard = Guard(self.certified)
        self.proven = False  # whether anything has been certified yet
        members, width = config.shapes.model.members, self.network.action.width
        self.seen = Experience(config.capacity, self.codec.width, width, 0, members, run.folder / "experience")
        self.points = drawn(config.certificate.points, self.core.certificate.box(), run.torch_rng("networks"))
        self.stepping = Stepping(self.env, self.codec)
        self.wanderers = np.arange(config.num_envs) < math.floor(config.wandering * config.num_envs + 0.5)
        self.wander = np.zeros((config.num_envs, width), dtype=np.float32)  # what they want to do
        self.recent = Recent(len(self.env.costs), WINDOW)
        self.paid = account_of(self.env.costs, self.limited)
        self.taken = 0  # rows that the models' statistics hold
        self.epoch, self.epochs = 0, config.epochs

    @property
    def total_steps(self) -> int:
        """Steps of all environments so far."""
        return self.stepping.total_steps

    # -- checkpoints --

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next; new rows go to disk with it."""
        return {
            "network": dict(self.network.state_dict()),
            "core": dict(self.core.state_dict()),
            "certified": dict(self.certified.state_dict()),
            "proven": self.proven,
            "learner": self.learner.state_dict(),
            "adam": self.adam.state_dict(),
            "model_adam": self.model_adam.state_dict(),
            "seen": self.seen.record(),
            "points": self.points,
            "wander": self.wander,
            "stepping": self.stepping.state_dict(),
            "recent": self.recent.state_dict(),
            "paid": self.paid.state_dict(),
            "taken": self.taken,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint; a world without `state_dict` starts new episodes instead."""
        self.network.load_state_dict(state["network"])
        self.core.load_state_dict(state["core"])
        self.certified.load_state_dict(state["certified"])
        self.proven, self.points = bool(state["proven"]), state["points"]
        self.wander = state["wander"]
        self.learner.load_state_dict(state["learner"])
        self.adam.load_state_dict(state["adam"])
        self.model_adam.load_state_dict(state["model_adam"])
        self.seen.restore(state["seen"])
        self.recent.load_state_dict(state["recent"])
        self.paid.load_state_dict(state["paid"])
        self.taken, self.epoch = int(state["taken"]), int(state["epoch"])
        self.stepping.load_state_dict(state["stepping"])

    # -- training --

    def train(self) -> CertifiedPolicy:
        """All epochs, then the policy as it stands behind the core that was certified last."""
        config, run, saved = self.config, self.run, self.run.restore()
        if saved is None:
            self.seen.restore(None)
            self.stepping.reset()
        else:
            self.load_state_dict(saved)
        write_limits(run, {f"train/{name}": limit for name, limit in self.limited.items()})
        with closing(self.env), evaluated(config, run, self.limited) as finish:
            run_epochs(self, run, config.epoch_steps, config)
            if not self.proven:
                raise RunError(
                    f"no certificate was found in {self.epochs} epochs, so that the policy was never let go. Give "
                    "certificate.repair_steps or total_steps more, or certificate.margin less."
                )
            policy = self.policy()
            finish(self.total_steps, policy)
        return policy

    def policy(self) -> CertifiedPolicy:
        """The policy as it stands; it shares its weights with the training."""
        shape = {**described(self.network.shape), "layouts_met": self.stepping.met.tolist()}
        world = WorldRef(id=self.config.env, options=dict(self.config.env_options))
        return CertifiedPolicy(QPolicy(self.network, self.codec, world, shape), self.certified, self.config.shapes)

    def one_epoch(self) -> str:
        """Act, fit, improve, certify, log; returns what is shown beside the bar."""
        config, epoch = self.config, Epoch()
        for _ in range(config.env_steps):
            self._act(epoch)
        fitted = self._fit()
        if self.proven:
            self._improve(epoch)
        else:
            self._imitate()
        found = self._certify()
        for network in (self.core, self.network):
            refuse_divergence(network, self.total_steps, self.run)
        self.epoch += 1
        note = self._log(epoch, fitted, found)
        if self.proven:
            self.run.offer(self.total_steps, self.policy)
        return note

    # -- acting --

    def _act(self, epoch: Epoch) -> None:
        """One step of every environment, into the experience and the account of episodes."""
        actions = self._within(epoch) if self.proven else self._controlled()
        if not np.isfinite(actions).all():
            refuse_divergence(self.network, self.total_steps, self.run)  # before the world is blamed for it
        taken, finished = self.stepping.step(self.network.action.to_world(actions), random=not self.proven)
        self._remember(taken, actions)
        self.paid.total += taken.step.cost.sum(axis=0)
        if finished is not None:
            self._account(finished, epoch)

    def _controlled(self) -> NDArray[np.float32]:
        """The world's controller with the noise it can bear, [N, A]."""
        own: NDArray[np.float32] = self.known.controller(torch.from_numpy(self.stepping.obs)).numpy()
        return own + np.float32(self.known.excitation) * self._wandered()

    def _wandered(self) -> NDArray[np.float32]:
        """What chance wants: actions that are held for a while, [N, A]."""
        rng = self.run.rng("wander")
        turns = rng.random(len(self.wander)) < TURNING
        self.wander[turns] = rng.uniform(-1.0, 1.0, self.wander.shape)[turns]
        return self.wander.copy()

    @torch.no_grad()
    def _within(self, epoch: Epoch) -> NDArray[np.float32]:
        """The policy's actions, or those of a wanderer, as far as they are certain, [N, A]."""
        policy = self.learner.policy(torch.from_numpy(self.stepping.obs))
        wanted: NDArray[np.float32] = policy.to_action(policy.sample(self.run.torch_rng("collect"))).numpy()
        wanted[self.wanderers] = self._wandered()[self.wanderers]
        self.stepping.random |= self.wanderers
        found = self.guard(self.stepping.obs, wanted)
        epoch.changed.append(float(found.intervened.mean()))
        epoch.unsure.append(float(1.0 - found.feasible.mean()))
        return found.action.astype(np.float32)

    def _remember(self, taken: Taken, actions: NDArray[np.float32]) -> None:
        step, model, n = taken.step, self.config.shapes.model, self.config.num_envs
        counts = bootstrap(self.seen.total, n, model.members, model.held_out, self.run.rng("bootstrap"))
        numbers = (step.reward[:, None], self.config.gamma * ~step.terminated[:, None], taken.after, np.zeros((n, 1)))
        parts = (taken.obs, actions, *numbers, counts)
        self.seen.add(Seen(*(torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in parts)))

    def _account(self, finished: Finished, epoch: Epoch) -> None:
        """Episodes that ended, and what the policy's own among them came to."""
        epoch.cost.extend(finished.cost)
        rows, episode_return, cost, length, mine = finished
        own = Finished(rows[mine], episode_return[mine], cost[mine], length[mine], mine[mine])
        epoch.ended.add(own, own.cost)
        self.recent.add(own.episode_return, own.cost)

    # -- learning --

    def _fit(self) -> Fitted:
        """Fit the models to what has been seen."""
        dynamics, new = self.core.dynamics, self.seen.since(self.taken)
        dynamics.take_in(new)
        self.core.certificate.see(torch.cat([new.obs, new.after]))
        self.taken = self.seen.total
        return dynamics.fit(self.seen.all(), self.model_adam, self.run.torch_rng("model"))

    def _imitate(self) -> None:
        """Teach the safe policy what the world's controller does, all over the box."""
        for _ in range(self.config.imitate_steps):
            states = self._drawn("update")
            self._descend((self.core.intended(states) - self.known.controller(states)).square().mean())

    def _improve(self, epoch: Epoch) -> None:
        """The gradient steps of policy and critics that an epoch has earned, behind the guard that acts."""
        config, rng = self.config, self.run.torch_rng("update")
        for _ in range(round(config.updates_per_step * config.epoch_steps)):
            rows = self.seen.sample(config.update.batch, rng)
            batch = Transitions(rows.obs, rows.action, rows.signal, rows.discount, rows.after)
            for name, value in config.update.learn(self.learner, batch, self.certified, rng).items():
                epoch.updates.setdefault(name, []).append(value)

    def _certify(self) -> bool:
        """Push the barrier outward, then take back what is not certain; whether a new core is certified."""
        settings = self.config.certificate
        for _ in range(settings.grow_steps):
            self._shape(grow=True)
        quiet = 0
        for _ in range(settings.repair_steps):
            quiet = 0 if self._shape(grow=False) else quiet + 1
            if quiet == settings.quiet:
                return self._taken_over()
        return False

    @torch.no_grad()
    def _taken_over(self) -> bool:
        """Certify the core, unless it calls less safe than the one before; whether that is done."""
        states = drawn(LOOKED_AT, self.core.certificate.box(), self.run.torch_rng("report"))
        mine, last = ((core.certificate(states) >= 0.0).sum() for core in (self.core, self.certified))
        if self.proven and mine < last:
            return False
        self.certified.load_state_dict(self.core.state_dict())
        self.proven = True
        return True

    def _shape(self, grow: bool) -> bool:
        """One step of barrier and safe policy against what the search finds; whether it found a violation.

        grow: whether the barrier is pushed outward, too.
        """
        settings = self.config.certificate
        found = examined(self.core, self.points, settings.margin)
        terms = [violation_loss(found)] if found.broken else []
        if grow:
            terms.append(settings.outward * outside_loss(self.core.certificate, self._drawn("search")))
        if terms:
            self._descend(sum(terms, torch.zeros(())))
        self.points = climbed(found, self.core.certificate, settings.stride, self.run.torch_rng("search"))
        return found.broken

    def _drawn(self, stream: str) -> Tensor:
        """States from all over the box."""
        return drawn(self.config.certificate.points, self.core.certificate.box(), self.run.torch_rng(stream))

    def _descend(self, loss: Tensor) -> None:
        """One step of barrier and safe policy."""
        self.adam.zero_grad()
        loss.backward(inputs=list(self.adam.groups[0].parameters))
        self.adam.step(math.inf)

    # -- logging --

    @torch.no_grad()
    def _log(self, epoch: Epoch, fitted: Fitted, found: bool) -> str:
        scalars = {f"update/{name}": float(torch.stack(values).mean()) for name, values in epoch.updates.items()}
        scalars |= {"model/passes": float(fitted.passes), "model/held_out": fitted.held_out}
        states = drawn(LOOKED_AT, self.certified.certificate.box(), self.run.torch_rng("report"))
        scalars["certificate/found"] = float(found)
        scalars["certificate/share"] = float((self.certified.certificate(states) >= 0.0).float().mean()) * self.proven
        if epoch.changed:
            scalars["guard/changed"] = float(np.mean(epoch.changed))
            scalars["guard/unsure"] = float(np.mean(epoch.unsure))
        scalars |= epoch.ended.logged(self.env.costs)
        self.paid.end_epoch(epoch.cost)
        scalars |= self.paid.logged()
        self.run.log(self.total_steps, **scalars)
        return self.recent.shown()
