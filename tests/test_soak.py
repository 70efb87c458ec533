"""A few trials of each kind of the harness in tests/soak, which `make soak` runs at length."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_long_training_is_summed_up_in_equal_parts(run_python):
    """Of seconds, epochs, MiB, files and threads; what it warms up with is left out."""
    run_python(
        """
        import numpy as np
        from soak.long import _summary

        t = np.arange(1000.0)
        seen = np.stack([2 * t, t, 100 + t, 0 * t + 7, 0 * t + 3], axis=1)
        found = _summary("arrays", seen)
        assert (found.form, found.epochs) == ("arrays", 999)
        assert len(found.seconds) > 3
        np.testing.assert_allclose(found.seconds, 2)
        assert found.memory == sorted(found.memory) and found.memory[0] > 150
        assert {*found.files} == {7.0} and {*found.threads} == {3.0}
        """
    )


def test_a_few_kills_changed_files_and_full_disks(tmp_path):
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
