"""One source to its texts, by format, encoding and compression."""

import codecs
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from llamita.errors import UserError
from llamita.text.hub_files import HubFile, parquet_of

Format = Literal["text", "jsonl", "parquet"]
Compression = Literal["gzip", "zstd"]

_FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".parquet": "parquet"}
)
_COMPRESSIONS: Final[Mapping[str, Compression]] = MappingProxyType({".gz": "gzip", ".zst": "zstd"})
SUPPORTED: Final = f"{', '.join(_FORMATS)}, each also with {' or '.join(_COMPRESSIONS)}"

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_JSON: Final = re.compile(r"\.json(?=(?:\.gz|\.zst)?$)", re.IGNORECASE)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BUFFER: Final = 2**20  # bytes read at a time
_ROWS: Final = 256  # rows of a parquet file in memory at a time
_GARBLED: Final = 0.1  # share of invalid characters above which a file of an unknown format is no text


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read. `content` holds what can be read only once, like standard input; `remote` isn't here at all."""

    name: str
    format: Format = "text"
    compression: Compression | None = None
    is_guess: bool = False
    content: bytes | None = field(default=None, repr=False)
    remote: HubFile | None = field(default=None, repr=False)

    @classmethod
    def of(cls, path: str, content: bytes | None = None) -> "Source":
        """A source whose format is told by its suffix; text, as a guess, where the suffix is unknown."""
        suffixes = [suffix.lower() for suffix in Path(path).suffixes] or [""]
        compression = _COMPRESSIONS.get(suffixes[-1])
        suffix = "".join(suffixes[-2:-1]) if compression else suffixes[-1]
        return cls(path, _FORMATS.get(suffix, "text"), compression, suffix not in _FORMATS, content)

    @classmethod
    def on_hub(cls, file: HubFile) -> "Source":
        """A source on the hub, where .json mostly means a document a line."""
        return replace(cls.of(_JSON.sub(".jsonl", file.name)), name=file.name, remote=file)


@dataclass(slots=True)
class ReadReport:
    """What reading met, counted on while documents are read.

    documents: yielded. bytes: of their text in UTF-8. file_bytes: on disk, of the files that are done.
    replaced: characters that are U+FFFD because the source was invalid. empty: documents without text, which
    are left out. skipped_files: files in folders that are of no known format.
    """

    documents: int = 0
    bytes: int = 0
    file_bytes: int = 0
    replaced: int = 0
    empty: int = 0
    skipped_files: int = 0


def records(source: Source, field: str, report: ReadReport, most: int | None = None) -> Iterator[tuple[int, str]]:
    """Each text of a source with the number of its line or row, from 1; 0 for a text that is the whole file.

    Line ends are "\\n", a byte order mark is gone, what is invalid is U+FFFD. most: where the file is one
    text with more bytes than this, reading may end behind them. Raises UserError for what isn't of its format or
    lacks the field.
    """
    with blaming(source.name):
        for number, text in _READERS[source.format](source, field, report, most):
            yield number, _normalized(text, report)


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Turn errors of reading into ones that name the source."""
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # pyarrow decodes the names of columns
        raise UserError(f"{name} cannot be read ({error}): check or replace it") from error


def _whole_text(source: Source, _field: str, report: ReadReport, most: int | None) -> Iterator[tuple[int, str]]:
    replaced = report.replaced
    with _open(source) as stream:
        encoding = _encoding(stream.peek(4))
        data = stream.read(-1 if most is None else _enough(most, encoding))
        if most is not None and stream.peek(1):
            data = _without_torn_end(data, encoding)
        text = _decoded(data, encoding, report)
    if "\0" in text:
        raise UserError(
            f"{source.name} is a binary file (or UTF-16 without a byte order mark): give text in UTF-8, or "
            f"one of {SUPPORTED}"
        )
    if source.is_guess and report.replaced - replaced > _GARBLED * len(text):
        raise UserError(f"{source.name} is not text in UTF-8: convert it, or leave it out")
    yield 0, text


def _json_lines(source: Source, field: str, report: ReadReport, _most: int | None) -> Iterator[tuple[int, str]]:
    wanted = "each line must be one JSON object"
    if source.remote and _JSON.search(source.name):
        wanted += f"; take what the hub may have made of it: {parquet_of(source.remote.repository)}"
    with _open(source) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if line.strip():
                yield number, _json_text(_decoded(line, "utf-8", report), field, f"{source.name}:{number}", wanted)


def _json_text(line: str, field: str, where: str, wanted: str) -> str:
    try:
        record = json.loads(line.removeprefix("\ufeff").rstrip())
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise UserError(f"{where} is not JSON ({reason}): {wanted}") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise UserError(f"{where} is of type {kind}, not an object: {wanted}")
    if field not in record:
        raise UserError(_without_field(where, field, record))
    text = record[field]
    if not isinstance(text, str | None):
        kind = type(text).__name__
        raise UserError(f"{where}: field {field!r} is of type {kind}, not string: name the one with the text")
    return text or ""


def _parquet_rows(source: Source, field: str, report: ReadReport, _most: int | None) -> Iterator[tuple[int, str]]:
    # Without a buffer, which costs time, a column is taken as a whole from each group of rows; that may be all of it.
    buffered = _BUFFER if source.remote else 0
    with _seekable(source) as stream, pq.ParquetFile(stream, buffer_size=buffered) as file:
        schema = file.schema_arrow
        if field not in schema.names:
            raise UserError(_without_field(source.name, field, schema.names))
        kind = schema.field(field).type
        if not _is_text(kind):
            raise UserError(f"{source.name}: field {field!r} is of type {kind}, not string: name the one with the text")
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=[field]):
            # As bytes, because a string column may hold invalid UTF-8.
            for value in batch.column(0).cast(pa.large_binary()).to_pylist():
                number += 1
                yield number, _decoded(value or b"", "utf-8", report)


_Reader = Callable[[Source, str, ReadReport, int | None], Iterator[tuple[int, str]]]
_READERS: Final[Mapping[Format, _Reader]] = MappingProxyType(
    {"text": _whole_text, "jsonl": _json_lines, "parquet": _parquet_rows}
)


def _open(source: Source) -> io.BufferedReader:
    if source.content is not None:
        return io.BufferedReader(io.BytesIO(source.content))
    content = source.name if source.remote is None else source.remote.open()
    return io.BufferedReader(pa.input_stream(content, compression=source.compression), _BUFFER)


@contextmanager
def _seekable(source: Source) -> Iterator[IO[bytes]]:
    """The content of a source, unpacked into a temporary file where it is compressed."""
    if source.compression is None:
        with open(source.name, "rb") if source.remote is None else source.remote.open() as stream:
            yield stream
        return
    with _open(source) as stream, tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(stream, unpacked, _BUFFER)
        unpacked.seek(0)
        yield unpacked


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """Lines in UTF-8, from any encoding with a byte order mark."""
    encoding = _encoding(stream.peek(4))
    if encoding == "utf-8":
        return iter(stream)
    return (line.encode() for line in io.TextIOWrapper(stream, encoding, errors="replace", newline="\n"))


def _decoded(data: bytes, encoding: str, report: ReadReport) -> str:
    """Bytes as text, with U+FFFD, counted, for what the encoding doesn't allow."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
        report.replaced += text.count("\ufffd") - data.decode(encoding, "ignore").count("\ufffd")
        return text


def _enough(most: int, encoding: str) -> int:
    """Bytes of a file that give more text than this, though a line end may take two characters, and a mark be there."""
    return 2 * most * {"utf-16": 2, "utf-32": 4}.get(encoding, 1) + 8


def _without_torn_end(data: bytes, encoding: str) -> bytes:
    decoder = codecs.getincrementaldecoder(encoding)("ignore")
    decoder.decode(data)
    torn, _ = decoder.getstate()
    return data[: len(data) - len(torn)]


def _encoding(data: bytes) -> str:
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")


def _normalized(text: str, report: ReadReport) -> str:
    text = text.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text, lone = _SURROGATE.subn("\ufffd", text)  # JSON may spell half of a pair
        report.replaced += lone
    return text


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _without_field(where: str, field: str, there: Iterable[str]) -> str:
    return f"{where} has no field {field!r}, only {', '.join(map(repr, there))}: name the field with the text"
