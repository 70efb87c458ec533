"""Trials of what must not be lost: kills, full disks, changed files, lost workers, and a long run.

`make soak` runs many of each and writes results/reliability.md; tests/test_soak.py runs a few.
"""
