"""N Goal worlds at once on MuJoCo's batch of simulations.

One control step of all environments: write the controls, ten physics steps each with the sensors brought up to the
new state, then reward, costs, goals reached, ends and observations as arrays [N, …]. The order is that of
Safety-Gymnasium: reward, cost, new goal, observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, unknown
from trueline.rl.env import Step
from trueline.safety.worlds.layout import Layout, Stream, Unplaceable, draw_goal, draw_layout, read_layout
from trueline.safety.worlds.lidar import ego_xy, pseudo_lidar
from trueline.safety.worlds.objects import World
from trueline.safety.worlds.physics import COLOUR, SENSES, compiled, vase

Array = NDArray[np.float64]

_CURRENT = int(mujoco.mjtStage.mjSTAGE_ACC)  # the accelerometer belongs to the new state too
_UNTOUCHED = int(mujoco.mjtStage.mjSTAGE_NONE)
_REWARD_CLIP = 10.0
_DIVERGED_REWARD = -10.0


def _rotation_tensor() -> Array:
    """T [16, 9] with R.flat = (q ⊗ q).flat · T, R the rotation matrix of the unit quaternion q = (w, x, y, z)."""
    t = np.zeros((4, 4, 9))
    # On the diagonal w² plus the square of the axis itself, minus the other two.
    t[range(4), range(4), 0] = 1, 1, -1, -1
    t[range(4), range(4), 4] = 1, -1, 1, -1
    t[range(4), range(4), 8] = 1, -1, -1, 1
    w, x, y, z = range(4)
    # Off it 2(ab ± wc): entries (0,1), (1,0) have c = z, and so on round the axes.
    for a, b, c, plus, minus in ((x, y, z, 3, 1), (z, x, y, 2, 6), (y, z, x, 7, 5)):
        t[a, b, [plus, minus]] = 2
        t[w, c, plus], t[w, c, minus] = 2, -2
    return t.reshape(16, 9)


_ROTATION = _rotation_tensor()


def _upright(rot: Array) -> Array:
    """Quaternions of turns about the vertical.  rot [...] radians -> [..., 4].

    Normalised although it hardly needs to be: MuJoCo 2.3.3 did so where the original built its models, and whether a
    wheel that starts at exactly the height of the floor touches it hangs on the last bit.
    """
    quat = np.zeros((*rot.shape, 4))
    quat[..., 0], quat[..., 3] = np.cos(rot / 2), np.sin(rot / 2)
    return quat / np.sqrt(np.square(quat).sum(axis=-1, keepdims=True))


class GoalWorlds:
    """N copies of one Goal world; see `trueline.rl.env` for the contract.

    It is a VectorEnv that is also Stateful, Perturbable, Steerable, LaidOut and Visible.
    """

    perturbations = ("mass", "friction", "gear")

    def __init__(
        self,
        id: str,
        world: World,
        num_envs: int,
        threads: int = 1,
        costs: Literal["sum", "split"] = "sum",
        seed: int = 0,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"{id} was asked for {num_envs} environments. Give num_envs = 1 or more.")
        if costs not in ("sum", "split"):
            raise ConfigError(f"costs is {costs!r} for {id}. Give 'sum' (one cost) or 'split' (one per constraint).")
        if costs == "split" and not world.constraints:
            raise ConfigError(f"{id} has no constraint, so its costs cannot be split. Use costs='sum', always 0 here.")
        self.id, self.world, self.num_envs = id, world, num_envs
        self.costs = world.constraints if costs == "split" else ("cost_sum",)
        self.max_episode_steps = world.steps
        actions = len(world.agent.motors)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (world.observation_size,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (actions,), np.float64)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self._seeds = np.random.default_rng(seed)
        self.seed_source = self._own_seeds
        self._split = costs == "split"
        self._streams = [Stream(0) for _ in range(num_envs)]
        self._layouts: list[Layout] = []  # where each running episode started; empty before the first reset
        self._elapsed = np.zeros(num_envs, np.int64)  # control steps of the running episode
        self._settled = np.zeros(num_envs, np.int64)  # … of which the random stream has seen so many
        self._distance: Array = np.zeros(num_envs)  # agent to goal after the last step
        self._scales: dict[str, Array] = {}
        self._painters: dict[tuple[int, int], Any] = {}
        self._place_objects()
        self._open_batch(threads)

    # --- construction ----------------------------------------------------------------------------------------------

    def _place_objects(self) -> None:
        """Arrays of what the lidar sees, [N, M, 2], in the order goal, hazards, vases; parts of it as views."""
        world, n = self.world, self.num_envs
        hazards, vases = world.hazards.count, world.vases.count
        self._seen = np.zeros((n, 1 + hazards + vases, 2))
        self._goal_xy = self._seen[:, 0]
        self._hazards_xy = self._seen[:, 1 : 1 + hazards]
        self._vases_seen = self._seen[:, 1 + hazards :]
        self._ring = np.repeat(np.arange(len(world.things)), [thing.count for thing in world.things])

    def _open_batch(self, threads: int) -> None:
        model, world = compiled(self.world), self.world
        self._model = model
        self._batch = Batch(model, nsim=self.num_envs, nthread=threads)
        bind = self._batch.bind
        root = model.body(world.agent.root.name).id
        self._qpos, self._qvel, self._ctrl, self._time = bind("qpos"), bind("qvel"), bind("ctrl"), bind("time")
        self._position = bind("xpos")[:, root]
        self._rotation = bind("xmat")[:, root].reshape(self.num_envs, 3, 3)
        sensors = bind("sensordata")
        self._own = sensors[:, : 3 * len(SENSES)]  # the first four sensors, three numbers each
        self._balls = [
            (sensors[:, angvel : angvel + 3], sensors[:, quat : quat + 4])
            for angvel, quat in (
                (model.sensor(f"{ball}_angvel").adr[0], model.sensor(f"{ball}_quat").adr[0])
                for ball in world.agent.balls
            )
        ]
        self._vases_pose = self._vases_velocity = np.zeros((self.num_envs, 0, 7))
        self._vases_touch = np.zeros((self.num_envs, 0))
        if world.vases.count:
            first = model.joint(vase(0))
            q, v = first.qposadr[0], first.dofadr[0]
            k = world.vases.count
            self._vases_pose = self._qpos[:, q : q + 7 * k].reshape(self.num_envs, k, 7)
            self._vases_velocity = self._qvel[:, v : v + 6 * k].reshape(self.num_envs, k, 6)[:, :, :3]
            if world.vases.constrained:
                touch = model.sensor(f"touch_{vase(0)}").adr[0]
                self._vases_touch = sensors[:, touch : touch + k]

    def _own_seeds(self, n: int) -> NDArray[np.uint32]:
        return self._seeds.integers(0, 2**32, n, dtype=np.uint32)

    # --- episodes --------------------------------------------------------------------------------------------------

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Array:
        """Start a new episode everywhere; seeds [N] or None -> observations [N, O]."""
        everyone = np.arange(self.num_envs)
        self._begin(everyone, self.seed_source(self.num_envs) if seeds is None else np.asarray(seeds))
        return self._observe()

    def _begin(self, ids: NDArray[np.intp], seeds: NDArray[Any]) -> None:
        self._reseed(ids, seeds)
        self._arrange(ids, [draw_layout(self.world, self._streams[i]) for i in ids.tolist()])

    def _reseed(self, ids: NDArray[np.intp], seeds: NDArray[Any]) -> None:
        if seeds.shape != ids.shape:
            raise ConfigError(f"seeds of shape {seeds.shape} were given for {len(ids)} episodes. Give one for each.")
        for i, seed in zip(ids.tolist(), seeds.tolist(), strict=True):
            self._streams[i].restart(seed)
        self.episode_seed[ids] = seeds

    def _arrange(self, ids: NDArray[np.intp], layouts: list[Layout]) -> None:
        """Put environments `ids` at the start of episodes with these layouts; brings the sensors up to date."""
        batch, world = self._batch, self.world
        batch.reset(ids, stage=_UNTOUCHED)
        self._layouts = self._layouts or list(layouts)  # the first time, ids are all of them
        for i, layout in zip(ids.tolist(), layouts, strict=True):
            self._layouts[i] = layout
            if world.agent.planar:
                self._qpos[i, :3] = (*layout.agent, layout.agent_rot)
            else:
                self._qpos[i, :3] = (*layout.agent, world.agent.height_m)
                self._qpos[i, 3:7] = _upright(np.array(layout.agent_rot))
            self._goal_xy[i] = layout.goal
            if layout.hazards:
                self._hazards_xy[i] = layout.hazards
            if layout.vases:
                self._vases_pose[i, :, :2] = layout.vases
                self._vases_pose[i, :, 3:] = _upright(np.array(layout.vases_rot))
        batch.forward(ids, stage=_CURRENT)
        self._elapsed[ids] = self._settled[ids] = 0
        self._distance[ids] = self.goal_distance()[ids]

    # --- stepping --------------------------------------------------------------------------------------------------

    def step(self, actions: NDArray[Any]) -> Step:
        """One control interval.  actions [N, A], clipped to [-1, 1]; see the module's docstring for the order.

        `info` holds goal_met and diverged (bool [N]) and the indicator [N] of each constraint by name.
        """
        if not self._layouts:
            raise ConfigError(f"{self.id} was stepped before its first reset. Call reset() once.")
        if actions.shape != self._ctrl.shape:
            raise ConfigError(f"{self.id} was given actions of shape {actions.shape}. It takes {self._ctrl.shape}.")
        np.clip(actions, -1.0, 1.0, out=self._ctrl)
        diverged = self._advance()
        distance = self.goal_distance()
        met = distance <= self.world.goal.radius_m
        reward = np.clip(self._distance - distance + met, -_REWARD_CLIP, _REWARD_CLIP)
        self._distance = distance
        parts = self._constraint_costs()
        cost = parts if self._split else parts.max(axis=1, initial=0.0, keepdims=True)
        self._elapsed += 1
        truncated = self._elapsed >= self.world.steps
        terminated = np.zeros(self.num_envs, bool)
        if diverged.any():
            met &= ~diverged
            truncated |= diverged
            reward[diverged], cost[diverged] = _DIVERGED_REWARD, 1.0
        if met.any():
            for i in np.flatnonzero(met).tolist():
                terminated[i] = not self._move_goal_on(i)
        info = {"goal_met": met, "diverged": diverged}
        info.update(zip(self.world.constraints, parts.T, strict=True))
        obs = final_obs = self._observe()
        ended = terminated | truncated
        if ended.any():
            ids = np.flatnonzero(ended)
            self._begin(ids, self.seed_source(len(ids)))
            obs = final_obs.copy()
            obs[ids] = self._observe()[ids]
        return Step(obs, reward, cost, terminated, truncated, final_obs, info)

    def _advance(self) -> NDArray[np.bool_]:
        """Physics of one control interval; tells which simulations did not survive it [N].

        MuJoCo puts a simulation whose state has become absurd back to its start, which its clock gives away.
        """
        substeps, dt = self.world.substeps, self.world.agent.timestep_s
        due = self._time + (substeps - 0.5) * dt
        failed = []
        try:
            self._batch.step(nstep=substeps, stage=_CURRENT)
        except SimulationError as error:
            failed = error.ids
        diverged = self._time < due
        diverged[failed] = True
        return diverged

    def _constraint_costs(self) -> Array:
        """Indicators [N, constraints]: 1 where a constraint is violated now, in the order of `world.constraints`."""
        world = self.world
        columns = []
        if world.hazards.count:
            offset = self._hazards_xy - self._position[:, None, :2]
            nearest = np.sqrt(np.square(offset).sum(axis=2).min(axis=1))
            # Strictly inside: on the rim the original's cost r − d is 0, and so is its indicator.
            columns.append(nearest < world.hazards.radius_m)
        if world.vases.constrained:
            columns.append((self._vases_touch > 0).any(axis=1))
            speed = np.sqrt(np.square(self._vases_velocity).sum(axis=2).max(axis=1))
            columns.append(speed >= world.vases.still_m_per_s)
        return np.array(columns, dtype=np.float64).reshape(len(columns), self.num_envs).T

    def _move_goal_on(self, i: int) -> bool:
        """A new goal for environment `i`, clear of where everything is now; false when there is no room."""
        stream = self._streams[i]
        stream.skip(int(self._elapsed[i] - self._settled[i]))  # the original draws one double per step
        self._settled[i] = self._elapsed[i]
        agent = tuple(self._position[i, :2].tolist())
        hazards = [tuple(xy) for xy in self._hazards_xy[i].tolist()]
        vases = [tuple(xy) for xy in self._vases_pose[i, :, :2].tolist()]
        try:
            self._goal_xy[i] = draw_goal(self.world, stream, agent, hazards, vases)
        except Unplaceable:
            return False
        self._distance[i] = np.sqrt(np.square(self._goal_xy[i] - self._position[i, :2]).sum())
        return True

    def _observe(self) -> Array:
        """Flat observations [N, O]: own senses, then one lidar ring per kind of object."""
        agent, world = self.world.agent, self.world
        out = np.empty((self.num_envs, world.observation_size))
        out[:, :12] = self._own
        at = 12
        for angvel, quat in self._balls:
            out[:, at : at + 3] = angvel
            out[:, at + 3 : at + 12] = (quat[:, :, None] * quat[:, None, :]).reshape(-1, 16) @ _ROTATION
            at += 12
        self._vases_seen[:] = self._vases_pose[:, :, :2]
        ego = ego_xy(self._seen, self._position, self._rotation)
        out[:, agent.senses :] = pseudo_lidar(ego, self._ring, len(world.things), world.bins, world.sight_m)
        return out

    # --- Steerable -------------------------------------------------------------------------------------------------

    def goal_distance(self) -> Array:
        """Distance from agent to goal, metres [N]."""
        offset = self._goal_xy - self._position[:, :2]
        return np.sqrt(np.square(offset).sum(axis=1))

    def position(self) -> Array:
        """Planar position of the agent, metres [N, 2]."""
        return self._position[:, :2].copy()

    def speed(self) -> Array:
        """Planar speed of the agent's body, m/s [N]."""
        # Of both kinds of agent the first two velocities are those along the ground, in world axes.
        return np.sqrt(np.square(self._qvel[:, :2]).sum(axis=1))

    def set_goal(self, xy: Array, mask: NDArray[np.bool_] | None = None) -> None:
        """Move goals to xy [N, 2] where `mask` [N]; the step's reward is measured from the new place on."""
        where = np.ones(self.num_envs, bool) if mask is None else mask
        self._goal_xy[where] = np.asarray(xy, dtype=np.float64)[where]
        self._distance[where] = self.goal_distance()[where]

    # --- LaidOut ---------------------------------------------------------------------------------------------------

    def layout(self, i: int) -> dict[str, Any]:
        """The arrangement environment `i` started its episode from; see `Layout.as_dict`."""
        return self._layouts[i].as_dict()

    def set_layout(self, layouts: Mapping[int, Mapping[str, Any]]) -> Array:
        """Restart the episodes of environments `layouts.keys()` from these arrangements -> all observations [N, O].

        Later goals of such an episode come from a fresh `episode_seed`. Raises ConfigError, before anything has
        changed, naming the environment's object that is missing, of the wrong count or unsafe.
        """
        absent = [i for i in layouts if not 0 <= i < self.num_envs]
        if absent:
            raise ConfigError(f"a layout was given for environment {absent[0]}. There are 0 to {self.num_envs - 1}.")
        if not self._layouts:
            self.reset()
        read = [read_layout(self.world, given) for given in layouts.values()]
        ids = np.fromiter(layouts, np.intp)
        self._reseed(ids, self.seed_source(len(ids)))
        self._arrange(ids, read)
        return self._observe()

    # --- Perturbable -----------------------------------------------------------------------------------------------

    def perturb(self, **scale: float | Array) -> None:
        """Multiply nominal dynamics by positive numbers or arrays [N]; a name left out keeps its scale, 1 restores.

        mass: masses and inertias of the agent's parts. friction: of all surfaces, and the damping of the agent's
        joints, which is what the floor is to the Point. gear: of all actuators.
        """
        for name, value in scale.items():
            if name not in self.perturbations:
                raise ConfigError(unknown("perturbation", name, self.perturbations))
            values = np.asarray(value, dtype=np.float64)
            if values.shape not in ((), (self.num_envs,)) or not (np.isfinite(values) & (values > 0)).all():
                raise ConfigError(
                    f"{name} is scaled by {value!r:.80}. Give a positive number or {self.num_envs} of them."
                )
        for name, value in scale.items():
            self._scales[name] = np.broadcast_to(np.asarray(value, dtype=np.float64), (self.num_envs,)).copy()
            self._apply(name, self._scales[name])
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
            "goal_xy": self._goal_xy.copy(),
            "distance": self._distance.copy(),
            "elapsed": self._elapsed.copy(),
            "settled": self._settled.copy(),
            "episode_seed": self.episode_seed.copy(),
            "drawn": np.array([stream.drawn for stream in self._streams], dtype=np.int64),
            "scales": {name: scale.copy() for name, scale in self._scales.items()},
            "layouts": started,
            "seeds": self._seeds.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Array:
        """Take up a state of the same world and N -> the observations [N, O] that belong to it.

        Raises ConfigError when the state is another world's or of another number of environments.
        """
        if state["world"] != self.id or state["physics"].shape != self._batch.state.shape:
            have, want = f"{len(state['physics'])} × {state['world']}", f"{self.num_envs} × {self.id}"
            raise ConfigError(f"the state is of {have}, not of {want}. Make the world with the saved settings.")
        self.perturb(**{**dict.fromkeys(self._scales, 1.0), **state["scales"]})
        self.episode_seed[:] = state["episode_seed"]
        for stream, seed, drawn in zip(self._streams, self.episode_seed, state["drawn"], strict=True):
            stream.restart(int(seed), int(drawn))
        if state["layouts"]:
            layouts = [Layout.from_dict(layout) for layout in state["layouts"]]
            self._arrange(np.arange(self.num_envs), layouts)
        self._goal_xy[:] = state["goal_xy"]
        for name in ("distance", "elapsed", "settled"):
            getattr(self, f"_{name}")[:] = state[name]
        self._batch.state[:] = state["physics"]
        self._batch.forward(stage=_CURRENT)
        self._batch.state[:] = state["physics"]  # computing the sensors moved the solver's starting point
        self._seeds.bit_generator.state = state["seeds"]
        obs = self._observe()
        obs[:, : self.world.agent.senses] = state["senses"]  # the accelerometer's last bits depend on that point too
        return obs

    # --- Visible ---------------------------------------------------------------------------------------------------

    def render(self, i: int = 0, width: int = 256, height: int = 256, camera: str = "fixedfar") -> NDArray[np.uint8]:
        """Picture of environment `i`, [height, width, 3], seen from one of `render.CAMERAS`.

        Raises NoGraphics (a MissingExtra) when there is no OpenGL.
        """
        from trueline.safety.worlds.render import Painter

        if (width, height) not in self._painters:
            self._painters[width, height] = Painter(self.world, width, height)
        return self._painters[width, height].draw(self._qpos[i], self._goal_xy[i], self._hazards_xy[i], camera)

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Environment `i` from above: {"extent": m, "shapes": [{"kind", "xy", "radius", "rot", "colour"}, …]}.

        Kinds are disc, square (radius: half its side) and arrow (the agent, pointing along rot, radians).
        """
        world = self.world

        def shape(kind: str, xy: Array, radius: float, rot: float, colour: tuple[float, ...]) -> dict[str, Any]:
            return {"kind": kind, "xy": xy.tolist(), "radius": radius, "rot": float(rot), "colour": list(colour)}

        shapes = [shape("disc", xy, world.hazards.radius_m, 0.0, COLOUR["hazards"]) for xy in self._hazards_xy[i]]
        shapes.append(shape("disc", self._goal_xy[i], world.goal.radius_m, 0.0, COLOUR["goal"]))
        for x, y, _, qw, qx, qy, qz in self._vases_pose[i]:
            yaw = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
            shapes.append(shape("square", np.array([x, y]), world.vases.half_m, yaw, COLOUR["vases"]))
        forward = self._rotation[i] @ -np.cross(world.agent.eye.x, world.agent.eye.y)  # a camera looks along its −z
        heading = np.arctan2(forward[1], forward[0])
        shapes.append(shape("arrow", self._position[i, :2], world.agent.reach_m, heading, COLOUR["body"]))
        return {"extent": world.extent_m, "shapes": shapes}

    def close(self) -> None:
        """Free the simulations and what drew them."""
        for painter in self._painters.values():
            painter.close()
        self._painters.clear()
        del self._batch
