"""`omnisafe`: what its tables say of constrained algorithms, asked of our own trainings.

Nine arms in `SafetyPointGoal1-v0` and `SafetyHalfCheetahVelocity-v1` with a limit of 25 an episode:

    ppo-breaks            without a limit, PPO's policy costs more than 25
    ARM-keeps             over the last tenth of a training J_C is at most 30; eight arms
    price                 PPO-Lag's policy returns less than PPO's
    pid-steadies          a proportional part beside the integral keeps J_C nearer to the limit
    saute-violates-least  of the eight arms, PPO-Sauté's policy has the smallest share of episodes beyond the limit

An arm that has learnt nothing keeps any limit: read `keeps` of a world where `ppo-breaks` is reproduced there, and
beside the returns. How far from its limit a method ends nobody has claimed, so that no scale is refused for it; one
that ends near 30 may stay undecided.

Claims share trainings (`trainings.py`): each states the CPU time of its arms as if none was there, and what all of them
take is `arms.together`. Chunks are trainings of a few minutes, kept one by one; a longer one goes on from its last
checkpoint. "ci" goes through all of it in minutes and decides nothing. Published rows stand beside (`published.py`).

`omnisafe-long` and `omnisafe-off-policy` have two or three seeds, too few for a verdict: points to be read beside the
published ones of as many steps. They are systems of their own, run when they are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from trueline.evidence.claim_statistics import Contrast, MeanOf
from trueline.evidence.claims import Claim
from trueline.safety.claims.arms import LIMIT, QUICK, SIZES, STEPS, TOLERANCE, WORLDS, Size, stated
from trueline.safety.claims.catalogue import CONSTRAINED

__all__ = ["CLAIMS", "LONG", "OFF_POLICY", "by_name", "keeps"]

TABLES = "OmniSafe (Ji et al. 2024), tables of its benchmarks"
OWN = "a statement about our own trainings; OmniSafe's figures stand beside and are not all below 30"
BREAKS = {"goal": 30.7, "cheetah": 894.0}  # published: cost of PPO beyond the limit
PRICE = {"goal": 12.5, "cheetah": 3976.0}  # published: return of PPO-Lag below that of PPO


def by_name(claims: Sequence[Claim]) -> SimpleNamespace:
    """Claims as attributes, so that each can be the target of a catalogue's entry."""
    return SimpleNamespace(**{claim.name.replace("-", "_"): claim for claim in claims})


def keeps(
    system: str, world: str, arm: str, title: str, sizes: Mapping[str, Size] = SIZES, beside: tuple[str, ...] = ()
) -> Claim:
    """J_C of an arm is at most a fifth above the limit over the last tenth of its training; others are trained too."""
    return stated(
        system=system,
        name=f"{arm}-keeps-{world}",
        world=WORLDS[world],
        sentence=f"{title} keeps J_C within a fifth of the limit over the last tenth of its training",
        source=OWN,
        arms=(arm, *beside),
        number="last cost",
        statistic=MeanOf(f"{arm}/last cost"),
        bound="at_most",
        threshold=LIMIT + TOLERANCE,
        sizes=sizes,
    )


def _breaks(world: str) -> Claim:
    return stated(
        system="omnisafe",
        name=f"ppo-breaks-{world}",
        world=WORLDS[world],
        sentence=f"Without a limit, PPO's policy costs more than {LIMIT:g} an episode",
        source=TABLES,
        arms=("ppo",),
        number="cost",
        statistic=MeanOf("ppo/cost"),
        bound="at_least",
        threshold=LIMIT,
        effect=BREAKS[world],
    )


def _price(world: str) -> Claim:
    return stated(
        system="omnisafe",
        name=f"price-{world}",
        world=WORLDS[world],
        sentence="Under the limit PPO-Lag's policy returns less than PPO's without",
        source=TABLES,
        arms=("ppo", "ppo-lag"),
        number="return",
        statistic=Contrast(("ppo/return",), "ppo-lag/return"),
        bound="at_least",
        unit="return",
        effect=PRICE[world],
    )


def _steadies(world: str) -> Claim:
    return stated(
        system="omnisafe",
        name=f"pid-steadies-{world}",
        world=WORLDS[world],
        sentence="A proportional part beside the integral keeps J_C nearer to the limit",
        source="Stooke, Achiam & Abbeel 2020, section 5",
        arms=("ppo-lag", "ppo-pid"),
        number="unsteadiness",
        statistic=Contrast(("ppo-lag/unsteadiness",), "ppo-pid/unsteadiness"),
        bound="at_least",
    )


def _violates_least(world: str) -> Claim:
    others = tuple(f"{name}/violating" for name in CONSTRAINED if name != "ppo-saute")
    return stated(
        system="omnisafe",
        name=f"saute-violates-least-{world}",
        world=WORLDS[world],
        sentence="Of eight constrained algorithms, PPO-Sauté's policy has the fewest episodes beyond the limit",
        source="Sootla et al. 2022, ICML, on constraints that hold almost surely",
        arms=tuple(CONSTRAINED),
        number="violating",
        statistic=Contrast(others, "ppo-saute/violating"),
        bound="at_least",
        unit="of episodes",
    )


def _of(world: str) -> list[Claim]:
    kept = [keeps("omnisafe", world, arm, title) for arm, title in CONSTRAINED.items()]
    return [_breaks(world), *kept, _price(world), _steadies(world), _violates_least(world)]


CLAIMS = by_name([claim for world in ("goal", "cheetah") for claim in _of(world)])

LONG_SIZES: Mapping[str, Size] = {"ci": QUICK, "published": Size(3, 10_000_000)}
ANT_SIZES: Mapping[str, Size] = {"ci": QUICK, "published": Size(2, 10_000_000)}
LONG = by_name(
    [
        keeps("omnisafe-long", "goal", "ppo-lag", "PPO-Lag", LONG_SIZES, ("trpo-lag", "cpo")),
        keeps("omnisafe-long", "ant", "ppo-lag", "PPO-Lag", ANT_SIZES, ("trpo-lag", "cpo")),
        keeps("omnisafe-long", "goal", "ppo-lag-faithful", "PPO-Lag at OmniSafe's settings", LONG_SIZES),
    ]
)

OFF_POLICY_SIZES: Mapping[str, Size] = {
    "ci": Size(1, 16_000, 8, {"num_envs": 8, "steps_per_epoch": 8000, "warm_up": 8000, "updates_per_step": 0.01}),
    "published": Size(3, STEPS),
}
OFF_POLICY = by_name(
    [keeps("omnisafe-off-policy", world, "sac-lag", "SAC-Lag", OFF_POLICY_SIZES) for world in ("goal", "cheetah")]
)
