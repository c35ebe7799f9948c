"""From a World to a MuJoCo model.

A layout never touches the model: the agent and free bodies are placed through `qpos`, immovable bodies are mocap bodies
placed by their rows of the state, and marks, which touch nothing, exist only as geometry outside it. So one model per
world serves every episode. Bodies come in the original's order, so that contacts do too: agent, free bodies, what
drives them, immovable bodies.
"""

from __future__ import annotations

import functools

import mujoco
import numpy as np

from trueline.safety.worlds.agents import Agent
from trueline.safety.worlds.body import COLOUR as AGENT_COLOUR
from trueline.safety.worlds.body import CONTACT_DIMENSIONS, add_agent, set_clock, upright
from trueline.safety.worlds.costs import SCENERY
from trueline.safety.worlds.objects import Solid, Thing
from trueline.safety.worlds.world import World

GEOM = {
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
}
COLOUR = {
    **AGENT_COLOUR,
    "scenery": (0.6, 0.55, 0.5, 1.0),
}
# Of two agents in one room and of their goals: red and blue.
PAIR_COLOURS = ((0.7412, 0.0431, 0.1843), (0.0039, 0.1529, 0.3961))

_DRIVE = (0.02, 1.5)  # time constant and damping ratio of the weld that pulls a driven body


def puller(thing: Thing) -> tuple[str, ...]:
    """Names of the bodies that are moved by hand: a fixed thing's own, or those that pull a driven thing's."""
    return tuple(f"{name}mocap" for name in thing.each()) if thing.stands == "driven" else thing.each()


def _add_solids(body: mujoco.MjsBody, solids: tuple[Solid, ...], thing: Thing | None) -> None:
    for i, solid in enumerate(solids):
        geom = body.add_geom(
            name=body.name if i == 0 else f"{body.name}_{i}",
            type=GEOM[solid.kind],
            size=[*solid.size_m, 0.0, 0.0][:3],
            pos=solid.at_m,
            condim=CONTACT_DIMENSIONS,
            rgba=thing.colour if thing is not None else COLOUR["scenery"],
        )
        if solid.turn_rad:
            geom.quat = upright(np.array(solid.turn_rad))
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


def _add_touch(spec: mujoco.MjSpec, names: tuple[str, ...], agent: Agent, prefix: str) -> None:
    for name in names:
        spec.add_sensor(
            name=f"{prefix}touch_{name}",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=name,
            reftype=mujoco.mjtObj.mjOBJ_XBODY,  # the agent with all that hangs on it
            refname=prefix + agent.root.name,
            intprm=[1, 0, 1],  # report only how many contacts were found
        )


def describe(world: World, prefixes: tuple[str, ...] = ("",)) -> mujoco.MjSpec:
    """The physics of `world` as an editable MuJoCo specification, everything at the origin.

    With the agent once for each of `prefixes`, with which the names of its parts and sensors then begin.
    """
    spec = mujoco.MjSpec()
    set_clock(spec, world.agent)
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[world.floor_m, world.floor_m, 0.1],
        condim=CONTACT_DIMENSIONS,
    )
    for prefix in prefixes:
        add_agent(spec, world.agent, prefix)
    for stands, add in (("free", _add_free), ("driven", _add_free), ("driven", _add_pullers), ("fixed", _add_fixed)):
        for thing in world.things:
            if thing.stands == stands:
                add(spec, thing)
    if world.scenery:
        _add_solids(spec.worldbody.add_body(name=SCENERY), world.scenery, None)
    for prefix in prefixes:
        for thing in world.things:
            if thing.name in world.touched:
                _add_touch(spec, thing.each(), world.agent, prefix)
        if SCENERY in world.touched:
            _add_touch(spec, (SCENERY,), world.agent, prefix)
    return spec


@functools.cache
def compiled(world: World, sleep: bool = False) -> mujoco.MjModel:
    """The model of `world`, compiled once per process; with `sleep`, bodies at rest are not computed until touched."""
    spec = describe(world)
    if sleep:
        spec.option.enableflags = int(spec.option.enableflags) | int(mujoco.mjtEnableBit.mjENBL_SLEEP)
    return spec.compile()
