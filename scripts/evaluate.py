#!/usr/bin/env python
"""Score a run's checkpoint: the same as `trnet evaluate`."""

from trnet.cli import door

if __name__ == "__main__":
    door("evaluate")
