"""What safety-gymnasium 1.0.0 does at its interface, written down as golden values for our tests.

    $PEER_PYTHON benchmarks/parity_compat.py tests/safety/golden/compat.json

Run by the peer's interpreter (see _peers.py). Our tests run the functions below over `trueline.compat` and compare.
Layouts of later episodes involve no physics: they tell whether the random stream goes on as the original's does.
Floats are written so that they read back bit for bit.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _peers as peers
import numpy as np

IDS = ("SafetyPointGoal1-v0", "SafetyCarGoal1-v0")
LIMIT = 30  # steps after which the episodes here are cut


def space(box) -> dict[str, object]:
    return {
        "low": box.low.ravel().tolist(),
        "high": box.high.ravel().tolist(),
        "shape": list(box.shape),
        "dtype": str(box.dtype),
    }


def spaces(gym, id: str, agent: str) -> dict[str, object]:
    flat = gym.make(id)
    parts = gym.make(id, config={"agent_name": agent, "observation_flatten": False})
    batch = gym.vector.make(id, num_envs=3, asynchronous=False)
    parts_obs, _ = parts.reset(seed=0)
    flat_obs, _ = flat.reset(seed=0)
    return {
        "observation": space(flat.observation_space),
        "action": space(flat.action_space),
        "parts": {key: space(part) for key, part in parts.observation_space.spaces.items()},
        "parts_in_order": np.array_equal(np.concatenate([v.ravel() for v in parts_obs.values()]), flat_obs),
        "batch": [list(batch.observation_space.shape), list(batch.action_space.shape)],
        "single": [list(batch.single_observation_space.shape), list(batch.single_action_space.shape)],
    }


def face(gym, id: str) -> dict[str, object]:
    """What `make` wraps, and what the environment says of itself."""
    env = gym.make(id, max_episode_steps=LIMIT, autoreset=True)
    chain, inner = [], env
    while inner is not env.unwrapped:
        chain.append(type(inner).__name__)
        inner = inner.env
    env.action_space.seed(3)
    said = {
        "chain": chain,
        "metadata": dict(env.metadata),
        "spec": [env.spec.id, env.spec.max_episode_steps, env.unwrapped.spec.max_episode_steps],
        "kwargs": env.unwrapped.spec.kwargs,
        "sample": env.action_space.sample().tolist(),
        "render_mode": env.render_mode,
        "done_before_reset": bool(env.unwrapped.done),
        "num_steps": env.task.num_steps,
        "default_limit": gym.make(id).spec.max_episode_steps,
    }
    env.reset(seed=1)
    env.step(np.zeros(2))
    return said | {"steps": env.steps, "done": bool(env.done), "cost": env.unwrapped.cost}


def actions(n: int) -> np.ndarray:
    """[n, 2] a fixed drive with turns."""
    t = np.arange(n)
    return np.stack([0.5 + 0.0 * t, 0.3 * np.sin(t / 3.0)], axis=1)


def episodes(gym, id: str) -> list[dict[str, object]]:
    """First observations and first steps: from a seed, after a time limit, after stopping early, from another seed."""
    env = gym.make(id, max_episode_steps=LIMIT)
    rows = []
    for seed, steps in ((0, LIMIT), (None, LIMIT), (None, 7), (None, 1), (5, 3), (None, 4)):
        obs, info = env.reset(seed=seed) if seed is not None else env.reset()
        row: dict[str, Any] = {
            "seed": seed,
            "steps": steps,
            "reset_info": info,
            "first": obs.tolist(),
            "dtype": str(obs.dtype),
        }
        outcomes = [env.step(action) for action in actions(steps)]
        row["rewards"] = [float(o[1]) for o in outcomes[:4]]
        row["costs"] = [float(o[2]) for o in outcomes]
        row["ends"] = [[bool(o[3]), bool(o[4])] for o in outcomes]
        row["info"] = outcomes[0][5]
        row["types"] = [type(value).__name__ for value in outcomes[0][2:5]]
        rows.append(row)
    return rows


def unseeded(gym, id: str) -> list[list[float]]:
    """An environment that is never given a seed takes one from NumPy's global stream when it is made."""
    np.random.seed(11)  # noqa: NPY002  (that stream is the matter)
    envs = [gym.make(id) for _ in range(2)]
    return [env.reset()[0].tolist() for env in envs]


def autoreset(gym, id: str) -> dict[str, object]:
    env = gym.make(id, max_episode_steps=4, autoreset=True)
    env.reset(seed=2)
    obs, _, _, terminated, truncated, info = [env.step(action) for action in actions(4)][-1]
    return {
        "next": obs.tolist(),
        "ends": [bool(terminated), bool(truncated)],
        "keys": sorted(info),
        "final_keys": sorted(info["final_info"]),
        "final_shape": list(info["final_observation"].shape),
    }


def plain(value: Any) -> Any:
    """As JSON: arrays as lists, missing entries as null."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value] if value.ndim else value.item()
    if isinstance(value, np.generic):
        return value.item()
    return {key: plain(v) for key, v in value.items()} if isinstance(value, dict) else value


def vector(gym, id: str) -> dict[str, object]:
    """Three environments cut after five steps, so that all end together, twice."""
    env = gym.vector.make(id, num_envs=3, asynchronous=False, max_episode_steps=5)
    first, reset_info = env.reset(seed=7)
    steps = []
    for action in actions(11):
        obs, reward, cost, terminated, truncated, info = env.step(np.tile(action, (3, 1)))
        steps.append(
            {
                "reward": reward.tolist(),
                "cost": cost.tolist(),
                "ends": [terminated.tolist(), truncated.tolist()],
                "dtypes": [str(x.dtype) for x in (obs, reward, cost, terminated, truncated)],
                "info": {key: [str(value.dtype), plain(value)] for key, value in info.items() if "final" not in key},
                "final": {
                    key: plain(value) for key, value in info.items() if key in ("_final_observation", "_final_info")
                },
                "final_info": plain(info["final_info"]) if "final_info" in info else None,
                "next": obs.tolist() if "final_info" in info else None,
            }
        )
    again, _ = env.reset(seed=[3, None, 5])
    return {"reset_info": reset_info, "first": first.tolist(), "steps": steps, "again": again.tolist()}


# --- wrappers on an environment without physics ----------------------------------------------------------------------


def numbers(gymnasium, length: int, seed: int):
    """An environment whose observations, rewards and costs are a fixed table; its episodes have `length` steps."""

    class Numbers(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        action_space = gymnasium.spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 1.0]), dtype=np.float64)
        metadata = {"render_modes": []}  # noqa: RUF012

        def __init__(self) -> None:
            self.table, self.t, self.at = np.random.RandomState(seed).normal(size=(200, 5)) * 3.0 + 1.0, 0, 0

        def reset(self, *, seed=None, options=None):  # noqa: ARG002
            super().reset(seed=seed)
            self.t = 0
            self.at += 1
            return self.table[self.at, :3].copy(), {}

        def step(self, action):
            self.t += 1
            self.at += 1
            row = self.table[self.at]
            terminated, truncated = self.t >= length and length % 2 == 0, self.t >= length
            return row[:3] + np.sum(action), float(row[3]), float(abs(row[4])), terminated, truncated, {"at": self.at}

    return Numbers()


def one_wrapped(gymnasium, wrap, steps: int = 12) -> list[object]:
    env = wrap(numbers(gymnasium, 5, 1))
    out = [plain(env.reset(seed=0)[0])]
    for t in range(steps):
        obs, reward, cost, terminated, truncated, info = env.step(np.array([0.1 * t, -0.2]))
        final = {k: v for k, v in info.items() if k not in ("final_info", "original_final_observation")}
        out.append(
            [
                plain(np.asarray(obs)),
                plain(np.asarray(reward)),
                plain(np.asarray(cost)),
                plain(np.asarray(terminated)),
                plain(final),
            ]
        )
        if (terminated or truncated) and "final_info" not in info:
            out.append(plain(np.asarray(env.reset()[0])))
    return out


def batch_wrapped(gymnasium, gym, wrap, lengths: tuple[int, ...], steps: int = 12) -> list[object]:
    env = wrap(
        gym.vector.SafetySyncVectorEnv([lambda i=i, n=n: numbers(gymnasium, n, i) for i, n in enumerate(lengths)])
    )
    out = [plain(env.reset(seed=0)[0])]
    for t in range(steps):
        obs, reward, cost, terminated, truncated, info = env.step(np.full((3, 2), 0.05 * t))
        final = {k: v for k, v in info.items() if k not in ("final_info", "original_final_observation")}
        out.append([plain(obs), plain(reward), plain(cost), plain(terminated), plain(truncated), plain(final)])
    return out


def wrapped(gymnasium, gym) -> dict[str, object]:
    w = gym.wrappers
    inner = {
        "observation": w.SafeNormalizeObservation,
        "observation_autoreset": lambda env: w.SafeNormalizeObservation(w.SafeAutoResetWrapper(env)),
        "reward": lambda env: w.SafeNormalizeReward(env, gamma=0.9),
        "cost": lambda env: w.SafeNormalizeCost(env, gamma=0.95),
        "rescale": lambda env: w.SafeRescaleAction(env, -1.0, np.array([1.0, 3.0])),
        "limit": lambda env: w.SafeTimeLimit(env, 3),
        "unsqueeze": lambda env: w.SafeUnsqueeze(w.SafeAutoResetWrapper(env)),
        "round_trip": lambda env: w.with_gymnasium_wrappers(env),
    }
    # SafeNormalizeObservation raises where one environment of several ends an episode: it is shown before any does.
    batch = {
        "plain": (lambda env: env, (4, 7, 5)),
        "observation": (w.SafeNormalizeObservation, (40, 70, 50)),
        "reward": (w.SafeNormalizeReward, (4, 7, 5)),
        "cost": (w.SafeNormalizeCost, (4, 7, 5)),
    }
    return {
        "one": {name: one_wrapped(gymnasium, wrap) for name, wrap in inner.items()},
        "batch": {name: batch_wrapped(gymnasium, gym, *how) for name, how in batch.items()},
    }


def tiles(tile_images) -> list[object]:
    """How pictures of several environments are put side by side: five of 2 × 3 pixels, padded by one."""
    pictures = np.arange(5 * 2 * 3 * 3).reshape(5, 2, 3, 3) % 256
    return tile_images(pictures, padding=1).astype(int).tolist()


def cameras(gym, id: str) -> list[str]:
    """Their names, by id."""
    import mujoco

    env = gym.make(id)
    env.reset(seed=0)
    model = env.task.model
    return [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_CAMERA, i) for i in range(model.ncam)]


def keys(gym, id: str, agent: str) -> dict[str, list[float]]:
    """What the keyboard does with an agent."""
    import glfw

    env = gym.make(id)
    env.reset(seed=0)
    body = env.task.agent
    driven: dict[str, list[float]] = {}
    body.apply_action = lambda action: driven.update({pressed: np.asarray(action, float).tolist()})
    for pressed in ("", "I", "K", "J", "L", "IJ", "IK", "JL"):
        body.debug_info.keys = {getattr(glfw, f"KEY_{letter}") for letter in pressed}
        body.debug()
    assert agent == type(body).__name__
    return driven


VELOCITY = tuple(
    f"Safety{body}Velocity-v1" for body in ("HalfCheetah", "Hopper", "Swimmer", "Walker2d", "Ant", "Humanoid")
)


def velocity(gym, id: str) -> dict[str, object]:
    """What a velocity task tells: its actions, a step of actions beyond the bounds, and how its stream goes on."""
    env = gym.make(id)
    wild = np.full(env.action_space.shape, 1.5)
    out: dict[str, Any] = {
        "action": space(env.action_space),
        "spec": [env.spec.max_episode_steps, env.spec.reward_threshold],
    }
    firsts = [env.reset(seed=3)[0]]
    _, reward, cost, terminated, truncated, info = env.step(wild)
    out |= {
        "reward": float(reward),
        "cost": float(cost),
        "ends": [bool(terminated), bool(truncated)],
        "info": plain(info),
    }
    out["firsts"] = plain(np.array([*firsts, env.reset()[0], env.reset(seed=4)[0]])[:, :30])
    return out


def main(path: Path) -> None:
    gym = peers.safety_gymnasium()
    import gymnasium

    with peers.without_textures():
        golden = {
            "made_by": "benchmarks/parity_compat.py",
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("safety-gymnasium", "mujoco", "numpy", "gymnasium")},
            },
            "note": "textures taken out of the peer's models before compiling them; they are not part of the physics",
            "public": sorted(n for n in (*gym.__all__, "make_ma", "vector", "wrappers", "__version__")),
            "wrappers": sorted(gym.wrappers.__all__),
            "ids": sorted(gym.utils.registration.safe_registry),
            "spaces": {id: spaces(gym, id, id[6:-8]) for id in IDS},
            "face": {id: face(gym, id) for id in IDS},
            "episodes": {id: episodes(gym, id) for id in IDS},
            "unseeded": unseeded(gym, IDS[0]),
            "autoreset": autoreset(gym, IDS[0]),
            "vector": vector(gym, IDS[0]),
            "wrapped": wrapped(gymnasium, gym),
            "velocity": {id: velocity(gym, id) for id in VELOCITY},
            "tiles": tiles(gym.vector.sync_vector_env.tile_images),
            "cameras": cameras(gym, IDS[0]),
            "keys": {agent: keys(gym, f"Safety{agent}Goal0-v0", agent) for agent in ("Point", "Car", "Racecar")},
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
