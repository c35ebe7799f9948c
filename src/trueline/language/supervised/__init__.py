"""Supervised training of language models, written once: rows, batches, loss, step.

A row of the table of recipes is a `Supervised`: a name, its configuration with what it learns (`loss`, objectives.py),
and named settings. A step takes `batch_size` items in the data's order, cuts them into batches that fit the memory, and
divides the sum of their losses by what the whole step counts: tokens, or pairs. So a step is the same step however it
is cut or packed.

The result is a `LanguageModel`, or a `ScoreModel` where a score is learnt. Everything random comes from the run's
streams: the weights a model begins with, the order of the rows, and dropout, which each step seeds anew. A run that is
killed and resumed on a CPU ends with the same bits.

    settings.py  what a user says              data.py      rows as tokens
    making.py    the model as it begins        training.py  the loop             recipes.py  what a row is
"""

from trueline.language.supervised.data import Prepared, prepare
from trueline.language.supervised.recipes import Supervised
from trueline.language.supervised.settings import (
    CostModelling,
    FineTuning,
    PreferenceTuning,
    RewardModelling,
    RewritingModelling,
    Training,
)
from trueline.language.supervised.training import Trainer

__all__ = [
    "CostModelling",
    "FineTuning",
    "PreferenceTuning",
    "Prepared",
    "RewardModelling",
    "RewritingModelling",
    "Supervised",
    "Trainer",
    "Training",
    "prepare",
]
