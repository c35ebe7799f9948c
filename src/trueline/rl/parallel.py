"""Several processes that train one policy: each plays some of the environments, all take the same update.

`torchrun --nproc-per-node W` starts W *learners*. Each plays num_envs/W of the environments with random streams of its
own; what they collected is then sent to all, learner by learner in the order of their ranks, so that every learner
holds the batch that one process would have collected in all these environments: advantages are standardised over it,
statistics of observations, episode windows and multipliers are those of it, and no rule of the loop has to be written
a second time for parts of a batch.

Minibatches are shared out. All learners draw the same permutation, each takes its rows of a minibatch, weighs its mean
by the share of rows it has, and the gradients are summed: the gradient of one process, whatever the number of rows is
divisible by. Whether KL ends the passes is decided by a sum over all rows as well. An update whose objective is no mean
over rows (P3O's penalty of a mean, a natural gradient) is made by every learner on the whole batch: the step is the
same, and what is shared out there is the collection, which takes most of such an epoch.

The first learner alone writes the run. The others have a `Follower`, which draws and writes nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from trueline.core import registry
from trueline.core.checkpoint import State
from trueline.core.errors import ConfigError, RunError, Stopped, TruelineError
from trueline.core.progress import set_quiet
from trueline.core.run import Run, Status
from trueline.core.stopping import stop_asked
from trueline.core.streams import Streams
from trueline.core.subject import Subject
from trueline.rl.augmentation.world import Played
from trueline.rl.collect import Batch, Collector, Finals
from trueline.rl.networks import ActorCritic
from trueline.rl.spaces import ObservationCodec

__all__ = ["ALONE", "Follower", "JoinedCollector", "Learners", "learners", "started_by_torchrun", "torchrun"]

T = TypeVar("T")

# What a learner waits for may be another's evaluation; one that is gone is noticed at once, by its closed connection.
_PATIENCE = timedelta(days=1)
_OWN_STREAMS = ("collect", "disturbance", "layouts")  # of what each learner draws for its own environments


# --- the group ---


@dataclass(frozen=True, slots=True)
class Learners:
    """The processes that train one policy, seen from the one of number `rank`. All of them make the same calls."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes the run."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This learner's part of the rows [b] of a minibatch: as many as any other's, or one more or less."""
        return rows if self.size == 1 else rows.tensor_split(self.size)[self.rank]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Makes each tensor the sum of all learners', in place and in one message."""
        if self.size == 1:
            return
        flat = torch.cat([x.flatten() for x in tensors])
        distributed.all_reduce(flat)
        for x, total in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(total.view_as(x))

    def joined(self, part: Tensor, dim: int) -> Tensor:
        """All learners' parts, of one shape, side by side along `dim`, in the order of their ranks."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.size)]
        distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim)

    def gathered(self, value: T) -> list[T]:
        """Everyone's value, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """What the first learner gave; the others' values do not matter."""
        if self.size == 1:
            return value
        held = [value if self.leads else None]
        distributed.broadcast_object_list(held)
        found: Any = held[0]
        return found

    def agreed(self, attempt: Callable[[], T]) -> T:
        """What `attempt` gives here. Where it fails for any learner, all raise the error of the first that failed."""
        result: Any = None
        error: TruelineError | None = None
        try:
            result = attempt()
        except TruelineError as found:
            error = found
        for failed in self.gathered(error):
            if failed is not None:
                raise failed
        return result

    def opened(self, make: Callable[[], Run]) -> Run:
        """The run that the first learner makes, for it; for the others a `Follower` of it."""
        if self.size == 1:
            return make()
        run = self.agreed(lambda: make() if self.leads else None)
        facts = self.from_first(None if run is None else (run.folder, run.manifest, run.config))
        assert facts is not None
        return run if run is not None else Follower(*facts, self.rank)


ALONE = Learners()


def learners() -> Learners:
    """The learners this process is one of; ALONE in an ordinary process."""
    if distributed.is_available() and distributed.is_initialized():
        return Learners(distributed.get_rank(), distributed.get_world_size())
    return ALONE


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun, or a launcher with its variables, started."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def torchrun(recipe: str) -> Iterator[Learners]:
    """The learners that torchrun started, joined for the time of the block; ALONE in an ordinary process.

    Raises ConfigError for a recipe that one process trains. All but the first learner are silent.
    """
    if not started_by_torchrun() or distributed.is_initialized():
        yield learners()
        return
    if not getattr(registry.load("recipe", recipe), "data_parallel", False):
        raise ConfigError(f"{recipe} is trained by one process, and torchrun started several. Start it without.")
    # Gradients of such networks are too small for a GPU's network to be worth its start: everything goes by gloo.
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    group = learners()
    try:
        if not group.leads:
            set_quiet(True)
        yield group
        distributed.barrier()  # nobody looks at the run before it is whole
    finally:
        distributed.destroy_process_group()


# --- what the others have in place of a run ---


class Follower(Run):
    """The run as the other learners see it: the same streams, but for what each draws for itself; nothing is written.

    Its state travels in the first learner's checkpoints; see `Trainer.state_dict`.
    """

    follows = True

    def __init__(self, folder: Path, manifest: dict[str, Any], config: dict[str, Any], rank: int) -> None:
        """folder, manifest, config: the first learner's."""
        # Run's own beginning would take the folder's lock and open its files.
        self.folder, self.manifest, self.config = folder, manifest, config
        self.id, self.seed, self.rank = manifest["id"], manifest["seed"], rank
        self.watch = None
        self.restored_step = None
        self.streams = Streams(self.seed)
        self.stopping = False  # all learners were asked to stop

    def _stream(self, name: str) -> str:
        return f"{name}/{self.rank}" if name in _OWN_STREAMS else name

    def rng(self, name: str) -> np.random.Generator:
        """The NumPy stream `name`."""
        return self.streams.rng(self._stream(name))

    def torch_rng(self, name: str) -> torch.Generator:
        """The torch stream `name`."""
        return self.streams.torch_rng(self._stream(name))

    def save(self, step: int, state: State) -> Path:  # noqa: ARG002
        """Writes nothing; raises `Stopped` where all learners were asked to stop."""
        if self.stopping:
            raise Stopped(self.id)
        return self.folder

    def restore(self) -> State | None:
        """Nothing: the first learner sends what it found."""
        return None

    def log(self, step: int, **scalars: SupportsFloat) -> None:
        """Writes nothing."""

    def offer(self, step: int, subject: Callable[[], Subject]) -> None:
        """The first learner's watch looks for all."""

    def append_evidence(self, record: Mapping[str, Any]) -> None:
        """Writes nothing."""

    def write_json(self, name: str, value: Any) -> Path:  # noqa: ARG002
        """Writes nothing."""
        return self.folder / "artefacts" / name

    def write_text(self, name: str, text: str) -> Path:  # noqa: ARG002
        """Writes nothing."""
        return self.folder / "artefacts" / name

    def finish(self, status: Status = "done", summary: Mapping[str, Any] | None = None, reason: str = "") -> None:
        """Writes nothing."""

    def close(self) -> None:
        """There is nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """How the run was left is the first learner's to record."""


# --- collections ---


class JoinedCollector:
    """What all learners collect, as one collection of all their environments: those of the first learner come first.

    Episodes and last observations stand in the order in which one process would have met them, by step and then by
    environment.
    """

    def __init__(self, own: Collector, group: Learners) -> None:
        """own: of the environments that this learner plays."""
        self.own, self.group = own, group
        self._order: NDArray[np.intp] = np.zeros(0, np.intp)  # of the learners' episodes, one list after another

    @property
    def codec(self) -> ObservationCodec:
        """How observations become inputs."""
        return self.own.codec

    @property
    def steps(self) -> int:
        """T of each collection."""
        return self.own.steps

    @property
    def total_steps(self) -> int:
        """Steps of all environments so far."""
        return self.own.total_steps * self.group.size

    def start(self) -> None:
        """Reset every environment."""
        self.own.start()

    def state_dict(self) -> dict[str, Any]:
        """Of this learner's environments."""
        return self.own.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state of this learner's environments."""
        self.own.restore(state)

    def collect(self, network: ActorCritic, rng: torch.Generator) -> Batch:
        """T steps everywhere. Where a learner's world breaks, all raise what it raised."""
        return self.join(self.group.agreed(lambda: self.own.collect(network, rng)))

    def join(self, own: Batch) -> Batch:
        """The learners' batches [T, n, ...] as one [T, W·n, ...]."""
        group, n = self.group, own.reward.shape[1]
        terminated, truncated = group.joined(own.terminated, 1), group.joined(own.truncated, 1)
        ended = (terminated + truncated).numpy() > 0.0
        met = [np.argwhere(part) + [0, rank * n] for rank, part in enumerate(np.split(ended, group.size, axis=1))]
        self._order = _by_step(np.concatenate(met))
        episodes = (own.episode_return, own.episode_cost, own.episode_length, own.episode_seed)
        returns, costs, lengths, seeds = (self._episodes(found) for found in episodes)
        return Batch(
            {name: group.joined(x, 1) for name, x in own.inputs.items()},
            group.joined(own.draw, 1),
            group.joined(own.reward, 1),
            group.joined(own.cost, 1),
            terminated,
            truncated,
            _joined_finals(group.gathered(own.finals), n),
            None if own.memory is None else group.joined(own.memory, 0),
            returns,
            costs,
            lengths,
            seeds,
        )

    def played(self, own: Played) -> Played:
        """What the learners' worlds paid and charged in the collection that was joined last."""
        total = np.sum(self.group.gathered(own.total_cost), axis=0)
        return Played(self._episodes(own.episode_return), self._episodes(own.episode_cost), total)

    def _episodes(self, own: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate(self.group.gathered(own))[self._order]


def _by_step(met: NDArray[np.intp]) -> NDArray[np.intp]:
    """The order of (step, environment) pairs [E, 2]."""
    return np.lexsort((met[:, 1], met[:, 0]))


def _joined_finals(parts: Sequence[Finals], n: int) -> Finals:
    t = np.concatenate([part.t for part in parts])
    i = np.concatenate([part.i + rank * n for rank, part in enumerate(parts)])
    order = _by_step(np.column_stack([t, i]))
    names = next((part.inputs for part in parts if len(part.t)), {})
    inputs = {name: torch.cat([part.inputs[name] for part in parts if len(part.t)])[order] for name in names}
    return Finals(t[order], i[order], inputs)


# --- between epochs ---


def followers_states(group: Learners, run: Run, collector: State) -> list[State]:
    """What the other learners' share of the next epoch depends on, for the first one's checkpoints."""
    own = {"collector": collector, "streams": run.streams.state_dict()} if isinstance(run, Follower) else {}
    return group.gathered(own)[1:]


def followed(run: Run, saved: State, group: Learners) -> State:
    """A checkpoint's state as this learner takes it up: with its own environments and streams.

    Raises RunError for one of another number of learners: whose environments would be whose?
    """
    size = 1 + len(saved.get("followers", []))
    if size != group.size:
        raise RunError(
            f"run {run.id} is trained by {size} processes, and {group.size} would change its numbers. "
            + (f"Resume it under torchrun --nproc-per-node {size}." if size > 1 else "Resume it without torchrun.")
        )
    if not isinstance(run, Follower):
        return saved
    own: State = saved["followers"][run.rank - 1]
    run.streams.load_state_dict(own["streams"])
    return {**saved, "collector": own["collector"]}


def stop_together(group: Learners, run: Run) -> None:
    """Asks every learner to stop where one was asked, so that all leave after the same epoch."""
    if not any(group.gathered(stop_asked())):
        return
    if isinstance(run, Follower):
        run.stopping = True
    if not stop_asked():
        signal.raise_signal(signal.SIGTERM)
