"""TensorBoard: event files in the run folder, written here record by record, without a thread that could fail alone."""

import os
import shlex
import socket
import time
from collections.abc import Mapping
from typing import Any

from llamita import layers
from llamita.config import RunConfig
from llamita.files import File, make_folder
from llamita.runs.folder import Run
from llamita.tracking.tracker import load, verbatim

_VERSION = "brain.Event:2"  # from it on readers obey SessionLog.START: later steps of before are gone
_METRICS = ("train/loss", "eval/loss", "eval/bits_per_byte")


_PARTS = (
    "torch.utils.tensorboard.summary",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
)


def check_tensorboard() -> None:
    """UserError if it isn't installed, or doesn't load."""
    for package in ("tensorboard", *_PARTS):
        load("tensorboard", package)


class TensorBoard:
    """Figures, samples and hyperparameters under tensorboard/ of the run folder, a file a process."""

    def __init__(self, run: Run, config: RunConfig) -> None:
        self._summary, self._events, self._records = (load("tensorboard", package) for package in _PARTS)
        self._folder = run.path / "tensorboard"
        self._config = config
        self._writer: Any = None

    def start(self, step: int, /) -> str:
        """Go on behind a step, as a file that begins with that."""
        if self._writer is None:
            self._writer = self._records.RecordWriter(self._new_file())
            self._add(file_version=_VERSION)
            self._forget_after(step)
            for summary in self._summary.hparams(_plain(self._config), dict.fromkeys(_METRICS, 0.0)):
                self._add(summary=summary)
            self.text(step + 1, "config", layers.to_toml(self._config))
        else:
            self._forget_after(step)
        return shlex.join(["tensorboard", "--logdir", str(self._folder)])

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures of a step."""
        for name, value in figures.items():
            self._add(step=step, summary=self._summary.scalar(name, value))

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text of a step."""
        self._add(step=step, summary=self._summary.text(name, verbatim(text)))

    def finish(self, _failed: bool, /) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _new_file(self) -> File:
        make_folder(self._folder)
        # Readers go by the names' order.
        count = sum(1 for _ in self._folder.iterdir())
        name = f"events.out.tfevents.{int(time.time()):010d}.{count:06d}.{socket.gethostname()}.{os.getpid()}"
        return File(self._folder / name, "x")

    def _forget_after(self, step: int) -> None:
        status = self._events.SessionLog(status=self._events.SessionLog.START)
        self._add(step=step + 1, session_log=status)

    def _add(self, **parts: Any) -> None:
        self._writer.write(self._events.Event(wall_time=time.time(), **parts).SerializeToString())


def _plain(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Every setting as a kind of value that hyperparameters may have."""
    return {name: _value(value) for name, value in layers.flat(config).items()}


def _value(value: Any) -> bool | int | float | str:
    if value is None:
        return "off"
    return value if isinstance(value, bool | int | float | str) else ", ".join(map(str, value))
