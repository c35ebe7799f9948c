"""Models side by side: the command and the functions behind it say the same of the same replies."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from token_world import World, tiny

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.evidence.records import EvidenceError
from trueline.language.audits.comparison import Comparing, compared, main
from trueline.language.audits.replies import Examination
from trueline.language.evaluation import answered, best_of_n_kl_bound, values_of, win_rate
from trueline.language.subject import History, ScoreModel

torch.set_num_threads(1)
ORACLE = {"kind": "function", "name": "letters", "options": {"costs": ()}}


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    words = [a + b + c for a in "abcd" for b in "xyab" for c in "xycd"]
    world.prompts.write_text("".join(json.dumps({"prompt": word}) + "\n" for word in words))
    return world


def settings(world, **given):
    same = {"path": str(world.prompts), "rounds": 1, "judge": ORACLE, "prompts": 8, "replies": 4}
    return build(Comparing, {**same, "sampling": {"max_tokens": 3}, "root": str(world.runs), **given})


def saved(world, id, model):
    with Run.create(world.runs, kind="train", name="sft", config={}, seed=0, id=id) as run:
        save_subject(model, run.folder)


def test_the_win_rate_is_that_of_the_same_replies_judged_by_hand(world):
    a, b = tiny(0), tiny(1)
    one = settings(world)
    found = compared({"a": a, "b": b}, one)

    def judge(prompts, replies):
        return [sum({"a": 1.0, "b": 0.4}.get(letter, 0.0) for letter in reply.text) for reply in replies]

    drawn = Examination(one).draw(8, np.random.default_rng(0), "verdict", 0)
    prompts = [prompt.chat[0].content for prompt in drawn]
    assert len(prompts) == 8
    values = [values_of(answered(model, prompts, one.sampling, np.random.default_rng(0), 4), judge) for model in (b, a)]
    assert found.won["b"] == win_rate(*values)
    assert found.better["b"].value == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert list(found.statistics) == ["a", "b"]
    assert found.points == found.best_of_n == ()


def test_a_model_beside_itself_neither_wins_nor_diverges(world):
    model = tiny()
    found = compared({"a": model, "again": model}, settings(world, proxy=[ORACLE]))
    assert found.won["again"].estimate.value == 0.5
    assert found.won["again"].wins == found.won["again"].losses
    assert found.better["again"].value == 0.0
    assert [point.kl.value for point in found.points] == pytest.approx([0.0, 0.0], abs=1e-5)
    # Where the proxy is the gold judge, both say the same, and the best of more is better.
    for point in (*found.points, *found.best_of_n):
        assert point.proxy.value == pytest.approx(point.gold.value)
    assert [point.label for point in found.best_of_n] == ["1", "2", "4"]
    gold = [point.gold.value for point in found.best_of_n]
    assert gold[0] < gold[1] < gold[2]
    assert found.best_of_n[2].kl.value == best_of_n_kl_bound(4)


def test_known_bounds_of_the_reward_are_used_wherever_rewards_are_compared(world):
    def judged(**given):
        found = compared({"a": tiny(0), "b": tiny(1)}, settings(world, proxy=[ORACLE], **given))
        return [found.better["b"], *(one.gold for one in (*found.points, *found.best_of_n))]

    within, free = judged(reward_bounds=(0.0, 3.0)), judged()
    assert {one.method for one in within} == {"betting"}
    assert not {one.method for one in free} & {"betting"}


def test_the_command_prints_what_was_found(world, capsys):
    saved(world, "start", tiny(0))
    saved(world, "tuned", tiny(1))
    proxy = ScoreModel.of(tiny(4), ("reward",))
    torch.nn.init.normal_(proxy.linear.weight, generator=torch.Generator().manual_seed(0))
    saved(world, "rm", proxy)
    main([
        "start", "tuned", f"path={world.prompts}", "rounds=1", "prompts=8", "replies=2", "sampling.max_tokens=3",
        'judge={kind="function", name="letters", options={costs=[]}}',
        'proxy=[{kind="score-model", input="run://rm"}]', "--root", str(world.runs),
    ])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    whole = compared(
        {"start": tiny(0), "tuned": tiny(1)},
        settings(world, replies=2, proxy=[{"kind": "score-model", "input": "run://rm"}]),
    )
    assert [line.split(":")[0] for line in lines] == [
        "start", "tuned", "tuned over start", "start", "tuned", "start, best of 1", "start, best of 2",
    ]  # fmt: skip
    assert f"wins {whole.won['tuned'].estimate.value:.3g} " in lines[2]
    assert f"gold {whole.points[1].gold.value:.3g} " in lines[4]
    assert "divergence at most 0.193 nats" in lines[6]  # log 2 - 1/2


def test_the_command_says_what_is_wrong_in_one_line(world, capsys):
    saved(world, "start", tiny(0))
    for given, said in (
        (["start"], "1 model cannot be compared. Name two or more.\n"),
        (["start", "nobody"], "there is no run or path 'nobody'"),
        (["start", "start", "promts=3"], "no setting is called 'promts'. Did you mean 'prompts'?"),
    ):
        with pytest.raises(SystemExit) as left:
            main([*given, "--root", str(world.runs)])
        assert left.value.code == 1
        assert said in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused(world):
    with pytest.raises(ConfigError, match="Name two or more"):
        compared({"a": tiny()}, settings(world))
    pupil = tiny(1)
    pupil.history = History(judged_by=("function:letters",))
    with pytest.raises(EvidenceError, match="trained to please function:letters"):
        compared({"a": tiny(), "b": pupil}, settings(world))
    turns = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    world.prompts.write_text("".join(json.dumps({"prompt": [turns[0], {"role": "user", "content": "xy" * k}]}) + "\n"
                                     for k in range(1, 9)))  # fmt: skip
    with pytest.raises(ConfigError, match="several turns"):
        compared({"a": tiny(), "b": tiny(1)}, settings(world))
