"""`Evaluator`: episodes of a trained policy, counted or filmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from trueline.compat.omnisafe.envs.core import CmdpWorld
from trueline.core.errors import ConfigError, MissingExtra, RunError, nearest
from trueline.core.run import read_manifest
from trueline.core.streams import case_seeds
from trueline.core.subject import load_subject
from trueline.rl import worlds
from trueline.rl.env import Step, VectorEnv, Visible
from trueline.rl.evaluate import Watch, policy_actions, run_episodes
from trueline.rl.filmstrip import pixels, video
from trueline.rl.policy import Acts

__all__ = ["Evaluation", "Evaluator"]

_MODES = ("rgb_array", "rgb_array_list")
_FPS = 30
_AT_ONCE = 16  # environments
_DRAWN = 1024  # layouts drawn at a time: the first of them are the same however many are asked for


class Evaluation(NamedTuple):
    """One number per episode of each."""

    rewards: list[float]
    costs: list[float]


class Evaluator:
    """Runs the policy of a run folder, deterministically, on layouts that training never meets."""

    def __init__(self, render_mode: str = "rgb_array") -> None:
        """Raises ConfigError for a mode other than the two that films are made from."""
        _check_mode(render_mode)
        self._policy: Acts | None = None

    def load_saved(
        self,
        save_dir: str | Path,
        model_name: str | None = None,
        render_mode: str = "rgb_array",
        camera_name: str | None = None,
        camera_id: int | None = None,
        width: int = 256,
        height: int = 256,
    ) -> None:
        """Take up the policy of the run in `save_dir`, and how it will be filmed.

        Raises RunError for a folder that is no finished run of this package, ConfigError for a model that it cannot
        hold or a way of showing it that there is not.
        """
        _check_mode(render_mode)
        folder = Path(save_dir)
        if (folder / "torch_save").is_dir():
            raise RunError(
                f"{folder} is a run of OmniSafe's own, whose models are pickled. Train again here: no pickle is read."
            )
        if model_name not in (None, "subject"):
            raise ConfigError(
                f"model_name is {model_name!r}, but a run keeps its last policy alone. Leave model_name out."
            )
        if camera_id is not None:
            raise ConfigError(f"camera_id is {camera_id}. Give camera_name instead: cameras go by their names.")
        read_manifest(folder)
        subject = load_subject(folder)
        if not isinstance(subject, Acts):
            raise RunError(f"{folder} holds a {subject.kind!r}, which does not act. Give a run that trained a policy.")
        self._policy, self._folder = subject, folder
        self._camera, self._width, self._height = camera_name, width, height

    def evaluate(self, num_episodes: int = 10, cost_criteria: float = 1.0, seed: int = 0) -> Evaluation:
        """Return and cost of each of `num_episodes` episodes; `cost_criteria` discounts the cost, step by step.

        Layouts are drawn by `seed`. Raises ConfigError before a policy was loaded.
        """
        seeds = self._layouts(num_episodes, seed)
        env = worlds.of(self._loaded().world, min(num_episodes, _AT_ONCE))
        try:
            return self._run(env, seeds, cost_criteria)
        finally:
            env.close()

    def render(
        self,
        num_episodes: int = 1,
        save_replay_path: str | Path | None = None,
        max_render_steps: int = 2000,
        cost_criteria: float = 1.0,
        seed: int = 0,
    ) -> Evaluation:
        """Film episodes into `save_replay_path` (the run's video/), with their figures in result.txt beside.

        max_render_steps: where a film ends, whatever the episode does. Raises ConfigError before a policy was loaded,
        and for a world that cannot be looked at.
        """
        policy = self._loaded()
        target = Path(save_replay_path) if save_replay_path is not None else self._folder / "video"
        target.mkdir(parents=True, exist_ok=True)
        lines, rewards, costs = [], [], []
        env = worlds.of(policy.world)
        try:
            for episode, layout in enumerate(self._layouts(num_episodes, seed)):
                frames: list[NDArray[np.uint8]] = []
                one = self._run(env, layout[None], cost_criteria, self._filmed(env, frames, max_render_steps))
                video(target / f"eval-episode-{episode}.mp4", frames, fps=_FPS)
                rewards += one.rewards
                costs += one.costs
                lines.append(f"episode {episode}: return {one.rewards[0]:.6g}, cost {one.costs[0]:.6g}")
        finally:
            env.close()
        (target / "result.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
        return Evaluation(rewards, costs)

    def _loaded(self) -> Acts:
        if self._policy is None:
            raise ConfigError("no policy has been loaded. Call load_saved(save_dir) with the folder of a run first.")
        return self._policy

    def _layouts(self, episodes: int, seed: int) -> NDArray[np.uint32]:
        """Seeds of layouts kept for findings: those of training are spent, those of verdicts not to be looked at."""
        if episodes < 1:
            raise ConfigError(f"num_episodes is {episodes}. Give at least one.")
        drawn: NDArray[np.uint32] = case_seeds("respond", 0, max(episodes, _DRAWN), np.random.default_rng(seed))
        return drawn[:episodes]

    def _run(self, env: VectorEnv, seeds: NDArray[np.uint32], discount: float, look: Watch | None = None) -> Evaluation:
        """One episode per seed."""
        policy = self._loaded()
        rng = np.random.default_rng(0)  # deterministic policies draw nothing
        cost = np.zeros(len(seeds))
        wave = 0

        def watch(t: int, actions: NDArray[Any], step: Step, counted: NDArray[np.bool_]) -> None:
            rows = np.flatnonzero(counted)
            cost[wave + rows] += discount**t * step.cost[rows].sum(axis=1)
            if look is not None:
                look(t, actions, step, counted)

        def actor(number: int) -> Any:
            nonlocal wave
            wave = number * env.num_envs
            return policy_actions(policy, rng, deterministic=True)

        done = run_episodes(env, seeds, actor, watch)
        return Evaluation(done.episode_return.tolist(), cost.tolist())

    def _filmed(self, env: VectorEnv, frames: list[NDArray[np.uint8]], most: int) -> Watch:
        """What collects a frame of environment 0 after every step, and one before an episode of a single step."""
        frame = self._frame(env)

        def watch(t: int, _: Any, step: Step, _counted: NDArray[np.bool_]) -> None:
            # After an episode's last step the world already shows the next one.
            if t < most and (not step.ended[0] or not frames):
                frames.append(frame())

        return watch

    def _frame(self, env: VectorEnv) -> Callable[[], NDArray[np.uint8]]:
        if isinstance(env, CmdpWorld):
            return env.picture
        if not isinstance(env, Visible):
            raise ConfigError(f"{env.id} cannot be looked at. Films are of worlds that are Visible, and of CMDPs.")
        seen = cast(Visible, env)
        camera = {} if self._camera is None else {"camera": self._camera}
        from_above = False

        def frame() -> NDArray[np.uint8]:
            nonlocal from_above
            if not from_above:
                try:
                    return seen.render(0, self._width, self._height, **camera)
                except MissingExtra:
                    from_above = True  # no GL: drawn from the scene
            return pixels(seen.scene(0), self._width, self._height)

        return frame


def _check_mode(mode: str) -> None:
    if mode not in _MODES:
        raise ConfigError(
            f"render_mode is {mode!r}.{nearest(mode, _MODES)} Give {' or '.join(map(repr, _MODES))}: films are written "
            "to files, and no window is opened."
        )
