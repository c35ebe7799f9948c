"""Lidars and compass: against the original's readings, MuJoCo's rays, and formulas worked out one object at a time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mujoco
import numpy as np
import pytest

from trueline.safety.worlds import WORLDS
from trueline.safety.worlds.lidar import Seen, compass, ego_xy, pseudo_lidar, ray_lidar
from trueline.safety.worlds.objects import Solid, hazards
from trueline.safety.worlds.render import visual_model

GOLDEN = json.loads((Path(__file__).parent / "golden" / "sight.json").read_text())["lidars"]
BINS = 16
ROWS = [
    pytest.param(WORLDS[id].thing(name), row, row["things"][name], id=f"{id}-{k}-{name}")
    for id, rows in GOLDEN.items()
    for k, row in enumerate(rows)
    for name in row["things"]
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def yaws(angles: np.ndarray) -> np.ndarray:
    """Rotation matrices about the vertical.  [N] -> [N, 3, 3]."""
    out = np.zeros((len(angles), 3, 3))
    out[:, 0, 0] = out[:, 1, 1] = np.cos(angles)
    out[:, 1, 0] = np.sin(angles)
    out[:, 0, 1] = -out[:, 1, 0]
    out[:, 2, 2] = 1.0
    return out


# --- pseudo-lidar -----------------------------------------------------------------------------------------------------


def one_ring(points: list[complex], near: object) -> list[float]:
    """The ring of some points, by the definition: `near` tells how near a distance is."""
    out = [0.0] * BINS
    for point in points:
        place = math.atan2(point.imag, point.real) % (2 * math.pi) / (2 * math.pi / BINS)
        k, reading = math.floor(place), near(abs(point))
        for where, share in ((k, 1.0), (k + 1, place - k), (k - 1, 1.0 - (place - k))):
            out[where % BINS] = max(out[where % BINS], share * reading)
    return out


@pytest.mark.parametrize(
    ("sight_m", "gain", "near"),
    [(3.0, 1.0, lambda d: max(0.0, 1.0 - d / 3.0)), (None, 0.7, lambda d: math.exp(-0.7 * d))],
    ids=["range", "exponential"],
)
def test_rings_read_the_nearest_object_of_each_bin(sight_m, gain, near, rng):
    ring = np.array([0, 1, 1, 1, 1, 1, 2, 2])
    ego = rng.normal(size=(50, 8)) + 1j * rng.normal(size=(50, 8))
    ego[:4, 0] = 1.0, -1.0, 1j, complex(1.0, -1e-300)  # on the border of bins; the last rounds up to a full turn
    readings = pseudo_lidar(ego, ring, 3, BINS, sight_m, gain).reshape(50, 3, BINS)
    for row, objects in zip(readings, ego, strict=True):
        by_hand = [one_ring([complex(z) for z in objects[ring == k]], near) for k in range(3)]
        np.testing.assert_allclose(row, by_hand, atol=1e-12)


def test_readings_that_do_not_leak_stay_in_their_bin(rng):
    ego = rng.normal(size=(20, 1)) + 1j * rng.normal(size=(20, 1))
    ring = np.zeros(1, np.intp)
    apart, leaking = (pseudo_lidar(ego, ring, 1, BINS, 6.0, leaks=leaks) for leaks in (False, True))
    assert ((apart > 0).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(apart.max(axis=1), leaking.max(axis=1))
    np.testing.assert_array_equal(apart.argmax(axis=1), leaking.argmax(axis=1))


def test_environments_do_not_see_each_other(rng):
    ring = np.repeat([0, 1], [1, 4])
    ego = rng.normal(size=(9, 5)) + 1j * rng.normal(size=(9, 5))
    together = pseudo_lidar(ego, ring, 2, BINS, 3.0)
    alone = [pseudo_lidar(ego[i : i + 1], ring, 2, BINS, 3.0)[0] for i in range(9)]
    np.testing.assert_array_equal(together, alone)


def floor(row: dict[str, list[list[float]]]) -> np.ndarray:
    """What the rays of a tilted agent read of the floor [bins]: MuJoCo 2.3.3 let every ray see planes, 4 does not."""
    angles = 2 * np.pi * np.arange(BINS) / BINS
    along = np.array(row["rotation"]) @ [np.cos(angles), np.sin(angles), np.zeros(BINS)]
    distance = row["agent"][2] / np.where(along[2] < 0, -along[2], 1e-300)
    meets = np.abs(np.array(row["agent"])[:2, None] + distance * along[:2]).max(axis=0) <= 3.5  # half the floor's side
    return np.where(meets, np.exp(-distance), 0.0)


@pytest.mark.parametrize(("thing", "row", "seen"), ROWS)
def test_other_lidars_and_the_compass_read_what_the_original_reads(thing, row, seen):
    position, rotation = np.array([row["agent"]]), np.array([row["rotation"]])
    places, quats = np.array([seen["places"]]), np.array([seen["quats"]])
    ego, ring = ego_xy(places[:, :, :2], position, rotation), np.zeros(places.shape[1], np.intp)
    exponential = pseudo_lidar(ego, ring, 1, BINS, None, gain_per_m=0.7)
    apart = pseudo_lidar(ego, ring, 1, BINS, 3.0, leaks=False)
    rays = ray_lidar(position, rotation, [Seen(thing.solids, places, quats if thing.moves else None)], BINS)
    nanometre = 1e-9
    np.testing.assert_allclose(exponential[0], seen["exponential"], atol=nanometre)
    np.testing.assert_allclose(apart[0], seen["apart"], atol=nanometre)
    np.testing.assert_allclose(np.maximum(rays[0], floor(row)), seen["rays"], atol=nanometre)
    for axes, there in zip((2, 3), seen["compass"], strict=True):
        np.testing.assert_allclose(compass(places[:, 0], position, rotation, axes)[0], there, atol=nanometre)


def test_the_golden_rays_meet_what_they_are_compared_for():
    met = set()
    for thing, row, seen in (param.values for param in ROWS):
        if (seen["rays"] > floor(row) + 0.01).any():
            met.add(thing.name)
    assert met == {"hazards", "pillars", "push_box", "vases", "buttons"}


# --- rays -------------------------------------------------------------------------------------------------------------


def scattered(id: str, rng: np.random.Generator) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Everything anywhere, free bodies and free agents turned anyhow."""
    world = WORLDS[id]
    model = visual_model(world)
    data = mujoco.MjData(model)
    data.qpos[:] = rng.normal(size=model.nq)
    mujoco.mj_normalizeQuat(model, data.qpos)
    if not world.agent.planar:
        data.qpos[:3] = *rng.uniform(-1, 1, 2), rng.uniform(0.0, 0.3)
    for thing in world.things:
        for name in thing.each():
            place = (*rng.uniform(-1.5, 1.5, 2), thing.height_m)
            if thing.moves:
                data.joint(name).qpos[:3] = place
            else:
                data.mocap_pos[model.body(name).mocapid[0]] = place
    mujoco.mj_forward(model, data)
    return model, data


def mujoco_rays(model: mujoco.MjModel, data: mujoco.MjData, names: tuple[str, ...]) -> list[float]:
    """exp(−distance) of MuJoCo's rays that see these bodies alone, 0 where they meet none."""
    model.geom_group[:] = 0
    for name in names:
        body = model.body(name)
        model.geom_group[body.geomadr[0] : body.geomadr[0] + body.geomnum[0]] = 1
    agent, only, out = data.body("agent"), np.array([0, 1, 0, 0, 0, 0], np.uint8), []
    for k in range(BINS):
        angle = 2 * np.pi * k / BINS
        along = agent.xmat.reshape(3, 3) @ [np.cos(angle), np.sin(angle), 0.0]
        distance = mujoco.mj_ray(model, data, agent.xpos, along, only, 1, agent.id, np.zeros(1, np.int32))
        out.append(math.exp(-distance) if distance >= 0 else 0.0)
    model.geom_group[:] = 0
    return out


@pytest.mark.parametrize(
    "id", ["SafetyPointGoal2-v0", "SafetyCarPush2-v0", "SafetyCarButton2-v0", "SafetyCarCircle0-v0"]
)
def test_rays_are_those_of_mujoco(id, rng):
    rings, met = WORLDS[id].rings, 0
    for _ in range(20):
        model, data = scattered(id, rng)
        agent, seen = data.body("agent"), []
        for thing in rings:
            bodies = [data.body(name) for name in thing.each()]
            places = np.array([[body.xpos for body in bodies]])
            seen.append(
                Seen(thing.solids, places, np.array([[body.xquat for body in bodies]]) if thing.moves else None)
            )
        ours = ray_lidar(agent.xpos[None], agent.xmat.reshape(1, 3, 3), seen, BINS).reshape(-1, BINS)
        theirs = [mujoco_rays(model, data, thing.each()) for thing in rings]
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
        met += np.count_nonzero(theirs)
    assert met > 50


def test_from_within_a_solid_rays_read_the_way_out():
    # In the middle of a box of half-sides 1 and 2: rays along x leave after 1, along y after 2, diagonally after √2.
    middle, ahead = np.zeros((1, 3)), np.eye(3)[None]
    box = Seen((Solid("box", (1.0, 2.0, 1.0)),), np.zeros((1, 1, 3)))
    np.testing.assert_allclose(-np.log(ray_lidar(middle, ahead, [box], 8)[0]), [1, 2**0.5, 2, 2**0.5] * 2)
    for round_one in (Solid("sphere", (0.5,)), Solid("cylinder", (0.5, 0.2))):
        way_out = -np.log(ray_lidar(middle, ahead, [Seen((round_one,), np.zeros((1, 1, 3)))], 8)[0])
        np.testing.assert_allclose(way_out, 0.5)


def test_rays_of_a_level_agent_pass_over_what_lies_below():
    position, level = np.array([[0.0, 0.0, 0.1]]), np.eye(3)[None]
    hazard = Seen(hazards(1).solids, np.array([[[1.0, 0.0, 0.02]]]))
    assert not ray_lidar(position, level, [hazard], BINS).any()
    nod = math.atan2(0.08, 1.0)  # nose down, so that the ray ahead meets the middle of its top edge on the way
    tilted = np.array([[[math.cos(nod), 0.0, math.sin(nod)], [0.0, 1.0, 0.0], [-math.sin(nod), 0.0, math.cos(nod)]]])
    # The ray falls 0.08 per metre and meets the disc's top, 0.03 above the floor, at x = 0.07/0.08.
    np.testing.assert_allclose(-np.log(ray_lidar(position, tilted, [hazard], BINS)[0, 0]), 0.875 / math.cos(nod))


def test_turning_the_agent_by_a_bin_turns_its_rings_by_a_bin(rng):
    angles = rng.uniform(-np.pi, np.pi, 6)
    position = np.column_stack([rng.uniform(-1, 1, (6, 2)), np.full(6, 0.1)])
    places = np.concatenate([rng.uniform(-2, 2, (6, 4, 2)), np.full((6, 4, 1), 0.1)], axis=2)
    ball, ring = Seen((Solid("sphere", (0.3,)),), places), np.zeros(4, np.intp)
    kinds = (
        lambda turned: ray_lidar(position, turned, [ball], BINS),
        lambda turned: pseudo_lidar(ego_xy(places[:, :, :2], position, turned), ring, 1, BINS, 3.0),
    )
    for lidar in kinds:
        before, after = lidar(yaws(angles)), lidar(yaws(angles + 2 * np.pi / BINS))
        assert before.any()
        np.testing.assert_allclose(after, np.roll(before, -1, axis=1), atol=1e-9)


# --- compass ----------------------------------------------------------------------------------------------------------


def test_the_compass_points_from_the_agent_to_the_place(rng):
    angles = rng.uniform(-np.pi, np.pi, 20)
    position, place = rng.normal(size=(2, 20, 3))
    away = place - position
    flat = np.hypot(away[:, 0], away[:, 1])
    pointer = compass(place, position, yaws(angles))
    bearing = np.arctan2(away[:, 1], away[:, 0]) - angles
    np.testing.assert_allclose(np.exp(1j * np.arctan2(pointer[:, 1], pointer[:, 0])), np.exp(1j * bearing), atol=1e-12)
    np.testing.assert_allclose(np.hypot(*pointer.T), flat / (flat + 0.001))
    whole, length = compass(place, position, yaws(angles), 3), np.linalg.norm(away, axis=1)
    np.testing.assert_allclose(whole[:, 2], away[:, 2] / (length + 0.001))
    assert not compass(position, position, yaws(angles)).any(), "no direction leads to where one is"
