#!/usr/bin/env python
"""Make RecordIO files of ImageNet: the same as `trnet prepare`."""

from trnet.cli import door

if __name__ == "__main__":
    door("prepare")
