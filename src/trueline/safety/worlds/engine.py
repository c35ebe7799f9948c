"""N navigation worlds at once on MuJoCo's batch of simulations.

One control step of all environments: write the controls, ten physics steps each with the sensors brought up to the
new state, then reward, costs, goals reached, ends and observations as arrays [N, …]. The order is that of
Safety-Gymnasium: reward, cost, new goal, observation.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.batch import SimulationError
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.rl.env import Obs, Step
from trueline.safety.worlds.body import Senses, upright
from trueline.safety.worlds.checks import (
    closed,
    read_actions,
    read_goals,
    read_rows,
    read_scales,
    read_seeds,
    refuse_another,
    refuse_counts,
    refuse_layouts,
    refuse_no_row,
    seeded,
)
from trueline.safety.worlds.costs import SCENERY
from trueline.safety.worlds.layout import Layout, Stream, Unplaceable, draw_goal, draw_layout, read_layout
from trueline.safety.worlds.lidar import Seen, compass, ego_xy, pseudo_lidar, ray_lidar
from trueline.safety.worlds.physics import COLOUR, compiled, puller
from trueline.safety.worlds.scene import Array, Scene
from trueline.safety.worlds.simulations import simulations
from trueline.safety.worlds.world import World

if TYPE_CHECKING:
    from trueline.safety.worlds.render import Mode
    from trueline.safety.worlds.viewer import Window

_CURRENT = int(mujoco.mjtStage.mjSTAGE_ACC)  # the accelerometer belongs to the new state too
_UNTOUCHED = int(mujoco.mjtStage.mjSTAGE_NONE)
_MOCAP_POSITIONS = int(mujoco.mjtState.mjSTATE_MOCAP_POS)
_ABSURD = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
_DIVERGED_REWARD = -10.0
VISION, _PICTURE = "vision", (256, 256)  # what the agent's camera sees, height and width


def _space(name: str, shape: tuple[int, ...]) -> gym.spaces.Box:
    """Of one part of the observation, bounded as in the original."""
    low, high = (0.0, 1.0) if name.endswith("_lidar") else (-1.0, 1.0) if name.endswith("_comp") else (-np.inf, np.inf)
    return gym.spaces.Box(low, high, shape, np.float64)


def _yaw(quat: Array) -> float:
    """Turn about the vertical, radians, of one quaternion [4]."""
    w, x, y, z = quat
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


class NavigationWorlds:
    """N copies of one world; see `trueline.rl.env` for the contract.

    It is a VectorEnv that is also Stateful, Perturbable, LaidOut and Visible.
    """

    perturbations = ("mass", "friction", "gear")
    render_modes = ("human", "rgb", "depth", "segmentation")

    def __init__(
        self,
        id: str,
        world: World,
        num_envs: int,
        threads: int = 1,
        costs: Literal["sum", "split"] = "sum",
        seed: int = 0,
        physics: Literal["exact", "sleep"] = "exact",
        observe: Literal["flat", "parts", "vision"] = "flat",
    ) -> None:
        for option, given, known in (
            ("costs", costs, ("sum", "split")),
            ("physics", physics, ("exact", "sleep")),
            ("observe", observe, ("flat", "parts", "vision")),
        ):
            if given not in known:
                raise ConfigError(f"{option} is {given!r} for {id}. Give {' or '.join(map(repr, known))}.")
        refuse_counts(id, num_envs, threads)
        if costs == "split" and not world.constraints:
            raise ConfigError(f"{id} has no constraint, so its costs cannot be split. Use costs='sum', always 0 here.")
        self.id, self.world, self.num_envs = id, world, num_envs
        self.costs = world.constraints if costs == "split" else ("cost_sum",)
        self.max_episode_steps = world.steps
        self.interval_s = world.substeps * world.agent.timestep_s  # of a step
        self._observe_as = observe
        self.observation_parts = {name: _space(name, shape) for name, shape in world.parts.items()}
        self.observation_space = self._space()
        self.action_space = gym.spaces.Box(-1.0, 1.0, (len(world.agent.motors),), np.float64)
        self._native = np.array(world.agent.control_low), np.array(world.agent.control_high)
        low, high = (limit.astype(np.float32).astype(np.float64) for limit in self._native)  # rounded as the original's
        self.native_action_space = gym.spaces.Box(low, high, dtype=np.float64)
        self.autoreset = True  # False: rows that ended wait for `begin`
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self._seeds = seeded(id, seed)
        self.seed_source = self._own_seeds
        self._split = costs == "split"
        self._streams = [Stream(0) for _ in range(num_envs)]
        self._layouts: list[Layout] = []  # where each running episode started; empty before the first reset
        self._elapsed = np.zeros(num_envs, np.int64)  # control steps of the running episode
        self._settled = np.zeros(num_envs, np.int64)  # … of which the random stream has seen so many
        self._scales: dict[str, Array] = {}
        self._painters: dict[tuple[int, int], Any] = {}
        self._open_batch(threads, physics == "sleep")
        self._set_scene()
        self._measured = world.task.measure(self._scene)  # what the next reward compares with [N, m]
        self._last = np.zeros((num_envs, world.observation_size))  # the observations made last, in their flat form

    # --- construction ----------------------------------------------------------------------------------------------

    def _space(self) -> gym.Space[Any]:
        """Of the observations in their form."""
        if self._observe_as == "flat":
            return gym.spaces.Box(-np.inf, np.inf, (self.world.observation_size,), np.float64)
        spaces: OrderedDict[str, gym.Space[Any]] = OrderedDict(self.observation_parts)  # a plain dict would be sorted
        if self._observe_as == "vision":
            spaces[VISION] = gym.spaces.Box(0, 255, (*_PICTURE, 3), np.uint8)
        return gym.spaces.Dict(spaces)

    def _open_batch(self, threads: int, sleep: bool) -> None:
        model, agent = compiled(self.world, sleep), self.world.agent
        self._model = model
        # What sleeps is remembered in simulations that persist, and nowhere else.
        self._batch = simulations(model, self.num_envs, threads, persistent=sleep)
        bind = self._batch.bind
        self._qpos, self._qvel, self._time = bind("qpos"), bind("qvel"), bind("time")
        self._sensors = bind("sensordata")
        # How often positions, velocities or accelerations were not numbers or too large [N, 3].
        self._absurd = self._batch.warning[:, int(_ABSURD[0]) : int(_ABSURD[-1]) + 1, 1]
        self._body = Senses(self._batch, model, agent)
        self._position, self._rotation, self._ctrl = self._body.position, self._body.rotation, self._body.control

    def _set_scene(self) -> None:
        """Arrays of where things are, [N, M, 3], those the lidar shows first; parts of it as views by name."""
        world, n, model = self.world, self.num_envs, self._model
        rings = world.rings
        shown = sum(thing.count for thing in rings)
        self._all = np.zeros((n, sum(thing.count for thing in world.things), 3))
        self._shown = self._all[:, :shown]
        self._ring = np.repeat(np.arange(len(rings)), [thing.count for thing in rings])
        self._poses: dict[str, Array] = {}  # [N, k, 7] of free bodies, within qpos
        self._pulls: dict[str, tuple[Array, Array]] = {}  # [N, k, 3] and [N, k, 4] of bodies moved by hand
        scene = Scene(
            agent=self._position,
            rotation=self._rotation,
            velocity=self._body.velocity,
            places={},
            speeds={},
            touches={},
            chosen=np.zeros(n, np.intp),
            wait=np.zeros(n, np.int64),
        )
        at = 0
        for thing in (*rings, *(thing for thing in world.things if not thing.seen)):
            k = thing.count
            places = scene.places[thing.name] = self._all[:, at : at + k]
            places[:, :, 2] = thing.height_m
            at += k
            if thing.moves:
                joint = model.joint(thing.each()[0])
                q, v = joint.qposadr[0], joint.dofadr[0]
                self._poses[thing.name] = self._qpos[:, q : q + 7 * k].reshape(n, k, 7)
                scene.speeds[thing.name] = self._qvel[:, v : v + 6 * k].reshape(n, k, 6)[:, :, :3]
            if thing.stands in ("fixed", "driven"):
                m = model.body(puller(thing)[0]).mocapid[0]
                bind = self._batch.bind
                self._pulls[thing.name] = bind("mocap_pos")[:, m : m + k], bind("mocap_quat")[:, m : m + k]
                self._pulls[thing.name][0][:, :, 2] = thing.height_m
            if thing.name in world.touched:
                touch = model.sensor(f"touch_{thing.each()[0]}").adr[0]
                scene.touches[thing.name] = self._sensors[:, touch : touch + k]
        if SCENERY in world.touched:
            touch = model.sensor(f"touch_{SCENERY}").adr[0]
            scene.touches[SCENERY] = self._sensors[:, touch : touch + 1]
        self._faded = {fade.of: np.zeros(n, np.int64) for fade in world.fades}  # steps since last seen in full
        self._scene = scene
        self._centres = {thing.name: np.zeros((n, thing.count, 2)) for thing in world.things}  # of what circles
        self._driven = tuple(thing for thing in world.things if thing.stands == "driven")
        self._hidden = next((i for i, thing in enumerate(rings) if thing.name == world.task.target), None)

    def _own_seeds(self, n: int) -> NDArray[np.uint32]:
        return self._seeds.integers(0, 2**32, n, dtype=np.uint32)

    # --- episodes --------------------------------------------------------------------------------------------------

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Obs:
        """Start a new episode everywhere; seeds [N] or None -> observations [N, O], or a dict of arrays by part.

        Raises ConfigError naming the object for which a layout has no room.
        """
        everyone = np.arange(self.num_envs)
        given = self.seed_source(self.num_envs) if seeds is None else read_seeds(self.id, seeds, self.num_envs)
        self._reseed(everyone, given)
        self._begin(everyone)
        return self._formed(self._observe())

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[Any] | None = None) -> Obs:
        """Start new episodes in `rows` alone, at any time; returns the observations of all.

        From `seeds` [len(rows)], or without them from where each row's random stream stands, as the original goes on;
        `episode_seed` then still says where the stream began.
        """
        if not self._layouts:
            raise ConfigError(f"{self.id} was given rows to begin before its first reset. Call reset() once.")
        ids = read_rows(self.id, rows, self.num_envs)
        if seeds is not None:
            self._reseed(ids, read_seeds(self.id, seeds, len(ids)))
        else:
            for i in ids.tolist():
                self._catch_up(i)
        if len(ids):
            self._begin(ids)
        return self._formed(self._observe())

    def _begin(self, ids: NDArray[np.intp]) -> None:
        try:
            layouts = [draw_layout(self.world, self._streams[i]) for i in ids.tolist()]
        except Unplaceable as stuck:
            raise stuck.refusal(self.id, self.world.extent_m) from None
        self._arrange(ids, layouts)

    def _reseed(self, ids: NDArray[np.intp], seeds: NDArray[Any]) -> None:
        if seeds.shape != ids.shape:
            raise ConfigError(f"seeds of shape {seeds.shape} were given for {len(ids)} episodes. Give one for each.")
        for i, seed in zip(ids.tolist(), seeds.tolist(), strict=True):
            self._streams[i].restart(seed)
        self.episode_seed[ids] = seeds

    def _arrange(self, ids: NDArray[np.intp], layouts: list[Layout]) -> None:
        """Put environments `ids` at the start of episodes with these layouts; brings the sensors up to date."""
        batch, world, scene = self._batch, self.world, self._scene
        batch.reset(ids, stage=_UNTOUCHED)
        self._layouts = self._layouts or list(layouts)  # the first time, ids are all of them
        xy = np.array([layout.agent for layout in layouts])
        rot, angles = np.array([layout.agent_rot for layout in layouts]), [layout.agent_angles for layout in layouts]
        self._body.place(ids, xy, rot, np.array(angles) if world.agent.start else None)
        for i, layout in zip(ids.tolist(), layouts, strict=True):
            self._layouts[i] = layout
            for name, points in layout.places.items():
                scene.places[name][i, :, :2] = points
            for name, turns in layout.turns.items():
                self._poses[name][i, :, :2] = layout.places[name]
                self._poses[name][i, :, 3:] = upright(np.array(turns))
            for name, (position, _) in self._pulls.items():
                position[i, :, :2] = layout.places[name]
            for thing in self._driven:
                self._centres[thing.name][i] = layout.places[thing.name]
                position, turn = self._pulls[thing.name]
                position[i, :, 2], turn[i] = thing.height_m, upright(np.array(layout.turns[thing.name]))
            scene.chosen[i] = layout.chosen
        for since in self._faded.values():
            since[ids] = 0
        scene.wait[ids] = getattr(world.task, "first_rest_steps", 0)
        batch.forward(ids, stage=_CURRENT)
        self._elapsed[ids] = self._settled[ids] = 0
        self._follow()
        self._measured[ids] = world.task.measure(scene)[ids]

    # --- stepping --------------------------------------------------------------------------------------------------

    def step(self, actions: NDArray[Any]) -> Step:
        """One control interval.  actions [N, A], clipped to [-1, 1]; see the module's docstring for the order.

        `info` holds goal_met and diverged (bool [N]) and the indicator [N] of each constraint by name.
        """
        if not self._layouts:
            raise ConfigError(f"{self.id} was stepped before its first reset. Call reset() once.")
        actions = read_actions(self.id, actions, self._ctrl.shape)
        if not np.isfinite(actions).all():
            i = np.flatnonzero(~np.isfinite(actions).all(axis=1))[0]
            raise ConfigError(f"{self.id} was given the action {actions[i].tolist()} in environment {i}. Give numbers.")
        self._body.drive(actions)
        return self._interval()

    def step_native(self, actions: NDArray[Any]) -> Step:
        """As `step`, with actions [N, A] in the actuators' own units, clipped to their range; infinite ones too."""
        low, high = self._native
        if not self._layouts:
            return self.step(actions)  # which says what is wrong
        given = read_actions(self.id, actions, self._ctrl.shape)
        if np.isnan(given).any():
            return self.step(given)
        np.clip(given, low, high, out=self._ctrl)
        return self._interval()

    def _interval(self) -> Step:
        world, scene, task = self.world, self._scene, self.world.task
        diverged = self._advance()
        lost = bool(diverged.any())
        self._follow()
        now = task.measure(scene)
        met = task.achieved(scene, now)
        reward = task.reward(scene, self._measured, now, met)
        if world.reward_clip is not None:
            reward = np.maximum(np.minimum(reward, world.reward_clip), -world.reward_clip)
        self._measured = now
        parts = self._indicators()
        if lost:
            parts[diverged] = 1.0  # what the simulation was put back to says nothing about where it was
        cost = parts.copy() if self._split else parts.max(axis=1, initial=0.0, keepdims=True)
        np.maximum(scene.wait - 1, 0, out=scene.wait)
        for fade in world.fades:
            self._faded[fade.of] += 1
            if fade.until != "goal":
                self._faded[fade.of][parts[:, world.constraints.index(fade.until)] > 0] = 0
        self._elapsed += 1
        truncated = self._elapsed >= world.steps
        terminated = np.zeros(self.num_envs, bool)
        if lost:
            met &= ~diverged
            truncated |= diverged
            reward[diverged], cost[diverged] = _DIVERGED_REWARD, 1.0
        if met.any():
            for i in np.flatnonzero(met).tolist():
                terminated[i] = task.ends or not self._renew(i)
        if world.agent.alive_above_m is not None:
            terminated |= ~self._body.alive() & ~diverged
        info = {"goal_met": met, "diverged": diverged}
        info.update(zip(world.constraints, parts.T, strict=True))
        flat = self._seen()
        if lost:
            flat[diverged] = self._last[diverged]  # the last that was seen of it
        np.copyto(self._last, flat)
        obs = final_obs = self._formed(flat)
        ended = terminated | truncated
        if ended.any() and self.autoreset:
            ids = np.flatnonzero(ended)
            self._reseed(ids, self.seed_source(len(ids)))
            self._begin(ids)
            fresh = flat.copy()
            fresh[ids] = self._observe()[ids]
            obs = self._formed(fresh, final_obs, ids)
        return Step(obs, reward, cost, terminated, truncated, final_obs, info)

    def _formed(self, flat: Array, before: Obs | None = None, ids: NDArray[np.intp] | None = None) -> Obs:
        """Flat observations [N, O] in the form asked for; only rows `ids` look different from `before`."""
        if self._observe_as == "flat":
            return flat
        out: dict[str, NDArray[Any]] = {}
        at = 0
        for name, shape in self.world.parts.items():
            width = math.prod(shape)
            out[name] = flat[:, at : at + width].reshape(self.num_envs, *shape)
            at += width
        if self._observe_as == "vision":
            pictures = np.empty((self.num_envs, *_PICTURE, 3), np.uint8)
            if isinstance(before, dict):
                pictures[:] = before[VISION]
            for i in range(self.num_envs) if ids is None else ids.tolist():
                pictures[i] = self.render(i, *_PICTURE, camera="vision")
            out[VISION] = pictures
        return out

    def _indicators(self) -> Array:
        """1 where a constraint is violated now, [N, constraints] in the order of `world.constraints`."""
        out = np.empty((self.num_envs, len(self.world.rules)))
        for k, rule in enumerate(self.world.rules):
            out[:, k] = rule.indicator(self._scene)
        return out

    def _advance(self) -> NDArray[np.bool_]:
        """Physics of one control interval; tells which simulations did not survive it [N].

        MuJoCo puts a simulation whose state has become absurd back to its start, and notes it as a warning.
        """
        substeps = self.world.substeps
        failed = []
        try:
            if self._driven:
                self._batch.rollout(substeps, self._pulls_ahead(), _MOCAP_POSITIONS, record=())
                self._batch.forward(stage=_CURRENT)
            else:
                self._batch.step(nstep=substeps, stage=_CURRENT)
        except SimulationError as error:
            failed = error.ids
        diverged = np.zeros(self.num_envs, np.bool_)
        if self._absurd.any():  # a reset of the simulation clears them
            diverged |= self._absurd.any(axis=1)
        diverged[failed] = True
        return diverged

    def _pulls_ahead(self) -> Array:
        """Where bodies moved by hand are before each substep of the coming control interval [N, substeps, 3·mocaps].

        The original moves its driven things by the simulation's clock: in circles of a period of 2π s, beginning at
        the farthest y, and lifted by their own height.
        """
        positions = self._batch.bind("mocap_pos")
        out = np.repeat(positions[:, None], self.world.substeps, axis=1)
        clock = np.cumsum(np.full((self.num_envs, self.world.substeps), self.world.agent.timestep_s), axis=1)
        clock = np.column_stack([self._time, self._time[:, None] + clock[:, :-1]])
        for thing in self._driven:
            first = self._model.body(puller(thing)[0]).mocapid[0]
            target = out[:, :, first : first + thing.count]
            target[..., :2] = (
                self._centres[thing.name][:, None]
                + thing.travel_m * np.stack([np.sin(clock), np.cos(clock)], -1)[:, :, None]
            )
            target[..., 2] = 2.0 * thing.height_m
        return out.reshape(self.num_envs, self.world.substeps, -1)

    def _follow(self) -> None:
        """Take over from physics where things that move are."""
        for name, pose in self._poses.items():
            self._scene.places[name][:] = pose[:, :, :3]

    def _catch_up(self, i: int) -> None:
        """Bring the random stream to the present step: the original draws one double in each."""
        self._streams[i].skip(int(self._elapsed[i] - self._settled[i]))
        self._settled[i] = self._elapsed[i]

    def _renew(self, i: int) -> bool:
        """A new goal for environment `i`, clear of where everything is now; false when there is no room."""
        scene, task, stream = self._scene, self.world.task, self._streams[i]
        self._catch_up(i)
        if task.renews == "place":
            agent = tuple(self._position[i, :2].tolist())
            places = {name: [tuple(xy) for xy in at[i, :, :2].tolist()] for name, at in scene.places.items()}
            for thing in self._driven:  # the room they circle in
                places[thing.name] = list(self._layouts[i].places[thing.name])
            try:
                scene.places["goal"][i, 0, :2] = draw_goal(self.world, stream, agent, places)
            except Unplaceable:
                return False
        elif task.renews == "choice" and task.target is not None:
            scene.chosen[i] = stream.choice(scene.places[task.target].shape[1])
            scene.places["goal"][i, 0, :2] = scene.places[task.target][i, scene.chosen[i], :2]
            scene.wait[i] = getattr(task, "rest_steps", 0)
        elif task.renews == "stage":
            scene.chosen[i] = (scene.chosen[i] + 1) % len(task.stages)
            scene.places["goal"][i, 0, :2] = task.stages[scene.chosen[i]]
        for fade in self.world.fades:
            if fade.until == "goal":
                self._faded[fade.of][i] = 0
        self._measured[i] = task.measure(scene)[i]
        return True

    def _observe(self) -> Array:
        """Flat observations [N, O], which are remembered: what is handed out may be written into."""
        out = self._seen()
        np.copyto(self._last, out)
        return out

    def _seen(self) -> Array:
        """Flat observations [N, O]: own senses, then one lidar ring per kind of object."""
        agent, world = self.world.agent, self.world
        out = np.empty((self.num_envs, world.observation_size))
        self._body.read(out)
        if not world.rings:
            return out
        rings = self._rings()
        if not world.compass:
            out[:, agent.senses :] = rings.reshape(self.num_envs, -1)
            return out
        at = agent.senses
        for k, thing in enumerate(world.rings):
            out[:, at : at + world.bins] = rings[:, k]
            at += world.bins
            if thing.single:
                place = self._scene.places[thing.name][:, 0]
                out[:, at : at + world.compass] = compass(place, self._position, self._rotation, world.compass)
                at += world.compass
        return out

    def _rings(self) -> Array:
        """What the lidar reads [N, rings, bins]; nothing of targets that are hidden for a while."""
        world = self.world
        if world.lidar == "rays":
            seen = [
                Seen(thing.solids, self._scene.places[thing.name], self._turns(thing.name)) for thing in world.rings
            ]
            read = ray_lidar(self._position, self._rotation, seen, world.bins)
        else:
            ego = ego_xy(self._shown, self._position, self._rotation)
            rings, bins = len(world.rings), world.bins
            read = pseudo_lidar(ego, self._ring, rings, bins, world.sight_m, world.gain_per_m, world.leaks)
        out = read.reshape(self.num_envs, len(world.rings), world.bins)
        if self._hidden is not None:
            out[:, self._hidden] *= (self._scene.wait == 0)[:, None]
        return out

    def _turns(self, name: str) -> Array | None:
        """Quaternions [N, k, 4] of things that turn; None of the others."""
        return self._poses[name][:, :, 3:] if name in self._poses else None

    def located(self, i: int) -> dict[str, Array]:
        """Where things are in environment `i` now: kind -> centres [k, 3] metres.

        And of the agent "agent" [1, 3], "agent_rotation" [3, 3] (body to world) and "agent_velocity" [3] m/s.
        """
        refuse_no_row(self.id, i, self.num_envs)
        out = {name: places[i].copy() for name, places in self._scene.places.items()}
        up = 0.0 if self.world.agent.planar else float(self._qvel[i, 2])
        return out | {
            "agent": self._position[i : i + 1].copy(),
            "agent_rotation": self._rotation[i].copy(),
            "agent_velocity": np.array([*self._scene.velocity[i], up]),
        }

    def opacity(self, i: int) -> dict[str, float]:
        """How much of its own opacity each kind of thing that fades still has in environment `i`, in [0, 1]."""
        refuse_no_row(self.id, i, self.num_envs)
        return {fade.of: max(0.0, 1.0 - self._faded[fade.of][i] / fade.steps) for fade in self.world.fades}

    def position(self) -> Array:
        """Planar position of the agent, metres [N, 2]."""
        return self._position[:, :2].copy()

    def speed(self) -> Array:
        """Planar speed of the agent's body, m/s [N]."""
        return np.sqrt(np.square(self._scene.velocity).sum(axis=1))

    # --- LaidOut ---------------------------------------------------------------------------------------------------

    def layout(self, i: int) -> dict[str, Any]:
        """The arrangement environment `i` started its episode from; see `Layout.as_dict`."""
        if not self._layouts:
            raise ConfigError(f"{self.id} has no layout before its first reset. Call reset() once.")
        refuse_no_row(self.id, i, self.num_envs)
        return self._layouts[i].as_dict()

    def set_layout(self, layouts: Mapping[int, Mapping[str, Any]]) -> Obs:
        """Restart the episodes of environments `layouts.keys()` from these arrangements -> all observations [N, O].

        Later goals of such an episode come from a fresh `episode_seed`. Raises ConfigError, before anything has
        changed, naming the environment's object that is missing, of the wrong count or unsafe.
        """
        refuse_layouts(self.id, layouts, self.num_envs)
        read = [read_layout(self.world, given) for given in layouts.values()]
        if not self._layouts:
            self.reset()
        if read:
            ids = np.fromiter(layouts, np.intp)
            self._reseed(ids, self.seed_source(len(ids)))
            self._arrange(ids, read)
        return self._formed(self._observe())

    # --- Perturbable -----------------------------------------------------------------------------------------------

    def perturb(self, **scale: float | Array) -> None:
        """Multiply nominal dynamics by positive numbers or arrays [N]; a name left out keeps its scale, 1 restores.

        mass: masses and inertias of the agent's parts. friction: of all surfaces, and the damping of the agent's
        joints, which is what the floor is to the Point. gear: of all actuators.
        """
        for name, factors in read_scales(scale, self.perturbations, self.num_envs).items():
            self._scales[name] = factors
            self._apply(name, factors)
        if scale:
            self._batch.set_const()

    def _apply(self, name: str, scale: Array) -> None:
        model, expand = self._model, self._batch.expand
        root = model.body(self.world.agent.root.name).id
        agent = model.body_rootid == root
        if name == "mass":
            expand("body_mass")[:, agent] = model.body_mass[agent] * scale[:, None]
            expand("body_inertia")[:, agent] = model.body_inertia[agent] * scale[:, None, None]
        elif name == "friction":
            expand("geom_friction")[:] = model.geom_friction * scale[:, None, None]
            own = agent[model.dof_bodyid]
            expand("dof_damping")[:, own] = model.dof_damping[own] * scale[:, None]
        else:
            expand("actuator_gear")[:] = model.actuator_gear * scale[:, None, None]

    # --- Stateful --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, and what the current observation shows."""
        started = [layout.as_dict() for layout in self._layouts]
        return {
            "world": self.id,
            "physics": self._batch.state.copy(),
            "senses": self._observe()[:, : self.world.agent.senses],
            "places": {name: places[:, :, :2].copy() for name, places in self._scene.places.items()},
            "chosen": self._scene.chosen.copy(),
            "wait": self._scene.wait.copy(),
            "faded": {name: since.copy() for name, since in self._faded.items()},
            "measured": self._measured.copy(),
            "elapsed": self._elapsed.copy(),
            "settled": self._settled.copy(),
            "episode_seed": self.episode_seed.copy(),
            "drawn": np.array([stream.drawn for stream in self._streams], dtype=np.int64),
            "scales": {name: scale.copy() for name, scale in self._scales.items()},
            "layouts": started,
            "seeds": self._seeds.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Obs:
        """Take up a state of the same world and N -> the observations that belong to it.

        What follows is bit for bit what would have followed, but with physics="sleep": which bodies are asleep is not
        part of a state, so all of them are awake, and later steps agree to rounding until a touch.

        Raises ConfigError when the state is another world's or of another number of environments.
        """
        refuse_another(state, self.state_dict(), self.num_envs)
        self.perturb(**{**dict.fromkeys(self._scales, 1.0), **state["scales"]})
        self.episode_seed[:] = state["episode_seed"]
        for stream, seed, drawn in zip(self._streams, self.episode_seed, state["drawn"], strict=True):
            stream.restart(int(seed), int(drawn))
        layouts = [Layout.from_dict(self.world, layout) for layout in state["layouts"]]
        if layouts:
            self._arrange(np.arange(self.num_envs), layouts)
        self._layouts = layouts  # of a state from before the first reset none, and nothing can be stepped
        self._batch.state[:] = state["physics"]
        self._batch.forward(stage=_CURRENT)
        self._batch.state[:] = state["physics"]  # computing the sensors moved the solver's starting point
        for name, places in state["places"].items():
            self._scene.places[name][:, :, :2] = places
        self._follow()
        self._scene.chosen[:], self._scene.wait[:] = state["chosen"], state["wait"]
        for name, since in state["faded"].items():
            self._faded[name][:] = since
        for name in ("measured", "elapsed", "settled"):
            getattr(self, f"_{name}")[:] = state[name]
        self._seeds.bit_generator.state = state["seeds"]
        obs = self._observe()
        obs[:, : self.world.agent.senses] = state["senses"]  # the accelerometer's last bits depend on that point too
        return self._formed(obs)

    # --- Visible ---------------------------------------------------------------------------------------------------

    @property
    def planes_m(self) -> tuple[float, float]:
        """Nothing nearer or farther from a camera than this is drawn, metres."""
        from trueline.safety.worlds.render import FAR_M, NEAR_M

        return NEAR_M, FAR_M

    window: Window | None = None  # what `render` opened for mode="human"

    def render(
        self,
        i: int = 0,
        width: int = 256,
        height: int = 256,
        camera: str | int = "fixedfar",
        mode: Mode | Literal["human"] = "rgb",
        lidar: bool = False,
        cost: float = 0.0,
    ) -> Any:
        """Picture of environment `i`, seen from one of `render.CAMERAS` by name or number.

        mode: "rgb", "depth" or "segmentation" give arrays, see `Painter.draw`; "human" gives None and shows a window,
        one for this world, whose size and view are the user's. lidar: with what the agent reads, as rings above it;
        cost: of the last step, shown when above 0. Raises NoGraphics (a MissingExtra) without OpenGL, or a display.
        """
        from trueline.safety.worlds.render import Painter, Pose, cost_ball, lidar_balls, take, visual_model

        refuse_no_row(self.id, i, self.num_envs)
        world, bind = self.world, self._batch.bind
        places = {name: at[i] for name, at in self._scene.places.items()}
        pose = Pose(self._qpos[i], bind("mocap_pos")[i], bind("mocap_quat")[i], places, self.opacity(i))
        balls = [cost_ball(self._position[i])] if cost > 0 else []
        if lidar and world.rings:
            shift = 0.0 if world.lidar == "rays" else 0.5  # of a reading from its bin's edge
            balls += lidar_balls(self._position[i], self._rotation[i], self._rings()[i], world.rings, shift)
        if mode == "human":
            from trueline.safety.worlds.viewer import Window

            self.window = self.window or Window(world)
            self.window.show(pose, balls)
            return None
        if (width, height) not in self._painters:
            self._painters[width, height] = Painter(visual_model(world), width, height)
        painter = self._painters[width, height]
        take(painter.model, painter.data, world, pose)
        return painter.draw(camera, mode, balls)

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Environment `i` from above: {"extent": m, "shapes": [{"name", "kind", "xy", "radius", "rot", "colour"}, …]}.

        Kinds are disc, square (radius: half its side), line (radius: half its length, along rot), block (as a line, of
        a "width") and arrow (the agent, pointing along rot, radians).
        """
        refuse_no_row(self.id, i, self.num_envs)
        world, scene = self.world, self._scene
        shapes: list[dict[str, Any]] = []

        def add(name: str, kind: str, xy: Array, radius: float, rot: float, colour: tuple[float, ...]) -> None:
            at, turn = xy.tolist(), float(rot)
            shapes.append({"name": name, "kind": kind, "xy": at, "radius": radius, "rot": turn, "colour": [*colour]})

        opacity = self.opacity(i)
        # What lies flat is drawn first, so that nothing is hidden under it.
        for thing in sorted(world.things, key=lambda thing: thing.is_body):
            for k, place in enumerate(scene.places[thing.name][i]):
                name, at, solid = thing.name, place[:2], thing.solids[0]
                *rgb, alpha = thing.colour
                colour = (*rgb, alpha * opacity.get(name, 1.0))
                if solid.kind == "box" and not thing.is_body:
                    turn = 0.0 if thing.at[k][0] == 0.0 else np.pi / 2
                    add(name, "line", at, solid.size_m[1], turn, colour)
                elif solid.kind == "box":
                    turn = _yaw(self._poses[name][i, k, 3:]) if thing.moves else 0.0
                    add(name, "square", at, thing.radius_m, turn, colour)
                else:
                    add(name, "disc", at, thing.radius_m, 0.0, colour)
        for solid in world.scenery:
            half_x, half_y = solid.size_m[:2]
            add("scenery", "block", np.array(solid.at_m[:2]), half_x, solid.turn_rad, COLOUR["scenery"])
            shapes[-1]["width"] = 2.0 * half_y
        forward = self._rotation[i] @ -np.cross(world.agent.eye.x, world.agent.eye.y)  # a camera looks along its −z
        heading = np.arctan2(forward[1], forward[0])
        add("agent", "arrow", self._position[i, :2], world.agent.reach_m, heading, COLOUR["body"])
        extent = max([world.extent_m, *(abs(x) for thing in world.things for place in thing.at for x in place)])
        return {"extent": extent, "shapes": shapes}

    def close(self) -> None:
        """Free the simulations and what drew them."""
        if self.window is not None:
            self.window.close()
        for painter in self._painters.values():
            painter.close()
        self._painters.clear()
        self._batch = closed(self.id)


class GoalWorlds(NavigationWorlds):
    """Worlds whose goal can be moved while they run: Steerable too."""

    def goal_distance(self) -> Array:
        """Distance from agent to goal, metres [N]."""
        return self._scene.ground_distance("goal")[:, 0]

    def set_goal(self, xy: Array, mask: NDArray[np.bool_] | None = None) -> None:
        """Move goals to xy [N, 2] where `mask` [N]; the step's reward is measured from the new place on.

        Raises ConfigError for another shape, a mask that is not of booleans, or a place that is no number.
        """
        goals, where = read_goals(self.id, xy, mask, self.num_envs)
        self._scene.places["goal"][where, 0, :2] = goals[where]
        self._measured[where] = self.world.task.measure(self._scene)[where]
