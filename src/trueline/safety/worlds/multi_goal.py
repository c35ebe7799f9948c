"""MultiGoal: two agents in one room, each with a goal of its own (Safety-Gymnasium's safe multi-agent tasks).

Red is agent_0's goal, blue agent_1's. Rewards do not depend on the other agent, but both see both goals, push the same
vases and run into one another. Only the original's repository has these worlds. It has ids for five bodies and models
for the Point and the Ant alone: the others cannot be made there, and here are two of the single body in the same rooms.
Layouts and goals are its own seed for seed (`multi_goal_layout.py`). Where we depart from it:

- An agent's actions drive its own body. Reading its model, the original sorts actuators by kind, so that of two Points
  the second number for agent_0 drives agent_1, and the first for agent_1 turns agent_0; its Ants drive themselves.
- Contacts belong to the body that has them. The original knows each agent by two shapes, which of its Ants are the four
  that the first one begins with: they never touch one another, and agent_1 pays for what a leg of agent_0 touches.
- Who owns a vase is forgotten at the end of an episode, so that a seed decides all of it.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.batch import SimulationError
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, UnknownName, unknown
from trueline.rl.multi_agent import MultiAgentStep
from trueline.safety.worlds.body import Senses, upright
from trueline.safety.worlds.checks import (
    BEGIN_S,
    closed,
    read_actions,
    read_rows,
    read_seeds,
    refuse_another,
    refuse_counts,
    refuse_no_row,
    seeded,
)
from trueline.safety.worlds.layout import Stream, Unplaceable
from trueline.safety.worlds.lidar import ego_xy, pseudo_lidar
from trueline.safety.worlds.multi_goal_layout import draw_goals, draw_pair
from trueline.safety.worlds.multi_goal_table import GOALS, MULTI_GOALS, OTHER, refuse_unsupported
from trueline.safety.worlds.physics import PAIR_COLOURS, describe
from trueline.safety.worlds.scene import Array, Scene
from trueline.safety.worlds.simulations import simulations
from trueline.safety.worlds.table import plain_id
from trueline.safety.worlds.world import World

if TYPE_CHECKING:
    from trueline.safety.worlds.render import Mode
    from trueline.safety.worlds.viewer import Window

__all__ = ["MultiGoalWorlds", "make_multi_goal"]

AGENTS = ("agent_0", "agent_1")
PREFIXES = ("", "second_")  # of the names of the agents' parts
EYES = ("vision", "vision1")  # the cameras of agent_0 and agent_1
Observe = Literal["shared", "own", "parts", "vision"]

_CURRENT = int(mujoco.mjtStage.mjSTAGE_ACC)  # the accelerometer belongs to the new state too
_UNTOUCHED = int(mujoco.mjtStage.mjSTAGE_NONE)
_DIVERGED_REWARD = -10.0
_PICTURE = (256, 256)  # what an agent's camera sees, height and width


@functools.cache
def _compiled(world: World) -> mujoco.MjModel:
    """The model with both agents, compiled once per process."""
    spec = describe(world, PREFIXES)
    if any(rule.touches == OTHER for rule in world.rules):
        one, other = (prefix + world.agent.root.name for prefix in PREFIXES)
        subtree = mujoco.mjtObj.mjOBJ_XBODY
        spec.add_sensor(
            name=OTHER,
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=subtree,
            objname=one,
            reftype=subtree,
            refname=other,
            intprm=[1, 0, 1],  # report only how many contacts were found
        )
    return spec.compile()


class MultiGoalWorlds:
    """N copies of one MultiGoal world; see `trueline.rl.multi_agent` for the contract.

    It is a MultiAgentVectorEnv that is also Stateful and Visible. Its state is what agent_0 senses and sees, then the
    same of agent_1; each lidar shows goals, hazards and vases, and not the other agent.
    With `autoreset` set to False an episode that ended stays as it is until `begin` starts the next one there.
    """

    agents = AGENTS
    render_modes = ("human", "rgb", "depth", "segmentation")

    def __init__(
        self,
        id: str,
        world: World,
        num_envs: int,
        threads: int = 1,
        costs: Literal["sum", "split"] = "sum",
        seed: int = 0,
        observe: Observe = "shared",
    ) -> None:
        refuse_counts(id, num_envs, threads)
        refuse_unsupported(id, world)
        if costs not in ("sum", "split"):
            raise ConfigError(f"costs is {costs!r} for {id}. Give 'sum' (one cost) or 'split' (one per constraint).")
        if costs == "split" and not world.constraints:
            raise ConfigError(f"{id} has no constraint, so its costs cannot be split. Use costs='sum', always 0 here.")
        if observe not in get_args(Observe):
            raise ConfigError(
                f"observe is {observe!r} for {id}. Give 'shared' (both agents observe all), 'own' (each its part), "
                "'parts' (both all, by sensor) or 'vision' (so, with what both cameras see)."
            )
        self.id, self.world, self.num_envs = id, world, num_envs
        self.costs = world.constraints if costs == "split" else ("cost_sum",)
        self.max_episode_steps = world.steps
        self.interval_s = world.substeps * world.agent.timestep_s  # of a step
        self._split, self._observe_as = costs == "split", observe
        size, acts = world.observation_size, (len(world.agent.motors),)
        self.observation_spaces = {agent: self._space() for agent in AGENTS}
        self.action_spaces = {agent: gym.spaces.Box(-1.0, 1.0, acts, np.float64) for agent in AGENTS}
        self.state_space = gym.spaces.Box(-np.inf, np.inf, (2 * size,), np.float64)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self.autoreset = True
        self._seeds = seeded(id, seed)
        self.seed_source = self._own_seeds
        self._streams = [Stream(0) for _ in range(num_envs)]
        self._begun = False
        self._elapsed = np.zeros(num_envs, np.int64)  # control steps of the running episode
        self._settled = np.zeros(num_envs, np.int64)  # … of which the random stream has seen so many
        self._painters: dict[tuple[int, int], Any] = {}
        self._open_batch(threads)
        self._set_scenes()
        self._full = np.zeros((num_envs, 2 * size))  # what the last observation was made of
        self._pictures = np.zeros((2, num_envs, *_PICTURE, 3), np.uint8) if observe == "vision" else None  # … and these
        self._measured = self._distances()  # from each agent to its goal, what the next reward compares with [N, 2]
        if self._measured.shape != (num_envs, len(AGENTS)):
            raise ConfigError(
                f"the task of {id} measures {self._measured.shape[1] / len(AGENTS):g} numbers for each agent. "
                "Measure one, such as the distance to the goal [N, 1]."
            )

    # --- construction ----------------------------------------------------------------------------------------------

    def _space(self) -> gym.Space[Any]:
        """Of one agent's observations in their form."""
        size = self.world.observation_size
        if self._observe_as in ("shared", "own"):
            numbers = size if self._observe_as == "own" else 2 * size
            return gym.spaces.Box(-np.inf, np.inf, (numbers,), np.float64)
        spaces: OrderedDict[str, gym.Space[Any]] = OrderedDict()  # a plain dict would be sorted
        for k, suffix in enumerate(("", "1")):
            for name, shape in self.world.parts.items():
                low, high = (0.0, 1.0) if name.endswith("_lidar") else (-np.inf, np.inf)
                spaces[name + suffix] = gym.spaces.Box(low, high, shape, np.float64)
            if self._observe_as == "vision":
                spaces[f"vision_{k}"] = gym.spaces.Box(0, 255, (*_PICTURE, 3), np.uint8)
        return gym.spaces.Dict(spaces)

    def _open_batch(self, threads: int) -> None:
        model, agent = _compiled(self.world), self.world.agent
        self._model = model
        self._batch = simulations(model, self.num_envs, threads)
        bind = self._batch.bind
        self._qpos, self._time, self._sensors = bind("qpos"), bind("time"), bind("sensordata")
        self._bodies = [Senses(self._batch, model, agent, prefix) for prefix in PREFIXES]

    def _set_scenes(self) -> None:
        """The room as each agent has it: places are shared, but its own goal is the goal and its contacts its own."""
        world, n = self.world, self.num_envs
        self._all = np.zeros((n, sum(thing.count for thing in world.things), 3))
        self._ring = np.repeat(np.arange(len(world.rings)), [thing.count for thing in world.rings])
        self._places: dict[str, Array] = {}  # name -> [N, k, 3], within the array above
        at = 0
        for thing in world.rings:
            places = self._places[thing.name] = self._all[:, at : at + thing.count]
            places[:, :, 2] = thing.height_m
            at += thing.count
        self._find_vases()
        nothing = np.zeros(n, np.intp)
        self._scenes = [
            Scene(
                agent=body.position,
                rotation=body.rotation,
                velocity=body.velocity,
                places={**self._places, "goal": self._places[name]},
                speeds={"vases": np.zeros_like(self._speeds)},  # of those it owns
                touches=self._touches(prefix),
                chosen=nothing,
                wait=nothing,
            )
            for body, name, prefix in zip(self._bodies, GOALS, PREFIXES, strict=True)
        ]

    def _find_vases(self) -> None:
        n, thing = self.num_envs, self.world.thing("vases")
        k = 0 if thing is None else thing.count
        q, v = self._model.nq - 7 * k, self._model.nv - 6 * k  # they come last
        self._poses = self._qpos[:, q:].reshape(n, k, 7)
        self._speeds = self._batch.bind("qvel")[:, v:].reshape(n, k, 6)[:, :, :3]
        self._owner = np.zeros((n, k), np.intp)  # of each vase, the agent that touched it last; agent_0 until then

    def _touches(self, prefix: str) -> dict[str, Array]:
        """Views of the numbers of contacts that rules ask for [N, k]."""
        out = {}
        for name in self.world.touched:
            thing = self.world.thing(name)
            first, k = (name, 1) if thing is None else (f"{prefix}touch_{thing.each()[0]}", thing.count)
            at = self._model.sensor(first).adr[0]
            out[name] = self._sensors[:, at : at + k]
        return out

    def _own_seeds(self, n: int) -> NDArray[np.uint32]:
        return self._seeds.integers(0, 2**32, n, dtype=np.uint32)

    # --- episodes --------------------------------------------------------------------------------------------------

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> dict[str, Any]:
        """Start a new episode everywhere; seeds [N] or None -> observations by agent."""
        everyone = np.arange(self.num_envs)
        self._reseed(everyone, self.seed_source(self.num_envs) if seeds is None else seeds)
        self._start(everyone)
        return self._looked()

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[Any] | None = None) -> dict[str, Any]:
        """Start new episodes in `rows` alone, at any time; returns the observations of all.

        From `seeds` [len(rows)], or without them from where each row's random stream stands, as the original goes on;
        `episode_seed` then still says where the stream began.
        """
        if not self._begun:
            raise ConfigError(f"{self.id} was given rows to begin before its first reset. Call reset() once.")
        ids = read_rows(self.id, rows, self.num_envs)
        if seeds is not None:
            self._reseed(ids, seeds)
        else:
            for i in ids.tolist():
                self._catch_up(i)
        if len(ids):
            self._start(ids)
        return self._looked()

    def _reseed(self, ids: NDArray[np.intp], given: NDArray[Any]) -> None:
        seeds = read_seeds(self.id, given, len(ids))
        for i, seed in zip(ids.tolist(), seeds.tolist(), strict=True):
            self._streams[i].restart(seed)
        self.episode_seed[ids] = seeds

    def _catch_up(self, i: int) -> None:
        """Bring the random stream to the present step: the original draws one double in each."""
        self._streams[i].skip(int(self._elapsed[i] - self._settled[i]))
        self._settled[i] = self._elapsed[i]

    def _start(self, ids: NDArray[np.intp]) -> None:
        """Put environments `ids` at the start of new episodes; brings the sensors up to date."""
        try:
            layouts = [draw_pair(self.world, self._streams[i]) for i in ids.tolist()]
        except Unplaceable as stuck:
            raise stuck.refusal(self.id, self.world.extent_m) from None
        self._batch.reset(ids, stage=_UNTOUCHED)
        self._time[ids] = BEGIN_S
        angles = np.array([layout.agent_angles for layout in layouts]) if self.world.agent.start else None
        for k, body in enumerate(self._bodies):
            xy = np.array([layout.agents[k] for layout in layouts])
            body.place(ids, xy, np.array([layout.agent_rots[k] for layout in layouts]), angles)
        for i, layout in zip(ids.tolist(), layouts, strict=True):
            for name, points in layout.places.items():
                self._places[name][i, :, :2] = points
            for name, turns in layout.turns.items():
                self._poses[i, :, :2], self._poses[i, :, 3:] = layout.places[name], upright(np.array(turns))
        self._batch.forward(ids, stage=_CURRENT)
        self._owner[ids] = self._elapsed[ids] = self._settled[ids] = 0
        self._begun = True
        self._follow()
        self._measured[ids] = self._distances()[ids]

    # --- stepping --------------------------------------------------------------------------------------------------

    def step(self, actions: Mapping[str, NDArray[Any]]) -> MultiAgentStep:
        """One control interval.  actions: agent -> [N, A], clipped to [-1, 1].

        Reward, cost, new goals, observation, in this order. `info` holds goal_met (bool [N], by either), reached (bool
        [N, 2], by which), diverged (bool [N]) and the indicator [N, 2] of each constraint by name.
        """
        if not self._begun:
            raise ConfigError(f"{self.id} was stepped before its first reset. Call reset() once.")
        read: list[Array] = []
        for agent, body in zip(AGENTS, self._bodies, strict=True):
            if agent not in actions:
                raise ConfigError(f"{self.id} was given no actions for {agent}. Give them for {' and '.join(AGENTS)}.")
            own = read_actions(self.id, actions[agent], body.control.shape, agent)
            bad = np.flatnonzero(~np.isfinite(own).all(axis=1))
            if len(bad):
                given = own[bad[0]].tolist()
                raise ConfigError(
                    f"{self.id} was given the action {given} for {agent} in environment {bad[0]}. Give numbers."
                )
            read.append(own)
        for own, body in zip(read, self._bodies, strict=True):
            body.drive(own)
        diverged = self._advance()
        self._follow()
        now = self._distances()
        reached, reward = self._judged(now)
        self._measured = now
        parts = self._indicators()
        cost = parts if self._split else parts.max(axis=2, initial=0.0, keepdims=True)
        self._elapsed += 1
        truncated = (self._elapsed >= self.world.steps) | diverged
        terminated = np.zeros(self.num_envs, bool)
        if diverged.any():
            reached &= ~diverged[:, None]
            # What a simulation was put back to says nothing about where it was.
            reward[diverged], cost[diverged], parts[diverged] = _DIVERGED_REWARD, 1.0, 1.0
        met = np.asarray(reached.any(axis=1))
        for i in np.flatnonzero(met).tolist():
            terminated[i] = not self._renew(i, reached[i])
        for body in self._bodies:
            terminated |= ~body.alive() & ~diverged
        info = {"goal_met": met, "reached": reached, "diverged": diverged}
        info.update(zip(self.world.constraints, np.moveaxis(parts, 2, 0), strict=True))
        before, seen = self._full, None if self._pictures is None else self._pictures.copy()
        self._look()
        if diverged.any():
            self._full[diverged] = before[diverged]  # the last that was seen of it
            if self._pictures is not None and seen is not None:
                self._pictures[:, diverged] = seen[:, diverged]
        obs = final_obs = self._views()
        state = final_state = self.state()
        ended = terminated | truncated
        if self.autoreset and ended.any():
            ids = np.flatnonzero(ended)
            self._reseed(ids, self.seed_source(len(ids)))
            self._start(ids)
            rest = self._full
            self._look(ids)
            self._full[~ended] = rest[~ended]
            obs, state = self._views(), self.state()
        return MultiAgentStep(obs, state, reward, cost, terminated, truncated, final_obs, final_state, info)

    def _judged(self, now: Array) -> tuple[NDArray[np.bool_], Array]:
        """Whether each agent is at its goal, and its reward, from the distances now [N, 2] -> [N, 2], [N, 2]."""
        reached, reward = np.empty(now.shape, np.bool_), np.empty(now.shape)
        for k, scene in enumerate(self._scenes):
            before, after = self._measured[:, k : k + 1], now[:, k : k + 1]
            reached[:, k] = self.world.task.achieved(scene, after)
            reward[:, k] = self.world.task.reward(scene, before, after, reached[:, k])
        clip = math.inf if self.world.reward_clip is None else self.world.reward_clip
        return reached, np.clip(reward, -clip, clip)

    def _distances(self) -> Array:
        """From each agent to its own goal along the ground, metres [N, 2]."""
        return np.concatenate([self.world.task.measure(scene) for scene in self._scenes], axis=1)

    def _advance(self) -> NDArray[np.bool_]:
        """Physics of one control interval; tells which simulations did not survive it [N].

        MuJoCo puts a simulation whose state has become absurd back to its start, which its clock gives away.
        """
        substeps = self.world.substeps
        due = self._time + (substeps - 0.5) * self.world.agent.timestep_s
        failed = []
        try:
            self._batch.step(nstep=substeps, stage=_CURRENT)
        except SimulationError as error:
            failed = error.ids
        diverged = self._time < due
        diverged[failed] = True
        return diverged

    def _follow(self) -> None:
        """Take over from physics where vases are."""
        if "vases" in self._places:
            self._places["vases"][:] = self._poses[:, :, :3]

    def _indicators(self) -> Array:
        """1 where an agent violates a constraint now, [N, 2, constraints] in the order of `world.constraints`."""
        rules = self.world.rules
        out = np.empty((self.num_envs, len(AGENTS), len(rules)))
        for k, scene in enumerate(self._scenes):
            # A vase that moves costs the agent it belongs to. agent_0 is judged before agent_1 takes anything over.
            if "vases" in scene.touches:
                self._owner[scene.touches["vases"] > 0] = k
                np.multiply(self._speeds, (self._owner == k)[:, :, None], out=scene.speeds["vases"])
            for j, rule in enumerate(rules):
                out[:, k, j] = rule.indicator(scene)
        return out

    def _renew(self, i: int, reached: NDArray[np.bool_]) -> bool:
        """New places for the goals that were reached in environment `i`; false when there is no room."""
        self._catch_up(i)
        places = {name: [(x, y) for x, y in at[i, :, :2].tolist()] for name, at in self._places.items()}
        x, y = self._bodies[0].position[i, :2].tolist()
        try:
            drawn = draw_goals(self.world, self._streams[i], [(x, y)], places)
        except Unplaceable:
            return False
        for name, new, met in zip(GOALS, drawn, reached.tolist(), strict=True):
            if met:
                self._places[name][i, 0, :2] = new
        self._measured[i] = self._distances()[i]
        return True

    # --- observations ----------------------------------------------------------------------------------------------

    def _look(self, ids: NDArray[np.intp] | None = None) -> None:
        """What both agents sense and see now; pictures are taken in environments `ids` alone, of all if None."""
        world, size, rings = self.world, self.world.observation_size, len(self.world.rings)
        read_as = world.bins, world.sight_m, world.gain_per_m, world.leaks
        self._full = np.empty((self.num_envs, 2 * size))
        for k, body in enumerate(self._bodies):
            own = self._full[:, k * size : (k + 1) * size]
            body.read(own)
            ego = ego_xy(self._all, body.position, body.rotation)
            own[:, world.agent.senses :] = pseudo_lidar(ego, self._ring, rings, *read_as)
        if self._pictures is not None:
            for i in range(self.num_envs) if ids is None else ids.tolist():
                for k, eye in enumerate(EYES):
                    self._pictures[k, i] = self.render(i, *_PICTURE, camera=eye)

    def _views(self) -> dict[str, Any]:
        """Observations in the form asked for, by agent; each agent's are its own to write into."""
        if self._observe_as == "shared":
            return {agent: self._full.copy() for agent in AGENTS}
        halves = np.split(self._full, 2, axis=1)
        if self._observe_as == "own":
            return {agent: half.copy() for agent, half in zip(AGENTS, halves, strict=True)}
        return {agent: self._by_part(halves) for agent in AGENTS}

    def _by_part(self, halves: Sequence[Array]) -> dict[str, NDArray[Any]]:
        """Of both agents, [N, …] each; what is agent_1's has a name that ends in 1, as in the original."""
        out: dict[str, NDArray[Any]] = {}
        for k, (half, suffix) in enumerate(zip(halves, ("", "1"), strict=True)):
            at = 0
            for name, shape in self.world.parts.items():
                width = math.prod(shape)
                out[name + suffix] = half[:, at : at + width].reshape(self.num_envs, *shape).copy()
                at += width
            if self._pictures is not None:
                out[f"vision_{k}"] = self._pictures[k].copy()
        return out

    def _looked(self) -> dict[str, Any]:
        self._look()
        return self._views()

    def state(self) -> Array:
        """All that both agents sense and see, [N, S]."""
        return self._full.copy()

    # --- Stateful --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, and what the current observations show."""
        return {
            "world": self.id,
            "begun": self._begun,
            "physics": self._batch.state.copy(),
            "seen": self._full.copy(),
            "places": {name: places[:, :, :2].copy() for name, places in self._places.items()},
            "owner": self._owner.copy(),
            "measured": self._measured.copy(),
            "elapsed": self._elapsed.copy(),
            "settled": self._settled.copy(),
            "episode_seed": self.episode_seed.copy(),
            "drawn": np.array([stream.drawn for stream in self._streams], dtype=np.int64),
            "seeds": self._seeds.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Take up a state of the same world and N -> the observations that belong to it.

        Raises ConfigError when the state is another world's or of another number of environments.
        """
        refuse_another(state, self.state_dict(), self.num_envs)
        self.episode_seed[:] = state["episode_seed"]
        for stream, seed, drawn in zip(self._streams, self.episode_seed, state["drawn"], strict=True):
            stream.restart(int(seed), int(drawn))
        self._batch.state[:] = state["physics"]
        self._batch.forward(stage=_CURRENT)
        self._batch.state[:] = state["physics"]  # computing the sensors moved the solver's starting point
        for name, places in state["places"].items():
            self._places[name][:, :, :2] = places
        self._follow()
        for name in ("owner", "measured", "elapsed", "settled"):
            getattr(self, f"_{name}")[:] = state[name]
        self._begun = bool(state["begun"])
        self._seeds.bit_generator.state = state["seeds"]
        self._look()  # for the pictures
        self._full = np.array(state["seen"])  # the accelerometer's last bits depend on that point too
        return self._views()

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
        """Picture of environment `i`, seen from one of `render.CAMERAS` or "vision1", agent_1's; others are agent_0's.

        mode, lidar and cost: as for a `NavigationWorlds`, of agent_0. Raises NoGraphics (a MissingExtra) without
        OpenGL, or a display.
        """
        from trueline.safety.worlds.render import Painter, Pose, cost_ball, lidar_balls, take, visual_model

        refuse_no_row(self.id, i, self.num_envs)
        world, body, bind = self.world, self._bodies[0], self._batch.bind
        places = {name: at[i] for name, at in self._places.items()}
        pose = Pose(self._qpos[i], bind("mocap_pos")[i], bind("mocap_quat")[i], places)
        balls = [cost_ball(body.position[i])] if cost > 0 else []
        if lidar:
            rings = self._full[i, world.agent.senses : world.observation_size].reshape(len(world.rings), -1)
            balls += lidar_balls(body.position[i], body.rotation[i], rings, world.rings)
        if mode == "human":
            from trueline.safety.worlds.viewer import Window

            self.window = self.window or Window(world, PREFIXES)
            self.window.show(pose, balls)
            return None
        if (width, height) not in self._painters:
            self._painters[width, height] = Painter(visual_model(world, PREFIXES), width, height)
        painter = self._painters[width, height]
        take(painter.model, painter.data, world, pose, PREFIXES)
        return painter.draw(camera, mode, balls)

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Environment `i` from above: {"extent": m, "shapes": [{"name", "kind", "xy", "radius", "rot", "colour"}, …]}.

        Marks are discs, vases squares (radius: half their side), agents arrows pointing along rot, radians.
        """
        refuse_no_row(self.id, i, self.num_envs)
        shapes: list[dict[str, Any]] = []

        def add(name: str, kind: str, xy: Array, radius: float, rot: float, colour: tuple[float, ...]) -> None:
            at, turn = xy.tolist(), float(rot)
            shapes.append({"name": name, "kind": kind, "xy": at, "radius": radius, "rot": turn, "colour": [*colour]})

        for thing in self.world.things:
            for k, xy in enumerate(self._places[thing.name][i, :, :2]):
                if thing.is_body:
                    w, x, y, z = self._poses[i, k, 3:]
                    turn = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
                    add(thing.name, "square", xy, thing.radius_m, turn, thing.colour)
                else:
                    add(thing.name, "disc", xy, thing.radius_m, 0.0, thing.colour)
        eye = self.world.agent.eye
        for name, body, rgb in zip(AGENTS, self._bodies, PAIR_COLOURS, strict=True):
            forward = body.rotation[i] @ -np.cross(eye.x, eye.y)  # a camera looks along its −z
            heading = np.arctan2(forward[1], forward[0])
            add(name, "arrow", body.position[i, :2], self.world.agent.reach_m, heading, (*rgb, 1.0))
        return {"extent": self.world.extent_m, "shapes": shapes}

    def close(self) -> None:
        """Free the simulations and what drew them."""
        if self.window is not None:
            self.window.close()
        for painter in self._painters.values():
            painter.close()
        self._painters.clear()
        self._batch = closed(self.id)


def make_multi_goal(
    id: str,
    num_envs: int,
    threads: int = 1,
    costs: Literal["sum", "split"] = "sum",
    seed: int = 0,
    observe: Observe = "shared",
) -> MultiGoalWorlds:
    """`num_envs` copies of the world called `id`, such as SafetyPointMultiGoal1-v0, stepped on `threads` threads.

    costs="sum" gives each agent one cost, 1 where it violates any constraint; "split" one for each constraint. `seed`
    starts the default `seed_source`. observe="shared" lets both agents observe all that both sense and see, as in the
    original; "own" lets each observe its own half of that. "parts" gives what is shared as a dict by sensor, and
    "vision" with the pictures that both agents' cameras see [N, 256, 256, 3] in it, which is what an id with Vision
    means. An id with Debug is the plain world: agent_0 is driven by hand, see `viewer.drive`.
    Raises UnknownName for an unknown id, ConfigError for a setting.
    """
    plain, seen = plain_id(id)
    if plain not in MULTI_GOALS:
        raise UnknownName(unknown("env", id, MULTI_GOALS))
    return MultiGoalWorlds(id, MULTI_GOALS[plain], num_envs, threads, costs, seed, "vision" if seen else observe)
