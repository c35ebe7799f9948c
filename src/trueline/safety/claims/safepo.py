"""`safepo`: what papers say of the methods that it and OmniSafe share, asked of our own trainings.

    cpo-regrets-less         while it learns, J_C of CPO's policies exceeds the limit by less than PPO-Lag's
    lagrangian-keeps-better  at the end, J_C of PPO-Lag is below that of CPO
    focops-earns, cup-earns  FOCOPS and CUP return more than CPO

The trainings are those of `omnisafe`. What returns more may cost more: read the last two beside the costs, which are in
the rows.

`safepo-teams` has three seeds of 2·10⁶ steps, too few for a verdict; a system of its own, run when it is named. Of an
agent each, costs are held under the limit; the largest is told.
"""

from __future__ import annotations

from collections.abc import Mapping

from trueline.evidence.claim_statistics import Contrast, MeanOf
from trueline.evidence.claims import Claim
from trueline.safety.claims.arms import LIMIT, WORLDS, Size, stated
from trueline.safety.claims.catalogue import CONSTRAINED
from trueline.safety.claims.omnisafe import by_name, keeps

__all__ = ["CLAIMS", "TEAMS"]


def _regrets_less(world: str) -> Claim:
    return stated(
        system="safepo",
        name=f"cpo-regrets-less-{world}",
        world=WORLDS[world],
        sentence="While it learns, J_C of CPO's policies exceeds the limit by less than that of PPO-Lag's",
        source="Achiam et al. 2017, section 8",
        arms=("ppo-lag", "cpo"),
        number="regret",
        statistic=Contrast(("ppo-lag/regret",), "cpo/regret"),
        bound="at_least",
    )


def _keeps_better(world: str) -> Claim:
    return stated(
        system="safepo",
        name=f"lagrangian-keeps-better-{world}",
        world=WORLDS[world],
        sentence="At the end of training J_C of PPO-Lag is below that of CPO",
        source="Ray, Achiam & Amodei 2019, section 5",
        arms=("ppo-lag", "cpo"),
        number="last cost",
        statistic=Contrast(("cpo/last cost",), "ppo-lag/last cost"),
        bound="at_least",
    )


def _earns(world: str, arm: str, source: str) -> Claim:
    return stated(
        system="safepo",
        name=f"{arm}-earns-{world}",
        world=WORLDS[world],
        sentence=f"Under the same limit {CONSTRAINED[arm]}'s policy returns more than CPO's",
        source=source,
        arms=(arm, "cpo"),
        number="return",
        statistic=Contrast((f"{arm}/return",), "cpo/return"),
        bound="at_least",
        unit="return",
    )


def _of(world: str) -> list[Claim]:
    return [
        _regrets_less(world),
        _keeps_better(world),
        _earns(world, "focops", "Zhang, Vuong & Ross 2020, section 5"),
        _earns(world, "cup", "Yang et al. 2022, section 5"),
    ]


CLAIMS = by_name([claim for world in ("goal", "cheetah") for claim in _of(world)])

TEAM_SIZES: Mapping[str, Size] = {
    "ci": Size(1, 8000, 4, {"num_envs": 4, "steps_per_epoch": 4000}),
    "published": Size(3, 2_000_000),
}


def _team_breaks(arm: str, title: str) -> Claim:
    return stated(
        system="safepo-teams",
        name=f"{arm}-breaks-team",
        world=WORLDS["team"],
        sentence=f"Without limits an agent of {title} costs more than {LIMIT:g} an episode",
        source="Ji et al. 2023, multi-agent algorithms",
        arms=(arm,),
        number="cost",
        statistic=MeanOf(f"{arm}/cost"),
        bound="at_least",
        threshold=LIMIT,
        sizes=TEAM_SIZES,
    )


TEAMS = by_name(
    [
        *(_team_breaks(arm, title) for arm, title in (("mappo", "MAPPO"), ("happo", "HAPPO"))),
        *(
            keeps("safepo-teams", "team", arm, title, TEAM_SIZES)
            for arm, title in (("mappo-lag", "MAPPO-Lag"), ("macpo", "MACPO"))
        ),
    ]
)
