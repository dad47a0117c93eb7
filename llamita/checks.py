"""What a setting must hold to, told with its name, its value and what it may be."""

import math
from collections.abc import Mapping
from typing import Literal, get_args, get_origin, get_type_hints

from llamita.errors import UsageError


def require(holds: bool, message: str) -> None:
    """UsageError with this message unless it holds."""
    if not holds:
        raise UsageError(message)


def chosen(table: str, config: object) -> None:
    """UsageError unless each field of a dataclass that is a choice has one of its values."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            allowed = ", ".join(map(repr, get_args(hint)))
            raise UsageError(f"{table}.{name} = {value!r} must be one of {allowed}")


def positive(table: str, **values: float) -> None:
    """UsageError unless all are finite and greater than 0."""
    for name, value in values.items():
        require(0 < value < math.inf, f"{table}.{name} ({value}) must be greater than 0")


def at_most(limits: Mapping[str, float], table: str, config: object) -> None:
    """UsageError unless each field that has a limit keeps it."""
    for name, limit in limits.items():
        value = getattr(config, name)
        require(value <= limit, f"{table}.{name} ({value}) must be at most {limit}")
