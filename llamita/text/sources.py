"""Files, folders, globs and standard input to documents."""

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

__all__ = ["Document", "ReadReport", "Source", "Stamp", "find", "read", "read_from", "stamp", "total_bytes"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it stands: "book.txt", or "a.jsonl:12" for a line or a row, counted from 1."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a source from another, and from what it was before.

    path: absolute. bytes: as it lies on disk. mtime_ns, ctime_ns: when it was last written, and
    when anything of it was changed, which nobody can set back. sha256: of the content of
    standard input or a pipe, which have no such time.
    """

    path: str
    bytes: int
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    sha256: str | None = None


def find(paths: Sequence[str], *, report: ReadReport | None = None) -> list[Source]:
    """The sources behind files, folders, globs and "-", which is standard input, read here.

    Folders are searched in sorted order for known suffixes, without hidden files; a file that is named may
    have any suffix. A file found twice counts once. Raises UserError for a path that leads to nothing.
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
) -> Iterator[Document]:
    """The documents of sources: one a text file, one a line of jsonl, one a row of parquet.

    The same text gives the same document in every format: without a byte order mark, with "\\n" for line ends
    and U+FFFD for what is invalid. `field` names the text in jsonl and parquet; null is an empty text. `counts`
    gets the number of documents of each source when it is read. Raises UserError for what cannot be read and,
    at the end, if there was no document at all.
    """
    report = report or ReadReport()
    sources = list(sources)
    documents_before, empty_before = report.documents, report.empty
    for source in sources:
        source_before = report.documents
        for number, text in records(source, field, report):
            if not text or text.isspace():
                report.empty += 1
                continue
            report.documents += 1
            report.bytes += byte_length(text)
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


def read_from(number: int, sources: Sequence[Source], counts: Sequence[int], *, field: str) -> Iterator[Document]:
    """The documents from a number on, counted from 0; sources that are over by then are not opened.

    counts: the number of documents of each source, as `read` gives it.
    """
    for at, count in enumerate(counts):
        if number < count:
            return islice(read(sources[at:], field=field), number, None)
        number -= count
    return iter(())


def stamp(source: Source) -> Stamp:
    """What a source is now; UserError if it can't be looked at."""
    if source.content is not None:
        return Stamp(source.name, len(source.content), sha256=hashlib.sha256(source.content).hexdigest())
    with blaming(source.name):
        found = os.stat(source.name)
    return Stamp(os.path.abspath(source.name), found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def total_bytes(sources: Iterable[Source]) -> int:
    """Size of sources as they lie on disk, compressed or not: what `ReadReport.file_bytes` grows to."""
    return sum(map(_size, sources))


def _size(source: Source) -> int:
    if source.content is not None:
        return len(source.content)
    with blaming(source.name):
        return os.path.getsize(source.name)


def _expand(path: str, report: ReadReport) -> list[Source]:
    if path == "-":
        with blaming("standard input"):
            return [Source("standard input", content=sys.stdin.buffer.read())]
    matches = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    if not matches:
        raise UserError(f"{path}: no such file or folder: check the path")
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
