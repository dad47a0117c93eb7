"""Files, folders, globs, standard input and datasets of the hub to documents."""

import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

from llamita.errors import UserError
from llamita.text.formats import SUPPORTED, ReadReport, Source, blaming, records
from llamita.text.holdout import byte_length
from llamita.text.hub_address import Address, pinned
from llamita.text.hub_datasets import sources_of

__all__ = ["Document", "ReadReport", "Source", "Stamp", "find", "pin", "read", "read_from", "stamp", "total_bytes"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it stands: "book.txt", or "a.jsonl:12" for a line or a row, counted from 1."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a source from another, and from what it was before.

    path: absolute, or an address with its commit. bytes: as it lies on disk. mtime_ns, ctime_ns: when it was last
    written, and when anything of it was changed, which nobody can set back. sha256: of the content of what has no
    such time: standard input, pipes, large files of the hub.
    """

    path: str
    bytes: int
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    sha256: str | None = None


def find(paths: Sequence[str], *, report: ReadReport | None = None) -> list[Source]:
    """The sources behind files, folders, globs, addresses of datasets and "-", which is standard input, read here.

    Folders are searched in sorted order for known suffixes, without hidden files; a file that is named may
    have any suffix. A file found twice counts once. OWNER/NAME is a dataset where nothing of that name is here.
    Raises UserError for a path that leads to nothing.
    """
    report = report or ReadReport()
    if not paths:
        raise UserError(f"no sources are given: name files or folders with {SUPPORTED}, or - for standard input")
    found: dict[str, Source] = {}
    for path in paths:
        for source in _expand(path, report):
            if any("\udc80" <= one <= "\udcff" for one in source.name):  # how Python spells bytes that are no text
                raise UserError(f"{source.name!r}: the name isn't UTF-8: rename the file")
            found.setdefault(os.path.realpath(source.name), source)
    return list(found.values())


def read(
    sources: Iterable[Source],
    *,
    field: str = "text",
    report: ReadReport | None = None,
    counts: list[int] | None = None,
    max_bytes: int | None = None,
) -> Iterator[Document]:
    """The documents of sources: one a text file, one a line of jsonl, one a row of parquet.

    The same text gives the same document in every format: without a byte order mark, with "\\n" for line ends
    and U+FFFD for what is invalid. `field` names the text in jsonl and parquet; null is an empty text. `counts`
    gets the number of documents of each source when it is read. With `max_bytes` it ends before the document that
    would make it more text, or within it if that is the first; sources behind it aren't opened. Raises UserError for
    what cannot be read and, at the end, if there was no document at all.
    """
    report = report or ReadReport()
    sources = list(sources)
    documents_before, empty_before = report.documents, report.empty
    left = sys.maxsize if max_bytes is None else max_bytes
    for source in sources:
        source_before = report.documents
        for number, text in _texts(source, field, report, max_bytes) if left else ():
            size = byte_length(text)
            if size > left:
                text = _beginning(text, left) if report.documents == documents_before else ""
                left = size = byte_length(text)
            if not text:
                break
            left -= size
            report.documents += 1
            report.bytes += size
            yield Document(text, f"{source.name}:{number}" if number else source.name)
        report.file_bytes += total_bytes([source])
        if counts is not None:
            counts.append(report.documents - source_before)
    if report.documents == documents_before:
        names = ", ".join(source.name for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
        raise UserError(
            f"no text in {names}: sources: {len(sources)}, empty documents: {report.empty - empty_before}; "
            "give sources with text in them"
        )


def read_from(
    number: int, sources: Sequence[Source], counts: Sequence[int], *, field: str, max_bytes: int | None = None
) -> Iterator[Document]:
    """The documents from a number on, counted from 0; sources that are over by then are not opened.

    counts: the number of documents of each source, as `read` gives it with the same `max_bytes`.
    """
    for at, count in enumerate(counts):
        if number < count:
            # More than the rest may fit into what is for the whole.
            end = None if max_bytes is None else sum(counts[at:])
            return islice(read(sources[at:], field=field, max_bytes=max_bytes), number, end)
        number -= count
    return iter(())


def stamp(source: Source) -> Stamp:
    """What a source is now; UserError if it can't be looked at."""
    if source.content is not None:
        return Stamp(source.name, len(source.content), sha256=hashlib.sha256(source.content).hexdigest())
    if source.remote is not None:
        return Stamp(source.name, source.remote.size, sha256=source.remote.sha256)
    with blaming(source.name):
        found = os.stat(source.name)
    return Stamp(os.path.abspath(source.name), found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def total_bytes(sources: Iterable[Source]) -> int:
    """Size of sources as they lie on disk, compressed or not: what `ReadReport.file_bytes` grows to."""
    return sum(map(_size, sources))


def pin(path: str) -> str:
    """A source as settings keep it: a dataset of the hub as an address with the commit that its revision is now.

    UserError if the hub doesn't say.
    """
    return str(_dataset(path) or path)


def _texts(source: Source, field: str, report: ReadReport, most: int | None) -> Iterator[tuple[int, str]]:
    """The texts of a source that aren't empty."""
    for number, text in records(source, field, report, most):
        if text and not text.isspace():
            yield number, text
        else:
            report.empty += 1


def _beginning(text: str, most: int) -> str:
    return text[:most].encode()[:most].decode(errors="ignore")


def _dataset(path: str) -> Address | None:
    is_here = path == "-" or os.path.lexists(path) or glob.glob(path, recursive=True)
    return None if is_here else pinned(path)


def _size(source: Source) -> int:
    if source.content is not None:
        return len(source.content)
    if source.remote is not None:
        return source.remote.size
    with blaming(source.name):
        return os.path.getsize(source.name)


def _expand(path: str, report: ReadReport) -> list[Source]:
    if path == "-":
        with blaming("standard input"):
            return [Source("standard input", content=sys.stdin.buffer.read())]
    if address := _dataset(path):
        found, skipped = sources_of(address)
        report.skipped_files += skipped
        return found
    matches = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    if not matches:
        is_address = path.lower().startswith(("http:", "https:", "hf:"))
        hint = "give a dataset of the hub as hf://datasets/OWNER/NAME" if is_address else "check the path"
        raise UserError(f"{path}: no such file or folder: {hint}")
    found = [source for match in matches for source in _sources_at(match, report)]
    if not found:
        raise UserError(f"{path}: no text in this folder: it needs files with {SUPPORTED}")
    return found


def _sources_at(path: str, report: ReadReport) -> list[Source]:
    if os.path.isfile(path):
        return [Source.of(path)]
    if not os.path.isdir(path):
        with blaming(path):
            return [Source.of(path, content=Path(path).read_bytes())]  # a pipe, which can be read once
    files: list[Path] = []
    for place, folders, names in os.walk(path, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    inside = [Source.of(str(file)) for file in sorted(files)]
    known = [source for source in inside if not source.is_guess and not _is_endless(source.name)]
    report.skipped_files += len(inside) - len(known)
    return known


def _is_endless(path: str) -> bool:
    """Whether a path leads to a pipe, a socket or a device, from which nothing may ever come."""
    return os.path.exists(path) and not os.path.isfile(path)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be searched ({error}): check its permissions")
