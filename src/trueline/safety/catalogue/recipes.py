"""Names of the rows of constrained algorithms; nothing is imported to list them."""

from __future__ import annotations

from trueline.core.registry import Entry

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
        "test_offline.py::test_a_cloning_auto_encoder_of_normal_actions_draws_the_normal_that_its_kl_leaves",
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

RECIPES: tuple[Entry, ...] = tuple(
    Entry(
        kind="recipe",
        name=name,
        target=f"trueline.safety.recipes.{value}",
        summary=summary,
        reference=reference,
        level="exact",
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

ENTRIES: tuple[Entry, ...] = (*RECIPES, CRABS, *TEAM_RECIPES)
