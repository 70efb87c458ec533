#!/usr/bin/env python
"""Choose learning rates and weight decays: the same as `trnet tune`."""

from trnet.cli import door

if __name__ == "__main__":
    door("tune")
