"""Errors that explain themselves to the user, each with the exit code that a launcher sees.

Every message names the value, the rule and the fix. `__main__` prints it without a traceback and exits with `code`.
"""


class UserError(Exception):
    """An error that its message explains completely; `code` is the process's exit status."""

    code = 1


class ConfigError(UserError):
    """A setting, a flag or a workdir that does not fit."""

    code = 2


class DataError(UserError):
    """A corpus, a query set or an embedding that cannot be used as it is."""

    code = 3


class StorageError(UserError):
    """A checkpoint, an index or a disk that cannot be read or written."""

    code = 4


class NonFiniteError(UserError):
    """A loss or a gradient that is not a number."""

    code = 5


class MachineError(UserError):
    """A device, a process or a package that is missing."""

    code = 6


class Stopped(UserError):  # noqa: N818  it is no error
    """Asked to stop, and everything was saved: start the same command again to continue."""

    code = 75


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def first_line(error: BaseException) -> str:
    """The first line of the message of another library's error."""
    return str(error).strip().partition("\n")[0]
