"""Teams: limits, rows, checkpoints, and what is trained."""

from __future__ import annotations

import json
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from team_cases import a_game, on

from trueline.core import checkpoint, registry
from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.core.metrics import read_metrics
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.streams import case_seeds
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.schedule import Linear, Steps
from trueline.rl.multi_agent import as_one
from trueline.rl.spaces import ObservationCodec
from trueline.rl.teams.exact import WORLD, GameWorld
from trueline.rl.teams.limits import team_limits, team_path
from trueline.rl.teams.training import (
    ConstrainedTeam,
    LimitedTeam,
    TeamRecipe,
    TeamSettings,
    TeamTrainer,
)
from trueline.rl.teams.updates import (
    Happo,
    Macpo,
    Mappo,
    ValueFit,
)
from trueline.rl.updates.cup import Cup

if WORLD not in {entry.name for entry in registry.entries("multi-agent env")}:
    registry.add(Entry("multi-agent env", WORLD, "trueline.rl.teams.exact:make_game", "a game given by its tables"))


def a_run(tmp_path, recipe, config, id="run", seed=3, **more):
    return Run.create(tmp_path, kind="train", name=recipe.name, config=config, seed=seed, id=id, **more)


ROW_MAPPO = TeamRecipe("together", TeamSettings, {}, Mappo())

ROW_HAPPO = TeamRecipe("in-turn", ConstrainedTeam, {}, Happo())

ROW_MACPO = TeamRecipe("bounded", LimitedTeam, {}, Macpo())


# --- limits and rows ---


@pytest.mark.parametrize(
    ("given_limit", "expected"),
    [(3.0, [3.0, 3.0]), ((4.0,), [4.0, 4.0]), ((1.0, 2.0), [1.0, 2.0])],
)
def test_limits_for_all_or_agent_by_agent(given_limit, expected):
    world = GameWorld("game", a_game((2, 3)), 1)
    assert team_limits(given_limit, world) == dict(zip(["agent_0/cost", "agent_1/cost"], expected, strict=True))
    assert team_limits(None, world) == {}


def test_limits_that_do_not_fit_are_refused():
    world = GameWorld("game", a_game((2, 3)), 1)
    with pytest.raises(ConfigError, match="3 values, but the 2 agents of game have 1 costs each"):
        team_limits((1.0, 2.0, 3.0), world)
    with pytest.raises(ConfigError, match="0 or more"):
        team_limits((1.0, -2.0), world)


def test_limits_that_move_do_so_agent_by_agent():
    pair = SimpleNamespace(agents=("x", "y"), costs=("a", "b"), id="pair")
    names = ["x/a", "x/b", "y/a", "y/b"]
    line = team_path(Linear(start=(1.0, 2.0), end=(3.0, 4.0, 5.0, 6.0)), pair)
    np.testing.assert_allclose(line.at(0.0), [1.0, 2.0, 1.0, 2.0])  # one per cost, for both
    np.testing.assert_allclose(line.at(0.5), [2.0, 3.0, 3.0, 4.0])
    steps = team_path(Steps(values=((1.0, 2.0), 7.0), at=(0.5,)), pair)
    np.testing.assert_allclose(steps.at(0.4), [1.0, 2.0, 1.0, 2.0])
    assert steps.final == dict.fromkeys(names, 7.0)
    with pytest.raises(ConfigError, match="3 values, but the 2 agents of pair have 2 costs each"):
        team_path(Linear(start=(1.0, 2.0, 3.0), end=1.0), pair)
    with pytest.raises(ConfigError, match="reports no cost"):
        team_path(1.0, SimpleNamespace(agents=("x",), costs=(), id="pair"))


def test_every_handler_is_given_its_agents_limit_of_the_moment(tmp_path, monkeypatch):
    seen, original = [], Lagrangian.update

    def spy(self, state, episode_cost, limit):
        seen.append(limit.tolist())
        return original(self, state, episode_cost, limit)

    monkeypatch.setattr(Lagrangian, "update", spy)
    line = {"kind": "linear", "start": [4.0, 3.0], "end": [1.0, 0.0]}
    config = build(ROW_HAPPO.Config, on(a_game((2, 2)), cost_limit=line))
    with a_run(tmp_path, ROW_HAPPO, config) as run:
        ROW_HAPPO.train(config, run, {})
    assert seen == [[4.0], [3.0], [3.0], [2.0], [2.0], [1.0], [1.0], [0.0]]  # four epochs, two agents
    lines = list(read_metrics(run.folder / "metrics.jsonl"))
    assert [line["constraint/limit_agent_1/cost"] for line in lines] == [3.0, 2.0, 1.0, 0.0]
    assert ROW_HAPPO.limits(config) == {"agent_0/cost": 1.0, "agent_1/cost": 0.0}


def test_a_limit_may_be_a_share_of_what_each_agent_of_an_unlimited_team_cost(tmp_path):
    free = build(ROW_MAPPO.Config, on(a_game((2, 2))))
    with a_run(tmp_path, ROW_MAPPO, free, "free") as run:
        ROW_MAPPO.train(free, run, {})
    last = list(read_metrics(run.folder / "metrics.jsonl"))[-1]
    given_limit = {"kind": "calibrated", "run": "run://free", "share": 0.5, "last": 0.2}
    config = build(ROW_MACPO.Config, on(a_game((2, 2)), cost_limit=given_limit, update={"passes": 1}))
    ROW_MACPO.check(config, tmp_path)
    with a_run(tmp_path, ROW_MACPO, config, "limited") as run:
        trainer = TeamTrainer(config, run, {})
    expected = {f"{agent}/cost": 0.5 * last[f"train/{agent}/cost"] for agent in ("agent_0", "agent_1")}
    assert trainer.limited == pytest.approx(expected)
    assert expected["agent_0/cost"] != expected["agent_1/cost"]


def test_rows_that_do_not_compose_are_refused():
    with pytest.raises(ConfigError, match="takes slack and solves"):
        TeamRecipe("x", ConstrainedTeam, {}, Macpo())
    with pytest.raises(ConfigError, match="no limit to measure it from"):
        TeamRecipe("x", TeamSettings, {}, Macpo())
    with pytest.raises(ConfigError, match="mixed advantage cannot know of"):
        TeamRecipe("x", LimitedTeam, {}, Mappo())
    with pytest.raises(ConfigError, match="takes weights"):
        TeamRecipe("x", ConstrainedTeam, {}, Cup())


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="moves one agent after another"):
        build(ROW_HAPPO.Config, {"parameters": "shared"})
    with pytest.raises(ConfigError, match="takes slack"):
        build(ROW_MACPO.Config, {"standardise": "mix"})
    with pytest.raises(ConfigError, match="at least one step"):
        build(ROW_MAPPO.Config, {"num_envs": 10, "steps_per_epoch": 4})
    with pytest.raises(ValidationError):
        ValueFit(memory=1.0)


def test_agents_that_differ_cannot_share_a_policy(tmp_path):
    config = build(ROW_MAPPO.Config, on(a_game((2, 3)), parameters="shared"))
    with pytest.raises(ConfigError, match="observe or act differently"):
        ROW_MAPPO.check(config, tmp_path)


# --- training ---


def left_by(folder) -> dict[str, Any]:
    """What a run leaves, clock times excepted (and with them how far its log reaches in bytes)."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"lines": str([{k: v for k, v in x.items() if not k.startswith("time/")} for x in lines])}
    for path in sorted((folder / "subject").iterdir()):
        found[path.name] = path.read_bytes()
    for step in sorted((folder / "checkpoints").iterdir()):
        whole = checkpoint.read(step)
        found |= dict(leaves({key: whole[key] for key in ("state", "streams")}, step.name))
    return found


def leaves(tree: Any, path: str):
    """Every number of a nested state, as bytes."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}/{i}")
    else:
        yield path, np.asarray(tree).tobytes() if hasattr(tree, "shape") else tree


class Killed(Exception):
    pass


@pytest.mark.parametrize("recipe", [ROW_MAPPO, ROW_HAPPO, ROW_MACPO], ids=lambda row: row.name)
def test_killed_and_resumed_leaves_the_same_bytes(recipe, tmp_path, monkeypatch):
    more = {"averaged_share": 0.5} | ({"parameters": "shared"} if recipe is ROW_MAPPO else {"cost_limit": 0.5})
    config = build(recipe.Config, on(a_game((2, 2)), **more))
    with a_run(tmp_path / "whole", recipe, config) as run:
        whole = recipe.train(config, run, {})
    whole.save(run.folder / "subject")
    original, epochs = TeamTrainer.one_epoch, []

    def dies(self):
        if len(epochs) == 2:
            epochs.append("dead")
            raise Killed
        epochs.append("alive")
        return original(self)

    monkeypatch.setattr(TeamTrainer, "one_epoch", dies)
    with pytest.raises(Killed), a_run(tmp_path / "cut", recipe, config) as run:
        recipe.train(config, run, {})
    with Run.reopen(tmp_path / "cut" / "run") as run:
        again = recipe.train(config, run, {})
    again.save(run.folder / "subject")
    assert left_by(tmp_path / "cut" / "run") == left_by(tmp_path / "whole" / "run")


def test_the_same_seed_trains_on_the_same_layouts(tmp_path):
    config = build(ROW_HAPPO.Config, on(a_game((2, 2))))
    met = []
    for id, seed in (("a", 1), ("b", 1), ("c", 2)):
        with a_run(tmp_path, ROW_HAPPO, config, id, seed) as run:
            met.append(ROW_HAPPO.train(config, run, {}).layouts_met.tolist())
    assert met[0] == met[1] != met[2]
    assert len(set(met[0])) == 64  # 192 steps of three each


def test_each_agent_has_a_multiplier_that_its_own_cost_moves(tmp_path):
    game = a_game((2, 2))
    plain = {"rule": "sgd", "lr": 0.1, "init": 1.0}
    config = build(ROW_HAPPO.Config, on(game, cost_limit=[0.0, 100.0], constraint=plain, window=1000))
    with a_run(tmp_path, ROW_HAPPO, config) as run:
        team = ROW_HAPPO.train(config, run, {})
    lines = list(read_metrics(run.folder / "metrics.jsonl"))
    # λ ← max(0, λ + 0.1(J_C − d)) with the mean of all episodes so far, 16 more in each epoch.
    costs = np.array([[line["train/agent_0/cost"], line["train/agent_1/cost"]] for line in lines])
    lam = np.ones(2)
    for epoch in range(len(lines)):
        lam = np.maximum(0.0, lam + 0.1 * (costs[: epoch + 1].mean(axis=0) - [0.0, 100.0]))
    np.testing.assert_allclose(team.multipliers, lam, rtol=1e-6)
    assert lines[-1]["constraint/multiplier_agent_0/cost"] == pytest.approx(lam[0])
    limits = json.loads((run.folder / "artefacts" / "limits.json").read_text())
    assert limits == {"train/agent_0/cost": 0.0, "train/agent_1/cost": 100.0}
    assert ROW_HAPPO.limits(config) == {"agent_0/cost": 0.0, "agent_1/cost": 100.0}


def found_failing(tmp_path, rng):
    """Three layouts, and the setting that names their findings."""
    seeds = case_seeds("respond", 1, 3, rng)
    folder = tmp_path / "audited" / "artefacts"
    folder.mkdir(parents=True)
    (folder / "found.json").write_text(json.dumps([{"case": {"data": {"seed": int(seed)}}} for seed in seeds]))
    return seeds, {"layouts": ["run://audited/found.json"]}


def test_of_episodes_on_both_only_those_on_fresh_layouts_are_measured(tmp_path, rng):
    seeds, given = found_failing(tmp_path, rng)
    config = build(ROW_HAPPO.Config, on(a_game((2, 2)), layouts_share=0.5, **given))
    with a_run(tmp_path, ROW_HAPPO, config) as run:
        trainer = TeamTrainer(config, run, {})
        trainer.train()
    fresh = int((~np.isin(trainer.met, seeds)).sum())
    assert 0 < fresh < len(trainer.met) == len(trainer.recent.episode_return)
    assert len(trainer.steering.cost) == len(trainer.steering.length) == len(trainer.recent.cost) == fresh


def test_layouts_that_failed_get_their_share_and_do_not_steer(tmp_path, rng):
    seeds, given = found_failing(tmp_path, rng)
    failed = {**given, "layouts_share": 1.0}
    config = build(ROW_HAPPO.Config, on(a_game((2, 2)), cost_limit=0.0, constraint={"init": 0.5}, **failed))
    ROW_HAPPO.check(config, tmp_path)
    with a_run(tmp_path, ROW_HAPPO, config) as run:
        team = ROW_HAPPO.train(config, run, {})
    assert set(team.layouts_met.tolist()) == set(seeds.tolist())
    assert team.multipliers.tolist() == [0.5, 0.5]
    assert "train/agent_0/cost" in next(iter(read_metrics(run.folder / "metrics.jsonl")))  # told all the same
    missing = build(ROW_HAPPO.Config, on(a_game((2, 2)), layouts=["run://none/found.json"]))
    with pytest.raises(RunError):
        ROW_HAPPO.check(missing, tmp_path)


def test_a_warm_start_goes_on_from_weights_and_multipliers(tmp_path):
    config = build(ROW_HAPPO.Config, on(a_game((2, 2)), cost_limit=0.1))
    with a_run(tmp_path, ROW_HAPPO, config, "first") as run:
        team = ROW_HAPPO.train(config, run, {})
    with a_run(tmp_path, ROW_HAPPO, config, "second") as run:
        trainer = TeamTrainer(config, run, {"policy": team})
        assert all(torch.equal(a, b) for a, b in zip(trainer.team.parameters(), team.team.parameters(), strict=True))
        for state, agent in zip(trainer.handler_states.values(), team.agents, strict=True):
            assert state["multiplier"].tolist() == team.shape["multipliers"][agent]
    other = build(ROW_HAPPO.Config, on(a_game((2, 2)), actor={"hidden": [5]}))
    with a_run(tmp_path, ROW_HAPPO, other, "third") as run, pytest.raises(ConfigError, match="other network shapes"):
        TeamTrainer(other, run, {"policy": team})
    all_costs = build(ROW_HAPPO.Config, on(a_game((2, 2)), answers_for="all"))
    with a_run(tmp_path, ROW_HAPPO, all_costs, "fourth") as run, pytest.raises(ConfigError, match="1 multipliers for"):
        TeamTrainer(all_costs, run, {"policy": team})


def test_a_third_partys_row_is_a_line():
    row = TeamRecipe("mine", ConstrainedTeam, {}, Happo(clip=0.1))
    config = build(row.Config, {"update": {"passes": 3}})
    assert (config.update.clip, config.update.passes) == (0.1, 3)
    assert isinstance(config.constraint, Lagrangian)


# --- observations that are dicts ---


class Pieces(GameWorld):
    """A game whose agents observe z, the share of its number, and a, two powers of that: in a dict, or flat."""

    def __init__(self, num_envs: int, flat: bool) -> None:
        self.flat = flat
        super().__init__("pieces", a_game((2, 2)), num_envs)
        parts = {name: gym.spaces.Box(0.0, 1.0, (n,), np.float32) for name, n in (("z", 1), ("a", 2))}
        whole = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
        apart = gym.spaces.Dict(OrderedDict(parts))
        self.order = [key for key, _, _ in ObservationCodec.of(apart).parts]
        self.observation_spaces = dict.fromkeys(self.agents, whole if flat else apart)

    def _views(self, seen):
        share = (seen[:, None] / 6.0).astype(np.float32)
        parts = {"z": share, "a": share ** np.array([2, 3], np.float32)}
        whole = np.concatenate([parts[key] for key in self.order], axis=1)
        return {agent: whole.copy() if self.flat else dict(parts) for agent in self.agents}


def pieces(id, num_envs, threads=1, flat=False):
    return Pieces(num_envs, flat)


@pytest.mark.parametrize("sees", ["state", "observations"])
def test_a_team_that_observes_dicts_learns_what_one_learns_that_observes_them_flat(sees, tmp_path):
    if "pieces" not in {entry.name for entry in registry.entries("multi-agent env")}:
        registry.add(Entry("multi-agent env", "pieces", f"{__name__}:pieces", "a game in pieces"))
    given = {**on(a_game((2, 2))), "env": "pieces", "critic_sees": sees}
    teams = []
    for flat in (False, True):
        config = build(ROW_MAPPO.Config, {**given, "env_options": {"flat": flat}})
        ROW_MAPPO.check(config, tmp_path)
        with a_run(tmp_path, ROW_MAPPO, config, id=f"flat-{flat}") as run:
            teams.append(ROW_MAPPO.train(config, run, {}))
    for one, other in zip(*(team.team.state_dict().values() for team in teams), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    world = Pieces(5, False)
    by_agent = teams[0].act_by_agent(world.reset(), np.random.default_rng(1))
    joint = as_one(world)
    together, _ = teams[0].act(joint.reset(), None, np.random.default_rng(1))
    assert together.shape == (5, 2)
    assert set(by_agent) == set(world.agents)
    again = teams[0].act_by_agent({a: {"z": o["z"], "a": o["a"]} for a, o in world._views(world._seen).items()},
                                  np.random.default_rng(1))  # fmt: skip
    np.testing.assert_array_equal(together, np.stack(list(again.values()), axis=1))


def test_more_limits_than_a_step_is_solved_for_are_refused_before_a_run_exists(tmp_path):
    many = on(a_game((2,) * 11, states=1, horizon=1))
    with pytest.raises(ConfigError, match="under 11 limits was asked for, and at most 10"):
        ROW_MACPO.check(build(ROW_MACPO.Config, {**many, "answers_for": "all"}), tmp_path)
    ROW_MACPO.check(build(ROW_MACPO.Config, many), tmp_path)  # one each
