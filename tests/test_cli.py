"""The command line: what it prints, and how it leaves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trueline import api
from trueline.cli.commands import KINDS
from trueline.cli.typed import imports_first
from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.run import read_manifest
from trueline.cycle.auditing import audit_settings, tally
from trueline.cycle.sweep import SweepSpec, parse_grid, points
from trueline.evidence.over_seeds import iqm, seed_interval
from trueline.evidence.records import Verdict

SMALL = (
    "env=SafetyPointGoal0-v0", "num_envs=2", "steps_per_epoch=2000", "actor.hidden=[8]", "critic.hidden=[8]",
    "update.passes=1", "update.minibatch=200",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a trained run of each recipe."""
    from trueline.cli import main

    root = tmp_path_factory.mktemp("runs")
    for id, gamma in (("one", 0.9), ("two", 0.99)):
        with pytest.raises(SystemExit) as end:
            main(["train", "ppo-lag", *SMALL, "total_steps=2000", f"gamma={gamma}", "--root", str(root), "--id", id])
        assert end.value.code == 0
    return root


def test_version(trueline):
    from importlib.metadata import version

    assert trueline("--version").out == f"trueline {version('trueline')}\n"


def test_import_may_stand_anywhere_before_the_dashes():
    assert imports_first(["train", "ppo", "--import", "a", "--import=b", "x=1"]) == [
        "--import", "a", "--import=b", "train", "ppo", "x=1",
    ]  # fmt: skip
    assert imports_first(["bench", "x", "--", "--import", "a"]) == ["bench", "x", "--", "--import", "a"]


def test_list_counts_what_each_kind_lists(trueline):
    counts = json.loads(trueline("list", "--json").out)
    several = len(registry.entries("multi-agent env"))
    expected = {plural: len(registry.entries(kind)) for plural, kind in KINDS.items()}
    assert counts == expected | {"envs": expected["envs"] + several}
    for plural, count in counts.items():
        assert len(json.loads(trueline("list", plural, "--json").out)) == count


def test_list_shows_name_summary_reference_level_and_test(trueline):
    lines = trueline("list", "recipes").out.splitlines()
    assert lines[0].split() == ["name", "summary", "reference", "level", "test"]
    for entry, line in zip(registry.entries("recipe"), lines[1:], strict=True):
        for shown in (entry.name, entry.summary, entry.reference, entry.level, entry.test):
            assert shown in line


def test_many_names_are_listed_by_family_and_one_family_or_pattern_in_full(trueline):
    every = json.loads(trueline("list", "envs", "--json").out)
    lines = trueline("list", "envs").out.splitlines()
    rows = [line.split() for line in lines[1:] if not line.startswith("`")]
    counts = [next(int(word) for word in row if word.isdigit()) for row in rows]
    assert len(rows) < len(every) / 5
    assert sum(counts) == len(every)
    goals = json.loads(trueline("list", "envs", "Goal", "--json").out)
    assert {e["name"] for e in goals} == {e["name"] for e in every if e["family"] == "Goal"} != set()
    some = json.loads(trueline("list", "envs", "SafetyCar*2-v0", "--json").out)
    assert {"SafetyCarGoal2-v0", "SafetyCarRace2-v0"} <= {e["name"] for e in some}
    (pair,) = json.loads(trueline("list", "envs", "SafetyPointMultiGoal1-v0", "--json").out)
    assert pair["kind"] == "multi-agent env"
    said = trueline("list", "envs", "Gaol")
    assert said.code == 2
    assert "Goal" in said.err


def test_settings_are_listed_with_their_presets(trueline):
    said = trueline("settings", "ppo-lag").out
    assert any(line.split()[:3] == ["cost_limit", "number", "|"] for line in said.splitlines())
    assert "constraint.lr" in said
    assert "preset fast: num_envs=64" in said
    assert trueline("train", "ppo-lag", "--help-settings").out == said


def test_train_leaves_a_whole_run_and_prints_its_folder_last(trueline, root):
    manifest = read_manifest(root / "one")
    assert (manifest["kind"], manifest["name"], manifest["status"]) == ("train", "ppo-lag", "done")
    again = trueline("resume", "one", "--root", root)
    assert again.last == str(root / "one")
    # Two episodes of 1000 steps each end in every epoch of 2000.
    assert manifest["summary"]["train/length"] == 1000


def test_runs_are_listed_newest_first_and_filtered(trueline, root):
    listed = json.loads(trueline("runs", "--root", root, "--json", "--kind", "train").out)
    assert [manifest["id"] for manifest in listed][-2:] == ["two", "one"]
    assert json.loads(trueline("runs", "--root", root, "--json", "--kind", "cycle").out) == []


def test_a_run_nobody_holds_is_shown_as_killed(trueline, root, tmp_path):
    shutil.copytree(root / "one", tmp_path / "one")
    path = tmp_path / "one" / "manifest.json"
    path.write_text(path.read_text().replace('"done"', '"running"'))
    (manifest,) = json.loads(trueline("runs", "--root", tmp_path, "--json").out)
    assert manifest["status"] == "killed"
    assert json.loads(trueline("runs", "--root", tmp_path, "--json", "--status", "running").out) == []


def test_compare_shows_only_settings_that_differ(trueline, root):
    said = trueline("compare", "one", "two", "--root", root)
    rows = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if line}
    assert rows["gamma"] == ["0.9", "0.99"]
    assert "num_envs" not in rows
    assert float(rows["train/length"][0]) == 1000
    assert trueline("compare", "one", "--root", root).code == 1


def test_report_is_written_anew(trueline, root):
    (root / "two" / "report.html").unlink(missing_ok=True)
    said = trueline("report", "two", "--root", root)
    assert said.last == str(root / "two" / "report.html")
    assert "ppo-lag" in Path(said.last).read_text()


def test_a_unique_beginning_and_latest_name_a_run(trueline, root):
    assert trueline("report", "tw", "--root", root).last == str(root / "two" / "report.html")
    assert trueline("report", "latest", "--root", root).code == 0
    said = trueline("report", "thre", "--root", root)
    assert said.code == 2
    assert "no run is called 'thre'" in said.err


def test_grid_separates_values_but_not_what_brackets_or_quotes_hold():
    fixed, grid = parse_grid(["env=A", "lr=1e-3,1e-4", "hidden=[8,8],[4]", 'name="a,b"', "c.kind=pid,none"])
    assert fixed == {"env": "A", "name": "a,b"}
    assert grid == {"lr": (1e-3, 1e-4), "hidden": ([8, 8], [4]), "c.kind": ("pid", "none")}
    with pytest.raises(ConfigError, match="lr is given twice"):
        parse_grid(["lr=1", "lr=2"])
    with pytest.raises(ConfigError, match=r"lr has the value 0\.1 twice"):
        build(SweepSpec, {"recipes": ["ppo"], "grid": parse_grid(["lr=0.1,0.2,1e-1"])[1]})


def test_points_are_the_product_of_grid_and_seeds():
    with pytest.raises(ConfigError, match="recipes has the value 'ppo' twice"):
        build(SweepSpec, {"recipes": ["ppo", "ppo"]})
    spec = SweepSpec(recipes=("ppo",), grid={"a": (1, 2), "b": (3, 4, 5)}, seeds=2)
    listed = points(spec, "s")
    assert len({point.id for point in listed}) == 12
    assert [tuple(point.cell.settings.values()) for point in listed[::2]] == [
        (1, 3),
        (1, 4),
        (1, 5),
        (2, 3),
        (2, 4),
        (2, 5),
    ]


def test_of_several_recipes_each_is_swept_over_the_settings_that_it_has():
    grid = {"cost_limit": (10.0, 25.0), "gamma": (0.9, 0.99)}
    spec = SweepSpec(recipes=("ppo", "ppo-lag"), config={"num_envs": 2, "constraint": {"lr": 0.1}}, grid=grid)
    told = [(cell.recipe, *cell.settings.values()) for cell in spec.cells()]
    assert told[:2] == [("ppo", 0.9), ("ppo", 0.99)]
    assert told[2:] == [("ppo-lag", limit, gamma) for limit in (10.0, 25.0) for gamma in (0.9, 0.99)]
    assert spec.left_out() == {"ppo": ["constraint.lr", "cost_limit"]}
    assert [spec.plan(cell).settings().num_envs for cell in spec.cells()] == [2] * 6
    nested = {"update": {"clip": 0.1}, "constraint": {"kp": 0.1}, "env_options": {"slip": 0.5}}
    both = SweepSpec(recipes=("ppo-pid", "cpo"), config=nested, grid={"update.target_kl": (0.01, 0.02)})
    assert both.left_out() == {"cpo": ["update.clip", "constraint.kp"]}
    assert [cell.settings for cell in both.cells()] == [{"update.target_kl": kl} for kl in (0.01, 0.02)] * 2
    assert [both.plan(cell).settings().env_options for cell in both.cells()] == [{"slip": 0.5}] * 4
    nobodys = SweepSpec(recipes=("ppo", "ppo-lag"), config={"gama": 0.9})
    with pytest.raises(ConfigError, match="Did you mean 'gamma'"):
        nobodys.plan(nobodys.cells()[0]).settings()
    alone = SweepSpec(recipes=("ppo",), grid={"cost_limit": (10.0, 25.0)})
    with pytest.raises(ConfigError, match="knows of no limit"):
        alone.plan(alone.cells()[0]).settings()


def test_a_sweep_over_algorithms_limits_and_worlds(trueline, tmp_path):
    small = ("num_envs=2", "steps_per_epoch=20", "total_steps=20", "actor.hidden=[]", "critic.hidden=[]")
    words = ("ppo,ppo-lag", "env=Cmdp-Gamble-v0,Cmdp-Tolls-v0", "cost_limit=0.5,1.0", *small)
    said = trueline("sweep", *words, "--seeds", 1, "--root", tmp_path, "--id", "s")
    assert said.code == 0, said.err
    assert "ppo has no cost_limit: it is trained without" in said.err
    trained = [read_manifest(tmp_path / f"s-p{number:02d}-s0") for number in range(6)]
    assert [manifest["name"] for manifest in trained] == ["ppo"] * 2 + ["ppo-lag"] * 4
    assert not (tmp_path / "s-p06-s0").exists()
    rows = json.loads((tmp_path / "s" / "artefacts" / "table.json").read_text())
    assert [(row["recipe"], row["settings"].get("cost_limit")) for row in rows] == [
        ("ppo", None), ("ppo", None), ("ppo-lag", 0.5), ("ppo-lag", 1.0), ("ppo-lag", 0.5), ("ppo-lag", 1.0),
    ]  # fmt: skip
    assert len(trueline("compare", "s", "--root", tmp_path).out.splitlines()) > 12


def test_sweep_table_is_mean_and_iqm_over_seeds(trueline, tmp_path):
    grid = ("steps_per_epoch=20,40", "total_steps=40", *(word for word in SMALL if "epoch" not in word))
    said = trueline("sweep", "ppo", *grid, "--seeds", 3, "--root", tmp_path, "--id", "s")
    assert said.code == 0, said.err
    assert said.last == str(tmp_path / "s")
    rows = json.loads((tmp_path / "s" / "artefacts" / "table.json").read_text())
    name = "train/total_cost_sum"
    for number, row in enumerate(rows):
        values = [read_manifest(tmp_path / f"s-p{number:02d}-s{seed}")["summary"][name] for seed in range(3)]
        assert row["mean"][name]["value"] == seed_interval(values).value
        assert row["iqm"][name] == iqm(values)
    again = api.resume("s", root=tmp_path)
    assert again.folder == tmp_path / "s"
    assert [row.iqm for row in again.rows] == [row["iqm"] for row in rows]
    part = trueline("resume", "s-p00-s0", "--root", tmp_path)
    assert part.code == 1
    assert "`trueline resume s`" in part.err
    other = trueline("sweep", "ppo", *grid, "gamma=0.5", "--seeds", 3, "--root", tmp_path, "--id", "s")
    assert other.code == 2
    assert "run s was begun with other settings: config.gamma was not set and is 0.5" in other.err
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("s-p*/metrics.jsonl")}
    more = trueline("sweep", "ppo", *grid, "--seeds", 4, "--root", tmp_path, "--id", "s")
    assert more.code == 0, more.err
    assert "run s goes on with other settings: seeds was 3 and is 4" in more.err
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(list(tmp_path.glob("s-p*"))) == 8
    assert len(api.resume("s", root=tmp_path).rows[0].mean) > 0
    assert trueline("compare", "s", "--root", tmp_path).out.count("finished all 40 steps") == 8


def test_sweep_in_processes_gives_what_inline_gives(trueline, tmp_path):
    grid = ("sweep", "ppo", "total_steps=40", "steps_per_epoch=40", *(word for word in SMALL if "epoch" not in word))
    for id, how in (("s", "inline"), ("p", "processes")):
        assert trueline(*grid, "--seeds", 1, "--root", tmp_path, "--id", id, "--executor", how).code == 0
    one, two = (read_manifest(tmp_path / f"{id}-p00-s0")["summary"] for id in "sp")
    assert {k: v for k, v in one.items() if k != "subject"} == {k: v for k, v in two.items() if k != "subject"}


def test_settings_of_audits_are_told_apart_by_the_audit_s_name(monkeypatch):
    entries = [registry.Entry("audit", name, "a:b", "x") for name in ("e/cost", "e/cost.tail")]
    monkeypatch.setattr(registry, "entries", lambda kind: entries)
    assert audit_settings(["e/cost.limit=3", "e/cost.tail.share=0.1", "e/cost.a.b=1"]) == {
        "e/cost": {"limit": 3, "a": {"b": 1}},
        "e/cost.tail": {"share": 0.1},
    }
    with pytest.raises(ConfigError, match=r"names no audit\. Did you mean 'e/cost'"):
        audit_settings(["e/cots.limit=3"])


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ((Verdict.PASS, None), Verdict.PASS),
        ((Verdict.PASS, Verdict.INCONCLUSIVE), Verdict.INCONCLUSIVE),
        ((Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.PASS), Verdict.FAIL),
        ((), Verdict.PASS),
    ],
)
def test_the_worst_verdict_decides(verdicts, whole):
    class Row:
        def __init__(self, verdict):
            self.verdict = verdict

    assert tally([Row(verdict) for verdict in verdicts]) is whole


def test_benchmarks_are_listed_and_an_unknown_one_is_refused(trueline):
    said = trueline("bench")
    assert said.code == 0
    scripts = {path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("[!_]*.py")}
    assert {"startup"} <= scripts <= {line.split()[0] for line in said.out.splitlines()}
    said = trueline("bench", "start-up")
    assert said.code == 2
    # `trueline list benchmarks` shows what is registered, but not these scripts.
    sentence = "no benchmark is called 'start-up'. Did you mean 'startup'? `trueline bench` shows all there are."
    assert said.err.strip() == f"error: {sentence}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("settings", "ppo-lga"),
            "no recipe, audit or response is called 'ppo-lga'. Did you mean 'ppo-lag'? `trueline list recipes`, "
            "`trueline list audits` and `trueline list responses` show all there are.",
        ),
        (
            ("reproduce", "safe-rhlf"),
            "no system or claim is called 'safe-rhlf'. Did you mean 'safe-rlhf'? `trueline reproduce` shows all there "
            "are.",
        ),
        (
            ("train", "ppo-lga"),
            "no recipe is called 'ppo-lga'. Did you mean 'ppo-lag'? `trueline list recipes` shows all there are.",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_where_names_of_that_kind_are_shown(trueline, words, sentence):
    said = trueline(*words)
    assert (said.code, said.err.strip()) == (2, f"error: {sentence}")


def test_a_benchmark_is_run_with_its_arguments(trueline, tmp_path, monkeypatch):
    (tmp_path / "echo.py").write_text("import sys; print(sys.argv[1:]); sys.exit(7)")
    monkeypatch.setattr("trueline.cli.commands._bench_scripts", lambda: {"echo": tmp_path / "echo.py"})
    said = trueline("bench", "echo", "--", "--repeats", "2")
    assert (said.code, said.out) == (7, "['--repeats', '2']\n")


def test_a_reader_that_leaves_early_is_no_error():
    script = f"{sys.executable} -m trueline.cli list envs | head -n 1"
    run = subprocess.run(
        ["bash", "-c", f"{script}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    assert "Traceback" not in run.stdout


def test_convert_says_what_is_missing(trueline, tmp_path):
    said = trueline("convert", tmp_path, tmp_path / "out")
    assert said.code == 2
    assert "has no pytorch_model*.bin to convert" in said.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_a_training_would_take_or_that_it_cannot(trueline, tmp_path):
    rows = [{"prompt": "a", "completion": "b" * n} for n in range(1, 9)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = trueline("train", "sft", f"data.path={tmp_path / 'data.jsonl'}", "--dry-run", "--root", tmp_path / "runs")
    assert said.code == 0
    assert "steps" in said.out
    assert not (tmp_path / "runs").exists()
    said = trueline("train", "ppo", "--dry-run")
    assert said.code == 2
    assert "recipe 'ppo' has no dry run" in said.err
