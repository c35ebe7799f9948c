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
        test="tests/language/test_subject.py::test_what_is_saved_is_a_plain_hugging_face_folder",
    ),
    Entry(
        kind="subject",
        name="score-model",
        target="trueline.language.subject:load_score_model",
        summary="a language model's body with heads for rewards, costs or values",
        level="exact",
        test="tests/language/test_subject.py::test_a_score_model_comes_back_from_its_folder",
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

ENTRIES: tuple[Entry, ...] = SUBJECTS + RECIPES
