"""The ceiling of benchmarks/goal_throughput.py: the engine alone goes where our world goes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PUBLIC = ("goal_throughput", "worlds_throughput", "_interleave", "_peers")


def test_the_engine_alone_goes_through_our_states(monkeypatch):
    known = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    import goal_throughput
    import worlds_throughput

    made = []

    class Kept(worlds_throughput.Engine):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(goal_throughput, "EPISODE", 30)
    monkeypatch.setattr(worlds_throughput, "Engine", Kept)
    try:
        job = goal_throughput.engine("SafetyCarGoal1-v0", 3, 2)()
        assert job() == {"work": 2 * 30 * 3}
    finally:
        for name in PUBLIC:
            if name not in known:
                sys.modules.pop(name, None)
    (alone,) = made
    script = alone.script
    assert len(script.controls) == 60
    np.testing.assert_array_equal(script.controls[30], script.controls[0])  # the same actions in each episode
    np.testing.assert_array_equal(alone.batch.state, script.end)
    assert (script.end != script.start).any()
