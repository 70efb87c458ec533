# PYTHON_ARGCOMPLETE_OK
"""The command ``trnet``: one module per subcommand, each with its arguments and what it runs.

A module's docstring is its help, of which the first line stands in ``trnet --help``; ``EXAMPLES``
closes it. ``add_arguments(parser)`` declares the arguments and ``run(options)`` does the work. It
imports what it needs, so that help and mistakes in the arguments are instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import NoReturn

import trnet
from trnet.cli import (
    compress,
    evaluate,
    export,
    plot,
    prepare,
    report,
    reproduce,
    streams,
    tabulate,
    train,
    tune,
)
from trnet.errors import Stopped, UserError, lines_of
from trnet.extras import named_if_missing

COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        train,
        evaluate,
        export,
        compress,
        reproduce,
        tabulate,
        plot,
        tune,
        prepare,
        report,
    )
}

_LONG = ("train", "reproduce", "tune", "compress", "prepare")  # whose result is a file
_COMPUTING = ("train", "evaluate", "compress", "export")  # in this process


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's mistake ends in one line and exit code 2.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.
    """
    if not (3, 9) <= sys.version_info < (3, 12):
        _stop("error: trnet needs Python 3.9, 3.10 or 3.11, because MXNet 1.9.1 does", 2)
    streams.open_closed()
    os.environ["TRNET_COMMAND"] = "1"  # also to child processes; see trnet/before_mxnet.py
    arguments = sys.argv[1:] if arguments is None else arguments
    _check_places(arguments)
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # set by: eval "$(register-python-argcomplete trnet)"
        import argcomplete

        argcomplete.autocomplete(parser)
    try:
        options = parser.parse_args(arguments)
        if options.command in _LONG:
            streams.let_last()
        with named_if_missing(f"trnet {options.command}"):
            if options.command in _COMPUTING and "mxnet" not in sys.modules:
                from trnet.threads import use_cores

                use_cores()
            COMMANDS[options.command].run(options)
        sys.stdout.flush()
    except UserError as error:
        _stop(f"error: {error}", 2)
    except BrokenPipeError:  # of a pager that was left
        streams.let_last()
    except OSError as error:
        if error.errno is None:  # a message of ours, which names the file
            _stop(f"error: {error}", 2)
        _stop(f"error: {error.filename or 'standard output'}: {error.strerror}", 2)
    except Stopped as stopped:
        _stop(f"{stopped}; the same command resumes from there", 128 + stopped.signal)
    except KeyboardInterrupt:
        _stop("interrupted; the same command resumes after what is complete", 130)
    except Exception as error:
        # MXNet's own are many lines of C++. Its class is not imported for commands without it.
        if type(error).__name__ != "MXNetError" or "TRNET_TRACEBACK" in os.environ:
            raise
        why = lines_of(error)[-1].removeprefix("MXNetError: ")
        _stop(f"error: MXNet failed: {why} (TRNET_TRACEBACK=1 shows where)", 1)


def _check_places(arguments: Sequence[str]) -> None:
    """Refuse a working directory that is gone, and names that MXNet cannot open."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        _stop("error: the working directory is no longer there", 2)
    # The `plugins` of a config are modules, often in the folder that one works in, which Python
    # does not search for an installed command. Last, so that no file there hides a package.
    if folder not in sys.path:
        sys.path.append(folder)
    for argument in arguments:
        if any("\udc80" <= character <= "\udcff" for character in argument):  # bytes of no UTF-8
            _stop(f"error: expected arguments in UTF-8, got {argument!a}", 2)


def door(command: str) -> None:
    """Run a subcommand from the script of that name in ``scripts/``.

    Python puts a script's own folder first on its path, where ``scripts/tabulate.py`` hides the
    package ``tabulate``; so the folder is taken off it.
    """
    scripts = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [path for path in sys.path if not path or Path(path).resolve() != scripts]
    main([command, *sys.argv[1:]])


class _Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all subcommands."""
    parser = _Parser(
        prog="trnet",
        description=trnet.__doc__,
        epilog="`trnet COMMAND --help` describes a command and shows examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"trnet {trnet.__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for name, module in COMMANDS.items():
        described = module.__doc__ or f"{name}."  # python -OO has no docstrings
        summary = described.partition("\n")[0]
        command = commands.add_parser(
            name,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=described,
            epilog="examples:\n" + indent(module.EXAMPLES.strip(), "  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    return parser


def _stop(message: str, code: int) -> NoReturn:
    streams.let_last()
    print(message, file=sys.stderr)
    sys.exit(code)
