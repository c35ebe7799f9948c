"""What safety-gymnasium 1.0.0 senses, pays and charges at given states of Button, Push, Circle and Run.

    $PEER_PYTHON benchmarks/parity_states.py tests/safety/golden/states.json

Run by the peer's interpreter (see _peers.py); golden values for our tests. A state is posed, not reached: where agent
and objects are, how the agent moves, which button is the goal and for how long buttons are hidden. Rewards compare a
state with the one before it in the list, so what the task remembered of that is written down too. Each cost is there in
some states and not in others, and so is a reached goal. Floats read back bit for bit.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _peers as peers
import numpy as np

AGENTS = ("Point", "Car", "Doggo", "Racecar", "Ant")
# What is to be touched (of a hazard: driven into) in each state, and the steps for which buttons are still hidden.
BUTTON = (
    ((), 0),
    (("wrong button",), 0),
    (("right button",), 0),
    (("hazards",), 0),
    (("gremlins",), 0),
    (("wrong button",), 7),
    (("hazards", "gremlins"), 0),
    (("right button", "gremlins"), 3),
    (("hazards",), 10),
)
PUSH = (
    ((), 0),
    (("hazards",), 0),
    (("pillars",), 0),
    (("box at goal",), 0),
    (("hazards", "pillars"), 0),
    (("push_box",), 0),
    (("box at goal", "pillars"), 0),
)
ANYWHERE = (((), 0),) * 8
FAR_M = {"Button": 1.5, "Push": 1.5, "Circle": 1.5, "Run": 0.9}  # half the side of the square the agent is put in
WORLDS = {
    "Button": (BUTTON, [f"{agent}Button2" for agent in AGENTS] + ["PointButton1"]),
    "Push": (PUSH, [f"{agent}Push2" for agent in AGENTS] + ["PointPush1"]),
    "Circle": (ANYWHERE, [f"{agent}Circle{level}" for agent in ("Point", "Car") for level in (1, 2)]),
    "Run": (ANYWHERE, ["PointRun0", "CarRun0"]),
}
CLEAR_M = 1.0  # nothing of any agent reaches so far
TRIES = 1000


def own_joints(model) -> list[int]:
    """Numbers of the agent's joints."""
    root = model.body("agent").id
    return [i for i in range(model.njnt) if model.body_rootid[model.jnt_bodyid[i]] == root]


def pose_agent(task, random, far: float, start: dict[str, Any]) -> dict[str, list[float]]:
    """Put the agent somewhere at random, moving and tilted where it can; its own positions and velocities.

    Of the Point both are told along the world's axes, of the others as MuJoCo has them.
    """
    import mujoco

    model, data = task.model, task.data
    x, y, yaw = random.uniform(-far, far), random.uniform(-far, far), random.uniform(-np.pi, np.pi)
    joints = own_joints(model)
    if model.jnt_type[joints[0]] != mujoco.mjtJoint.mjJNT_FREE:
        u, v, turn = random.normal(size=3)
        c, s = np.cos(start["rot"]), np.sin(start["rot"])  # its slides are turned by as much
        dx, dy = x - start["xy"][0], y - start["xy"][1]
        data.qpos[:3] = c * dx + s * dy, -s * dx + c * dy, yaw - start["rot"]
        data.qvel[:3] = c * u + s * v, -s * u + c * v, turn
        return {"qpos": [x, y, yaw], "qvel": [u, v, turn]}
    last = joints[-1]
    ball = model.jnt_type[last] == mujoco.mjtJoint.mjJNT_BALL
    nq, nv = model.jnt_qposadr[last] + (4 if ball else 1), model.jnt_dofadr[last] + (3 if ball else 1)
    for i in joints:
        q, kind = model.jnt_qposadr[i], model.jnt_type[i]
        if kind == mujoco.mjtJoint.mjJNT_FREE:
            quat = np.array([np.cos(yaw / 2), *random.normal(scale=0.05, size=2), np.sin(yaw / 2)])
            data.qpos[q : q + 3] = x, y, start["height"] + random.uniform(0.0, 0.02)
            data.qpos[q + 3 : q + 7] = quat / np.linalg.norm(quat)
        elif kind == mujoco.mjtJoint.mjJNT_BALL:
            quat = random.normal(size=4)
            data.qpos[q : q + 4] = quat / np.linalg.norm(quat)
        else:
            low, high = model.jnt_range[i] if model.jnt_limited[i] else (-np.inf, np.inf)
            data.qpos[q] = np.clip(start["qpos"][q] + random.uniform(-0.2, 0.2), low, high)
    data.qvel[:nv] = random.normal(size=nv)
    return {"qpos": data.qpos[:nq].tolist(), "qvel": data.qvel[:nv].tolist()}


def kinds(task) -> dict[str, list[str]]:
    """Names of the objects of each kind, in order; goals and lines have places of their own."""
    out = {
        kind: getattr(task, kind).num for kind in ("buttons", "hazards", "pillars", "gremlins") if hasattr(task, kind)
    }
    named = {kind: [f"{kind[:-1]}{i}" for i in range(n)] for kind, n in out.items()}
    return named | ({"push_box": ["push_box"]} if hasattr(task, "push_box") else {})


def put(task, name: str, xy: np.ndarray, random) -> None:
    """An object at xy; what can move is turned, and lifted as a gremlin is by what pulls it."""
    if name.startswith(("gremlin", "push_box")):
        joint = task.data.joint(f"{name}obj" if name.startswith("gremlin") else name)
        half, yaw = (
            random.uniform(0.1, 0.17) if name.startswith("gremlin") else task.push_box.size,
            random.uniform(-3, 3),
        )
        joint.qpos[:] = *xy, half, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
        joint.qvel[:] = 0.0
    else:
        task.model.body(name).pos[:2] = xy


def touching(task, name: str) -> bool:
    model, data = task.model, task.data
    body = f"{name}obj" if name.startswith("gremlin") else name
    pairs = [{model.geom(c.geom1).name, model.geom(c.geom2).name} for c in data.contact[: data.ncon]]
    own = set(task.agent.body_info.geom_names)
    geoms = {model.geom(g).name for g in range(model.ngeom) if model.geom_bodyid[g] == model.body(body).id}
    return any(pair & own and pair & geoms for pair in pairs)


def beside(task, random, low: float, high: float) -> np.ndarray:
    away, turn = random.uniform(low, high), random.uniform(-np.pi, np.pi)
    return task.data.body("agent").xpos[:2] + away * np.array([np.cos(turn), np.sin(turn)])


def arrange(task, random, wanted: tuple[str, ...]) -> None:
    """Put every object clear of the agent, then one of each kind in `wanted` where the agent touches it."""
    import mujoco

    named = kinds(task)
    for names in named.values():
        for name in names:
            put(task, name, beside(task, random, CLEAR_M, 4.0), random)
    if hasattr(task, "push_box"):
        away, turn = (
            random.uniform(0.0, 0.2) if "box at goal" in wanted else random.uniform(0.5, 3.0),
            random.uniform(-3, 3),
        )
        task._set_goal(task.data.joint("push_box").qpos[:2] + away * np.array([np.cos(turn), np.sin(turn)]))
    mujoco.mj_forward(task.model, task.data)
    for what in wanted:
        if what == "box at goal":
            continue
        if what.endswith("button"):
            goal = task.buttons.goal_button
            name = f"button{goal if what.startswith('right') else (goal + random.randint(1, 4)) % 4}"
        else:
            name = named[what][random.randint(len(named[what]))]
        for _ in range(TRIES):
            put(task, name, beside(task, random, 0.0, task.hazards.size if what == "hazards" else 0.5), random)
            mujoco.mj_forward(task.model, task.data)
            if what == "hazards" or touching(task, name):
                break
        else:
            raise AssertionError(f"the agent cannot touch {name}")


def remembered(task) -> list[float]:
    """What the next reward will compare with."""
    if hasattr(task, "last_box_goal"):
        return [float(task.last_dist_box), float(task.last_box_goal)]
    if hasattr(task, "last_dist_goal"):
        return [float(task.last_dist_goal)]
    return [float(np.ravel(-task.old_potential / task.reward_factor)[0])] if hasattr(task, "old_potential") else []


def places(task) -> dict[str, list[list[float]]]:
    """Centres of what stands and lies, poses of what can move; the goal's centre last."""
    out = {}
    for kind, names in kinds(task).items():
        if kind in ("gremlins", "push_box"):
            suffix = "obj" if kind == "gremlins" else ""
            out[kind] = [task.data.joint(name + suffix).qpos.tolist() for name in names]
        else:
            out[kind] = [task.data.body(name).xpos[:2].tolist() for name in names]
    return out | ({"goal": [task.data.body("goal").xpos[:2].tolist()]} if hasattr(task, "goal") else {})


def states(gym, id: str, scenes: tuple[tuple[tuple[str, ...], int], ...], far: float) -> list[dict[str, Any]]:
    import mujoco

    env = gym.make(id)
    env.reset(seed=3)
    builder = env.unwrapped
    task, random, rows = builder.task, np.random.RandomState(17), []
    start = {
        "xy": np.array(task.world_info.layout["agent"]),
        "rot": float(task.world_info.world_config_dict["agent_rot"]),
        "height": float(task.data.qpos[2]),
        "qpos": task.data.qpos.copy(),
    }
    for wanted, hidden in scenes:
        row: dict[str, Any] = pose_agent(task, random, far, start)
        if hasattr(task, "buttons"):
            task.buttons.goal_button, task.buttons.timer = int(random.randint(4)), hidden
            row |= {"goal_button": task.buttons.goal_button, "timer": hidden}
        mujoco.mj_forward(task.model, task.data)
        arrange(task, random, wanted)
        if hasattr(task, "buttons"):
            task._set_goal(task.buttons.pos[task.buttons.goal_button][:2])
        mujoco.mj_forward(task.model, task.data)
        row |= {"before": remembered(task), "reward": float(np.ravel(builder._reward())[0])}
        row |= {"now": remembered(task), "met": bool(task.goal_achieved), "costs": builder._cost()}
        due = any(what in ("right button", "box at goal") for what in wanted)
        assert row["met"] == due, f"{id}: {wanted} was asked for, and met is {row['met']}"
        row |= {"agent": task.data.body("agent").xpos.tolist(), "places": places(task), "obs": task.obs().tolist()}
        rows.append(row)
    _each_occurs(id, rows)
    return rows


def _each_occurs(id: str, rows: list[dict[str, Any]]) -> None:
    for name in {name for row in rows for name in row["costs"]}:
        seen = {row["costs"][name] for row in rows if name in row["costs"]}
        assert seen == {0.0, 1.0}, f"{name} of {id} is {seen} in all states: choose others"


def main(path: Path) -> None:
    gym = peers.safety_gymnasium()
    with peers.without_textures():
        found = {
            f"Safety{name}-v0": states(gym, f"Safety{name}-v0", scenes, FAR_M[task])
            for task, (scenes, names) in WORLDS.items()
            for name in names
        }
    golden = {
        "made_by": "benchmarks/parity_states.py",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("safety-gymnasium", "mujoco", "numpy", "gymnasium")},
        },
        "note": "textures taken out of the peer's models before compiling them; they are not part of the physics",
        "states": found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
