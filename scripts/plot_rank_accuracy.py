#!/usr/bin/env python
"""Plot a suite's accuracy against rank and space savings: the same as `trnet plot`."""

from trnet.cli import door

if __name__ == "__main__":
    door("plot")
