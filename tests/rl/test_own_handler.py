"""The example of a constraint handler of one's own: a short plug-in that trains from the command line and is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trueline import api
from trueline.rl.exact.gap import measure_gap

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_handler.py"
SHORT = {"steps_per_epoch": 128 * 5, "total_steps": 128 * 5 * 120, "window": 128, "update": {"minibatch": 128 * 5}}


@pytest.fixture
def example(monkeypatch):
    monkeypatch.chdir(EXAMPLE.parent)  # as a user would: --import finds modules of the working directory
    monkeypatch.syspath_prepend("")
    import own_handler

    return own_handler


def test_a_handler_of_ones_own_is_a_plug_in_of_under_forty_lines():
    assert len(EXAMPLE.read_text().splitlines()) < 40


def test_its_weight_is_the_slope_of_the_augmented_lagrangian(example):
    handler = example.Augmented()
    limit = torch.tensor([2.0, 2.0], dtype=torch.float64)
    state = handler.start(2)
    seen = handler.update(state, torch.tensor([[5.0, 1.0], [7.0, 0.0]]), limit)
    # J_c = 6 and 0.5: (λ + ρ(J_c − d))₊ = 0.5 + 0.3·(4 and −1.5), at λ after its own small step.
    slow = 0.5 + 0.07 * 0.3 * torch.tensor([4.0, -1.5], dtype=torch.float64)
    torch.testing.assert_close(seen["slow"], slow)
    torch.testing.assert_close(seen["multiplier"], slow + 0.3 * torch.tensor([4.0, -1.5], dtype=torch.float64))
    assert handler.update(seen, torch.zeros(0, 2), limit) is seen
    far_below = handler.update(state, torch.zeros(1, 2), 100.0 * limit)
    assert far_below["multiplier"].tolist() == [0.0, 0.0]


def test_its_row_trains_from_the_command_line(tmp_path):
    settings = (
        "env=Cmdp-Garnet1-v0", "cost_limit=3.0", "num_envs=4", "steps_per_epoch=40", "total_steps=120",
        "actor.hidden=[]", "critic.hidden=[]", "update.minibatch=40", "constraint.rho=0.2",
    )  # fmt: skip
    # In a process of its own: what is imported by name stays registered, and other tests start workers.
    command = [sys.executable, "-m", "trueline.cli", "train", "ppo-augmented", *settings, "--import", "own_handler"]
    said = subprocess.run(
        [*command, "--root", str(tmp_path), "--id", "mine"],
        cwd=EXAMPLE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    (multiplier,) = api.load("mine", root=tmp_path).multipliers.tolist()
    assert multiplier not in (0.5, 0.0)  # it has moved


def test_its_row_passes_the_public_checker(example):
    gap = measure_gap(example.ROW, instances=["Garnet1"], settings=SHORT)
    assert gap.passed, gap.table()
