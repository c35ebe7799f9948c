"""What safety-gymnasium 1.0.0 makes of its five agents, written down as golden values for our tests.

    $PEER_PYTHON benchmarks/parity_bodies.py tests/safety/golden/bodies.json

Run by the peer's interpreter (see _peers.py). Of each agent: the fields of its compiled model, what it senses at given
states, how it moves in its first steps, and where its joints stand after a reset. The compiled body is put at the
origin first, for the peer compiles an episode's place and heading into it. Floats read back bit for bit.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import _peers as peers
import numpy as np

AGENTS = ("point", "car", "doggo", "racecar", "ant")
IN_THE_AIR, ON_THE_FLOOR, STEPS, SEEDS = 4, 4, 4, 3


def named(enum, value: int) -> str:
    return enum(int(value)).name


def rotation(quat) -> np.ndarray:
    import mujoco

    out = np.empty(9)
    mujoco.mju_quat2Mat(out, np.asarray(quat, dtype=np.float64))
    return out.reshape(3, 3)


def ours(model) -> list[int]:
    """Bodies of the agent, in order."""
    root = model.body("agent").id
    return [i for i in range(model.nbody) if model.body_rootid[i] == root]


def to_origin(task) -> None:
    body = task.model.body("agent")
    body.pos[:2], body.quat[:] = 0.0, (1.0, 0.0, 0.0, 0.0)


def bodies(model) -> list[dict[str, object]]:
    rows, own = [], ours(model)
    for i in own:
        turn = rotation(model.body_iquat[i])
        rows.append(
            {
                "parent": own.index(model.body_parentid[i]) if model.body_parentid[i] in own else -1,
                "pos": model.body_pos[i].tolist(),
                "quat": model.body_quat[i].tolist(),
                "mass": float(model.body_mass[i]),
                "centre": model.body_ipos[i].tolist(),
                "inertia": (turn @ np.diag(model.body_inertia[i]) @ turn.T).tolist(),
            }
        )
    return rows


def support(model, geom: int) -> list[float]:
    """How far a mesh reaches in 26 directions of its body."""
    mesh = model.geom_dataid[geom]
    first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    corners = model.mesh_vert[first : first + count] @ rotation(model.geom_quat[geom]).T + model.geom_pos[geom]
    return [float((corners @ way).max()) for way in directions()]


def directions() -> list[np.ndarray]:
    cube = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return [way / np.linalg.norm(way) for way in cube if way.any()]


def geoms(model) -> list[dict[str, object]]:
    """Those that can touch something; the rest is to look at or already part of a stated inertia."""
    import mujoco

    rows, own = [], ours(model)
    for i in range(model.ngeom):
        if model.geom_bodyid[i] not in own or not (model.geom_contype[i] or model.geom_conaffinity[i]):
            continue
        kind = named(mujoco.mjtGeom, model.geom_type[i])
        row = {"body": own.index(model.geom_bodyid[i]), "type": kind}
        for field in ("friction", "condim", "contype", "conaffinity", "solref", "solimp", "margin", "gap", "priority"):
            row[field] = np.asarray(getattr(model, f"geom_{field}")[i]).tolist()
        if kind == "mjGEOM_MESH":
            row["support"] = support(model, i)
        else:
            row |= {field: getattr(model, f"geom_{field}")[i].tolist() for field in ("size", "pos", "quat")}
        rows.append(row)
    return rows


def joints(model) -> list[dict[str, object]]:
    import mujoco

    rows, own = [], ours(model)
    for i in range(model.njnt):
        if model.jnt_bodyid[i] not in own:
            continue
        dof = model.jnt_dofadr[i]
        row = {
            "name": model.joint(i).name,
            "body": own.index(model.jnt_bodyid[i]),
            "type": named(mujoco.mjtJoint, model.jnt_type[i]),
            "spring": float(model.qpos_spring[model.jnt_qposadr[i]]),
        }
        for field in ("pos", "axis", "limited", "range", "stiffness", "solref", "solimp"):
            row[field] = np.asarray(getattr(model, f"jnt_{field}")[i]).tolist()
        for field in ("damping", "armature", "frictionloss"):
            row[field] = float(getattr(model, f"dof_{field}")[dof])
        rows.append(row)
    return rows


def actuators(model) -> list[dict[str, object]]:
    import mujoco

    rows = []
    for i in range(model.nu):
        through = named(mujoco.mjtTrn, model.actuator_trntype[i])
        target = model.actuator_trnid[i, 0]
        row = {
            "through": "site" if through == "mjTRN_SITE" else "joint",
            "target": (model.site(target) if through == "mjTRN_SITE" else model.joint(target)).name,
            "dynamics": named(mujoco.mjtDyn, model.actuator_dyntype[i]),
            "gain": named(mujoco.mjtGain, model.actuator_gaintype[i]),
            "bias": named(mujoco.mjtBias, model.actuator_biastype[i]),
            "gainprm": model.actuator_gainprm[i, :3].tolist(),
            "biasprm": model.actuator_biasprm[i, :3].tolist(),
        }
        for field in ("gear", "ctrllimited", "ctrlrange", "forcelimited", "forcerange"):
            row[field] = np.asarray(getattr(model, f"actuator_{field}")[i]).tolist()
        rows.append(row)
    return rows


def sensors(model, names: list[str]) -> list[dict[str, str]]:
    """Kind and place of each sensor that the observation shows."""
    import mujoco

    rows = []
    for name in names:
        i = model.sensor(name).id
        at = named(mujoco.mjtObj, model.sensor_objtype[i])
        target = model.site if at == "mjOBJ_SITE" else model.joint
        row = {"name": name, "type": named(mujoco.mjtSensor, model.sensor_type[i])}
        rows.append(row | {"target": target(model.sensor_objid[i]).name})
    return rows


def fields(task) -> dict[str, object]:
    import mujoco

    model = task.model
    shown = task.agent.build_sensor_observation_space()
    sites = {s.objid[0] for s in map(model.sensor, shown) if s.objtype[0] == mujoco.mjtObj.mjOBJ_SITE}
    own = ours(model)
    return {
        "option": {
            "timestep": model.opt.timestep,
            "integrator": named(mujoco.mjtIntegrator, model.opt.integrator),
            "cone": named(mujoco.mjtCone, model.opt.cone),
            "solver": named(mujoco.mjtSolver, model.opt.solver),
            "iterations": model.opt.iterations,
            "tolerance": model.opt.tolerance,
            "impratio": model.opt.impratio,
            "gravity": model.opt.gravity.tolist(),
            "magnetic": model.opt.magnetic.tolist(),
        },
        "bodies": bodies(model),
        "geoms": geoms(model),
        "joints": joints(model),
        "actuators": actuators(model),
        "sensors": sensors(model, list(shown)),
        "readings": [[name, list(space.shape)] for name, space in shown.items()],
        "sites": [
            {
                "name": model.site(i).name,
                "body": own.index(model.site_bodyid[i]),
                "pos": model.site_pos[i].tolist(),
                "radius": float(model.site_size[i, 0]),
            }
            for i in sorted(sites)
        ],
        # In the peer's MuJoCo a signature is made of the bodies' numbers plus one.
        "apart": [sorted((own.index((s >> 16) - 1), own.index((s & 0xFFFF) - 1))) for s in model.exclude_signature],
        "alike": [
            {
                "joints": [model.joint(model.eq_obj1id[i]).name, model.joint(model.eq_obj2id[i]).name],
                "polynomial": model.eq_data[i, :5].tolist(),
                "solref": model.eq_solref[i].tolist(),
                "solimp": model.eq_solimp[i].tolist(),
            }
            for i in range(model.neq)
        ],
    }


def senses(task) -> list[float]:
    return [float(x) for x in task.obs()[: sum(s.size for s in task.agent.obs_sensor().values())]]


def in_the_air(task, random) -> None:
    """A state at random within the joints' ranges, well above the floor where the agent can leave it."""
    import mujoco

    model, data = task.model, task.data
    for i in range(model.njnt):
        q, kind = model.jnt_qposadr[i], model.jnt_type[i]
        if kind == mujoco.mjtJoint.mjJNT_FREE:
            data.qpos[q : q + 3] = *random.uniform(-1.5, 1.5, 2), random.uniform(0.8, 1.5)
            q += 3
        if kind in (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL):
            quat = random.normal(size=4)
            data.qpos[q : q + 4] = quat / np.linalg.norm(quat)
        else:
            low, high = model.jnt_range[i] if model.jnt_limited[i] else (-1.5, 1.5)
            data.qpos[q] = low + (high - low) * random.uniform(0.05, 0.95)
    data.qvel[:] = random.normal(size=model.nv)
    data.ctrl[:] = random.uniform(-1.0, 1.0, model.nu) * model.actuator_ctrlrange[:, 1]


def state(task) -> dict[str, list[float]]:
    """What decides the next step; the last is where the solver starts from."""
    return {name: getattr(task.data, name).tolist() for name in ("qpos", "qvel", "ctrl", "qacc_warmstart")}


def felt(task) -> dict[str, object]:
    """The present state, what the agent senses in it, and the state one physics step later."""
    import mujoco

    model, data = task.model, mujoco.MjData(task.model)
    for name, values in state(task).items():
        getattr(data, name)[:] = values
    mujoco.mj_step(model, data)
    contacts = [(model.geom(c.geom1).name, model.geom(c.geom2).name) for c in task.data.contact[: task.data.ncon]]
    return {
        **state(task),
        "touches_itself": any("floor" not in pair for pair in contacts),
        "senses": senses(task),
        "then": {"qpos": data.qpos.tolist(), "qvel": data.qvel.tolist()},
    }


def states(env) -> dict[str, list[dict[str, object]]]:
    import mujoco

    task, random = env.unwrapped.task, np.random.RandomState(11)
    high = task.model.actuator_ctrlrange[:, 1]
    out: dict[str, list[dict[str, object]]] = {"in_the_air": [], "on_the_floor": []}
    for _ in range(IN_THE_AIR):
        in_the_air(task, random)
        mujoco.mj_forward(task.model, task.data)
        out["in_the_air"].append(felt(task))
    env.reset(seed=1)
    to_origin(task)
    for _ in range(ON_THE_FLOOR):
        for _ in range(5):
            task.simulation_forward(random.uniform(-1.0, 1.0, len(high)) * high)
        out["on_the_floor"].append(felt(task))
    return out


def first_steps(env) -> dict[str, object]:
    """Control steps from the pose after a reset, moved to the origin; actions in shares of the actuators' ranges."""
    import mujoco

    env.reset(seed=0)
    task, random = env.unwrapped.task, np.random.RandomState(5)
    to_origin(task)
    if task.model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:
        task.data.qpos[:7] = 0.0, 0.0, task.data.qpos[2], 1.0, 0.0, 0.0, 0.0
    mujoco.mj_forward(task.model, task.data)
    high = task.model.actuator_ctrlrange[:, 1]
    out: dict[str, object] = {"start": state(task), "steps": []}
    for _ in range(STEPS):
        action = random.uniform(-1.0, 1.0, len(high))
        task.simulation_forward(action * high)  # not `step`, which would end an Ant's episode when it falls
        out["steps"].append({"action": action.tolist(), "qpos": task.data.qpos.tolist(), "senses": senses(task)})
    return out


def starts(env) -> list[dict[str, object]]:
    """Where an episode starts, and how many doubles its layout and then the agent's joints took from the stream."""
    rows, task = [], env.unwrapped.task
    for seed in range(SEEDS):
        env.reset(seed=seed)
        after = task.random_generator.random_generator.random_sample(8)
        fresh = np.random.RandomState(seed).random_sample(10_000)
        windows = np.lib.stride_tricks.sliding_window_view(fresh, 8)
        (drawn,) = np.flatnonzero((windows == after).all(axis=1))
        row = {"seed": seed, "drawn": int(drawn), "xy": task.world_info.layout["agent"].tolist()}
        row["rot"] = float(task.world_info.world_config_dict["agent_rot"])
        rows.append(row | {"qpos": task.data.qpos.tolist(), "position": task.agent.pos.tolist()})
    return rows


def golden(gym, agent: str) -> dict[str, object]:
    env = gym.make(f"Safety{agent.title()}Goal0-v0")
    env.reset(seed=3)
    task = env.unwrapped.task
    to_origin(task)
    return {
        "model": fields(task),
        "senses": senses_size(task),
        "states": states(env),
        "first_steps": first_steps(env),
        "starts": starts(env),
    }


def senses_size(task) -> int:
    return sum(int(np.prod(space.shape)) for space in task.agent.build_sensor_observation_space().values())


def main(path: Path) -> None:
    gym = peers.safety_gymnasium()
    with peers.without_textures():
        agents = {agent: golden(gym, agent) for agent in AGENTS}
    out = {
        "made_by": "benchmarks/parity_bodies.py",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("safety-gymnasium", "mujoco", "numpy", "gymnasium")},
        },
        "note": "each agent in its Goal0 world, whose goal touches nothing; the compiled body moved to the origin",
        "agents": agents,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
