"""Work that is stopped at any moment, in the test's own process: many times faster than killing others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from tests.faults import Disk, Moment


class Dead(BaseException):
    """What a killed process wouldn't have lived to see."""


@contextmanager
def stopped_at(number: int, moment: Moment) -> Iterator[None]:
    """Stop what is done here at a call: nothing reaches the disk after it, whatever is done about the exception."""
    with pytest.raises(Dead), Disk(number, moment, _be_dead).watched():
        yield


def moments(work: Callable[[], object]) -> list[tuple[int, Moment]]:
    """All moments of some work that the disk can tell apart, as it is done now: after a call is before the next."""
    with Disk().watched() as disk:
        work()
    assert len(disk.calls) > 30
    writes = [number for number, name in enumerate(disk.calls) if name == "write"]
    return [*((number, "before") for number in range(len(disk.calls))), *((number, "within") for number in writes)]


def _be_dead(disk: Disk) -> NoReturn:
    disk.number, disk.moment = len(disk.calls), "before"
    raise Dead
