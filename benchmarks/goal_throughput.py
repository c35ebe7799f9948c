"""Steps per CPU-second of the Goal worlds: ours, safety-gymnasium's, and the physics engine's alone."""

from __future__ import annotations

import _interleave
import _peers as peers
from _interleave import Comparison, Contestant, Medians, Plan

EPISODE = 1000  # steps of every Goal episode
WARM_UP = 20
POINT, CAR = "SafetyPointGoal1-v0", "SafetyCarGoal1-v0"


def _actions(num_envs: int):
    """One episode of random actions [EPISODE, N, 2], drawn before the clock starts, for every contestant alike."""
    import numpy as np

    return np.random.default_rng(0).uniform(-1.0, 1.0, (EPISODE, num_envs, 2))


def ours(id: str, num_envs: int, episodes: int, threads: int = 1):
    """Our vector world: `episodes` whole episodes of each environment, every one with its autoreset."""
    import numpy as np

    from trueline.rl.worlds import make

    env, actions = make(id, num_envs, threads), _actions(num_envs)
    seeds = np.arange(num_envs, dtype=np.uint32)
    env.reset(seeds)
    for t in range(WARM_UP):
        env.step(actions[t])
    env.reset(seeds)

    def job():
        for _ in range(episodes):
            for t in range(EPISODE):
                env.step(actions[t])
        return {"work": episodes * EPISODE * num_envs}

    return lambda: job


def face(id: str, episodes: int):
    """The same world as one `gymnasium.Env`."""
    from trueline.rl.to_gymnasium import ToGymnasium

    env = ToGymnasium(id)
    return _one_environment(env.reset, env.step, episodes)


def peer(id: str, episodes: int):
    """safety-gymnasium as its users get it, textures included."""
    env = peers.safety_gymnasium().make(id)
    return _one_environment(env.reset, env.step, episodes)


def _one_environment(reset, step, episodes: int):
    """Whole episodes of one environment of either Gymnasium interface, each begun by one reset."""
    actions = _actions(1)[:, 0]
    reset(seed=0)
    for t in range(WARM_UP):
        step(actions[t])

    def job():
        for _ in range(episodes):
            reset()
            for t in range(EPISODE):
                *_, truncated, _info = step(actions[t])
            assert truncated  # whole episodes, no shorter ones with more resets
        return {"work": episodes * EPISODE}

    return lambda: job


def engine(id: str, num_envs: int, episodes: int):
    """`mujoco.batch` alone on our compiled model, through the states that our world goes through: the ceiling.

    Same starts, controls, substeps and new episodes, and sensors of the new state, which the observation needs; no
    lidar, cost, reward, goal or layout.
    """
    import numpy as np
    from worlds_throughput import Engine, Flight, script_of

    from trueline.rl.worlds import make

    env = make(id, num_envs)
    env.reset(np.arange(num_envs, dtype=np.uint32))
    flight = Flight(env, env.state_dict(), [*_actions(num_envs)] * episodes)
    alone = Engine(env, script_of(flight))
    env.close()

    def job():
        alone.run()
        return {"work": episodes * EPISODE * num_envs}

    alone.run()
    return lambda: job


MAKERS = {"ours": ours, "face": face, "peer": peer, "engine": engine}


def _name(side: str, id: str, num_envs: int) -> str:
    return f"{side} {id.removeprefix('Safety').removesuffix('-v0')} N={num_envs}"


def _batched(side: str, id: str, num_envs: int, episodes: int) -> Contestant:
    given = {"id": id, "num_envs": num_envs, "episodes": episodes}
    return Contestant(_name(side, id, num_envs), "ours" if side == "trueline" else side, given)


def _ratio_of(above: str, below: str, measure: str = "per_cpu_s"):
    return lambda medians: medians[above][measure] / medians[below][measure]


def _one(_: Medians) -> float:
    return 1.0


def _against_peer(id: str, num_envs: int, bar: float | None, ours: str = "") -> Comparison:
    ours, most = ours or _name("trueline", id, num_envs), _name("engine", id, num_envs)
    them = _name("safety-gymnasium", id, 1)
    ceiling = _ratio_of(most, them)
    what = f"{ours} / safety-gymnasium"
    return Comparison(what, ours, "per_cpu_s", f"{most} / {them}", ceiling, against=them, at_least=bar)


def _against_engine(id: str, num_envs: int, bar: float | None = None) -> Comparison:
    ours, most = _name("trueline", id, num_envs), _name("engine", id, num_envs)
    return Comparison(f"{ours} / engine alone", ours, "per_cpu_s", "the engine alone", _one, most, at_least=bar)


def plan(quick: bool) -> Plan:
    # Whole episodes of each environment in a sample.
    sizes = {1: 1, 16: 1} if quick else {1: 5, 16: 2, 64: 1, 256: 1}
    middle, few = (16, 16) if quick else (64, 16)
    others = [f"Safety{agent}Goal{level}-v0" for agent in ("Point", "Car") for level in (0, 2)]
    others = others[:1] if quick else others
    peer_point, peer_car = _name("safety-gymnasium", POINT, 1), _name("safety-gymnasium", CAR, 1)
    gym_face = "trueline PointGoal1 as gymnasium.Env"
    two = f"{_name('trueline', POINT, middle)} with 2 threads"
    one = _name("trueline", POINT, middle)
    contestants = [
        Contestant(peer_point, "peer", {"id": POINT, "episodes": 1}, peer=True),
        *(_batched("trueline", POINT, n, episodes) for n, episodes in sizes.items()),
        Contestant(gym_face, "face", {"id": POINT, "episodes": sizes[1]}),
        *(_batched("engine", POINT, n, episodes) for n, episodes in sizes.items()),
        Contestant(two, "ours", {"id": POINT, "num_envs": middle, "episodes": sizes[middle], "threads": 2}),
        Contestant(peer_car, "peer", {"id": CAR, "episodes": 1}, peer=True),
        *(_batched(side, CAR, middle, 1) for side in ("trueline", "engine")),
        *(_batched(side, id, few, 1) for id in others for side in ("trueline", "engine")),
    ]
    comparisons = [
        _against_peer(POINT, 1, 5.0),
        _against_peer(POINT, 1, 5.0, ours=gym_face),
        *(_against_peer(POINT, n, 15.0) for n in sizes if n >= 16),
        _against_peer(CAR, middle, None),
        _against_engine(CAR, middle, bar=0.85),
        *(_against_engine(POINT, n) for n in sizes),
        *(_against_engine(id, few) for id in others),
        Comparison(f"{two} / 1, wall clock", two, "per_wall_s", "two threads do twice the work", lambda _: 2.0, one),
    ]
    return Plan(
        unit="environment steps",
        note="Whole episodes of 1,000 steps with their resets, random actions drawn beforehand. The peer is reset once "
        "per episode and keeps its textures, and runs on MuJoCo 2.3.3, ours on the version stated. The engine "
        "alone: mujoco.batch on the same compiled model, 10 substeps, sensors of the new state, nothing else; it goes "
        "through the states of our worlds, later episodes included. Wall clock depends on the load average.",
        contestants=contestants,
        comparisons=comparisons,
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
