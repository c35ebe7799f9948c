"""What safety-gymnasium 1.0.0 sees, written down as golden values for our tests: its pictures and its other lidars.

    MUJOCO_GL=egl $PEER_PYTHON benchmarks/parity_sight.py tests/safety/golden/sight.json

Run by the peer's interpreter (see _peers.py). Pictures are tiny, of the starts of episodes and without lidar markers;
depth is written as its inverse, which is what the peer's buffer holds evenly. Lidars are taken at given states.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import _peers as peers
import numpy as np

PIXELS = 16
STATES = 5
EYES = {
    "SafetyPointGoal1-v0": ("fixednear", "fixedfar", "track", "vision"),
    "SafetyCarPush2-v0": ("fixednear", "fixedfar", "track"),  # the repository's Car has its eye elsewhere
}
KINDS = {
    "SafetyCarPush2-v0": ("hazards", "pillars", "push_box"),
    "SafetyCarGoal2-v0": ("hazards", "vases"),
    "SafetyPointButton1-v0": ("buttons", "hazards"),
}


def pictures(gym, id: str) -> dict[str, object]:
    env = gym.make(id, render_mode="rgb_array", camera_name="track")
    env.reset(seed=0)
    task = env.unwrapped.task
    task.render_conf.lidar_markers = False
    near, far = (task.model.stat.extent * clip for clip in (task.model.vis.map.znear, task.model.vis.map.zfar))
    out = {}
    for camera in EYES[id]:
        buffer = task.render(PIXELS, PIXELS, "depth_array", camera_name=camera, cost={}).astype(float)
        inverse = 1.0 / near - buffer * (1.0 / near - 1.0 / far)
        rgb = task.render(PIXELS, PIXELS, "rgb_array", camera_name=camera, cost={})
        out[camera] = {"inverse_depth": np.round(inverse, 5).tolist(), "rgb": rgb.tolist()}
    return out


def pose(task, random, planar: bool) -> None:
    """Put the agent somewhere at random, well tilted where it can tilt."""
    x, y, yaw = random.uniform(-1, 1), random.uniform(-1, 1), random.uniform(-np.pi, np.pi)
    if planar:
        task.data.qpos[:3] = x, y, yaw
        return
    quat = np.array([np.cos(yaw / 2), *random.normal(scale=0.15, size=2), np.sin(yaw / 2)])
    task.data.qpos[:3] = x, y, 0.1 + random.uniform(0.0, 0.05)
    task.data.qpos[3:7] = quat / np.linalg.norm(quat)


def lidars(gym, id: str) -> list[dict[str, object]]:
    import mujoco

    env = gym.make(id)
    env.reset(seed=4)
    task, random, rows = env.unwrapped.task, np.random.RandomState(5), []
    conf = task.lidar_conf
    for _ in range(STATES):
        pose(task, random, planar="Point" in id)
        mujoco.mj_forward(task.model, task.data)
        agent = task.data.body("agent")
        row = {"agent": agent.xpos.tolist(), "rotation": agent.xmat.reshape(3, 3).tolist(), "things": {}}
        for kind in KINDS[id]:
            thing = getattr(task, kind)
            one = kind.rstrip("s")
            names = [kind] if kind == "push_box" else [f"{one}{i}" for i in range(thing.num)]
            bodies = [task.data.body(name) for name in names]
            readings = {}
            conf.type = "natural"
            readings["rays"] = task._obs_lidar(thing.pos, thing.group).tolist()
            conf.type, conf.max_dist, conf.exp_gain = "pseudo", None, 0.7
            readings["exponential"] = task._obs_lidar(thing.pos, thing.group).tolist()
            conf.max_dist, conf.exp_gain, conf.alias = 3, 1.0, False
            readings["apart"] = task._obs_lidar(thing.pos, thing.group).tolist()
            conf.alias = True
            readings["compass"] = []
            for axes in (2, 3):
                task.compass_conf.shape = axes
                readings["compass"].append(task._obs_compass(bodies[0].xpos).tolist())
            row["things"][kind] = {
                "places": [body.xpos.tolist() for body in bodies],
                "quats": [body.xquat.tolist() for body in bodies],
                **readings,
            }
        rows.append(row)
    return rows


def main(path: Path) -> None:
    gym = peers.safety_gymnasium()
    golden = {
        "made_by": "benchmarks/parity_sight.py",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("safety-gymnasium", "mujoco", "numpy", "gymnasium")},
        },
        "pictures": {id: pictures(gym, id) for id in EYES},
    }
    with peers.without_textures():
        golden["lidars"] = {id: lidars(gym, id) for id in KINDS}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    # The peer's graphics fail when they are taken down at the end, after everything has been written.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
