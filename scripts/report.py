#!/usr/bin/env python
"""Write tables, plots and claims again: the same as `trnet report`."""

from trnet.cli import door

if __name__ == "__main__":
    door("report")
