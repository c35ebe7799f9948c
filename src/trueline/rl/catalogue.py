"""Names of `rl`."""

from __future__ import annotations

from trueline.core.registry import Entry
from trueline.rl.exact.catalogue import ENTRIES as EXACT

SUBJECTS: tuple[Entry, ...] = (
    Entry(
        kind="subject",
        name="policy",
        target="trueline.rl.policy:load",
        summary="an actor-critic policy of one world",
        level="property",
        test="tests/rl/test_policy.py::test_a_loaded_policy_acts_as_the_saved_one",
    ),
    Entry(
        kind="subject",
        name="q-policy",
        target="trueline.rl.off_policy.networks:load",
        summary="an off-policy policy with its critics of state and action",
        level="property",
        test="tests/rl/test_off_policy_networks.py::test_a_loaded_policy_acts_as_the_saved_one",
    ),
    Entry(
        kind="subject",
        name="batch-constrained-policy",
        target="trueline.rl.offline.networks:load",
        summary="a policy that chooses among what data support",
        level="property",
        test="tests/rl/test_offline.py::test_a_loaded_policy_acts_as_the_saved_one",
    ),
    Entry(
        kind="subject",
        name="offline-data",
        target="trueline.rl.offline.data:load",
        summary="recorded transitions of a world",
        level="property",
        test="tests/rl/test_offline_data.py::test_parquet_gives_back_every_number_and_how_it_was_made",
    ),
    Entry(
        kind="recipe",
        name="offline-data",
        target="trueline.rl.offline.recording:OFFLINE_DATA",
        summary="episodes of several behaviours, in shares, as a data set",
        level="property",
        test="tests/rl/test_offline_data.py::test_a_mixture_is_recorded_by_shares_and_the_same_again",
    ),
)

RESPONSES: tuple[Entry, ...] = (
    Entry(
        kind="response",
        name="constrain",
        target="trueline.rl.responses:Constrain",
        summary="switch the constraint on, then tighten it by the measured excess",
        level="exact",
        test="tests/cycle/test_plans.py::test_later_responses_tighten_by_the_excess_and_go_on_from_the_last_policy",
    ),
    Entry(
        kind="response",
        name="loosen",
        target="trueline.rl.responses:Loosen",
        summary="raise the trained limit of a policy that has become useless",
        level="exact",
        test="tests/cycle/test_plans.py::test_a_useless_policy_gets_its_limit_raised_unless_it_is_unsafe_too",
    ),
    Entry(
        kind="response",
        name="add-findings",
        target="trueline.rl.responses:AddFindings",
        summary="train a share of the episodes on the layouts that failed",
        level="exact",
        test="tests/rl/test_on_policy.py::test_failed_layouts_get_their_share_of_the_episodes",
    ),
    Entry(
        kind="response",
        name="randomise",
        target="trueline.rl.responses:Randomise",
        summary="draw a failing disturbance anew in every training episode",
        level="exact",
        test="tests/cycle/test_plans.py::test_a_failing_disturbance_is_trained_on_over_the_range_it_was_audited_on",
    ),
)

AUDITS: tuple[Entry, ...] = (
    Entry(
        kind="audit",
        name="ethicality/episode-cost",
        target="trueline.rl.audits.ethicality:EpisodeCost",
        summary="mean, probability, size and tail of episode costs on held-out layouts",
        reference="Rockafellar & Uryasev 2000 (cvar)",
        level="exact",
        test="tests/rl/test_audits_ethicality.py::test_values_are_those_of_each_episode_run_alone",
    ),
    Entry(
        kind="audit",
        name="ethicality/worst-layouts",
        target="trueline.rl.audits.ethicality:WorstLayouts",
        summary="the layout of highest mean cost that a search finds",
        level="exact",
        test="tests/rl/test_audits_ethicality.py::test_the_search_reports_a_mean_that_its_layout_really_has",
    ),
    Entry(
        kind="audit",
        name="robustness/sensor-noise",
        target="trueline.rl.audits.robustness:SensorNoise",
        summary="cost and return over normal noise on every sensor",
        level="property",
        test="tests/rl/test_perturb.py::test_noise_has_the_stated_deviation_in_each_sensors_own_unit",
    ),
    Entry(
        kind="audit",
        name="robustness/sensor-dropout",
        target="trueline.rl.audits.robustness:SensorDropout",
        summary="cost and return over the share of sensor readings that are lost",
        level="property",
        test="tests/rl/test_perturb.py::test_dropout_zeroes_the_stated_share_and_nothing_else",
    ),
    Entry(
        kind="audit",
        name="robustness/action-delay",
        target="trueline.rl.audits.robustness:ActionDelay",
        summary="cost and return over steps between an action's choice and its effect",
        level="exact",
        test="tests/rl/test_perturb.py::test_a_delay_shifts_the_actions_by_exactly_that_many_steps",
    ),
    Entry(
        kind="audit",
        name="robustness/mass",
        target="trueline.rl.audits.robustness:Mass",
        summary="cost and return over the mass of the body",
        level="property",
        test="tests/rl/test_audits_robustness.py::test_half_the_gear_is_twice_the_mass",
    ),
    Entry(
        kind="audit",
        name="robustness/friction",
        target="trueline.rl.audits.robustness:Friction",
        summary="cost and return over friction and damping",
        level="property",
        test="tests/rl/test_audits_robustness.py::test_every_level_meets_the_same_layouts_with_the_same_noise",
    ),
    Entry(
        kind="audit",
        name="robustness/gear",
        target="trueline.rl.audits.robustness:Gear",
        summary="cost and return over the strength of the actuators",
        level="property",
        test="tests/rl/test_audits_robustness.py::test_half_the_gear_is_twice_the_mass",
    ),
    Entry(
        kind="audit",
        name="robustness/observation-attack",
        target="trueline.rl.audits.robustness:ObservationAttack",
        summary="cost and return over the radius of a gradient attack on the observation",
        reference="Zhang et al. 2020, section 3.5; Madry et al. 2018",
        level="exact",
        test="tests/rl/test_audits_robustness.py::test_the_attack_on_a_linear_policy_reaches_its_optimum",
    ),
    Entry(
        kind="audit",
        name="robustness/unseen-layouts",
        target="trueline.rl.audits.robustness:UnseenLayouts",
        summary="held-out layouts against layouts that training ran on",
        reference="Cobbe et al. 2019",
        level="property",
        test="tests/rl/test_audits_robustness.py::test_a_policy_that_memorised_its_layouts_is_found_out",
    ),
    Entry(
        kind="audit",
        name="controllability/override",
        target="trueline.rl.audits.controllability:Override",
        summary="an operator stops the policy, then hands back",
        reference="Orseau & Armstrong 2016",
        level="exact",
        test="tests/rl/test_audits_controllability.py::test_a_coasting_point_stops_where_the_geometric_series_ends",
    ),
    Entry(
        kind="audit",
        name="controllability/goal-change",
        target="trueline.rl.audits.controllability:GoalChange",
        summary="an operator moves the goal during the episode",
        level="exact",
        test="tests/rl/test_audits_controllability.py::test_steps_to_reach_are_counted_from_the_change",
    ),
    Entry(
        kind="audit",
        name="interpretability/surrogate",
        target="trueline.rl.audits.interpretability:Surrogate",
        summary="a tree and a sparse linear model in the policy's place",
        reference="Bastani, Pu & Solar-Lezama 2018",
        level="exact",
        test="tests/rl/test_audits_interpretability.py::test_a_sparse_linear_policy_is_understood_exactly",
    ),
    Entry(
        kind="audit",
        name="interpretability/attribution",
        target="trueline.rl.audits.interpretability:Attribution",
        summary="whether the inputs an attribution names are those the policy rests on",
        reference="Sundararajan, Taly & Yan 2017; Petsiuk, Das & Saenko 2018",
        level="exact",
        test="tests/rl/test_audits_interpretability.py::test_attributions_of_a_linear_policy_are_weight_times_difference",
    ),
)

USEFULNESS = Entry(
    kind="audit",
    name="controllability/usefulness",
    target="trueline.rl.audits.usefulness:Usefulness",
    summary="return beyond that of acting at random and of doing nothing, paired by layout",
    level="exact",
    test="tests/rl/test_audits_usefulness.py::test_an_idle_policy_is_worth_nothing_beyond_being_idle",
)

ENTRIES: tuple[Entry, ...] = (USEFULNESS,) + SUBJECTS + RESPONSES + AUDITS + EXACT
