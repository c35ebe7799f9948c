"""What loops share: acting step by step against episodes run by hand, and how many steps their settings come to."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_worlds import DictDrift, Drift, SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import BadWorld, ConfigError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.streams import case_seeds, split_of
from trueline.rl.episodes import FAILED_FROM, Ended, Finished
from trueline.rl.off_policy.training import OffPolicy
from trueline.rl.offline.training import Offline
from trueline.rl.planning.training import Planning
from trueline.rl.spaces import ObservationCodec
from trueline.rl.stepping import Stepping
from trueline.rl.teams.training import TeamSettings
from trueline.rl.training import ActingSettings, Settings, training_world

N, STEPS = 3, 60


def stepping(world, seeds=None):
    made = Stepping(world, ObservationCodec.of(world.observation_space))
    if seeds is not None:
        world.seed_source = lambda n: seeds.integers(0, FAILED_FROM, n, dtype=np.uint32)
    made.reset()
    return made


def pushes(seed=1):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (STEPS, N, 2))


# --- acting step by step ---


def test_what_episodes_came_to_is_what_each_came_to_by_hand():
    made, world = stepping(Drift(N), np.random.default_rng(4)), Drift(N)
    seeds = np.random.default_rng(4)
    world.seed_source = lambda n: seeds.integers(0, FAILED_FROM, n, dtype=np.uint32)
    obs, sums, expected, found = world.reset(), np.zeros((N, 4)), [], []
    for push in pushes():
        begun = world.episode_seed.copy()
        step = world.step(push)
        sums += np.column_stack([step.reward, step.cost, np.ones(N)])
        taken, finished = made.step(push)
        np.testing.assert_array_equal(taken.obs, obs)
        np.testing.assert_array_equal(taken.after, step.final_obs)
        np.testing.assert_array_equal(made.obs, step.obs)
        np.testing.assert_array_equal(taken.step.reward, step.reward)
        for i in np.flatnonzero(step.ended):
            expected.append((i, begun[i], *sums[i]))
            sums[i] = 0.0
        assert (finished is None) == (not step.ended.any())
        if finished is not None:
            columns = (finished.rows, finished.episode_return, *finished.cost.T, finished.length)
            found += list(zip(*columns, strict=True))
            assert finished.own.all()
        obs = step.obs
    assert len(found) > 3 * N
    np.testing.assert_allclose(np.array(found), np.array([(row, *rest) for row, _, *rest in expected]))
    assert made.met.tolist() == [seed for _, seed, *_ in expected]
    assert made.total_steps == STEPS * N


def test_an_episode_is_the_policys_own_only_without_random_actions_and_on_a_fresh_layout():
    class Twelve(Drift):
        radius = np.inf  # every episode has twelve steps

    world = Twelve(N)
    layouts = iter(np.array([[5, 6, FAILED_FROM + 7]] * 9, dtype=np.uint32))
    world.seed_source = lambda _: next(layouts)
    made, own = stepping(world), []
    for t, push in enumerate(pushes()):
        _, finished = made.step(push, random=t in (3, 30))
        own += [] if finished is None else [finished.own.tolist()]
    # Random actions in the first and third of five episodes; the third environment's layout failed an audit.
    assert own == [[False] * 3, [True, True, False], [False] * 3, [True, True, False], [True, True, False]]


def test_a_restored_state_goes_on_bit_by_bit():
    def drawn():
        return np.random.default_rng(4)

    whole = stepping(SavedDrift(N), drawn())
    for push in pushes()[:20]:
        whole.step(push)
    saved = json.loads(json.dumps(whole.state_dict(), default=lambda x: x.tolist()))
    state = {k: np.asarray(v) if isinstance(v, list) else v for k, v in saved.items()}
    state["random"] = state["random"].astype(bool)
    state["world"] = whole.env.state_dict()
    again = stepping(SavedDrift(N), drawn())
    assert again.load_state_dict(state)
    for made in (whole, again):
        after = np.random.default_rng(9)
        made.env.seed_source = lambda n, after=after: after.integers(0, FAILED_FROM, n, dtype=np.uint32)
    for push in pushes()[20:]:
        (one, ended), (other, too) = whole.step(push), again.step(push)
        np.testing.assert_array_equal(one.after, other.after)
        assert (ended is None) == (too is None)
        if ended is not None:
            for a, b in zip(ended, too, strict=True):
                np.testing.assert_array_equal(a, b)
    assert whole.total_steps == again.total_steps


def test_a_world_without_state_begins_new_episodes_and_keeps_the_count():
    made = stepping(Drift(N))
    for push in pushes()[:5]:
        made.step(push, random=True)
    again = stepping(Drift(N))
    assert not again.load_state_dict(made.state_dict())
    assert again.total_steps == 5 * N
    assert not again.running_length.any()
    assert not again.random.any()


def test_observations_of_several_parts_are_seen_as_one_row():
    made = stepping(DictDrift(N))
    assert made.obs.shape == (N, 5)
    taken, _ = made.step(pushes()[0])
    np.testing.assert_allclose(taken.after[:, :2].sum(axis=1), 1.0)  # "half" comes first: a choice, one-hot


@pytest.mark.parametrize("what", ["reward", "cost", "observation", "final observation"])
def test_a_number_that_is_none_is_named_with_its_environment_and_step(what):
    class Spoilt(Drift):
        radius = 0.0  # every step ends an episode

        def step(self, actions):
            step = super().step(actions)
            of = {"reward": step.reward, "cost": step.cost}
            of |= {"observation": step.obs, "final observation": step.final_obs}
            if self.calls == 2:
                of[what][1] = np.nan
            self.calls += 1
            return step

    world = Spoilt(N)
    world.calls = 0
    made = stepping(world)
    made.step(pushes()[0])
    made.step(pushes()[1])
    with pytest.raises(BadWorld, match=what) as caught:
        made.step(pushes()[2])
    assert "1" in str(caught.value)
    assert "2" in str(caught.value)


def test_logged_are_the_means_of_all_episodes_of_an_epoch():
    ended = Ended()
    assert ended.logged(("a",)) == {}
    for returns, cost in (([1.0, 2.0], [[3.0], [4.0]]), ([6.0], [[8.0]])):
        n = len(returns)
        finished = Finished(np.arange(n), np.array(returns), np.array(cost) + 100.0, np.full(n, 12), np.ones(n, bool))
        ended.add(finished, np.array(cost))  # what the world charged, not what rules made of it
    assert ended.logged(("a",)) == {"train/return": 3.0, "train/length": 12.0, "train/a": 5.0}


# --- settings ---


@given(st.integers(1, 50), st.integers(1, 5000), st.integers(1, 100_000))
def test_an_epoch_is_as_many_steps_as_the_environments_share_and_the_last_one_is_whole(n, asked, total):
    config = ActingSettings(num_envs=n, steps_per_epoch=max(asked, n), total_steps=total)
    assert config.epoch_steps == n * config.env_steps
    assert config.epoch_steps <= max(asked, n) < config.epoch_steps + n
    assert (config.epochs - 1) * config.epoch_steps < total <= config.epochs * config.epoch_steps


def test_without_environments_an_epoch_is_what_is_asked_for():
    config = Settings(steps_per_epoch=7, total_steps=15)
    assert (config.epoch_steps, config.epochs) == (7, 3)


@pytest.mark.parametrize("cls", [OffPolicy, Planning, TeamSettings])
def test_every_environment_has_a_step_in_every_loop(cls):
    assert issubclass(cls, ActingSettings)
    with pytest.raises(ConfigError, match="steps_per_epoch is 3, fewer than num_envs = 4"):
        build(cls, {"num_envs": 4, "steps_per_epoch": 3})


@pytest.mark.parametrize("cls", [OffPolicy, Planning, TeamSettings, Offline])
def test_every_loop_can_be_evaluated(cls):
    assert issubclass(cls, Settings)
    assert cls.model_fields["evaluation"].default is None
    assert build(cls, {"evaluation": {"every": 3}}).evaluation.every == 3


def world(id, num_envs, threads=1):
    return Drift(num_envs, threads)


def test_a_training_world_plays_the_share_of_failed_layouts_that_its_settings_say(tmp_path, rng):
    registry.add(Entry("env", "Stepping-Drift-v0", "test_stepping:world", "for tests"), "tests")
    failed = case_seeds("respond", 1, 3, rng)
    folder = tmp_path / "audited" / "artefacts"
    folder.mkdir(parents=True)
    (folder / "found.json").write_text(json.dumps([{"case": {"data": {"seed": int(seed)}}} for seed in failed]))
    given_ = {"env": "Stepping-Drift-v0", "num_envs": 7, "layouts": ["run://audited/found.json"], "layouts_share": 0.25}
    config = build(ActingSettings, given_)
    with Run.create(tmp_path, kind="train", name="world", config=config, seed=0, threads=2) as run:
        made = training_world(config, run)
        seeds = made.seed_source(4000)
    assert (made.num_envs, made.threads) == (7, 2)
    again = np.array([split_of(int(seed)).split == "respond" for seed in seeds])
    assert set(seeds[again].tolist()) == set(failed.tolist())
    assert abs(again.mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / 4000)
