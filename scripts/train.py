#!/usr/bin/env python
"""Train an experiment, or resume it: the same as `trnet train`."""

from trnet.cli import door

if __name__ == "__main__":
    door("train")
