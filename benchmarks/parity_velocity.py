"""What safety-gymnasium 1.0.0 does on the velocity worlds, written down as golden values for our tests.

    $PEER_PYTHON benchmarks/parity_velocity.py tests/safety/golden/velocity.json

Run by the peer's interpreter (see _peers.py). Starts and a few steps of fixed actions for every id, and steps from
starts that were pushed, so that each rule of what counts as speed is seen to hold and to fail.
Starts are written so that they read back bit for bit, what follows to twelve digits.
"""

from __future__ import annotations

import json
import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import _peers as peers
import numpy as np

BODIES = ("HalfCheetah", "Hopper", "Swimmer", "Walker2d", "Ant", "Humanoid")
SCENARIOS = {
    "Ant": ("2x4", "4x2"),
    "HalfCheetah": ("6x1", "2x3"),
    "Hopper": ("3x1",),
    "Humanoid": ("9|8",),
    "Swimmer": ("2x1",),
    "Walker2d": ("2x3",),
}
SEEDS, STEPS = 5, 4
IN_FULL = 45  # entries of the Humanoid's observation kept for steps after the first seed: its joints
# Velocities of the first two joints, m/s: along x, against it, along the second joint (y, or z of a planar body), none.
PUSHES = ((5.0, 0.0), (-5.0, 0.0), (0.0, 5.0), (0.0, 0.0))


def pattern(space) -> np.ndarray:
    """A fixed action within the bounds of one actuator space, which are 1 or, of the Humanoid, 0.4 as a float32."""
    return np.resize([0.3, -0.2, 0.1, 0.25], space.shape[0]) * np.round(space.high.astype(np.float64), 6)


def rounded(values) -> list[float]:
    return [float(f"{x:.12g}") for x in np.ravel(values)]


def episodes(env) -> list[dict[str, object]]:
    action, rows = pattern(env.action_space), []
    for seed in range(SEEDS):
        first, _ = env.reset(seed=seed)
        kept = len(first) if seed == 0 else IN_FULL
        steps = [env.step(action) for _ in range(STEPS)]
        rows.append(
            {
                "reset": first.tolist(),
                "obs": [rounded(step[0][:kept]) for step in steps],
                "reward": rounded([step[1] for step in steps]),
                "cost": [step[2] for step in steps],
                "terminated": [bool(step[3]) for step in steps],
            }
        )
    return rows


def pushed(env, body, step) -> list[dict[str, float]]:
    """One step without action from the start of seed 0, with the first two joints given a velocity."""
    rows = []
    for push in PUSHES:
        env.reset(seed=0)
        qpos, qvel = body.data.qpos.copy(), body.data.qvel.copy()
        qvel[:2] = push
        body.set_state(qpos, qvel)
        reward, cost, terminated = step()
        rows.append({"push": push, "reward": float(reward), "cost": float(cost), "terminated": bool(terminated)})
    return rows


def alone(gym, id: str) -> dict[str, object]:
    env = gym.make(id)
    still = np.zeros(env.action_space.shape)
    found: dict[str, object] = {
        "threshold": env.unwrapped._velocity_threshold,
        "high": float(env.action_space.high[0]),
        "steps": env.spec.max_episode_steps,
        "pushed": pushed(env, env.unwrapped, lambda: env.step(still)[1:4]),
    }
    if id.endswith("v1"):  # the two versions move alike
        found["episodes"] = episodes(env)
    return found


def together(gym, scenario: str, conf: str) -> dict[str, object]:
    env = gym.make_ma(scenario, conf)
    names = env.possible_agents
    body = env.single_agent_env.unwrapped
    still = {name: np.zeros(env.action_space(name).shape) for name in names}
    action = {name: pattern(env.action_space(name)) for name in names}

    def step():
        _, rewards, costs, ended, _, _ = env.step(still)
        assert len({*rewards.values()}) == len({*costs.values()}) == 1  # shared by all
        return rewards[names[0]], costs[names[0]], ended[names[0]]

    found = {"threshold": env._velocity_threshold, "pushed": pushed(env, body, step)}
    first, _ = env.reset(seed=0)
    # The global action that the agents' parts make, so that every actuator is told from every other.
    numbered = {name: 100.0 * k + np.arange(env.action_space(name).shape[0]) for k, name in enumerate(names)}
    steps = [env.step(action) for _ in range(2)]
    return {
        **found,
        "agents": names,
        "reset": {name: first[name].tolist() for name in names},
        "obs": [{name: rounded(step[0][name]) for name in names} for step in steps],
        "reward": rounded([step[1][names[0]] for step in steps]),
        "state": rounded(env.state()),
        "actuators": env.map_local_actions_to_global_action(numbered).tolist(),
    }


def main(path: Path) -> None:
    gym = peers.safety_gymnasium()
    warnings.simplefilter("ignore")
    golden = {
        "made_by": "benchmarks/parity_velocity.py",
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name)
                for name in ("safety-gymnasium", "mujoco", "numpy", "gymnasium", "gymnasium-robotics")
            },
        },
        "alone": {id: alone(gym, id) for body in BODIES for v in (0, 1) for id in (f"Safety{body}Velocity-v{v}",)},
        "together": {
            f"{scenario} {conf}": together(gym, scenario, conf)
            for scenario, confs in SCENARIOS.items()
            for conf in confs
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
