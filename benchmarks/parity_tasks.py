"""What safety-gymnasium 1.0.0 does on Button, Push, Circle and Run, written down as golden values for our tests.

    $PEER_PYTHON benchmarks/parity_tasks.py tests/safety/golden/tasks.json

Run by the peer's interpreter (see _peers.py). Layouts, draws within an episode and second episodes involve no physics:
a goal counts as reached when we say so. First steps do, so they are written to ten digits: they hold for one version of
MuJoCo, and to rounding for others.
Actions are in the peer's own units (Racecar: ±20 and ±0.785). Floats are written so that they read back bit for bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import struct
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import _peers as peers
import numpy as np

TASKS = tuple(f"{task}{level}" for task in ("Button", "Push", "Circle") for level in (0, 1, 2)) + ("Run0",)
AGENTS = ("Point", "Car", "Doggo", "Racecar", "Ant")
SEEDS = 3  # whose first steps are written out
STEPS = 4
LONG = 200  # steps that rewards and costs are summed over
DRAWN = (
    "SafetyPointButton1-v0",
    "SafetyPointPush2-v0",
    "SafetyCarPush1-v0",
    "SafetyPointCircle2-v0",
    "SafetyPointButton2-v0",
)
DRAWN_SEEDS = 100
IN_FULL = 4  # seeds whose draws are written out; of the others only a digest
WAITS = (3, 1, 17)  # steps before each goal that we let be reached
IDLE = 5  # steps after the last, before the next episode


def layout_of(task) -> dict[str, object]:
    """Places of everything in the order drawn, rotations of what can turn, and where the goal is now."""
    config, places = task.world_info.world_config_dict, task.world_info.layout
    out = {
        "places": {name: np.asarray(xy).tolist() for name, xy in places.items() if name != "goal"},
        "agent_rot": float(config["agent_rot"]),
        "rots": {name: float(thing["rot"]) for name, thing in config["free_geoms"].items()},
    }
    if hasattr(task, "goal"):
        out["goal"] = task.data.body("goal").xpos[:2].tolist()
    if hasattr(task, "buttons"):
        out["goal_button"] = int(task.buttons.goal_button)
    return out


def numbers(value) -> Iterator[float]:
    """Every number in nested lists and dicts, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    else:
        yield float(value)


def digest(value) -> str:
    every = list(numbers(value))
    return hashlib.sha256(struct.pack(f"<{len(every)}d", *every)).hexdigest()[:16]


@contextlib.contextmanager
def reached(task) -> Iterator[None]:
    """Let the task take its goal for reached, wherever things are."""
    with mock.patch.object(type(task), "goal_achieved", new_callable=mock.PropertyMock, return_value=True):
        yield


def draws(env, seed: int) -> dict[str, object]:
    """A layout, the goals drawn after WAITS, and the layout of the episode after."""
    task, still, goals = env.unwrapped.task, np.zeros(env.action_space.shape), []
    env.reset(seed=seed)
    first = layout_of(task)
    if "goal" in first:
        for wait in WAITS:
            for _ in range(wait - 1):
                env.step(still)
            with reached(task):
                assert env.step(still)[-1]["goal_met"]
            goals.append(int(task.buttons.goal_button) if "goal_button" in first else layout_of(task)["goal"])
    for _ in range(IDLE):
        env.step(still)
    env.reset()
    return {"first": first, "goals": goals, "next": layout_of(task)}


def drawn(gym, id: str) -> dict[str, object]:
    env = gym.make(id)
    every = [draws(env, seed) for seed in range(DRAWN_SEEDS)]
    return {"full": every[:IN_FULL], "digests": [digest(one) for one in every]}


def shortened(value):
    """The same nested lists and dicts, floats to ten significant digits."""
    if isinstance(value, dict):
        return {name: shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return float(f"{value:.10g}")


def first_steps(env, seed: int) -> dict[str, object]:
    obs, _ = env.reset(seed=seed)
    task = env.unwrapped.task
    action = np.resize([0.5, 0.3], env.action_space.shape)
    out = {"seed": seed, "layout": layout_of(task), "qpos": task.data.qpos.tolist()}
    out |= {"reset": shortened(obs.tolist()), "steps": []}
    for _ in range(STEPS):
        obs, reward, cost, _, _, info = env.step(action)
        costs = {name: value for name, value in info.items() if name.startswith("cost_")}
        out["steps"].append(shortened({"reward": float(reward), "cost": float(cost), "costs": costs}))
    out["last"] = shortened(obs.tolist())
    return out


def long_run(env) -> dict[str, object]:
    """Sums over one run from seed 0; other versions of MuJoCo part from it after a while."""
    env.reset(seed=0)
    action = np.resize([0.5, 0.3], env.action_space.shape)
    total, costs, goals, steps = 0.0, {}, 0, 0
    while steps < LONG:
        steps += 1
        _, reward, _, terminated, _, info = env.step(action)
        total += float(reward)
        goals += int(info.get("goal_met", False))
        for name, value in info.items():
            if name.startswith("cost_"):
                costs[name] = costs.get(name, 0.0) + value
        if terminated:
            break
    at = env.unwrapped.task.agent.pos.tolist()
    return {"steps": steps, "reward": total, "costs": costs, "goals": goals, "agent": at}


def timer(gym) -> dict[str, object]:
    """When buttons are seen, and when pressing a wrong one costs, around a press in step 4."""
    env = gym.make("SafetyPointButton1-v0")
    obs, _ = env.reset(seed=0)
    task, still = env.unwrapped.task, np.zeros(2)
    seen, costs = [bool(obs[12:28].any())], []
    for step in range(1, 18):
        with reached(task) if step == 4 else contextlib.nullcontext():
            obs, _, _, _, _, info = env.step(still)
        seen.append(bool(obs[12:28].any()))
        costs.append("cost_buttons" in info)
    return {"pressed_in_step": 4, "seen_after_step": seen, "costs_in_step": costs}


def main(path: Path) -> None:
    gym = peers.safety_gymnasium()
    with peers.without_textures():
        golden = {
            "made_by": "benchmarks/parity_tasks.py",
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("safety-gymnasium", "mujoco", "numpy", "gymnasium")},
            },
            "note": "textures taken out of the peer's models before compiling them; they are not part of the physics",
            "waits": list(WAITS),
            "idle": IDLE,
            "draws": {id: drawn(gym, id) for id in DRAWN},
            "timer": timer(gym),
            "first_steps": {},
            "long": {},
        }
        for agent in AGENTS:
            for task in TASKS:
                id = f"Safety{agent}{task}-v0"
                env = gym.make(id)
                golden["first_steps"][id] = [first_steps(env, seed) for seed in range(SEEDS)]
                golden["long"][id] = long_run(env)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
