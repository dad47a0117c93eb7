"""The error that a user can cause: the command line prints its message without a traceback."""

import shlex


class UserError(ValueError):
    """Bad input; the message names the thing, its value and the remedy."""


class UsageError(UserError):
    """Bad configuration or command line: exit code 2 rather than 1."""


def command_line(*words: object) -> str:
    """A command for a message to name, quoted so that it can be typed as it stands."""
    return shlex.join(["llamita", *map(str, words)])
