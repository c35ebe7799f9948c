"""From a World to a MuJoCo model.

A layout never touches the model: the agent and the vases are placed through `qpos`, while hazards and goal, which
touch nothing, exist only as geometry outside it. So one model per world serves every episode.
"""

from __future__ import annotations

import functools

import mujoco

from trueline.safety.worlds.agents import Agent, Joint, Motor, Part, Shape
from trueline.safety.worlds.objects import World

_KIND = {
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
}
_FREEDOM = {
    "slide": mujoco.mjtJoint.mjJNT_SLIDE,
    "hinge": mujoco.mjtJoint.mjJNT_HINGE,
    "ball": mujoco.mjtJoint.mjJNT_BALL,
    "free": mujoco.mjtJoint.mjJNT_FREE,
}
_CONTACT_DIMENSIONS = 6  # sliding, torsional and rolling friction, as everywhere in Safety-Gymnasium
COLOUR = {
    "body": (0.74, 0.04, 0.18, 1.0),
    "front": (0.0, 0.15, 0.4, 1.0),
    "vases": (0.0, 1.0, 1.0, 1.0),
    "goal": (0.0, 1.0, 0.0, 0.25),
    "hazards": (0.0, 0.0, 1.0, 0.25),
}
SENSES = ("accelerometer", "velocimeter", "gyro", "magnetometer")


def vase(i: int) -> str:
    """Name of the i-th vase's body."""
    return f"vase{i}"


def _add_shape(body: mujoco.MjsBody, shape: Shape, density: float) -> None:
    geom = body.add_geom(
        name=shape.name,
        type=_KIND[shape.kind],
        size=[*shape.size_m, 0.0, 0.0][:3],
        friction=shape.friction,
        density=density,
        condim=_CONTACT_DIMENSIONS,
        rgba=COLOUR[shape.colour],
    )
    if shape.axis == "x":
        # Given by its ends: a quaternion of ours would differ in the last bit, and a wheel that starts at exactly the
        # height of the floor would then not touch it.
        (x, y, z), half = shape.at_m, shape.size_m[1]
        geom.fromto = [x - half, y, z, x + half, y, z]
    else:
        geom.pos = shape.at_m


def _add_joint(body: mujoco.MjsBody, joint: Joint) -> None:
    body.add_joint(name=joint.name, type=_FREEDOM[joint.kind], axis=joint.axis, damping=[joint.damping, 0.0, 0.0])


def _add_part(parent: mujoco.MjsBody, part: Part, density: float) -> mujoco.MjsBody:
    body = parent.add_body(name=part.name, pos=part.at_m)
    for joint in part.joints:
        _add_joint(body, joint)
    for shape in part.shapes:
        _add_shape(body, shape, density)
    for child in part.parts:
        _add_part(body, child, density)
    return body


def _add_motor(spec: mujoco.MjSpec, motor: Motor) -> None:
    at_site = motor.drives == "force at site"
    actuator = spec.add_actuator(
        name=motor.name,
        target=motor.target,
        trntype=mujoco.mjtTrn.mjTRN_SITE if at_site else mujoco.mjtTrn.mjTRN_JOINTINPARENT,
        gear=[motor.gear, 0.0, 0.0, 0.0, 0.0, 0.0],
        ctrllimited=True,
        ctrlrange=(-1.0, 1.0),
        forcelimited=True,
        forcerange=(-motor.force_limit, motor.force_limit),
    )
    if motor.drives == "velocity at joint":
        actuator.set_to_velocity(kv=1.0)
    else:
        actuator.set_to_motor()


def _add_senses(spec: mujoco.MjSpec, agent: Agent) -> None:
    site, joint = mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_JOINT
    for name in SENSES:
        kind = getattr(mujoco.mjtSensor, f"mjSENS_{name.upper()}")
        spec.add_sensor(name=name, type=kind, objtype=site, objname=agent.root.name)
    for ball in agent.balls:
        spec.add_sensor(name=f"{ball}_angvel", type=mujoco.mjtSensor.mjSENS_BALLANGVEL, objtype=joint, objname=ball)
        spec.add_sensor(name=f"{ball}_quat", type=mujoco.mjtSensor.mjSENS_BALLQUAT, objtype=joint, objname=ball)


def _add_vases(spec: mujoco.MjSpec, world: World) -> None:
    vases = world.vases
    for i in range(vases.count):
        body = spec.worldbody.add_body(name=vase(i), pos=(0.0, 0.0, vases.half_m - vases.sink_m))
        body.add_freejoint(name=vase(i))
        body.add_geom(
            name=vase(i),
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[vases.half_m] * 3,
            density=vases.density,
            condim=_CONTACT_DIMENSIONS,
            rgba=COLOUR["vases"],
        )
        if vases.constrained:
            spec.add_sensor(
                name=f"touch_{vase(i)}",
                type=mujoco.mjtSensor.mjSENS_CONTACT,
                objtype=mujoco.mjtObj.mjOBJ_BODY,
                objname=vase(i),
                reftype=mujoco.mjtObj.mjOBJ_XBODY,  # the agent with all that hangs on it
                refname=world.agent.root.name,
                intprm=[1, 0, 1],  # report only how many contacts were found
            )


def describe(world: World) -> mujoco.MjSpec:
    """The physics of `world` as an editable MuJoCo specification, agent and vases at the origin."""
    spec = mujoco.MjSpec()
    spec.option.timestep = world.agent.timestep_s
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[3.5, 3.5, 0.1], condim=_CONTACT_DIMENSIONS
    )
    root = _add_part(spec.worldbody, world.agent.root, world.agent.density)
    root.add_site(name=world.agent.root.name)
    for motor in world.agent.motors:
        _add_motor(spec, motor)
    _add_senses(spec, world.agent)
    _add_vases(spec, world)
    return spec


@functools.cache
def compiled(world: World) -> mujoco.MjModel:
    """The model of `world`, compiled once per process."""
    return describe(world).compile()
