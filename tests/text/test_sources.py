"""Sources: the same documents from every format, and a clear outcome for every file."""

import gzip
import io
import json
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llamita.errors import UserError
from llamita.text.sources import Document, ReadReport, Source, Stamp, find, read, read_from, stamp, total_bytes

TEXTS = ["The king loves his dog.\n", "Zwei Zeilen:\näöü €", "犬 😀\ttab", "  spaces  "]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


NOISE = random.Random(0).randbytes(5000)
PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def as_jsonl(texts: list[str | None], field: str = "text") -> bytes:
    return "".join(json.dumps({"id": n, field: text}) + "\n" for n, text in enumerate(texts)).encode()


def as_parquet(texts: list[str | None], field: str = "text", kind: pa.DataType | None = None) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"id": range(len(texts)), field: pa.array(texts, kind or pa.string())})
    pq.write_table(table, sink, row_group_size=3)
    return sink.getvalue()


def write_invalid_parquet(path: Path, data: bytes) -> None:
    """One row of a string column with any bytes, which arrow doesn't check."""
    offsets = pa.py_buffer(b"\0\0\0\0" + len(data).to_bytes(4, "little"))
    column = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(data))
    pq.write_table(pa.table({"text": column}), path)


def write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def texts_of(*paths: str | Path, field: str = "text", report: ReadReport | None = None) -> list[str]:
    found = find([str(path) for path in paths], report=report)
    return [document.text for document in read(found, field=field, report=report)]


UNICODE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@given(texts=st.lists(UNICODE, min_size=1, max_size=4))
@example(texts=["\ufeffa\r\nb\rc\n\r\n", "\ufeff\ufeff", "\u2028\x85\x1c line ends of others", "\ufffd"])
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_texts_in_any_format_and_packing_are_the_same_documents(tmp_path: Path, texts: list[str]) -> None:
    texts = [*texts, "one that isn't empty"]
    expected = [text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n") for text in texts]
    expected = [text for text in expected if text and not text.isspace()]
    for packing, pack in PACKERS.items():
        plain = [write(tmp_path / f"{n}.txt{packing}", pack(text.encode())) for n, text in enumerate(texts)]
        lines = write(tmp_path / f"a.jsonl{packing}", pack(as_jsonl([*texts])))
        rows = write(tmp_path / f"a.parquet{packing}", pack(as_parquet([*texts])))
        for paths in (plain, [lines], [rows]):
            report = ReadReport()
            assert texts_of(*paths, report=report) == expected
            assert report.documents == len(expected)
            assert report.empty == len(texts) - len(expected)
            assert report.bytes == sum(len(text.encode()) for text in expected)
            assert report.file_bytes == sum(os.path.getsize(path) for path in paths)
            assert report.replaced == 0


@given(pieces=st.lists(st.sampled_from([b"a", b"\xff", b"\xe2\x82", b"\xef\xbf\xbd", "é".encode(), b"\xed\xa0\x80"])))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_invalid_utf_8_is_replaced_and_counted_alike_in_every_format(tmp_path: Path, pieces: list[bytes]) -> None:
    data = b"text: " + b"".join(pieces) + b"."
    expected = data.decode("utf-8", "replace")
    invalid = expected.count("\ufffd") - data.count("\ufffd".encode())
    write_invalid_parquet(tmp_path / "a.parquet", data)
    paths = [
        write(tmp_path / "a.txt", data),
        write(tmp_path / "a.jsonl", b'{"text": "' + data + b'"}'),
        tmp_path / "a.parquet",
    ]
    for path in paths:
        report = ReadReport()
        assert texts_of(path, report=report) == [expected]
        assert report.replaced == invalid


@given(
    texts=st.lists(UNICODE, min_size=1, max_size=5).filter(lambda texts: not texts[0].isspace() and bool(texts[0])),
    limit=st.integers(4, 80),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_many_whole_documents_are_read_as_fit_and_a_first_one_that_does_not_is_cut(
    tmp_path: Path, texts: list[str], limit: int
) -> None:
    whole = texts_of(write(tmp_path / "whole.jsonl", as_jsonl([*texts, "one that isn't empty"])))
    expected, size = list[str](), 0
    for text in whole:
        size += len(text.encode())
        if size > limit:
            break
        expected.append(text)
    expected = expected or [whole[0].encode()[:limit].decode(errors="ignore")]
    half = len(texts) // 2
    paths = [
        write(tmp_path / "a.jsonl", as_jsonl([*texts[:half]])),
        write(tmp_path / "b.parquet", as_parquet([*texts[half:], "one that isn't empty"])),
    ]
    report, counts = ReadReport(), list[int]()
    sources = find(paths)
    found = [document.text for document in read(sources, report=report, counts=counts, max_bytes=limit)]
    assert found == expected
    assert report.bytes == sum(len(text.encode()) for text in found) <= limit
    assert len(counts) == 2 and sum(counts) == len(found)
    for number in range(len(found) + 1):
        again = read_from(number, sources, counts, field="text", max_bytes=limit)
        assert [document.text for document in again] == found[number:]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("limit", range(16, 30))
def test_a_text_is_cut_between_characters(encoding: str, limit: int, tmp_path: Path) -> None:
    text, report = "Łódź 😀 犬 " * 9, ReadReport()
    (source,) = find([write(tmp_path / "a.txt", text.encode(encoding))])
    (document,) = read([source], report=report, max_bytes=limit)
    assert text.startswith(document.text) and limit / 5 < len(document.text.encode()) <= limit
    assert report.replaced == 0
    (document,) = read([source], max_bytes=10**6)
    assert document.text == text


def test_only_a_file_can_begin_with_a_byte_order_mark_of_utf_16(tmp_path: Path) -> None:
    write_invalid_parquet(tmp_path / "a.parquet", b"\xff\xfeab")
    assert texts_of(tmp_path / "a.parquet") == ["\ufffd\ufffdab"]
    second = json.dumps({"text": "b"}).encode("utf-16")
    with pytest.raises(UserError, match=r"a\.jsonl:2 is not JSON"):
        texts_of(write(tmp_path / "a.jsonl", as_jsonl(["a"]) + second))


def test_lone_surrogates_spelled_in_json_are_replaced_and_counted(tmp_path: Path) -> None:
    report = ReadReport()
    path = write(tmp_path / "a.jsonl", rb'{"text": "pair \ud83d\ude00, half \ud83d, other half \ude00"}')
    assert texts_of(path, report=report) == ["pair 😀, half \ufffd, other half \ufffd"]
    assert report.replaced == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("packing", PACKERS)
def test_a_byte_order_mark_tells_the_encoding(encoding: str, packing: str, tmp_path: Path) -> None:
    text = "Łódź 😀\r\nzwei\n"
    mark = "" if encoding == "utf-8-sig" else "\ufeff"
    pack = PACKERS[packing]
    record = json.dumps({"text": text}, ensure_ascii=False)
    lines = f"{mark}{record}\r\n\r\n{record}".encode(encoding)
    plain = write(tmp_path / f"a.md{packing}", pack((mark + text).encode(encoding)))
    assert texts_of(plain) == ["Łódź 😀\nzwei\n"]
    assert texts_of(write(tmp_path / f"a.jsonl{packing}", pack(lines))) == ["Łódź 😀\nzwei\n"] * 2


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_string_column_is_read(kind: pa.DataType, tmp_path: Path) -> None:
    assert texts_of(write(tmp_path / "a.parquet", as_parquet([*TEXTS], kind=kind))) == TEXTS


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_packed_files_of_several_parts_are_read_to_the_end(packing: str, tmp_path: Path) -> None:
    parts = PACKERS[packing](b"one\n") + PACKERS[packing](b"two\n")
    assert texts_of(write(tmp_path / f"a.txt{packing}", parts)) == ["one\ntwo\n"]


def test_documents_say_where_they_stand(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.txt", b"one")
    lines = write(tmp_path / "a.jsonl", as_jsonl(["two", "", None, "three"]) + b'\n{"text": "four"}')
    rows = write(tmp_path / "a.parquet", as_parquet([None, "five"]))
    assert list(read(find([plain, lines, rows]))) == [
        Document("one", plain),
        Document("two", f"{lines}:1"),
        Document("three", f"{lines}:4"),
        Document("four", f"{lines}:6"),
        Document("five", f"{rows}:2"),
    ]


@pytest.mark.parametrize(("suffix", "encode"), [("jsonl", as_jsonl), ("parquet", as_parquet)])
def test_the_field_with_the_text_can_be_named(suffix: str, encode: Callable[..., bytes], tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", encode(TEXTS, field="content"))
    assert texts_of(path, field="content") == TEXTS
    with pytest.raises(UserError, match=rf"a\.{suffix}.* has no field 'text', only 'id', 'content': name the field"):
        texts_of(path)
    with pytest.raises(UserError, match=r"field 'id' is of type int(64)?, not string: name the one"):
        texts_of(path, field="id")


def test_records_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    broken_later = as_jsonl(["one", "two"]) + b"this line is broken\n"
    documents = read(find([write(tmp_path / "a.jsonl", broken_later)]))
    assert [next(documents).text, next(documents).text] == ["one", "two"]
    with pytest.raises(UserError, match=r"a\.jsonl:3 is not JSON"):
        next(documents)


def test_sources_can_be_read_twice(tmp_path: Path) -> None:
    sources = find(
        [
            write(tmp_path / "a.txt", b"one"),
            write(tmp_path / "a.parquet.gz", gzip.compress(as_parquet(["two"]))),
        ]
    )
    assert list(read(sources)) == list(read(sources))
    report = ReadReport()
    for _ in range(2):
        list(read(sources, report=report))
    assert (report.documents, report.file_bytes) == (4, 2 * total_bytes(sources))


def test_reading_goes_on_from_any_document_and_opens_no_source_before_it(tmp_path: Path) -> None:
    names = [
        write(tmp_path / "a.jsonl", as_jsonl(["one", "", "two", "three"])),
        write(tmp_path / "empty.txt", b" \n"),
        write(tmp_path / "b.txt", b"four"),
        write(tmp_path / "c.parquet", as_parquet(["five", None, "six"])),
    ]
    sources, counts, report = find(names), [], ReadReport(documents=7)
    whole = list(read(sources, counts=counts, report=report))
    assert counts == [3, 0, 1, 2] and len(whole) == 6
    for number in range(len(whole) + 2):
        assert list(read_from(number, sources, counts, field="text")) == whole[number:]
    for path in names[:3]:
        Path(path).unlink()
    assert list(read_from(4, sources, counts, field="text")) == whole[4:]
    assert list(read_from(6, sources, counts, field="text")) == []
    with pytest.raises(UserError, match=r"b\.txt cannot be read"):
        list(read_from(3, sources, counts, field="text"))


def test_a_stamp_changes_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write(tmp_path / "a.txt", b"one"))
    monkeypatch.chdir(tmp_path)
    (source,) = find(["a.txt"])
    first = stamp(source)
    assert first == Stamp(str(path), 3, path.stat().st_mtime_ns, path.stat().st_ctime_ns)
    path.write_bytes(b"two")
    os.utime(path, ns=(0, first.mtime_ns or 0))
    # Of the same size, and its time set back: what nobody can set back tells.
    assert stamp(source) != first
    assert (stamp(source).bytes, stamp(source).mtime_ns) == (3, first.mtime_ns)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.txt cannot be read"):
        stamp(source)


def test_what_can_be_read_once_is_stamped_by_its_content() -> None:
    one, other = (stamp(Source("standard input", content=content)) for content in (b"one", b"two"))
    assert (one.path, one.bytes, one.mtime_ns) == ("standard input", 3, None)
    assert one != other and one == stamp(Source("standard input", content=b"one"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.md", "sub/c.TXT", "sub/deep/d.jsonl", "e.txt.gz", ".hidden.txt", ".git/f.txt"):
        data = as_jsonl([name]) if ".jsonl" in name else name.encode()
        write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    write(tmp_path / "picture.png", b"\x89PNG\r\n\x1a\n\0\0")
    write(tmp_path / "sub" / "notes", b"a file without a suffix")
    return tmp_path


def test_a_folder_is_searched_in_order_for_known_suffixes(folder: Path) -> None:
    report = ReadReport()
    assert texts_of(folder, report=report) == ["a.md", "b.txt", "e.txt.gz", "sub/c.TXT", "sub/deep/d.jsonl"]
    assert report.skipped_files == 2
    assert total_bytes(find([str(folder)])) == report.file_bytes


def test_globs_find_files_and_folders(folder: Path) -> None:
    assert texts_of(folder / "*.txt") == ["b.txt"]
    assert texts_of(folder / "**" / "*.TXT") == ["sub/c.TXT"]
    assert texts_of(folder / "s*") == ["sub/c.TXT", "sub/deep/d.jsonl"]


def test_a_path_that_exists_is_no_glob(tmp_path: Path) -> None:
    write(tmp_path / "a1.txt", b"the pattern's match")
    assert texts_of(write(tmp_path / "a[1].txt", b"the file")) == ["the file"]


def test_a_file_found_twice_is_read_once(folder: Path) -> None:
    assert texts_of(folder / "b.txt", folder, folder / "sub" / ".." / "b.txt", folder / "*.txt")[0] == "b.txt"
    assert len(find([str(folder), str(folder / "b.txt"), f"{folder}/*"])) == len(find([str(folder)])) + 1


def test_a_named_file_may_have_any_suffix_if_it_is_text(folder: Path) -> None:
    assert texts_of(folder / "sub" / "notes") == ["a file without a suffix"]
    assert texts_of(write(folder / "book.v2.gz", gzip.compress(b"packed"))) == ["packed"]
    with pytest.raises(UserError, match=r"picture\.png is a binary file"):
        texts_of(folder / "picture.png")
    with pytest.raises(UserError, match=r"latin\.log is not text in UTF-8: convert it"):
        texts_of(write(folder / "latin.log", "äöü é".encode("latin-1")))


def test_standard_input_is_one_document_that_can_be_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\xef\xbb\xbfone\r\ntwo\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    sources = find(["-"])
    for _ in range(2):
        assert list(read(sources)) == [Document("one\ntwo\n", "standard input")]
    assert total_bytes(sources) == len(data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_at_once_and_can_be_read_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(as_jsonl(TEXTS),))
    writer.start()
    sources = find([str(pipe)])
    writer.join()
    for _ in range(2):
        assert [document.text for document in read(sources)] == TEXTS


def test_pipes_in_a_folder_from_which_nothing_may_ever_come_are_left_out(folder: Path) -> None:
    before, report = find([str(folder)]), ReadReport()
    os.mkfifo(folder / "pipe.txt")
    assert find([str(folder)], report=report) == before
    assert report.skipped_files == 3


def test_a_link_in_a_folder_that_leads_nowhere_is_named(folder: Path) -> None:
    (folder / "link.txt").symlink_to(folder / "gone.txt")
    with pytest.raises(UserError, match=r"link\.txt cannot be read .*No such file"):
        list(read(find([str(folder)])))


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_a_file_whose_name_is_no_text_is_named(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff.txt")).write_text("The owl.")
    for path in (folder, folder / "*.txt"):
        with pytest.raises(UserError, match=r"\\udcff\.txt': the name isn't UTF-8: rename the file"):
            find([str(path)])


def test_no_sources_at_all_are_an_error() -> None:
    with pytest.raises(UserError, match=r"no sources are given: .*\.txt, \.md, \.jsonl, \.parquet, each also with"):
        find([])


@pytest.mark.parametrize("name", ["missing.txt", "missing/*.txt", "[x].txt"])
def test_a_path_that_leads_nowhere_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        find([str(tmp_path / name)])
    assert str(error.value) == f"{tmp_path / name}: no such file or folder: check the path"


def test_a_folder_without_text_says_what_it_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "only.png", b"\0")
    with pytest.raises(UserError, match=r"no text in this folder: it needs files with \.txt, .*\.gz or \.zst"):
        find([str(tmp_path)])


@pytest.mark.parametrize("data", [b"", b" \r\n\n", b"\xef\xbb\xbf"])
def test_sources_without_any_text_are_an_error(data: bytes, tmp_path: Path) -> None:
    report = ReadReport()
    with pytest.raises(UserError, match=r"no text in .*a\.txt: sources: 1, empty documents: 1; give"):
        texts_of(write(tmp_path / "a.txt", data), report=report)
    assert (report.documents, report.empty) == (0, 1)


def test_an_empty_file_among_others_is_counted(tmp_path: Path) -> None:
    report = ReadReport()
    paths = [write(tmp_path / "empty.txt", b""), write(tmp_path / "three.txt", b"one\ntwo\nthree\n")]
    assert texts_of(*paths, report=report) == ["one\ntwo\nthree\n"]
    assert (report.documents, report.empty) == (1, 1)


@pytest.mark.parametrize("data", [b"MZ\x90\0\x03\0", "UTF-16 without a mark".encode("utf-16-le")])
def test_a_binary_file_is_named(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.txt is a binary file .*: give text in UTF-8"):
        texts_of(write(tmp_path / "a.txt", data))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"text": "unfinished',
            r"a\.jsonl:2 is not JSON \(Unterminated string starting at column 10.: each line must",
        ),
        (b"[" * 100_000, r"a\.jsonl:2 is not JSON"),
        (b'["text"]', r"a\.jsonl:2 is of type list, not an object"),
        (b'"text"', r"a\.jsonl:2 is of type str, not an object"),
        (
            b'{"title": "x", "body": "y"}',
            r"a\.jsonl:2 has no field 'text', only 'title', 'body': name the field",
        ),
        (b'{"text": ["a"]}', r"a\.jsonl:2: field 'text' is of type list, not string"),
        (b'{"text": 5}', r"a\.jsonl:2: field 'text' is of type int, not string"),
    ],
)
def test_a_bad_line_is_named_with_its_number(line: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        texts_of(write(tmp_path / "a.jsonl", as_jsonl(["fine"]) + line + b"\n"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt.gz", b"not packed"),
        ("a.txt.gz", gzip.compress(NOISE)[:-2000]),
        ("a.jsonl.zst", zstd(NOISE)[:-2000]),
        ("a.parquet", b""),
        ("a.parquet", b"PAR1 no, it is not PAR1"),
        ("a.parquet.gz", gzip.compress(b"no parquet inside")),
    ],
    ids=["no gzip", "cut gzip", "cut zstd", "empty", "no parquet", "no parquet packed"],
)
def test_a_damaged_file_is_named(name: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{name} cannot be read \(.*\): check or replace it"):
        texts_of(write(tmp_path / name, data))


def test_a_file_that_is_gone_when_it_is_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.txt cannot be read"):
        list(read([Source(str(tmp_path / "gone.txt"))]))
