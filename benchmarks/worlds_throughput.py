"""Steps per CPU-second and memory of every family of safety worlds: ours, safety-gymnasium's, the engine's alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import _interleave
import _peers as peers
from _interleave import Comparison, Contestant, Medians, Plan

SETTLED = 50  # control steps after which bodies that were dropped have landed


class Family(NamedTuple):
    """A world with the bars of its rate over the peer's: of 16 environments, of those with sleeping bodies, of one.

    One environment is measured behind Gymnasium's face.
    """

    id: str
    peer: float | None = None
    face: float | None = None
    faced: bool = False  # measured behind the face, also without a bar
    asleep: float | None = None  # measured with sleeping bodies only where there is a bar


NAVIGATION = (
    Family("SafetyPointGoal1-v0", 18.0, asleep=30.0),  # goal_throughput.py says more of it
    Family("SafetyPointGoal2-v0", 4.0, faced=True, asleep=30.0),
    Family("SafetyPointButton1-v0", 8.0, 4.0, True),
    Family("SafetyPointPush1-v0", 5.0, 4.0, True, asleep=30.0),
    Family("SafetyPointCircle1-v0", 50.0, 4.0, True),
    Family("SafetyCarGoal1-v0", 8.0, 4.0, True),
    Family("SafetyCarButton1-v0"),
    Family("SafetyDoggoGoal1-v0", 5.0, 4.0, True),
    Family("SafetyRacecarGoal1-v0", 2.5),
    Family("SafetyAntGoal1-v0"),
)
VELOCITY = tuple(
    Family(f"Safety{body}Velocity-v1", 1.2, faced=body == "HalfCheetah")
    for body in ("HalfCheetah", "Hopper", "Swimmer", "Walker2d", "Ant", "Humanoid")
)
FEW, MANY = 16, 256
MANY_OF = ("SafetyPointCircle1-v0", "SafetyCarGoal1-v0", "SafetyHalfCheetahVelocity-v1")
MEMORY_OF = ("SafetyPointGoal1-v0", "SafetyPointGoal2-v0", "SafetyCarGoal1-v0", "SafetyHalfCheetahVelocity-v1")
SMALL, LARGE = 16, 1016  # environments between which memory is counted


def _actions(steps: int, num_envs: int, size: int):
    """Random actions [steps, N, A] in [-1, 1], drawn before the clock starts, for every contestant alike."""
    import numpy as np

    return np.random.default_rng(0).uniform(-1.0, 1.0, (steps, num_envs, size))


class Flight(NamedTuple):
    """A world in flight: the state every sample begins in, and the actions taken from there, [steps, N, A]."""

    env: Any
    state: dict[str, Any]
    actions: Any


def in_flight(id: str, num_envs: int, steps: int, **options: str) -> Flight:
    """`num_envs` copies about to take `steps` steps each, with as many resets a step as whole episodes have.

    Fewer steps than an episode begin with bodies that have landed and clocks spread evenly over the episode, so that
    steps/episode of the environments end theirs.
    """
    import numpy as np

    from trueline.rl.worlds import make

    env = make(id, num_envs, **options)
    episode, size = env.max_episode_steps, env.action_space.shape[0]
    env.reset(np.arange(num_envs, dtype=np.uint32))
    if steps < episode:
        for action in _actions(SETTLED, num_envs, size):
            env.step(action)
    state = env.state_dict()
    if steps < episode:
        state["elapsed"] = np.arange(num_envs, dtype=np.int64) * episode // num_envs
    return Flight(env, state, _actions(steps, num_envs, size))


def ours(id: str, num_envs: int, steps: int, **options: str):
    """Our vector world, resets included."""
    env, state, actions = in_flight(id, num_envs, steps, **options)
    given = list(actions)

    def job():
        for action in given:
            env.step(action)
        return {"work": len(given) * num_envs}

    def fresh():
        env.load_state_dict(state)
        return job

    fresh()
    for action in given[:SETTLED]:  # warm
        env.step(action)
    return fresh


class Script(NamedTuple):
    """What a world's physics is told, step by step, so that the engine alone goes through the same states."""

    start: Any  # physics rows [N, S]
    controls: list[Any]  # [N, U] in the actuators' range
    pulls: list[Any]  # [N, substeps, 3·mocaps] of bodies moved by hand; empty where there are none
    begun: dict[int, tuple[Any, Any]]  # after which steps episodes began: environments, and their new physics rows
    end: Any  # physics rows [N, S] after the last step


def script_of(flight: Flight) -> Script:
    """Steps the world through its flight and writes down what the engine was told."""
    import numpy as np

    env, state, actions = flight
    env.load_state_dict(state)
    # As a copy: the views of a batch would show what comes later.
    controls, pulls, begun = [], [], {}
    for t, action in enumerate(actions):
        if getattr(env, "_driven", ()):
            pulls.append(env._pulls_ahead())
        step = env.step(action)
        controls.append(env._ctrl.copy())
        if step.ended.any():
            ids = np.flatnonzero(step.ended)
            begun[t] = ids, env.state_dict()["physics"][ids]
    return Script(state["physics"], controls, pulls, begun, env.state_dict()["physics"])


class Engine:
    """`mujoco.batch` on a world's compiled model, told what the world's own batch is told, and nothing else."""

    def __init__(self, env: Any, script: Script, physics: str = "exact") -> None:
        import mujoco
        from mujoco.batch import Batch

        self.script = script
        if hasattr(env, "world"):
            from trueline.safety.worlds.physics import compiled

            persistent = physics == "sleep"
            model, substeps = compiled(env.world, persistent), env.world.substeps
            self._stage = int(mujoco.mjtStage.mjSTAGE_ACC)  # the observation needs sensors of the new state
        else:
            model, substeps, persistent = env.model, env.task.runner.substeps, env.task.runner.inside
            self._stage = int(mujoco.mjtStage.mjSTAGE_NONE)  # the observation is as the last substep left it
        self.batch = Batch(model, nsim=env.num_envs, nthread=1, persistent=persistent)
        self._control, self._substeps = self.batch.bind("ctrl"), substeps
        self._untouched = int(mujoco.mjtStage.mjSTAGE_NONE)
        self._moved = int(mujoco.mjtState.mjSTATE_MOCAP_POS)

    def run(self) -> None:
        """The whole script, from its start."""
        batch, control, substeps, stage = self.batch, self._control, self._substeps, self._stage
        start, controls, pulls, begun, _ = self.script
        batch.reset()
        batch.state[:] = start
        for t, wanted in enumerate(controls):
            control[:] = wanted
            if pulls:
                batch.rollout(substeps, pulls[t], self._moved, record=())
                batch.forward(stage=stage)
            else:
                batch.step(nstep=substeps, stage=stage)
            if t in begun:
                ids, rows = begun[t]
                batch.reset(ids, stage=self._untouched)  # also wakes sleeping bodies
                batch.state[ids] = rows


def engine(id: str, num_envs: int, steps: int, **options: str):
    """The ceiling: the engine alone on our compiled model, through the same states."""
    flight = in_flight(id, num_envs, steps, **options)
    alone = Engine(flight.env, script_of(flight), **options)
    flight.env.close()

    def job():
        alone.run()
        return {"work": steps * num_envs}

    alone.run()
    return lambda: job


def face(id: str, steps: int):
    """Our world as one `gymnasium.Env`, whole episodes of at least `steps` steps."""
    from trueline.rl.to_gymnasium import ToGymnasium

    return _one_environment(ToGymnasium(id), steps)


def peer(id: str, steps: int):
    """safety-gymnasium as its users get it, textures included, whole episodes of at least `steps` steps."""
    return _one_environment(peers.safety_gymnasium().make(id), steps)


def _one_environment(env: Any, steps: int):
    """Whole episodes of one environment of either Gymnasium interface, each begun by one reset."""
    actions = _actions(steps, 1, env.action_space.shape[0])[:, 0] * env.action_space.high
    env.reset(seed=0)
    for t in range(20):
        env.step(actions[t])

    def job():
        done = 0
        while done < steps:
            env.reset()
            terminated = truncated = False
            while not (terminated or truncated):
                *_, terminated, truncated, _info = env.step(actions[done % steps])
                done += 1
        return {"work": done}

    return lambda: job


# -- memory -----------------------------------------------------------------------------------------------------------


def _resident() -> int:
    """Bytes of this process that are in memory, shared ones included (Linux)."""
    import os
    from pathlib import Path

    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _stepped(id: str, num_envs: int):
    import numpy as np

    from trueline.rl.worlds import make

    env = make(id, num_envs)
    env.reset(np.arange(num_envs, dtype=np.uint32))
    env.step(np.zeros((num_envs, *env.action_space.shape)))
    return env


def _grown(id: str) -> int:
    """Bytes by which a process grows when it makes 1,016 environments, beyond what it grows by for 16."""
    import multiprocessing

    def child(answer: Any) -> None:
        kept, seen = [], []
        for num_envs in (SMALL, SMALL, LARGE, SMALL):  # the first two fill what earlier work has left free
            kept.append(_stepped(id, num_envs))
            seen.append(_resident())
        answer.send((seen[2] - seen[1]) - (seen[3] - seen[2]))

    here, there = multiprocessing.Pipe()
    # A fork: it inherits the imports and the compiled model, so that only what environments add is left to count.
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    process.start()
    there.close()
    grown = here.recv()
    process.join()
    return grown


def memory(id: str):
    """Bytes of memory an environment takes: growth from 16 to 1,016 of them, all reset and stepped once."""
    if not sys.platform.startswith("linux"):
        sys.exit("Memory is read from /proc, which only Linux has. Run this benchmark there.")
    _stepped(id, SMALL)  # imports and compiles

    def job():
        return {"work": LARGE - SMALL, "bytes_per_env": _grown(id) / (LARGE - SMALL)}

    return lambda: job


def arrays(id: str):
    """The least an environment takes: its row of the engine's state, controls, sensors, and where its bodies are.

    Counted, not measured: too little to be told from what the allocator has left over.
    """
    env = _stepped(id, SMALL)

    def job():
        bind = env._batch.bind
        read = [bind(name) for name in ("ctrl", "sensordata", "xpos", "xmat")]
        return {"work": SMALL, "bytes_per_env": (env._batch.state.nbytes + sum(a.nbytes for a in read)) / SMALL}

    return lambda: job


MAKERS = {"ours": ours, "engine": engine, "face": face, "peer": peer, "memory": memory, "arrays": arrays}


# -- the plan ---------------------------------------------------------------------------------------------------------


def _short(id: str) -> str:
    return id.removeprefix("Safety").removesuffix("-v0")


def _name(side: str, id: str, num_envs: int) -> str:
    return f"{side} {_short(id)} N={num_envs}"


def _asleep(side: str, id: str) -> str:
    return f"{_name(side, id, FEW)} asleep"


def _face_name(id: str) -> str:
    return f"trueline {_short(id)} as gymnasium.Env"


def _rate_of(above: str, below: str):
    return lambda medians: medians[above]["per_cpu_s"] / medians[below]["per_cpu_s"]


def _one(_: Medians) -> float:
    return 1.0


def _steps(id: str, num_envs: int, quick: bool) -> int:
    """Steps of each environment in a sample: a whole episode of one, a share of it of many, so that none takes long.

    Nor should one be so short that a moment's noise decides it: Circle, the quickest, takes more steps than the others.
    """
    running, quickest = "Velocity" in id, "Circle" in id and not quick
    if num_envs == 1:
        return (1000 if quick else 5000) if running else (2500 if quickest else 500 if "Circle" in id else 1000)
    if num_envs == FEW:
        return (250 if quick else 500) if running else (125 if quick else 400 if quickest else 250)
    return 100 if running or quickest else 25


def _batched(side: str, id: str, num_envs: int, quick: bool) -> Contestant:
    given = {"id": id, "num_envs": num_envs, "steps": _steps(id, num_envs, quick)}
    return Contestant(_name(side, id, num_envs), "ours" if side == "trueline" else side, given)


def _remembered(id: str) -> tuple[Contestant, Contestant, Comparison]:
    ours, least = f"memory of trueline {_short(id)}", f"arrays of engine {_short(id)}"
    return (
        Contestant(ours, "memory", {"id": id}),
        Contestant(least, "arrays", {"id": id}),
        Comparison(
            f"bytes per environment of {_short(id)}",
            ours,
            "bytes_per_env",
            "its rows of the engine's arrays: state, controls, sensors, places of bodies",
            lambda medians: medians[least]["bytes_per_env"],
        ),
    )


def _of_one_world(family: Family, sizes: Sequence[int], quick: bool) -> tuple[list[Contestant], list[Comparison]]:
    id, few = family.id, _name("trueline", family.id, FEW)
    them = _name("safety-gymnasium", id, 1)
    one = _steps(id, 1, quick)
    # The Ant falls after tens of steps, and every reset of the peer's takes a second.
    theirs = 100 if id == "SafetyAntGoal1-v0" else one
    contestants = [Contestant(them, "peer", {"id": id, "steps": theirs}, peer=True)]
    comparisons = [
        Comparison(
            f"{few} / safety-gymnasium",
            few,
            "per_cpu_s",
            f"{_name('engine', id, FEW)} / {them}",
            _rate_of(_name("engine", id, FEW), them),
            against=them,
            at_least=family.peer,
        )
    ]
    for n in sizes:
        ours, most = _name("trueline", id, n), _name("engine", id, n)
        contestants += [_batched(side, id, n, quick) for side in ("trueline", "engine")]
        comparisons.append(
            Comparison(
                f"{ours} / engine alone",
                ours,
                "per_cpu_s",
                "the engine alone",
                _one,
                against=most,
                at_least=0.85 if n >= FEW else None,
            )
        )
    if family.asleep is not None:
        ours, most = _asleep("trueline", id), _asleep("engine", id)
        given = {"id": id, "num_envs": FEW, "steps": _steps(id, FEW, quick), "physics": "sleep"}
        contestants += [Contestant(ours, "ours", given), Contestant(most, "engine", given)]
        comparisons.append(
            Comparison(
                f"{ours} / safety-gymnasium",
                ours,
                "per_cpu_s",
                f"{most} / {them}",
                _rate_of(most, them),
                against=them,
                at_least=family.asleep,
            )
        )
    if family.faced and 1 in sizes:
        ours, most = _face_name(id), _name("engine", id, 1)
        contestants.append(Contestant(ours, "face", {"id": id, "steps": one}))
        comparisons.append(
            Comparison(
                f"{ours} / safety-gymnasium",
                ours,
                "per_cpu_s",
                f"{most} / {them}",
                _rate_of(most, them),
                against=them,
                at_least=family.face,
            )
        )
    return contestants, comparisons


def plan(quick: bool) -> Plan:
    families = (NAVIGATION[0], NAVIGATION[2], VELOCITY[0]) if quick else (*NAVIGATION, *VELOCITY)
    contestants: list[Contestant] = []
    comparisons: list[Comparison] = []
    for family in families:
        sizes = [1, FEW] + ([MANY] if family.id in MANY_OF and not quick else [])
        some, judged = _of_one_world(family, sizes, quick)
        contestants += some
        comparisons += judged
    for id in MEMORY_OF[:1] if quick else MEMORY_OF:
        *some, stated = _remembered(id)
        contestants += some
        comparisons.append(stated)
    return Plan(
        unit="environment steps",
        note="Random actions drawn beforehand; resets included. One environment: whole episodes. 16 and 256: a part of "
        "an episode of each, from bodies that have landed, with the environments' clocks spread evenly over the "
        "episode, so that a step has as many resets as in whole episodes. The peer: whole episodes of one environment, "
        "with its textures, on MuJoCo 2.3.3; ours on the version stated. The engine alone: mujoco.batch on the same "
        "compiled model, told the same controls, pulls of driven bodies and starts at the same steps, so that it goes "
        "through the same states; sensors of the new state where the observation needs them (not in velocity worlds); "
        "no observation, cost, reward or layout, and not the outside forces that the Humanoid's observation holds. "
        "Its share at one environment has no bar: there the cost of Python's calls counts, and the bar is the face's. "
        "Asleep: bodies at rest are not computed until touched; a profile of its own, not equal to the bit. "
        "Memory: growth of the resident set from 16 to 1,016 environments, in child processes, to about 1 kB.",
        contestants=contestants,
        comparisons=comparisons,
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
