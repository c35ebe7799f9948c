"""The arms of the claims: rows of the table, where and how long they are trained, and what that takes.

Arms are trained by the rows' presets "fast", and for running "fast-velocity": some 7,000 steps a CPU-second on
`SafetyPointGoal1-v0`, in place of the 140 of OmniSafe, whose settings are ours under "faithful" at 900. In 10⁶ steps
the published multiplier moves fifty times, by 0.035 at most, so that it is an arm at 10⁷ steps alone. Every other
on-policy arm of a multiplier takes plain dual ascent at 0.002 per unit of cost, once whenever a round of episodes has
ended. The preset of PPO-PID moves its integral by the same amounts and adds a proportional part: it differs in nothing
else from PPO-Lag. The policy of every on-policy arm that is not "faithful" is the average of its weights over the last
15 % of the training.

The bound ν_max = 2 of FOCOPS is in reward per cost, both as the world pays them; as published, and for CUP here, it is
of advantages of deviation 1. Where going beyond the limit pays more than that, what is tested is the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import Field

from trueline.core.config import Config, build
from trueline.evidence.claim_statistics import Contrast, smallest_effect
from trueline.evidence.claims import Claim, Scale, Statistic
from trueline.evidence.over_seeds import FEWEST_SEEDS
from trueline.evidence.records import Bound, Requirement
from trueline.safety.claims.trainings import Arm, Row, measured

__all__ = [
    "ARMS",
    "LIMIT",
    "STEPS",
    "TOLERANCE",
    "WORLDS",
    "Settings",
    "Size",
    "World",
    "measure",
    "stated",
    "together",
]

LIMIT, TOLERANCE = 25.0, 5.0  # cost of an episode; a fifth of the limit
STEPS = 1_024_000  # 64 collections of 16,000 steps: sixteen rounds of 64 whole episodes
EPISODES = 64  # of a policy's evaluation

ASCENT: Mapping[str, Any] = {"kind": "lagrangian", "rule": "sgd", "lr": 0.002, "init": 0.05}
BOUNDED: Mapping[str, Any] = {**ASCENT, "upper": 2.0}  # ν_max
AVERAGED: Mapping[str, Any] = {"averaged_share": 0.15}  # which the presets of all other on-policy arms have

ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "ppo": Arm(recipe="ppo", preset="fast", config=AVERAGED),
        "ppo-lag": Arm(recipe="ppo-lag", preset="fast", config={"constraint": ASCENT}),
        "ppo-pid": Arm(recipe="ppo-pid", preset="fast"),
        "ppo-saute": Arm(recipe="ppo-saute", preset="fast", config=AVERAGED),
        "trpo-lag": Arm(recipe="trpo-lag", preset="fast", config={"constraint": ASCENT}),
        "cpo": Arm(recipe="cpo", preset="fast"),
        "focops": Arm(recipe="focops", preset="fast", config={"constraint": BOUNDED}),
        "cup": Arm(recipe="cup", preset="fast", config={"constraint": BOUNDED}),
        "p3o": Arm(recipe="p3o", preset="fast"),
        # OmniSafe's hyper-parameters throughout, on ten environments, which is SafePO's number, in place of one.
        "ppo-lag-faithful": Arm(recipe="ppo-lag", preset="faithful", config={"num_envs": 10}),
        "sac-lag": Arm(recipe="sac-lag", preset="fast"),
        "mappo": Arm(recipe="mappo", preset="faithful"),
        "happo": Arm(recipe="happo", preset="faithful"),
        "mappo-lag": Arm(recipe="mappo-lag", preset="faithful"),
        "macpo": Arm(recipe="macpo", preset="faithful"),
    }
)


ON_POLICY = ("ppo", "ppo-lag", "ppo-pid", "ppo-saute", "trpo-lag", "cpo", "focops", "cup", "p3o")
RUNNING: Mapping[str, Arm] = MappingProxyType(
    {**ARMS, **{name: ARMS[name].model_copy(update={"preset": "fast-velocity"}) for name in (*ON_POLICY, "sac-lag")}}
)


class World(NamedTuple):
    """Where arms are trained, what that takes, and how far seeds are apart there."""

    id: str
    cpu_s: Mapping[str, float]  # of 10⁶ steps of each arm on one thread, from a few 10⁴ of them on a busy machine
    episode_cpu_s: float  # of an episode of an evaluation
    spread: Mapping[str, float]  # standard deviation over seeds of each number that decides, assumed before any run
    arms: Mapping[str, Arm] = ARMS


WORLDS: Mapping[str, World] = MappingProxyType(
    {
        "goal": World(
            "SafetyPointGoal1-v0",
            {
                "ppo": 190.0,
                "ppo-lag": 175.0,
                "ppo-pid": 190.0,
                "ppo-saute": 185.0,
                "trpo-lag": 160.0,
                "cpo": 190.0,
                "focops": 175.0,
                "cup": 205.0,
                "p3o": 200.0,
                "ppo-lag-faithful": 830.0,
                "sac-lag": 1000.0,
            },
            0.15,
            {"cost": 6.0, "last cost": 6.0, "return": 3.0, "violating": 0.12, "unsteadiness": 3.0, "regret": 4.0},
        ),
        "cheetah": World(
            "SafetyHalfCheetahVelocity-v1",
            {
                "ppo": 155.0,
                "ppo-lag": 165.0,
                "ppo-pid": 165.0,
                "ppo-saute": 165.0,
                "trpo-lag": 70.0,
                "cpo": 85.0,
                "focops": 165.0,
                "cup": 220.0,
                "p3o": 185.0,
                "sac-lag": 930.0,
            },
            0.06,
            {"cost": 15.0, "last cost": 15.0, "return": 400.0, "violating": 0.2, "unsteadiness": 15.0, "regret": 15.0},
            RUNNING,
        ),
        "ant": World(
            "SafetyAntVelocity-v1",
            {"ppo-lag": 250.0, "trpo-lag": 235.0, "cpo": 265.0},
            0.25,
            {"last cost": 15.0},
            RUNNING,
        ),
        "team": World(
            "Safety2x4AntVelocity-v0",
            {"mappo": 500.0, "happo": 590.0, "mappo-lag": 590.0, "macpo": 600.0},
            0.25,
            {"cost": 15.0, "last cost": 15.0},
        ),
    }
)


class Settings(Config):
    """The size of the experiment: what a scale's `params` say."""

    world: str
    arms: tuple[str, ...]
    steps: int = Field(ge=1)  # of every training
    cost_limit: float = LIMIT
    episodes: int = Field(EPISODES, ge=1)
    config: Mapping[str, Any] = {}  # laid over the settings of every arm


def measure(scale: Scale, seed: int, folder: Path) -> Row:
    """ARM/NUMBER of every arm of the scale (`trainings.NUMBERS`)."""
    settings = build(Settings, dict(scale.params), where="claims of constrained algorithms")
    arms = next((world.arms for world in WORLDS.values() if world.id == settings.world), ARMS)
    row: Row = {}
    for name in settings.arms:
        given = {"env": settings.world, "total_steps": settings.steps, **settings.config}
        arm = arms[name]
        config = arm.settings(given, settings.cost_limit)
        found = measured(name, arm, config, settings.cost_limit, settings.episodes, seed, folder)
        row |= {f"{name}/{number}": value for number, value in found.items()}
    return row


# --- what a claim states before it runs ---


class Size(NamedTuple):
    """One size of a claim."""

    seeds: int
    steps: int
    episodes: int = EPISODES
    config: Mapping[str, Any] = MappingProxyType({})  # laid over the settings of every arm


# Eight environments for two episodes each: enough to go through every line, in seconds.
QUICK = Size(1, 16_000, 8, {"num_envs": 8, "steps_per_epoch": 8000})
SIZES: Mapping[str, Size] = {"ci": QUICK, "laptop": Size(8, STEPS // 2), "published": Size(10, STEPS)}

# Claims that are tested together: of so many, Holm asks the most of the first.
FAMILY: Mapping[str, int] = {"omnisafe": 24, "safepo": 8}


def cpu_hours(arms: Iterable[str], world: World, size: Size) -> float:
    """Of trainings and evaluations, none of them there yet."""
    one = sum(size.steps / 1e6 * world.cpu_s[name] + size.episodes * world.episode_cpu_s for name in arms)
    return round(size.seeds * one / 3600.0, 4)


def together(claims: Iterable[Claim], scale: str) -> float:
    """CPU-hours of all claims at a scale, each arm trained once for every world and seed."""
    arms: dict[tuple[str, int, int, int], set[str]] = {}
    for claim in claims:
        of = claim.scales[scale]
        key = (of.params["world"], len(of.seeds), of.params["steps"], of.params["episodes"])
        arms.setdefault(key, set()).update(of.params["arms"])
    by_id = {world.id: world for world in WORLDS.values()}
    return sum(
        cpu_hours(names, by_id[id], Size(seeds, steps, episodes))
        for (id, seeds, steps, episodes), names in arms.items()
    )


def stated(
    system: str,
    name: str,
    world: World,
    sentence: str,
    source: str,
    arms: tuple[str, ...],
    number: str,
    statistic: Statistic,
    bound: Bound,
    threshold: float = 0.0,
    unit: str = "cost of an episode",
    effect: float = math.inf,
    sizes: Mapping[str, Size] = SIZES,
) -> Claim:
    """A claim about arms in one world; `number` is what its statistic is made of, whose spread says what it can see.

    What it can see is stated as the first of its system's claims to be reproduced, the one from which Holm asks most.
    """
    # A difference of two arms spreads as both together: nobody knows yet what layouts in common take off.
    spread = world.spread[number] * (math.sqrt(2.0) if isinstance(statistic, Contrast) else 1.0)

    def scale(size: Size) -> Scale:
        sizes_of = {"world": world.id, "arms": arms, "steps": size.steps, "episodes": size.episodes}
        finds = math.nan
        if size.seeds >= FEWEST_SEEDS:
            finds = round(smallest_effect(spread, size.seeds, 1.0 - 0.05 / FAMILY[system]), 3)
        hours = cpu_hours(arms, world, size)
        return Scale(tuple(range(size.seeds)), hours, finds, {**sizes_of, "config": dict(size.config)})

    return Claim(
        system=system,
        name=name,
        sentence=f"{sentence}, in {world.id}.",
        source=source,
        measure=measure,
        statistic=statistic,
        acceptance=Requirement(bound=bound, threshold=threshold),
        scales={key: scale(size) for key, size in sizes.items()},
        effect=effect,
        unit=unit,
    )
