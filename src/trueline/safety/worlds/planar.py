"""Planar worlds: Point and Car on pure tensors, thousands at once, on the CPU or an accelerator.

They have the tasks, observations, rewards and costs of Safety-Gymnasium, and bodies that drive as fast and turn as fast
as MuJoCo's; they are not those worlds, and no figure published for those holds here. docs/worlds/planar.md says what
differs.

An episode depends on its uint32 seed and the actions alone, bit for bit: not on how many environments run, which place
it has among them, the number of threads or (by construction) the device.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import ConfigError, UnknownName, unknown
from trueline.rl.env import Step
from trueline.safety.worlds import planar_motion as motion
from trueline.safety.worlds.checks import (
    closed,
    read_actions,
    read_goals,
    read_scales,
    read_seeds,
    refuse_another,
    refuse_counts,
    refuse_layouts,
    refuse_no_row,
    seeded,
)
from trueline.safety.worlds.planar_layout import arrange, cos_sin, free_place, read_arrangement
from trueline.safety.worlds.planar_lidar import PseudoLidar
from trueline.safety.worlds.planar_motion import at_rest
from trueline.safety.worlds.planar_picture import picture, scene
from trueline.safety.worlds.planar_tasks import (
    BINS,
    GOAL_M,
    HAZARD_M,
    PLANAR_WORLDS,
    VASE_M,
    PlanarWorld,
    circle_reward,
    run_reward,
)
from trueline.safety.worlds.planar_things import Discs, Pusher, push, separate, slide

__all__ = ["PLANAR_WORLDS", "PlanarGoalWorlds", "PlanarWorld", "PlanarWorlds", "TensorStep", "make_planar"]

Array = NDArray[np.float64]
VASE_FRICTION = 1.0
VASE_STILL_M_PER_S = 1e-4  # slower than this counts as not moving
REWARD_CLIP = 10.0


class _Parts(NamedTuple):
    """Rows of the state tensor."""

    body: slice
    x: slice  # of the lidar's objects, in the order of the rings
    y: slice
    vases: slice  # velocities, all along x and then all along y
    distance: slice  # from agent to goal after the last step


class _Seen(NamedTuple):
    """Offsets from the agent to the lidar's objects along the ground's axes, and their lengths, metres [M, n] each."""

    dx: Tensor
    dy: Tensor
    distance: Tensor


class _Pushed(NamedTuple):
    """What became of the vases of the environments in which any could move."""

    rows: Tensor  # [n] which these are
    touched: Tensor  # [K, n] by the agent
    state: Tensor  # [rows, n] afterwards


_SAVED = ("state", "elapsed", "goals", "start_xy", "start_rot")


def _length(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """The tensor's memory as an array; a copy only when it lies on a device."""
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


@dataclass(slots=True)
class TensorStep:
    """`trueline.rl.env.Step` in tensors of the world's device; float32 where that has float64."""

    obs: Tensor  # [N, O]
    reward: Tensor  # [N]
    cost: Tensor  # [N, K]
    terminated: Tensor  # [N] bool
    truncated: Tensor  # [N] bool
    final_obs: Tensor  # [N, O]
    info: dict[str, Tensor]  # [N] each

    @property
    def ended(self) -> Tensor:
        """[N] whether an episode ended in this step, for either reason."""
        return self.terminated | self.truncated


def make_planar(
    id: str,
    num_envs: int,
    threads: int = 1,
    costs: Literal["sum", "split"] = "sum",
    seed: int = 0,
    device: str = "cpu",
) -> PlanarWorlds:
    """`num_envs` copies of the planar world called `id`, such as PlanarPointGoal1-v0.

    threads: of torch while it steps, on the CPU; results do not depend on it. costs="sum" reports one cost, 1 where any
    constraint is violated; "split" each by name. `seed` starts the default `seed_source`. device: where all of it runs.
    Raises UnknownName for an unknown id, ConfigError for a setting.
    """
    if id not in PLANAR_WORLDS:
        raise UnknownName(unknown("env", id, PLANAR_WORLDS))
    kind = PlanarGoalWorlds if PLANAR_WORLDS[id].task == "goal" else PlanarWorlds
    return kind(id, PLANAR_WORLDS[id], num_envs, threads, costs, seed, device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # "meta" has no numbers to bring back
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device is {name!r}, which torch cannot use here ({reason}). Use 'cpu'.") from None
    return device


class PlanarWorlds:
    """N copies of one planar world; see `trueline.rl.env` for the contract.

    It is a VectorEnv that is also Stateful, Perturbable, LaidOut and Visible. `reset_tensors` and `step_tensors` do the
    same without leaving the device.
    """

    perturbations = ("mass", "friction", "gear")
    render_modes = ("rgb",)

    def __init__(
        self,
        id: str,
        world: PlanarWorld,
        num_envs: int,
        threads: int = 1,
        costs: Literal["sum", "split"] = "sum",
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        refuse_counts(id, num_envs, threads)
        if costs not in ("sum", "split"):
            raise ConfigError(f"costs is {costs!r} for {id}. Give 'sum' (one cost) or 'split' (one per constraint).")
        if costs == "split" and not world.constraints:
            raise ConfigError(f"{id} has no constraint, so its costs cannot be split. Use costs='sum', always 0 here.")
        self.id, self.world, self.num_envs, self.device = id, world, num_envs, _device(device)
        self.costs = world.constraints if costs == "split" else ("cost_sum",)
        self.max_episode_steps = world.steps
        self.interval_s = world.body.interval_s  # of a step
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (world.observation_size,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self._seeds = seeded(id, seed)
        self.seed_source = self._own_seeds
        self._split, self._threads = costs == "split", threads
        self._places = world.places
        self._lidar = PseudoLidar(tuple(world.rings.values()), BINS, world.sight_m, self.device)
        interval, bumper = world.body.interval_s, world.body.bumper
        number = functools.partial(torch.tensor, dtype=torch.float32, device=self.device)
        self._interval, self._loss = number(interval), number(VASE_FRICTION * motion.GRAVITY_M_PER_S2 * interval)
        self._ahead, self._reach = number(bumper.ahead_m), number(bumper.radius_m + VASE_M)
        self._near = number(bumper.reach_m + VASE_M + 1e-3)  # a millimetre to spare: no vase may be missed
        self._keepout = torch.tensor([place.keepout_m for place in self._places], device=self.device)
        self._scales = {name: np.ones(num_envs) for name in self.perturbations}
        self._set_constants()
        self._allocate()

    # --- state -----------------------------------------------------------------------------------------------------

    def _allocate(self) -> None:
        """One tensor of all that moves, [rows, N], with its parts as views; and what is whole numbers, [N] each.

        An environment is a column, so that resets, checkpoints and a look at some environments are one indexing each.
        """
        world, n, device = self.world, self.num_envs, self.device
        objects = sum(world.rings.values())
        sizes = (world.body.rows, objects, objects, 2 * world.vases, 1)
        self._state = torch.zeros(sum(sizes), n, device=device)
        ends = np.cumsum(sizes).tolist()
        self._parts = _Parts(*(slice(end - size, end) for end, size in zip(ends, sizes, strict=True)))
        self._body = self._state[self._parts.body]
        self._elapsed = torch.zeros(n, dtype=torch.int64, device=device)  # steps of the running episode
        self._goals = torch.zeros(n, dtype=torch.int64, device=device)  # drawn since its start
        self._seed = torch.zeros(n, dtype=torch.int64, device=device)  # episode_seed where the tensors are
        self._start_xy = torch.zeros(2, len(self._places), n, device=device)  # where each running episode started
        self._start_rot = torch.zeros(n, dtype=torch.float64, device=device)
        self._begun = False

    def _own_seeds(self, n: int) -> NDArray[np.uint32]:
        return self._seeds.integers(0, 2**32, n, dtype=np.uint32)

    @contextlib.contextmanager
    def _own_threads(self) -> Iterator[None]:
        """Torch's number of threads is the process's; it is put back for whoever set it."""
        before = torch.get_num_threads()
        if before == self._threads or self.device.type != "cpu":
            yield
            return
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    # --- episodes --------------------------------------------------------------------------------------------------

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> NDArray[np.float32]:
        """Start a new episode everywhere; seeds [N] or None -> observations [N, O]."""
        return _numpy(self.reset_tensors(seeds))

    @torch.no_grad()
    def reset_tensors(self, seeds: NDArray[np.uint32] | None = None) -> Tensor:
        """`reset`, with the observations [N, O] on the device."""
        given = self.seed_source(self.num_envs) if seeds is None else seeds
        with self._own_threads():
            self._begin(np.arange(self.num_envs), given)
            return self._observe(self._state)

    def _begin(self, ids: NDArray[np.intp], seeds: NDArray[Any]) -> None:
        rows = self._reseed(ids, seeds)
        drawn = arrange(self._places, self._seed[rows])
        self._place(rows, drawn.xy, drawn.rot)

    def _reseed(self, ids: NDArray[np.intp], seeds: NDArray[Any]) -> Tensor:
        self.episode_seed[ids] = read_seeds(self.id, seeds, len(ids))
        rows = torch.as_tensor(ids, device=self.device)
        self._seed[rows] = torch.as_tensor(self.episode_seed[ids].astype(np.int64), device=self.device)
        return rows

    def _place(self, rows: Tensor, xy: Tensor, rot: Tensor) -> None:
        """Put environments `rows` at the start of episodes: xy [2, J, n] in the order of the places, rot [n]."""
        cos, sin = cos_sin(rot)
        state = torch.zeros(len(self._state), len(rows), device=self.device)
        parts = self._parts
        state[parts.body] = at_rest(self.world.body, xy[:, 0], cos.float(), sin.float())
        if self.world.task == "goal":
            state[parts.x], state[parts.y] = xy[:, 1:]
            state[parts.distance] = _length(*(xy[:, 1] - xy[:, 0]))
        self._state[:, rows] = state
        self._start_xy[:, :, rows], self._start_rot[rows] = xy, rot
        self._elapsed[rows] = 0
        self._goals[rows] = 0
        self._begun = True

    # --- stepping --------------------------------------------------------------------------------------------------

    def step(self, actions: NDArray[Any]) -> Step:
        """One control interval.  actions [N, 2], clipped to [-1, 1].

        `info` holds goal_met (bool [N]) where there is a goal, and the indicator [N] of each constraint by name.
        """
        given = read_actions(self.id, actions, (self.num_envs, 2)).astype(np.float32)
        step = self.step_tensors(torch.tensor(given, device=self.device))
        return Step(
            _numpy(step.obs),
            _numpy(step.reward.double()),
            _numpy(step.cost.double()),
            _numpy(step.terminated),
            _numpy(step.truncated),
            _numpy(step.final_obs),
            {name: _numpy(value) for name, value in step.info.items()},
        )

    @torch.no_grad()
    def step_tensors(self, actions: Tensor) -> TensorStep:
        """`step` without leaving the device.  actions [N, 2] float32; what is returned is never written to again."""
        if not self._begun:
            raise ConfigError(f"{self.id} was stepped before its first reset. Call reset() once.")
        if not isinstance(actions, Tensor):
            raise ConfigError(f"{self.id} was given a {type(actions).__name__} as a tensor of actions. Call step().")
        if actions.shape != (self.num_envs, 2):
            raise ConfigError(
                f"{self.id} was given actions of shape {tuple(actions.shape)}. It takes {(self.num_envs, 2)}."
            )
        if not math.isfinite(float(actions.sum())) and not bool(torch.isfinite(actions).all()):
            bad = int((~torch.isfinite(actions)).any(dim=1).nonzero()[0])
            raise ConfigError(
                f"{self.id} was given an action that is not finite in environment {bad}. Mend the policy."
            )
        with self._own_threads():
            return self._step(actions)

    def _step(self, actions: Tensor) -> TensorStep:
        before = self._body[: motion.Y + 1].clone()
        body = self.world.body.advance(self._body, actions.t().clamp(-1.0, 1.0), self._constants)
        self._body.copy_(body)
        seen = self._offsets(self._state)
        pushed = self._push_vases(seen)
        parts = self._costs(seen, pushed)
        if self._split:
            cost = parts.t()
        elif len(parts):
            cost = torch.amax(parts, dim=0)[:, None]
        else:
            cost = torch.zeros(self.num_envs, 1, device=self.device)
        reward, met = self._reward(before, seen)
        info = {} if met is None else {"goal_met": met}
        info.update(zip(self.world.constraints, parts, strict=True))
        self._elapsed += 1
        truncated = self._elapsed >= self.world.steps
        terminated = torch.zeros_like(truncated)
        if met is not None:
            rows = met.nonzero()[:, 0]
            if len(rows):
                terminated[rows] = ~self._move_goal_on(rows)
                seen = self._offsets(self._state)
        obs = final_obs = self._observe(self._state, seen)
        ended = (terminated | truncated).nonzero()[:, 0]
        if len(ended):
            ids = ended.cpu().numpy()
            self._begin(ids, self.seed_source(len(ids)))
            obs = final_obs.clone()
            obs[ended] = self._observe(self._state[:, ended])
        return TensorStep(obs, reward, cost, terminated, truncated, final_obs, info)

    def _push_vases(self, seen: _Seen) -> _Pushed | None:
        """Vases coast, are pushed and part; `seen` is brought up to date. None in a world without vases."""
        parts, count = self._parts, self.world.vases
        if not count:
            return None
        # Nothing happens to a vase that lies still out of reach, and in most environments all do.
        moves = (self._state[parts.vases] != 0.0).any(dim=0)
        rows = (moves | (torch.amin(seen.distance[-count:], dim=0) < self._near)).nonzero()[:, 0]
        state = self._state[:, rows]
        touched = torch.zeros(count, len(rows), dtype=torch.bool, device=self.device)
        if not len(rows):
            return _Pushed(rows, touched, state)
        x, y = state[parts.x][-count:], state[parts.y][-count:]
        discs = slide(Discs(x, y, *state[parts.vases].split(count)), self._loss, self._interval)
        discs, touched = push(discs, self._pusher(state), self._reach)
        if count > 1:
            discs = separate(discs, VASE_M)
        x[:], y[:] = discs.x, discs.y
        state[parts.vases] = torch.cat([discs.vx, discs.vy])
        self._state[:, rows] = state
        for ours, new in zip(seen, self._offsets(state), strict=True):
            ours[:, rows] = new
        return _Pushed(rows, touched, state)

    def _pusher(self, state: Tensor) -> Pusher:
        """The body's bumper as it moves."""
        x, y, _, _, vx, vy, turn = state[: motion.AX].unbind()
        ahead_x, ahead_y = (axis * self._ahead for axis in self.world.body.forward(state))
        return Pusher(x + ahead_x, y + ahead_y, vx - turn * ahead_y, vy + turn * ahead_x)

    def _offsets(self, state: Tensor) -> _Seen:
        """Where the lidar's objects lie from the agent, along the ground's axes, [M, n] each."""
        x, y = state[motion.X], state[motion.Y]
        dx, dy = state[self._parts.x] - x, state[self._parts.y] - y
        return _Seen(dx, dy, _length(dx, dy))

    def _costs(self, seen: _Seen, pushed: _Pushed | None) -> Tensor:
        """Indicators [constraints, N], 0 or 1, in the order of `world.constraints`."""
        world, body = self.world, self._body
        parts: list[Tensor] = []
        if world.hazards:
            parts.append(torch.amin(seen.distance[1 : 1 + world.hazards], dim=0) < HAZARD_M)
        if world.vases_constrained:
            assert pushed is not None
            rows, touched, state = pushed
            contact, moving = torch.zeros(2, self.num_envs, dtype=torch.bool, device=self.device)
            contact[rows] = touched.any(dim=0)
            speed = _length(*state[self._parts.vases].split(world.vases))
            moving[rows] = (speed >= VASE_STILL_M_PER_S).any(dim=0)
            parts += [contact, moving]
        if world.limit_x_m < math.inf:
            beyond = body[motion.X].abs() > world.limit_x_m
            parts.append(beyond | (body[motion.Y].abs() > world.limit_y_m))
        return torch.stack(parts).float() if parts else torch.zeros(0, self.num_envs, device=self.device)

    def _reward(self, before: Tensor, seen: _Seen) -> tuple[Tensor, Tensor | None]:
        """Reward [N], and where there is a goal whether it is reached, bool [N]."""
        x, y, vx, vy = (self._body[row] for row in (motion.X, motion.Y, motion.VX, motion.VY))
        if self.world.task == "goal":
            distance = self._state[self._parts.distance]
            new = seen.distance[:1]
            met = new <= GOAL_M
            reward = (distance - new + met).clamp_(-REWARD_CLIP, REWARD_CLIP)
            distance.copy_(new)
            return reward[0], met[0]
        if self.world.task == "circle":
            return circle_reward(x, y, vx, vy).clamp_(-REWARD_CLIP, REWARD_CLIP), None
        return run_reward(before[motion.X], before[motion.Y], x, y), None

    def _move_goal_on(self, rows: Tensor) -> Tensor:
        """New goals for environments `rows`, clear of where everything is now; false [n], and the old, without room."""
        parts = self._parts
        state, seed = self._state[:, rows], self._seed[rows]
        x = torch.cat([state[motion.X : motion.X + 1], state[parts.x][1:]])
        y = torch.cat([state[motion.Y : motion.Y + 1], state[parts.y][1:]])
        keepout = torch.cat([self._keepout[:1], self._keepout[2:]])
        xy, found = free_place(self._places[1], seed, self._goals[rows], x, y, keepout)
        xy = torch.where(found, xy, torch.stack([state[parts.x.start], state[parts.y.start]]))
        self._goals[rows] += 1
        self._state[parts.x.start, rows], self._state[parts.y.start, rows] = xy
        self._state[parts.distance.start, rows] = _length(xy[0] - x[0], xy[1] - y[0])
        return found

    def _observe(self, state: Tensor, seen: _Seen | None = None) -> Tensor:
        """Observations [n, O] of states [rows, n]: own senses, then one lidar ring per kind of object."""
        body = self.world.body
        out = torch.empty(self.world.observation_size, state.shape[1], device=self.device)
        body.sense(state, out[: body.senses])
        if self.world.rings:
            dx, dy, distance = self._offsets(state) if seen is None else seen
            cos, sin = state[motion.COS], state[motion.SIN]
            x, y = dx * cos + dy * sin, dy * cos - dx * sin
            self._lidar.read(x, y, distance, out[body.senses :])
        return out.t().contiguous()

    # --- where the agent is ----------------------------------------------------------------------------------------

    def position(self) -> Array:
        """Planar position of the agent, metres [N, 2]."""
        return _numpy(self._body[: motion.Y + 1].t().double())

    def speed(self) -> Array:
        """Planar speed of the agent's body, m/s [N]."""
        return _numpy(_length(self._body[motion.VX], self._body[motion.VY]).double())

    # --- LaidOut ---------------------------------------------------------------------------------------------------

    def layout(self, i: int) -> dict[str, Any]:
        """The arrangement environment `i` started from: name -> [n][2] metres, "agent_rot" radians."""
        if not self._begun:
            raise ConfigError(f"{self.id} has no layout before its first reset. Call reset() once.")
        refuse_no_row(self.id, i, self.num_envs)
        found: dict[str, Any] = {}
        for place, xy in zip(self._places, _numpy(self._start_xy[:, :, i]).T.tolist(), strict=True):
            found.setdefault(place.name, []).append(xy)
        return {**found, "agent_rot": float(self._start_rot[i])}

    @torch.no_grad()
    def set_layout(self, layouts: Mapping[int, Mapping[str, Any]]) -> NDArray[np.float32]:
        """Restart the episodes of environments `layouts.keys()` from these arrangements -> all observations [N, O].

        Later goals of such an episode come from a fresh `episode_seed`. Raises ConfigError, before anything has
        changed, naming the object that is missing, of the wrong count or unsafe.
        """
        refuse_layouts(self.id, layouts, self.num_envs)
        read = [read_arrangement(self._places, given) for given in layouts.values()]
        for given_xy, _ in read:
            self._refuse_unsafe(given_xy)
        if not self._begun:
            self.reset_tensors()
        if read:
            ids = np.fromiter(layouts, np.intp)
            rows = self._reseed(ids, self.seed_source(len(ids)))
            xy = torch.as_tensor(np.stack([given_xy for given_xy, _ in read], axis=2), device=self.device)
            rot = torch.as_tensor(np.array([given_rot for _, given_rot in read]), device=self.device)
            self._place(rows, xy, rot)
        return _numpy(self._observe(self._state))

    def _refuse_unsafe(self, xy: NDArray[np.float32]) -> None:
        """An episode starts without cost and without discs inside one another."""
        world = self.world
        names = [place.name for place in self._places]
        agent = xy[:, 0].astype(float)
        if abs(agent[0]) > world.limit_x_m or abs(agent[1]) > world.limit_y_m:
            raise ConfigError(
                f"the agent starts at {agent.round(3).tolist()}, beyond a line. Start it between the lines."
            )
        hazards, vases = (xy[:, [k for k, name in enumerate(names) if name == kind]].T for kind in ("hazards", "vases"))
        reach = world.body.bumper.reach_m + VASE_M
        for i, place in enumerate(hazards):
            if math.dist(agent, place) < HAZARD_M:
                raise ConfigError(f"the agent starts inside hazards[{i}]. Keep it {HAZARD_M} m from its centre.")
        for i, place in enumerate(vases):
            if math.dist(agent, place) < reach:
                raise ConfigError(f"the agent starts touching vases[{i}]. Keep their centres {reach:.2f} m apart.")
            for j in range(i):
                if math.dist(vases[j], place) < 2.0 * VASE_M:
                    raise ConfigError(f"vases[{j}] and vases[{i}] overlap. Keep them {2.0 * VASE_M:.2f} m apart.")

    # --- Perturbable -----------------------------------------------------------------------------------------------

    def perturb(self, **scale: float | Array) -> None:
        """Multiply nominal dynamics by positive numbers or arrays [N]; a name left out keeps its scale, 1 restores.

        mass: the agent's mass and inertia. friction: its drag, the drag of its joints and its grip. gear: its motors.
        """
        self._scales |= read_scales(scale, self.perturbations, self.num_envs)
        self._set_constants()

    def _set_constants(self) -> None:
        # In double precision on the host, so that they are the same float32 everywhere.
        constants = self.world.body.constants({name: torch.tensor(s, device="cpu") for name, s in self._scales.items()})
        self._constants = {name: value.to(self.device) for name, value in constants.items()}

    # --- Stateful --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "world": self.id,
            "begun": self._begun,
            **{name: _numpy(getattr(self, f"_{name}").clone()) for name in _SAVED},
            "episode_seed": self.episode_seed.copy(),
            "scales": {name: scale.copy() for name, scale in self._scales.items()},
            "seeds": self._seeds.bit_generator.state,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        """Take up a state of the same world and N -> the observations [N, O] that belong to it.

        Raises ConfigError when the state is another world's or of another number of environments.
        """
        refuse_another(state, self.state_dict(), self.num_envs)
        for name in _SAVED:
            getattr(self, f"_{name}").copy_(torch.as_tensor(state[name], device=self.device))
        self.episode_seed[:] = state["episode_seed"]
        self._seed.copy_(torch.as_tensor(self.episode_seed.astype(np.int64), device=self.device))
        self.perturb(**state["scales"])
        self._seeds.bit_generator.state = state["seeds"]
        self._begun = bool(state["begun"])
        return _numpy(self._observe(self._state))

    # --- Visible ---------------------------------------------------------------------------------------------------

    def render(self, i: int = 0, width: int = 256, height: int = 256, camera: str = "fixedfar") -> NDArray[np.uint8]:
        """Environment `i` from above, [height, width, 3]; needs no OpenGL."""
        return picture(self.scene(i), width, height, camera)

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Environment `i` from above: {"extent": m, "shapes": [{"kind", "xy", "radius", "rot", "colour"}, …]}."""
        refuse_no_row(self.id, i, self.num_envs)
        state = self._state[:, i]
        objects = torch.stack([state[self._parts.x], state[self._parts.y]], dim=1).tolist()
        ahead_x, ahead_y = self.world.body.forward(state)
        return scene(self.world, objects, state[: motion.Y + 1].tolist(), (float(ahead_x), float(ahead_y)))

    def close(self) -> None:
        """Free the state."""
        self._state = closed(self.id)


class PlanarGoalWorlds(PlanarWorlds):
    """Planar worlds with a goal, which are Steerable too."""

    def goal_distance(self) -> Array:
        """Distance from agent to goal, metres [N]."""
        seen = self._offsets(self._state)
        return _numpy(seen.distance[0].double())

    def set_goal(self, xy: Array, mask: NDArray[np.bool_] | None = None) -> None:
        """Move goals to xy [N, 2] where `mask` [N]; the step's reward is measured from the new place on.

        Raises ConfigError for another shape, a mask that is not of booleans, or a place that is no number.
        """
        goals, where = read_goals(self.id, xy, mask, self.num_envs)
        rows = torch.as_tensor(np.flatnonzero(where), device=self.device)
        to = torch.as_tensor(goals.astype(np.float32)[where].T, device=self.device)
        parts = self._parts
        self._state[parts.x.start, rows], self._state[parts.y.start, rows] = to
        self._state[parts.distance.start, rows] = _length(*(to - self._body[: motion.Y + 1, rows]))
