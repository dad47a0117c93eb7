"""The sources of text that commands take."""

from typing import Annotated, Any

from cyclopts import Parameter

from llamita.checks import require


def _refuse_options(_type: Any, value: str | tuple[str, ...]) -> None:
    for source in (value,) if isinstance(value, str) else value:
        if source.startswith("-") and source != "-":
            raise ValueError(f"unknown option {source}; write ./{source} for a file of that name.")


# A lone hyphen is standard input, which the parser would take for an option.
SourceName = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_refuse_options)]


def check_max_bytes(most: int | None) -> None:
    """UsageError for less than a byte of text."""
    require(most is None or most > 0, f"--max-bytes ({most}) must be greater than 0")
