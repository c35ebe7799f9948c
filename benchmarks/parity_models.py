"""Trajectories of the original's own models in the MuJoCo that we use, written down as golden values for our tests.

    $PEER_PYTHON benchmarks/parity_models.py describe FOLDER
    python benchmarks/parity_models.py run FOLDER tests/safety/golden/models.json

The peer's interpreter describes: it resets each world and writes the model it compiled, without its textures. Ours runs
those models: some steps from where an episode starts, and some in which the agent is sent into one object of each kind.
So what is compared is the model, not the version of the engine, and our worlds have to follow it to rounding. Some
starts lie on the edge of a contact, where rounding decides and grows: a Point rests at exactly the height of the floor.
So twins of every run start NUDGE away in every joint of the agent, and the farthest that one of them gets from the run,
in joints and in positions, is its `spread`: what the original's model leaves undecided. Numbers have thirteen digits.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

TASKS = [f"{task}{level}" for task in ("Goal", "Button", "Push", "Circle") for level in (0, 1, 2)] + ["Run0"]
AGENTS = ("Point", "Car", "Doggo", "Racecar", "Ant")
SEEDS = (0, 1)
LOOKED_AT = (4, 32)  # control steps after which joints and bodies are written down
SUBSTEPS = 10
TRAVEL_M, HEIGHT_M = 0.35, 0.1  # of the things that are moved by hand
SOLID = ("vase", "button", "gremlin", "pillar", "push_box")
# Objects that the agent is sent into, and how far from their centres it starts. A gremlin comes by
# itself: what pulls it starts a whole TRAVEL_M away from it.
HIT = {
    "Goal2": {"vase0": 0.5},
    "Button2": {"button0": 0.45, "gremlin0": TRAVEL_M},
    "Push2": {"pillar0": 0.55, "push_box": 0.6},
}
SPEED_M_PER_S, POINT_M_PER_S = 3.0, 1.0  # the floor hardly brakes the Point
HIT_STEPS, HIT_EVERY = 24, 4
TWINS, NUDGE = 5, 1e-14  # how many, and the standard deviation of what their starts differ by


INERTIAS = ("body_mass", "body_inertia", "body_ipos", "body_iquat")


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
                    record = {
                        "xml": inner.world.xml_string,
                        "qpos": inner.data.qpos.tolist(),
                        "rot": float(inner.world_info.world_config_dict["agent_rot"]),
                        "inertias": {name: getattr(inner.model, name).tolist() for name in INERTIAS},
                    }
                    (folder / f"{id}.{seed}.json").write_text(json.dumps(record))


def _without_pictures(xml: str) -> str:
    xml = re.sub(r"<(texture|material)\b[^>]*?(/>|>\s*</\1>)", "", xml)
    return re.sub(r' (material|texturedir)="[^"]*"', "", xml)


def rounded(values: Any) -> list[float]:
    return [float(f"{value:.13g}") for value in values]


class Original:
    """One of the original's models, from where an episode starts."""

    def __init__(self, record: dict[str, Any]) -> None:
        import mujoco
        import numpy as np

        model = self.model = mujoco.MjModel.from_xml_string(_without_pictures(record["xml"]))
        self.data = mujoco.MjData(model)
        # Another version of MuJoCo makes another mass of the mesh that is the Racecar's chassis.
        masses = np.array(record["inertias"]["body_mass"])
        other = ~np.isclose(model.body_mass, masses, rtol=1e-6, atol=0.0)
        if other.any():
            for name in INERTIAS:
                getattr(model, name)[other] = np.array(record["inertias"][name])[other]
            mujoco.mj_setConst(model, self.data)
        self.data.qpos[:] = record["qpos"]
        mujoco.mj_forward(model, self.data)
        bodies = [model.body(b).name for b in range(model.nbody)]
        self.free = [n for b, n in enumerate(bodies) if model.body_jntnum[b] and model.body_parentid[b] == 0]
        self.solid = [n for n in bodies if n.startswith(SOLID) and not n.endswith("mocap")]
        root = model.body("agent").id
        self.own = [j for j in range(model.njnt) if model.body_rootid[model.jnt_bodyid[j]] == root]
        self.planar = model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE
        self.rot, self.action = record["rot"], np.resize([0.5, 0.3], model.nu)

    def nudge(self, twin: int) -> None:
        import numpy as np

        last = int(self.model.jnt_qposadr[self.own[-1]]) + 1
        self.data.qpos[:last] += NUDGE * np.random.RandomState(twin).normal(size=last)

    def joints(self) -> list[float]:
        """Of the agent; of the Point, whose slides are turned with its model, its turn alone."""
        if self.planar:
            return rounded(self.data.qpos[2:3] + self.rot)
        last = self.own[-1]
        ball = self.model.jnt_type[last] == 1
        return rounded(self.data.qpos[: self.model.jnt_qposadr[last] + (4 if ball else 1)])

    def step(self, watched: str | None = None) -> bool:
        """A control step; whether the agent touched the body `watched` in it."""
        import mujoco
        import numpy as np

        touched = False
        self.data.ctrl[:] = self.action
        for _ in range(SUBSTEPS):
            turn = TRAVEL_M * np.array([np.sin(self.data.time), np.cos(self.data.time)])
            self.data.mocap_pos[:] = [*turn, HEIGHT_M]
            mujoco.mj_step(self.model, self.data)
            touched = touched or (watched is not None and self.touching(watched))
        mujoco.mj_forward(self.model, self.data)
        return touched

    def at(self, names: list[str]) -> dict[str, list[float]]:
        return {name: rounded(self.data.body(name).xpos) for name in names}

    def send(self, to: str, away_m: float) -> dict[str, Any]:
        """Put the agent beside an object, on the side with most room, and send it there; tells where it starts."""
        import mujoco
        import numpy as np

        model, data = self.model, self.data
        body = next(n for n in (to, f"{to}obj") if n in self.solid)
        others = [data.body(name).xpos[:2].copy() for name in self.solid if name != body]
        there, here = data.body(body).xpos[:2].copy(), data.body("agent").xpos[:2].copy()

        def start(bearing: float) -> np.ndarray:
            return there - away_m * np.array([math.cos(bearing), math.sin(bearing)])

        bearings = [2.0 * math.pi * k / 16 for k in range(16)]
        # Pulled things are pulled along y at first.
        best = max(bearings, key=lambda b: min([math.dist(start(b), other) for other in others], default=0.0))
        bearing = -math.pi / 2 if "gremlin" in to else best
        xy, speed = start(bearing), POINT_M_PER_S if self.planar else SPEED_M_PER_S
        if "gremlin" in to:
            speed = 0.0
        forward = np.array([math.cos(bearing), math.sin(bearing)])
        if self.planar:
            c, s = math.cos(self.rot), math.sin(self.rot)
            turned = np.array([[c, s], [-s, c]])
            data.qpos[:2] = turned @ (xy - here)
            data.qpos[2] = bearing - self.rot
            data.qvel[:2] = turned @ (speed * forward)
        else:
            data.qpos[:2], data.qvel[:2] = xy, speed * forward
        mujoco.mj_forward(model, data)
        return {"body": body, "xy": xy.tolist(), "bearing": bearing, "speed": speed}

    def touching(self, body: str) -> bool:
        model, root, other = self.model, self.model.body("agent").id, self.model.body(body).id
        for contact in self.data.contact[: self.data.ncon]:
            one, two = (int(model.geom_bodyid[g]) for g in (contact.geom1, contact.geom2))
            if {model.body_rootid[one], model.body_rootid[two]} == {root, model.body_rootid[other]}:
                return True
        return False


def farthest(run: dict[str, Any], twin: dict[str, Any], step: int) -> tuple[float, float]:
    """The largest difference between two runs after a step: in the agent's joints, in positions."""

    def most(pairs: Iterable[tuple[list[float], list[float]]]) -> float:
        return max((abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)), default=0.0)

    return most([(run["joints"][step], twin["joints"][step])]), most(
        (run["at"][step][name], twin["at"][step][name]) for name in run["at"][step]
    )


def with_spread(go: Callable[[int | None], dict[str, Any]]) -> dict[str, Any]:
    """A run, with how far its twins get from it."""
    run, twins = go(None), [go(twin) for twin in range(TWINS)]
    run["spread"] = {}
    for step in run["at"]:
        in_joints, in_positions = (max(values) for values in zip(*(farthest(run, t, step) for t in twins), strict=True))
        run["spread"][step] = [float(f"{in_joints:.3g}"), float(f"{in_positions:.3g}")]
    return run


def trajectory(record: dict[str, Any], twin: int | None) -> dict[str, Any]:
    """Start, and the agent's joints and the positions of every free body after some control steps."""
    world = Original(record)
    if twin is not None:
        world.nudge(twin)
    out: dict[str, Any] = {"qpos": record["qpos"], "joints": {}, "at": {}}
    for step in range(1, LOOKED_AT[-1] + 1):
        world.step()
        if step in LOOKED_AT:
            out["joints"][step], out["at"][step] = world.joints(), world.at(world.free)
    return out


def collision(record: dict[str, Any], to: str, away_m: float, twin: int | None) -> dict[str, Any]:
    """The agent's way into an object, and where both are every HIT_EVERY steps."""
    world = Original(record)
    start = world.send(to, away_m)
    if twin is not None:
        world.nudge(twin)
    names = sorted({"agent", start["body"]} & {*world.free, "agent"})
    touched: list[int] = []
    out: dict[str, Any] = {"qpos": record["qpos"], "start": start, "joints": {}, "at": {}}
    for step in range(1, HIT_STEPS + 1):
        if world.step(start["body"]):
            touched.append(step)
        if step % HIT_EVERY == 0:
            out["joints"][step], out["at"][step] = world.joints(), world.at(names)
    assert touched, f"the agent never touches {to}"
    return out | {"touched_in_steps": touched}


def run(folder: Path, golden: Path) -> None:
    import mujoco

    worlds: dict[str, Any] = {}
    hits: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        id, seed, _ = path.name.split(".")
        record = json.loads(path.read_text())
        worlds.setdefault(id, {})[seed] = with_spread(functools.partial(trajectory, record))
        targets = next((targets for task, targets in HIT.items() if id.endswith(f"{task}-v0")), {})
        for to, away_m in targets.items() if seed == str(SEEDS[0]) else ():
            hits.setdefault(id, {})[to] = with_spread(functools.partial(collision, record, to, away_m))
    made = {"made_by": "benchmarks/parity_models.py", "versions": {"mujoco": mujoco.__version__}}
    record = made | {"steps": LOOKED_AT[-1], "worlds": worlds, "hit_steps": HIT_STEPS, "hits": hits}
    golden.write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    {"describe": describe, "run": run}[sys.argv[1]](*map(Path, sys.argv[2:]))
