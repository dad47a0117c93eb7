"""Ctrl-C and SIGTERM: the first finishes the step and saves, the second stops at once."""

import signal
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console

_SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])
_OUT_OF_TIME = 75


class Stopping:
    """While entered, true after the first signal; call it to ask."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal stopped; 75 (EX_TEMPFAIL: try again) where none did."""
        return _OUT_OF_TIME if self._signal is None else 128 + self._signal

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self._signal is not None

    def __bool__(self) -> bool:
        return self()

    def __enter__(self) -> "Stopping":
        self._before = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None:
            raise SystemExit(128 + number)
        self._signal = number
        self._console.print("finishing this step, then saving; once more to stop at once")
