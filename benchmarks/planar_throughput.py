"""Steps per CPU-second of the planar worlds, against their motion and lidar alone and against MuJoCo's worlds."""

from __future__ import annotations

import _interleave
import _peers as peers
from _interleave import Comparison, Contestant, Plan

WARM_UP = 20
CYCLE = 100  # steps of random actions that are used again and again
POINT, CAR, SAFETY = "PlanarPointGoal1-v0", "PlanarCarGoal1-v0", "SafetyPointGoal1-v0"
BAR = 400_000.0
MANY = 1024


def _actions(num_envs: int):
    """Random actions [CYCLE, N, 2], drawn before the clock starts, for every contestant alike."""
    import numpy as np

    return np.random.default_rng(0).uniform(-1.0, 1.0, (CYCLE, num_envs, 2)).astype(np.float32)


def planar(id: str, num_envs: int, threads: int = 1, tensors: bool = False):
    """Whole episodes of each environment, every one with its autoreset; as arrays, or as tensors on the CPU."""
    import numpy as np
    import torch

    from trueline.safety.worlds.planar import make_planar

    env, actions = make_planar(id, num_envs, threads), _actions(num_envs)
    step = env.step_tensors if tensors else env.step
    given = list(torch.from_numpy(actions) if tensors else actions)
    env.reset(np.arange(num_envs, dtype=np.uint32))
    for action in given[:WARM_UP]:
        step(action)
    env.reset(np.arange(num_envs, dtype=np.uint32))

    def job():
        for t in range(env.max_episode_steps):
            step(given[t % CYCLE])
        return {"work": env.max_episode_steps * num_envs}

    return lambda: job


def alone(id: str, num_envs: int, steps: int):
    """The ceiling: the body's motion and the lidar on prepared tensors, which every step in torch has to compute."""
    import numpy as np
    import torch

    from trueline.safety.worlds.planar import make_planar

    torch.set_num_threads(1)
    env, actions = make_planar(id, num_envs), _actions(num_envs)
    env.reset(np.arange(num_envs, dtype=np.uint32))
    body, lidar = env.world.body, env._lidar
    state = env._state[env._parts.body].clone()
    x, y, distance = env._offsets(env._state)
    out = torch.empty(lidar.bins * len(lidar.rings), num_envs)
    given = list(torch.from_numpy(actions).transpose(1, 2).contiguous())

    def run(count: int) -> None:
        with torch.no_grad():
            for t in range(count):
                body.advance(state, given[t % CYCLE], env._constants)
                lidar.read(x, y, distance, out)

    def job():
        run(steps)
        return {"work": steps * num_envs}

    run(WARM_UP)
    return lambda: job


def mujoco(id: str, num_envs: int, steps: int):
    """Our MuJoCo world of the same name, for comparison only: it simulates more."""
    import numpy as np

    from trueline.rl.worlds import make

    env, actions = make(id, num_envs), _actions(num_envs)
    env.reset(np.arange(num_envs, dtype=np.uint32))

    def job():
        for t in range(steps):
            env.step(actions[t % CYCLE])
        return {"work": steps * num_envs}

    return lambda: job


def peer(id: str, steps: int):
    """safety-gymnasium as its users get it, one reset to an episode of 1,000 steps."""
    env, actions = peers.safety_gymnasium().make(id), _actions(1)[:, 0]
    env.reset(seed=0)

    def job():
        for t in range(steps):
            if t % 1000 == 0:
                env.reset()
            env.step(actions[t % CYCLE])
        return {"work": steps}

    return lambda: job


MAKERS = {"planar": planar, "alone": alone, "mujoco": mujoco, "peer": peer}


def _name(id: str, num_envs: int) -> str:
    return f"{id.removesuffix('-v0')} N={num_envs}"


def _rate(name: str):
    return lambda medians: medians[name]["per_cpu_s"]


def plan(quick: bool) -> Plan:
    many = 128 if quick else MANY
    others = [] if quick else [f"PlanarPoint{task}-v0" for task in ("Goal0", "Goal2", "Circle1", "Run0")]
    others += [] if quick else ["PlanarCarGoal2-v0", "PlanarCarCircle1-v0"]
    ids = [POINT, CAR, *others]
    sizes = [n for n in (64, 4096) if not quick]
    tensors, two = f"{_name(POINT, many)} as tensors", f"{_name(POINT, 4 * many)} with 2 threads"
    ours_mujoco, theirs = f"trueline {_name(SAFETY, 64)}", f"safety-gymnasium {_name(SAFETY, 1)}"
    least = {id: f"motion and lidar of {_name(id, many)}" for id in ids}
    contestants = [
        *(Contestant(_name(id, many), "planar", {"id": id, "num_envs": many}) for id in ids),
        *(Contestant(least[id], "alone", {"id": id, "num_envs": many, "steps": 500}) for id in ids),
        *(Contestant(_name(POINT, n), "planar", {"id": POINT, "num_envs": n}) for n in sizes),
        Contestant(tensors, "planar", {"id": POINT, "num_envs": many, "tensors": True}),
        Contestant(two, "planar", {"id": POINT, "num_envs": 4 * many, "threads": 2}),
        Contestant(ours_mujoco, "mujoco", {"id": SAFETY, "num_envs": 64, "steps": 200}),
        Contestant(theirs, "peer", {"id": SAFETY, "steps": 1000}, peer=True),
    ]
    first = _name(POINT, many)
    comparisons = [
        *(
            Comparison(
                f"{_name(id, many)}, steps", _name(id, many), "per_cpu_s", least[id], _rate(least[id]), None, BAR
            )
            for id in ids
        ),
        Comparison(f"{tensors}, steps", tensors, "per_cpu_s", least[POINT], _rate(least[POINT])),
        *(
            Comparison(f"{_name(POINT, n)}, steps", _name(POINT, n), "per_cpu_s", least[POINT], _rate(least[POINT]))
            for n in sizes
        ),
        Comparison(f"{two}, steps by the clock", two, "per_wall_s", "double one thread", lambda m: 2 * _rate(first)(m)),
        *(
            Comparison(
                f"{first} / {other}",
                first,
                "per_cpu_s",
                f"{least[POINT]} / {other}",
                lambda m, other=other: _rate(least[POINT])(m) / _rate(other)(m),
                other,
            )
            for other in (ours_mujoco, theirs)
        ),
    ]
    return Plan(
        unit="environment steps",
        note="Whole episodes of each environment with their autoresets, random actions drawn beforehand, NumPy arrays "
        "out unless the name says tensors. Motion and lidar: the arithmetic of the body and of all lidar rings on "
        "prepared tensors, without vases, costs, rewards, goals, observations put together or resets. The planar "
        "worlds are not those of MuJoCo: the ratios to them say what the simplification buys, not that a program is "
        "better.",
        contestants=contestants,
        comparisons=comparisons,
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
