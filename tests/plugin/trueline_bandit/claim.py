"""A claim: exponentiated gradients find the best arm of a random bandit."""

import numpy as np

from trueline.evidence.claim_statistics import MeanOf
from trueline.evidence.claims import Claim, Scale
from trueline.evidence.records import Requirement


def measure(scale, seed, folder):
    reward = np.random.default_rng(seed).random(4)
    p = np.full(4, 0.25)
    for _ in range(scale.params["steps"]):
        p = p * np.exp(reward)
        p /= p.sum()
    return {"regret": float(reward.max() - p @ reward)}


BEST_ARM = Claim(
    system="bandit",
    name="best-arm",
    sentence="exponentiated gradients find the best arm",
    source="Auer et al. 2002, section 4",
    measure=measure,
    statistic=MeanOf("regret"),
    acceptance=Requirement(bound="at_most", threshold=0.05),
    scales={"ci": Scale(tuple(range(8)), cpu_hours=0.001, smallest_effect=0.01, params={"steps": 500})},
)
