"""What a setting must hold to, told with its name, its value and what it may be."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args, get_origin, get_type_hints

from llamita.errors import UsageError

# Beyond what anybody builds: a config of a stranger must not have memory or threads taken without end.
LARGEST_MODEL: Final = MappingProxyType(
    {"vocab_size": 1 << 22, "n_embd": 1 << 17, "n_layers": 1 << 10, "n_heads": 1 << 12, "n_kv_heads": 1 << 12}
    | {"head_dim": 1 << 14, "multiple_of": 1 << 17, "ffn_dim": 1 << 20, "max_seq_len": 1 << 20}
)
ROPE_TABLE: Final = 1 << 28  # positions times head_dim
LARGEST_TRAINING: Final = MappingProxyType({"batch_size": 1 << 20, "threads": 1 << 10, "sample_tokens": 1 << 16})
LARGEST_SCALING: Final = MappingProxyType(
    {"factor": 1e6, "original_max_seq_len": 1 << 20, "high_freq_factor": 1e6, "beta_fast": 1e6}
)
LEAST_TURNS: Final = 1e-6


def require(holds: bool, message: str) -> None:
    """UsageError with this message unless it holds."""
    if not holds:
        raise UsageError(message)


def chosen(table: str, config: object) -> None:
    """UsageError unless each field of a dataclass that is a choice, or several, has none but its values."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        kind, choices = (get_args(hint)[0], value) if get_origin(hint) is tuple else (hint, (value,))
        if get_origin(kind) is Literal and any(choice not in get_args(kind) for choice in choices):
            allowed = ", ".join(map(repr, get_args(kind)))
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
