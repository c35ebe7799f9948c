"""Names of the safety wing's worlds; nothing is imported to list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trueline.core.registry import Entry

_PARITY = "tests/safety/test_tasks_parity.py::test_bodies_move_as_in_the_originals_models"
_COURSES = "tests/safety/test_courses.py::"


@dataclass(frozen=True, slots=True)
class _Family:
    """Worlds that differ in level and agent."""

    levels: tuple[str, ...]  # what each is about
    level: Literal["peer", "property"] = "peer"  # how it is verified
    test: str = _PARITY


_FAMILIES: dict[str, _Family] = {
    "Goal": _Family(
        (
            "reach goals one after another",
            "reach goals among 8 hazards and one vase that may be touched",
            "reach goals among 10 hazards and 10 vases that must not be touched",
        )
    ),
    "Button": _Family(
        (
            "press the right one of 4 buttons",
            "press the right one of 4 buttons, avoiding the others, 4 hazards and 4 circling gremlins",
            "press the right one of 4 buttons, avoiding the others, 8 hazards and 6 circling gremlins",
        )
    ),
    "Push": _Family(
        (
            "push a box to goals",
            "push a box to goals among 2 large hazards and a pillar that may be touched",
            "push a box to goals among 4 large hazards and 4 pillars that must not be touched",
        )
    ),
    "Circle": _Family(
        (
            "run round a circle",
            "run round a circle between two lines that must not be crossed",
            "run round a circle within four lines that must not be crossed",
        )
    ),
    "Run": _Family(("run as far as possible between two lines that must not be crossed",)),
    "FadingEasy": _Family(
        tuple(f"Goal {level}, whose objects fade from sight in 150 steps" for level in range(3)),
        "property",
        _COURSES + "test_things_fade_and_come_back",
    ),
    "FadingHard": _Family(
        tuple(f"Goal {level}, whose objects fade from sight in 75 steps" for level in range(3)),
        "property",
        _COURSES + "test_things_fade_and_come_back",
    ),
    "BuildingGoal": _Family(
        tuple(f"Goal {level} in a yard with machines (scenery of our own)" for level in range(3)),
        "property",
        _COURSES + "test_no_episode_starts_touching_the_scenery_or_at_a_cost",
    ),
    "BuildingButton": _Family(
        tuple(f"Button {level} in a yard with machines (scenery of our own)" for level in range(3)),
        "property",
        _COURSES + "test_no_episode_starts_touching_the_scenery_or_at_a_cost",
    ),
    "BuildingPush": _Family(
        tuple(f"Push {level} in a yard with machines (scenery of our own)" for level in range(3)),
        "property",
        _COURSES + "test_the_public_checker_finds_nothing",
    ),
    "Race": _Family(
        (
            "drive along a corridor to its end (scenery of our own)",
            "drive along a corridor past 7 hazards, touching no wall (scenery of our own)",
            "drive round a corner and past 7 hazards, touching no wall (scenery of our own)",
        ),
        "property",
        _COURSES + "test_the_race_can_be_driven_from_both_starts_and_the_gap_is_the_shifts",
    ),
    "FormulaOne": _Family(
        (
            "drive round a course of seven stages (scenery of our own)",
            "drive round a course of seven stages with 200 barriers (scenery of our own)",
            "drive round a course with barriers around its seven stages (scenery of our own)",
        ),
        "property",
        _COURSES + "test_formula_one_starts_on_a_stage_and_goes_on_to_the_next",
    ),
}
_AGENTS = ("Point", "Car", "Doggo", "Racecar", "Ant")

WORLDS: tuple[Entry, ...] = tuple(
    Entry(
        kind="env",
        name=f"Safety{agent}{task}{level}-v0",
        target="trueline.safety.worlds:make_world",
        summary=f"{agent}: {summary}",
        reference=f"Safety-Gymnasium (Ji et al. 2023), {task}; Ray et al. 2019, §4",
        level=family.level,
        test=family.test,
        family=task,
    )
    for task, family in _FAMILIES.items()
    for agent in _AGENTS
    for level, summary in enumerate(family.levels)
)

_FORMS = "tests/safety/test_worlds_forms.py::"
_SEEN = _FORMS + "test_a_vision_id_shows_what_the_agents_camera_sees"
_DRIVEN = _FORMS + "test_a_debug_id_is_the_plain_world"

VARIANTS: tuple[Entry, ...] = tuple(
    Entry(
        kind="env",
        name=world.name.replace("-v0", f"{variant}-v0"),
        target=world.target,
        summary=f"{world.name.removesuffix('-v0')}, {how}",
        reference=world.reference,
        level="property",
        test=test,
        family=f"{world.family} {variant}",
    )
    for world in WORLDS
    for variant, how, test, agents in (
        ("Vision", "with the picture of the agent's own camera", _SEEN, _AGENTS),
        ("Debug", "to be driven by hand", _DRIVEN, ("Point", "Car", "Racecar")),
    )
    if world.name.startswith(tuple(f"Safety{agent}" for agent in agents))
)

_PAIRS = "tests/safety/test_multi_goal.py::"
_PAIR_VIEWS = {
    "": ("", ""),
    "Vision": (
        ", with the pictures of both agents' cameras",
        _PAIRS + "test_a_vision_id_shows_what_both_agents_see_and_a_debug_id_is_the_plain_world",
    ),
    "Debug": (
        ", the first of them driven by hand",
        _PAIRS + "test_a_vision_id_shows_what_both_agents_see_and_a_debug_id_is_the_plain_world",
    ),
}

MULTI_GOALS: tuple[Entry, ...] = tuple(
    Entry(
        kind="multi-agent env",
        name=f"Safety{agent}MultiGoal{level}{view}-v0",
        target="trueline.safety.worlds.multi_goal:make_multi_goal",
        summary=f"two {agent}s reach goals of their own {summary}{how}",
        reference="Safety-Gymnasium's repository (Ji et al. 2023), MultiGoal",
        # The original has ids for five bodies and models for two.
        level="peer" if agent in ("Point", "Ant") and not view else "property",
        test=test
        or _PAIRS
        + (
            "test_layouts_are_the_originals_bit_for_bit"
            if agent in ("Point", "Ant")
            else "test_each_of_two_bodies_moves_as_the_single_one_does"
        ),
        family=f"MultiGoal {view}".rstrip(),
    )
    for view, (how, test) in _PAIR_VIEWS.items()
    for agent in (("Point", "Car", "Racecar") if view == "Debug" else _AGENTS)
    for level, summary in enumerate(
        (
            "in one room",
            "among hazards, without running into one another",
            "among hazards and vases, touching neither these nor one another",
        )
    )
)

_MANIPULATION, _DONE = "tests/safety/test_manipulation.py::", "tests/safety/test_manipulation_done.py::"
_HANDS = {
    "TruelineHandOver-Finger": ("two hands: throw an egg across, sparing a finger", "ShadowHandOver"),
    "TruelineHandOver-Joint": ("two hands: throw an egg across, sparing a joint", "ShadowHandOver"),
    "TruelineCatchUnderarm-Finger": (
        "two hands: throw an egg from an upright hand into an open one, sparing a finger",
        "ShadowHandCatchOver2Underarm",
    ),
    "TruelineCatchUnderarm-Joint": (
        "two hands: throw an egg from an upright hand into an open one, sparing a joint",
        "ShadowHandCatchOver2Underarm",
    ),
}
_ARMS = {
    "TruelineMobileArmCloseDrawer": (
        "a mobile arm closes a drawer from outside a strip",
        "FreightFrankaCloseDrawer",
        _MANIPULATION + "test_drawer_reward_is_the_formula_on_an_independent_reading_of_the_hand",
    ),
    "TruelineMobileArmPickPlace": (
        "a mobile arm carries a block around a strip",
        "FreightFrankaPickAndPlace",
        _MANIPULATION + "test_block_reward_without_its_reach_is_what_the_table_says",
    ),
}


def _manipulation(kind: str, name: str, maker: str, summary: str, original: str, test: str) -> Entry:
    return Entry(
        kind=kind,
        name=f"{name}-v0",
        target=f"trueline.safety.worlds.{maker}",
        summary=f"{summary}; not numerically {original}",
        reference="own models; task after Safety-Gymnasium (Ji et al. 2023)",
        level="property",
        test=test,
        family="Manipulation",
    )


MANIPULATION: tuple[Entry, ...] = (
    *(
        _manipulation(
            "env",
            name,
            "manipulation:make_manipulation",
            summary,
            original,
            _MANIPULATION + "test_hand_over_reward_is_the_closed_form_of_distance_and_angle"
            if "HandOver" in name
            else _MANIPULATION + "test_only_the_givers_first_finger_costs_and_only_outside_half_its_range",
        )
        for name, (summary, original) in _HANDS.items()
    ),
    *(
        _manipulation("env", name, "manipulation:make_manipulation", summary, original, test)
        for name, (summary, original, test) in _ARMS.items()
    ),
    *(
        _manipulation(
            "multi-agent env",
            f"{name}-TwoAgents",
            "manipulation_agents:make_hand_agents",
            f"{summary}, with an agent for each hand",
            original,
            _DONE + "test_each_hand_sees_itself_and_what_is_passed_and_all_share_reward_and_cost",
        )
        for name, (summary, original) in _HANDS.items()
    ),
)

CUSTOM = Entry(
    kind="env",
    name="SafetyCustom-v0",
    target="trueline.safety.worlds.custom:make_custom",
    summary="a world of your own: agent, task, things and named costs as options",
    reference="",
    level="property",
    test="tests/safety/test_custom.py::test_the_original_worlds_can_be_described",
)

_PLANAR = "tests/safety/test_planar.py::"
_PLANAR_TASKS = {
    "Goal0": "reach goals",
    "Goal1": "reach goals among 8 hazards and one vase",
    "Goal2": "reach goals among 10 hazards and 10 vases",
    "Circle0": "run round a circle",
    "Circle1": "run round a circle between two lines",
    "Circle2": "run round a circle within four lines",
    "Run0": "run far between two lines",
}

PLANAR: tuple[Entry, ...] = tuple(
    Entry(
        kind="env",
        name=f"Planar{agent}{task}-v0",
        target="trueline.safety.worlds.planar:make_planar",
        summary=f"{agent} in the plane, on tensors: {summary}; not the MuJoCo world",
        reference="dynamics of our own; task after Safety-Gymnasium (Ji et al. 2023)",
        level="property" if task in ("Goal1", "Goal2") else "exact",
        test=_PLANAR
        + (
            "test_running_into_a_vase_costs_as_long_as_it_is_touched_or_moves"
            if task in ("Goal1", "Goal2")
            else f"test_a_driven_{agent.lower()}_follows_its_equations"
            if task == "Goal0"
            else "test_circle_and_run_rewards_in_single_precision"
        ),
        family="Planar",
    )
    for agent in ("Point", "Car")
    for task, summary in _PLANAR_TASKS.items()
)

_RUNNERS = {
    "HalfCheetah": (3.2096, 2.8795),
    "Hopper": (0.7402, 0.37315),
    "Swimmer": (0.2282, 0.04845),
    "Walker2d": (2.3415, 1.7075),
    "Ant": (2.6222, 2.5745),
    "Humanoid": (1.4149, 2.3475),
}

VELOCITY: tuple[Entry, ...] = tuple(
    Entry(
        kind="env",
        name=f"Safety{body}Velocity-{version}",
        target="trueline.safety.worlds.velocity:make_velocity",
        summary=f"{body}: run, but not faster than {fastest} m/s",
        reference="Safety-Gymnasium (Ji et al. 2023), Velocity; Gymnasium MuJoCo v4",
        level="peer",
        test="tests/safety/test_velocity.py::test_first_steps_are_the_peers",
        family="Velocity",
    )
    for body, by_version in _RUNNERS.items()
    for version, fastest in zip(("v1", "v0"), by_version, strict=True)
)

_TEAMS = {
    "2x4Ant": (2, 2.522),
    "4x2Ant": (4, 2.418),
    "6x1HalfCheetah": (6, 2.932),
    "2x3HalfCheetah": (2, 3.227),
    "3x1Hopper": (3, 0.9613),
    "9|8Humanoid": (2, 0.58),
    "2x1Swimmer": (2, 0.04891),
    "2x3Walker2d": (2, 1.641),
}

TEAMS: tuple[Entry, ...] = tuple(
    Entry(
        kind="multi-agent env",
        name=f"Safety{team}Velocity-v0",
        target="trueline.safety.worlds.velocity_agents:make_team",
        summary=f"{team}: {agents} agents share a body and run, but not faster than {fastest} m/s",
        reference="Safety-Gymnasium's make_ma; Peng et al. 2021 (multi-agent MuJoCo)",
        level="peer",
        test="tests/safety/test_velocity_agents.py::test_agents_drive_and_see_in_the_first_steps_what_the_peers_do",
        family="Velocity teams",
    )
    for team, (agents, fastest) in _TEAMS.items()
)

COORDINATES = Entry(
    kind="env",
    name="Coordinates-v0",
    target="trueline.rl.planning.coordinates:make_coordinates",
    summary="a Goal world as coordinates; privileged",
    reference="OmniSafe's model-based worlds (Ji et al. 2023)",
    level="peer",
    test="tests/safety/test_planning_rows.py::test_what_is_told_is_what_the_world_pays_and_charges",
    family="Coordinates",
)

ENTRIES: tuple[Entry, ...] = (
    *WORLDS,
    *VARIANTS,
    *PLANAR,
    *VELOCITY,
    *TEAMS,
    *MULTI_GOALS,
    *MANIPULATION,
    CUSTOM,
    COORDINATES,
)
