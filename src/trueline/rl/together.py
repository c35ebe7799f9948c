"""Several seeds of one training in one process, their networks in one stack.

With small networks and small minibatches most of a training's time goes to calls, not to arithmetic: S networks in one
batched product take little longer than one. So S trainings that differ in their seeds alone are stepped side by side.
Everything a training is made of stays its own: environments, random streams, statistics, multipliers, logs,
checkpoints, and the folder of its run. Shared are the policies' products while collecting, and every gradient step:

    weights [S, in, out] · inputs [S, b, in],    loss Σ_s of each seed's own,    Adam on rows [S, ·]

A sum of losses that share no parameter has each one's own gradient, so that a seed learns what it would have learnt
alone, up to the rounding of products in another order. A seed whose KL ends its update leaves the stack and is not
touched again until the next; one whose training fails leaves it for good, and the others go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.checkpoint import step_of
from trueline.core.errors import ConfigError, TruelineError
from trueline.core.progress import progress
from trueline.core.run import Run
from trueline.core.stopping import stop_asked
from trueline.core.subject import Subject
from trueline.rl.adam import BETA_1, BETA_2, EPSILON, FlatAdam, Group
from trueline.rl.augmentation.world import Restarts
from trueline.rl.collect import Batch, Collector, columns_of
from trueline.rl.distributions import Distribution, Stackable, side_by_side
from trueline.rl.env import Stateful, VectorEnv
from trueline.rl.networks import ActorCritic
from trueline.rl.on_policy import OnPolicy, TakenIn, Trainer, rules_of
from trueline.rl.parallel import learners
from trueline.rl.policy import NetworkPolicy
from trueline.rl.shared_world import SharedWorld
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.training import one_world, tell_rounded
from trueline.rl.updates.ppo import Gain, PassesReport, RowByRow
from trueline.rl.updates.rows import Rows
from trueline.rl.worlds import make

__all__ = ["Ending", "Stack", "ascend_together", "collect_together", "refuse_unstackable", "train_together"]

T = TypeVar("T")
Array = NDArray[Any]

Ending = NetworkPolicy | TruelineError  # what a training came to: its policy, or what ended it before its time


# --- networks in one stack ---


class Stack:
    """Networks of one shape and their optimisers' moments, copied into one tensor a group: [S, networks, numbers].

    What a layer takes are views of those, with the gradient of each in place.
    """

    def __init__(self, networks: Sequence[ActorCritic], adams: Sequence[FlatAdam]) -> None:
        """networks and adams: one of each seed; the copies go back by `give_back`."""
        self.network, self.groups = networks[0], adams[0].groups
        every = range(len(self.groups))
        self.values = [torch.stack([adam.values[g] for adam in adams]) for g in every]
        self.first = [torch.stack([adam.first[g] for adam in adams]) for g in every]
        self.second = [torch.stack([adam.second[g] for adam in adams]) for g in every]
        self.steps = torch.tensor([adam.steps for adam in adams], dtype=torch.float64)
        self._lay_out()

    def __len__(self) -> int:
        return len(self.steps)

    def _lay_out(self) -> None:
        self.grads = [torch.zeros_like(value) for value in self.values]
        self._scales = [torch.empty_like(value) for value in self.values]  # of the step, kept to be written again
        actor, critics = (self._leaves(g) for g in range(2))
        depth = len(self.network.actor.weights)
        self.actor_weights, self.actor_biases = actor[:depth], actor[depth : 2 * depth]  # [S, in, out], [S, 1, out]
        self.log_std = actor[2 * depth] if self.network.log_std is not None else None  # [S, 1, A]
        depth = len(self.network.critics.weights)
        self.critic_weights, self.critic_biases = critics[:depth], critics[depth:]  # [S·H, in, out], [S·H, 1, out]

    def _leaves(self, g: int) -> list[Tensor]:
        leaves = []
        for here, there in zip(*(_views(self.groups[g], flat[g]) for flat in (self.values, self.grads)), strict=True):
            leaf = here.detach().requires_grad_()
            leaf.grad = there
            leaves.append(leaf)
        return leaves

    def policy(self, features: Tensor) -> Stackable:
        """The seeds' policies of [S, b, D]."""
        output = _perceptrons(features, self.actor_weights, self.actor_biases, self.network.actor.activation)
        return self.network.distribution_of(output, self.log_std)

    def policy_of(self, seed: int, features: Tensor) -> Distribution:
        """One seed's policy of [R, D]."""
        weights, biases = ([x[seed, None] for x in each] for each in (self.actor_weights, self.actor_biases))
        output = _perceptrons(features[None], weights, biases, self.network.actor.activation)[0]
        return self.network.distribution_of(output, None if self.log_std is None else self.log_std[seed, 0])

    def critics(self, features: Tensor) -> Tensor:
        """Values [S, b, 1 + K] of [S, b, D]: the reward's, then each cost's."""
        seeds, rows, _ = features.shape
        heads = self.network.critics.heads
        x = features[:, None].expand(-1, heads, -1, -1).flatten(0, 1)
        value = _perceptrons(x, self.critic_weights, self.critic_biases, self.network.critics.activation)
        return value.view(seeds, heads, rows).transpose(1, 2)

    def zero_grad(self) -> None:
        """Gradients are accumulated into the stacked tensors."""
        for grad in self.grads:
            grad.zero_()

    @torch.no_grad()
    def step(self, bound: float) -> None:
        """The step of `FlatAdam.step` for every seed, each by its own count of steps."""
        self.steps += 1.0
        unbiased = ((1.0 - beta**self.steps)[:, None, None] for beta in (BETA_1, BETA_2))
        correction_1, correction_2 = (x.to(self.values[0]) for x in unbiased)
        every = zip(self.groups, self.values, self.grads, self.first, self.second, self._scales, strict=True)
        for group, value, grad, first, second, scale in every:
            if group.l2:
                grad.add_(value, alpha=2.0 * group.l2)
            norm = torch.linalg.vector_norm(grad, dim=2, keepdim=True)
            grad.mul_((bound / (norm + 1e-6)).clamp_max_(1.0))
            first.lerp_(grad, 1.0 - BETA_1)
            second.mul_(BETA_2).addcmul_(grad, grad, value=1.0 - BETA_2)
            torch.sqrt(second, out=scale).div_(correction_2.sqrt()).add_(EPSILON).mul_(correction_1)
            value.addcdiv_(first, scale, value=-group.lr)

    @torch.no_grad()
    def give_back(self, seed: int, adam: FlatAdam) -> None:
        """Copy a seed's numbers into its own network and optimiser."""
        for g in range(len(self.groups)):
            adam.values[g].copy_(self.values[g][seed])
            adam.first[g].copy_(self.first[g][seed])
            adam.second[g].copy_(self.second[g][seed])
        adam.steps = int(self.steps[seed])

    def keep(self, seeds: Sequence[int]) -> None:
        """Go on with these seeds alone."""
        index = torch.tensor(list(seeds))
        self.values, self.first, self.second = (
            [x[index] for x in each] for each in (self.values, self.first, self.second)
        )
        self.steps = self.steps[index]
        self._lay_out()


def _views(group: Group, flat: Tensor) -> list[Tensor]:
    """What layers take of [S, networks, numbers]: the seed, or the seed and its network, is their batch dimension."""
    found, at = [], 0
    for p in group.parameters:
        width = p.numel() // flat.shape[1]
        part = flat[:, :, at : at + width]
        if group.rows is not None:  # laid out for batched products already
            found.append(part.view(-1, *p.shape[1:]))
        elif p.dim() == 1:
            found.append(part.view(len(flat), 1, width))
        else:
            found.append(part.view(len(flat), *p.shape).transpose(1, 2))
        at += width
    return found


def _perceptrons(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """S perceptrons at once.  x [S, b, in], weights [S, in, out], biases [S, 1, out] -> [S, b, out]."""
    last = len(weights) - 1
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = torch.baddbmm(bias, x, weight)
        if layer < last:
            x = activation(x)
    return x


# --- worlds side by side ---


class _Apart:
    """The worlds of some trainings, each stepped by itself."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.collectors = [trainer.own_collector for trainer in trainers]

    def begin(self) -> None:
        """Begin a collection."""
        for collector in self.collectors:
            collector.begin()

    def seen(self, t: int) -> Tensor:
        """Observations before step t, [S, n, D]."""
        return torch.stack([collector.inputs["vector"][t] for collector in self.collectors])

    def act(self, t: int, draw: Array, action: Array, codec: ActionCodec) -> None:
        """Take step t.  draw, action [S, n, A]."""
        for s, collector in enumerate(self.collectors):
            collector.act(t, draw[s], codec.to_world(action[s]))

    def finish(self) -> list[Batch | TruelineError]:
        """Each training's collection; in place of one that failed its error."""
        return [_or_error(collector.finish) for collector in self.collectors]


class _Sharing:
    """Trainings whose environments are blocks of one world; those that have ended stand by in theirs."""

    def __init__(self, world: SharedWorld, trainers: Sequence[Trainer]) -> None:
        self.world, self.trainers = world, list(trainers)
        first = trainers[0].own_collector
        self.whole = Collector(world, first.codec, first.steps, first.draw.shape[-1])
        for trainer, block in zip(trainers, world.blocks, strict=True):
            trainer.own_collector.lie_in(self.whole, block.rows)
        self.going = torch.arange(len(self.trainers))

    def of(self, trainers: Sequence[Trainer]) -> _Sharing:
        """Those that go on."""
        self.going = torch.tensor([self.trainers.index(trainer) for trainer in trainers])
        return self

    def begin(self) -> None:
        """Begin a collection."""
        self.whole.begin()

    def seen(self, t: int) -> Tensor:
        """Observations before step t, [S, n, D]."""
        return self.whole.inputs["vector"][t].unflatten(0, (len(self.trainers), -1))[self.going]

    def act(self, t: int, draw: Array, action: Array, codec: ActionCodec) -> None:
        """Take step t.  draw, action [S, n, A]; where a block's observations are no numbers, nothing is done in it."""
        draws, actions = (self._everywhere(np.nan_to_num(x)) for x in (draw, action))
        self.whole.act(t, draws, codec.to_world(actions))

    def _everywhere(self, of_going: Array) -> Array:
        if len(self.going) == len(self.trainers):
            return of_going.reshape(-1, of_going.shape[-1])
        whole = np.zeros((len(self.trainers), *of_going.shape[1:]), of_going.dtype)
        whole[self.going] = of_going
        return whole.reshape(-1, whole.shape[-1])

    def finish(self) -> list[Batch | TruelineError]:
        """Each training's collection; in place of one that failed its error."""
        batch = self.whole.collected()
        return [_or_error(partial(self._part, batch, s)) for s in self.going.tolist()]

    def _part(self, batch: Batch, s: int) -> Batch:
        return self.trainers[s].own_collector.accept(columns_of(batch, self.world.blocks[s].rows))


def _shared_world(config: OnPolicy, runs: Sequence[Run]) -> SharedWorld | None:
    """One world of all the runs' environments, where it can be: None for worlds, wrappers and runs that cannot share.

    Runs that were killed at different epochs cannot: their worlds are not stepped at the same times.
    """
    level = {None if run.last_checkpoint is None else step_of(run.last_checkpoint) for run in runs}
    if len(runs) < 2 or len(level) > 1 or config.disturbance is not None or rules_of(config) is not None:
        return None
    threads = runs[0].manifest["threads"]
    with one_world(config.env, config.env_options) as one:
        if not (isinstance(one, Restarts) and isinstance(one, Stateful)):
            return None
        world = make(config.env, len(runs) * config.num_envs, threads, **config.env_options)
        return SharedWorld(world, config.num_envs, one)


# --- one epoch ---


@torch.no_grad()
def collect_together(trainers: Sequence[Trainer], worlds: _Apart | _Sharing) -> list[Batch | TruelineError]:
    """A collection of every training, all policies in one product a layer; in place of one that failed its error."""
    rngs = [trainer.run.torch_rng("collect") for trainer in trainers]
    stack = Stack([trainer.network for trainer in trainers], [trainer.adam for trainer in trainers])
    codec, normalised = stack.network.action, _normaliser(trainers)
    worlds.begin()
    for t in range(trainers[0].own_collector.steps):
        policy = stack.policy(normalised(worlds.seen(t)))
        draw = policy.sample(rngs)
        worlds.act(t, draw.numpy(), policy.to_action(draw).numpy(), codec)
    return worlds.finish()


def _normaliser(trainers: Sequence[Trainer]) -> Callable[[Tensor], Tensor]:
    """Observations [S, N, D] as each seed's statistics have them; what stands still while one collects."""
    norms = [trainer.network.encoder.norm for trainer in trainers]
    shift = torch.stack([norm.shift32 for norm in norms if norm is not None])[:, None]
    scale = torch.stack([norm.scale32 for norm in norms if norm is not None])[:, None]
    clip = max(norm.clip for norm in norms if norm is not None)
    return lambda x: ((x - shift) * scale).clamp(-clip, clip)


def ascend_together(
    settings: RowByRow,
    networks: Sequence[ActorCritic],
    adams: Sequence[FlatAdam],
    batches: Sequence[Rows[Tensor]],
    rngs: Sequence[torch.Generator],
) -> list[PassesReport]:
    """`updates.ppo.ascend` for S seeds at once: the mean gain of each, its own permutations, its own end by KL.

    Changes each seed's network and optimiser as an update of its own would; learning rates are those of `adams`.
    """
    size, joined = len(batches[0].log_prob), _side_by_side(batches)
    gain, stack = settings.gain(joined), Stack(networks, adams)
    active = list(range(len(batches)))  # the seeds in the stack
    reports: dict[int, PassesReport] = {}
    for done in range(1, settings.passes + 1):
        order = torch.stack([torch.randperm(size, generator=rngs[s]) + s * size for s in active])
        losses = _one_pass(settings, stack, joined, gain, order)
        going = []
        for place, s in enumerate(active):
            kl, entropy = _moved(stack, place, batches[s])
            if done < settings.passes and math.isfinite(kl) and kl <= (settings.target_kl or math.inf):
                going.append(place)
            else:
                stack.give_back(place, adams[s])
                policy_loss, value_loss = losses[place].tolist()
                reports[s] = PassesReport(kl, done, policy_loss, value_loss, entropy)
        if not going:
            break
        if len(going) < len(active):
            stack.keep(going)
            active = [active[place] for place in going]
    return [reports[s] for s in range(len(batches))]


def _one_pass(settings: RowByRow, stack: Stack, joined: Rows[Tensor], gain: Gain, order: Tensor) -> Tensor:
    """A pass over the rows `order` [S, R] of each seed; means over minibatches of −gain and value loss, [S, 2]."""
    sums = torch.zeros(len(stack), 2)
    begins = range(0, order.shape[1], settings.minibatch)
    for begin in begins:
        rows = order[:, begin : begin + settings.minibatch]
        features = joined.inputs["vector"][rows]
        policy = stack.policy(features)
        gained = gain(policy, rows).mean(1)
        value_loss = (stack.critics(features) - joined.target[rows]).square().mean(1).sum(1)
        loss = value_loss - gained
        if settings.entropy:
            loss = loss - settings.entropy * policy.entropy().mean(1)
        stack.zero_grad()
        loss.sum().backward()
        stack.step(settings.grad_norm)
        sums += torch.stack([-gained.detach(), value_loss.detach()], dim=1)
    return sums / len(begins)


@torch.no_grad()
def _moved(stack: Stack, seed: int, rows: Rows[Tensor]) -> tuple[float, float]:
    """KL(old‖new) and entropy of a seed's policy, means over its batch."""
    policy = stack.policy_of(seed, rows.inputs["vector"])
    return float(rows.policy.kl(policy).mean()), float(policy.entropy().mean())


def _side_by_side(batches: Sequence[Rows[Tensor]]) -> Rows[Tensor]:
    """The rows of all seeds, [S·R] one seed's after another's."""
    return Rows(
        {"vector": torch.cat([batch.inputs["vector"] for batch in batches])},
        torch.cat([batch.draw for batch in batches]),
        torch.cat([batch.log_prob for batch in batches]),
        side_by_side([batch.policy for batch in batches]),
        torch.cat([batch.advantage for batch in batches]),
        torch.cat([batch.target for batch in batches]),
    )


# --- whole trainings ---


def refuse_unstackable(config: OnPolicy) -> None:
    """Raises ConfigError for settings under which seeds cannot be trained in one stack."""
    if not isinstance(config.update, RowByRow):
        raise ConfigError(
            f"seeds cannot be trained together by {type(config.update).__name__.lower()}, whose step is no mean over "
            "rows. Train them one by one, or take a PPO row."
        )
    if config.memory is not None:
        raise ConfigError("seeds cannot be trained together with a memory. Train them one by one, or leave memory out.")
    with one_world(config.env, config.env_options) as world:
        if ObservationCodec.of(world.observation_space).images:
            raise ConfigError(
                f"seeds cannot be trained together on the pictures of {config.env}. Train them one by one."
            )


def train_together(config: OnPolicy, runs: Sequence[Run], inputs: Mapping[str, Subject]) -> list[Ending]:
    """Train a policy in each of the runs, which differ in their seeds; each resumes from its own last checkpoint.

    What ended a training before its time stands in place of its policy; the others go on. Raises ConfigError for what
    cannot be trained so.
    """
    refuse_unstackable(config)
    if learners().size > 1:
        raise ConfigError("seeds cannot be trained together by several processes. Start them without torchrun.")
    world = _shared_world(config, runs)
    blocks: Sequence[VectorEnv | None] = [None] * len(runs) if world is None else world.blocks
    trainers = [Trainer(config, run, inputs, block) for run, block in zip(runs, blocks, strict=True)]
    sharing = None if world is None else _Sharing(world, trainers)
    endings: dict[int, Ending] = {}
    try:
        for s, trainer in enumerate(trainers):
            begun = _or_error(trainer.begin)
            if isinstance(begun, TruelineError):
                endings[s] = begun
        _every_epoch(trainers, sharing, endings)
    finally:
        for trainer in trainers:
            trainer.close()
        if world is not None:
            world.close()
    return [endings[s] if s in endings else _or_error(trainer.end) for s, trainer in enumerate(trainers)]


def _every_epoch(trainers: Sequence[Trainer], sharing: _Sharing | None, endings: dict[int, Ending]) -> None:
    """Every epoch that is left of those that have not ended. Runs that were killed apart are brought level first."""
    per_epoch, epochs = trainers[0].epoch_steps, trainers[0].epochs
    label = f"{trainers[0].run.manifest['name']}, {len(trainers)} seeds"
    tell_rounded(trainers[0].config, epochs, per_epoch)
    with progress(total=len(trainers) * epochs * per_epoch, label=label) as bar:
        bar.start_at(sum(trainer.epoch for trainer in trainers) * per_epoch)
        while going := [s for s, t in enumerate(trainers) if s not in endings and t.epoch < epochs]:
            if stop_asked():
                for s in going:  # each is saved where it stands, and says so
                    endings[s] = _or_error(partial(_stopped, trainers[s]))
                return
            behind = min(trainers[s].epoch for s in going)
            level = [s for s in going if trainers[s].epoch == behind]
            notes = _one_epoch([trainers[s] for s in level], sharing)
            endings |= {s: note for s, note in zip(level, notes, strict=True) if isinstance(note, TruelineError)}
            shown = next((note for note in notes if isinstance(note, str)), "")
            bar.advance(len(level) * per_epoch, note=shown)


def _one_epoch(trainers: Sequence[Trainer], sharing: _Sharing | None) -> list[str | TruelineError]:
    """Collect, update, log and save; what each training shows beside the bar, or what ended it."""
    results: dict[int, str | TruelineError] = {}
    worlds = _Apart(trainers) if sharing is None else sharing.of(trainers)
    for trainer in trainers:
        trainer.tell_scale()
    taken: dict[int, TakenIn] = {}
    for s, batch in enumerate(collect_together(trainers, worlds)):
        if isinstance(batch, TruelineError):
            results[s] = batch
        else:
            taken[s] = trainers[s].take_in(batch)
    reports = _updated([trainers[s] for s in taken], [one.rows for one in taken.values()])
    for s, report in zip(taken, reports, strict=True):
        results[s] = _or_error(partial(_conclude, trainers[s], taken[s], report))
    return [results[s] for s in range(len(trainers))]


def _updated(trainers: Sequence[Trainer], batches: Sequence[Rows[Tensor]]) -> list[PassesReport]:
    if not trainers:
        return []
    settings = trainers[0].config.update
    for trainer in trainers:
        settings.set_rates(trainer.adam, trainer.epoch / trainer.epochs)
    return ascend_together(
        settings,
        [trainer.network for trainer in trainers],
        [trainer.adam for trainer in trainers],
        batches,
        [trainer.run.torch_rng("update") for trainer in trainers],
    )


def _conclude(trainer: Trainer, taken: TakenIn, report: PassesReport) -> str:
    note = trainer.conclude(taken, report)
    if trainer.epoch % trainer.config.checkpoint_epochs == 0 or trainer.epoch == trainer.epochs or stop_asked():
        trainer.run.save(trainer.total_steps, trainer.state_dict())
    return note


def _stopped(trainer: Trainer) -> NetworkPolicy:
    trainer.run.save(trainer.total_steps, trainer.state_dict())  # raises Stopped
    raise AssertionError("a stop was asked for")


def _or_error(attempt: Callable[[], T]) -> T | TruelineError:
    try:
        return attempt()
    except TruelineError as error:
        return error
