"""The sampler's benchmark: both sides have the same model, prompts and replies to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("variable", [False, True])
def test_both_sides_draw_replies_of_the_same_lengths(variable):
    import sampler_throughput as bench

    rows = 64
    ours = bench.our_rollout("nano", rows, variable)().sampled.sum(1).numpy()
    theirs = bench.generated("nano", rows, variable)().numpy()
    if not variable:
        assert set(ours) == set(theirs) == {bench.MAX_TOKENS}
        return
    error = np.sqrt(ours.var(ddof=1) / rows + theirs.var(ddof=1) / rows)
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    assert abs(ours.mean() - 13) < 4 * ours.std(ddof=1) / np.sqrt(rows)


def test_both_sides_are_asked_the_same():
    import sampler_throughput as bench

    made = bench.subject("nano", variable=True)
    rollout = bench.our_rollout("nano", 5, variable=True)()
    made.tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": text}] for text in bench.prompts(5, variable=True)]
    asked = made.tokenizer.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]
    shown = rollout.attended & ~rollout.sampled
    assert [row[kept].tolist() for row, kept in zip(rollout.tokens, shown, strict=True)] == asked
    assert len({len(ids) for ids in asked}) > 1


def test_the_floor_counts_the_tokens_of_a_rollout():
    import sampler_throughput as bench

    job = bench.floor("nano", 4, variable=False)()
    assert job() == {"work": 4 * bench.MAX_TOKENS * bench.ROLLOUTS["nano"]}
