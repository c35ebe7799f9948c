"""What judges replies: functions, scalar reward and cost models, the sequence-to-sequence model, endpoints, mixes.

A scorer gives raw rewards and costs and never a divergence. A reply it could not judge is *missing*: neither good nor
bad. A scorer's settings are a `Config` that is opened for the policy it is to judge.

    kind           reward of a reply                                                   needs              file
    function       whatever a registered function says of the texts                    its name           functions.py
    score-model    heads of a scalar model: on the last token, or on every token       an input, a run    scalar.py
    seq2seq-rm     agreement with the answer the model would rather write, by token    an input, a run    rewriting.py
    endpoint       a number that a chat model at an OpenAI-compatible address says     its address        endpoint.py

    judged.py      what each of them is opened for      mixes.py      several as one      settings.py      any of them
"""

from trueline.language.scorers.endpoint import Endpoint, EndpointJudge
from trueline.language.scorers.functions import (
    Function,
    FunctionScorer,
    Judgement,
    Judges,
    judgements,
    refuse_columns,
)
from trueline.language.scorers.judged import Judged, trouble_of
from trueline.language.scorers.mixes import WeightedScorers
from trueline.language.scorers.rewriting import Rewriter, Seq2SeqScorer, agreement
from trueline.language.scorers.scalar import ModelScorer, ScalarModel
from trueline.language.scorers.settings import (
    REFERENCE,
    Scoring,
    identity,
    opened,
    reference_records,
    references,
    referred,
    taken_by,
    wanted_columns,
)

__all__ = [
    "REFERENCE",
    "Endpoint",
    "EndpointJudge",
    "Function",
    "FunctionScorer",
    "Judged",
    "Judgement",
    "Judges",
    "ModelScorer",
    "Rewriter",
    "ScalarModel",
    "Scoring",
    "Seq2SeqScorer",
    "WeightedScorers",
    "agreement",
    "identity",
    "judgements",
    "opened",
    "reference_records",
    "references",
    "referred",
    "refuse_columns",
    "taken_by",
    "trouble_of",
    "wanted_columns",
]
