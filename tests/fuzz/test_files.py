"""Files that somebody made: configurations, texts in every format, tokenizers. They are read, or refused."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import Unigram, WordPiece

from llamita import layers
from llamita.layers import Layer
from llamita.text.sources import find, read
from llamita.text.tokenizer import Tokenizer
from tests.fuzz.edits import (
    ByteEdit,
    JsonEdit,
    LineEdit,
    byte_edits,
    edited,
    json_edited,
    json_edits,
    line_edits,
    lines_edited,
    spelled,
    texts,
    values,
)
from tests.fuzz.plan import rounds
from tests.fuzz.trial import tried, works
from tests.training.tiny_runs import small_config

SAID = (
    "the king loves his dog.",
    "",
    " \n\t",
    "\0\x1b",
    "dog 犬 👩‍👩‍👧 é\ufeff￭",
    "<|begin_of_text|>",
    "\udcff",
    "a" * 3000,
)


def read_config(path: Path) -> None:
    """Build what a file says, and write it as a run would."""
    values, _ = layers.merge([Layer("", {"model": {"vocab_size": 64}}), layers.from_file(path)])
    config = layers.build(values)
    path.write_text(layers.to_toml(config), encoding="utf-8")
    assert layers.build(layers.from_file(path).values) == config


def read_source(path: Path) -> None:
    """Read a source to its end, and try to read another field of it."""
    for document in read(find([str(path)])):
        document.text.encode()
    works(lambda: [*read(find([str(path)]), field="other")])


def use_tokenizer(path: Path) -> None:
    """Load a tokenizer and do with it what commands do."""
    tokenizer = Tokenizer.load(path)
    assert tokenizer.fingerprint and tokenizer.get_vocab_size() >= 0 and tokenizer.reserved >= 0
    for text in SAID:
        works(lambda said=text: said_with(tokenizer, said))  # type: ignore[misc]


def said_with(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= number < tokenizer.get_vocab_size() for number in ids)
    assert len(tokenizer.tokens(ids)) == len(ids)
    tokenizer.unknown(text)
    decoded = tokenizer.decode(ids, skip_special=False)
    assert decoded == text or not tokenizer.lossless


@rounds("config")
def test_a_config_is_built_or_refused(number: int, seed: int, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    good = (layers.to_toml(small_config()), layers.to_toml(small_config(model__positions="learned")), "")

    def attempt(case: tuple[int, Sequence[LineEdit], Sequence[ByteEdit]]) -> bool:
        base, lines, edits = case
        file.write_bytes(edited(lines_edited(good[base], lines), edits))
        return works(lambda: read_config(file))

    cases = st.tuples(st.integers(0, 2), line_edits, st.one_of(st.just([]), byte_edits))
    assert tried(cases, number, attempt, seed=seed) >= number


@rounds("jsonl")
def test_json_lines_are_read_or_refused(number: int, seed: int, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"

    def attempt(case: tuple[list[Any], Sequence[ByteEdit]]) -> bool:
        rows, edits = case
        text = "\n".join(spelled(row) for row in rows)
        file.write_bytes(edited(text.encode(), edits))
        return works(lambda: read_source(file))

    record = st.fixed_dictionaries({"text": texts}, optional={"other": values})
    odd = st.one_of(st.fixed_dictionaries({"text": values}), values)
    rows = st.one_of(st.lists(record, min_size=1, max_size=6), st.lists(st.one_of(record, odd), min_size=1, max_size=3))
    cases = st.tuples(rows, st.one_of(st.just([]), byte_edits))
    assert tried(cases, number, attempt, seed=seed) >= number


@rounds("parquet")
def test_parquet_is_read_or_refused(number: int, seed: int, tmp_path: Path) -> None:
    columns: dict[str, Any] = {"text": ["a tale", None, "", "b" * 300], "other": [1, 2, 3, 4]}
    tables = [
        pa.table(columns),
        pa.table({"text": pa.array(["x", "y", "x"]).dictionary_encode(), "other": [["a"], [], None]}),
        pa.table({"text": pa.array([b"\xff", b"a"]), "other": pa.array(["a", "b"], pa.large_string())}),
    ]
    good = []
    for place, table in enumerate(tables):
        for compression in ("none", "snappy", "gzip", "zstd"):
            pq.write_table(table, tmp_path / "good.parquet", compression=compression, row_group_size=place + 1)
            good.append((tmp_path / "good.parquet").read_bytes())
    file = tmp_path / "a.parquet"

    def attempt(case: tuple[int, Sequence[ByteEdit]]) -> bool:
        base, edits = case
        file.write_bytes(edited(good[base], edits))
        return works(lambda: read_source(file))

    cases = st.tuples(st.integers(0, len(good) - 1), st.one_of(byte_edits, byte_edits.map(lambda edits: edits[:1])))
    assert tried(cases, number, attempt, seed=seed) >= number


@rounds("text")
def test_text_is_read_or_refused(number: int, seed: int, tmp_path: Path) -> None:
    tale = "A tale of a king.\r\nAnd his dog 犬.\n" * 20
    packed = {".txt": tale.encode(), ".md": tale.encode("utf-16"), ".txt.gz": gzip.compress(tale.encode(), mtime=0)}
    with pa.CompressedOutputStream(str(tmp_path / "a.zst"), "zstd") as stream:
        stream.write(tale.encode())
    packed[".txt.zst"] = (tmp_path / "a.zst").read_bytes()
    packed[".odd"] = tale.encode("utf-32")

    def attempt(case: tuple[str, Sequence[ByteEdit]]) -> bool:
        suffix, edits = case
        file = tmp_path / f"tale{suffix}"
        file.write_bytes(edited(packed[suffix], edits))
        return works(lambda: read_source(file))

    assert tried(st.tuples(st.sampled_from(list(packed)), byte_edits), number, attempt, seed=seed) >= number


@pytest.fixture(scope="module")
def good_tokenizers() -> list[str]:
    """A tokenizer.json of each kind, and two of kinds that only others make."""
    words = ["the king loves his dog", "the queen loves her cat", "犬 é ￭"]
    kinds = [Tokenizer.train(words, vocab_size=320, kind=kind).to_json() for kind in ("bpe", "word", "char", "byte")]
    others = [Backend(Unigram([("<unk>", 0.0), ("the", -1.0), ("k", -2.0)], unk_id=0)).to_str()]
    others.append(Backend(WordPiece({"[UNK]": 0, "the": 1, "##k": 2}, unk_token="[UNK]")).to_str())
    return kinds + others


@rounds("tokenizer")
def test_a_tokenizer_is_loaded_or_refused(number: int, seed: int, good_tokenizers: list[str], tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    parsed = [json.loads(text) for text in good_tokenizers]

    def attempt(case: tuple[int, Sequence[JsonEdit], Sequence[ByteEdit]]) -> bool:
        base, changes, edits = case
        file.write_bytes(edited(json_edited(parsed[base], changes).encode(), edits))
        return works(lambda: use_tokenizer(file))

    deep = json_edits.map(lambda edits: [edit for edit in edits if len(edit.way) > 2])
    changes = st.one_of(json_edits, deep, deep)
    cases = st.tuples(st.integers(0, len(parsed) - 1), changes, st.one_of(st.just([]), st.just([]), byte_edits))
    assert tried(cases, number, attempt, seed=seed) >= number
