"""Ctrl-C, SIGTERM and SIGUSR1: what a first and a second one do, wherever the main thread is just then."""

import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from types import FrameType, TracebackType

from rich.console import Console

from llamita.errors import command_line

_SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])
_OUT_OF_TIME = 75
_GRACE = 2.0  # seconds that the main thread has to stop by itself
_NO_MORE = b"\0"


def same_command() -> str:
    """This process's command line, to be typed again."""
    again = command_line(*sys.argv[1:])
    return f"{again}  # with the same text piped in" if any(map(_is_pipe, sys.argv[1:])) else again


def _is_pipe(word: str) -> bool:
    """Whether a word stands for something that can be read only once."""
    with suppress(OSError, ValueError):
        return word in ("-", "/dev/stdin") or stat.S_ISFIFO(os.stat(word).st_mode)
    return False


class Stopping:
    """While entered, a signal ends the program with 128 and its number, and `go_on`, what to type then, is told.

    It ends at once by SystemExit, or inside of `finishing` once the code there sees that this object has become
    true; there a second signal ends it at once. A main thread that sits in native code hears nothing of signals: a
    thread beside it ends the process two seconds later. Files appear whole, and the lock on a run dies with the
    process, so that there is nothing to be corrupted.

    Outside of the main thread, the only one that Python lets hear signals, entering it changes nothing.
    """

    def __init__(self, console: Console, go_on: str) -> None:
        self.go_on = go_on
        self._console = console
        self._finishing = False
        self._signal: int | None = None
        self._ending: SystemExit | None = None
        self._listening = False
        self._left = threading.Event()
        self._restored = ExitStack()

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal stopped; 75 (EX_TEMPFAIL: try again) where none did."""
        return _OUT_OF_TIME if self._signal is None else 128 + self._signal

    def __call__(self) -> bool:
        """Whether a signal came that lets work be finished."""
        return self._signal is not None

    def __bool__(self) -> bool:
        return self()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Work that asks this object where it can be left, and is left there after a first signal."""
        self._finishing = True
        try:
            with _spared_children() if self._listening else nullcontext():
                yield
        finally:
            self._finishing = False

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            with ExitStack() as stack:
                self._listen(stack)
                self._restored = stack.pop_all()
            self._listening = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self._ending
        if ending is not None:
            self._tell_end()
        self._left.set()
        self._restored.close()
        if ending is not None and error is not ending:
            # What was interrupted made another error of it, or none.
            raise ending from None

    def _listen(self, stack: ExitStack) -> None:
        inbox, outbox = (stack.enter_context(end) for end in socket.socketpair())
        outbox.setblocking(False)
        thread = threading.Thread(target=self._watch, args=(inbox,), name="llamita-signals", daemon=True)
        thread.start()
        stack.callback(thread.join, _GRACE)
        stack.callback(outbox.send, _NO_MORE)
        before = signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, before)
        for number in _SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, self._hear) or signal.SIG_DFL)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        """In the main thread, as soon as it runs Python; two quick signals of a kind may come as one."""
        if self._finishing and self._signal is None:
            self._signal = number
        elif self._ending is None and not self._left.is_set():
            self._ending = SystemExit(128 + number)
            raise self._ending

    def _watch(self, inbox: socket.socket) -> None:
        """In a thread beside, at once: each byte is the number of a signal that came."""
        first = True
        while (came := inbox.recv(1)) != _NO_MORE:
            if came[0] not in _SIGNALS:
                continue
            if self._finishing and first:
                _briefly(self._say, "finishing this step, then saving; once more to stop at once")
            elif not self._left.wait(_GRACE):
                _briefly(self._tell_end)
                os._exit(128 + came[0])
            first = False

    def _tell_end(self) -> None:
        self._console.show_cursor(True)
        self._say(f"stopped; go on with: {self.go_on}")

    def _say(self, text: str) -> None:
        # SystemExit is what rich makes of a pipe without a reader.
        with suppress(OSError, ValueError, SystemExit):
            self._console.print(text, markup=False)


def _briefly(tell: Callable[..., None], *text: str) -> None:
    """Print, but wait no longer than a moment for a terminal or a pipe that takes nothing."""
    thread = threading.Thread(target=tell, args=text, daemon=True)
    thread.start()
    thread.join(_GRACE)


@contextmanager
def _spared_children() -> Iterator[None]:
    """Start child processes that signals to all of a terminal's processes spare: compilers, above all.

    What the main thread blocks they inherit; the process hears signals through the thread beside it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
