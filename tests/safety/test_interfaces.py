"""Gymnasium's and PettingZoo's own checkers accept our worlds: here one of each family, in `make parity` every one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trueline.core import registry
from trueline.safety.worlds.render import NoGraphics

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def one_of_each_family() -> list[str]:
    """Names of worlds, another agent and level for every family."""
    families: dict[str, list[str]] = {}
    for entry in registry.entries("env"):
        families.setdefault(entry.family, []).append(entry.name)
    return [names[(7 * k) % len(names)] for k, names in enumerate(families.values())]


@pytest.fixture
def parity(monkeypatch):
    """The suite that checks every world."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    known = set(sys.modules)
    import parity as suite

    yield suite
    for name in ("parity", "_interleave", "_peers"):
        if name not in known:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("id", one_of_each_family())
def test_gymnasium_accepts_a_world_of_each_family(parity, id):
    try:
        parity.gymnasium_accepts(id)
    except NoGraphics:
        assert "Vision" in id, "only pictures need OpenGL"
        pytest.skip("no OpenGL here")


SEVERAL = [entry.name for entry in registry.entries("multi-agent env") if entry.target.startswith("trueline.safety.")]


@pytest.mark.parametrize("id", SEVERAL)
def test_pettingzoo_accepts_every_world_of_several_agents(parity, id):
    parity.pettingzoo_accepts(id)


def test_the_checker_is_not_deaf(parity):
    # A world whose first reward is a string of a number must not pass as one that is accepted.
    from trueline.rl import to_gymnasium

    class Odd(to_gymnasium.ToGymnasium):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, "1", *rest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_gymnasium, "ToGymnasium", Odd)
        with pytest.raises(Exception, match="reward"):
            parity.gymnasium_accepts("SafetyPointRun0-v0")
