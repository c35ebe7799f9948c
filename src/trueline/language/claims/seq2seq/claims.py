"""The three claims: what each says, how much is trained for it, and when it is taken to hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trueline.evidence.claim_statistics import MeanOf, smallest_effect
from trueline.evidence.claims import Claim, Scale
from trueline.evidence.records import Requirement
from trueline.language.claims.seq2seq.models import measure_models
from trueline.language.claims.seq2seq.policies import measure_policies

__all__ = ["SEQ2SEQ_ACCURACY", "SEQ2SEQ_LENGTH", "SEQ2SEQ_POLICY"]

SOURCE = "arXiv 2409.00162 (AAAI 2025)"
# Smallest effects are for standard deviations over seeds of 0.05 of pairs, 0.08 of win rate and one word, taken from
# pilots of one seed each.
_SYSTEM = "seq2seq-rm"
_LAPTOP = tuple(range(10))
_SMALL: Mapping[str, Any] = {"world": {"symbols": 8}, "max_tokens": 12, "sft_replies": 2000, "sft_steps": 1600}
_PLANTED: Mapping[str, Any] = {
    # Half of the sampled replies have filler, the better ones of training pairs three times as often as the others; a
    # fifth of the pairs has a refusal, which is the better one in three of four.
    "world": {"symbols": 8, "filler": 0.5, "filler_bias": 0.5, "refusal": 0.2, "refusal_bias": 0.5},
    "max_tokens": 20,
}
_POLICIES: Mapping[str, Any] = {
    **_SMALL,
    "pairs": (1500,),
    "model_steps": 1200,
    "test_pairs": 300,
    "policy_steps": 200,
    "policy_prompts": 2000,
    "test_prompts": 300,
}
_SMOKE: Mapping[str, Any] = {"sft_replies": 200, "sft_steps": 20, "model_steps": 6, "looks": 3, "test_pairs": 40}
_SMOKE_POLICIES: Mapping[str, Any] = {
    **_SMOKE,
    "pairs": (80,),
    "policy_steps": 4,
    "policy_prompts": 100,
    "test_prompts": 40,
}


def _smoke(sizes: Mapping[str, Any], smaller: Mapping[str, Any]) -> Scale:
    """The same experiment, too short to learn anything: it shows that all of it runs."""
    return Scale((0,), cpu_hours=0.01, smallest_effect=math.nan, params={**sizes, **smaller})  # one seed detects none


SEQ2SEQ_ACCURACY = Claim(
    system=_SYSTEM,
    name="accuracy",
    sentence="From the same pairs, a reward model that rewrites replies judges unseen ones better than a scalar one.",
    source=f"{SOURCE}, abstract and section 1: language feedback instead of a number",
    measure=measure_models,
    statistic=MeanOf("gain"),
    acceptance=Requirement(bound="at_least", threshold=0.0),
    scales={
        "ci": _smoke(_SMALL, {**_SMOKE, "pairs": (40, 80)}),
        "laptop": Scale(
            _LAPTOP,
            cpu_hours=0.9,
            smallest_effect=round(smallest_effect(0.05, len(_LAPTOP)), 3),
            params={**_SMALL, "pairs": (300, 1500), "model_steps": 1200, "test_pairs": 300},
        ),
    },
    unit="of pairs",
)

SEQ2SEQ_POLICY = Claim(
    system=_SYSTEM,
    name="policy",
    sentence="PPO with sequence-to-sequence rewards wins over PPO with a scalar reward: 76.9 % on average.",
    source=f"{SOURCE}, abstract: win rate over three tasks",
    measure=measure_policies,
    statistic=MeanOf("win_rate"),
    acceptance=Requirement(bound="at_least", threshold=0.5),
    scales={
        "ci": _smoke(_POLICIES, _SMOKE_POLICIES),
        "laptop": Scale(
            _LAPTOP,
            cpu_hours=0.9,
            smallest_effect=round(smallest_effect(0.08, len(_LAPTOP)), 3),
            params=_POLICIES,
        ),
    },
    effect=0.269,
    unit="win rate",
)

SEQ2SEQ_LENGTH = Claim(
    system=_SYSTEM,
    name="length",
    sentence="With sequence-to-sequence rewards a policy does not learn the length that a scalar reward is biased to.",
    source=f"{SOURCE}, abstract: longer summaries as a shortcut of scalar rewards",
    measure=measure_policies,
    statistic=MeanOf("filler_gap"),
    acceptance=Requirement(bound="at_least", threshold=0.0),
    scales={
        "ci": _smoke({**_POLICIES, **_PLANTED}, _SMOKE_POLICIES),
        "laptop": Scale(
            _LAPTOP,
            cpu_hours=1.3,
            smallest_effect=round(smallest_effect(1.0, len(_LAPTOP)), 3),
            params={**_POLICIES, **_PLANTED},
        ),
    },
    unit="filler words a reply",
)
