"""Bad input must not take the machine's memory, either."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

_MORE = 6 << 30  # bytes of address space beyond what the process has when a test begins


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Have whoever asks for too much memory fail rather than the machine."""
    status = Path("/proc/self/statm")
    if not status.exists():
        yield
        return
    size = int(status.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + _MORE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
