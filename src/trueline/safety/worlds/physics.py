"""From a World to a MuJoCo model.

A layout never touches the model: the agent and free bodies are placed through `qpos`, immovable bodies are mocap bodies
placed by their rows of the state, and marks, which touch nothing, exist only as geometry outside it. So one model per
world serves every episode. Bodies come in the original's order, so that contacts do too: agent, free bodies, what
drives them, immovable bodies.
"""

from __future__ import annotations

import functools
import math

import mujoco

from trueline.safety.worlds.agents import Agent, Joint, Motor, Part, Shape
from trueline.safety.worlds.costs import SCENERY
from trueline.safety.worlds.objects import Solid, Thing
from trueline.safety.worlds.world import World

GEOM = {
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
    "scenery": (0.6, 0.55, 0.5, 1.0),
}
SENSES = ("accelerometer", "velocimeter", "gyro", "magnetometer")


_DRIVE = (0.02, 1.5)  # time constant and damping ratio of the weld that pulls a driven body


def upright(turn_rad: float) -> tuple[float, float, float, float]:
    """Quaternion of a turn about the vertical."""
    return (math.cos(turn_rad / 2), 0.0, 0.0, math.sin(turn_rad / 2))


def puller(thing: Thing) -> tuple[str, ...]:
    """Names of the bodies that are moved by hand: a fixed thing's own, or those that pull a driven thing's."""
    return tuple(f"{name}mocap" for name in thing.each()) if thing.stands == "driven" else thing.each()


def _add_shape(body: mujoco.MjsBody, shape: Shape, density: float) -> None:
    geom = body.add_geom(
        name=shape.name,
        type=GEOM[shape.kind],
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


def _add_solids(body: mujoco.MjsBody, solids: tuple[Solid, ...], thing: Thing | None) -> None:
    for i, solid in enumerate(solids):
        geom = body.add_geom(
            name=body.name if i == 0 else f"{body.name}_{i}",
            type=GEOM[solid.kind],
            size=[*solid.size_m, 0.0, 0.0][:3],
            pos=solid.at_m,
            condim=_CONTACT_DIMENSIONS,
            rgba=thing.colour if thing is not None else COLOUR["scenery"],
        )
        if solid.turn_rad:
            geom.quat = upright(solid.turn_rad)
        if thing is not None and thing.moves:
            geom.density = thing.density


def _add_free(spec: mujoco.MjSpec, thing: Thing) -> None:
    for name in thing.each():
        body = spec.worldbody.add_body(name=name, pos=(0.0, 0.0, thing.height_m))
        body.add_freejoint(name=name)
        _add_solids(body, thing.solids, thing)


def _add_pullers(spec: mujoco.MjSpec, thing: Thing) -> None:
    """Bodies that nothing touches, each welded to the free body of the same place."""
    for name, pulled in zip(puller(thing), thing.each(), strict=True):
        spec.worldbody.add_body(name=name, mocap=True, pos=(0.0, 0.0, thing.height_m))
        weld = spec.add_equality(name=name, type=mujoco.mjtEq.mjEQ_WELD, objtype=mujoco.mjtObj.mjOBJ_BODY)
        weld.name1, weld.name2 = name, pulled
        weld.solref = _DRIVE
        weld.data[1] = 0.0  # the default is that of other equalities; here it would shift the anchor by a metre


def _add_fixed(spec: mujoco.MjSpec, thing: Thing) -> None:
    for name in thing.each():
        body = spec.worldbody.add_body(name=name, mocap=True, pos=(0.0, 0.0, thing.height_m))
        _add_solids(body, thing.solids, thing)


def _add_touch(spec: mujoco.MjSpec, names: tuple[str, ...], agent: Agent) -> None:
    for name in names:
        spec.add_sensor(
            name=f"touch_{name}",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=name,
            reftype=mujoco.mjtObj.mjOBJ_XBODY,  # the agent with all that hangs on it
            refname=agent.root.name,
            intprm=[1, 0, 1],  # report only how many contacts were found
        )


def describe(world: World) -> mujoco.MjSpec:
    """The physics of `world` as an editable MuJoCo specification, everything at the origin."""
    spec = mujoco.MjSpec()
    spec.option.timestep = world.agent.timestep_s
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[world.floor_m, world.floor_m, 0.1],
        condim=_CONTACT_DIMENSIONS,
    )
    root = _add_part(spec.worldbody, world.agent.root, world.agent.density)
    root.add_site(name=world.agent.root.name)
    for motor in world.agent.motors:
        _add_motor(spec, motor)
    _add_senses(spec, world.agent)
    for stands, add in (("free", _add_free), ("driven", _add_free), ("driven", _add_pullers), ("fixed", _add_fixed)):
        for thing in world.things:
            if thing.stands == stands:
                add(spec, thing)
    if world.scenery:
        _add_solids(spec.worldbody.add_body(name=SCENERY), world.scenery, None)
    for thing in world.things:
        if thing.name in world.touched:
            _add_touch(spec, thing.each(), world.agent)
    if SCENERY in world.touched:
        _add_touch(spec, (SCENERY,), world.agent)
    return spec


@functools.cache
def compiled(world: World) -> mujoco.MjModel:
    """The model of `world`, compiled once per process."""
    return describe(world).compile()
