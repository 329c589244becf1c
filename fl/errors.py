"""Errors that a user can cause, each told in one sentence."""


class ConfigError(ValueError):
    """An option has a value that cannot work; the message names the option, the value and what would be right."""


class LaunchError(ConfigError):
    """The launcher's environment variables do not fit together; only the ranks that have such variables know."""


class DataError(RuntimeError):
    """A data set is missing or malformed; the message says which file and what to do."""


class RoundError(RuntimeError):
    """A round could not be completed on some rank; model, residuals and ledger are as they were before it."""
