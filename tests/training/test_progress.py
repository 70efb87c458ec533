"""What a training shows: lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
import sys

import pytest

from trnet.training import progress
from trnet.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_per_minute(clock, capsys):
    with Progress("run", 4, 1000) as shown:
        shown.resume(1, 10, 500)
        shown.begin(2)
        for second in range(0, 125, 5):
            clock[0] = float(second)
            shown.advance(10, 0.05)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "run: resumes after step 10 of epoch 2",
        "run: epoch 2/4, 64 %  rate 0.05  2 images/s  18 min left",
    ]


def test_a_terminal_has_a_bar_with_epoch_and_rate(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("run", 4, 1000) as shown:
        shown.begin(3)
        shown.advance(100, 0.05)
        shown._bar.refresh()
        shown.validate()
        bar = sys.stderr.getvalue()
    assert "run, epoch 3/4" in bar and "rate 0.05" in bar and "validation" in bar


def test_what_is_not_shown_says_nothing(clock, capsys):
    with Progress("run", 4, 1000, show=False) as shown:
        shown.begin(1)
        clock[0] = 100.0
        shown.advance(10, 0.05)
    assert capsys.readouterr().err == ""
