"""How the planar bodies move: equations in the plane, and discs that are pushed about.

A body's state is a tensor [B, N] whose first rows are position of the centre, heading as a unit vector, velocity of the
centre along the ground's axes, turn rate, and the mean acceleration over the last control interval in the body's frame.
SI units throughout. All is elementwise, so an environment's motion does not depend on those beside it; and only sums,
products, quotients and roots are used, so it does not depend on its place in the batch either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["CAR", "POINT", "Body", "Bumper", "CarBody", "PointBody", "at_rest"]

X, Y, COS, SIN, VX, VY, TURN, AX, AY = range(9)  # rows of every body's state; COS, SIN: its x axis
BALL, SPIN = 9, 13  # the Car's further rows: rotation of its rear ball (4), its angular velocity (3)
GRAVITY_M_PER_S2 = 9.81
FIELD = -0.5  # MuJoCo's magnetic field, along the ground's y axis

Scales = Mapping[str, Tensor]  # "mass", "friction", "gear" -> [N] float64
# What multiplies the terms of the motion, [N] or [] each: tensors, since a Python number doubles an operation's price.
Constants = Mapping[str, Tensor]


class Bumper(NamedTuple):
    """The disc that the body is to things it pushes: how far ahead of the centre, and its radius, metres."""

    ahead_m: float
    radius_m: float

    @property
    def reach_m(self) -> float:
        """How far from the body's centre it touches."""
        return self.ahead_m + self.radius_m


POINT_BUMPER = Bumper(0.025, 0.125)  # as long as MuJoCo's sphere and box together
CAR_BUMPER = Bumper(0.0075, 0.1675)  # as long as its box with both bumpers


class Body(Protocol):
    """What a planar world asks of a body: B rows of state, S senses, two actions."""

    @property
    def name(self) -> str:
        """The word in a world's id."""
        ...

    @property
    def rows(self) -> int:
        """B."""
        ...

    @property
    def senses(self) -> int:
        """S."""
        ...

    @property
    def interval_s(self) -> float:
        """Seconds of one control step."""
        ...

    @property
    def bumper(self) -> Bumper:
        """What pushes things."""
        ...

    def constants(self, scales: Scales, dtype: torch.dtype = torch.float32) -> Constants:
        """Constants of the motion under multipliers of mass, friction and gear, on the host."""
        ...

    def advance(self, state: Tensor, actions: Tensor, constants: Constants) -> Tensor:
        """One control step.  state [B, N], actions [2, N] in [-1, 1] -> [B, N]."""
        ...

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vector in which the body drives, [N] each."""
        ...

    def sense(self, state: Tensor, out: Tensor) -> None:
        """What the body senses of itself, into `out` [S, N]."""
        ...


def _turned(cos: Tensor, sin: Tensor, half_angle: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    """A unit vector turned by 2·atan(half_angle), which is the angle itself to second order (Cayley's map)."""
    square = half_angle * half_angle
    scale = (square + one).reciprocal_()
    c, s = (one - square).mul_(scale), (half_angle + half_angle).mul_(scale)
    return (cos * c).sub_(sin * s), (sin * c).add_(cos * s)


def _unit(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """A nearly unit vector at length one again: over an episode of turning alike, rounding would add up."""
    scale = (cos * cos).add_(sin * sin).sqrt_().reciprocal_()
    return cos * scale, sin * scale


def at_rest(body: Body, xy: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """State [B, N] of bodies that stand at xy [2, N] with x axes (cos, sin) [N]."""
    state = torch.zeros(body.rows, xy.shape[1], device=xy.device)
    state[X : Y + 1], state[COS], state[SIN] = xy, cos, sin
    if body.rows > BALL:
        state[BALL] = 1.0
    return state


def _sense_motion(state: Tensor, out: Tensor) -> None:
    """Accelerometer, velocimeter, gyro and magnetometer in the body's frame, three numbers each."""
    cos, sin, vx, vy = state[COS], state[SIN], state[VX], state[VY]
    out[2] = GRAVITY_M_PER_S2
    out[5:8] = 0.0
    out[11] = 0.0
    out[0:2] = state[AX : AY + 1]
    torch.add(vx * cos, vy * sin, out=out[3])
    torch.sub(vy * cos, vx * sin, out=out[4])
    out[8] = state[TURN]
    torch.mul(sin, FIELD, out=out[9])
    torch.mul(cos, FIELD, out=out[10])


def _joined(before: Tensor, rows: list[Tensor], rate: Tensor) -> Tensor:
    """The new state from rows X … TURN and those after AY, with the acceleration between; rate: 1/interval."""
    cos, sin = rows[COS], rows[SIN]
    ax, ay = (rows[VX] - before[VX]).mul_(rate), (rows[VY] - before[VY]).mul_(rate)
    ahead, left = (ax * cos).add_(ay * sin), (ay * cos).sub_(ax * sin)
    return torch.stack([*rows[:AX], ahead, left, *rows[AX:]])


def _as_constants(found: Mapping[str, Tensor | float], dtype: torch.dtype) -> Constants:
    return {name: torch.as_tensor(value, device="cpu").to(dtype) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class PointBody:
    """The Point: pushed along its x axis, turned by a velocity servo, braked by the air.

    With v the velocity of the centre, f and n the axes ahead and to the left, ω the turn rate and c how far the centre
    of mass lies ahead of the centre,

        m·v̇ = F·f − d·v + m·c·(ω²·f − ω̇·n),      I·ω̇ = τ − b·ω + c·d·(v·n),
        F = g·clip(a₀, ±l),   τ = g·clip(a₁ − g·ω, ±l),

    which are the equations of MuJoCo's body while it touches nothing. Semi-implicit Euler: drag and servo at the new
    velocities (the servo's time constant, 0.3 ms, is far below the step), then position and heading from them.
    """

    name: str = "Point"
    mass_kg: float = 0.0051888  # a sphere of radius 0.1 m and a box of 0.1 m, 1 kg/m³
    inertia_kg_m2: float = 2.6495e-5  # I, about the centre of mass
    mass_ahead_m: float = 0.019272  # c
    drag_n_s_per_m: float = 0.01  # d
    turn_drag_n_m_s: float = 0.005  # b
    gear: float = 0.3  # g
    limit: float = 0.05  # l
    interval_s: float = 0.02
    substeps: int = 2
    bumper: Bumper = POINT_BUMPER
    rows: int = 9
    senses: int = 12

    def constants(self, scales: Scales, dtype: torch.dtype = torch.float32) -> Constants:
        """What multiplies the terms of one substep."""
        mass, friction, gear = scales["mass"], scales["friction"], scales["gear"] * self.gear
        h = self.interval_s / self.substeps
        k = h / (self.inertia_kg_m2 * mass)
        drag, turn_drag = self.drag_n_s_per_m * friction, self.turn_drag_n_m_s * friction
        found: dict[str, Tensor | float] = {
            "thrust": h * gear / (self.mass_kg * mass),
            "kept": 1.0 / (1.0 + h * drag / (self.mass_kg * mass)),
            "yawed": k * self.mass_ahead_m * drag,
            "servo": k * gear,
            "push": k * gear * self.limit,
            "kept_free": 1.0 / (1.0 + k * (gear * gear + turn_drag)),
            "kept_pushed": 1.0 / (1.0 + k * turn_drag),
            "arm": self.mass_ahead_m,
            "swing": self.mass_ahead_m * h,
            "h": h,
            "half_h": h / 2.0,
            "rate": 1.0 / self.interval_s,
            "one": 1.0,
        }
        return _as_constants(found, dtype)

    def advance(self, state: Tensor, actions: Tensor, constants: Constants) -> Tensor:
        """One control step.  state [9, N], actions [2, N] -> [9, N]."""
        k = constants
        x, y, cos, sin, vx, vy, turn = state[:AX].unbind()
        thrust = actions[0].clamp(-self.limit, self.limit).mul_(k["thrust"])
        wanted, push = actions[1] * k["servo"], k["push"]
        for _ in range(self.substeps):
            driven = (vy * cos).sub_(vx * sin).mul_(k["yawed"]).add_(turn)
            # The servo at the new turn rate: of its three branches the middle one, since each grows with the rate.
            free = (driven + wanted).mul_(k["kept_free"])
            low, high = (driven - push).mul_(k["kept_pushed"]), (driven + push).mul_(k["kept_pushed"])
            new_turn = torch.maximum(low, torch.minimum(high, free))
            ahead = (new_turn * new_turn).mul_(k["swing"]).add_(thrust)
            left = (turn - new_turn).mul_(k["arm"])
            turn = new_turn
            vx = (ahead * cos).sub_(left * sin).add_(vx).mul_(k["kept"])
            vy = (ahead * sin).add_(left * cos).add_(vy).mul_(k["kept"])
            x, y = x + vx * k["h"], y + vy * k["h"]
            cos, sin = _turned(cos, sin, turn * k["half_h"], k["one"])
        return _joined(state, [x, y, *_unit(cos, sin), vx, vy, turn], k["rate"])

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Its x axis."""
        return state[COS], state[SIN]

    def sense(self, state: Tensor, out: Tensor) -> None:
        """Accelerometer, velocimeter, gyro, magnetometer."""
        _sense_motion(state, out)


@dataclass(frozen=True, slots=True)
class CarBody:
    """The Car: two driven wheels that roll without slipping sideways, and a ball in front that is dragged along.

    With u the speed of the axle's middle ahead (the body's −y axis), ω the turn rate, c and l how far the centre of
    mass and the ball lie ahead of the axle, T half the track and r the wheels' radius,

        m·u̇ = F₁ + F₂ − D·u + m·c·ω²,
        (I + m·c²)·ω̇ = T·(F₁ − F₂) − D·l²·ω − m·c·u·ω,
        F = clip(g·clip(a, ±τ)/r − κ·s, ±µ·W/2) of each wheel, s = u ± T·ω its speed along the ground, κ = b/r²,
        D = min(κ, µ·B/√(u² + l²ω²)) of the ball.

    Wheels and ball bear W = m·((l − c)·g + z·u̇)/l and B = m·g − W: speeding up lifts the ball, which makes most of the
    Car's acceleration. Semi-implicit Euler, D at the new speed, W at the last substep's u̇.
    """

    name: str = "Car"
    mass_kg: float = 0.030445
    inertia_kg_m2: float = 3.6478e-4  # I, about the centre of mass
    mass_ahead_m: float = 0.0926  # c
    mass_height_m: float = 0.09004  # z
    ball_ahead_m: float = 0.2  # l
    axle_ahead_m: float = -0.1  # of the body's centre
    half_track_m: float = 0.13  # T
    radius_m: float = 0.05  # r, of wheels and ball
    joint_drag_n_m_s: float = 0.00105  # b; 0.001 there
    torque_limit_n_m: float = 0.02  # τ
    grip: float = 1.07  # µ; 1 there
    interval_s: float = 0.04
    substeps: int = 2
    bumper: Bumper = CAR_BUMPER
    rows: int = 16
    senses: int = 24

    def constants(self, scales: Scales, dtype: torch.dtype = torch.float32) -> Constants:
        """What multiplies the terms of one substep."""
        mass, friction = self.mass_kg * scales["mass"], scales["friction"]
        h, c, ahead = self.interval_s / self.substeps, self.mass_ahead_m, self.ball_ahead_m
        grip = self.grip * friction * mass * GRAVITY_M_PER_S2
        drag = self.joint_drag_n_m_s * friction / self.radius_m**2
        inertia = self.inertia_kg_m2 * scales["mass"] + mass * c * c
        found: dict[str, Tensor | float] = {
            "drive": scales["gear"] / self.radius_m,
            "drag": drag,  # κ
            "bears": grip * (1.0 - c / ahead),  # µ·W while u̇ = 0
            "lifts": self.grip
            * friction
            * mass
            * self.mass_height_m
            / (ahead * h),  # … and per change of u in a substep
            "grip": grip,  # µ·m·g
            "per_mass": h / mass,
            "moment": h * self.half_track_m / inertia,
            "scrub": h * ahead * ahead / inertia,
            "turned": h * mass * c / inertia,
            "swing": h * c,
            "track": self.half_track_m,
            "ball": ahead,
            "centre": -self.axle_ahead_m,
            "rolls": 1.0 / (drag * self.radius_m),
            "h": h,
            "half_h": h / 2.0,
            "half_interval": self.interval_s / 2.0,
            "rate": 1.0 / self.interval_s,
            "least": 1e-6,  # m/s, below which the direction of a slip means nothing
            "half": 0.5,
            "one": 1.0,
            "two": 2.0,
        }
        return _as_constants(found, dtype)

    def advance(self, state: Tensor, actions: Tensor, constants: Constants) -> Tensor:
        """One control step.  state [16, N], actions [2, N] -> [16, N]."""
        k = constants
        x, y, cos, sin, vx, vy, turn, _, ay = state[:BALL].unbind()
        left, right = actions.clamp(-self.torque_limit_n_m, self.torque_limit_n_m).mul(k["drive"]).unbind()
        u = (vx * sin).sub_(vy * cos)
        gain = -ay * k["h"]  # of u in the last substep
        drag, per_mass = k["drag"], k["per_mass"]
        for _ in range(self.substeps):
            wheels = torch.minimum((gain * k["lifts"]).add_(k["bears"]).clamp_(min=0.0), k["grip"])
            each = wheels * k["half"]
            swing, aside = turn * k["track"], turn * k["ball"]
            f_left = _within(left - (u + swing).mul_(drag), each)
            f_right = _within(right - (u - swing).mul_(drag), each)
            slip = torch.maximum((u * u).add_(aside * aside).sqrt_(), k["least"])
            d = torch.minimum(drag, (k["grip"] - wheels).div_(slip))
            pulled = (f_left + f_right).mul_(per_mass).add_((turn * turn).mul_(k["swing"])).add_(u)
            new_u = pulled.div_((d * per_mass).add_(k["one"]))
            moment = (f_left - f_right).mul_(k["moment"]).add_(turn)
            turn = moment.div_((d * k["scrub"]).add_(u * k["turned"]).add_(k["one"]))
            gain, u = new_u - u, new_u
            aside = turn * k["centre"]
            vx, vy = (u * sin).add_(aside * cos), (aside * sin).sub_(u * cos)
            x, y = x + vx * k["h"], y + vy * k["h"]
            cos, sin = _turned(cos, sin, turn * k["half_h"], k["one"])
        cos, sin = _unit(cos, sin)
        vx, vy = (u * sin).add_(aside * cos), (aside * sin).sub_(u * cos)
        return _joined(state, [x, y, cos, sin, vx, vy, turn, *self._rolled(state, u, turn, d, k)], k["rate"])

    def _rolled(self, state: Tensor, u: Tensor, turn: Tensor, d: Tensor, k: Constants) -> list[Tensor]:
        """The ball's rotation and angular velocity in its own frame: it rolls as far as its grip can turn it."""
        rolling = d * k["rolls"]
        # Rolling along v means turning about ẑ × v; ahead is −y and left of it x, in the body's frame.
        ahead, aside = u * rolling, rolling.mul_(turn).mul_(k["ball"])
        p, q = ahead * k["half_interval"], aside * k["half_interval"]
        w, i, j, m = state[BALL:SPIN].unbind()
        # (1, p, q, 0) ⊗ (w, i, j, m): a turn about an axis of the body's frame.
        ball = torch.stack([w - p * i - q * j, i + p * w + q * m, j + q * w - p * m, m + p * j - q * i])
        square = ball * ball
        ball = ball * (square[0] + square[1]).add_(square[2]).add_(square[3]).sqrt_().reciprocal_()
        rotation = _rotation(ball, k["one"], k["two"])
        own = [rotation[axis] * ahead + rotation[3 + axis] * aside for axis in range(3)]
        return [*ball.unbind(), *own]

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Its −y axis."""
        return state[SIN], -state[COS]

    def sense(self, state: Tensor, out: Tensor) -> None:
        """Accelerometer, velocimeter, gyro, magnetometer; the ball's angular velocity and rotation matrix."""
        _sense_motion(state, out)
        out[12:15] = state[SPIN : SPIN + 3]
        one = torch.ones((), dtype=state.dtype, device=state.device)
        torch.stack(_rotation(state[BALL:SPIN], one, one + one), out=out[15:24])


def _within(force: Tensor, limit: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(force, limit), -limit)


def _rotation(quaternion: Tensor, one: Tensor, two: Tensor) -> list[Tensor]:
    """Rotation matrix of unit quaternions [4, N], row by row."""
    w, i, j, k = quaternion.unbind()
    i2, j2, k2 = (quaternion[1:] * two).unbind()
    ii, jj, kk, ij, ik, jk = i2 * i, j2 * j, k2 * k, i2 * j, i2 * k, j2 * k
    wi, wj, wk = w * i2, w * j2, w * k2
    return [
        *((one - jj).sub_(kk), ij - wk, ik + wj),
        *(ij + wk, (one - ii).sub_(kk), jk - wi),
        *(ik - wj, jk + wi, (one - ii).sub_(jj)),
    ]


POINT = PointBody()
CAR = CarBody()
