#!/usr/bin/env python
"""Compress a trained network: the same as `trnet compress`."""

from trnet.cli import door

if __name__ == "__main__":
    door("compress")
