"""What only the repository of Safety-Gymnasium has, written down as golden values for our tests.

    $PEER_PYTHON benchmarks/parity_head.py CHECKOUT tests/safety/golden

Run by the peer's interpreter (see _peers.py), which lends its libraries; CHECKOUT is a working copy of
github.com/PKU-Alignment/safety-gymnasium at the commit below. Writes multi_goal.json (MultiGoal: layouts, goals drawn
in an episode, first steps, who pays for what) and courses.json (layouts of Race, Building, FormulaOne and FadingHard).

Every episode is a fresh environment's first. Actions are meant for the body of the agent that they are given to: the
peer passes the second number for agent_0 to agent_1 and the first for agent_1 to agent_0, since reading its model sorts
actuators by kind, and `acted` puts that right.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import struct
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import _peers as peers
import numpy as np

COMMIT = "ae966e511b9927f06b39c727ca5c650136a4e696"
POINT_SEEDS, ANT_SEEDS = 24, 6  # whose layouts are written out
OBSERVED, STEPS = (0, 1), 3  # seeds whose first steps are observed, and how many of them
POINTS = tuple(f"SafetyPointMultiGoal{level}-v0" for level in range(3))
ANTS = tuple(f"SafetyAntMultiGoal{level}-v0" for level in range(3))
ARRIVALS = ((0,), (1,), (), (0, 1), (1,), (0,))  # who is put on its goal before each step
ARRIVING_SEEDS = 4
MEETINGS = 12  # of each level with costs
COURSES = (
    *(f"SafetyPointRace{level}-v0" for level in range(3)),
    *("SafetyPointBuildingGoal1-v0", "SafetyPointBuildingGoal2-v0", "SafetyPointBuildingButton1-v0"),
    *("SafetyPointBuildingPush1-v0", "SafetyPointFadingHard2-v0"),
    *(f"SafetyPointFormulaOne{level}-v0" for level in range(3)),
)
COURSE_SEEDS = 5
MANY = 40  # objects, from which on only a digest of their places is written


def safety_gymnasium(checkout: Path) -> ModuleType:
    """The package of the check-out, not the installed one."""
    sys.path.insert(0, str(checkout))
    gym = peers.safety_gymnasium()
    if checkout not in Path(gym.__file__).parents:
        sys.exit(
            f"{checkout} holds no safety_gymnasium: {gym.__file__} was imported. Give a check-out of the repository."
        )
    return gym


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """Compile models without textures and without the picture of the race track, neither of which touches anything."""
    import mujoco

    original = mujoco.MjModel.from_xml_string

    def plain(xml: str, *rest: Any) -> Any:
        root = ElementTree.fromstring(xml)
        for asset in root.iter("asset"):
            for mesh in asset.findall("mesh"):
                if mesh.get("name") == "racing_track":
                    asset.remove(mesh)
        for body in root.iter("body"):
            for geom in body.findall("geom"):
                if geom.get("mesh") == "racing_track":
                    body.remove(geom)
        return original(ElementTree.tostring(root, encoding="unicode"), *rest)

    mujoco.MjModel.from_xml_string = plain
    try:
        with peers.without_textures():
            yield
    finally:
        mujoco.MjModel.from_xml_string = original


# --- MultiGoal --------------------------------------------------------------------------------------------------------


def opened(gym: ModuleType, id: str, seed: int) -> Any:
    """A fresh environment at the start of its first episode, which the peer may then refuse to play."""
    env = gym.make(id).unwrapped
    env.first = None
    with contextlib.suppress(AssertionError):  # that there is a cost at the start, when all has been drawn
        env.first, _ = env.reset(seed=seed)
    return env


def kinds(task) -> dict[str, list[str]]:
    """Names of the bodies of each kind of thing, in order."""
    out = {"goal_red": ["goal_red"], "goal_blue": ["goal_blue"]}
    for kind in ("hazards", "vases"):
        if hasattr(task, kind):
            out[kind] = [f"{kind[:-1]}{i}" for i in range(getattr(task, kind).num)]
    return out


def layout_of(env) -> dict[str, object]:
    task = env.task
    config = task.world_info.world_config_dict
    return {
        "agents": [task.agent.pos_0[:2].tolist(), task.agent.pos_1[:2].tolist()],
        "agent_rots": [float(rot) for rot in config["agent_rot"]],
        "places": {
            kind: [task.data.body(name).xpos[:2].tolist() for name in names] for kind, names in kinds(task).items()
        },
        "vase_rots": [float(vase["rot"]) for vase in config["free_geoms"].values()],
        "angles": task.data.qpos[7:15].tolist() if env.task.agent_name == "Ant" else [],
    }


def acted(env, actions: np.ndarray) -> Any:
    """A step in which the actions [2, A] reach the bodies of their agents."""
    task = env.task
    width = actions.shape[1]
    ctrl = np.empty(2 * width)
    of_second = [bool(task.model.body(body_of(task.model, i)).name.endswith("1")) for i in range(2 * width)]
    for k in (0, 1):
        ctrl[[i for i, second in enumerate(of_second) if second == bool(k)]] = actions[k]
    return env.step({"agent_0": ctrl[:width], "agent_1": ctrl[width:]})


def body_of(model, actuator: int) -> int:
    """The root body of the agent that an actuator drives."""
    target, at_site = int(model.actuator(actuator).trnid[0]), int(model.actuator(actuator).trntype[0]) == 4
    return int(model.body_rootid[model.site_bodyid[target] if at_site else model.jnt_bodyid[target]])


def first_steps(gym, id: str, seed: int) -> dict[str, object]:
    env = opened(gym, id, seed)
    out = {"seed": seed, "reset": env.first["agent_0"].tolist(), "steps": []}
    actions = np.resize([0.5, 0.3, -0.2, 0.4, 0.1], (2, env.action_space("agent_0").shape[0]))
    out["actions"] = actions.tolist()
    for _ in range(STEPS):
        obs, rewards, costs, _, _, _ = acted(env, actions)
        assert np.array_equal(obs["agent_0"], obs["agent_1"])
        row = {"obs": obs["agent_0"].tolist(), "reward": list(rewards.values()), "cost": list(costs.values())}
        out["steps"].append({name: [float(f"{x:.10g}") for x in values] for name, values in row.items()})
    return out


def put(task, agent: int, xy: np.ndarray, yaw: float | None = None) -> None:
    """Move a Point to xy, turned as it is or to a yaw, at rest."""
    import mujoco

    suffix = "1" if agent else ""
    data = task.data
    first = float(task.world_info.world_config_dict["agent_rot"][agent])  # its slides are turned by as much
    c, s = np.cos(first), np.sin(first)
    away = np.asarray(xy) - data.body("agent" + suffix).xpos[:2]
    data.joint("x" + suffix).qpos += c * away[0] + s * away[1]
    data.joint("y" + suffix).qpos += -s * away[0] + c * away[1]
    if yaw is not None:
        data.joint("z" + suffix).qpos = yaw - first
    for joint in "xyz":
        data.joint(joint + suffix).qvel = 0.0
    mujoco.mj_forward(task.model, data)


def arrivals(gym, id: str, seed: int) -> dict[str, object]:
    """Where both goals are after each step, when agents are put on theirs; nobody acts."""
    env = opened(gym, id, seed)
    task, goals = env.task, []
    for who in ARRIVALS:
        for agent in who:
            put(task, agent, task.data.body(("goal_red", "goal_blue")[agent]).xpos[:2])
        *_, info = acted(env, np.zeros((2, 2)))
        assert bool(info["agent_0"].get("goal_met", False)) == bool(who)
        goals.append([task.data.body(name).xpos[:2].tolist() for name in ("goal_red", "goal_blue")])
    return {"seed": seed, "who": [list(who) for who in ARRIVALS], "goals": goals}


def meeting(gym, id: str, seed: int) -> dict[str, object]:
    """Who pays for what, when an agent is put at a hazard, a vase or the other agent, and drives on."""
    random = np.random.RandomState(seed)
    env = opened(gym, id, seed)
    task, who = env.task, seed % 2
    what = ("hazards", "vases", "other")[seed % 3]
    suffix = "" if who else "1"
    name = f"{what[:-1]}{random.randint(getattr(task, what).num)}" if what != "other" else f"agent{suffix}"
    target, side = task.data.body(name).xpos[:2].copy(), random.uniform(0, 2 * np.pi)
    gap = {"hazards": 0.1, "vases": 0.28, "other": 0.3}[what]
    xy = target + gap * np.array([np.cos(side), np.sin(side)])
    yaw = side + np.pi + 0.05  # straight ahead the peer's lidar may round an angle up to a full turn, and fail
    put(task, who, xy, yaw)
    actions = np.zeros((2, 2))
    actions[who, 0] = 1.0
    costs = []
    for _ in range(12):
        _, _, _, _, _, info = acted(env, actions)
        paid = [info["agent_0"][agent] for agent in env.agents]
        costs.append([{name: cost for name, cost in own.items() if cost} for own in paid])
    return {"seed": seed, "who": who, "xy": xy.tolist(), "yaw": yaw, "costs": costs}


def multi_goal(gym: ModuleType) -> dict[str, object]:
    seeds = {**dict.fromkeys(POINTS, POINT_SEEDS), **dict.fromkeys(ANTS, ANT_SEEDS)}
    return {
        "layouts": {id: [layout_of(opened(gym, id, seed)) for seed in range(n)] for id, n in seeds.items()},
        "first_steps": {
            id: [first_steps(gym, id, seed) for seed in (OBSERVED if id in POINTS else OBSERVED[:1])] for id in seeds
        },
        "arrivals": {id: [arrivals(gym, id, seed) for seed in range(ARRIVING_SEEDS)] for id in POINTS},
        "meetings": {id: [meeting(gym, id, seed) for seed in range(MEETINGS)] for id in POINTS[1:]},
    }


# --- courses ----------------------------------------------------------------------------------------------------------


def course(gym: ModuleType, id: str) -> list[dict[str, object]]:
    """Layouts of the first episodes of fresh environments; of many objects a digest of places in the order drawn."""
    rows = []
    for seed in range(COURSE_SEEDS):
        task = gym.make(id).unwrapped
        task.reset(seed=seed)
        task = task.task
        config = task.world_info.world_config_dict
        goal = "staged_goal" if hasattr(task, "staged_goal") else "goal"
        places = {name: np.asarray(xy).tolist() for name, xy in task.world_info.layout.items() if name != goal}
        row = {
            "agent": places.pop("agent"),
            "agent_rot": float(config["agent_rot"]),
            "goal": task.data.body(goal).xpos[:2].tolist(),
            "rots": [float(thing["rot"]) for thing in config["free_geoms"].values()],
            "places": places,
        }
        if len(places) >= MANY:
            every = [x for xy in places.values() for x in xy] + row.pop("rots")
            row["places"] = hashlib.sha256(struct.pack(f"<{len(every)}d", *every)).hexdigest()[:16]
        if hasattr(task, "buttons"):
            row["chosen"] = int(task.buttons.goal_button)
        rows.append(row)
    return rows


def main(checkout: Path, folder: Path) -> None:
    gym = safety_gymnasium(checkout.resolve())
    made = {
        "made_by": "benchmarks/parity_head.py",
        "commit": COMMIT,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("mujoco", "numpy", "gymnasium")},
        },
    }
    with without_pictures():
        golden = {
            "multi_goal.json": multi_goal(gym),
            "courses.json": {"layouts": {id: course(gym, id) for id in COURSES}},
        }
    for name, values in golden.items():
        (folder / name).write_text(json.dumps(made | values, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
