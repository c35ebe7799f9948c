"""Two processes that train one policy, against one process on the same environments; stops, resumes and faults."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import numpy as np
import pytest
import torch
from run_states import assert_alike, assert_runs_alike, last_checkpoint, metrics
from torch import multiprocessing
from toy_worlds import SavedDrift

from trueline.core import checkpoint, registry
from trueline.core.config import build
from trueline.core.errors import BadWorld, ConfigError, RunError, Stopped
from trueline.core.registry import Entry
from trueline.core.run import Run, read_manifest
from trueline.core.streams import Streams, case_seeds
from trueline.rl.distributions import Gaussian
from trueline.rl.env import Step
from trueline.rl.on_policy import Budgeted, Constrained, Limited, OnPolicyRecipe, Trainer
from trueline.rl.parallel import ALONE, Learners, learners, torchrun
from trueline.rl.updates.cup import Cup
from trueline.rl.updates.natural import Trpo
from trueline.rl.updates.p3o import P3o

SEED, WORLDS = 5, 2

# 4 environments of 23 steps are 92 rows: minibatches of 33, 33 and 26, and half of 33 is no whole number.
TINY = {
    "num_envs": 4,
    "steps_per_epoch": 92,
    "total_steps": 92 * 4,
    "actor": {"hidden": [6]},
    "critic": {"hidden": [6]},
    "cost_limit": [1.0, 3.0],
    "window": 9,  # fewer episodes than end in an epoch: which come last matters
    "checkpoint_epochs": 1,
}
FIRST_ORDER = {"passes": 4, "minibatch": 33, "lr": 1e-2, "target_kl": 0.02, "entropy": 0.01}
ROWS: dict[str, tuple[OnPolicyRecipe, dict[str, Any]]] = {
    "ppo-lag": (OnPolicyRecipe("ppo-lag", Constrained), {"update": FIRST_ORDER}),
    "ppo-gru": (
        OnPolicyRecipe("ppo-gru", Constrained),
        {"update": FIRST_ORDER, "steps_per_epoch": 96, "total_steps": 288, "memory": {"width": 4, "segment": 8}},
    ),
    "cup": (OnPolicyRecipe("cup", Constrained, update=Cup()), {"update": {**FIRST_ORDER, "entropy": 0.0}}),
    "p3o": (OnPolicyRecipe("p3o", Limited, update=P3o(kappa=2.0)), {"update": {"passes": 2, "minibatch": 33}}),
    "trpo-lag": (OnPolicyRecipe("trpo-lag", Constrained, update=Trpo()), {"update": {"passes": 2, "minibatch": 33}}),
    "ppo-saute": (OnPolicyRecipe("ppo-saute", Budgeted), {"update": FIRST_ORDER}),
}


def drift(id: str, num_envs: int, threads: int = 1) -> SavedDrift:
    return SavedDrift(num_envs)


def breaking(id: str, num_envs: int, threads: int = 1) -> SavedDrift:
    world = SavedDrift(num_envs)
    if learners().rank == 1:
        world.position = world.position * np.nan
        world._begin = lambda i, seed: None  # type: ignore[method-assign]
    return world


class Side:
    """The environments that two processes play, side by side in one: each half with the streams of its process."""

    def __init__(self, num_envs: int) -> None:
        self.parts = [SavedDrift(num_envs // WORLDS) for _ in range(WORLDS)]
        first = self.parts[0]
        self.id, self.num_envs, self.costs = first.id, num_envs, first.costs
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.max_episode_steps = first.max_episode_steps

    @property
    def episode_seed(self) -> Any:
        return np.concatenate([part.episode_seed for part in self.parts])

    @property
    def seed_source(self) -> Any:
        return self.parts[0].seed_source

    @seed_source.setter
    def seed_source(self, source: Any) -> None:
        self.parts[0].seed_source = source
        other = Streams(SEED).rng("layouts/1")
        self.parts[1].seed_source = lambda n: case_seeds("train", 0, n, other)

    def reset(self, seeds: Any = None) -> Any:
        return np.concatenate([part.reset() for part in self.parts])

    def step(self, actions: Any) -> Step:
        steps = [part.step(own) for part, own in zip(self.parts, np.split(actions, WORLDS), strict=True)]
        names = ("obs", "reward", "cost", "terminated", "truncated", "final_obs")
        return Step(*(np.concatenate([getattr(step, name) for step in steps]) for name in names))

    def close(self) -> None:
        pass


def side(id: str, num_envs: int, threads: int = 1) -> Side:
    return Side(num_envs)


def _add_worlds() -> None:
    for name, factory in (("Drift", "drift"), ("Breaking", "breaking"), ("Side", "side")):
        registry.add(Entry("env", f"Parallel-{name}-v0", f"test_parallel:{factory}", "a toy"), "tests")


def opened(root: Any, name: str, world: str = "Drift") -> tuple[Any, Run]:
    row, settings = ROWS[name]
    config = build(row.Config, {**TINY, **settings, "env": f"Parallel-{world}-v0"})
    return config, learners().opened(
        lambda: Run.create(root, kind="train", name=name, config=config, seed=SEED, id=name)
    )


def trained(root: Any, name: str) -> None:
    config, run = opened(root, name)
    with run:
        ROWS[name][0].train(config, run, {})


# --- what each of the two processes does ---


def _learner(rank: int, port: int, root: Any) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(WORLDS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo"
    )
    torch.set_default_dtype(torch.float64)
    _add_worlds()
    with torchrun("ppo-lag") as group:
        assert group == learners() == Learners(rank, WORLDS)
        for name in ROWS:
            trained(root / "two", name)
        _killed_and_resumed(root / "killed")
        _stopped(root / "stopped", rank)
        _broken(root / "broken")
        _uneven(root)


def _uneven(root: Any) -> None:
    config = build(ROWS["ppo-lag"][0].Config, {**TINY, "num_envs": 3, "env": "Parallel-Drift-v0"})

    def make() -> Run:
        return Run.create(root, kind="train", name="odd", config=config, seed=SEED, id="odd")

    with (
        pytest.raises(ConfigError, match="num_envs is 3, which 2 processes cannot share out evenly"),
        learners().opened(make) as run,
    ):
        Trainer(config, run, {})
    with pytest.raises(RunError, match="there is already a run odd"):
        learners().opened(make)


class _Killed(Exception):
    pass


def _killed_and_resumed(root: Any) -> None:
    config, run = opened(root, "ppo-lag")
    trainer = Trainer(config, run, {})
    original = trainer.one_epoch

    def one_epoch() -> str:
        if trainer.epoch == 2:
            raise _Killed
        return original()

    trainer.one_epoch = one_epoch  # type: ignore[method-assign]
    with pytest.raises(_Killed), run:
        trainer.train()
    again = learners().opened(lambda: Run.reopen(root / "ppo-lag"))
    with again:
        Trainer(config, again, {}).train()


def _stopped(root: Any, rank: int) -> None:
    """A signal that only the second process gets, in its second epoch."""
    config, run = opened(root, "ppo-lag")
    config = config.model_copy(update={"checkpoint_epochs": 100})
    trainer = Trainer(config, run, {})
    original = trainer.tell_scale

    def tell_scale() -> None:
        original()
        if trainer.epoch == 1 and rank == 1:
            signal.raise_signal(signal.SIGTERM)

    trainer.tell_scale = tell_scale  # type: ignore[method-assign]
    with pytest.raises(Stopped), run, run.interruptible():
        trainer.train()
    assert trainer.epoch == 2


def _broken(root: Any) -> None:
    """A world that is broken for the second process only."""
    config, run = opened(root, "ppo-lag", "Breaking")
    with pytest.raises(BadWorld, match="returned observation that is not finite"), run:
        Trainer(config, run, {}).train()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the two processes left."""
    root = tmp_path_factory.mktemp("parallel")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_learner, (port, root), nprocs=WORLDS, start_method="spawn")
    return root


# --- what one process makes of the same environments ---


@pytest.fixture
def _float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", ROWS)
def test_the_update_is_that_of_one_process_on_the_joined_batch(folder, name, tmp_path, monkeypatch):
    # In float64, so that agreement over four epochs is a matter of algebra and not of rounding.
    _add_worlds()
    other = Streams(SEED).torch_rng("collect/1")

    def sample(self: Gaussian, rng: torch.Generator) -> torch.Tensor:
        half = (len(self.mean) // WORLDS, self.mean.shape[1])
        noise = torch.cat([torch.randn(half, generator=each) for each in (rng, other)])
        return self.mean + self.log_std.exp() * noise

    monkeypatch.setattr(Gaussian, "sample", sample)
    config, run = opened(tmp_path, name, "Side")
    with run:
        ROWS[name][0].train(config, run, {})
    elsewhere = ("/state/collector", "/state/followers", "/streams/")  # who holds what is another matter
    one, two = (last_checkpoint(root / name, elsewhere) for root in (tmp_path, folder / "two"))
    assert_alike(two, one, 1e-9, 1e-11)
    for mine, theirs in zip(metrics(tmp_path / name), metrics(folder / "two" / name), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-8, abs=1e-10)
    if name in ("ppo-lag", "cup"):
        # Something was decided: KL ended some update early, and the multipliers moved.
        assert min(line["update/passes"] for line in metrics(tmp_path / name)) < 4
        assert len({line["constraint/multiplier_right"] for line in metrics(tmp_path / name)}) > 2


def test_killed_and_resumed_it_goes_on_bit_by_bit(folder):
    assert_runs_alike(folder / "killed" / "ppo-lag", folder / "two" / "ppo-lag")


def test_a_stop_that_one_process_is_asked_for_stops_both_at_the_same_checkpoint(folder):
    stopped = folder / "stopped" / "ppo-lag"
    assert read_manifest(stopped)["status"] == "stopped"
    assert metrics(stopped) == metrics(folder / "two" / "ppo-lag")[:2]
    assert checkpoint.step_of(checkpoint.latest(stopped / "checkpoints")) == 2 * 92


def test_a_world_that_breaks_for_one_process_ends_the_run_with_its_reason(folder):
    manifest = read_manifest(folder / "broken" / "ppo-lag")
    assert manifest["status"] == "failed"
    assert "returned observation that is not finite" in manifest["reason"]


def test_another_number_of_processes_cannot_resume_it(folder):
    _add_worlds()
    config = build(ROWS["ppo-lag"][0].Config, {**TINY, "update": FIRST_ORDER, "env": "Parallel-Drift-v0"})
    with (
        Run.reopen(folder / "stopped" / "ppo-lag") as run,
        pytest.raises(RunError, match="trained by 2 processes, and 1 would change its numbers"),
    ):
        Trainer(config, run, {}).train()


# --- the parts, without a second process ---


def test_shares_cover_every_row_once():
    rows = torch.arange(33)
    shares = [Learners(rank, 4).share(rows) for rank in range(4)]
    assert torch.equal(torch.cat(shares), rows)
    assert [len(share) for share in shares] == [9, 8, 8, 8]


def test_alone_everything_is_its_own():
    rows = torch.arange(5)
    assert learners() == ALONE
    assert ALONE.leads
    assert ALONE.share(rows) is rows
    assert ALONE.joined(rows, 0) is rows
    assert ALONE.gathered("a") == ["a"]
    assert ALONE.from_first("a") == "a"
    assert ALONE.agreed(lambda: 3) == 3


def test_a_recipe_that_one_process_trains_is_refused_under_torchrun(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="sac-lag is trained by one process"), torchrun("sac-lag"):
        pass
