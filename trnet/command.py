"""What every script does around its work: one line for a user's mistake, and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from trnet.errors import UserError

if not (3, 9) <= sys.version_info < (3, 12):
    print("error: trnet needs Python 3.9, 3.10 or 3.11, because MXNet 1.9.1 does", file=sys.stderr)
    sys.exit(2)

# Python puts a script's own folder first on its path, where scripts/tabulate.py hides the package
# of that name.
_scripts = Path(sys.argv[0]).resolve().parent
sys.path[:] = [path for path in sys.path if not path or Path(path).resolve() != _scripts]


def run(main: Callable[[], None]) -> None:
    """Run a script's main function; mistakes of the user's end in one line and exit code 2."""
    try:
        main()
    except UserError as error:
        _stop(f"error: {error}", 2)
    except BrokenPipeError:  # of a pager that was left
        sys.stderr.close()
    except OSError as error:
        if error.filename is None:
            raise
        _stop(f"error: {error.filename}: {error.strerror}", 2)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on behind what is whole", 130)


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser that shows the script's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_runs(arguments: argparse.ArgumentParser) -> None:
    """Add ``--runs``."""
    arguments.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="run folders (default: runs)"
    )


def add_suite(arguments: argparse.ArgumentParser) -> None:
    """Add a suite, ``--runs`` and ``--results``."""
    arguments.add_argument("suite", type=Path, help="a folder of configs, as configs/mnist")
    add_places(arguments)


def add_places(arguments: argparse.ArgumentParser) -> None:
    """Add ``--runs`` and ``--results``."""
    add_runs(arguments)
    arguments.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="what was published and measured before (default: results)",
    )


def add_jobs(arguments: argparse.ArgumentParser) -> None:
    """Add ``--jobs``."""

    def jobs(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"--jobs: got {text}; at least 1 would fit")
        return int(text)

    arguments.add_argument(
        "--jobs", type=jobs, help="runs at a time (default: as many as cores; one on GPUs)"
    )


def add_devices(arguments: argparse.ArgumentParser) -> None:
    """Add ``--devices``."""
    arguments.add_argument(
        "--devices", default="auto", help="auto, cpu, cpu:0,1 or gpu:0,1,2,3 (default: auto)"
    )


def _stop(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
