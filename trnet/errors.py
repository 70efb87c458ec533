"""Mistakes that are the user's to mend."""


class UserError(Exception):
    """One line on what is wrong, where, and what would be right; scripts exit with 2."""


class MissingStack(UserError, ImportError):
    """MXNet cannot be imported here."""


class ConfigError(UserError):
    """A config that cannot be used; the message names file, key and value."""


class Diverged(UserError):
    """A training whose loss is no longer finite."""
