"""An agent's body in a MuJoCo model, and the same body in a batch of simulations: placed, driven and sensing.

`add_agent` writes what `agents` holds as data into a MuJoCo specification. `Senses` finds it again in a batch and fills
the agent's part of the flat observation, in the original's order, for all simulations at once.
"""

from __future__ import annotations

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from trueline.safety.worlds.agents import Agent, Joint, Motor, Part, Sensor, Shape

Array = NDArray[np.float64]

CONTACT_DIMENSIONS = 6  # sliding, torsional and rolling friction, as everywhere in Safety-Gymnasium
COLOUR = {
    "body": (0.74, 0.04, 0.18, 1.0),
    "front": (0.0, 0.15, 0.4, 1.0),
    "limb": (0.8, 0.6, 0.4, 1.0),
    "tyre": (0.1, 0.1, 0.1, 1.0),
}
_UNSEEN = (0.0, 0.0, 0.0, 0.0)
_SOLID = {
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "hull": mujoco.mjtGeom.mjGEOM_MESH,
}
_FREEDOM = {
    "slide": mujoco.mjtJoint.mjJNT_SLIDE,
    "hinge": mujoco.mjtJoint.mjJNT_HINGE,
    "ball": mujoco.mjtJoint.mjJNT_BALL,
    "free": mujoco.mjtJoint.mjJNT_FREE,
}
_INTEGRATOR = {
    "Euler": mujoco.mjtIntegrator.mjINT_EULER,
    "RK4": mujoco.mjtIntegrator.mjINT_RK4,
}
_SITE, _JOINT = mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_JOINT
_SENSES = {
    "accelerometer": (mujoco.mjtSensor.mjSENS_ACCELEROMETER, _SITE),
    "velocimeter": (mujoco.mjtSensor.mjSENS_VELOCIMETER, _SITE),
    "gyro": (mujoco.mjtSensor.mjSENS_GYRO, _SITE),
    "magnetometer": (mujoco.mjtSensor.mjSENS_MAGNETOMETER, _SITE),
    "touch": (mujoco.mjtSensor.mjSENS_TOUCH, _SITE),
    "joint speed": (mujoco.mjtSensor.mjSENS_JOINTVEL, _JOINT),
    "ball spin": (mujoco.mjtSensor.mjSENS_BALLANGVEL, _JOINT),
    "height": (mujoco.mjtSensor.mjSENS_FRAMEPOS, _SITE),
    "spin": (mujoco.mjtSensor.mjSENS_FRAMEANGVEL, _SITE),
    "joint angle": (mujoco.mjtSensor.mjSENS_JOINTPOS, _JOINT),
    "ball turn": (mujoco.mjtSensor.mjSENS_BALLQUAT, _JOINT),
}
Run = tuple[int, int, int]  # first source column, first target column, how many


def set_clock(spec: mujoco.MjSpec, agent: Agent) -> None:
    """The physics step and the integrator that an agent was made for."""
    spec.option.timestep = agent.timestep_s
    spec.option.integrator = _INTEGRATOR[agent.integrator]


def add_agent(spec: mujoco.MjSpec, agent: Agent, prefix: str = "") -> mujoco.MjsBody:
    """Put an agent at the origin of a specification -> its root body; angles of `spec` are radians from then on.

    Names of all that is added begin with `prefix`, so that several agents can stand in one model.
    """
    spec.compiler.degree = False
    root = _add_part(spec, spec.worldbody, agent.root, agent.density, prefix)
    for motor in agent.motors:
        _add_motor(spec, motor, prefix)
    for sensor in agent.sensors:
        _add_sensor(spec, sensor, prefix)
    for one, other in agent.apart:
        spec.add_exclude(bodyname1=prefix + one, bodyname2=prefix + other)
    for one, other in agent.alike:
        # Left to itself, such an equation says that the angles are the same.
        spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, objtype=_JOINT, name1=prefix + one, name2=prefix + other)
    return root


def _add_part(spec: mujoco.MjSpec, parent: mujoco.MjsBody, part: Part, density: float, prefix: str) -> mujoco.MjsBody:
    body = parent.add_body(name=prefix + part.name, pos=part.at_m, quat=part.quat)
    if part.inertia is not None:
        body.explicitinertial = True
        body.mass, body.inertia = part.inertia.mass, part.inertia.moments
        body.ipos, body.iquat = part.inertia.at_m, part.inertia.quat
    for joint in part.joints:
        _add_joint(body, joint, prefix)
    for shape in part.shapes:
        _add_shape(spec, body, shape, density, prefix)
    for site in part.sites:
        body.add_site(name=prefix + site.name, pos=site.at_m, size=[site.radius_m, 0.0, 0.0], rgba=_UNSEEN)
    for child in part.parts:
        _add_part(spec, body, child, density, prefix)
    return body


def _add_joint(body: mujoco.MjsBody, joint: Joint, prefix: str) -> None:
    body.add_joint(
        name=prefix + joint.name,
        type=_FREEDOM[joint.kind],
        axis=joint.axis,
        damping=[joint.damping, 0.0, 0.0],
        armature=joint.armature,
        stiffness=[joint.stiffness, 0.0, 0.0],
        springref=joint.rest_rad,
        limited=joint.range_rad is not None,
        range=joint.range_rad or (0.0, 0.0),
    )


def _add_shape(spec: mujoco.MjSpec, body: mujoco.MjsBody, shape: Shape, density: float, prefix: str) -> None:
    geom = body.add_geom(
        name=prefix + shape.name,
        type=_SOLID[shape.kind],
        size=[*shape.size_m, 0.0, 0.0, 0.0][:3],
        friction=shape.friction,
        density=density if shape.density is None else shape.density,
        condim=CONTACT_DIMENSIONS,
        rgba=COLOUR[shape.colour],
    )
    if shape.ends_m is not None:
        # A quaternion of ours would differ in the last bit, and a wheel that starts at exactly the height of the floor
        # would then not touch it.
        geom.fromto = [*shape.ends_m[0], *shape.ends_m[1]]
    else:
        geom.pos, geom.quat = shape.at_m, shape.quat
    if shape.corners_m:
        spec.add_mesh(name=prefix + shape.name, uservert=np.ravel(shape.corners_m))
        geom.meshname = prefix + shape.name


def _add_motor(spec: mujoco.MjSpec, motor: Motor, prefix: str) -> None:
    limit, at_site = motor.force_limit, motor.drives == "force at site"
    actuator = spec.add_actuator(
        name=prefix + motor.name,
        target=prefix + motor.target,
        trntype=mujoco.mjtTrn.mjTRN_SITE if at_site else mujoco.mjtTrn.mjTRN_JOINT,
        gear=[motor.gear, 0.0, 0.0, 0.0, 0.0, 0.0],
        ctrllimited=True,
        ctrlrange=(-motor.control_limit, motor.control_limit),
        forcelimited=limit is not None,
        forcerange=(0.0, 0.0) if limit is None else (-limit, limit),
    )
    if motor.drives == "velocity at joint":
        actuator.set_to_velocity(kv=1.0)
    elif motor.drives == "angle at joint":
        actuator.set_to_position(kp=1.0)
    else:
        actuator.set_to_motor()


def _add_sensor(spec: mujoco.MjSpec, sensor: Sensor, prefix: str) -> None:
    kind, at = _SENSES[sensor.kind]
    spec.add_sensor(name=prefix + sensor.name, type=kind, objtype=at, objname=prefix + sensor.target)


def upright(rot: Array) -> Array:
    """Quaternions of turns about the vertical.  rot [...] radians -> [..., 4].

    Normalised although it hardly needs to be: MuJoCo 2.3.3 did so where the original built its models, and whether a
    wheel that starts at exactly the height of the floor touches it hangs on the last bit.
    """
    quat = np.zeros((*rot.shape, 4))
    quat[..., 0], quat[..., 3] = np.cos(rot / 2), np.sin(rot / 2)
    return quat / np.sqrt(np.square(quat).sum(axis=-1, keepdims=True))


def _rotation_terms() -> tuple[NDArray[np.intp], Array]:
    """Entries of (q ⊗ q).flat and signs, each [4, 9]: R.flat is the sum of four such terms for a unit quaternion q.

    R is the rotation matrix of q = (w, x, y, z).
    """
    w, x, y, z = range(4)
    terms: list[list[tuple[int, int, int]]] = [[]] * 9
    # On the diagonal w² plus the square of the axis itself, minus the other two.
    for entry, own, one, other in ((0, x, y, z), (4, y, x, z), (8, z, x, y)):
        terms[entry] = [(w, w, 1), (own, own, 1), (one, one, -1), (other, other, -1)]
    # Off it 2(ab ± wc): entries (0,1), (1,0) have c = z, and so on round the axes.
    for a, b, c, plus, minus in ((x, y, z, 3, 1), (z, x, y, 2, 6), (y, z, x, 7, 5)):
        for entry, sign in ((plus, 1), (minus, -1)):
            terms[entry] = 2 * [(a, b, 1)] + 2 * [(w, c, sign)]
    table = np.array(terms).transpose(1, 0, 2)
    return 4 * table[..., 0] + table[..., 1], table[..., 2].astype(np.float64)


_ENTRIES, _SIGNS = _rotation_terms()


def rotations(quat: Array) -> Array:
    """Rotation matrices, row by row, of unit quaternions [N, 4].  [N, 9]

    Terms are added one after the other: a matrix product rounds a row by where it stands among the others.
    """
    terms = (quat[:, :, None] * quat[:, None, :]).reshape(-1, 16).take(_ENTRIES, axis=1)
    terms *= _SIGNS
    return terms[:, 0] + terms[:, 1] + terms[:, 2] + terms[:, 3]


def _extended(runs: list[Run], source: int, target: int, count: int, step: int = 1) -> list[Run]:
    """`runs` with one more, joined to the last where both its columns go on; a source column fills `step` targets."""
    if runs:
        first, into, many = runs[-1]
        if (first + many, into + step * many) == (source, target):
            return [*runs[:-1], (first, into, many + count)]
    return [*runs, (source, target, count)]


class Senses:
    """One agent in each of a batch's N simulations: where it is, what it senses, how it is placed and driven.

    `position` [N, 3] metres, `rotation` [N, 3, 3] and `velocity` along the ground [N, 2] m/s, all of the root part, are
    live views of the batch, as fresh as its last call; `control` [N, A] is what its next call will use.
    """

    def __init__(self, batch: Batch, model: mujoco.MjModel, agent: Agent, prefix: str = "") -> None:
        self.agent = agent
        n, root = batch.nsim, model.body(prefix + agent.root.name).id
        self.position: Array = batch.bind("xpos")[:, root]
        self.rotation: Array = batch.bind("xmat")[:, root].reshape(n, 3, 3)
        motors = [model.actuator(prefix + motor.name).id for motor in agent.motors]
        self.control: Array = batch.bind("ctrl")[:, motors[0] : motors[-1] + 1]
        limits = np.array(agent.control_high)
        self._stretch = None if (limits == 1.0).all() else limits
        self._find_joints(batch, model, root, prefix)
        self._find_sensors(batch, model, prefix)

    def _find_joints(self, batch: Batch, model: mujoco.MjModel, root: int, prefix: str) -> None:
        joints = np.flatnonzero(model.body_rootid[model.jnt_bodyid] == root)
        first = model.jnt_qposadr[joints[0]]
        last = model.jnt_qposadr[joints[-1] + 1] if joints[-1] + 1 < model.njnt else model.nq
        along = model.jnt_dofadr[joints[0]]  # of every agent the first two velocities are those along the ground
        self.velocity: Array = batch.bind("qvel")[:, along : along + 2]
        self._joints: Array = batch.bind("qpos")[:, first:last]
        self._rest: Array = model.qpos0[first:last].copy()
        self._start = [model.joint(prefix + start.joint).qposadr[0] - first for start in self.agent.start]
        self._rest[self._start] = [start.angle_rad for start in self.agent.start]

    def _find_sensors(self, batch: Batch, model: mujoco.MjModel, prefix: str) -> None:
        """Which columns of the sensor data become which of the observation, in as few runs as possible."""
        copies: list[Run] = []
        angles: list[Run] = []
        turns: list[Run] = []
        at = 0
        for sensor in self.agent.sensors:
            source = int(model.sensor(prefix + sensor.name).adr[0])
            if sensor.kind == "joint angle":
                angles = _extended(angles, source, at, 1, step=2)
            elif sensor.kind == "ball turn":
                turns.append((source, at, 1))
            else:
                up = 2 if sensor.kind == "height" else 0  # of x, y and z only the last
                copies = _extended(copies, source + up, at, sensor.size)
            at += sensor.size
        data = batch.bind("sensordata")
        self._copies = [(data[:, s : s + k], slice(t, t + k)) for s, t, k in copies]
        self._angles = [(data[:, s : s + k], slice(t, t + 2 * k, 2), slice(t + 1, t + 2 * k, 2)) for s, t, k in angles]
        self._turns = [(data[:, s : s + 4], slice(t, t + 9)) for s, t, _ in turns]

    def read(self, out: Array) -> None:
        """Fill out[:, :agent.senses] of out [N, ≥ agent.senses] with the batch's present sensor data."""
        for data, columns in self._copies:
            out[:, columns] = data
        for data, sines, cosines in self._angles:
            np.sin(data, out=out[:, sines])
            np.cos(data, out=out[:, cosines])
        for quat, columns in self._turns:
            out[:, columns] = rotations(quat)

    def place(self, ids: NDArray[np.intp], xy: Array, rot: Array, angles: Array | None = None) -> None:
        """Set the joints of simulations `ids` [K]: root at xy [K, 2] metres, turned by rot [K] radians, upright.

        `angles` [K, J] radians are those of `agent.start`'s hinges, without noise when None. Other joints go to rest.
        Velocities stay as they are: a reset of the batch, which comes before, puts them to 0.
        """
        pose = np.tile(self._rest, (len(ids), 1))
        pose[:, :2] = xy
        if self.agent.planar:
            pose[:, 2] = rot
        else:
            pose[:, 2], pose[:, 3:7] = self.agent.height_m, upright(rot)
        if angles is not None:
            pose[:, self._start] = angles
        self._joints[ids] = pose

    def drive(self, actions: NDArray[np.floating]) -> None:
        """Controls from actions [N, A]: clipped to [-1, 1], then stretched once to each actuator's range."""
        np.minimum(actions, 1.0, out=self.control)  # np.clip, without its ten microseconds
        np.maximum(self.control, -1.0, out=self.control)
        if self._stretch is not None:
            self.control *= self._stretch

    def alive(self) -> NDArray[np.bool_]:
        """Which agents live [N]: those whose root is above `agent.alive_above_m`, everyone where that is None."""
        if self.agent.alive_above_m is None:
            return np.ones(len(self.position), dtype=bool)
        return self.position[:, 2] > self.agent.alive_above_m
