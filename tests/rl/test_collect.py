"""The collector against a log of what the world was given and returned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toy_worlds import Bandit, DictDrift, Drift, SavedDrift

from trueline.core.errors import BadWorld
from trueline.rl.collect import Batch, Collector
from trueline.rl.env import Step
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.spaces import ActionCodec, ObservationCodec

N, T = 4, 30


def counting(start: int) -> Any:
    numbers = iter(range(start, start + 10**6))
    return lambda n: np.array([next(numbers) for _ in range(n)], np.uint32)


def logged(kind: type) -> Any:
    """A world that keeps what it was given and what it returned."""

    class Logged(kind):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.log: list[tuple[np.ndarray, Step]] = []
            self.seed_source = counting(0)

        def reset(self, seeds: Any = None) -> Any:
            self.first = super().reset(seeds)
            return self.first

        def step(self, actions: Any) -> Step:
            step = super().step(actions)
            self.log.append((np.array(actions), step))
            return step

    return Logged(N)


def learner(world: Any, steps: int = T) -> tuple[ActorCritic, Collector]:
    observation, action = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
    rng = torch.Generator().manual_seed(4)
    network = ActorCritic(observation, action, len(world.costs), ActorNetwork(), Network(), rng)
    return network, Collector(world, observation, steps, action.width)


@pytest.mark.parametrize("kind", [Drift, DictDrift, Bandit])
def test_the_buffers_hold_what_the_world_returned(kind: type, torch_rng: torch.Generator) -> None:
    world = logged(kind)
    network, collector = learner(world)
    collector.start()
    for _ in range(2):
        world.log.clear()
        previous = {name: x[-1].clone() for name, x in collector.inputs.items()}
        batch = collector.collect(network, torch_rng)
        assert len(world.log) == T
        for name, x in batch.inputs.items():
            torch.testing.assert_close(x[0], previous[name], rtol=0, atol=0)
        for t, (actions, step) in enumerate(world.log):
            draw = batch.draw[t].numpy()
            np.testing.assert_array_equal(actions, draw[:, 0] if kind is Bandit else draw)
            for name, value in collector.codec.encode(step.obs).items():
                np.testing.assert_array_equal(batch.inputs[name][t + 1].numpy(), value)
            np.testing.assert_allclose(batch.reward[t].numpy(), step.reward, rtol=1e-6)
            np.testing.assert_allclose(batch.cost[t].numpy(), step.cost, rtol=1e-6)
            np.testing.assert_array_equal(batch.terminated[t].numpy(), step.terminated)
            np.testing.assert_array_equal(batch.truncated[t].numpy(), step.truncated & ~step.terminated)


def test_episode_sums_are_those_of_the_log_across_collections(torch_rng: torch.Generator) -> None:
    world = logged(Drift)
    network, collector = learner(world, steps=7)  # shorter than an episode: sums must be carried over
    collector.start()
    batches = [collector.collect(network, torch_rng) for _ in range(8)]
    expected = []
    sums = [(0.0, np.zeros(2), 0)] * N
    for _, step in world.log:
        for i in range(N):
            reward, cost, length = sums[i]
            sums[i] = (reward + step.reward[i], cost + step.cost[i], length + 1)
        for i in np.flatnonzero(step.ended):
            expected.append(sums[i])
            sums[i] = (0.0, np.zeros(2), 0)
    assert len(expected) > 10
    np.testing.assert_allclose(np.concatenate([b.episode_return for b in batches]), [e[0] for e in expected])
    np.testing.assert_allclose(np.concatenate([b.episode_cost for b in batches]), [e[1] for e in expected])
    np.testing.assert_array_equal(np.concatenate([b.episode_length for b in batches]), [e[2] for e in expected])
    assert collector.total_steps == 8 * 7 * N


@pytest.mark.parametrize("kind", [Drift, DictDrift])
def test_finals_are_the_last_observations_of_episodes_cut_by_time_alone(kind: type, torch_rng: torch.Generator) -> None:
    world = logged(kind)
    network, collector = learner(world)
    collector.start()
    batch = collector.collect(network, torch_rng)
    expected = []
    for t, (_, step) in enumerate(world.log):
        inputs = collector.codec.encode(step.final_obs)["vector"]
        expected += [(t, i, inputs[i]) for i in np.flatnonzero(step.truncated & ~step.terminated)]
    terminated = sum(int(step.terminated.sum()) for _, step in world.log)
    assert len(expected) > 2
    assert terminated > 2
    np.testing.assert_array_equal(batch.finals.t, [e[0] for e in expected])
    np.testing.assert_array_equal(batch.finals.i, [e[1] for e in expected])
    np.testing.assert_array_equal(batch.finals.inputs["vector"].numpy(), [e[2] for e in expected])
    # They are not what the next collection row holds: that is already the new episode.
    following = batch.inputs["vector"][batch.finals.t + 1, batch.finals.i]
    assert (following != batch.finals.inputs["vector"]).any(dim=1).all()


def test_an_end_that_coincides_with_the_time_limit_is_a_termination(torch_rng: torch.Generator) -> None:
    class Both(Drift):
        def step(self, actions: Any) -> Step:
            step = super().step(actions)
            step.terminated |= step.truncated
            return step

    network, collector = learner(Both(N))
    collector.start()
    batch = collector.collect(network, torch_rng)
    assert batch.terminated.sum() > 2
    assert batch.truncated.sum() == len(batch.finals.t) == 0


def test_no_episode_ended_is_empty_and_not_zero(torch_rng: torch.Generator) -> None:
    class Calm(Drift):
        radius = np.inf

    network, collector = learner(Calm(N), steps=5)
    collector.start()
    batch = collector.collect(network, torch_rng)
    assert batch.episode_return.shape == (0,)
    assert batch.episode_cost.shape == (0, 2)
    assert batch.episode_length.shape == (0,)
    assert len(batch.finals.t) == 0


def test_collecting_never_changes_the_policy(torch_rng: torch.Generator) -> None:
    network, collector = learner(Drift(N))
    before = {name: x.clone() for name, x in network.state_dict().items()}
    collector.start()
    collector.collect(network, torch_rng)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())


def everything(batch: Batch) -> dict[str, Any]:
    tensors = {name: getattr(batch, name).clone() for name in ("draw", "reward", "cost", "terminated", "truncated")}
    tensors |= {f"inputs/{name}": x.clone() for name, x in batch.inputs.items()}
    tensors |= {f"finals/{name}": x.clone() for name, x in batch.finals.inputs.items()}
    arrays = {"t": batch.finals.t, "i": batch.finals.i}
    arrays |= {name: getattr(batch, name) for name in ("episode_return", "episode_cost", "episode_length")}
    return tensors | {name: torch.as_tensor(x) for name, x in arrays.items()}


def test_a_resumed_collection_is_bit_identical(torch_rng: torch.Generator) -> None:
    network, collector = learner(SavedDrift(N), steps=7)
    collector.start()
    collector.collect(network, torch_rng)
    state, rng_state = collector.state_dict(), torch_rng.get_state()
    collector.env.seed_source = counting(500)
    expected = [everything(collector.collect(network, torch_rng)) for _ in range(4)]

    _, other = learner(SavedDrift(N), steps=7)
    other.restore(state)
    other.env.seed_source = counting(500)
    torch_rng.set_state(rng_state)
    for first in expected:
        again = everything(other.collect(network, torch_rng))
        assert first.keys() == again.keys()
        for name, value in first.items():
            assert torch.equal(value, again[name]), name
    assert other.total_steps == collector.total_steps


def test_a_world_without_state_starts_new_episodes_and_keeps_the_count(torch_rng: torch.Generator) -> None:
    network, collector = learner(Drift(N), steps=7)
    collector.start()
    collector.collect(network, torch_rng)
    state = collector.state_dict()
    assert state["world"] is None
    _, other = learner(Drift(N), steps=7)
    other.restore(state)
    assert other.total_steps == 7 * N
    assert (other.running_length == 0).all()
    batch = other.collect(network, torch_rng)
    assert (batch.inputs["vector"][0, :, 2] == 0).all()  # t/T of a new episode


@pytest.mark.parametrize("what", ["reward", "cost", "observation", "final observation"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stops_training_and_names_environment_and_step(
    what: str, bad: float, torch_rng: torch.Generator
) -> None:
    class Broken(Drift):
        radius = np.inf
        steps_made = 0

        def step(self, actions: Any) -> Step:
            step = super().step(actions)
            here = {"reward": step.reward, "cost": step.cost, "observation": step.obs}.get(what, step.final_obs)
            if self.steps_made == 23:  # episodes of 12 steps: the 24th step, counted from 0, ends all second ones
                here[2] = bad
            self.steps_made += 1
            return step

    network, collector = learner(Broken(N), steps=10)
    collector.start()
    collector.collect(network, torch_rng)
    collector.collect(network, torch_rng)
    with pytest.raises(BadWorld, match=f"drift returned {what} that is not finite") as caught:
        collector.collect(network, torch_rng)
    # An observation is counted by the step it is acted on, one later than the step that returned it.
    assert (caught.value.env, caught.value.step) == (2, 24 if what == "observation" else 23)
    assert collector.total_steps == 20 * N
