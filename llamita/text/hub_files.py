"""Files of the datasets of a hub, read where they lie: no more than a block of bytes is ever here."""

import importlib
import io
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import quote

from llamita.errors import UserError

_WAITS: Final = (0.5, 1.0, 2.0, 4.0)  # seconds before each new try
_LONGEST_WAIT: Final = 300.0  # seconds; the window of the hub's limit on requests
_BLOCK: Final = 1 << 23  # bytes asked for at a time
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_FORBIDDEN: Final = frozenset({401, 403})
_PARTIAL: Final = 206
_LOG_IN: Final = "log in with `hf auth login` or set HF_TOKEN"

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a dataset at a commit.

    size: in bytes. sha256: of its content, which the hub knows of large files alone; a commit's files never change.
    """

    repository: str
    commit: str
    path: str
    size: int
    sha256: str | None = None

    @property
    def name(self) -> str:
        """Its address, of which anybody gets the same file."""
        return f"hf://datasets/{self.repository}@{self.commit}/{self.path}"

    def open(self) -> io.BufferedReader:
        """Its content, asked for as it is read; UserError where the hub doesn't give it."""
        return io.BufferedReader(_Ranges(self), _BLOCK)

    def read_range(self, start: int, length: int) -> bytes:
        """So many bytes from a place on, all of which must lie in the file."""
        return ask(self.repository, self.name, lambda: self._get(start, length))

    def _get(self, start: int, length: int) -> bytes:
        address = package().hf_hub_url(self.repository, self.path, repo_type="dataset", revision=self.commit)
        # Packed on the way, a range would be one of the packed bytes.
        response = _get(address, {"range": f"bytes={start}-{start + length - 1}", "accept-encoding": "identity"})
        data: bytes = response.content
        if response.status_code != _PARTIAL:  # small files may come whole
            if self.size > _BLOCK:
                raise UserError(f"{self.name}: the hub gives no parts of files: check HF_ENDPOINT and the proxy")
            data = data[start : start + length]
        if len(data) != length:
            raise ConnectionError(f"{len(data)} bytes came, {length} were asked for")
        return data


class _Ranges(io.RawIOBase):
    """A file that asks for what is read."""

    def __init__(self, file: HubFile) -> None:
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go somewhere else; nothing is asked for yet."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, or as much of it as one question gives."""
        view = memoryview(buffer).cast("B")
        length = min(len(view), _BLOCK, self._file.size - self._at)
        if length <= 0:
            return 0
        view[:length] = self._file.read_range(self._at, length)
        self._at += length
        return length


def listed(repository: str, commit: str, folder: str, *, recursive: bool) -> tuple[list[HubFile], list[str]]:
    """The files in a folder of a dataset ("" for all of it) at a commit, and the folders in it, sorted by their paths.

    UserError if it isn't there, or the hub doesn't say.
    """
    name = f"hf://datasets/{repository}@{commit}/{folder}".rstrip("/")
    package()
    base = f"{_constants().ENDPOINT}/api/datasets/{repository}/tree/{commit}"
    address: str | None = f"{base}/{quote(folder, safe='')}".rstrip("/") + f"?recursive={recursive}&expand=False"
    files: list[HubFile] = []
    folders: list[str] = []
    while address is not None:
        entries, address = ask(repository, name, partial(_page, address))
        for kind, path, size, sha256 in entries:
            if kind == "file":
                files.append(HubFile(repository, commit, path, size, sha256))
            else:
                folders.append(path)
    return sorted(files, key=lambda file: file.path), sorted(folders)


def _page(address: str) -> tuple[list[tuple[str, str, int, str | None]], str | None]:
    """Kind, path, size and SHA-256 of some entries, and where there are more."""
    response = _get(address)
    entries = [(one["type"], one["path"], one["size"], (one.get("lfs") or {}).get("oid")) for one in response.json()]
    return entries, response.links.get("next", {}).get("url")


def parquet_of(repository: str, config: str | None = None, split: str | None = None) -> str:
    """Where the hub keeps a config and a split of many datasets as parquet, whatever kind their own files are of."""
    return f"hf://datasets/{repository}@refs/convert/parquet/{config or 'default'}/{split or 'train'}"


def package() -> Any:
    """huggingface_hub; UserError without it."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError("datasets of the hub need huggingface_hub: pip install 'llamita[hub]'") from error


def ask(repository: str, name: str, question: Callable[[], T], *, tries_again: bool = True) -> T:
    """What a question to the hub gives; trouble that may pass is told once and waited for.

    A longer wait, for which the hub asks, is told each time. name: what is asked for, for messages. UserError that
    says what to do if there is no answer.
    """
    package()
    waits = _WAITS if tries_again else ()
    for number, wait in enumerate((*waits, None)):
        try:
            return question()
        except UserError:
            raise
        except Exception as error:  # of whichever library talks to the network there
            if wait is None or not _may_pass(error):
                raise UserError(f"{name}: {_remedy(repository, error)}") from error
            seconds = max(wait, _asked_wait(error))
            if number == 0 or seconds > wait:
                _log.warning("%s: %s; trying again in %g s", name, _first_line(error), seconds)
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def _get(address: str, headers: Mapping[str, str] = MappingProxyType({})) -> Any:
    """A response of the hub to whoever is logged in; its own errors where it refuses."""
    utils = importlib.import_module("huggingface_hub.utils")
    asked = {**utils.build_hf_headers(), **headers}
    response = utils.get_session().get(address, headers=asked, timeout=patience())
    utils.hf_raise_for_status(response)
    return response


def patience() -> float:
    """Seconds without a sign of the hub after which a question is asked again."""
    return float(_constants().HF_HUB_DOWNLOAD_TIMEOUT)


def _constants() -> Any:
    return importlib.import_module("huggingface_hub.constants")


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in _PASSING
    offline = importlib.import_module("huggingface_hub.errors").OfflineModeIsEnabled
    of_network = isinstance(error, OSError) or type(error).__module__.startswith("http")
    return of_network and not isinstance(error, offline | ValueError)


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _asked_wait(error: Exception) -> float:
    """Seconds that the hub wants one to wait."""
    try:
        return min(float(getattr(error, "response").headers["retry-after"]), _LONGEST_WAIT)  # noqa: B009
    except (AttributeError, KeyError, TypeError, ValueError):
        return 0.0


def _remedy(repository: str, error: Exception) -> str:
    """What happened, and what can be done about it."""
    errors = importlib.import_module("huggingface_hub.errors")
    page = f"{_constants().ENDPOINT}/datasets/{repository}"
    # The first that fits: some are kinds of those below.
    for kind, told in (
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, so the hub isn't asked: unset it, or name files"),
        (errors.GatedRepoError, f"the dataset is gated: accept its terms at {page}, and {_LOG_IN}"),
        (errors.RepositoryNotFoundError, f"no such dataset, or a private one: check {page}; if it's yours, {_LOG_IN}"),
        (errors.RevisionNotFoundError, f"no such revision: name a branch, tag or commit that {page} has"),
        (errors.EntryNotFoundError, f"no such file or folder in the dataset: look for it at {page}"),
        (errors.HFValidationError, f"no name of a dataset ({_first_line(error)}): give OWNER/NAME"),
    ):
        if isinstance(error, kind):
            return told
    if _status(error) in _FORBIDDEN:
        return f"the hub doesn't let you read it ({_first_line(error)}): {_LOG_IN}"
    return (
        f"the hub doesn't answer ({_first_line(error)}): check the network and HF_ENDPOINT, and try again; "
        "what was prepared stays"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
