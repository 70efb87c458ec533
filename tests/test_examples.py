"""The examples' scripts, from few seeds and for few epochs; the notebook is in test_notebook.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHORT = {
    "sequences.py": ("--epochs=8", "--seeds=2"),
    "volumes.py": ("--epochs=3", "--seeds=2", "--patches=800"),
}


@pytest.mark.parametrize("script", SHORT)
def test_an_example_learns_with_every_head(script):
    command = [sys.executable, ROOT / "examples" / script, *SHORT[script]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, _, *rows = (line.split("|")[1:-1] for line in done.stdout.splitlines() if line[0] == "|")
    savings = [float(row[2]) for row in rows]
    assert savings[0] == 0 and min(savings[1:]) > 50
    for name, *_, score in rows:
        assert float(score.split("±")[0]) > 20, name  # chance is 11 % and 0 %


def test_an_example_without_its_data_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import heads

    monkeypatch.setattr(heads, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        heads.data_folder("aeon")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "expected aeon, got none: see --help\n"
