import io
import sys

import pytest

from trueline.core import progress as module
from trueline.core.progress import Bar, progress, set_quiet, stage


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def test_plain_lines_come_at_most_every_five_seconds(clock, capsys):
    with progress(100, "train") as bar:
        for second in range(1, 21):
            clock.now = float(second)
            bar.advance(5, note=f"return {second}")
    lines = capsys.readouterr().err.splitlines()
    # 5 units per second of 100: after 5 s a quarter is done and 75 units at 5/s leave 15 s.
    assert lines[0] == "train  25 %  5/s  0:00:15 left  return 5"
    assert lines[1:4] == [
        "train  50 %  5/s  0:00:10 left  return 10",
        "train  75 %  5/s  0:00:05 left  return 15",
        "train  100 %  5/s  0:00:00 left  return 20",
    ]
    assert lines[4:] == ["train  100 in 0:00:20"]


def test_what_a_resumed_run_had_done_before_does_not_count_towards_the_rate(clock, capsys):
    with progress(1000, "train") as bar:
        bar.start_at(900)
        clock.now = 10.0
        bar.advance(20)
    # 20 units in 10 s: 2/s; 80 are left, which takes 40 s.
    assert capsys.readouterr().err.splitlines()[0] == "train  92 %  2/s  0:00:40 left"


def test_hours_and_large_rates_are_readable():
    bar = Bar("x", 10_000_000)
    bar.done = 36_000
    assert bar.line(3.0) == "x  0 %  12,000/s  0:13:50 left"
    assert Bar("x", 10).line(0.0) == "x  0 %"


def test_quiet_shows_nothing(clock, capsys):
    set_quiet(True)
    try:
        stage("round 1")
        with progress(10, "train") as bar:
            clock.now = 50.0
            bar.advance(10)
    finally:
        set_quiet(False)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""
    stage("round 2")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "round 2\n")


def test_bars_inside_one_another_share_a_terminal_and_let_it_go(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(2, "round") as outer:
        with progress(4, "train [ppo]") as inner:
            inner.advance(4, note="return 1.5")
            stage("round 1/2")
            module._Shown.live.refresh()
            assert [task.completed for task in module._Shown.live.tasks] == [0, 4]
        outer.advance()
        assert [task.description for task in module._Shown.live.tasks] == ["round"]
    assert module._Shown.live is None
    for text in ("round 1/2", "train [ppo]", "return 1.5", "100%"):
        assert text in terminal.getvalue()


def test_an_error_inside_leaves_no_live_display_behind(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ZeroDivisionError), progress(1, "x"):
        raise ZeroDivisionError
    assert module._Shown.live is None
    assert module._Shown.users == 0
