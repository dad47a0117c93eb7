"""What may come of bad input: success, or an error that the user can understand, and soon."""

import faulthandler
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import hypothesis
from cyclopts import App
from hypothesis import HealthCheck, Phase, given
from hypothesis.strategies import SearchStrategy
from matplotlib.figure import Figure

from llamita.cli import app
from llamita.errors import UserError
from llamita.observatory import plots
from tests.cli.command_line import Outcome, llamita

SECONDS = 20.0
# Code in C doesn't hear the alarm; then the whole process goes, with a traceback.
_LAST_RESORT = 120

Case = TypeVar("Case")


class Hang(BaseException):
    """A case took too long."""


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Raise Hang in what takes longer than it may."""

    def ring(*_: object) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(_LAST_RESORT, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def works(work: Callable[[], object]) -> bool:
    """Whether it succeeds; a UserError is the only way in which it may not."""
    with in_time():
        try:
            work()
        except UserError as error:
            assert str(error).strip()
            return False
    return True


def commanded(*arguments: object, stdin: bytes = b"") -> Outcome:
    """Run a command line, which must succeed or say what is wrong, as a process would."""
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    explain = app._explain

    def explain_or_fail(error: Exception) -> None:
        if not isinstance(error, UserError):
            raise AssertionError("an error that nobody foresaw") from error
        explain(error)

    try:
        with in_time(), patch.object(app, "_explain", explain_or_fail):
            outcome = llamita(*arguments)
    finally:
        sys.stdin = before
    assert outcome.code in (0, 1, 2), outcome
    assert "--debug shows where" not in outcome.err and "Traceback" not in outcome.err, outcome.err
    assert outcome.code == 0 or (outcome.out + outcome.err).strip()
    return outcome


@contextmanager
def cheap() -> Iterator[None]:
    """Parse a command line that comes again only once, and draw small: both take longer than most commands do."""
    parse, known = App.parse_args, dict[tuple[str, ...], object]()

    def parsed(self: App, tokens: Sequence[str], **options: Any) -> object:
        if tuple(tokens) not in known:
            known[tuple(tokens)] = parse(self, tokens, **options)
        return known[tuple(tokens)]

    with patch.object(App, "parse_args", parsed), patch.object(plots, "Figure", lambda **_: Figure(figsize=(1, 1))):
        yield


def tried(cases: SearchStrategy[Case], number: int, attempt: Callable[[Case], bool], *, seed: int = 0) -> int:
    """Attempt so many cases; gives how many it really were. FUZZ_SEED in the environment tries others.

    `attempt` tells whether it succeeded: if nothing ever does, nothing is tried, either.
    """
    outcomes: list[bool] = []

    @hypothesis.seed(seed + 1000 * int(os.environ.get("FUZZ_SEED", "0")))
    @hypothesis.settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def each(case: Case) -> None:
        outcomes.append(attempt(case))

    each()
    assert any(outcomes)
    return len(outcomes)


def contents(folder: Path) -> dict[str, object]:
    """All that a folder holds, to tell whether it was changed."""
    found: dict[str, object] = {}
    for place, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(place, name)
            kind = path.lstat()
            plain = path.is_file() and not path.is_symlink() and kind.st_size < 1 << 24
            found[str(path)] = (kind.st_mode, kind.st_size, kind.st_mtime_ns, path.read_bytes() if plain else None)
    return found
