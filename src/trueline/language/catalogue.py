"""The names of the language wing."""

from __future__ import annotations

from trueline.core.registry import Entry, Level

SUBJECTS: tuple[Entry, ...] = (
    Entry(
        kind="subject",
        name="language-model",
        target="trueline.language.subject:load",
        summary="a causal language model with its tokenizer",
        level="exact",
        test="tests/language/test_language_subject.py::test_what_is_saved_is_a_plain_hugging_face_folder",
        known_by=("config.json", "tokenizer_config.json"),
    ),
    Entry(
        kind="subject",
        name="score-model",
        target="trueline.language.subject:load_score_model",
        summary="a language model's body with heads for rewards, costs or values",
        level="exact",
        test="tests/language/test_language_subject.py::test_a_score_model_comes_back_from_its_folder",
    ),
    Entry(
        kind="subject",
        name="preference-data",
        target="trueline.language.topology.preferences:load_preferences",
        summary="rows of preferences and how they were made",
        level="exact",
        test="tests/language/test_topology_preferences.py::test_data_come_back_from_their_folder_and_damage_is_told",
    ),
)

_TRL = "tests/language/test_parity_trl.py::"

RECIPES: tuple[Entry, ...] = (
    Entry(
        kind="recipe",
        name="sft",
        target="trueline.language.recipes:SFT",
        summary="supervised fine-tuning: completions, assistant turns or all tokens; packing",
        reference="Ouyang et al. 2022, §3.5",
        level="peer",
        test=f"{_TRL}test_fine_tuning",
    ),
    Entry(
        kind="recipe",
        name="reward-model",
        target="trueline.language.recipes:REWARD_MODEL",
        summary="scalar reward model, by whole answers or by token",
        reference="Ouyang et al. 2022; Dai et al. 2024",
        level="peer",
        test=f"{_TRL}test_reward_model",
    ),
    Entry(
        kind="recipe",
        name="cost-model",
        target="trueline.language.recipes:COST_MODEL",
        summary="cost model: order of harm, and its sign",
        reference="Dai et al. 2024",
        level="property",
        test="tests/language/test_supervised.py::test_scores_are_learnt_and_hold_on_other_rows",
    ),
    Entry(
        kind="recipe",
        name="dpo",
        target="trueline.language.recipes:DPO",
        summary="preferences without a reward model: dpo, ipo, simpo, kto",
        reference="Rafailov et al. 2023",
        level="peer",
        test=f"{_TRL}test_preferences",
    ),
    Entry(
        kind="recipe",
        name="seq2seq-rm",
        target="trueline.language.recipes:SEQ2SEQ_RM",
        summary="reward model that rewrites: correction and identity",
        reference="arXiv 2409.00162, the two mappings",
        level="property",
        test="tests/language/test_batches.py::test_corrections_and_identities",
    ),
)

_LIMIT = "tests/language/test_online.py::test_under_a_limit_and_beside_a_reference_the_known_optimum_is_reached"

ONLINE: tuple[Entry, ...] = (
    Entry(
        kind="recipe",
        name="lm-ppo",
        target="trueline.language.online:LM_PPO",
        summary="PPO of a language model with a critic",
        reference="Ouyang et al. 2022",
        level="measured",
        test="tests/language/test_online.py::test_without_a_limit_the_best_token_wins",
    ),
    Entry(
        kind="recipe",
        name="lm-ppo-lag",
        target="trueline.language.online:LM_PPO_LAG",
        summary="PPO of a language model with a multiplier for each cost",
        reference="Dai et al. 2024",
        level="measured",
        test=_LIMIT,
    ),
    Entry(
        kind="recipe",
        name="rloo",
        target="trueline.language.online:RLOO",
        summary="each reply against the mean of the others to its prompt, rewards and costs by token",
        reference="Ahmadian et al. 2024",
        level="measured",
        test=_LIMIT,
    ),
    Entry(
        kind="recipe",
        name="grpo",
        target="trueline.language.online:GRPO",
        summary="each reply on the scale of its group, rewards and costs by token",
        reference="Shao et al. 2024",
        level="measured",
        test=_LIMIT,
    ),
)

SAMPLED: tuple[Entry, ...] = (
    Entry(
        kind="recipe",
        name="preference-data",
        target="trueline.language.topology.preferences:PREFERENCE_DATA",
        summary="replies in trees, independent trees or chains, judged, as rows of preferences",
        reference="arXiv 2402.10184, Algorithm 1",
        level="exact",
        test="tests/language/test_topology_trees.py::test_siblings_are_drawn_without_repeating_one_another",
    ),
    Entry(
        kind="recipe",
        name="rft",
        target="trueline.language.best_of_n:RFT",
        summary="rejection-sampling fine-tuning: sample N, keep the best within limits, learn them; in rounds",
        reference="Dong et al. 2023 (RAFT); Touvron et al. 2023",
        level="measured",
        test="tests/language/test_best_of_n.py::test_a_round_learns_the_distribution_of_the_best_that_ended",
    ),
    Entry(
        kind="recipe",
        name="online-dpo",
        target="trueline.language.online_dpo:ONLINE_DPO",
        summary="pairs that the policy samples, labelled by scorers, learnt by the loss of DPO",
        reference="Guo et al. 2024",
        level="exact",
        test="tests/language/test_online_dpo.py::"
        "test_bradley_terry_labels_come_to_rest_at_the_regularised_optimum_whatever_is_drawn",
    ),
)

_SEQ2SEQ = "tests/language/test_seq2seq_claim.py::"

CLAIMS: tuple[Entry, ...] = (
    *(
        Entry(
            kind="claim",
            name=f"tree-rm-{control}",
            target=f"trueline.language.claims.topology:{control.upper()}",
            summary=f"reward models from trees of replies against {summary}",
            reference="arXiv 2402.10184",
            level="property",
            test="tests/language/test_topology_claim.py::test_the_whole_interval_decides",
        )
        for control, summary in (
            ("structure", "leaves of independent trees"),
            ("labels", "a chain of as many labels"),
            ("tokens", "a chain of as many sampled tokens"),
        )
    ),
    Entry(
        kind="claim",
        name="elasticity",
        target="trueline.language.claims.elasticity:ELASTICITY",
        summary="the more a model was pre-trained on, the fewer inverse items undo its alignment",
        reference="arXiv 2406.06144",
        level="property",
        test="tests/language/test_elasticity_claim.py::test_a_rebound_goes_away_and_comes_back",
    ),
    Entry(
        kind="claim",
        name="resistance",
        target="trueline.language.claims.elasticity:RESISTANCE",
        summary="an aligned model is trained back to an earlier checkpoint more easily than on to a later one",
        reference="arXiv 2406.06144, Table 1",
        level="exact",
        test="tests/language/test_elasticity_reversion.py::"
        "test_excess_is_the_log_ratio_and_raw_differs_by_the_writers_entropies",
    ),
    Entry(
        kind="claim",
        name="seq2seq-rm-accuracy",
        target="trueline.language.claims.seq2seq:SEQ2SEQ_ACCURACY",
        summary="rewriting reward models order more unseen pairs than scalar ones",
        reference="arXiv 2409.00162",
        level="property",
        test=f"{_SEQ2SEQ}test_a_seed_of_models_has_every_number_that_is_compared",
    ),
    Entry(
        kind="claim",
        name="seq2seq-rm-policy",
        target="trueline.language.claims.seq2seq:SEQ2SEQ_POLICY",
        summary="PPO with their rewards wins over PPO with a scalar reward",
        reference="arXiv 2409.00162",
        level="property",
        test=f"{_SEQ2SEQ}test_a_seed_of_policies_has_every_number_that_is_compared",
    ),
    Entry(
        kind="claim",
        name="seq2seq-rm-length",
        target="trueline.language.claims.seq2seq:SEQ2SEQ_LENGTH",
        summary="with their rewards a policy does not learn a planted length bias",
        reference="arXiv 2409.00162",
        level="property",
        test=f"{_SEQ2SEQ}test_a_seed_of_policies_has_every_number_that_is_compared",
    ),
    Entry(
        kind="claim",
        name="safe-rlhf",
        target="trueline.language.claims.safe_rlhf:SAFE_RLHF",
        summary="PPO-Lag keeps the limit on harm that PPO breaks, at a bounded loss of help",
        reference="Dai et al. 2024, arXiv 2310.12773",
        level="property",
        test=(
            "tests/language/test_safe_rlhf_claim.py::"
            "test_a_model_that_helps_with_everything_harms_whenever_it_is_asked_to"
        ),
    ),
)

_TEXTS = "tests/language/test_texts_"

TEXTS: tuple[Entry, ...] = (
    Entry(
        kind="text-data",
        name="cipher-reply",
        target="trueline.language.texts.data:cipher_reply",
        summary="symbols to be answered by their cipher; planted length and refusal biases, several references",
        level="exact",
        test=f"{_TEXTS}cipher.py::test_reward_counts_wrong_missing_and_excess_positions",
    ),
    Entry(
        kind="text-data",
        name="safety-dialogue",
        target="trueline.language.texts.data:safety_dialogue",
        summary="requests, some harmful by a rule; help and harm judged apart; look-alikes, paraphrases, injections",
        reference="columns of Dai et al. 2024",
        level="exact",
        test=f"{_TEXTS}dialogue.py::test_harm_is_what_the_rules_say",
    ),
    Entry(
        kind="text-data",
        name="grammar-essay",
        target="trueline.language.texts.data:grammar_essay",
        summary="segments worth ±1 by random tables of a chosen order; Bradley-Terry labels",
        level="exact",
        test=f"{_TEXTS}essay.py::test_rewards_and_their_extremes_by_enumeration",
    ),
    Entry(
        kind="text-data",
        name="synthetic-reviews",
        target="trueline.language.texts.data:synthetic_reviews",
        summary="reviews of hidden sentiment, with alignment, inverse and neutral data",
        level="exact",
        test=f"{_TEXTS}reviews.py::test_the_score_of_a_whole_review_is_its_share_of_positive_words",
    ),
)

_ORACLES = f"{_TEXTS}judges.py::test_the_oracle_of_each_world_scores_as_the_world_judges"

SCORERS: tuple[Entry, ...] = tuple(
    Entry(
        kind="scorer",
        name=name,
        target=f"trueline.language.texts.judges:{name.replace('-', '_')}",
        summary=summary,
        level="exact",
        test=_ORACLES,
    )
    for name, summary in (
        ("cipher-reply", "oracle of that world: 1 less the share of wrong positions"),
        ("safety-dialogue", "oracle of that world: help, and harm as a cost"),
        ("grammar-essay", "oracle of that world: the mean of its tables"),
        ("synthetic-reviews", "oracle of that world: the share of positive words"),
    )
)

_AUDITS: tuple[tuple[str, str, str, str, Level, str], ...] = (
    (
        "ethicality/harm-rate",
        "ethicality:HarmRate",
        "how many replies a judge calls harmful, and what they are worth as help",
        "",
        "exact",
        "audits_harm.py::test_a_model_that_complies_harms_whenever_it_is_asked_to",
    ),
    (
        "ethicality/group-bias",
        "ethicality:GroupBias",
        "the same request for two groups: refusals, harm and reward",
        "",
        "exact",
        "audits_goals.py::test_a_bias_has_its_size_and_sign",
    ),
    (
        "controllability/helpfulness",
        "controllability:Helpfulness",
        "a judge's mean reward of replies to ordinary prompts",
        "",
        "exact",
        "audits_harm.py::test_help_is_the_mean_reward_on_ordinary_prompts",
    ),
    (
        "controllability/refusal",
        "controllability:Refusal",
        "refusals of what looks harmful, and of what is",
        "",
        "exact",
        "audits_refusal.py::test_rates_of_models_whose_refusals_are_known",
    ),
    (
        "controllability/hierarchy",
        "controllability:Hierarchy",
        "a system turn against a user's that says the opposite",
        "Wallace et al. 2024",
        "exact",
        "audits_goals.py::test_only_a_model_that_follows_the_system_obeys_in_both",
    ),
    (
        "controllability/changed-goal",
        "controllability:ChangedGoal",
        "another request in mid-chat: who turns, who keeps to the old one",
        "",
        "exact",
        "audits_goals.py::test_who_turns_and_who_keeps_to_the_old_goal",
    ),
    (
        "robustness/paraphrase",
        "robustness:Paraphrase",
        "the same request in other wordings",
        "",
        "property",
        "audits_attacks.py::test_harm_in_some_wording_is_the_chance_over_random_wordings",
    ),
    (
        "robustness/injection",
        "robustness:Injection",
        "a foreign instruction inside the prompt",
        "",
        "exact",
        "audits_attacks.py::test_hijacks_and_harm_by_injection_are_told_apart",
    ),
    (
        "robustness/suffix",
        "robustness:Suffix",
        "words behind a prompt, searched within a budget",
        "after Andriushchenko, Croce & Flammarion 2025",
        "exact",
        "audits_attacks.py::test_what_a_search_finds_fails_and_is_held_against_its_lower_bound",
    ),
    (
        "robustness/unseen-prompts",
        "robustness:UnseenPrompts",
        "prompts outside of the training distribution",
        "",
        "exact",
        "audits_attacks.py::test_pairs_are_alike_and_what_is_lost_outside_has_its_sign",
    ),
    (
        "robustness/elasticity",
        "elasticity:Elasticity",
        "items of opposite data until the score is back at the base's, at the worst of several rates",
        "arXiv 2406.06144",
        "property",
        "elasticity_audit.py::test_items_to_revert_are_the_least_over_the_rates_of_each_draw",
    ),
    (
        "interpretability/probe",
        "probes:Probe",
        "linear probes of hidden states, against control tasks",
        "Hewitt & Liang 2019",
        "property",
        "audits_probes.py::test_a_state_that_holds_the_request_alone_is_memorised_and_has_no_selectivity",
    ),
    (
        "interpretability/patching",
        "patching:Patching",
        "which parts carry an answer over when their activations are",
        "Vig et al. 2020; Meng et al. 2022",
        "exact",
        "audits_patching.py::test_the_planted_attention_at_the_last_position_carries_everything",
    ),
    (
        "interpretability/token-attribution",
        "attribution:TokenAttribution",
        "gradient times input against leaving tokens out",
        "Shrikumar et al. 2017; Samek et al. 2017",
        "exact",
        "audits_attribution.py::test_of_a_linear_score_gradient_times_input_and_leaving_out_are_the_contributions",
    ),
)

AUDITS: tuple[Entry, ...] = tuple(
    Entry(
        kind="audit",
        name=name,
        target=f"trueline.language.audits.{target}",
        summary=summary,
        reference=reference,
        level=level,
        test=f"tests/language/test_{test}",
    )
    for name, target, summary, reference, level, test in _AUDITS
)

ENTRIES: tuple[Entry, ...] = SUBJECTS + RECIPES + ONLINE + SAMPLED + TEXTS + SCORERS + AUDITS + CLAIMS
