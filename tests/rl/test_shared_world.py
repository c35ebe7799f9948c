"""Blocks of one world against worlds of their own: the same steps, seeds and states, bit by bit."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from run_states import assert_alike, flat

from trueline.rl.collect import Collector, columns_of
from trueline.rl.env import Stateful
from trueline.rl.shared_world import SharedWorld
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.worlds import make

BLOCKS, N = 2, 2


def sources(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda n: rng.integers(0, 2**31, n, dtype=np.uint32)


def shared(id: str, **options: Any) -> SharedWorld:
    world = SharedWorld(make(id, BLOCKS * N, **options), N, make(id, 1, **options))
    for b, block in enumerate(world.blocks):
        block.seed_source = sources(b)
    return world


def apart(id: str, **options: Any) -> list[Any]:
    worlds = [make(id, N, **options) for _ in range(BLOCKS)]
    for b, world in enumerate(worlds):
        world.seed_source = sources(b)
    return worlds


def joined(parts: Any) -> Any:
    parts = list(parts)
    if isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def same(one: Any, other: Any) -> None:
    np.testing.assert_equal(one, other)


def both_stepped(whole: SharedWorld, worlds: list[Any], actions: Any) -> int:
    """Steps both, compares, and counts the episodes that ended."""
    step, steps = whole.step(actions), [w.step(a) for w, a in zip(worlds, np.split(actions, BLOCKS), strict=True)]
    for name in ("reward", "cost", "terminated", "truncated"):
        same(getattr(step, name), joined(getattr(one, name) for one in steps))
    same(step.obs, joined(one.obs for one in steps))
    ended = np.flatnonzero(step.ended)
    final = joined(one.final_obs for one in steps)
    if isinstance(final, dict):
        same({key: x[ended] for key, x in step.final_obs.items()}, {key: x[ended] for key, x in final.items()})
    else:
        same(step.final_obs[ended], final[ended])
    same(whole.episode_seed, joined(world.episode_seed for world in worlds))
    return len(ended)


@pytest.mark.parametrize(
    ("id", "options", "steps"),
    [
        ("SafetyPointGoal1-v0", {}, 1002),
        ("SafetyPointGoal0-v0", {"observe": "parts"}, 1002),
        ("SafetyHalfCheetahVelocity-v1", {}, 1002),
    ],
)
def test_blocks_are_worlds_of_their_own(id: str, options: Any, steps: int, rng: np.random.Generator) -> None:
    whole, worlds = shared(id, **options), apart(id, **options)
    same(joined(block.reset() for block in whole.blocks), joined(world.reset() for world in worlds))
    width = whole.action_space.shape[0]
    ended = sum(both_stepped(whole, worlds, rng.uniform(-1, 1, (BLOCKS * N, width))) for _ in range(steps))
    assert ended == BLOCKS * N
    for block, world in zip(whole.blocks, worlds, strict=True):
        assert isinstance(block, Stateful)
        mine, theirs = flat(block.state_dict()), flat(world.state_dict())
        own = [path for path in theirs if not path.startswith("/seeds")]  # of seeds that nobody draws
        assert_alike({path: mine[path] for path in own}, {path: theirs[path] for path in own})
    # A block and a world take up each other's states, and go on alike.
    for block, world in zip(whole.blocks, reversed(worlds), strict=True):
        same(block.load_state_dict(world.state_dict()), world.load_state_dict(world.state_dict()))
    worlds.reverse()
    for _ in range(3):
        both_stepped(whole, worlds, rng.uniform(-1, 1, (BLOCKS * N, width)))


def test_columns_of_a_batch_are_what_a_collector_of_their_own_holds(rng: np.random.Generator) -> None:
    whole, worlds, steps = shared("Cmdp-Garnet4-v0"), apart("Cmdp-Garnet4-v0"), 60
    codec, action = ObservationCodec.of(whole.observation_space), ActionCodec.of(whole.action_space)
    assert isinstance(whole.action_space, gym.spaces.Discrete)
    together = Collector(whole, codec, steps, action.width)
    parts, alone = ([Collector(w, codec, steps, action.width) for w in each] for each in (whole.blocks, worlds))
    for part, block in zip(parts, whole.blocks, strict=True):
        part.lie_in(together, block.rows)
    for collector in (*parts, *alone):
        collector.start()
    for _ in range(2):
        for collector in (together, *alone):
            collector.begin()
        for t in range(steps):
            chosen = rng.integers(0, whole.action_space.n, (BLOCKS * N, 1)).astype(np.float32)
            together.act(t, chosen, action.to_world(chosen))
            for collector, own in zip(alone, np.split(chosen, BLOCKS), strict=True):
                collector.act(t, own, action.to_world(own))
        batch = together.collected()
        for part, block, own in zip(parts, whole.blocks, alone, strict=True):
            mine, theirs = part.accept(columns_of(batch, block.rows)), own.finish()
            assert len(theirs.episode_return) > 0
            for name in ("draw", "reward", "cost", "terminated", "truncated"):
                same(getattr(mine, name).numpy(), getattr(theirs, name).numpy())
            for name in ("episode_return", "episode_cost", "episode_length", "episode_seed"):
                same(getattr(mine, name), getattr(theirs, name))
            same(mine.inputs["vector"].numpy(), theirs.inputs["vector"].numpy())
            same((mine.finals.t, mine.finals.i), (theirs.finals.t, theirs.finals.i))
            for name, x in theirs.finals.inputs.items():
                same(mine.finals.inputs[name].numpy(), x.numpy())
            assert part.total_steps == own.total_steps
            same(part.running_return, own.running_return)
