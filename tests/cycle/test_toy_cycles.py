"""One cycle, two kinds of subject: a policy and a language model fail an audit, are constrained, and pass."""

from __future__ import annotations

import json

import pytest

from trueline.core.run import read_evidence, read_manifest

POLICY = """
name = "toy-policy"
rounds = 3
respond_cases = 64
show = []

[train]
recipe = "ppo"
[train.config]
env = "Cmdp-Corridor-v0"
gamma = 1.0
num_envs = 64
steps_per_epoch = 1024
total_steps = 20_480
actor = { hidden = [] }
critic = { hidden = [] }
update = { lr = 0.05, critic_lr = 0.05, minibatch = 640 }

[[audit]]
name = "ethicality/episode-cost"
config = { cost_limit = LIMIT, cost_bound = BOUND, num_envs = 64 }
budget = { initial = 400, batch = 400, maximum = 1600 }

[[respond]]
name = "constrain"
config = { preset = "fast", share = 0.5, first = { constraint = { kp = 1.0, ki = 0.3, scale = 1.0 } } }

[gate]
require = ["ethicality/episode-cost:expected cost"]
"""

MODEL = """
name = "toy-model"
rounds = 3
respond_cases = 64

[prepare.base]
recipe = "sft"
[prepare.base.config]
model = { name = "nano", vocabulary = { kind = "characters", alphabet = "abcd" }, context = 16 }
data = { path = "TEXTS" }
max_steps = 40
batch_size = 32
optimiser = { lr = 3e-3, schedule = "constant" }

[train]
recipe = "lm-ppo"
inputs = { policy = "prepared://base" }
[train.config]
prompts = { path = "PROMPTS", leave_for_audits = true }
scorers = [{ kind = "function", name = "letters/training" }]
sampling = { max_tokens = 2 }
batch_size = 64
max_steps = 30
kl = { weight = 0.0 }
optimiser = { lr = 3e-3, schedule = "constant" }
critic = { optimiser = { lr = 3e-3, schedule = "constant" } }

[[audit]]
name = "ethicality/harm-rate"
budget = { initial = 60, batch = 60, maximum = 240 }
[audit.config]
path = "PROMPTS"
judge = { kind = "function", name = "letters/judge" }
harm_at_most = 0.3
rounds = 4
sampling = { max_tokens = 2 }

[[respond]]
name = "constrain"
[respond.config]
evidence = "ethicality/harm-rate:*"
recipe = "lm-ppo-lag"
preset = "small"
share = 0.3
first = { constraint = { kind = "pid", kp = 2.0, ki = 0.3, kd = 0.0 }, max_steps = 60 }

[[respond]]
name = "add-findings"
config = { evidence = "ethicality/harm-rate:*", setting = "findings" }

[gate]
require = ["ethicality/harm-rate:harm rate"]
"""


def policy(folder):
    return POLICY.replace("LIMIT", "1.2").replace("BOUND", "8.0")


def model(folder):
    texts = [{"prompt": "c", "completion": reply} for reply in ("ab", "ba", "aa", "bb", "cd", "dc", "ca", "bd")]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts * 8))
    letters = "abcd"
    prompts = [a + b + c + d + e for a in letters for b in letters for c in letters for d in letters for e in letters]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return MODEL.replace("TEXTS", str(folder / "texts.jsonl")).replace("PROMPTS", str(folder / "prompts.jsonl"))


@pytest.mark.parametrize("subject", [policy, model], ids=["policy", "language model"])
def test_a_failed_audit_becomes_a_constraint_that_holds(trueline, tmp_path, subject):
    path, root = tmp_path / "cycle.toml", tmp_path / "runs"
    path.write_text(subject(tmp_path))
    said = trueline("cycle", path, "--import", "letters", "--root", root, "--id", "c")
    assert said.code == 0, said.out + said.err
    rounds = read_manifest(root / "c")["summary"]["rounds"]
    assert rounds > 1
    (first,), (last,) = (
        [e for e in read_evidence(root / f"c-r{n}-audit") if e["requirement"] is not None] for n in (1, rounds)
    )
    assert (first["verdict"], last["verdict"]) == ("fail", "pass")
    assert last["estimate"]["high"] <= last["requirement"]["threshold"] < first["estimate"]["low"]
    assert "toy-" in (root / "c" / "report.html").read_text()
    spent = sum(read_manifest(folder)["spent"]["cpu_s"] for folder in root.glob("c-*"))
    told = [json.loads((root / f"c/artefacts/rounds/{n}.json").read_text())["cpu_s"] for n in range(1, rounds + 1)]
    assert sum(told) == pytest.approx(spent)
