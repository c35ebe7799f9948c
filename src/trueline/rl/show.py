"""Showing a policy: one episode as a film strip from the world's state, and as a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.rl import worlds
from trueline.rl.env import Step, Visible
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.filmstrip import Camera, film_strip, png, video
from trueline.rl.policy import Acts

PANELS = 6
FRAME_EVERY = 5  # steps between two frames of the video
SIZE = 200  # pixels


def show_policy(policy: Acts, seed: int, folder: Path) -> Sequence[dict[str, str]]:
    """Run the policy once on the layout `seed`; writes seed-SEED.png and seed-SEED.mp4.

    A world that is not Visible gives nothing.
    """
    env = worlds.of(policy.world)
    try:
        return _show(env, policy, seed, folder) if isinstance(env, Visible) else []
    finally:
        env.close()


def _show(env: Any, policy: Acts, seed: int, folder: Path) -> list[dict[str, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    scenes: list[Any] = []
    sums: list[tuple[int, float, float]] = []
    frames: list[NDArray[np.uint8]] = []
    path: list[NDArray[np.float64]] = []
    marks: list[int] = []
    # The last step's scene already belongs to the next episode, so the last panel is the one before it.
    panels = {(k + 1) * (env.max_episode_steps - 1) // PANELS - 1 for k in range(PANELS)}
    camera = Camera(env, SIZE)

    def watch(t: int, _: Any, step: Step, _counted: NDArray[np.bool_]) -> None:
        before = sums[-1][1:] if sums else (0.0, 0.0)
        sums.append((t + 1, before[0] + float(step.reward[0]), before[1] + float(step.cost[0].sum())))
        if bool(step.ended[0]):
            return  # the scene already belongs to the next episode
        scene = env.scene(0)
        path.append(np.asarray(next(s["xy"] for s in scene["shapes"] if s["kind"] == "arrow")))
        if t in panels:
            scenes.append(scene)
            marks.append(len(path))
        if t % FRAME_EVERY == 0:
            frames.append(camera.frame())

    rng = np.random.default_rng(seed)
    run_episodes(env, [seed], lambda _: policy_actions(policy, rng), watch)
    if not scenes:
        return []  # an episode that ended at once shows nothing
    total, cost = sums[-1][1:]
    captions = [f"step {sums[m - 1][0]}: return {sums[m - 1][1]:.1f}, cost {sums[m - 1][2]:.0f}" for m in marks]
    trails = [np.array(path[start:m]) for start, m in zip([0, *marks], marks, strict=False)]
    (folder / f"seed-{seed}.png").write_bytes(png(film_strip(scenes, captions, trails)))
    caption = f"Layout {seed}: return {total:.1f}, cost {cost:.0f} over {sums[-1][0]} steps"
    seen = f"Top view of {env.id} with the agent's path; the episode's cost is {cost:.0f} and its return {total:.1f}"
    video(folder / f"seed-{seed}.mp4", frames, fps=25)
    files = {"video": f"seed-{seed}.mp4", "image": f"seed-{seed}.png"}
    return [{"kind": kind, "file": file, "caption": caption, "alt": seen} for kind, file in files.items()]
