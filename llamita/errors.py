"""The error that a user can cause: the command line prints its message without a traceback."""


class UserError(ValueError):
    """Bad input; the message names the thing, its value and the remedy."""


class UsageError(UserError):
    """Bad configuration or command line: exit code 2 rather than 1."""
