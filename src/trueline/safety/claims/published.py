"""Published rows beside our own: they decide nothing.

OmniSafe's tables are of 10⁷ steps on-policy and 10⁶ off-policy, a limit of 25, deterministic evaluation and its own
settings; ours of the steps that are told, stochastic policies and updates as their papers have them, which in several
of its rows they are not. SafePO's repository has no figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from trueline.evidence.claims import ClaimResult

__all__ = ["PUBLISHED", "Beside", "Published", "beside", "table"]


class Published(NamedTuple):
    """Mean and standard deviation over seeds."""

    episode_return: float
    return_sd: float
    cost: float
    cost_sd: float

    def __str__(self) -> str:
        return f"{self.episode_return:.2f}±{self.return_sd:.2f} / {self.cost:.2f}±{self.cost_sd:.2f}"


# world -> arm; offline rows are of the mixture with a share of 0.5 of the safe behaviour
PUBLISHED: Mapping[str, Mapping[str, Published]] = {
    "SafetyPointGoal1-v0": {
        "ppo": Published(25.44, 5.43, 55.72, 35.55),
        "ppo-lag": Published(12.96, 6.95, 25.80, 34.99),
        "ppo-pid": Published(8.43, 3.43, 25.74, 7.83),
        "ppo-saute": Published(7.06, 5.85, 20.04, 21.91),
        "trpo-lag": Published(18.51, 3.83, 22.98, 8.45),
        "cpo": Published(20.46, 1.38, 28.84, 7.76),
        "focops": Published(14.97, 9.01, 33.72, 42.24),
        "cup": Published(14.42, 6.74, 19.02, 20.08),
        "p3o": Published(1.6, 3.01, 31.1, 80.03),
        "sac-lag": Published(21.45, 6.97, 19.17, 9.72),
    },
    "SafetyHalfCheetahVelocity-v1": {
        "ppo": Published(6921.83, 1721.79, 919.2, 173.08),
        "ppo-lag": Published(2946.15, 306.35, 3.44, 4.77),
        "ppo-pid": Published(2837.89, 398.52, 8.06, 9.62),
        "ppo-saute": Published(2901.40, 25.49, 16.20, 0.60),
        "trpo-lag": Published(2884.68, 77.47, 9.04, 11.83),
        "cpo": Published(2786.48, 173.45, 4.70, 6.72),
        "focops": Published(2965.2, 290.43, 2.37, 3.5),
        "cup": Published(2850.6, 244.65, 4.27, 4.46),
        "p3o": Published(2117.84, 313.55, 27.6, 8.36),
        "sac-lag": Published(2833.72, 3.62, 0.00, 0.00),
    },
    "SafetyAntVelocity-v1": {
        "ppo-lag": Published(3261.87, 80.00, 12.05, 6.57),
        "trpo-lag": Published(3041.89, 180.77, 19.52, 20.21),
        "cpo": Published(3098.54, 78.90, 14.12, 3.41),
    },
    "SafetyPointCircle1-v0": {
        "vae-bc": Published(42.84, 1.36, 62.34, 14.84),
        "c-crr": Published(45.99, 1.36, 97.20, 13.57),
        "bcq-lag": Published(44.68, 1.97, 95.06, 33.07),
        "coptidice": Published(39.55, 1.39, 53.87, 13.27),
    },
}


class Beside(NamedTuple):
    """One arm in one world: ours over seeds, and what was published of the row."""

    world: str
    arm: str
    steps: int
    seeds: int  # with a value
    ours: Published | None  # None where no seed has one
    published: Published | None


def beside(results: Iterable[ClaimResult]) -> list[Beside]:
    """Every arm that attempted claims of these results have trained, in order of first appearance.

    Claims share trainings: an arm of one world and number of steps is told once.
    """
    found: dict[tuple[str, str, int], Beside] = {}
    for result in results:
        if result.estimate is None:
            continue
        world, steps = str(result.params["world"]), int(result.params["steps"])
        for arm in result.params["arms"]:
            rows = [(row[f"{arm}/return"], row[f"{arm}/cost"]) for row in result.per_seed.values()]
            values = np.array([row for row in rows if np.isfinite(row).all()])
            ours = None
            if len(values):
                mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
                ours = Published(float(mean[0]), float(sd[0]), float(mean[1]), float(sd[1]))
            row = Beside(world, arm, steps, len(values), ours, PUBLISHED.get(world, {}).get(arm))
            if (known := found.get((world, arm, steps))) is None or known.seeds < row.seeds:
                found[world, arm, steps] = row
    return list(found.values())


def table(rows: Iterable[Beside]) -> str:
    """Markdown: return ± deviation over seeds / cost ± deviation."""
    lines = ["| world | arm | steps | seeds | ours | published |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.world} | `{row.arm}` | {row.steps:,} | {row.seeds} | {row.ours or '–'} | {row.published or '–'} |"
        for row in rows
    ]
    return "\n".join(lines)
