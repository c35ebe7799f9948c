"""Names of the safety wing."""

from __future__ import annotations

from trueline.core.registry import Entry

_GOAL_LEVELS = {
    0: "reach goals one after another",
    1: "reach goals among 8 hazards and one vase that may be touched",
    2: "reach goals among 10 hazards and 10 vases that must not be touched",
}

WORLDS: tuple[Entry, ...] = tuple(
    Entry(
        kind="env",
        name=f"Safety{agent}Goal{level}-v0",
        target="trueline.safety.worlds:make_goal",
        summary=f"{agent}: {task}",
        reference="Safety-Gymnasium (Ji et al. 2023), Goal; Ray et al. 2019, §4",
        level="peer",
        test="tests/safety/test_worlds_parity.py::test_first_observation_and_rewards_equal_the_peers",
    )
    for agent in ("Point", "Car")
    for level, task in _GOAL_LEVELS.items()
)

RECIPES: tuple[Entry, ...] = (
    Entry(
        kind="recipe",
        name="ppo",
        target="trueline.safety.recipes:PPO",
        summary="proximal policy optimisation for the reward alone",
        reference="Schulman et al. 2017, eq. 7",
        level="exact",
        test="tests/rl/test_ppo.py::test_it_finds_the_best_arm",
    ),
    Entry(
        kind="recipe",
        name="ppo-lag",
        target="trueline.safety.recipes:PPO_LAG",
        summary="PPO on A_r − Σλ·A_c, with Lagrange or PID multipliers on the episode costs",
        reference="Ray, Achiam & Amodei 2019; Stooke, Achiam & Abbeel 2020",
        level="exact",
        test="tests/rl/test_ppo.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
)

ENTRIES: tuple[Entry, ...] = WORLDS + RECIPES
