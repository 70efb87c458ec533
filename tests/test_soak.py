"""A few trials of each kind of the harness in tests/soak, which `make soak` runs at length."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_few_trials_of_each_kind(tmp_path):
    table = tmp_path / "reliability.md"
    counts = [
        "--kills",
        "3",
        "--mutations",
        "30",
        "--disks",
        "4",
        "--faults",
        "0",
        "--minutes",
        "0",
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "soak", *counts, "--output", str(table)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (.+?) +\| (\d+) +\| (.+?) +\| 0 +\|$", table.read_text(), re.M)
    assert len(rows) == 24
    by_name = {name: (int(trials), ends) for name, trials, ends in rows}
    assert by_name["SIGKILL at random moments"] == (3, "3 bit-identical")
    assert by_name["SIGKILL at an operation on a file"] == (3, "3 bit-identical")
    assert by_name["checkpoint: arrays"] == (30, "30 one line")
