"""Names of the safety wing."""

from __future__ import annotations

from trueline.core.registry import Entry

_TASKS: dict[str, tuple[str, ...]] = {
    "Goal": (
        "reach goals one after another",
        "reach goals among 8 hazards and one vase that may be touched",
        "reach goals among 10 hazards and 10 vases that must not be touched",
    ),
    "Button": (
        "press the right one of 4 buttons",
        "press the right one of 4 buttons, avoiding the others, 4 hazards and 4 circling gremlins",
        "press the right one of 4 buttons, avoiding the others, 8 hazards and 6 circling gremlins",
    ),
    "Push": (
        "push a box to goals",
        "push a box to goals among 2 large hazards and a pillar that may be touched",
        "push a box to goals among 4 large hazards and 4 pillars that must not be touched",
    ),
    "Circle": (
        "run round a circle",
        "run round a circle between two lines that must not be crossed",
        "run round a circle within four lines that must not be crossed",
    ),
    "Run": ("run as far as possible between two lines that must not be crossed",),
}
_AGENTS = ("Point", "Car")

WORLDS: tuple[Entry, ...] = tuple(
    Entry(
        kind="env",
        name=f"Safety{agent}{task}{level}-v0",
        target="trueline.safety.worlds:make_world",
        summary=f"{agent}: {summary}",
        reference=f"Safety-Gymnasium (Ji et al. 2023), {task}; Ray et al. 2019, §4",
        level="peer",
        test="tests/safety/test_tasks_parity.py::test_bodies_move_as_in_the_originals_models",
    )
    for task, levels in _TASKS.items()
    for agent in _AGENTS
    for level, summary in enumerate(levels)
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
