"""Data sets: what is recorded, what is read back, and what is refused with its row and column."""

from __future__ import annotations

import json
import sys

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_cases import behaviour, data_of
from toy_worlds import SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError, MissingExtra, RunError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl.exact.evaluate import evaluate
from trueline.rl.exact.suite import instance
from trueline.rl.exact.world import make as exact_world
from trueline.rl.offline.data import OfflineData, joined, load, normalised_scores, read, record, write_parquet
from trueline.rl.offline.recording import OFFLINE_DATA, apportioned, random_actions
from trueline.rl.offline.training import fitted
from trueline.rl.spaces import ObservationCodec
from trueline.rl.worlds import make

COLUMNS = ("obs", "action", "reward", "cost", "next_obs", "terminated", "truncated")


def drift(id, num_envs, threads=1):
    return SavedDrift(num_envs)


@pytest.fixture(autouse=True)
def _toys():
    registry.add(Entry("env", "Offline-Drift-v0", "test_offline_data:drift", "for tests"), "tests")


def some(n=6, **changed):
    rng = np.random.default_rng(0)
    columns = {
        "obs": rng.normal(size=(n, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "reward": rng.normal(size=n),
        "cost": rng.random((n, 1)),
        "next_obs": rng.normal(size=(n, 3)).astype(np.float32),
        "terminated": np.arange(n) == 1,
        "truncated": np.arange(n) == 4,
    }
    return OfflineData(**{**columns, **changed})


def test_recorded_episodes_have_the_behaviours_mean_return_and_cost():
    cmdp = instance("Garnet4")
    policy = behaviour(cmdp, 1)
    found, exact = data_of(cmdp, policy, 4000).finished(), evaluate(cmdp, policy)
    for sample, mean in zip(np.column_stack([found.episode_return, found.cost]).T, [exact.episode_return, *exact.cost],
                            strict=True):  # fmt: skip
        assert abs(sample.mean() - mean) < 4.5 * sample.std() / np.sqrt(len(sample))  # four and a half standard errors


def test_what_is_recorded_is_what_the_world_did(monkeypatch):
    seen, original = [], SavedDrift.step

    def spy(self, actions):
        before, step = self._observe(), original(self, actions)
        seen.append((before, np.array(actions), step))
        return step

    monkeypatch.setattr(SavedDrift, "step", spy)
    env = SavedDrift(3)
    data = record(env, random_actions(env, np.random.default_rng(0)), 3)
    row = 0
    for i in range(3):
        for before, actions, step in seen:
            np.testing.assert_allclose(data.obs[row], before[i], rtol=1e-6)
            np.testing.assert_allclose(data.action[row], actions[i], rtol=1e-6)
            np.testing.assert_allclose(data.next_obs[row], step.final_obs[i], rtol=1e-6)
            np.testing.assert_array_equal(data.cost[row], step.cost[i])
            assert data.reward[row] == step.reward[i]
            assert (data.terminated[row], data.truncated[row]) == (step.terminated[i], step.truncated[i])
            row += 1
            if step.ended[i]:
                break
    assert row == len(data)


def test_actions_of_a_normal_policy_are_recorded_as_the_world_acts_on_them():
    rng = np.random.default_rng(0)
    env, clipped = SavedDrift(3), SavedDrift(3)
    wide = [rng.normal(0.0, 3.0, (3, *env.action_space.shape)) for _ in range(env.max_episode_steps)]
    data = record(env, lambda t, obs: wide[t], 3)
    same = record(clipped, lambda t, obs: wide[t].clip(-1.0, 1.0), 3)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(data, name), getattr(same, name))
    assert np.abs(data.action).max() == 1.0
    fitted(data, SavedDrift(1))  # refuses what no offline row could learn from


def test_only_episodes_that_ended_have_a_cost_and_a_limit_is_kept_by_all_costs():
    cost = np.array([[1.0, 0], [2, 0], [0, 5], [0, 0], [1, 0], [9, 9]])
    data = some(cost=cost, costs=("a", "b"))
    found = data.finished()
    assert data.starts.tolist() == [0, 2, 5]
    assert (found.first.tolist(), found.last.tolist()) == ([0, 2], [1, 4])
    np.testing.assert_array_equal(found.cost, [[3, 0], [1, 5]])
    np.testing.assert_allclose(found.episode_return, [data.reward[:2].sum(), data.reward[2:5].sum()])
    assert data.within(np.array([3.0, 4.0])).tolist() == [0, 1]
    assert data.within(np.array([1.0, 5.0])).tolist() == [2, 3, 4]
    assert data.within(np.array([0.5, 5.0])).tolist() == []


def test_parquet_gives_back_every_number_and_how_it_was_made(tmp_path):
    data = some(costs=("heat",), world="W-v0", options={"size": 3}, made={"seed": 7})
    data.save(tmp_path)
    back = load(tmp_path)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(back, name), getattr(data, name))
        assert getattr(back, name).dtype == getattr(data, name).dtype
    assert (back.costs, back.world, back.options, back.made) == (("heat",), "W-v0", {"size": 3}, {"seed": 7})
    assert back.digest() == data.digest() != some(6, reward=data.reward + 1.0).digest()


@pytest.mark.parametrize("done", ["terminated", "truncated"])
def test_omnisafes_fields_are_read_with_the_meaning_given_to_done(done, tmp_path):
    data = some()
    column = {name: getattr(data, name)[:, None] for name in ("reward",)}  # its arrays are [n, 1]
    np.savez(tmp_path / "d.npz", obs=data.obs, action=data.action, cost=data.cost, next_obs=data.next_obs,
             done=data.ended[:, None].astype(np.float32), **column)  # fmt: skip
    back = read(tmp_path / "d.npz", done)
    np.testing.assert_array_equal(back.reward, data.reward)
    np.testing.assert_array_equal(getattr(back, done), data.ended)
    assert back.ended.sum() == getattr(back, done).sum()
    assert back.costs == ("cost_sum",)


@pytest.mark.parametrize("done", ["terminated", "truncated"])
def test_a_time_out_that_stands_beside_done_is_no_end_of_the_task(done, tmp_path):
    data = some()
    column = {name: getattr(data, name) for name in ("obs", "action", "cost", "next_obs", "reward")}
    np.savez(tmp_path / "d.npz", dones=data.ended, timeouts=data.truncated, **column)
    back = read(tmp_path / "d.npz", done)
    wanted = (data.terminated, data.truncated) if done == "terminated" else (np.zeros(6, np.bool_), data.ended)
    np.testing.assert_array_equal([back.terminated, back.truncated], wanted)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"done": np.zeros(8)}, r"column done has shape \(8,\), but there are 6 rows"),
        ({"dones": np.zeros((6, 2))}, r"column done has shape \(6, 2\)"),
        ({"dones": np.zeros(6), "timeouts": np.zeros(7)}, r"column truncated has shape \(7,\)"),
        ({"terminated": np.zeros(6), "done": np.full(8, -1)}, None),  # what says more is read alone
    ],
)
def test_ends_of_another_length_are_named(columns, says, tmp_path):
    column = {name: getattr(some(), name) for name in ("obs", "action", "cost", "next_obs", "reward")}
    np.savez(tmp_path / "d.npz", **columns, **column)
    if says is None:
        assert not read(tmp_path / "d.npz").ended.any()
        return
    with pytest.raises(ConfigError, match=says):
        read(tmp_path / "d.npz")


def test_one_cost_is_the_worlds_whatever_it_is_called(capsys):
    world = exact_world("Cmdp-Gamble-v0")
    width = ObservationCodec.of(world.observation_space).width
    columns = {"obs": np.zeros((6, width), np.float32), "next_obs": np.zeros((6, width), np.float32),
               "action": np.zeros((6, 1), np.float32)}  # fmt: skip
    assert fitted(some(**columns, costs=("cost_sum",)), world).costs == ("cost_sum",)
    assert "taken for" not in capsys.readouterr().err
    assert fitted(some(**columns, costs=("harm",)), world).costs == world.costs
    assert f"the data's cost harm is taken for {world.costs[0]}" in capsys.readouterr().err


def test_costs_are_found_by_their_names_and_by_their_places_where_a_file_has_none():
    world = exact_world("Cmdp-Foundry-v0")
    heat, noise = world.costs
    columns = {"obs": np.zeros((6, 24), np.float32), "next_obs": np.zeros((6, 24), np.float32),
               "action": np.zeros((6, 1), np.float32), "cost": np.random.default_rng(0).random((6, 2))}  # fmt: skip
    turned = some(**columns, costs=(noise, heat))
    found = fitted(turned, world)
    assert found.costs == (heat, noise)
    np.testing.assert_array_equal(found.cost, turned.cost[:, ::-1])
    np.testing.assert_array_equal(fitted(some(**columns, costs=("cost_1", "cost_2")), world).cost, columns["cost"])
    with pytest.raises(ConfigError, match=f"the data's costs are {heat}, other, but Cmdp-Foundry-v0 reports {heat}"):
        fitted(some(**columns, costs=(heat, "other")), world)


def test_the_names_of_dsrl_are_read(tmp_path):
    data = some()
    np.savez(tmp_path / "d.npz", observations=data.obs, actions=data.action, rewards=data.reward, costs=data.cost[:, 0],
             next_observations=data.next_obs, terminals=data.terminated, timeouts=data.truncated)  # fmt: skip
    assert read(tmp_path / "d.npz").digest() == data.digest()


def plain(data):
    return {name: getattr(data, name) for name in COLUMNS}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: c.pop("cost"), "column cost is missing"),
        (lambda c: c.pop("terminated"), "column terminated is missing"),
        (lambda c: c["reward"].__setitem__(3, np.nan), "row 3, column reward is nan"),
        (lambda c: c["obs"].__setitem__((2, 1), np.inf), r"row 2, column obs\[1\] is inf"),
        (lambda c: c.update(next_obs=c["next_obs"][:, :2]), r"next_obs has shape \(6, 2\), but \(6, 3\)"),
        (lambda c: c.update(action=c["action"][:5]), r"action has shape \(5, 2\), but \(6, 2\)"),
        (lambda c: c.update(terminated=np.array([0, 1, 0, 2, 0, 0])), "row 3, column terminated is 2"),
        (lambda c: c.update(reward=np.array(list("abcdef"))), "column reward holds <U1"),
        (lambda c: c.update(cost=np.array([None] * 6, dtype=object)), "without pickle"),
        (lambda c: c.update({name: x[:0] for name, x in c.items()}), "no rows"),
    ],
)
def test_a_file_that_cannot_be_learnt_from_is_refused_in_one_sentence(spoil, says, tmp_path):
    columns = plain(some())
    spoil(columns)
    np.savez(tmp_path / "d.npz", **columns)
    with pytest.raises(ConfigError, match=says):
        read(tmp_path / "d.npz")


def test_parquet_of_users_is_read_and_refused_by_row(tmp_path):
    data, path = some(), tmp_path / "d.parquet"
    table = {name: getattr(data, name).tolist() for name in COLUMNS}
    pq.write_table(pa.table(table), path)  # lists of any length, no metadata of ours
    assert read(path).digest() == data.digest()
    pq.write_table(pa.table({**table, "obs": [*table["obs"][:4], [1.0], table["obs"][5]]}), path)
    with pytest.raises(ConfigError, match="row 4, column obs has 1 numbers, but row 0 has 3"):
        read(path)
    pq.write_table(pa.table({**table, "reward": [*table["reward"][:5], None]}), path)
    with pytest.raises(ConfigError, match="row 5, column reward is nan"):
        read(path)
    pq.write_table(pa.table({**table, "obs": [None, *table["obs"][1:]]}), path)
    with pytest.raises(ConfigError, match="row 0, column obs is empty"):
        read(path)


def test_files_that_are_none_are_refused(tmp_path):
    for name in ("d.npz", "d.parquet"):
        (tmp_path / name).write_bytes(b"PK no archive")
        with pytest.raises(ConfigError, match="cannot be read"):
            read(tmp_path / name)
    with pytest.raises(ConfigError, match="there is no data set"):
        read(tmp_path / "none.npz")
    (tmp_path / "d.csv").write_text("1")
    with pytest.raises(ConfigError, match=r"ends in '\.csv'"):
        read(tmp_path / "d.csv")
    with pytest.raises(RunError, match="there is no data set"):
        load(tmp_path)


def test_without_their_readers_formats_name_the_extra(tmp_path, monkeypatch):
    (tmp_path / "d.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtra, match=r"HDF5 data sets needs the extra 'offline'"):
        read(tmp_path / "d.h5")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="writing Parquet"):
        write_parquet(some(), tmp_path / "d.parquet")


def test_hdf5_gives_the_same_numbers(tmp_path):
    h5py = pytest.importorskip("h5py")
    data = some()
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for name, values in plain(data).items():
            file[name] = values
    assert read(tmp_path / "d.h5").digest() == data.digest()


def test_data_of_another_world_are_refused():
    world = exact_world("CmdpBox-Corridor-v0")
    data = data_of(instance("Corridor"), behaviour(instance("Corridor"), 0), 3, box=True)
    assert fitted(data, world) is data
    with pytest.raises(ConfigError, match="observations have 3 numbers, but those of CmdpBox-Corridor-v0 48"):
        fitted(some(), world)
    with pytest.raises(ConfigError, match="2 columns, but CmdpBox-Corridor-v0 takes 1"):
        fitted(some(obs=np.zeros((6, 48), np.float32), next_obs=np.zeros((6, 48), np.float32)), world)
    with pytest.raises(ConfigError, match=r"row 0, column action\[0\] is .* Cmdp-Corridor-v0 are whole numbers"):
        fitted(data, exact_world("Cmdp-Corridor-v0"))
    four = np.zeros((6, 24), np.float32)
    one_cost = some(obs=four, next_obs=four, action=np.zeros((6, 1), np.float32))
    with pytest.raises(ConfigError, match="the data have 1 costs, but Cmdp-Foundry-v0 reports 2"):
        fitted(one_cost, exact_world("Cmdp-Foundry-v0"))


def test_scores_are_on_the_datas_scale_and_the_limits():
    recorded = some(reward=np.array([1.0, 1, 5, 0, 1, 0])).finished().episode_return
    assert recorded.tolist() == [2.0, 6.0]
    score = normalised_scores(recorded, 5.0, np.array([30.0]), np.array([25.0]))
    assert (score.episode_return, score.cost.tolist()) == (0.75, [1.2])
    assert np.isnan(normalised_scores(recorded, 5.0, np.array([1.0]), np.array([0.0])).cost[0])
    for none in (recorded[:0], recorded[:1]):  # nothing ended, or nothing to compare with
        assert np.isnan(normalised_scores(none, 5.0, np.ones(1), np.ones(1)).episode_return)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_shares_add_up_and_miss_by_less_than_one(total, shares):
    found = apportioned(total, np.array(shares))
    assert found.sum() == total
    assert (np.abs(found - total * np.array(shares) / sum(shares)) < 1.0).all()


def test_a_mixture_is_recorded_by_shares_and_the_same_again(tmp_path):
    from trueline.core.subject import save_subject
    from trueline.rl.on_policy import OnPolicy, OnPolicyRecipe

    toy = {"env": "Offline-Drift-v0", "num_envs": 2}
    small = {**toy, "steps_per_epoch": 40, "total_steps": 40, "update": {"minibatch": 20}}
    row = OnPolicyRecipe("ppo", OnPolicy)
    config = build(row.Config, small)
    with Run.create(tmp_path, kind="train", name="ppo", config=config, seed=0, id="policy") as run:
        save_subject(row.train(config, run, {}), run.folder)
    sources = [{"policy": "random", "share": 1.0}, {"policy": "run://policy", "share": 3.0}]
    config = build(OFFLINE_DATA.Config, {**toy, "episodes": 8, "sources": sources})
    OFFLINE_DATA.check(config, tmp_path)
    digests = []
    for id in ("a", "b"):
        with Run.create(tmp_path, kind="train", name="data", config=config, seed=3, id=id) as run:
            subject = OFFLINE_DATA.train(config, run, {})
            save_subject(subject, run.folder)
        digests.append(read(tmp_path / id / "artefacts" / "data.parquet").digest())
    assert digests[0] == digests[1] == subject.digest()
    assert len(subject.finished().last) == 8
    assert [source["episodes"] for source in subject.made["sources"]] == [2, 6]
    assert (subject.world, subject.costs) == ("Offline-Drift-v0", ("right", "off_axis"))
    wrong = build(OFFLINE_DATA.Config, {"env": "Cmdp-Corridor-v0", "sources": sources})
    with pytest.raises(ConfigError, match="acts in Offline-Drift-v0, but the recording is of Cmdp-Corridor-v0"):
        OFFLINE_DATA.check(wrong, tmp_path)


def test_joining_needs_one_world_and_whole_episodes():
    whole = some(5)
    assert len(joined([whole, some()])) == 11
    with pytest.raises(ConfigError, match="within an episode"):
        joined([some(), whole])
    with pytest.raises(ConfigError, match="costs other do not join data of cost_sum"):
        joined([whole, some(costs=("other",))])


def test_evaluations_of_a_training_from_data_are_logged_as_scores(tmp_path):
    from trueline.safety.recipes.offline import BC_SAFE

    env = SavedDrift(4)
    data = record(env, random_actions(env, np.random.default_rng(0)), 12)
    data.save(tmp_path / "data")
    given = {
        "env": "Offline-Drift-v0", "dataset": str(tmp_path / "data"), "cost_limit": [4.0, 30.0], "steps_per_epoch": 2,
        "total_steps": 4, "actor": {"hidden": [4]}, "critic": {"hidden": [4]}, "update": {"batch": 8},
        "evaluation": {"every": 1, "episodes": 4, "final_episodes": 4, "num_envs": 4},
    }  # fmt: skip
    config = build(BC_SAFE.Config, given)
    with Run.create(tmp_path, kind="train", name="bc-safe", config=config, seed=0, id="run") as run:
        BC_SAFE.train(config, run, {})
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    figures = [line for line in lines if "eval/return" in line]
    assert len(figures) == 2
    low, high = data.finished().episode_return.min(), data.finished().episode_return.max()
    for line in figures:
        assert line["eval/normalised_return"] == pytest.approx((line["eval/return"] - low) / (high - low))
        assert line["eval/normalised_right"] == pytest.approx(line["eval/right"] / 4.0)
        assert line["eval/normalised_off_axis"] == pytest.approx(line["eval/off_axis"] / 30.0)


# --- units of actions ---


class Cart(gym.Env):
    """It takes -2 to 2, and one number without bounds; or a choice that counts from 3."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, choice=False):
        box = gym.spaces.Box(np.array([-2.0, -np.inf]), np.array([2.0, np.inf]), dtype=np.float64)
        self.action_space = gym.spaces.Discrete(2, start=3) if choice else box

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(3, np.float32), float(np.ravel(action)[0]), False, False, {"cost": 0.0}


gym.register("OfflineCart-v0", Cart, max_episode_steps=3)
NATIVE = np.array([[-2.0, 7.0], [-1.0, -7.0], [0.0, 0.0], [0.5, 1.0], [1.0, 2.0], [2.0, 3.0]], np.float32)
SCALED = NATIVE / np.array([2.0, 1.0], np.float32)


@pytest.fixture
def cart():
    return make("OfflineCart-v0")


def test_native_actions_are_scaled_where_the_file_or_the_setting_says_that_they_are(cart, tmp_path):
    said = some(action=NATIVE, actions="native", costs=("cost",))
    np.testing.assert_array_equal(fitted(said, cart).action, SCALED)
    write_parquet(said, tmp_path / "d.parquet")
    assert read(tmp_path / "d.parquet").actions == "native"
    np.testing.assert_array_equal(fitted(read(tmp_path / "d.parquet"), cart).action, SCALED)
    np.savez(tmp_path / "d.npz", **plain(said))
    unsaid = read(tmp_path / "d.npz")
    assert unsaid.actions is None
    found = fitted(unsaid, cart, "native")
    np.testing.assert_array_equal(found.action, SCALED)
    assert fitted(found, cart) is found  # once


def test_actions_of_unknown_units_are_refused_where_the_units_differ_even_if_they_would_fit_both(cart):
    within = some(action=NATIVE / 4.0, actions=None)  # from -0.5 to 0.5: native as well as scaled
    with pytest.raises(ConfigError, match=r"OfflineCart-v0 takes actions from -2 to 2, .* Set actions to 'native'"):
        fitted(within, cart)
    np.testing.assert_array_equal(fitted(within, cart, "scaled").action, within.action)
    two = some(actions=None, cost=np.zeros((6, 2)), costs=("right", "off_axis"))
    assert fitted(two, SavedDrift(1)).actions == "scaled"  # whose own units are those


def test_actions_beyond_their_units_are_refused_by_name(cart):
    with pytest.raises(ConfigError, match=r"row 0, .* is -2, but scaled actions of OfflineCart-v0 .* from -1 to 1"):
        fitted(some(action=NATIVE), cart)
    with pytest.raises(ConfigError, match=r"is -4, but native actions of OfflineCart-v0 .* from -2 to 2"):
        fitted(some(action=NATIVE * [2, 1], actions="native"), cart)
    with pytest.raises(ConfigError, match="the data say that theirs are scaled"):
        fitted(some(action=SCALED), cart, "native")


def test_units_that_are_none_or_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match=r"actions is 'metres'\. Give 'scaled' or 'native'"):
        some(actions="metres")
    whole = {"terminated": np.arange(6) == 5, "truncated": np.zeros(6, bool)}
    with pytest.raises(ConfigError, match="actions of units native do not join data with scaled"):
        joined([some(**whole), some(actions="native")])


def test_choices_are_counted_from_the_first_option():
    world = make("OfflineCart-v0", choice=True)
    named = np.array([3, 4, 4, 3, 4, 3], np.float32)[:, None]
    np.testing.assert_array_equal(fitted(some(action=named, actions="native"), world).action, named - 3)
    with pytest.raises(ConfigError, match="takes actions from 3 to 4"):
        fitted(some(action=named, actions=None), world)


def test_what_is_recorded_is_scaled_and_an_unbounded_action_is_kept_whole(cart):
    wide = np.array([[0.5, 40.0]])
    data = record(cart, lambda t, obs: wide, 1)
    assert data.actions == "scaled"
    np.testing.assert_array_equal(data.action, np.repeat(wide, 3, axis=0))
    assert data.reward.tolist() == [1.0] * 3  # of ±2, a half
    fitted(data, cart)


def test_the_pages_commands_record_a_mixture_and_train_from_it(trueline, tmp_path):
    here = ("--root", tmp_path)
    sources = 'sources=[{policy="random", share=3}, {policy="random", share=1, deterministic=true}]'
    env = "env=Cmdp-Gamble-v0"
    said = trueline("train", "offline-data", env, "episodes=8", "num_envs=2", sources, "--id", "mixed", *here)
    assert said.code == 0, said.err
    data = read(tmp_path / "mixed" / "artefacts" / "data.parquet")
    assert [source["episodes"] for source in data.made["sources"]] == [6, 2]
    assert (data.world, data.actions, len(data.starts)) == ("Cmdp-Gamble-v0", "scaled", 8)
    np.savez(tmp_path / "mine.npz", **plain(data))
    small = (
        "steps_per_epoch=2",
        "total_steps=2",
        "multiplier_after=0",
        "actor.hidden=[]",
        "critic.hidden=[]",
        "update.batch=4",
    )
    for file in ("run://mixed/data.parquet", tmp_path / "mine.npz"):
        said = trueline("train", "bcq-lag", env, f"dataset={file}", "cost_limit=0.7", *small, *here)
        assert said.code == 0, said.err
