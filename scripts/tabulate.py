#!/usr/bin/env python
"""Show a suite's table: the same as `trnet tabulate`."""

from trnet.cli import door

if __name__ == "__main__":
    door("tabulate")
