"""Mistakes that a user can correct, and what other errors say."""


class UserError(Exception):
    """One line on what is wrong, where, and what was expected; the command exits with 2."""


class MissingStack(UserError, ImportError):
    """MXNet, or a package of an extra, cannot be imported here."""


class ConfigError(UserError):
    """A config that cannot be used; the message names file, key and value."""


class Diverged(UserError):
    """A training whose loss or weights are no longer finite."""


class Stopped(Exception):
    """A training that a signal has ended; the message says where.

    Attributes
    ----------
    signal : int
        The signal's number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.signal = signal

    def __str__(self) -> str:
        return self.args[0]


def lines_of(error: BaseException) -> list[str]:
    """The lines of an error's message; its class, where there is none."""
    return str(error).strip().splitlines() or [type(error).__name__]
