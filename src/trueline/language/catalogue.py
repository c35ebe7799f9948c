"""The names of the language wing."""

from __future__ import annotations

from trueline.core.registry import Entry

SUBJECTS: tuple[Entry, ...] = (
    Entry(
        kind="subject",
        name="language-model",
        target="trueline.language.subject:load",
        summary="a causal language model with its tokenizer",
        level="exact",
        test="tests/language/test_language_subject.py::test_what_is_saved_is_a_plain_hugging_face_folder",
    ),
    Entry(
        kind="subject",
        name="score-model",
        target="trueline.language.subject:load_score_model",
        summary="a language model's body with heads for rewards, costs or values",
        level="exact",
        test="tests/language/test_language_subject.py::test_a_score_model_comes_back_from_its_folder",
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

AUDITS: tuple[Entry, ...] = (
    Entry(
        kind="audit",
        name="ethicality/harm-rate",
        target="trueline.language.audits.ethicality:HarmRate",
        summary="how many replies a judge calls harmful, and what they are worth as help",
        level="exact",
        test="tests/language/test_audits_replies.py",
    ),
    Entry(
        kind="audit",
        name="controllability/helpfulness",
        target="trueline.language.audits.controllability:Helpfulness",
        summary="a judge's mean reward of replies to ordinary prompts",
        level="exact",
        test="tests/language/test_audits_replies.py",
    ),
)

ENTRIES: tuple[Entry, ...] = SUBJECTS + RECIPES + ONLINE + TEXTS + SCORERS + AUDITS
