"""Names of the claims; nothing is imported to list them."""

from __future__ import annotations

from trueline.core.registry import Entry

_TEST = "tests/safety/test_safety_claims.py::"
_WORLDS = {"goal": "PointGoal1", "cheetah": "HalfCheetahVelocity"}
CONSTRAINED = {
    "ppo-lag": "PPO-Lag",
    "ppo-pid": "PPO-PID",
    "ppo-saute": "PPO-Sauté",
    "trpo-lag": "TRPO-Lag",
    "cpo": "CPO",
    "focops": "FOCOPS",
    "cup": "CUP",
    "p3o": "P3O",
}
_OMNISAFE = {
    "ppo-breaks": "without a limit PPO's policy breaks it",
    **{f"{arm}-keeps": f"{title} keeps its cost within a fifth of the limit" for arm, title in CONSTRAINED.items()},
    "price": "PPO-Lag returns less than PPO",
    "pid-steadies": "PID control keeps the cost nearer to the limit",
    "saute-violates-least": "PPO-Sauté has the fewest episodes beyond the limit",
}
_SAFEPO = {
    "cpo-regrets-less": "CPO exceeds the limit by less than PPO-Lag while it learns",
    "lagrangian-keeps-better": "PPO-Lag ends with a lower cost than CPO",
    "focops-earns": "FOCOPS returns more than CPO",
    "cup-earns": "CUP returns more than CPO",
}
_LONG = {
    "ppo-lag-keeps-goal": "PPO-Lag, TRPO-Lag and CPO after 10⁷ steps in PointGoal1",
    "ppo-lag-keeps-ant": "PPO-Lag, TRPO-Lag and CPO after 10⁷ steps in AntVelocity",
    "ppo-lag-faithful-keeps-goal": "PPO-Lag at OmniSafe's settings after 10⁷ steps in PointGoal1",
}
_OFF_POLICY = {f"sac-lag-keeps-{world}": f"SAC-Lag keeps its limit in {name}" for world, name in _WORLDS.items()}
_OFFLINE = {
    "vae-bc-breaks": "a clone of mixed data breaks the limit",
    "bcq-breaks": "BCQ on mixed data breaks the limit",
    "bc-safe-keeps": "BC-Safe on mixed data keeps the limit",
    "bcq-lag-keeps": "BCQ-Lag on mixed data keeps the limit",
    "c-crr-keeps": "C-CRR on mixed data keeps the limit",
    "coptidice-keeps": "COptiDICE on mixed data keeps the limit",
    "cpq-keeps": "CPQ on mixed data keeps the limit",
}
_TEAMS = {
    "mappo-breaks-team": "without limits an agent of MAPPO breaks its own",
    "happo-breaks-team": "without limits an agent of HAPPO breaks its own",
    "mappo-lag-keeps-team": "MAPPO-Lag keeps each agent's limit",
    "macpo-keeps-team": "MACPO keeps each agent's limit",
}


def _in_both(sentences: dict[str, str]) -> dict[str, str]:
    return {
        f"{name}-{world}": f"{said}, in {where}" for world, where in _WORLDS.items() for name, said in sentences.items()
    }


def _entries(system: str, listed: str, sentences: dict[str, str], reference: str, test: str) -> list[Entry]:
    """listed: module and attribute that holds the claims of the system."""
    return [
        Entry(
            kind="claim",
            name=f"{system}-{name}",
            target=f"trueline.safety.claims.{listed}.{name.replace('-', '_')}",
            summary=said,
            reference=reference,
            level="property",
            test=_TEST + test,
        )
        for name, said in sentences.items()
    ]


_HOLDS = "test_a_claim_is_reproduced_where_it_holds_and_refuted_where_its_opposite_does"
_RUNS = "test_a_claim_runs_through"
_JI = "Ji et al. 2024 (OmniSafe)"

ENTRIES: tuple[Entry, ...] = (
    *_entries("omnisafe", "omnisafe:CLAIMS", _in_both(_OMNISAFE), _JI, _HOLDS),
    *_entries("safepo", "safepo:CLAIMS", _in_both(_SAFEPO), "Ji et al. 2023 (SafePO)", _HOLDS),
    *_entries("omnisafe-long", "omnisafe:LONG", _LONG, _JI, _RUNS),
    *_entries("omnisafe-off-policy", "omnisafe:OFF_POLICY", _OFF_POLICY, _JI, _RUNS),
    *_entries(
        "omnisafe-offline",
        "offline:CLAIMS",
        _OFFLINE,
        _JI,
        "test_offline_rows_learn_from_half_of_each_behaviour",
    ),
    *_entries(
        "safepo-teams",
        "safepo:TEAMS",
        _TEAMS,
        "Ji et al. 2023 (SafePO)",
        "test_a_team_is_told_by_its_agents_mean_return_and_dearest_cost",
    ),
)
