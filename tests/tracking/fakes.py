"""wandb and trackio as far as they are called here, in memory: what they keep, and how they refuse."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest


@dataclass
class Board:
    """One run as a tracker keeps it, for as long as a test lasts."""

    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    begins: int = 0

    @property
    def steps(self) -> list[int]:
        """The step of each row."""
        return [step for step, _ in self.rows]

    def series(self, name: str) -> list[tuple[int, Any]]:
        """The values of a name by step."""
        return [(step, values[name]) for step, values in self.rows if name in values]


class _Config:
    def __init__(self, board: Board) -> None:
        self._board = board

    def update(self, values: dict[str, Any], *, allow_val_change: bool) -> None:
        assert allow_val_change
        self._board.config |= values


class _WandbRun:
    """Takes rows in the order of their steps, as the real one does, but fails at one that is older."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.config = _Config(board)
        self.offline = _mode() == "offline"
        self.url = "https://wandb.test/run" if _mode() == "online" else None
        self.dir = "runs/wandb/offline-run-1/files"
        self.step = board.rows[-1][0] + 1 if board.rows else 0
        self._last = self.step

    def log(self, values: dict[str, Any], *, step: int) -> None:
        assert step >= self._last
        self._last = step
        self._board.rows.append((step, values))

    def finish(self, *, exit_code: int) -> None:
        self._board.ends.append(exit_code)


def _mode() -> str:
    return os.environ.get("WANDB_MODE", "online")


@dataclass
class _Html:
    data: str
    inject: bool


@dataclass
class _Markdown:
    text: str


class _Settings(dict[str, Any]):
    @property
    def mode(self) -> str:
        return _mode()


@dataclass
class _Setup:
    settings: _Settings


def install_wandb(monkeypatch: pytest.MonkeyPatch, *, logged_in: bool = True) -> dict[tuple[str, str], Board]:
    """Put it in the place of wandb; gives its runs by project and id."""
    boards: dict[tuple[str, str], Board] = {}
    module: Any = ModuleType("wandb")

    def login(*, prompt: bool, verify: bool) -> bool:
        assert not prompt and not verify
        return logged_in

    def init(*, settings: _Settings, project: str, id: str, **arguments: Any) -> _WandbRun:
        board = boards.setdefault((project, id), Board())
        board.arguments, board.settings = arguments, dict(settings)
        board.begins += 1
        return _WandbRun(board)

    module.__version__ = "0.0"
    module.Settings, module.Html = _Settings, _Html
    module.login, module.init = login, init
    module.setup = lambda settings: _Setup(settings)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return boards


class _TrackioRun:
    def __init__(self, board: Board) -> None:
        self._board = board
        self._next_step = max(board.steps, default=-1) + 1

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self._board.rows.append((step, values))


def install_trackio(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Board]:
    """Put it in the place of trackio, talkative as that is; gives its runs by project and name."""
    boards: dict[tuple[str, str], Board] = {}
    current: list[Board] = []
    module: Any = ModuleType("trackio")

    def init(*, project: str, name: str, config: dict[str, Any], resume: str, embed: bool) -> _TrackioRun:
        assert resume == "allow" and not embed
        print(f"* Trackio project initialized: {project}")
        current[:] = [boards.setdefault((project, name), Board(config=config))]
        current[0].begins += 1
        return _TrackioRun(current[0])

    def finish() -> None:
        print("* Run finished.")
        current[0].ends.append(0)

    module.init, module.finish, module.Markdown = init, finish, _Markdown
    monkeypatch.setitem(sys.modules, "trackio", module)
    return boards


def only(boards: dict[tuple[str, str], Board]) -> Board:
    """The only run that a tracker has."""
    (board,) = boards.values()
    return board


def in_order(steps: Sequence[int]) -> bool:
    """Whether no step comes after a later one."""
    return list(steps) == sorted(steps)
