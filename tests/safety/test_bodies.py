"""The five agents against safety-gymnasium 1.0.0, from golden/bodies.json, and what holds for any body."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import mujoco
import numpy as np
import pytest
from mujoco.batch import Batch

from trueline.safety.worlds.agents import AGENTS, HEAD_AGENTS, Agent
from trueline.safety.worlds.body import Senses, add_agent, set_clock

GOLDEN = json.loads((Path(__file__).parent / "golden" / "bodies.json").read_text())["agents"]
CURRENT = int(mujoco.mjtStage.mjSTAGE_ACC)
UNTOUCHED = int(mujoco.mjtStage.mjSTAGE_NONE)
ROUNDING = 1e-9
# In its Runge-Kutta steps MuJoCo 2.3.3 turned quaternions with an error of second order in the step; 4.0 has fourth.
ONE_STEP = {"Euler": ROUNDING, "RK4": 1e-4}
names = pytest.mark.parametrize("name", GOLDEN)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@functools.cache
def model_of(agent: Agent) -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    set_clock(spec, agent)
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[3.5, 3.5, 0.1], condim=6)
    add_agent(spec, agent)
    return spec.compile()


def opened(agent: Agent, n: int) -> tuple[Batch, Senses]:
    batch = Batch(model_of(agent), nsim=n, nthread=1)
    return batch, Senses(batch, model_of(agent), agent)


def rotation(quat) -> np.ndarray:
    out = np.empty(9)
    mujoco.mju_quat2Mat(out, np.asarray(quat, dtype=np.float64))
    return out.reshape(3, 3)


def same(ours, golden, what: str, atol: float = ROUNDING) -> None:
    np.testing.assert_allclose(np.asarray(ours, dtype=float), np.asarray(golden, dtype=float), 1e-7, atol, err_msg=what)


@names
def test_bodies_have_the_peers_places_masses_and_inertias(name):
    model, golden = model_of(AGENTS[name]), GOLDEN[name]["model"]["bodies"]
    assert model.nbody - 1 == len(golden)
    for i, row in enumerate(golden, start=1):
        what = model.body(i).name
        turn = rotation(model.body_iquat[i])
        assert model.body_parentid[i] - 1 == row["parent"]
        same(model.body_pos[i], row["pos"], what)
        same(rotation(model.body_quat[i]), rotation(row["quat"]), what)
        same(model.body_mass[i], row["mass"], what)
        same(turn @ np.diag(model.body_inertia[i]) @ turn.T, row["inertia"], what)
        if row["mass"]:
            same(model.body_ipos[i], row["centre"], what)


def reach(model: mujoco.MjModel, geom: int) -> list[float]:
    """How far a hull reaches in the 26 directions of the peer's script."""
    mesh = model.geom_dataid[geom]
    first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    corners = model.mesh_vert[first : first + count] @ rotation(model.geom_quat[geom]).T + model.geom_pos[geom]
    cube = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return [(corners @ way).max() / np.linalg.norm(way) for way in cube if way.any()]


@names
def test_what_touches_has_the_peers_shape_place_and_friction(name):
    model, golden = model_of(AGENTS[name]), GOLDEN[name]["model"]["geoms"]
    assert model.ngeom - 1 == len(golden)  # all but the floor; what only the peer's pictures need is left out
    for i, row in enumerate(golden, start=1):
        what = model.geom(i).name
        assert model.geom_bodyid[i] - 1 == row["body"], what
        assert mujoco.mjtGeom(model.geom_type[i]).name == row["type"], what
        for field in ("friction", "condim", "contype", "conaffinity", "solref", "solimp", "margin", "gap", "priority"):
            same(getattr(model, f"geom_{field}")[i], row[field], f"{field} of {what}")
        if "support" in row:
            same(reach(model, i), row["support"], what, atol=1e-5)  # ten microns
        else:
            same(model.geom_size[i], row["size"], what)
            same(model.geom_pos[i], row["pos"], what)
            same(rotation(model.geom_quat[i]), rotation(row["quat"]), what)


@names
def test_joints_have_the_peers_axes_limits_and_dynamics(name):
    model, golden = model_of(AGENTS[name]), GOLDEN[name]["model"]["joints"]
    assert model.njnt == len(golden)
    for i, row in enumerate(golden):
        what, dof = model.joint(i).name, model.jnt_dofadr[i]
        assert (what, model.jnt_bodyid[i] - 1) == (row["name"], row["body"])
        assert mujoco.mjtJoint(model.jnt_type[i]).name == row["type"], what
        if row["type"] != "mjJNT_FREE":
            same(model.qpos_spring[model.jnt_qposadr[i]], row["spring"], what)
        for field in ("pos", "axis", "limited", "range", "stiffness", "solref", "solimp"):
            same(getattr(model, f"jnt_{field}")[i], row[field], f"{field} of {what}")
        for field in ("damping", "armature", "frictionloss"):
            same(getattr(model, f"dof_{field}")[dof], row[field], f"{field} of {what}")


@names
def test_actuators_push_as_the_peers_do(name):
    model, golden = model_of(AGENTS[name]), GOLDEN[name]["model"]["actuators"]
    assert model.nu == len(golden)
    for i, row in enumerate(golden):
        what, at = model.actuator(i).name, model.actuator_trnid[i, 0]
        at_site = model.actuator_trntype[i] == mujoco.mjtTrn.mjTRN_SITE
        assert at_site == (row["through"] == "site")
        assert (model.site(at) if at_site else model.joint(at)).name == row["target"]
        assert mujoco.mjtDyn(model.actuator_dyntype[i]).name == row["dynamics"]
        assert mujoco.mjtGain(model.actuator_gaintype[i]).name == row["gain"]
        assert mujoco.mjtBias(model.actuator_biastype[i]).name == row["bias"]
        same(model.actuator_gainprm[i, :3], row["gainprm"], what)
        if row["bias"] != "mjBIAS_NONE":
            same(model.actuator_biasprm[i, :3], row["biasprm"], what)
        for field in ("gear", "ctrllimited", "ctrlrange", "forcelimited", "forcerange"):
            same(getattr(model, f"actuator_{field}")[i], row[field], f"{field} of {what}")
    same(AGENTS[name].control_low, [row["ctrlrange"][0] for row in golden], "lowest control")
    same(AGENTS[name].control_high, [row["ctrlrange"][1] for row in golden], "highest control")


@names
def test_clock_solver_and_couplings_are_the_peers(name):
    model, golden = model_of(AGENTS[name]), GOLDEN[name]["model"]
    option = golden["option"]
    assert mujoco.mjtIntegrator(model.opt.integrator).name == option["integrator"]
    assert mujoco.mjtCone(model.opt.cone).name == option["cone"]
    assert mujoco.mjtSolver(model.opt.solver).name == option["solver"]
    for field in ("timestep", "iterations", "tolerance", "impratio", "gravity", "magnetic"):
        same(getattr(model.opt, field), option[field], field)
    pairs = [sorted(((s >> 16) - 1, (s & 0xFFFF) - 1)) for s in model.exclude_signature.tolist()]
    assert sorted(pairs) == sorted(golden["apart"])
    assert model.neq == len(golden["alike"])
    for i, row in enumerate(golden["alike"]):
        assert [model.joint(j[i]).name for j in (model.eq_obj1id, model.eq_obj2id)] == row["joints"]
        same(model.eq_data[i, :5], row["polynomial"], "polynomial")
        same(model.eq_solref[i], row["solref"], "solref")
        same(model.eq_solimp[i], row["solimp"], "solimp")


@names
def test_senses_are_the_peers_in_its_order(name):
    agent, model, golden = AGENTS[name], model_of(AGENTS[name]), GOLDEN[name]["model"]
    assert [[sensor.name, list(sensor.shape)] for sensor in agent.sensors] == golden["readings"]
    assert agent.senses == GOLDEN[name]["senses"]
    for row in golden["sensors"]:
        i = model.sensor(row["name"]).id
        of = model.site if model.sensor_objtype[i] == mujoco.mjtObj.mjOBJ_SITE else model.joint
        assert mujoco.mjtSensor(model.sensor_type[i]).name == row["type"]
        assert of(model.sensor_objid[i]).name == row["target"]
    for row in golden["sites"]:
        site = model.site(row["name"])
        assert site.bodyid[0] - 1 == row["body"]
        same(site.pos, row["pos"], row["name"])
        same(site.size[0], row["radius"], row["name"])


def put(batch: Batch, rows: list[dict], *fields: str) -> None:
    for field in fields:
        batch.bind(field)[:] = [row[field] for row in rows]


def sensed(senses: Senses) -> np.ndarray:
    out = np.full((len(senses.position), senses.agent.senses + 2), np.nan)
    senses.read(out)
    assert np.isnan(out[:, senses.agent.senses :]).all()  # what follows is for others to fill
    return out[:, : senses.agent.senses]


@names
@pytest.mark.parametrize("where", ["in_the_air", "on_the_floor"])
def test_a_state_feels_as_it_does_to_the_peer_and_moves_on_alike(name, where):
    rows = GOLDEN[name]["states"][where]
    batch, senses = opened(AGENTS[name], len(rows))
    put(batch, rows, "qpos", "qvel", "ctrl", "qacc_warmstart")
    batch.forward(stage=CURRENT)
    ours, golden = sensed(senses), np.array([row["senses"] for row in rows])
    np.testing.assert_allclose(ours[:, 3:], golden[:, 3:], rtol=ROUNDING, atol=ROUNDING)
    # How deep the Racecar's steered wheel is in its bumper differs by a hundredth of a millimetre between the MuJoCos,
    # and with it what pushes them apart.
    plain = np.array([not row["touches_itself"] for row in rows])
    assert plain.sum() >= 2
    np.testing.assert_allclose(ours[plain, :3], golden[plain, :3], rtol=ROUNDING, atol=ROUNDING)
    put(batch, rows, "qpos", "qvel", "ctrl", "qacc_warmstart")
    batch.step()
    for field in ("qpos", "qvel"):
        then = np.array([row["then"][field] for row in rows])
        atol = ONE_STEP[AGENTS[name].integrator]
        np.testing.assert_allclose(batch.bind(field)[plain], then[plain], rtol=0, atol=atol)


@names
def test_first_steps_are_the_peers(name):
    golden = GOLDEN[name]["first_steps"]
    batch, senses = opened(AGENTS[name], 1)
    batch.reset(stage=UNTOUCHED)
    put(batch, [golden["start"]], "qpos", "qvel", "qacc_warmstart")
    # The Ant's legs carry it on or not by when a foot meets the floor: it is the peer's for one control step.
    steps, near = (1, 1e-4) if name == "ant" else (4, 1e-6)
    for row in golden["steps"][:steps]:
        senses.drive(np.array([row["action"]]))
        batch.step(nstep=10, stage=CURRENT)
        np.testing.assert_allclose(batch.bind("qpos")[0], row["qpos"], rtol=0, atol=near)


@pytest.mark.parametrize("name", ["car", "doggo", "racecar", "ant"])
def test_episodes_start_in_the_peers_pose_bit_for_bit(name):
    agent, rows = AGENTS[name], GOLDEN[name]["starts"]
    batch, senses = opened(agent, len(rows))
    batch.reset(stage=UNTOUCHED)
    noise = len(agent.start)
    angles = np.empty((len(rows), noise))
    for i, row in enumerate(rows):
        assert row["drawn"] - noise == GOLDEN["car"]["starts"][i]["drawn"]  # after all that the layout draws
        unit = np.random.RandomState(row["seed"]).random_sample(row["drawn"])[row["drawn"] - noise :].tolist()
        angles[i] = [s.angle(-s.noise_rad + 2 * s.noise_rad * u) for s, u in zip(agent.start, unit, strict=True)]
    xy, rot = np.array([row["xy"] for row in rows]), np.array([row["rot"] for row in rows])
    senses.place(np.arange(len(rows)), xy, rot, angles)
    np.testing.assert_array_equal(batch.bind("qpos"), [row["qpos"] for row in rows])
    batch.forward(stage=CURRENT)
    np.testing.assert_array_equal(senses.position, [row["position"] for row in rows])


def test_the_heads_ant_differs_by_ten_thousand_times_heavier_feet():
    wheel, head = model_of(AGENTS["ant"]), model_of(HEAD_AGENTS["ant"])
    heavier = [10_000.0 if wheel.body(i).name.startswith("foot") else 1.0 for i in range(wheel.nbody)]
    assert sum(ratio > 1.0 for ratio in heavier) == 4
    np.testing.assert_allclose(head.body_mass, wheel.body_mass * heavier, rtol=1e-12)
    np.testing.assert_allclose(head.body_inertia, wheel.body_inertia * np.array(heavier)[:, None], rtol=1e-12)
    assert all(HEAD_AGENTS[name] is AGENTS[name] for name in AGENTS if name != "ant")


# --- whatever the body ------------------------------------------------------------------------------------------------

EVERY = [*AGENTS.values()]
every = pytest.mark.parametrize("agent", EVERY, ids=[agent.name for agent in EVERY])


def turned(agent: Agent, qpos: np.ndarray, qvel: np.ndarray, by: float, to: tuple[float, float]) -> tuple:
    """The same state, turned about the vertical by an angle and carried elsewhere; qpos [N, nq], qvel [N, nv]."""
    qpos, qvel = qpos.copy(), qvel.copy()
    c, s = np.cos(by), np.sin(by)
    spin = np.array([[c, -s], [s, c]])
    qpos[:, :2] = qpos[:, :2] @ spin.T + to
    qvel[:, :2] = qvel[:, :2] @ spin.T
    if agent.planar:
        qpos[:, 2] += by
    else:
        for row in qpos:
            mujoco.mju_mulQuat(row[3:7], np.array([np.cos(by / 2), 0.0, 0.0, np.sin(by / 2)]), row[3:7].copy())
    return qpos, qvel


@every
def test_turning_the_world_changes_only_what_points_along_its_axes(agent, rng):
    rows = GOLDEN[agent.name]["states"]["in_the_air"]
    batch, senses = opened(agent, len(rows))
    put(batch, rows, "qpos", "qvel", "ctrl")
    batch.forward(stage=CURRENT)
    before, rotation_before = sensed(senses).copy(), senses.rotation.copy()
    by = rng.uniform(-np.pi, np.pi)
    batch.bind("qpos")[:], batch.bind("qvel")[:] = turned(agent, batch.qpos, batch.qvel, by, to=(30.0, -20.0))
    batch.forward(stage=CURRENT)
    after = sensed(senses)
    at = 0
    for sensor in agent.sensors:
        columns = slice(at, at + sensor.size)
        at += sensor.size
        if sensor.kind == "magnetometer":
            for field, turn in ((before, rotation_before), (after, senses.rotation)):
                expected = np.einsum("nij,i->nj", turn, [0.0, -0.5, 0.0])  # the field, seen from the body
                np.testing.assert_allclose(field[:, columns], expected, atol=ROUNDING)
        elif sensor.kind == "spin":
            c, s = np.cos(by), np.sin(by)
            expected = before[:, columns] @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]).T
            np.testing.assert_allclose(after[:, columns], expected, atol=ROUNDING)
        else:
            np.testing.assert_allclose(after[:, columns], before[:, columns], atol=ROUNDING, err_msg=sensor.name)


@every
def test_sizes_are_those_of_the_specification(agent):
    expected = {"point": (12, 2), "car": (24, 2), "doggo": (56, 12), "racecar": (12, 2), "ant": (40, 8)}[agent.name]
    assert (agent.senses, len(agent.motors)) == expected
    assert agent.timestep_s * 10 == pytest.approx(
        {"point": 0.02, "car": 0.04, "doggo": 0.1, "racecar": 0.04, "ant": 0.1}[agent.name]
    )


@every
def test_an_agent_is_placed_where_it_is_told_and_nowhere_else(agent, rng):
    batch, senses = opened(agent, 5)
    batch.reset(stage=UNTOUCHED)
    untouched = batch.bind("qpos")[[0, 3]].copy()
    ids, xy, rot = np.array([4, 1, 2]), rng.uniform(-3, 3, (3, 2)), rng.uniform(-np.pi, np.pi, 3)
    senses.place(ids, xy, rot)
    batch.forward(stage=CURRENT)
    np.testing.assert_array_equal(batch.bind("qpos")[[0, 3]], untouched)
    np.testing.assert_allclose(senses.position[ids, :2], xy, atol=ROUNDING)
    np.testing.assert_allclose(senses.position[ids, 2], agent.height_m, atol=ROUNDING)
    ahead = np.stack([np.cos(rot), np.sin(rot), np.zeros(3)], axis=1)
    np.testing.assert_allclose(senses.rotation[ids, :, 0], ahead, atol=ROUNDING)
    for start in agent.start:
        address = model_of(agent).joint(start.joint).qposadr[0]
        np.testing.assert_array_equal(batch.bind("qpos")[ids, address], start.angle_rad)


@every
def test_velocity_is_how_fast_the_roots_centre_moves_along_the_ground(agent):
    rows = GOLDEN[agent.name]["states"]["in_the_air"]
    model, (batch, senses) = model_of(agent), opened(agent, len(rows))
    put(batch, rows, "qpos", "qvel")
    for i, row in enumerate(rows):
        data, jacobian = mujoco.MjData(model), np.zeros((3, model.nv))
        data.qpos[:] = row["qpos"]
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_jacBody(model, data, jacobian, None, model.body("agent").id)
        np.testing.assert_allclose(senses.velocity[i], (jacobian @ row["qvel"])[:2], atol=ROUNDING)


@every
def test_an_action_of_one_means_the_end_of_the_actuators_range(agent):
    batch, senses = opened(agent, 3)
    limits = model_of(agent).actuator_ctrlrange[:, 1]
    given = np.array([[1.0], [7.0], [-0.25]]) * np.ones(len(limits))
    senses.drive(given)
    np.testing.assert_allclose(batch.bind("ctrl"), np.array([[1.0], [1.0], [-0.25]]) * limits, rtol=1e-15)
    assert (given[1] == 7.0).all()  # what the caller gave is its own


def test_only_a_fallen_ant_is_dead():
    for agent in EVERY:
        batch, senses = opened(agent, 3)
        batch.reset(stage=UNTOUCHED)
        if not agent.planar:
            batch.bind("qpos")[:, 2] = 0.08, np.nextafter(0.08, 1.0), 0.01
        batch.forward(stage=CURRENT)
        assert senses.alive().tolist() == ([False, True, False] if agent.name == "ant" else [True] * 3)


def outline(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Points of which every solid's surface is spanned, [P, 3]."""
    kinds = mujoco.mjtGeom
    rim = np.linspace(0.0, 2.0 * np.pi, 33)
    circle = np.stack([np.cos(rim), np.sin(rim), np.zeros(33)], axis=1)
    points = []
    for i in range(1, model.ngeom):
        size, kind = model.geom_size[i], model.geom_type[i]
        ends = np.array([[0.0, 0.0, -size[1]], [0.0, 0.0, size[1]]])
        if kind == kinds.mjGEOM_BOX:
            local = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3) * size
        elif kind == kinds.mjGEOM_MESH:
            mesh = model.geom_dataid[i]
            local = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
        elif kind == kinds.mjGEOM_CYLINDER:
            local = np.concatenate([size[0] * circle + end for end in ends])
        else:  # a ball, or one at either end: its widest circle, whichever way it lies
            centres = [[0.0, 0.0, 0.0]] if kind == kinds.mjGEOM_SPHERE else ends
            level = size[0] * circle @ data.geom_xmat[i].reshape(3, 3)
            local = np.concatenate([level + centre for centre in centres])
        points.append(local @ data.geom_xmat[i].reshape(3, 3).T + data.geom_xpos[i])
    return np.concatenate(points)


@every
def test_no_part_is_further_than_its_reach_when_an_episode_starts(agent):
    batch, senses = opened(agent, 3)
    batch.reset(stage=UNTOUCHED)
    widest = np.array([[s.angle(noise * s.noise_rad) for s in agent.start] for noise in (-1.0, 0.0, 1.0)])
    senses.place(np.arange(3), np.zeros((3, 2)), np.zeros(3), widest)
    furthest = 0.0
    for i in range(3):
        data = mujoco.MjData(model_of(agent))
        data.qpos[:] = batch.bind("qpos")[i]
        mujoco.mj_kinematics(model_of(agent), data)
        furthest = max(furthest, np.hypot(*outline(model_of(agent), data)[:, :2].T).max())
    assert agent.reach_m - 0.01 < furthest <= agent.reach_m


def test_two_agents_in_one_model_keep_apart(rng):
    ant, racecar = AGENTS["ant"], AGENTS["racecar"]
    pair = (("left_", ant), ("right_", racecar), ("", racecar))
    spec = mujoco.MjSpec()
    set_clock(spec, ant)
    for prefix, agent in pair:
        add_agent(spec, agent, prefix)
    model = spec.compile()
    batch = Batch(model, nsim=2, nthread=1)
    batch.reset(stage=UNTOUCHED)
    bodies = [Senses(batch, model, agent, prefix) for prefix, agent in pair]
    actions = [rng.uniform(-1, 1, (2, len(agent.motors))) for _, agent in pair]
    for k, (body, action) in enumerate(zip(bodies, actions, strict=True)):
        body.place(np.arange(2), np.full((2, 2), 5.0 * k), np.array([0.3, 0.6 * k]))
        body.drive(action)
    batch.forward(stage=CURRENT)
    for k, (body, action, (_, agent)) in enumerate(zip(bodies, actions, pair, strict=True)):
        alone = mujoco.MjSpec()
        set_clock(alone, ant)
        add_agent(alone, agent)
        one = Batch(alone.compile(), nsim=2, nthread=1)
        one.reset(stage=UNTOUCHED)
        single = Senses(one, alone.compile(), agent)
        single.place(np.arange(2), np.full((2, 2), 5.0 * k), np.array([0.3, 0.6 * k]))
        single.drive(action)
        one.forward(stage=CURRENT)
        np.testing.assert_allclose(sensed(body), sensed(single), atol=ROUNDING)
        np.testing.assert_array_equal(body.position, single.position)
