"""``python -m trnet``, the same as the command ``trnet``."""

from trnet.cli import main

if __name__ == "__main__":
    main()
