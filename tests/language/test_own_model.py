"""The example of a safe dialogue with a model, data and judges of one's own: three values are changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from chat_stub import chat_stub

from trueline.core.run import read_evidence, read_manifest
from trueline.language.splits import split_of_text
from trueline.language.subject import LanguageModel
from trueline.language.texts import records, text_world
from trueline.language.vocabulary import tokenizer_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "safe_dialogue.toml"


def another_architecture(folder):
    """GPT-2, saved in Hugging Face's layout with the world's words as its tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tokenizer_of(text_world("safety-dialogue").vocabulary)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=80, n_embd=16, n_layer=1, n_head=2, use_cache=True, **ids)
    )
    LanguageModel(model.eval(), tokenizer).save(folder)


def test_a_saved_model_a_file_and_judges_take_three_values(trueline, tmp_path):
    another_architecture(tmp_path / "model")
    rows = records(text_world("safety-dialogue"), "safety-preference", 600, np.random.default_rng(0))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = tmp_path / "runs"
    data = f'path = "{tmp_path}/pairs.jsonl", as_chat = true, unusable = "drop", leave_for_audits = true'
    with chat_stub() as (url, script, log):
        script[None] = ["0.75"]
        judge = f'kind = "endpoint", url = "{url}", model = "m", instruction = "?"'
        said = trueline(
            "cycle",
            written(tmp_path),
            f'let.model={{name = "{tmp_path}/model"}}',
            f"let.data={{{data}}}",
            f'let.judge={{harm = {{{judge}, cost = "harm"}}, help = {{{judge}}}}}',
            *("--root", root, "--id", "c"),
        )
    assert said.code in (0, 4), said.err
    assert log
    assert (root / "c" / "report.html").is_file()
    assert set(read_manifest(root / "c-r1-train")["inputs"]) == {"policy", "reference", "help", "harm"}
    evidence = [e for n in (1, 2) for e in read_evidence(root / f"c-r{n}-audit") if e["requirement"] is not None]
    assert {e["audit"] for e in evidence} == {"ethicality/harm-rate", "controllability/helpfulness"}
    assert all(e["estimate"]["n"] > 0 for e in evidence)
    decided = {e["audit"]: e["estimate"]["value"] for e in evidence}
    assert decided == {"ethicality/harm-rate": 1.0, "controllability/helpfulness": 0.75}
    asked = [f["case"]["data"]["chat"][0]["content"] for e in evidence for f in e["findings"]]
    assert asked
    assert {split_of_text(prompt).split for prompt in asked} == {"verdict"}


def test_a_folder_made_elsewhere_is_audited_and_trained_from_as_a_run_is(trueline, tmp_path, monkeypatch):
    """As transformers saves one: neither a card of ours nor a history in it."""
    monkeypatch.chdir(tmp_path)
    another_architecture(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "trueline.json").unlink()
    audit = "interpretability/token-attribution"
    asked = ("--only", audit, "--budget", 2)
    said = trueline("audit", "elsewhere", *asked, "--config", f"{audit}.path=builtin:safety-dialogue")
    assert said.code in (0, 4, 5), said.err
    (run,) = (tmp_path / "runs").glob("*audit-elsewhere*")
    told = read_manifest(run)["inputs"]["subject"]
    assert (told["run"], told["kind"], told["path"]) == (None, "language-model", str(tmp_path / "elsewhere"))
    rows = [{"prompt": "hello", "chosen": "yes", "rejected": "no"}] * 4
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = ("train", "dpo", "data.path=pairs.jsonl", "max_steps=1", "batch_size=2", "--input")
    assert trueline(*train, "policy=./elsewhere", "--dry-run").code == 0
    said = trueline(*train, "policy=./elsewhere", "--id", "d")
    assert said.code == 0, said.err
    assert trueline("resume", "d").code == 0
    # A run's own subject means the run.
    assert trueline(*train, "policy=runs/d/subject", "--id", "e").code == 0
    assert read_manifest("runs/e")["inputs"]["policy"]["run"] == "d"
    said = trueline("audit", "runs/d/subject", *asked, "--config", f"{audit}.path=builtin:safety-dialogue")
    assert said.code in (0, 4, 5), said.err
    assert list((tmp_path / "runs").glob("*audit-dpo*"))


def written(folder):
    """The example with few steps: its lists of tables cannot be reached by overrides."""
    text = EXAMPLE.read_text()
    for old, new in (
        ("rounds = 3", "rounds = 2"),
        ("threads = 2", "threads = 1"),
        ("respond_cases = 200", "respond_cases = 8"),
        ("epochs = 5.0", "max_steps = 3"),
        ("epochs = 2.0", "max_steps = 3"),
        ("max_steps = 80", "max_steps = 2"),
        ("batch_size = 64", "batch_size = 8"),
        ("initial = 8\nbatch = 8\nmaximum = 8", "initial = 1\nbatch = 1\nmaximum = 1"),
        ("most_items = 256\nlooks = 8", "most_items = 16\nlooks = 2\nasked = 8"),
        ("initial = 200\nbatch = 200\nmaximum = 1000", "initial = 8\nbatch = 8\nmaximum = 8"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    (folder / "cycle.toml").write_text(text)
    return folder / "cycle.toml"
