#!/usr/bin/env python
"""Train a suite and write its tables and plots: the same as `trnet reproduce`."""

from trnet.cli import door

if __name__ == "__main__":
    door("reproduce")
