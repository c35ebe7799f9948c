"""The benchmark of on-line steps: both sides have the same model, prompts and numbers of tokens, and both learn."""

from pathlib import Path

import pytest
import torch

from trueline.core import registry

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytest.importorskip("trl")


@pytest.fixture
def bench(monkeypatch):
    """The script, with steps of four replies."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import online_step

    known = registry.load
    found = {("scorer", "share"): online_step.Share}
    monkeypatch.setattr(registry, "add", lambda entry: None)
    monkeypatch.setattr(registry, "load", lambda *name: found[name] if name in found else known(*name))
    for name, value in {"PROMPTS": 2, "SAMPLES": 2, "WARM_UP": 1}.items():
        monkeypatch.setattr(online_step, name, value)
    monkeypatch.setattr(online_step.sampling, "MAX_TOKENS", 8)
    threads = torch.get_num_threads()
    yield online_step
    torch.set_num_threads(threads)


def test_both_sides_read_and_write_as_many_tokens(bench):
    made = bench.sampling.subject("nano", False)
    asked = [[{"role": "user", "content": text}] for text in bench.texts(2, False)]
    prompts = [len(ids) for ids in made.tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]]
    expected = sum(2 * (n + 8) for n in prompts[2:])  # two steps of two prompts with two replies, after the warm-up
    given = {"size": "nano", "steps": 2, "variable": False}
    for job in (bench.ours(**given)(), bench.ours(**given, body="own", costs=2)(), bench.theirs(**given)()):
        assert job()["work"] == expected
    assert bench.bare(**given)()()["work"] == 2 * 2 * 2 * (prompts[0] + 8)


def test_replies_that_end_are_counted_to_their_end(bench):
    given = {"size": "nano", "steps": 2, "variable": True}
    prompts = [len(text) for text in bench.texts(2, True)]
    for job in (bench.ours(**given)(), bench.theirs(**given)()):
        replied = job()["work"] - 2 * sum(prompts[2:])
        assert 0 < replied < 8 * 8 + 8 * 10  # no more than the limit, and what the template adds


def test_every_comparison_has_its_sides(bench):
    for quick in (True, False):
        plan = bench.plan(quick)
        names = {one.name for one in plan.contestants}
        for one in plan.comparisons:
            assert {one.ours, one.against} <= names
        bars = [one for one in plan.comparisons if one.at_least]
        assert {one.at_least for one in bars} == {1.0}
        assert all("shared body, K = 0 /" in one.what for one in bars)
