"""A score is learnt, asked for in training and asked for by audits at one and the same token of a reply.

Of the templates of models made from scratch that is never in doubt; many published ones write a line break after a
turn, and some end it with a token that is not the tokenizer's eos.
"""

import numpy as np
import pytest
import torch
from small_models import nano

from trueline.core.config import build
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.language.audits.judge import JudgeSettings, ModelJudge
from trueline.language.batches import Codec
from trueline.language.evaluation import rollout_of
from trueline.language.objectives import Rewriting
from trueline.language.recipes import REWARD_MODEL
from trueline.language.records import Preference
from trueline.language.rollout import Message, Reply, Sampling, chat
from trueline.language.scorers import Judged
from trueline.language.scorers.rewriting import Seq2SeqScorer
from trueline.language.scorers.scalar import ModelScorer, ScalarModel
from trueline.language.sources import Data
from trueline.language.subject import ScoreModel
from trueline.language.supervised.making import Made
from trueline.language.topology.preferences import written
from trueline.language.topology.trees import Leaf

BREAK_AFTER = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + eos_token + ' .' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
OWN_END = BREAK_AFTER.replace("eos_token", "'<system>'")
ASKED, ANSWERS = chat("ab"), ("cdc", "d")


@pytest.fixture(params=[BREAK_AFTER, OWN_END], ids=["a break after eos", "an end of its own"])
def policy(request):
    made = nano()
    made.tokenizer.chat_template = request.param
    if request.param is OWN_END:
        made.model.generation_config.eos_token_id = [2, made.tokenizer.convert_tokens_to_ids("<system>")]
    return made


def rows_of(tokenizer, ends):
    """What a score model would learn from."""
    codec = Codec(tokenizer, build(Data, {"path": "x.jsonl"}), 128, ends)
    return [codec.encoded(ASKED, (Message("assistant", answer),)) for answer in ANSWERS]


@pytest.fixture
def model(policy):
    made = ScoreModel.of(policy, ("reward",))
    torch.nn.init.normal_(made.linear.weight, generator=torch.Generator().manual_seed(0))
    return made.eval()


@pytest.fixture
def at_the_end(model):
    """Scores of the answers, where a training compares them."""
    rows = rows_of(model.tokenizer, model.ends)
    with torch.no_grad():
        found = [model(torch.tensor(row.tokens)[None])[0, -1, 0].item() for row in rows]
    assert len(set(found)) == len(ANSWERS)
    return found


def test_a_training_takes_the_ends_of_the_model_that_it_begins_with(policy):
    made = Made.of(REWARD_MODEL.Config(data=Data(path="x.jsonl")), {"policy": policy}, np.random.default_rng(0))
    assert made.ends == made.model.ends == policy.ends
    assert (len(made.ends) == 2) == (policy.tokenizer.chat_template == OWN_END)
    again = Made.of(REWARD_MODEL.Config(data=Data(path="x.jsonl")), {"policy": made.model}, np.random.default_rng(0))
    assert again.ends == policy.ends


def test_a_scorer_reads_the_token_that_was_learnt(policy, model, at_the_end):
    rollout = rollout_of(policy, ["ab", "ab"], ANSWERS)
    for r, row in enumerate(rows_of(policy.tokenizer, policy.ends)):
        assert rollout.tokens[r, rollout.attended[r]].tolist() == row.tokens.tolist()
    found = ModelScorer(model, Judged(policy, Sampling())).score(rollout, np.random.default_rng(0))
    torch.testing.assert_close(found.reward.sum(dim=1), torch.tensor(at_the_end))


def test_a_judge_reads_the_token_that_was_learnt(model, at_the_end, tmp_path):
    run = Run.create(tmp_path, kind="train", name="m", config=JudgeSettings(), seed=0)
    with run:
        folder = save_subject(model, run.folder)
    judge = ModelJudge(ScalarModel(input="m"), str(folder), Sampling())
    found = judge([ASKED] * len(ANSWERS), [Reply(answer, len(answer), True) for answer in ANSWERS])
    assert [one.reward for one in found] == pytest.approx(at_the_end, rel=1e-5)


def test_preferences_are_judged_at_the_token_that_was_learnt(policy):
    leaves = [Leaf(answer, tuple(policy.tokenizer(answer, add_special_tokens=False).input_ids)) for answer in ANSWERS]
    rollout = written(policy, [ASKED] * len(leaves), leaves)
    for r, row in enumerate(rows_of(policy.tokenizer, policy.ends)):
        assert rollout.tokens[r, rollout.attended[r]].tolist() == row.tokens.tolist()


def test_a_rewriting_model_is_read_as_it_learnt_to_write(policy):
    codec = Codec(policy.tokenizer, build(Data, {"path": "x.jsonl"}), 128, policy.ends)
    pair = Preference(ASKED, *((Message("assistant", answer),) for answer in ANSWERS))
    (item,) = Rewriting().items(pair, codec, "row 1")
    identity = item.rows[1]  # the chosen answer, read and written again
    scorer = Seq2SeqScorer(policy, Judged(policy, Sampling()))
    read, start, count = scorer._twice(rollout_of(policy, ["ab"], ANSWERS[:1]), [0], len(identity.tokens))
    assert read[0].tolist() == identity.tokens.tolist()
    assert (int(start[0]), int(count[0])) == (identity.start, len(identity.answer))
