"""Trajectories of the original's own models in the MuJoCo that we use, written down as golden values for our tests.

    $PEER_PYTHON benchmarks/parity_models.py describe FOLDER
    python benchmarks/parity_models.py run FOLDER tests/safety/golden/models.json

The peer's interpreter describes: it resets each world and writes the model it compiled, without its textures. Ours runs
those models. So what is compared is the model, not the version of the engine, and our worlds have to follow it to
rounding.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

TASKS = [f"{task}{level}" for task in ("Goal", "Button", "Push", "Circle") for level in (0, 1, 2)] + ["Run0"]
AGENTS = ("Point", "Car", "Doggo", "Racecar", "Ant")
SEEDS = (0, 1)
STEPS = 4
SUBSTEPS = 10
TRAVEL_M, HEIGHT_M = 0.35, 0.1  # of the things that are moved by hand


def describe(folder: Path) -> None:
    import _peers as peers

    gym = peers.safety_gymnasium()
    folder.mkdir(parents=True, exist_ok=True)
    with peers.without_textures():
        for agent in AGENTS:
            for task in TASKS:
                id = f"Safety{agent}{task}-v0"
                env = gym.make(id)
                for seed in SEEDS:
                    env.reset(seed=seed)
                    inner = env.unwrapped.task
                    # The agent's own pose is drawn after compiling (Ant's joints), so it is written beside the model.
                    record = {"xml": inner.world.xml_string, "qpos": inner.data.qpos.tolist()}
                    (folder / f"{id}.{seed}.json").write_text(json.dumps(record))


def _without_pictures(xml: str) -> str:
    xml = re.sub(r"<(texture|material)\b[^>]*?(/>|>\s*</\1>)", "", xml)
    return re.sub(r' (material|texturedir)="[^"]*"', "", xml)


def trajectory(record: dict) -> dict:
    """Start and positions of every free body and of the agent after each control step."""
    import mujoco
    import numpy as np

    model = mujoco.MjModel.from_xml_string(_without_pictures(record["xml"]))
    data = mujoco.MjData(model)
    data.qpos[:] = record["qpos"]
    mujoco.mj_forward(model, data)
    free = [model.body(b).name for b in range(model.nbody) if model.body_jntnum[b] and model.body_parentid[b] == 0]
    action = np.resize([0.5, 0.3], model.nu)
    out: dict = {"qpos": data.qpos.tolist(), "free": free, "at": []}
    for _ in range(STEPS):
        data.ctrl[:] = action
        for _ in range(SUBSTEPS):
            turn = TRAVEL_M * np.array([np.sin(data.time), np.cos(data.time)])
            data.mocap_pos[:] = [*turn, HEIGHT_M]
            mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
        out["at"].append({name: data.body(name).xpos.tolist() for name in free})
    return out


def run(folder: Path, golden: Path) -> None:
    import mujoco

    rows: dict = {}
    for path in sorted(folder.glob("*.json")):
        id, seed, _ = path.name.split(".")
        rows.setdefault(id, {})[seed] = trajectory(json.loads(path.read_text()))
    record = {"made_by": "benchmarks/parity_models.py", "mujoco": mujoco.__version__, "worlds": rows}
    golden.write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    {"describe": describe, "run": run}[sys.argv[1]](*map(Path, sys.argv[2:]))
