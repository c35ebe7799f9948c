"""`omnisafe-offline`: which rows learn from mixed data to keep a limit that half of the data break.

A seed trains two behaviours in `SafetyPointCircle1-v0`, PPO without a limit and PPO-Lag under a fifth of it, and
records episodes of both, half and half. Seven rows learn from those and nothing else, by their presets "fast". Of rows
that know of limits it is asked whether their policy's episodes cost at most 30 on average; of those that do not,
whether they cost more than 25. None of OmniSafe's four offline rows keeps the limit on its own mixtures, whose figures
stand beside (`published.py`).

Three seeds give points and no verdict. Behaviours, data and rows are runs of their own, made once (`trainings.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field

from trueline.core.config import Config, build
from trueline.evidence.claim_statistics import MeanOf
from trueline.evidence.claims import Claim, Scale
from trueline.evidence.records import Bound, Requirement
from trueline.rl.offline.data import FILE
from trueline.safety.claims.arms import ASCENT, LIMIT, STEPS, TOLERANCE
from trueline.safety.claims.omnisafe import TABLES, by_name
from trueline.safety.claims.trainings import Arm, Row, Shelf, measured, trained

__all__ = ["ARMS", "CLAIMS", "Settings", "behaviours", "measure", "recorded"]

WORLD = "SafetyPointCircle1-v0"
# Their actions have to lie where the world takes them, or the rows would be taught what nobody did.
_SQUASHED: Mapping[str, Any] = {"actor": {"squashed": True}}
UNSAFE = Arm(recipe="ppo", preset="fast", config=_SQUASHED)
SAFE = Arm(recipe="ppo-lag", preset="fast", config={**_SQUASHED, "constraint": ASCENT})
DATA = Arm(recipe="offline-data")
STEPS_OF_A_ROW = 50_000
SAFE_SHARE = 0.2  # of the limit that the safe behaviour is trained for: its episodes are to lie within the whole one
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        name: Arm(recipe=name, preset="fast")
        for name in ("vae-bc", "bcq", "bc-safe", "bcq-lag", "c-crr", "coptidice", "cpq")
    }
)
TITLES: Mapping[str, str] = {
    "bc-safe": "BC-Safe",
    "bcq-lag": "BCQ-Lag",
    "c-crr": "C-CRR",
    "coptidice": "COptiDICE",
    "cpq": "CPQ",
}


class Settings(Config):
    """The size of the experiment: what a scale's `params` say."""

    world: str
    arms: tuple[str, ...]
    behaviour_steps: int = Field(STEPS // 2, ge=1)
    behaviour: Mapping[str, Any] = {}  # laid over both behaviours' settings
    recorded: int = Field(400, ge=2)  # episodes
    steps: int = Field(ge=1)  # gradient steps of every row
    cost_limit: float = LIMIT
    episodes: int = Field(64, ge=1)  # of a policy's evaluation


def measure(scale: Scale, seed: int, folder: Path) -> Row:
    """ARM/NUMBER of both behaviours, "unsafe" and "safe", and of every arm of the scale (`trainings.NUMBERS`)."""
    settings = build(Settings, dict(scale.params), where="claims of offline rows")
    epoch = min(1000, settings.steps)
    given = {"env": settings.world, "total_steps": settings.steps, "steps_per_epoch": epoch}
    given["dataset"] = recorded(settings, seed, folder)
    configs = {name: (ARMS[name], ARMS[name].settings(given, settings.cost_limit)) for name in settings.arms}
    found: Row = {}
    for name, (arm, config) in {**behaviours(settings), **configs}.items():
        numbers = measured(name, arm, config, settings.cost_limit, settings.episodes, seed, folder)
        found |= {f"{name}/{number}": value for number, value in numbers.items()}
    return found


def behaviours(settings: Settings) -> dict[str, tuple[Arm, Config]]:
    """Whose episodes are recorded, each with all its settings."""
    given = {"env": settings.world, "total_steps": settings.behaviour_steps, **settings.behaviour}
    return {
        "unsafe": (UNSAFE, UNSAFE.settings(given, settings.cost_limit)),
        "safe": (SAFE, SAFE.settings(given, SAFE_SHARE * settings.cost_limit)),
    }


def recorded(settings: Settings, seed: int, folder: Path) -> str:
    """The data set of a seed, as other runs refer to it: as many episodes of each behaviour."""
    shelf = Shelf.around(folder)
    made = [trained(name, arm, config, seed, shelf) for name, (arm, config) in behaviours(settings).items()]
    sources = [{"policy": f"run://{run.name}"} for run in made]
    given = {"env": settings.world, "episodes": settings.recorded, "sources": sources}
    return f"run://{trained('mixture', DATA, DATA.settings(given, math.nan), seed, shelf).name}/{FILE}"


# --- claims ---

# CPU seconds on one thread, from a few hundred steps on a busy machine: of 10⁴ gradient steps of a row, and of what a
# seed makes first.
CPU_S: Mapping[str, float] = {
    "vae-bc": 26.0,
    "bcq": 175.0,
    "bc-safe": 13.0,
    "bcq-lag": 345.0,
    "c-crr": 195.0,
    "coptidice": 67.0,
    "cpq": 300.0,
}
BEHAVIOURS_CPU_S, EPISODE_CPU_S = 125.0, 0.03

_QUICK: Mapping[str, Any] = {
    "behaviour_steps": 8000,
    "behaviour": {"num_envs": 8, "steps_per_epoch": 4000},
    "recorded": 8,
    "steps": 40,
    "cost_limit": 500.0,  # of what has learnt nothing yet every episode is data
    "episodes": 4,
}


def _claim(arm: str, name: str, sentence: str, bound: Bound, threshold: float) -> Claim:
    hours = (BEHAVIOURS_CPU_S + STEPS_OF_A_ROW / 1e4 * CPU_S[arm] + 3 * 64 * EPISODE_CPU_S) / 3600.0
    params = {"world": WORLD, "arms": (arm,)}
    return Claim(
        system="omnisafe-offline",
        name=name,
        sentence=f"{sentence}, in {WORLD}.",
        source=TABLES,
        measure=measure,
        statistic=MeanOf(f"{arm}/cost"),
        acceptance=Requirement(bound=bound, threshold=threshold),
        scales={
            "ci": Scale((0,), 0.01, math.nan, {**params, **_QUICK}),
            "published": Scale((0, 1, 2), round(3 * hours, 3), math.nan, {**params, "steps": STEPS_OF_A_ROW}),
        },
        unit="cost of an episode",
    )


def _keeps(arm: str) -> Claim:
    said = f"From data of which half breaks the limit, {TITLES[arm]} learns a policy that exceeds it by at most a fifth"
    return _claim(arm, f"{arm}-keeps", said, "at_most", LIMIT + TOLERANCE)


def _breaks(arm: str, title: str) -> Claim:
    said = f"From data of which half breaks the limit, {title} learns a policy that breaks it"
    return _claim(arm, f"{arm}-breaks", said, "at_least", LIMIT)


CLAIMS = by_name([_breaks("vae-bc", "VAE-BC"), _breaks("bcq", "BCQ"), *(_keeps(arm) for arm in TITLES)])
