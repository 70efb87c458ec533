#!/usr/bin/env python
"""Export a run's network: the same as `trnet export`."""

from trnet.cli import door

if __name__ == "__main__":
    door("export")
