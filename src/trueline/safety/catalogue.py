"""Names of the safety wing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trueline.core.registry import Entry
from trueline.safety.claims.catalogue import ENTRIES as CLAIMS

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

_MANIPULATION = "tests/safety/test_manipulation.py::"
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
        "test_drawer_reward_is_the_formula_on_an_independent_reading_of_the_hand",
    ),
    "TruelineMobileArmPickPlace": (
        "a mobile arm carries a block around a strip",
        "FreightFrankaPickAndPlace",
        "test_block_reward_without_its_reach_is_what_the_table_says",
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
        test=_MANIPULATION + test,
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
            "test_hand_over_reward_is_the_closed_form_of_distance_and_angle"
            if "HandOver" in name
            else "test_only_the_givers_first_finger_costs_and_only_outside_half_its_range",
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
            "test_each_hand_sees_itself_and_what_is_passed_and_all_share_reward_and_cost",
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

# name, value in trueline.safety.recipes, summary, reference, test under tests/rl/
_ROWS = (
    (
        "pg",
        "first_order:PG",
        "plain policy gradient for the reward alone",
        "Sutton et al. 2000",
        "test_ppo.py::test_it_finds_the_best_arm",
    ),
    (
        "npg",
        "trust_region:NPG",
        "natural policy gradient for the reward alone",
        "Kakade 2001",
        "test_natural.py::test_on_one_state_the_step_is_along_the_centred_advantage",
    ),
    (
        "trpo",
        "trust_region:TRPO",
        "natural step, searched within a trust region",
        "Schulman et al. 2015",
        "test_natural.py::test_the_search_takes_the_longest_acceptable_fraction",
    ),
    (
        "ppo",
        "ppo:PPO",
        "proximal policy optimisation for the reward alone",
        "Schulman et al. 2017, eq. 7",
        "test_ppo.py::test_it_finds_the_best_arm",
    ),
    (
        "ppo-lag",
        "ppo:PPO_LAG",
        "PPO on A_r − Σλ·A_c, with Lagrange or PID multipliers on the episode costs",
        "Ray, Achiam & Amodei 2019; Stooke, Achiam & Abbeel 2020",
        "test_ppo.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
    (
        "ppo-pid",
        "first_order:PPO_PID",
        "PPO under PID-controlled multipliers",
        "Stooke, Achiam & Abbeel 2020",
        "test_ppo.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
    (
        "trpo-lag",
        "trust_region:TRPO_LAG",
        "TRPO under Lagrange multipliers",
        "Ray, Achiam & Amodei 2019",
        "test_natural.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
    (
        "trpo-pid",
        "trust_region:TRPO_PID",
        "TRPO under PID-controlled multipliers",
        "Stooke, Achiam & Abbeel 2020",
        "test_natural.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
    (
        "pdo",
        "first_order:PDO",
        "plain policy gradient under Lagrange multipliers",
        "Chow et al. 2018",
        "test_ppo.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
    (
        "rcpo",
        "trust_region:RCPO",
        "natural gradient under Lagrange multipliers",
        "Tessler, Mankowitz & Mannor 2019",
        "test_natural.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
    (
        "cpo",
        "trust_region:CPO",
        "best step in the trust region that keeps K limits",
        "Achiam et al. 2017",
        "test_cpo.py::test_cpo_takes_the_exact_step",
    ),
    (
        "pcpo",
        "trust_region:PCPO",
        "natural step, projected onto K limits",
        "Yang et al. 2020",
        "test_cpo.py::test_pcpo_takes_the_published_step",
    ),
    (
        "focops",
        "first_order:FOCOPS",
        "the best policy in a trust region of each state, under multipliers",
        "Zhang, Vuong & Ross 2020",
        "test_focops.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
    (
        "cup",
        "first_order:CUP",
        "improve the reward, then project towards what costs allow",
        "Yang et al. 2022",
        "test_cup.py::test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit",
    ),
    (
        "p3o",
        "first_order:P3O",
        "PPO with an exact penalty on the violation",
        "Zhang et al. 2022",
        "test_p3o.py::test_the_penalty_is_exact_from_the_multiplier_on",
    ),
    (
        "ipo",
        "first_order:IPO",
        "PPO under the slope of a log barrier",
        "Liu, Ding & Liu 2020",
        "test_barrier.py::test_it_stays_inside_the_limit_by_kappa_over_the_multiplier",
    ),
    (
        "oncrpo",
        "first_order:ON_CRPO",
        "TRPO on the reward, or on a violated cost",
        "Xu, Liang & Lan 2021",
        "test_switching.py::test_it_keeps_to_the_limit_and_its_distance",
    ),
    (
        "ppo-saute",
        "augmented:PPO_SAUTE",
        "PPO that sees its budget and earns nothing without one",
        "Sootla et al. 2022, ICML",
        "test_augment_gap.py::test_a_row_with_a_budget_reaches_the_almost_sure_optimum",
    ),
    (
        "trpo-saute",
        "augmented:TRPO_SAUTE",
        "TRPO that sees its budget and earns nothing without one",
        "Sootla et al. 2022, ICML",
        "test_augment_gap.py::test_a_row_with_a_budget_reaches_the_almost_sure_optimum",
    ),
    (
        "ppo-early",
        "augmented:PPO_EARLY",
        "PPO whose episodes end where they pass the limit",
        "Sun et al. 2021",
        "test_augment_gap.py::test_a_row_with_a_budget_reaches_the_almost_sure_optimum",
    ),
    (
        "trpo-early",
        "augmented:TRPO_EARLY",
        "TRPO whose episodes end where they pass the limit",
        "Sun et al. 2021",
        "test_augment_gap.py::test_a_row_with_a_budget_reaches_the_almost_sure_optimum",
    ),
    (
        "ddpg",
        "off_policy:DDPG",
        "deterministic policy gradient from replay, reward alone",
        "Lillicrap et al. 2016",
        "test_off_policy.py::test_without_a_limit_the_best_action_is_found",
    ),
    (
        "td3",
        "off_policy:TD3",
        "twin critics, delayed and smoothed, reward alone",
        "Fujimoto, van Hoof & Meger 2018",
        "test_off_policy.py::test_without_a_limit_the_best_action_is_found",
    ),
    (
        "sac",
        "off_policy:SAC",
        "soft actor-critic, fixed or steered α, reward alone",
        "Haarnoja et al. 2018",
        "test_off_policy.py::test_without_a_limit_the_best_action_is_found",
    ),
    (
        "ddpg-lag",
        "off_policy:DDPG_LAG",
        "DDPG on Q_r − ΣλQ_c, Lagrange multipliers",
        "Ray, Achiam & Amodei 2019",
        "test_off_policy.py::test_the_best_action_within_the_limit_is_found",
    ),
    (
        "td3-lag",
        "off_policy:TD3_LAG",
        "TD3 on Q_r − ΣλQ_c, Lagrange multipliers",
        "Ray, Achiam & Amodei 2019",
        "test_off_policy.py::test_the_best_action_within_the_limit_is_found",
    ),
    (
        "sac-lag",
        "off_policy:SAC_LAG",
        "SAC on Q_r − ΣλQ_c, Lagrange multipliers",
        "Ray, Achiam & Amodei 2019",
        "test_off_policy.py::test_the_best_action_within_the_limit_is_found",
    ),
    (
        "ddpg-pid",
        "off_policy:DDPG_PID",
        "DDPG on Q_r − ΣλQ_c, PID-controlled multipliers",
        "Stooke, Achiam & Abbeel 2020",
        "test_off_policy.py::test_the_best_action_within_the_limit_is_found",
    ),
    (
        "td3-pid",
        "off_policy:TD3_PID",
        "TD3 on Q_r − ΣλQ_c, PID-controlled multipliers",
        "Stooke, Achiam & Abbeel 2020",
        "test_off_policy.py::test_the_best_action_within_the_limit_is_found",
    ),
    (
        "sac-pid",
        "off_policy:SAC_PID",
        "SAC on Q_r − ΣλQ_c, PID-controlled multipliers",
        "Stooke, Achiam & Abbeel 2020",
        "test_off_policy.py::test_the_best_action_within_the_limit_is_found",
    ),
    (
        "cvpo",
        "off_policy:CVPO",
        "convex E-step under the limit, then a fit bounded in KL",
        "Liu et al. 2022",
        "test_off_policy.py::test_cvpo_keeps_the_limit_by_its_own_multiplier",
    ),
    (
        "bc-safe",
        "offline:BC_SAFE",
        "clone of the episodes within the limit, from data",
        "Liu et al. 2023",
        "test_offline.py::test_bc_safe_is_the_clone_of_the_episodes_within_the_limit",
    ),
    (
        "vae-bc",
        "offline:VAE_BC",
        "clone by an auto-encoder, from data",
        "Fujimoto, Meger & Precup 2019",
        "test_offline.py::test_a_cloning_auto_encoder_draws_actions_as_the_data_have_them",
    ),
    (
        "bcq",
        "offline:BCQ",
        "best action among what data support",
        "Fujimoto, Meger & Precup 2019; Fujimoto et al. 2019",
        "test_offline.py::test_bcq_finds_the_best_policy_within_the_datas_support",
    ),
    (
        "bcq-lag",
        "offline:BCQ_LAG",
        "BCQ on Q_r − ΣλQ_c, from data",
        "Fujimoto, Meger & Precup 2019",
        "test_offline.py::test_bcq_lag_keeps_the_limit_at_the_best_return_the_data_support",
    ),
    (
        "crr",
        "offline:CRR",
        "cloning weighted by exp(A/β), from data",
        "Wang et al. 2020",
        "test_offline.py::test_crr_is_its_fixed_point",
    ),
    (
        "c-crr",
        "offline:C_CRR",
        "CRR on A_r − ΣλA_c, from data",
        "Wang et al. 2020",
        "test_offline.py::test_c_crr_is_its_fixed_point_at_the_multiplier_that_keeps_the_limit",
    ),
    (
        "coptidice",
        "offline:COPTIDICE",
        "stationary distribution near the data under cost bounds",
        "Lee et al. 2022",
        "test_offline.py::test_coptidice_is_the_solution_of_its_dual",
    ),
    (
        "ppo-simmer-pid",
        "augmented:PPO_SIMMER",
        "PPO under a budget that a controller raises along a plan",
        "Sootla et al. 2022, NeurIPS",
        "test_simmer_row.py::test_with_a_plan_the_row_reaches_the_almost_sure_optimum",
    ),
    (
        "trpo-simmer-pid",
        "augmented:TRPO_SIMMER",
        "TRPO under a budget that a controller raises along a plan",
        "Sootla et al. 2022, NeurIPS",
        "test_simmer_row.py::test_with_a_plan_the_row_reaches_the_almost_sure_optimum",
    ),
    (
        "pets",
        "planning:PETS",
        "plans with a learnt ensemble, reward alone",
        "Chua et al. 2018",
        "test_planning_gap.py::test_pets_reaches_the_optimum_without_a_limit",
    ),
    (
        "cce-pets",
        "planning:CCE_PETS",
        "plans under limits on the mean cost; privileged in its Goal preset",
        "Wen & Topcu 2018",
        "test_planning_gap.py::test_a_row_under_a_limit_reaches_its_optimum",
    ),
    (
        "rce-pets",
        "planning:RCE_PETS",
        "plans under limits on the worst particle's cost; privileged in its Goal preset",
        "Liu et al. 2020",
        "test_planning_gap.py::test_a_row_under_a_limit_reaches_its_optimum",
    ),
    (
        "cap-pets",
        "planning:CAP_PETS",
        "plans with costs raised by what the model does not know; privileged in its Goal preset",
        "Ma et al. 2022",
        "test_planning_gap.py::test_a_row_under_a_limit_reaches_its_optimum",
    ),
    (
        "loop",
        "planning:LOOP",
        "plans that end in the value of a SAC policy",
        "Sikchi, Zhou & Held 2022",
        "test_planning_gap.py::test_loop_sees_beyond_its_plan_where_pets_does_not",
    ),
    (
        "safe-loop",
        "planning:SAFE_LOOP",
        "LOOP under limits on the worst particle's cost; privileged in its Goal preset",
        "Sikchi, Zhou & Held 2022",
        "test_planning_gap.py::test_safe_loop_reaches_the_optimum_under_a_hard_limit",
    ),
    (
        "cpq",
        "offline:CPQ",
        "Q-learning whose values count for nothing beyond the limit, from data",
        "Xu, Zhan & Zhu 2022",
        "test_cpq.py::test_it_is_its_fixed_point_within_the_datas_support",
    ),
)

CRABS = Entry(
    kind="recipe",
    name="crabs",
    target="trueline.safety.recipes.crabs:CRABS",
    summary="SAC within a learnt barrier certificate; two-dimensional certifiable worlds only",
    reference="Luo & Ma 2021",
    level="measured",
    test="tests/rl/test_certified_training.py::test_what_was_certified_is_viable_and_invariant_and_grows",
)

_BY_PROPERTY = ("vae-bc",)  # held to what it does with data, not to an optimum

RECIPES: tuple[Entry, ...] = tuple(
    Entry(
        kind="recipe",
        name=name,
        target=f"trueline.safety.recipes.{value}",
        summary=summary,
        reference=reference,
        level="property" if name in _BY_PROPERTY else "exact",
        test=f"tests/rl/{test}",
    )
    for name, value, summary, reference, test in _ROWS
)

_OF_TEAMS = (
    (
        "mappo",
        "PPO agent by agent under a central critic, reward alone",
        "Yu et al. 2022",
        "without_limits_the_best_joint_policy_is_found",
    ),
    (
        "happo",
        "agents learn in turn, with the ratios of those before",
        "Kuba et al. 2022",
        "without_limits_the_best_joint_policy_is_found",
    ),
    (
        "mappo-lag",
        "HAPPO under a multiplier per agent and cost",
        "Gu et al. 2021",
        "multipliers_find_the_best_joint_policy_within_the_limit",
    ),
    (
        "macpo",
        "agents take CPO's step in turn, within what is left of limits",
        "Gu et al. 2021",
        "steps_in_turn_find_the_best_joint_policy_within_the_limits",
    ),
)

TEAM_RECIPES: tuple[Entry, ...] = tuple(
    Entry(
        kind="recipe",
        name=name,
        target=f"trueline.safety.recipes.multi_agent:{name.upper().replace('-', '_')}",
        summary=summary,
        reference=reference,
        level="exact",
        test=f"tests/safety/test_multi_agent_rows.py::test_{test}",
    )
    for name, summary, reference, test in _OF_TEAMS
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
    *RECIPES,
    CRABS,
    *TEAM_RECIPES,
    *CLAIMS,
)
