"""On-line reinforcement learning of language models: sample, score, estimate, weigh, update.

    row          estimator   costs                                      settings
    lm-ppo       gae         measured                                   OnlinePpo
    lm-ppo-lag   gae         held under limits by a multiplier each     OnlinePpoLag
    rloo, grpo   by group    measured, or held where there is a handler OnlineRloo, OnlineGrpo

Handlers, the mix of advantages and the clipped surrogate are those of `rl/`. One step samples `samples` replies to each
of `batch_size` prompts, scores them, moves the multipliers by the raw costs of the last `window` replies, and makes
`passes` over the replies. recipes.py lists where these differ from the originals.

Everything random comes from the run's streams; a run that is killed and resumed on a CPU ends with the same bits.

    settings.py   what a user says          recipes.py    the rows                 rehearsal.py  dry runs
    prompts.py    what is asked             checks.py     refused in advance       making.py     models as they begin
    training.py   the loop                  gathering.py  of several processes     reading.py    passes over replies
    learning.py   steps of the optimisers   losses.py     what they descend        critic.py     who values replies
    kept_text.py  learnt beside the reward  telling.py    what a run keeps of it
"""

from trueline.language.online.critic import Critic, SharedCritic
from trueline.language.online.losses import policy_loss, reply_log_prob, value_loss
from trueline.language.online.prompts import PROMPTS, failing_prompts, prompts_for
from trueline.language.online.recipes import GRPO, LM_PPO, LM_PPO_LAG, RLOO, OnlineRecipe
from trueline.language.online.settings import (
    SAFE_RLHF_HANDLER,
    Online,
    OnlineGrpo,
    OnlinePpo,
    OnlinePpoLag,
    OnlineRloo,
    Ptx,
)
from trueline.language.online.training import Trainer

__all__ = [
    "GRPO",
    "LM_PPO",
    "LM_PPO_LAG",
    "PROMPTS",
    "RLOO",
    "SAFE_RLHF_HANDLER",
    "Critic",
    "Online",
    "OnlineGrpo",
    "OnlinePpo",
    "OnlinePpoLag",
    "OnlineRecipe",
    "OnlineRloo",
    "Ptx",
    "SharedCritic",
    "Trainer",
    "failing_prompts",
    "policy_loss",
    "prompts_for",
    "reply_log_prob",
    "value_loss",
]
