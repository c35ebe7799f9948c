"""Examples at sizes that no test trains: with a small model in the place of theirs, each training is rehearsed."""

import json
from pathlib import Path

import numpy as np
import pytest

from trueline.core import registry
from trueline.core.recipe import rehearse
from trueline.core.subject import Subject
from trueline.cycle.spec import make_audit, read_cycle
from trueline.language.models import ModelRef
from trueline.language.subject import LanguageModel, ScoreModel

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def spec(tmp_path):
    """The example with a nano model and forty rows."""
    model = LanguageModel.of(ModelRef(), np.random.default_rng(0))
    model.save(tmp_path / "model")
    rows = registry.load("text-data", "safety-dialogue")("train", format="safety-preference", n=40)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows))
    text = (EXAMPLES / "lm_125m.toml").read_text().replace("path/to/model", str(tmp_path / "model"))
    copy = tmp_path / "mine.toml"
    copy.write_text(text.replace('path = "pairs.jsonl"', f'path = "{path}"'))
    return read_cycle(copy)


def test_every_training_is_rehearsed(spec, tmp_path):
    made: dict[str, Subject] = {}
    for name, plan in spec.prepare.items():
        inputs = {"policy": made["replies"]} if plan.inputs else {}
        told = rehearse(plan.recipe, plan.settings(), inputs, tmp_path)
        assert told.steps > 0
        start = LanguageModel.of(ModelRef(name=str(tmp_path / "model")), np.random.default_rng(0))
        made[name] = start if name == "replies" else ScoreModel.of(start, ("reward" if name == "help" else "cost",))
    inputs = {role: made["replies" if role == "policy" else role] for role in spec.train.inputs}
    told = rehearse(spec.train.recipe, spec.train.settings(), inputs, tmp_path)
    memory = told.memory
    assert told.steps == 200
    assert memory.gradients < memory.weights / 2  # adapters alone are learnt
    assert memory.reference == 0  # the policy with its adapters off
    assert memory.critic < 2.5 * memory.weights


def test_every_audit_can_be_made(spec):
    for use in spec.audit:
        assert make_audit(use.name, use.config).metrics
    assert {use.name for use in spec.audit} >= {name.partition(":")[0] for name in spec.gate.require}
