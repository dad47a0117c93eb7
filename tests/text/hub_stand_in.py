"""A hub of one's own on this machine, which answers what huggingface_hub asks of huggingface.co, and a process beside
that takes it for the hub."""

import contextlib
import gzip
import hashlib
import json
import logging
import multiprocessing
import os
import select
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, TypeVar

from llamita.text import hub_files

T = TypeVar("T")
TOKEN = "hf_of_somebody"
_LARGE = 200  # bytes from which on a file lies elsewhere, as large ones do
_PAGE = 3  # entries of a folder told at a time
_LATE = 5  # seconds until a request that isn't heard is answered after all

naps: list[float] = []  # seconds for which a user's process would have slept, had it been let


@dataclass
class Dataset:
    """Files by their paths at a commit, which every branch and tag leads to."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False

    @property
    def commit(self) -> str:
        """Another one whenever a file is another."""
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files.items())
        return hashlib.sha1(repr(content).encode()).hexdigest()


@dataclass
class Hub:
    """What lies on the hub, what was asked of it, and the troubles that it is to have."""

    address: str = ""
    datasets: dict[str, Dataset] = field(default_factory=dict)
    # Path and range of each request for content that was answered.
    reads: list[tuple[str, int, int]] = field(default_factory=list)
    # Taken one a request for content: a status, or "cut" for an answer that breaks off; None is for no trouble.
    troubles: list[int | str | None] = field(default_factory=list)
    retry_after: str = "0"  # told with each such status
    unheard: str = ""  # how the path of a request begins that isn't heard when it is made for the first time

    def read_paths(self) -> list[str]:
        """Which files were read, in order, each once in a row."""
        paths = [path for path, _, _ in self.reads]
        return [path for at, path in enumerate(paths) if at == 0 or path != paths[at - 1]]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def do_GET(self) -> None:
        if self.hub.unheard and self.path.startswith(self.hub.unheard):
            self.hub.unheard = ""
            if select.select([self.connection], [], [], _LATE)[0]:  # who asked has gone
                self.close_connection = True
                return
        url = urllib.parse.urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if parts[:1] == ["elsewhere"]:
            self._content("/".join(parts[1:3]), urllib.parse.unquote(parts[-1]))
        elif parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4:], urllib.parse.parse_qs(url.query))
        elif parts[:1] == ["datasets"] and parts[3] == "resolve":
            self._resolve("/".join(parts[1:3]), parts[4], urllib.parse.unquote("/".join(parts[5:])))
        else:
            self._refuse(404, "EntryNotFound")

    def _api(self, repository: str, asked: list[str], query: dict[str, list[str]]) -> None:
        dataset = self._found(repository, asked[1] if len(asked) > 1 else "main")
        if dataset is None:
            return
        if asked[:1] != ["tree"]:
            self._send(200, json.dumps({"id": repository, "sha": dataset.commit, "gated": dataset.gated}).encode())
            return
        folder = urllib.parse.unquote("/".join(asked[2:]))
        entries = _entries(dataset, folder, query["recursive"] == ["True"])
        if folder and not entries:
            self._refuse(404, "EntryNotFound")
            return
        begin = int(query.get("cursor", ["0"])[0])
        headers = {}
        if begin + _PAGE < len(entries):
            again = urllib.parse.urlencode({"recursive": query["recursive"][0], "cursor": begin + _PAGE})
            headers["Link"] = f'<{self.hub.address}{urllib.parse.urlsplit(self.path).path}?{again}>; rel="next"'
        self._send(200, json.dumps(entries[begin : begin + _PAGE]).encode(), headers)

    def _resolve(self, repository: str, revision: str, path: str) -> None:
        dataset = self._found(repository, revision)
        if dataset is None:
            return
        if path not in dataset.files:
            self._refuse(404, "EntryNotFound")
        elif dataset.gated and not self._is_known():
            self._refuse(401, "GatedRepo")
        elif len(dataset.files[path]) >= _LARGE:
            place = f"{self.hub.address}/elsewhere/{repository}/{urllib.parse.quote(path, safe='')}"
            self._send(302, b"", {"Location": place, "X-Repo-Commit": dataset.commit})
        else:
            self._content(repository, path)

    def _content(self, repository: str, path: str) -> None:
        data = self.hub.datasets[repository].files[path]
        trouble = self.hub.troubles.pop(0) if self.hub.troubles else None
        if isinstance(trouble, int):
            self._send(trouble, b"busy", {"Retry-After": self.hub.retry_after})
            return
        headers = {"ETag": f'"{len(data)}"'}
        if "gzip" in self.headers.get("accept-encoding", ""):  # as a proxy may do; ranges are of what is sent then
            data, headers["Content-Encoding"] = gzip.compress(data), "gzip"
        asked = self.headers.get("range")
        if asked is None:
            self._send(200, data, headers)
            return
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        if trouble == "cut":
            self._send(206, part[: len(part) // 2], headers | {"Content-Length": str(len(part))})
            self.close_connection = True
            return
        self.hub.reads.append((path, first, first + len(part)))
        self._send(206, part, headers)

    def _found(self, repository: str, revision: str) -> Dataset | None:
        dataset = self.hub.datasets.get(repository)
        if dataset is None or (dataset.private and not self._is_known()):
            self._refuse(404 if self._is_known() else 401, "RepoNotFound")
            return None
        if urllib.parse.unquote(revision) not in (*dataset.revisions, dataset.commit):
            self._refuse(404, "RevisionNotFound")
            return None
        return dataset

    def _is_known(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _entries(dataset: Dataset, folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    folders: dict[str, dict[str, Any]] = {}
    files = []
    for path, data in dataset.files.items():
        if not path.startswith(prefix):
            continue
        within = path.removeprefix(prefix).split("/")
        for depth in range(1, len(within) if recursive else min(len(within), 2)):
            name = prefix + "/".join(within[:depth])
            folders[name] = {"type": "directory", "oid": "0", "size": 0, "path": name}
        if recursive or len(within) == 1:
            large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
            entry = {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}
            files.append(entry | ({"lfs": large} if len(data) >= _LARGE else {}))
    return [*folders.values(), *files]


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub at an address of this machine."""
    hub = Hub()
    answers = type("Answers", (_Answers,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class User:
    """A process for which this hub is the hub: huggingface_hub reads its address once, when it is imported."""

    def __init__(self, **environment: str) -> None:
        forks = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=forks, initializer=_settle, initargs=(environment,))

    def does(self, function: Callable[..., T], *given: Any, **named: Any) -> T:
        """What a function gives there, or raises."""
        return self._pool.submit(function, *given, **named).result(timeout=120)

    def leaves(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _settle(environment: dict[str, str]) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)
    os.environ |= {"NO_PROXY": "*", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    hub_files.time = SimpleNamespace(sleep=naps.append)  # type: ignore[attr-defined,assignment]
    hub_files._BLOCK = 1 << 12


@contextlib.contextmanager
def told() -> Iterator[list[str]]:
    """What is logged meanwhile."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("llamita.text.hub_files")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
