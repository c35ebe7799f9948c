"""Does a policy that was trained here score alike in safety-gymnasium 1.0.0, on the same layouts?

    export PEER_PYTHON=…/peer/bin/python      # the head of _peers.py says how to make one
    python benchmarks/policy_parity.py [--steps 1600000] [--episodes 200] [--root runs/policy-parity]
    python benchmarks/policy_parity.py --show     # what the stored result says, in sentences

Trains PPO-Lag on our PointGoal1 (a run that is finished is read), then runs the same episodes in both worlds: layout
seeds 0, 1, …, the same noise at every step of an episode, the policy as plain arrays that both sides evaluate by the
same function. The engines are different versions of MuJoCo, so that trajectories part; what is compared are scores.
Leaves results/policy_parity.json.

What decides was fixed before the policy met the original: of the stochastic policy (the one that was trained), return
and cost are *alike* when the 95 % interval of the mean paired difference lies within ± half a standard deviation of
single episodes in the original, *different* when it lies wholly outside, else *inconclusive*. The unit is the layout.
At 200 layouts and uncorrelated scores the interval is ± 0.2 standard deviations, so that equal worlds are found alike;
for that width alone their number was raised from 100, after a trial with eight.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _peers as peers
import numpy as np

WORLD = "SafetyPointGoal1-v0"
RESULT = Path(__file__).parent / "results" / "policy_parity.json"
LENGTH, ACTIONS, SENSES = 1000, 2, 12  # steps, action dimensions, numbers before the lidar
MARGIN = 0.5  # standard deviations of single episodes in the original
SCORES = ("return", "cost")
MODES = ("stochastic", "deterministic")
OTHER_NOISE = 1  # of a second run of ours, which shows how far chance alone moves the scores


# -- the policy as arrays, on both sides ------------------------------------------------------------------------------


def mean_action(policy: Mapping[str, np.ndarray], obs: np.ndarray) -> np.ndarray:
    """The network's forward pass in single precision.  obs [N, O] -> [N, A]."""
    clip = policy["clip"]
    x = np.clip((obs.astype(np.float32) - policy["shift"]) * policy["scale"], -clip, clip)
    last = int(policy["layers"]) - 1
    for k in range(last + 1):
        x = x @ policy[f"weight_{k}"].T + policy[f"bias_{k}"]
        x = np.tanh(x) if k < last else x
    return x


def noise(seed: int, stream: int = 0) -> np.ndarray:
    """Standard normal numbers of the episode of layout `seed`, a row for every step [LENGTH, A]."""
    return np.random.default_rng([seed, stream]).standard_normal((LENGTH, ACTIONS))


def act(policy: Mapping[str, np.ndarray], obs: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
    """Actions within the bounds.  obs [N, O], drawn [N, A] or None for the mean -> [N, A]."""
    action = mean_action(policy, obs).astype(np.float64)
    if drawn is not None:
        action = action + np.exp(policy["log_std"].astype(np.float64)) * drawn
    return np.clip(action, -1.0, 1.0)


# -- the original -----------------------------------------------------------------------------------------------------


def in_original(arrays: Path, answer: Path) -> None:
    """Run by the peer's interpreter: the episodes whose noise `arrays` holds, one after another."""
    from importlib.metadata import version

    gym = peers.safety_gymnasium()
    given = np.load(arrays)
    policy, seeds, drawn = {k: given[k] for k in given.files}, given["seeds"], given["noise"]
    found: dict[str, Any] = {mode: {"return": [], "cost": []} for mode in MODES}
    starts = []
    with peers.without_textures():
        env = gym.make(WORLD)
        for k, seed in enumerate(seeds.tolist()):
            for mode in MODES:
                obs, _ = env.reset(seed=seed)
                if mode == MODES[0]:
                    starts.append(obs[SENSES:].tolist())
                total = np.zeros(2)
                for t in range(LENGTH):
                    row = drawn[k, t][None] if mode == "stochastic" else None
                    obs, reward, cost, terminated, truncated, _ = env.step(act(policy, obs[None], row)[0])
                    total += reward, cost
                    if terminated or truncated:
                        break
                for name, value in zip(SCORES, total.tolist(), strict=True):
                    found[mode][name].append(value)
    versions = {name: version(name) for name in ("safety-gymnasium", "mujoco", "numpy", "gymnasium")}
    answer.write_text(json.dumps({"scores": found, "starts": starts, "versions": versions}))


# -- ours -------------------------------------------------------------------------------------------------------------


def trained(root: Path, steps: int):
    """The policy of PPO-Lag, preset fast, seed 0, on our world; trained when `root` does not hold it yet."""
    import trueline

    id = f"ppo-lag-{steps}"
    if (root / id / "subject").is_dir():
        return trueline.load(str(root / id))
    return trueline.train("ppo-lag", preset="fast", seed=0, env=WORLD, total_steps=steps, root=root, id=id).subject


def exported(policy: Any) -> dict[str, np.ndarray]:
    """The arrays that `mean_action` reads."""
    network = policy.network
    actor, norm = network.actor, network.encoder.norm
    if network.squashed or policy.shape["actor"]["activation"] != "tanh":
        sys.exit("Only an unsquashed policy with tanh layers is exported. Train it with the preset fast.")
    arrays = {
        "layers": np.array(len(actor.weights)),
        "shift": norm.shift32.numpy(),
        "scale": norm.scale32.numpy(),
        "clip": np.float32(norm.clip),
        "log_std": network.log_std.detach().numpy(),
    }
    for k, (weight, bias) in enumerate(zip(actor.weights, actor.biases, strict=True)):
        arrays[f"weight_{k}"], arrays[f"bias_{k}"] = weight.detach().numpy(), bias.detach().numpy()
    return arrays


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Tells this policy from any other."""
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()[:16]


def in_ours(policy: Mapping[str, np.ndarray], seeds: np.ndarray, drawn: np.ndarray | None) -> dict[str, list[float]]:
    """Scores of one episode per layout seed, with the noise `drawn` [E, LENGTH, A] or without."""
    from trueline.rl.evaluate import run_episodes
    from trueline.rl.worlds import make

    env = make(WORLD, len(seeds))
    episodes = run_episodes(
        env, seeds, lambda _: lambda t, obs: act(policy, obs, None if drawn is None else drawn[:, t])
    )
    return {"return": episodes.episode_return.tolist(), "cost": episodes.cost[:, 0].tolist()}


def starts_in_ours(seeds: np.ndarray) -> np.ndarray:
    """What the lidar shows at the start of each episode [E, L]."""
    from trueline.rl.worlds import make

    env = make(WORLD, len(seeds))
    return np.asarray(env.reset(seeds.astype(np.uint32)))[:, SENSES:]


# -- the comparison ---------------------------------------------------------------------------------------------------


def verdict(low: float, high: float, margin: float) -> str:
    """What the interval [low, high] of a difference says of one that is to be within ±margin."""
    if -margin <= low and high <= margin:
        return "alike"
    return "different" if low > margin or high < -margin else "inconclusive"


def compared(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The mean difference ours − theirs over layouts that both met, with its interval and verdict.  [E], [E]."""
    from trueline.evidence.over_seeds import compare_seeds

    a, b = np.array(ours), np.array(theirs)
    found = compare_seeds(a, b, paired=True)
    margin, error = MARGIN * float(b.std(ddof=1)), float((a - b).std(ddof=1)) / math.sqrt(len(a))
    return {
        "ours": float(a.mean()),
        "original": float(b.mean()),
        "deviation_of_an_episode": {"ours": float(a.std(ddof=1)), "original": float(b.std(ddof=1))},
        "correlation": float(np.corrcoef(a, b)[0, 1]),
        "difference": found.difference.value,
        "low": found.difference.low,
        "high": found.difference.high,
        "method": found.difference.method,
        "p_sign_flip": found.p,
        "margin": margin,
        # What a two-sided test of 5 % would find in four of five repetitions.
        "smallest_detectable": 2.8 * error,
        "verdict": verdict(found.difference.low, found.difference.high, margin),
    }


def by_chance(other: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How far other noise alone moves the mean score in our own world."""
    found = compared(other, ours)
    return {key: found[key] for key in ("correlation", "difference", "low", "high", "p_sign_flip")}


def both_worlds(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, dict[str, list[float]]], dict[str, Any]]:
    """Scores in our world by mode, and what the original answered."""
    seeds, drawn = arrays["seeds"], arrays["noise"]
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "policy.npz", Path(folder) / "answer.json"
        np.savez(given, **arrays)
        process = subprocess.Popen([peers.peer_python(), __file__, "--original", str(given), str(answer)])
        ours = {mode: in_ours(arrays, seeds, drawn if mode == "stochastic" else None) for mode in MODES}
        ours["other noise"] = in_ours(arrays, seeds, np.stack([noise(s, OTHER_NOISE) for s in seeds.tolist()]))
        if process.wait():
            sys.exit("The original stopped; what it said is above.")
        return ours, json.loads(answer.read_text())


def sentences(record: Mapping[str, Any]) -> list[str]:
    """What a record says of both policies, with intervals; the verdict is the stochastic one's."""
    out = []
    for mode in MODES:
        for name in SCORES:
            c, whose = record["scores"][mode][name], "decides" if mode == "stochastic" else "beside it"
            out.append(
                f"{mode} policy ({whose}), {name} of {record['episodes']} layouts: {c['ours']:.2f} here, "
                f"{c['original']:.2f} in the original, difference {c['difference']:+.2f} "
                f"(95 % {c['low']:+.2f} to {c['high']:+.2f}, within ±{c['margin']:.2f} is alike): {c['verdict']}"
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_600_000, help="of training")
    parser.add_argument("--episodes", type=int, default=200, help="layouts, one episode each")
    parser.add_argument("--root", type=Path, default=Path("runs/policy-parity"))
    parser.add_argument("--original", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--show", action="store_true", help="print the stored result and run nothing")
    given = parser.parse_args()
    if given.show:
        print(*sentences(json.loads(RESULT.read_text())), sep="\n")
        return
    if given.original:
        in_original(*given.original)
        return
    import mujoco
    import torch
    from _interleave import _commit as commit

    import trueline
    from trueline.evidence.over_seeds import holm

    peers.peer_python()  # before anything is trained
    began = time.monotonic()
    policy = trained(given.root, given.steps)
    seeds = np.arange(given.episodes)
    network = exported(policy)
    arrays = {**network, "seeds": seeds, "noise": np.stack([noise(s) for s in seeds.tolist()])}
    ours, original = both_worlds(arrays)
    at_start = starts_in_ours(seeds)
    with torch.no_grad():
        probe = np.random.default_rng(0).normal(size=(256, policy.observation.width))
        exact = policy.mean_action(torch.as_tensor(probe, dtype=torch.float32)).numpy()
    scores = {
        mode: {name: compared(ours[mode][name], original["scores"][mode][name]) for name in SCORES} for mode in MODES
    }
    decided = scores["stochastic"]
    for name, p in zip(SCORES, holm([decided[name]["p_sign_flip"] for name in SCORES]).tolist(), strict=True):
        decided[name]["p_holm"] = p
    record = {
        "what": f"scores of one policy, trained here, in our {WORLD} and in safety-gymnasium 1.0.0, paired by layout",
        "note": "The verdict is that of the stochastic policy; the deterministic one stands beside it. It is about "
        "this policy: one training, one seed. Same layouts and the same noise at every step; the engines are different "
        "versions of MuJoCo, so trajectories part. chance: the same episodes in our world, with other noise.",
        "policy": {
            "recipe": "ppo-lag",
            "preset": "fast",
            "seed": 0,
            "total_steps": given.steps,
            "digest": digest(network),
        },
        "episodes": given.episodes,
        "rule": f"alike: the 95 % interval of the mean difference lies within ±{MARGIN} standard deviations of single "
        "episodes in the original; different: wholly outside; else inconclusive",
        "verdict": {name: decided[name]["verdict"] for name in SCORES},
        "scores": scores,
        "chance": {name: by_chance(ours["other noise"][name], ours["stochastic"][name]) for name in SCORES},
        "largest_difference": {
            "lidar_at_the_start": float(np.abs(at_start - np.array(original["starts"])).max()),
            "exported_policy": float(np.abs(exact - mean_action(arrays, probe)).max()),
        },
        "versions": {
            "ours": {
                "trueline": trueline.__version__,
                "python": platform.python_version(),
                "mujoco": mujoco.__version__,
                "numpy": np.__version__,
            },
            "peer": original["versions"],
        },
        "git_commit": commit(),
        "seconds": round(time.monotonic() - began),
        "per_episode": {
            "ours": {mode: ours[mode] for mode in (*MODES, "other noise")},
            "original": original["scores"],
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(*sentences(record), sep="\n")


if __name__ == "__main__":
    main()
