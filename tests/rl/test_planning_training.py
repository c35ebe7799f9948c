"""The planning loop and the policy it makes: what is remembered, when it plans, how it is kept, what it refuses."""

from __future__ import annotations

import json
import math
import signal

import numpy as np
import pytest
import torch
from test_planning_line import EDGE, STEPS, Line
from test_planning_search import planning
from toy_worlds import Bandit, SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import BadWorld, ConfigError, RunError, Stopped
from trueline.core.metrics import read_metrics
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.subject import load_subject, save_subject
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.planning.cross_entropy import Arc, Cem
from trueline.rl.planning.policy import Memory, PlanningPolicy, load
from trueline.rl.planning.training import Trainer
from trueline.rl.policy import Acts
from trueline.safety.recipes import planning as rows

TINY = {
    "env": "Planning-Line-v0",
    "num_envs": 4,
    "steps_per_epoch": 48,
    "total_steps": 144,
    "repeat": 1,
    "warm_up": 72,
    "capacity": 1000,
    "model": {"members": 3, "elites": 2, "hidden": [8], "decay": [0.0, 0.0], "batch": 32, "passes": 3, "every": 48},
    "planner": {"kind": "cem", "horizon": 3, "samples": 16, "elites": 4, "iterations": 2, "particles": 4},
}
VALUED = {
    "planner": {
        "kind": "arc",
        "horizon": 2,
        "samples": 16,
        "elites": 4,
        "iterations": 2,
        "particles": 4,
        "proposed": 2,
    },
    "critic": {"actor": {"hidden": [8]}, "critic": {"hidden": [8]}},
    "update": {"batch": 16},
}
LINE = {"kind": "linear", "start": 4.0, "end": 1.0}
ROWS = {
    "pets": (rows.PETS, {}),
    "cce": (rows.CCE_PETS, {"cost_limit": 1.0}),
    "rce": (rows.RCE_PETS, {"cost_limit": 1.0, "signals": "known"}),
    "cap": (rows.CAP_PETS, {"cost_limit": 0.0}),
    "loop": (rows.LOOP, VALUED),
    "safe-loop": (rows.SAFE_LOOP, {**VALUED, "cost_limit": 1.0}),
    "moving": (rows.CAP_PETS, {"cost_limit": LINE}),
}


class Spoilt(Line):
    """The line, which gives a reward that is no number after ten steps."""

    calls = 0

    def step(self, actions):
        step = super().step(actions)
        self.calls += 1
        if self.calls > 10:
            step.reward[1] = np.nan
        return step


class Silent(SavedDrift):
    """A world of two costs that tells neither."""


def line(id, num_envs, threads=1, home=9.0):
    return Line(num_envs, home, id)


def spoilt(id, num_envs, threads=1):
    return Spoilt(num_envs, id=id)


def silent(id, num_envs, threads=1):
    return Silent(num_envs)


def bandit(id, num_envs, threads=1):
    return Bandit(num_envs)


@pytest.fixture(autouse=True)
def _worlds():
    for name in ("line", "spoilt", "silent", "bandit"):
        registry.add(
            Entry("env", f"Planning-{name.title()}-v0", f"test_planning_training:{name}", "for tests"), "tests"
        )


def settled(row, **given):
    return build(row.Config, {**TINY, **given})


def make_run(tmp_path, config, id="run", seed=0):
    return Run.create(tmp_path, kind="train", name="plan", config=config, seed=seed, id=id)


def trained(tmp_path, row, id="run", inputs=None, **given):
    config = settled(row, **given)
    with make_run(tmp_path, config, id) as run:
        policy = row.train(config, run, inputs or {})
        lines = list(read_metrics(run.folder / "metrics.jsonl"))
    return policy, lines


def trainer(tmp_path, row, id="run", **given):
    config = settled(row, **given)
    run = make_run(tmp_path, config, id)
    made = Trainer(config, run, {})
    made.seen.restore(None)
    made.stepping.reset()
    return made, run


# --- what is remembered ---


def test_a_row_is_a_decision_and_what_its_steps_came_to(tmp_path):
    """Actions held for three steps: x moves by 0.3·a, the reward is the sum of three positions."""
    made, run = trainer(tmp_path, rows.CCE_PETS, repeat=3, warm_up=120, gamma=0.9)
    with run:
        made.one_epoch()
    seen = made.seen.all()
    assert len(made.seen) == 48 // 3
    x, a = seen.obs[:, 0], seen.action[:, 0]
    torch.testing.assert_close(seen.after[:, 0], x + 0.3 * a, atol=1e-6, rtol=0.0)
    steps = torch.stack([x + 0.1 * k * a for k in (1, 2, 3)])
    torch.testing.assert_close(seen.signal[:, 0], steps.sum(0), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(seen.signal[:, 1], (steps > EDGE).sum(0).float())
    assert bool((seen.jumped == 0.0).all())
    torch.testing.assert_close(seen.discount, torch.full_like(seen.discount, 0.9))  # time does not end the task
    assert len(set(a.tolist())) == len(a)  # every environment draws its own


def test_a_goal_that_is_put_elsewhere_is_marked_and_ends_a_decision(tmp_path):
    made, run = trainer(tmp_path, rows.PETS, env_options={"home": 0.1})
    with run:
        made.one_epoch()
    seen = made.seen.all()
    jumped = seen.jumped[:, 0] > 0.0
    assert 0 < int(jumped.sum()) < len(made.seen)
    reached = seen.obs + 0.1 * seen.action
    torch.testing.assert_close(jumped, reached[:, 0] >= 0.1)
    assert bool((seen.after[jumped] == 0.0).all())
    torch.testing.assert_close(seen.after[~jumped], reached[~jumped], atol=1e-6, rtol=0.0)
    torch.testing.assert_close(seen.signal[:, :1], reached, atol=1e-6, rtol=0.0)  # paid for where it was
    made, run = trainer(tmp_path, rows.PETS, "held", repeat=3, warm_up=120, env_options={"home": 0.1})
    with run:
        made.one_epoch()
    assert len(made.seen) > 48 // 3


def test_an_action_cut_off_by_the_end_of_an_episode_says_nothing_of_one_that_is_held(tmp_path):
    made, run = trainer(tmp_path, rows.PETS, repeat=5, warm_up=150)
    with run:
        made.one_epoch()
    seen = made.seen.all()  # episodes of twelve steps: 5 + 5 + 2
    assert seen.jumped[:, 0].reshape(-1, 4).tolist() == [[0.0] * 4, [0.0] * 4, [1.0] * 4]


def test_after_the_task_has_ended_nothing_has_value(tmp_path):
    made, run = trainer(tmp_path, rows.CCE_PETS, env="Planning-Silent-v0", warm_up=400, steps_per_epoch=400, gamma=0.9)
    with run:
        made.one_epoch()
    seen = made.seen.all()
    outside = seen.after[:, :2].norm(dim=1) > Silent.radius  # which ends the task
    assert 0 < int(outside.sum()) < len(made.seen)
    torch.testing.assert_close(seen.discount[:, 0], torch.where(outside, 0.0, 0.9))


def test_the_model_is_fitted_from_the_warm_up_on_and_then_as_often_as_is_set(tmp_path):
    _, lines = trained(tmp_path, rows.PETS, total_steps=240)
    assert [("model/passes" in line, line["step"]) for line in lines] == [
        (False, 48),
        (True, 96),
        (True, 144),
        (True, 192),
        (True, 240),
    ]
    assert "plan/feasible" not in lines[0]


# --- every row ---


@pytest.mark.parametrize("name", ROWS)
def test_everything_that_learns_has_moved(name, tmp_path):
    row, given = ROWS[name]
    made, run = trainer(tmp_path, row, **given)
    before = {key: p.clone() for key, p in made.network.named_parameters()}
    with run:
        while made.epoch < made.epochs:
            made.one_epoch()
        lines = list(read_metrics(run.folder / "metrics.jsonl"))
    still = [key for key, p in made.network.named_parameters() if p.numel() and torch.equal(before[key], p)]
    assert not still
    assert all(math.isfinite(line["train/return"]) for line in lines)
    assert math.isfinite(lines[-1]["model/held_out"])
    if name == "cap":
        assert "constraint/caution_beyond" in lines[-1]


def test_caution_grows_by_the_rate_times_the_excess_of_planned_episodes(tmp_path):
    """κ ← min(1, κ + 0.1·(J_C − d)) once an epoch, by hand from the log; random episodes move nothing."""
    given = {"total_steps": 288, "cost_limit": 0.0, "model": {**TINY["model"], "passes": 1}}
    _, lines = trained(tmp_path, rows.CAP_PETS, **given)
    kappa = 0.0
    for line in lines:
        if line["step"] > 96:  # the second epoch holds the end of the warm-up
            kappa = min(1.0, max(0.0, kappa + 0.1 * line["train/beyond"]))
            assert line["constraint/caution_beyond"] == pytest.approx(kappa)


def test_a_limit_that_moves_is_planned_under_and_steers_by_its_epoch(tmp_path, monkeypatch):
    planned, steered = [], []
    plan, update = PlanningPolicy.plan, Lagrangian.update

    def spy_plan(self, *given):
        planned.append(self.method.limits["beyond"])
        return plan(self, *given)

    def spy_update(self, state, episode_cost, limit):
        steered.append(limit.tolist())
        return update(self, state, episode_cost, limit)

    monkeypatch.setattr(PlanningPolicy, "plan", spy_plan)
    monkeypatch.setattr(Lagrangian, "update", spy_update)
    policy, lines = trained(tmp_path, rows.CAP_PETS, total_steps=240, cost_limit=LINE)
    assert steered == [[4.0], [3.25], [2.5], [1.75], [1.0]]
    assert list(dict.fromkeys(planned)) == [3.25, 2.5, 1.75, 1.0]  # the first epoch acts at random
    assert planned == sorted(planned, reverse=True)
    assert [line["constraint/limit_beyond"] for line in lines] == [4.0, 3.25, 2.5, 1.75, 1.0]
    assert policy.method.limits == {"beyond": 1.0}
    assert json.loads((tmp_path / "run" / "artefacts" / "limits.json").read_text()) == {"train/beyond": 1.0}
    assert rows.CAP_PETS.limits(settled(rows.CAP_PETS, cost_limit=LINE)) == {"beyond": 1.0}


def test_a_limit_may_be_a_share_of_what_an_unlimited_planner_cost(tmp_path):
    _, lines = trained(tmp_path, rows.PETS, "free")
    given = {"cost_limit": {"kind": "calibrated", "run": "run://free", "share": 0.25, "last": 0.4}}
    config = settled(rows.CCE_PETS, **given)
    rows.CCE_PETS.check(config, tmp_path)
    policy, _ = trained(tmp_path, rows.CCE_PETS, **given)
    cost = np.mean([line["train/beyond"] for line in lines if line["step"] > 0.6 * 144])
    assert policy.method.limits == {"beyond": pytest.approx(0.25 * cost)}
    with pytest.raises(ConfigError, match="Give the limit as a number here"):
        rows.CCE_PETS.limits(config)


HELD = {"repeat": 5, "steps_per_epoch": 28, "total_steps": 168, "warm_up": 120}  # its third epoch ends in a held action


@pytest.mark.parametrize(("name", "more"), [("cce", {}), ("cap", {}), ("safe-loop", {}), ("moving", {}), ("cce", HELD)])
def test_a_killed_and_resumed_run_leaves_the_same_bits(name, more, tmp_path):
    row, given = ROWS[name]
    given = {"total_steps": 192, **given, **more}
    whole, _ = trained(tmp_path, row, "whole", **given)
    config = settled(row, **given)
    with make_run(tmp_path, config, "broken") as run:
        first = Trainer(config, run, {})
        first.seen.restore(None)
        first.stepping.reset()
        for _ in range(3):
            first.one_epoch()
        run.save(first.total_steps, first.state_dict())
        first.one_epoch()  # lost
    with Run.reopen(run.folder) as again:
        resumed = row.train(config, again, {})
    same_bits(whole, resumed, tmp_path)


def same_bits(whole, resumed, root):
    """Of the run `whole`, and of `broken`, which was resumed."""
    for (key, one), other in zip(
        whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), key
    first_lines = (root / "whole" / "metrics.jsonl").read_text().splitlines()
    then_lines = (root / "broken" / "metrics.jsonl").read_text().splitlines()
    for one, other in zip(first_lines, then_lines, strict=True):
        a, b = ({k: v for k, v in json.loads(line).items() if not k.startswith("time")} for line in (one, other))
        assert a == b


@pytest.mark.parametrize("name", ["cce", "cap", "safe-loop", "moving"])
def test_a_stop_within_an_epoch_is_answered_there_and_nothing_is_lost(name, tmp_path, monkeypatch):
    row, given = ROWS[name]
    given = {"total_steps": 192, **given}
    whole, _ = trained(tmp_path, row, "whole", **given)
    config = settled(row, **given)
    monkeypatch.setattr("trueline.rl.planning.training.PART", 5)  # how often it comes back changes nothing
    act, acts = Trainer._act, 0

    def counted(self, epoch):
        nonlocal acts
        acts += 1
        if acts == 3 * config.env_steps + 7:
            signal.raise_signal(signal.SIGTERM)
        act(self, epoch)

    monkeypatch.setattr(Trainer, "_act", counted)
    with pytest.raises(Stopped), make_run(tmp_path, config, "broken") as run, run.interruptible():
        row.train(config, run, {})
    assert acts == 3 * config.env_steps + 7
    with Run.reopen(run.folder) as again:
        resumed = row.train(config, again, {})
    assert acts == config.total_steps // config.num_envs
    same_bits(whole, resumed, tmp_path)


def test_a_warm_start_plans_from_the_first_step_on(tmp_path):
    parent, _ = trained(tmp_path, rows.CAP_PETS, "first", cost_limit=0.0)
    parent.caution = torch.tensor([0.4], dtype=torch.float64)
    config = settled(rows.CAP_PETS, cost_limit=0.0)
    with make_run(tmp_path, config, "second") as run:
        second = Trainer(config, run, {"policy": parent})
        assert torch.equal(second.handler_state["multiplier"], parent.caution)
        second.seen.restore(None)
        second.stepping.reset()
        second.one_epoch()
    assert not second.stepping.random.any()
    with make_run(tmp_path, settled(rows.PETS), "third") as run, pytest.raises(ConfigError, match="other networks"):
        Trainer(settled(rows.PETS), run, {"policy": parent})


# --- the policy ---


def test_a_loaded_policy_acts_as_the_saved_one(tmp_path):
    for name in ("cap", "safe-loop", "rce"):
        row, given = ROWS[name]
        policy, _ = trained(tmp_path, row, name, **given)
        policy.save(tmp_path / f"{name}-saved")
        again = load(tmp_path / f"{name}-saved")
        assert isinstance(again, Acts)
        found = [
            run_episodes(Line(3), np.arange(3), lambda _, p=p: policy_actions(p, np.random.default_rng(5)))
            for p in (policy, again)
        ]
        # In training the critics' numbers lie in one flat tensor, where products may round another way.
        np.testing.assert_allclose(found[0].episode_return, found[1].episode_return, rtol=1e-5 if "loop" in name else 0)
        assert again.method == policy.method
        assert list(again.method.limits) == list(policy.method.limits)
        files = {path.suffix for path in (tmp_path / f"{name}-saved").iterdir()}
        assert files == {".json", ".safetensors"}


def test_what_is_damaged_is_named(tmp_path):
    policy, _ = trained(tmp_path, rows.PETS)
    with pytest.raises(RunError, match=r"policy\.json is missing"):
        load(tmp_path / "nowhere")
    policy.save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "policy.json").read_text())
    record["method"]["model"]["hidden"] = [9]
    (tmp_path / "saved" / "policy.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="damaged or of another version"):
        load(tmp_path / "saved")


def test_an_actor_reckons_what_the_episode_has_cost():
    """Known signals: after the two steps beyond 0.45 the memory says 2, and the world's account agrees."""
    policy, world = planning(3), Line(2)
    obs, memory, rng = world.reset(), None, np.random.default_rng(0)
    cost = np.zeros(2)
    for t in range(STEPS):
        action, memory = policy.act(obs, memory, rng)
        np.testing.assert_allclose(memory.spent[:, 0].numpy(), cost, err_msg=str(t))
        step = world.step(action)
        obs, cost = step.obs, cost + step.cost[:, 0]
    assert cost.max() > 0.0


def test_an_action_is_held_and_a_plan_is_made_only_when_it_ends():
    policy = planning(None, repeat=3)
    made = []
    real = policy.plan
    policy.plan = lambda *given: made.append(len(given[0])) or real(*given)
    obs, memory, rng, actions = np.zeros((2, 1), np.float32), None, np.random.default_rng(0), []
    for _ in range(7):
        action, memory = policy.act(obs, memory, rng)
        actions.append(action.copy())
    assert made == [2, 2, 2]
    assert np.array_equal(actions[0], actions[2])
    assert not np.array_equal(actions[2], actions[3])


def test_acting_leaves_the_memory_it_was_given_as_it_was():
    policy = planning(3)
    obs = np.zeros((2, 1), np.float32)
    _, memory = policy.act(obs, None, np.random.default_rng(0))
    kept = memory.copy()
    policy.act(obs, memory, np.random.default_rng(1))
    for name, value in kept.state_dict().items():
        assert torch.equal(value, getattr(memory, name)), name


def test_deterministic_actions_are_a_function_of_what_is_observed_and_remembered():
    policy, obs = planning(3), np.full((2, 1), 0.2, np.float32)
    one, other = (policy.act(obs, None, np.random.default_rng(seed), True)[0] for seed in (0, 1))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, policy.act(obs, None, np.random.default_rng(0))[0])


def test_what_a_plan_may_cost():
    """d = 6 over T = 12 with H = 4 decisions: of what is left, the plan's part of the time that is left."""
    spent, left = torch.tensor([[0.0], [2.0], [2.0], [9.0]]), torch.tensor([12, 8, 3, 6])
    rest = planning(6).method.allowed(spent, left)
    torch.testing.assert_close(rest, torch.tensor([[2.0], [2.0], [4.0], [0.0]]))
    rate = planning(6, budget="rate").method.allowed(spent, left)
    torch.testing.assert_close(rate, torch.full((4, 1), 2.0))
    held = planning(6, repeat=2).method.allowed(spent, left)
    torch.testing.assert_close(held, torch.tensor([[4.0], [4.0], [4.0], [0.0]]))


def test_a_new_episode_begins_without_a_plan():
    method = planning(2).method
    memory = Memory.start(method, 2, 1, 1)
    for name in ("mean", "spent"):
        getattr(memory, name).fill_(3.0)
    memory.wait.fill_(2)
    memory.begin(torch.tensor([1]), STEPS)
    assert memory.mean[:, 0, 0].tolist() == [3.0, 0.0]
    assert memory.spent[:, 0].tolist() == [3.0, 0.0]
    assert memory.wait.tolist() == [2, 0]
    assert memory.left.tolist() == [STEPS, STEPS]


def test_a_policy_is_a_subject(tmp_path, monkeypatch):
    policy, _ = trained(tmp_path, rows.CCE_PETS, cost_limit=1.0)
    known = {entry.name for entry in registry.entries("subject")}
    if policy.kind not in known:
        registry.add(Entry("subject", policy.kind, "trueline.rl.planning.policy:load", "for tests"), "tests")
    with make_run(tmp_path, settled(rows.CCE_PETS), "kept") as run:
        again = load_subject(save_subject(policy, run.folder))
    assert isinstance(again, PlanningPolicy)
    assert again.costs == ("beyond",)
    assert len(again.layouts_met) == len(policy.layouts_met) > 0


# --- what is refused ---


@pytest.mark.parametrize(
    ("row", "wrong", "said"),
    [
        (rows.PETS, {"planner": {**TINY["planner"], "particles": 5}}, "cannot share evenly"),
        (rows.PETS, {"warm_up": 12}, "Give at least 24"),
        (rows.PETS, {"capacity": 5}, "Give at least 24"),
        (rows.PETS, {"steps_per_epoch": 3}, "at least one step"),
        (rows.PETS, {"planner": VALUED["planner"]}, "give a 'cem'"),
        (rows.PETS, {"cost_limit": 1.0}, "cost_limit"),
        (rows.CCE_PETS, {"across": "median"}, "across"),
        (rows.CAP_PETS, {"caution": {"kind": "barrier"}}, "caution"),
    ],
)
def test_settings_that_do_not_fit_are_refused(row, wrong, said):
    with pytest.raises(ConfigError, match=said):
        settled(row, **wrong)


@pytest.mark.parametrize(
    ("row", "wrong", "said"),
    [
        (rows.PETS, {"env": "Planning-Bandit-v0"}, "planner draws from normals"),
        (rows.RCE_PETS, {"env": "Planning-Silent-v0", "signals": "known"}, "does not tell its reward and costs"),
        (rows.CCE_PETS, {"cost_limit": (1.0, 2.0)}, "2 values"),
        (rows.CCE_PETS, {"cost_limit": -1.0}, "limit of 0 or more"),
        (rows.PETS, {"warm_up": 9_000}, "all of it within warm_up = 9,000, before which nothing is learnt"),
    ],
)
def test_worlds_that_do_not_fit_are_refused_before_a_run_exists(row, wrong, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        row.check(settled(row, **wrong), tmp_path)


def test_a_worlds_number_that_is_none_is_named(tmp_path):
    with pytest.raises(BadWorld, match="reward"):
        trained(tmp_path, rows.PETS, env="Planning-Spoilt-v0")


def test_limits_are_told_by_cost():
    config = settled(rows.CCE_PETS, env="Planning-Silent-v0", cost_limit=(1.0, 2.0))
    assert rows.CCE_PETS.limits(config) == {"right": 1.0, "off_axis": 2.0}
    assert rows.PETS.limits(settled(rows.PETS)) == {}


def test_rows_are_what_their_names_say():
    made = {name: build(row.Config, {}) for name, (row, _) in ROWS.items()}
    assert isinstance(made["pets"].planner, Cem)
    assert isinstance(made["loop"].planner, Arc)
    assert isinstance(made["safe-loop"].planner, Arc)
    assert [made[name].across for name in ("cce", "rce", "cap", "safe-loop")] == ["mean", "worst", "mean", "worst"]
    assert (made["cap"].caution.rule, made["cap"].caution.lr, made["cap"].caution.upper) == ("sgd", 0.1, 1.0)
    assert made["loop"].gamma == made["safe-loop"].gamma == 0.99
