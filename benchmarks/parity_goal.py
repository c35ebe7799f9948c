"""What safety-gymnasium 1.0.0 does on the Goal worlds, written down as golden values for our tests.

    $PEER_PYTHON benchmarks/parity_goal.py tests/safety/golden/goal.json

Run by the peer's interpreter (see _peers.py). Layouts, goals drawn again within an episode and second episodes involve
no physics: goals are moved onto a resting agent. Lidar and costs are taken at given states, not along trajectories.
Floats are written so that they read back bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import platform
import struct
import sys
from importlib.metadata import version
from pathlib import Path

import _peers as peers
import numpy as np

SEEDS = 100
IN_FULL = 10  # seeds whose layouts are written out; of the others only a digest
STATES = 10


def layout_of(task) -> dict[str, object]:
    world, places = task.world_info.world_config_dict, task.world_info.layout
    hazards = [k for k in places if k.startswith("hazard")]
    vases = [k for k in places if k.startswith("vase")]
    return {
        "agent": places["agent"].tolist(),
        "agent_rot": float(world["agent_rot"]),
        "goal": places["goal"].tolist(),
        "hazards": [places[k].tolist() for k in hazards],
        "vases": [places[k].tolist() for k in vases],
        "vases_rot": [float(world["free_geoms"][k]["rot"]) for k in vases],
    }


def digest(layout: dict[str, object]) -> str:
    numbers = np.concatenate([np.ravel(layout[k]) for k in layout]).tolist()
    return hashlib.sha256(struct.pack(f"<{len(numbers)}d", *numbers)).hexdigest()[:16]


def layouts(gym, id: str) -> dict[str, object]:
    env = gym.make(id)
    task = env.unwrapped.task
    full, digests = [], []
    for seed in range(SEEDS):
        env.reset(seed=seed)
        layout = layout_of(task)
        digests.append(digest(layout))
        if seed < IN_FULL:
            full.append(layout)
    return {"full": full, "digests": digests}


def episodes(gym, id: str, seed: int, waits: tuple[int, ...], idle: int) -> dict[str, object]:
    """Goals drawn after `waits` steps each, then `idle` more steps, then the layout of the next episode."""
    env = gym.make(id)
    env.reset(seed=seed)
    task, still, goals = env.unwrapped.task, np.zeros(2), []
    for wait in waits:
        for _ in range(wait - 1):
            assert "goal_met" not in env.step(still)[-1]
        task._set_goal(task.agent.pos[:2])
        assert env.step(still)[-1]["goal_met"]
        goals.append(task.world_info.layout["goal"].tolist())
    for _ in range(idle):
        env.step(still)
    env.reset()
    return {"seed": seed, "waits": list(waits), "goals": goals, "idle": idle, "next": layout_of(task)}


def pose(task, random, rot0: float, xy0, planar: bool, far: float) -> None:
    """Put the agent somewhere at random, tilted where it can tilt."""
    x, y, yaw = random.uniform(-far, far), random.uniform(-far, far), random.uniform(-np.pi, np.pi)
    if planar:  # joints are relative to where the compiled body stands
        dx, dy = x - xy0[0], y - xy0[1]
        c, s = np.cos(rot0), np.sin(rot0)
        task.data.qpos[:3] = c * dx + s * dy, -s * dx + c * dy, yaw - rot0
        return
    quat = np.array([np.cos(yaw / 2), *random.normal(scale=0.05, size=2), np.sin(yaw / 2)])
    task.data.qpos[:3] = x, y, 0.1 + random.uniform(0.0, 0.02)
    task.data.qpos[3:7] = quat / np.linalg.norm(quat)


def states(gym, id: str) -> list[dict[str, object]]:
    import mujoco

    env = gym.make(id)
    random, rows = np.random.RandomState(7), []
    planar = "Point" in id
    env.reset(seed=3)
    task = env.unwrapped.task
    start = layout_of(task)
    vases = len(start["vases"])
    own = env.observation_space.shape[0] - 16 * (3 if vases else 1 + bool(start["hazards"]))
    for k in range(STATES):
        data, model = task.data, task.model
        pose(task, random, start["agent_rot"], start["agent"], planar, far=1.5)
        data.qvel[:] = 0.0
        mujoco.mj_forward(model, data)
        agent = data.body("agent")
        task._set_goal(random.uniform(-2, 2, 2))
        for i in range(len(start["hazards"])):  # every third state has a hazard under the agent
            away = random.uniform(0.02, 0.19) if i == 0 and k % 3 == 0 else random.uniform(0.21, 4.0)
            turn = random.uniform(-np.pi, np.pi)
            model.body(f"hazard{i}").pos[:2] = agent.xpos[:2] + away * np.array([np.cos(turn), np.sin(turn)])
        for i in range(vases):
            # every second state has a vase well inside the agent; the others are well away from it and still, but one
            touching, moving = i == 0 and k % 2 == 0, i == 1 and k % 4 < 2
            away, turn = (0.1 if touching else random.uniform(0.5, 3.2)), random.uniform(-np.pi, np.pi)
            joint, yaw = data.joint(f"vase{i}"), random.uniform(-np.pi, np.pi)
            joint.qpos[:2] = agent.xpos[:2] + away * np.array([np.cos(turn), np.sin(turn)])
            joint.qpos[2:] = 0.1 - 4e-5, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
            joint.qvel[:3] = (3e-4, 1e-4, 0.0) if moving else (5e-5, 0.0, 0.0)
        mujoco.mj_forward(model, data)
        costs = {name: float(value > 0) for name, value in task.calculate_cost().items()}
        row = {
            "agent": agent.xpos.tolist(),
            "quat": agent.xquat.tolist(),
            "goal": data.body("goal").xpos[:2].tolist(),
            "hazards": [data.body(f"hazard{i}").xpos[:2].tolist() for i in range(len(start["hazards"]))],
            "vases": [data.joint(f"vase{i}").qpos.tolist() for i in range(vases)],
            "vases_velocity": [data.joint(f"vase{i}").qvel[:3].tolist() for i in range(vases)],
            "lidar": [float(x) for x in task.obs()[own:]],
            "costs": costs,
            "distance": float(task.dist_goal()),
        }
        rows.append(row)
    return rows


def first_steps(gym, id: str) -> dict[str, object]:
    env = gym.make(id)
    obs, _ = env.reset(seed=0)
    rewards = [float(env.step(np.array([0.5, 0.3]))[1]) for _ in range(4)]
    return {"observation": obs.tolist(), "rewards": rewards}


def main(path: Path) -> None:
    gym = peers.safety_gymnasium()
    every = [f"Safety{agent}Goal{level}-v0" for agent in ("Point", "Car") for level in (0, 1, 2)]
    with peers.without_textures():
        golden = {
            "made_by": "benchmarks/parity_goal.py",
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("safety-gymnasium", "mujoco", "numpy", "gymnasium")},
            },
            "note": "textures taken out of the peer's models before compiling them; they are not part of the physics",
            "layouts": {id: layouts(gym, id) for id in (*every[:3], "SafetyCarGoal1-v0")},
            "episodes": {
                id: [episodes(gym, id, seed, (3, 1, 17, 2, 40), idle=5 * seed) for seed in range(4)]
                for id in ("SafetyPointGoal0-v0", "SafetyPointGoal1-v0", "SafetyPointGoal2-v0")
            },
            "states": {id: states(gym, id) for id in every[1:]},
            "first_steps": {id: first_steps(gym, id) for id in every},
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
