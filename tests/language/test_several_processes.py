"""Several processes: two that train together take the steps of one, whole weights or cut up, and resume alike."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.run import Run, read_manifest
from trueline.core.subject import load_subject, save_subject
from trueline.language import online, supervised
from trueline.language.models import Architecture, from_scratch
from trueline.language.online import GRPO, LM_PPO, LM_PPO_LAG, RLOO
from trueline.language.online_dpo import ONLINE_DPO
from trueline.language.parallel import dealt, draws_of, span
from trueline.language.recipes import COST_MODEL, DPO, REWARD_MODEL, SFT
from trueline.language.scorers import Judgement
from trueline.language.subject import LanguageModel
from trueline.language.vocabulary import Characters, tokenizer_of
from trueline.rl.parallel import Learners, learners, torchrun

torch.set_num_threads(1)
TOKENIZER = tokenizer_of(Characters(alphabet="abcdxy"))
RECIPES = {one.name: one for one in (SFT, REWARD_MODEL, COST_MODEL, DPO, LM_PPO, LM_PPO_LAG, RLOO, GRPO, ONLINE_DPO)}


class Letters:
    """Reward and cost of a reply's letters; what holds a d cannot be judged."""

    costs = ("harm",)

    def __call__(self, prompts, replies):
        return [
            None
            if "d" in reply.text
            else Judgement(0.4 * reply.text.count("b") + 0.1 * len(reply.text), {"harm": reply.text.count("a")})
            for reply in replies
        ]


def tiny(seed=0):
    return LanguageModel(from_scratch(Architecture(2, 16, 2, 32), TOKENIZER, seed, 32), TOKENIZER)


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    word = lambda most: "".join(rng.choice(list("abcd"), size=rng.integers(1, most)))  # noqa: E731
    pairs = [{"prompt": word(4) + "x", "chosen": word(9) + "a", "rejected": word(5) + "b"} for _ in range(24)]
    rows = {
        "pairs": pairs,
        "text": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs],
        "prompts": [{"prompt": prompt} for prompt in ("x", "y", "xy", "yx", "x", "ax", "bx")],
    }
    for name, part in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


ADAM = {"optimiser": {"lr": 1e-2, "schedule": "constant", "weight_decay": 0.01}}
STEPS = {"batch_size": 7, "max_steps": 3, "log_steps": 1, "checkpoint_steps": 1, **ADAM}
ONLINE = {"sampling": {"max_tokens": 4}, "max_steps": 3, "checkpoint_steps": 1, "kl": {"weight": 0.1}, **ADAM}
HELD = {"critic": {"optimiser": {"lr": 1e-2}}, "cost_limit": 0.2, "batch_size": 7, "passes": 2, "minibatch": 5}
GROUPS = {"batch_size": 3, "samples": 3}

# name: recipe, its data, settings
JOBS = {
    "sft": ("sft", "text", {**STEPS, "held_out": 0.3, "eval_steps": 2, "micro_batch": 2}),
    "sft-packed": ("sft", "text", {**STEPS, "packing": True, "length": 24}),
    "sft-cut": ("sft", "text", {**STEPS, "weights": "cut", "held_out": 0.3, "eval_steps": 2}),
    "reward-lora-cut": ("reward-model", "pairs", {**STEPS, "model": {"lora": {"rank": 2}}, "weights": "cut"}),
    "dpo-cut": ("dpo", "pairs", {**STEPS, "weights": "cut"}),
    "kto": ("dpo", "pairs", {**STEPS, "loss": {"kind": "kto"}}),
    "lm-ppo": ("lm-ppo", "prompts", {**ONLINE, "batch_size": 7, "critic": {"kind": "shared"}}),
    "lm-ppo-lag": ("lm-ppo-lag", "prompts", {**ONLINE, **HELD, "ptx": "text"}),
    "grpo": ("grpo", "prompts", {**ONLINE, **GROUPS, "cost_limit": 0.2, "constraint": {"kind": "lagrangian"}}),
    "online-dpo": ("online-dpo", "prompts", {**ONLINE, "batch_size": 3, "samples": 2}),
}  # fmt: skip
KILLED = ("sft-cut", "lm-ppo-lag")


def config_of(job: str, folder: Path, alone: bool):
    name, data, settings = JOBS[job]
    settings = {key: value for key, value in settings.items() if not (alone and key == "weights")}
    source = {"path": str(folder / f"{data}.jsonl")}
    if data != "prompts":
        return RECIPES[name], build(RECIPES[name].Config, {"data": source, **settings})
    if "ptx" in settings:
        settings = {**settings, "ptx": {"data": {"path": str(folder / "text.jsonl")}, "weight": 0.5, "batch_size": 3}}
    given = {"prompts": source, "scorers": [{"kind": "function", "name": "letters"}], **settings}
    return RECIPES[name], build(RECIPES[name].Config, given)


def trained(job: str, folder: Path, id: str, alone: bool = False) -> None:
    """As `trueline train` does, in each process; goes on with a run that is there."""
    recipe, config = config_of(job, folder, alone)
    inputs = {"policy": tiny(1)}

    def make() -> Run:
        if (folder / "runs" / id).exists():
            return Run.reopen(folder / "runs" / id)
        return Run.create(folder / "runs", kind="train", name=recipe.name, config=config, seed=3, id=id)

    with learners().opened(make) as run:
        subject = recipe.train(config, run, inputs)
        if learners().leads:
            save_subject(subject, run.folder)


class Killed(Exception):
    pass


def killed(job: str, folder: Path, id: str) -> None:
    """Two steps, and then the end in both processes, between two checkpoints."""
    trainer = online.Trainer if JOBS[job][1] == "prompts" else supervised.Trainer
    step, count = trainer.one_step, []

    def dying(self):
        if len(count) == 2:
            raise Killed
        count.append(1)
        return step(self)

    trainer.one_step = dying
    try:
        with pytest.raises(Killed):
            trained(job, folder, id)
    finally:
        trainer.one_step = step


def register() -> None:
    """In a process of its own."""
    registry.add(registry.Entry("scorer", "letters", "test_several_processes:Letters", "letters"))


def work(rank: int, size: int, port: int, folder: Path) -> None:
    """What torchrun would start."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    register()
    try:
        with torchrun("sft"):
            for job in JOBS:
                trained(job, folder, f"two-{job}")
            for job in KILLED:
                killed(job, folder, f"resumed-{job}")
                trained(job, folder, f"resumed-{job}")
        with pytest.raises(ConfigError, match="rft is trained by one process"), torchrun("rft"):
            pass
    except BaseException:  # noqa: BLE001  (the test says what it was)
        (folder / f"error-{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two processes, and of one, by name."""
    known = registry.load
    found = {("scorer", "letters"): Letters}
    patch = pytest.MonkeyPatch()
    patch.setattr(registry, "load", lambda *name: found[name] if name in found else known(*name))
    folder = tmp_path_factory.mktemp("parallel")
    write_data(folder)
    port = free_port()
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work, args=(rank, 2, port, folder)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for job in JOBS:
        trained(job, folder, f"one-{job}", alone=True)
    patch.undo()
    for worker in workers:
        worker.join(120)
        if worker.is_alive():
            worker.kill()
    said = "\n".join(path.read_text() for path in sorted(folder.glob("error-*.txt")))
    assert not said, said
    assert [worker.exitcode for worker in workers] == [0, 0]
    return folder


def weights(folder: Path, id: str) -> torch.Tensor:
    subject = load_subject(folder / "runs" / id)
    parameters = subject.model.parameters() if isinstance(subject, LanguageModel) else subject.parameters()
    return torch.cat([p.detach().flatten() for p in parameters])


def log(folder: Path, id: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "runs" / id / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]


@pytest.mark.parametrize("job", sorted(JOBS))
def test_two_processes_take_the_steps_of_one(folder, job):
    """Sums of gradients over the whole step's count: weights and figures of one process, up to rounding."""
    one, two = weights(folder, f"one-{job}"), weights(folder, f"two-{job}")
    torch.testing.assert_close(two, one, atol=1e-3, rtol=0)
    start = torch.cat([p.detach().flatten() for p in tiny(1).model.parameters()])
    if len(start) == len(one):
        assert (one - start).abs().max() > 1e-2  # ten times the tolerance
    told = zip(log(folder, f"two-{job}"), log(folder, f"one-{job}"), strict=True)
    for ours, theirs in told:
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name


@pytest.mark.parametrize("job", KILLED)
def test_two_killed_processes_go_on_to_the_same_bits(folder, job):
    assert torch.equal(weights(folder, f"resumed-{job}"), weights(folder, f"two-{job}"))
    assert log(folder, f"resumed-{job}") == log(folder, f"two-{job}")


def test_one_process_keeps_the_run(folder):
    there = {path.name for path in (folder / "runs").iterdir() if path.is_dir()}
    assert there == {f"{n}-{job}" for job in JOBS for n in ("one", "two")} | {f"resumed-{job}" for job in KILLED}
    assert read_manifest(folder / "runs" / "two-sft")["status"] == "done"


# --- shares ---


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_cover_everything_once(size):
    groups = [Learners(rank, size) for rank in range(size)]
    assert [x for group in groups for x in range(11)[span(group, 11)]] == list(range(11))
    parts = [list(dealt(group, "abcdefg")) for group in groups]
    assert sorted(thing for part in parts for thing, counts in part if counts) == list("abcdefg")
    assert len({len(part) for part in parts}) == 1  # every process takes part in every pass


def test_a_share_of_a_stream_is_what_its_rows_would_draw():
    whole = np.random.default_rng(0)
    expected, after = whole.random((7, 3)), whole.random()
    for rank in range(2):
        group, rng = Learners(rank, 2), np.random.default_rng(0)
        own = span(group, 7)
        with draws_of(group, rng, own, 7, 3):
            np.testing.assert_array_equal(rng.random((own.stop - own.start, 3)), expected[own])
            rng.random(5)  # whoever draws more leaves the stream where it belongs
        assert rng.random() == after


def test_cut_weights_need_several_processes(tmp_path):
    write_data(tmp_path)
    config = build(SFT.Config, {"data": {"path": str(tmp_path / "text.jsonl")}, "weights": "cut"})
    with (
        Run.create(tmp_path / "runs", kind="train", name="sft", config=config, seed=0) as run,
        pytest.raises(ConfigError, match="there is one process"),
    ):
        SFT.train(config, run, {"policy": tiny()})


def test_accelerate_launches_the_training_of_one_process(trueline, tmp_path):
    write_data(tmp_path)
    asked = ["train", "sft", "model.name=nano", f"data.path={tmp_path}/text.jsonl", "max_steps=3", "batch_size=8"]
    asked += ["log_steps=1", "--root", str(tmp_path)]
    launched = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1"]
    launched += ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={free_port()}"]
    subprocess.run(
        [*launched, "-m", "trueline.cli", *asked, "--id", "two"], check=True, timeout=200, cwd=tmp_path,
        stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert trueline(*asked, "--id", "one").code == 0
    one, two = (
        [json.loads(line) for line in (tmp_path / id / "metrics.jsonl").read_text().splitlines()]
        for id in ("one", "two")
    )
    assert [row["step"] for row in two] == [1, 2, 3]
    for row, same in zip(one, two, strict=True):
        assert same["train/loss"] == pytest.approx(row["train/loss"], rel=1e-6)
        assert same["train/gradient_norm"] == pytest.approx(row["train/gradient_norm"], rel=1e-5)
