"""Sequence-to-sequence reward models (arXiv 2409.00162): what is claimed of them, tested on `cipher-reply`.

    claim      primary statistic, one number a seed                                             acceptance
    accuracy   accuracy on unseen pairs less that of the scalar model, from 300 pairs           at least 0
    policy     win rate of PPO with its rewards over PPO with the scalar reward                 at least ½
    length     filler words after PPO with the scalar reward less those after PPO with its own  at least 0

In all three both models are trained from the same fine-tuned start until the loss on held-out pairs of their own has
been lowest for as long as it took to get there, and are taken from where it was; its rewards are the paper's: the hard
rule, each token credited with what follows. Everything else that a seed measures is in its row, and `secondaries`
compares it with Holm's correction: scalar models compared token by token, models from scratch, the soft rule, total
credit, more pairs, prompts outside of the training distribution, empty and truncated replies, which words are blamed,
reward against length on replies that the oracle finds equal, refusals.

Beside the policies that PPO makes stand three without on-line training, from the same start and pairs: direct
preference optimisation, trained as the reward models are, and the best of eight replies of the start by either reward.
The best of eight asks its reward whenever it replies; what the others have learnt is in their weights.

What differs from the paper: models of sixty thousand parameters; a text world whose oracle is a program, where the
paper has judged dialogue and summaries; and rewards that are divided by their spread over the start's replies, so that
one weight of the divergence is the same for all. A model that has learnt nothing is then noise at full strength, and a
win over it says little: read a win rate beside the accuracy of both models and the rewards beside those of the start.
The first two claims use replies without filler and refusals; the third plants both in what is chosen.

Numbers of a row are named part/…: `accuracy/300/sft/scalar` is the share of pairs in order by the scalar model of 300
pairs from the fine-tuned start.
"""

from trueline.language.claims.seq2seq.claims import SEQ2SEQ_ACCURACY, SEQ2SEQ_LENGTH, SEQ2SEQ_POLICY
from trueline.language.claims.seq2seq.laboratory import PLAIN, Sizes
from trueline.language.claims.seq2seq.policies import ARMS, OTHERS
from trueline.language.claims.seq2seq.secondaries import Compared, Secondary, compared, secondaries

__all__ = [
    "ARMS",
    "OTHERS",
    "PLAIN",
    "SEQ2SEQ_ACCURACY",
    "SEQ2SEQ_LENGTH",
    "SEQ2SEQ_POLICY",
    "Compared",
    "Secondary",
    "Sizes",
    "compared",
    "secondaries",
]
