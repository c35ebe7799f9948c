"""A window on a world: MuJoCo's viewer on the model that is drawn, and driving the agent by keyboard.

The agent is driven with I, K, J and L, as in Safety-Gymnasium's Debug worlds, or with the arrow keys: in this window
letters switch drawing options too. The mouse turns the view.
"""

from __future__ import annotations

import copy
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import glfw
import mujoco
import numpy as np

from trueline.core.errors import ConfigError
from trueline.rl.env import Step
from trueline.safety.worlds.render import Ball, NoGraphics, Pose, add_balls, take, visual_model
from trueline.safety.worlds.scene import Array
from trueline.safety.worlds.world import World

if TYPE_CHECKING:
    from trueline.rl.multi_agent import MultiAgentStep
    from trueline.safety.worlds.engine import NavigationWorlds
    from trueline.safety.worlds.multi_goal import MultiGoalWorlds

_WANTED = "a window needs a display"
_INSTEAD = "Take pictures with `render`, or use `scene` and a film strip, which need no display."
_UP, _DOWN, _LEFT, _RIGHT = 265, 264, 263, 262
KEYS = {ord("I"): "I", ord("K"): "K", ord("J"): "J", ord("L"): "L", _UP: "I", _DOWN: "K", _LEFT: "J", _RIGHT: "L"}

_STEER = 0.5 / 0.785  # of the Racecar's largest angle
_DISTANCE_M, _AZIMUTH_DEG, _FROM_ABOVE_DEG, _FROM_THE_SIDE_DEG = 4.0, 90.0, -40.0, -20.0
_CLOSING_S = 10.0


def command(agent: str, held: Collection[str]) -> Array:
    """The action [2], of ±1, that the original gives the agent of this name for the letters held down.

    I and K drive forwards and back, J and L turn. The Car turns on the spot, whatever else is held.
    Raises ConfigError for an agent that cannot be driven so.
    """
    drive = float(("I" in held) - ("K" in held))
    turn = float(("J" in held) - ("L" in held))
    if agent == "point":
        return np.array([drive, turn])
    if agent == "racecar":
        return np.array([drive, _STEER * turn])
    if agent == "car":
        return np.array([turn, -turn]) if turn else np.array([drive, drive])
    raise ConfigError(f"the {agent} cannot be driven by four keys. The point, the car and the racecar can.")


def _refuse_without_display() -> None:
    """Try to open a window, since MuJoCo's viewer ends the process where it cannot.  Raises NoGraphics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the error says the same
        window = None
        if glfw.init():
            glfw.window_hint(glfw.VISIBLE, glfw.FALSE)
            window = glfw.create_window(16, 16, "", None, None)
            glfw.default_window_hints()
        reason: Any = glfw.get_error()[1]
    if not window:
        why = reason.decode() if reason else "GLFW does not start"
        raise NoGraphics(f"none could be opened ({why})", _WANTED, _INSTEAD)
    glfw.destroy_window(window)


class Viewer:
    """A model in a window; the camera follows one of its bodies until the user turns it elsewhere.

    Raises NoGraphics when there is no display.
    """

    def __init__(
        self, model: mujoco.MjModel, followed: int, elevation_deg: float, on_key: Callable[[int], None] | None = None
    ) -> None:
        if sys.platform != "darwin":  # there only the thread that draws may try
            _refuse_without_display()
        from mujoco import viewer

        self._model = copy.copy(model)  # one's own: in the window a user can change it
        self._data = mujoco.MjData(self._model)
        others = threading.enumerate()
        try:
            self._viewer = viewer.launch_passive(
                self._model, self._data, key_callback=on_key, show_left_ui=False, show_right_ui=False
            )
        except RuntimeError as error:  # on macOS, whose windows belong to a thread that only mjpython gives away
            raise NoGraphics(f"none could be opened ({error})", _WANTED, "Run the script with mjpython.") from error
        self._drawing = [thread for thread in threading.enumerate() if thread not in others]
        view = self._viewer.cam
        view.type, view.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, followed
        view.distance, view.azimuth, view.elevation = _DISTANCE_M, _AZIMUTH_DEG, elevation_deg

    @property
    def is_open(self) -> bool:
        """Whether the user has not closed it."""
        return bool(self._viewer.is_running())

    def close(self) -> None:
        """Close the window, and wait until nothing draws in it: the process must not end before."""
        self._viewer.close()
        for thread in self._drawing:
            thread.join(_CLOSING_S)


class RunnerWindow(Viewer):
    """Shows a body that runs, from the side."""

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model, 1, _FROM_THE_SIDE_DEG)  # the body's root

    def show(self, qpos: Array) -> None:
        """Show the body in a position [nq]."""
        with self._viewer.lock():
            self._data.qpos[:] = qpos
            mujoco.mj_forward(self._model, self._data)
        self._viewer.sync()


class Window(Viewer):
    """Shows poses of one navigation world.

    prefixes: of the agents in the world, see `physics.describe`.
    """

    def __init__(self, world: World, prefixes: tuple[str, ...] = ("",)) -> None:
        self._world, self._prefixes = world, prefixes
        self._tapped: set[str] = set()
        self._handle: Any = None  # of the desktop's window, known from the first key on
        model = visual_model(world, prefixes)
        super().__init__(model, model.body(prefixes[0] + world.agent.root.name).id, _FROM_ABOVE_DEG, self._note)

    def show(self, pose: Pose, balls: Sequence[Ball] = ()) -> None:
        """Show a pose, and balls that are drawn and are not there."""
        with self._viewer.lock():
            take(self._model, self._data, self._world, pose, self._prefixes)
            self._viewer.user_scn.ngeom = 0
            add_balls(self._viewer.user_scn, balls)
        self._viewer.sync()

    def held(self) -> frozenset[str]:
        """The letters of I, K, J and L that are down, or were pressed since the last call."""
        tapped, self._tapped = self._tapped, set()
        if self._handle and self.is_open:
            tapped.update(name for key, name in KEYS.items() if glfw.get_key(self._handle, key))
        return frozenset(tapped)

    def _note(self, key: int) -> None:
        # Called in the thread that draws, in which alone the window is the current one. The viewer tells of keys that
        # go down and not of keys that come up, so these are asked for.
        self._handle = glfw.get_current_context()
        if key in KEYS:
            self._tapped.add(KEYS[key])


def drive(env: NavigationWorlds | MultiGoalWorlds, i: int = 0) -> Iterator[Step | MultiAgentStep]:
    """Let a person drive environment `i` in real time, from a new episode until the window is closed; yields the steps.

    Of two agents the first is driven, as in the original. Everything else gets actions of 0. The window shows the
    agent's lidar, and a red ball where it costs. Raises NoGraphics when there is no display, ConfigError for an agent
    that four keys cannot drive.
    """
    agent = env.world.agent
    command(agent.name, ())
    env.reset()
    env.render(i, mode="human", lidar=True)
    return _driven(env, i, env.world.substeps * agent.timestep_s)


def _driven(env: Any, i: int, interval_s: float) -> Iterator[Step | MultiAgentStep]:
    window = env.window
    assert window is not None
    several = hasattr(env, "agents")
    actions = np.zeros((env.num_envs, len(env.world.agent.motors)))
    rest = {agent: np.zeros_like(actions) for agent in env.agents[1:]} if several else {}
    due = time.monotonic()
    while window.is_open:
        actions[i] = command(env.world.agent.name, window.held())
        step = env.step({env.agents[0]: actions, **rest} if several else actions)
        cost = step.cost[i, 0] if several else step.cost[i]
        env.render(i, mode="human", lidar=True, cost=float(cost.sum()))
        yield step
        due = max(due + interval_s, time.monotonic() - interval_s)  # what was lost is not caught up with
        time.sleep(max(0.0, due - time.monotonic()))
