"""Documents survive the way into shards and back, whole or not at all."""

import hashlib
import json
import re
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from llamita.errors import UserError
from llamita.text.shards import Corpora, Corpus, open_corpora, write_shards

BOS = 256


@dataclass(frozen=True)
class Document:
    text: str


@dataclass(frozen=True)
class ByteEncoder:
    """A token a byte, and whatever vocabulary is wanted above."""

    bos_id: int | None = BOS
    vocab_size: int = 257
    fingerprint: str = "bytes"
    shift: int = 0

    def get_vocab_size(self) -> int:
        return self.vocab_size

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[byte + self.shift for byte in text.encode(errors="surrogatepass")] for text in texts]


def documents(*texts: str) -> Iterator[Document]:
    return map(Document, texts)


def expected_stream(texts: list[str], bos_id: int | None = BOS) -> tuple[list[int], list[int]]:
    """The stream and the document starts, made plainly."""
    stream: list[int] = []
    starts: list[int] = []
    for text in texts:
        if text:
            starts.append(len(stream))
            stream += ([] if bos_id is None else [bos_id]) + list(text.encode())
    return stream, starts


def stream_of(corpus: Corpus) -> list[int]:
    return [int(token) for token in corpus.read(0, corpus.tokens)]


def held_out(corpora: Corpora) -> Corpus:
    assert corpora.validation is not None
    return corpora.validation


def text_of(corpus: Corpus) -> str:
    return bytes(token for token in stream_of(corpus) if token != BOS).decode()


TEXTS = ["one", "", "zwölf, drei", "x", "four four four", "", "5\n5\n"]


@pytest.mark.parametrize("bos_id", [BOS, None])
@pytest.mark.parametrize("shard_tokens", [1, 2, 7, 20, 1000])
def test_the_stream_is_bos_and_ids_of_every_document(tmp_path: Path, shard_tokens: int, bos_id: int | None) -> None:
    corpus = write_shards(documents(*TEXTS), ByteEncoder(bos_id=bos_id), tmp_path, shard_tokens=shard_tokens).train
    stream, starts = expected_stream(TEXTS, bos_id)
    assert stream_of(corpus) == stream
    assert corpus.document_starts.tolist() == starts
    assert (corpus.tokens, corpus.documents) == (len(stream), len(starts))
    assert corpus.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert (corpus.vocab_size, corpus.bos_id, corpus.fingerprint) == (257, bos_id, "bytes")
    assert len(corpus.shards) == 1 or shard_tokens < 1000


def test_reading_crosses_shard_borders_anywhere(tmp_path: Path) -> None:
    corpus = write_shards(documents(*TEXTS), ByteEncoder(), tmp_path, shard_tokens=1).train
    stream, _ = expected_stream(TEXTS)
    assert len(corpus.shards) > 3
    for start in range(len(stream) + 1):
        for stop in range(start, len(stream) + 1):
            assert corpus.read(start, stop).tolist() == stream[start:stop]
    places = np.random.default_rng(0).integers(0, len(stream), (4, 9))
    tokens = corpus.take(places)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[stream[place] for place in row] for row in places]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(257, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_ids_take_two_bytes_as_long_as_they_fit(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    encoder = ByteEncoder(vocab_size=vocab_size, shift=vocab_size - 256, bos_id=None)
    corpus = write_shards(documents("aÿ"), encoder, tmp_path).train
    assert stream_of(corpus) == [byte + encoder.shift for byte in "aÿ".encode()]
    stored = np.frombuffer((tmp_path / "train" / "shard_00000.bin").read_bytes(), dtype)
    assert stored.tolist() == stream_of(corpus)
    assert json.loads((tmp_path / "index.json").read_text())["dtype"] == np.dtype(dtype).name


def test_an_id_outside_of_the_vocabulary_never_reaches_a_shard(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write_shards(documents("a"), ByteEncoder(shift=200), tmp_path)
    assert not list((tmp_path / "train").glob("*.bin"))


def test_the_token_hash_is_that_of_the_stored_stream_whatever_the_shard_size(tmp_path: Path) -> None:
    hashes = set()
    for shard_tokens in (1, 6, 1000):
        folder = tmp_path / str(shard_tokens)
        corpus = write_shards(documents(*TEXTS), ByteEncoder(), folder, shard_tokens=shard_tokens).train
        stored = b"".join(path.read_bytes() for path in sorted((folder / "train").glob("*.bin")))
        assert corpus.token_hash == hashlib.sha256(stored).hexdigest()
        hashes.add(corpus.token_hash)
    assert len(hashes) == 1
    other = write_shards(documents(*TEXTS, "more"), ByteEncoder(), tmp_path / "other").train
    assert other.token_hash not in hashes


def test_documents_and_bytes_of_shards_add_up(tmp_path: Path) -> None:
    write_shards(documents(*TEXTS), ByteEncoder(), tmp_path, shard_tokens=5)
    record = json.loads((tmp_path / "index.json").read_text())["train"]
    for key in ("tokens", "documents", "text_bytes"):
        assert record[key] == sum(shard[key] for shard in record["shards"])
    assert record["text_bytes"] == sum(len(text.encode()) for text in TEXTS)


def test_documents_without_tokens_are_left_out_but_their_text_is_counted(tmp_path: Path) -> None:
    class WordLengthEncoder(ByteEncoder):
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[len(word) for word in text.split()] for text in texts]

    texts = ["one three", "  ", "zwölf", " \n "]
    corpus = write_shards(documents(*texts), WordLengthEncoder(), tmp_path, shard_tokens=1).train
    assert stream_of(corpus) == [BOS, 3, 5, BOS, 5]
    assert corpus.documents == 2
    assert corpus.text_bytes == 9 + 2 + 6 + 3


def test_progress_counts_bytes_of_text_up_to_all_of_them(tmp_path: Path) -> None:
    seen: list[int] = []
    write_shards(documents(*["é" * 300_000] * 5), ByteEncoder(), tmp_path, progress=seen.append)
    assert seen == sorted(seen) and len(seen) > 1
    assert seen[-1] == 5 * 600_000


def test_lone_surrogates_are_counted_and_not_an_error(tmp_path: Path) -> None:
    assert write_shards(documents("a\ud800b"), ByteEncoder(), tmp_path).train.text_bytes == 5


def test_whole_documents_are_held_out_by_number_and_seed(tmp_path: Path) -> None:
    texts = [f"document {number}\n" for number in range(2000)]
    chosen: dict[tuple[int, int], str] = {}
    for seed, shard_tokens in [(0, 1000), (0, 10**6), (1, 1000)]:
        corpora = write_shards(
            documents(*texts),
            ByteEncoder(),
            tmp_path,
            validation_fraction=0.1,
            seed=seed,
            shard_tokens=shard_tokens,
        )
        validation = held_out(corpora)
        assert corpora.split == "documents"
        assert 150 < validation.documents < 250
        assert corpora.train.documents + validation.documents == len(texts)
        lines = text_of(corpora.train).splitlines() + text_of(validation).splitlines()
        assert sorted(lines) == sorted(text.strip() for text in texts)
        chosen[seed, shard_tokens] = text_of(validation)
    assert chosen[0, 1000] == chosen[0, 10**6] != chosen[1, 1000]


def test_the_tail_of_a_single_document_is_held_out_from_a_line_start(tmp_path: Path) -> None:
    text = "".join(f"line {number} of a book\n" for number in range(1000))
    corpora = write_shards(documents(text), ByteEncoder(), tmp_path, validation_fraction=0.1)
    train, validation = corpora.train, held_out(corpora)
    assert corpora.split == "tail"
    assert text_of(train) + text_of(validation) == text
    assert text_of(validation).startswith("line ")
    assert validation.text_bytes == len(text_of(validation).encode())
    assert 0.1 <= validation.text_bytes / len(text) < 0.11
    assert train.documents == validation.documents == 1


def test_no_fraction_means_no_validation(tmp_path: Path) -> None:
    corpora = write_shards(documents("some text"), ByteEncoder(), tmp_path)
    assert (corpora.split, corpora.validation) == ("none", None)


def test_a_text_too_short_to_cut_is_all_for_training(tmp_path: Path) -> None:
    corpora = write_shards(documents("x"), ByteEncoder(), tmp_path, validation_fraction=0.1)
    assert (corpora.split, corpora.validation, corpora.train.tokens) == ("none", None, 2)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 3.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(UserError, match="fraction"):
        write_shards(documents("x"), ByteEncoder(), tmp_path, validation_fraction=fraction)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_sources_without_text_are_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(UserError, match="no text"):
        write_shards(documents(*texts), ByteEncoder(), tmp_path, validation_fraction=0.1)


def test_memory_stays_far_below_the_size_of_the_text(tmp_path: Path) -> None:
    class ArrayEncoder(ByteEncoder):
        def encode_batch(self, texts: list[str]) -> list[np.ndarray]:  # type: ignore[override]
            return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    tracemalloc.start()
    texts = (Document("ab" * 2**17) for _ in range(200))
    corpus = write_shards(texts, ArrayEncoder(), tmp_path, shard_tokens=10**7).train
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert corpus.text_bytes == 200 * 2**18
    assert peak < corpus.text_bytes / 4


class Interrupted(Exception):
    pass


def test_an_interruption_leaves_whole_shards_and_no_index(tmp_path: Path) -> None:
    write_shards(documents("an older text"), ByteEncoder(), tmp_path, validation_fraction=0.2)
    texts = ["a" * 2**19] * 9

    def broken() -> Iterator[Document]:
        yield from documents(*texts)
        raise Interrupted

    with pytest.raises(Interrupted):
        write_shards(broken(), ByteEncoder(), tmp_path, shard_tokens=3 * 2**19)
    with pytest.raises(UserError, match=r"index\.json is missing"):
        open_corpora(tmp_path)
    shards = sorted((tmp_path / "train").glob("*.bin"))
    assert [path.stat().st_size for path in shards] == [
        2 * 3 * (2**19 + 1)
    ] * 2  # two more documents were lost with a third
    corpus = write_shards(documents(*texts), ByteEncoder(), tmp_path).train
    assert stream_of(corpus) == expected_stream(texts)[0]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "index.json",
        "shard_00000.bin",
        "shard_00000.documents.npy",
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    write_shards(documents("text " * 100), ByteEncoder(), folder, validation_fraction=0.1)
    return folder


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def leave_open(path: Path) -> None:
    """Take the bracket that ends the header away."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b"}")] = ord(" ")
    path.write_bytes(content)


def set_version(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("index.json", Path.unlink, "is missing"),
        ("index.json", cut_short, "is damaged"),
        ("index.json", lambda path: path.write_text("[" * 100_000), "is damaged"),
        ("index.json", lambda path: path.write_text("[]"), "is damaged"),
        ("index.json", lambda path: path.write_text('{"version": 1, "train": {}}'), "is damaged"),
        ("index.json", set_version, "version 99"),
        ("train/shard_00000.bin", Path.unlink, "is missing"),
        ("train/shard_00000.bin", cut_short, "holds"),
        ("train/shard_00000.bin", lambda path: path.write_bytes(b""), "is damaged"),
        ("validation/shard_00000.bin", cut_short, "holds"),
        ("train/shard_00000.documents.npy", Path.unlink, "is missing"),
        ("train/shard_00000.documents.npy", cut_short, "is damaged"),
        ("train/shard_00000.documents.npy", lambda path: path.write_bytes(b""), "is damaged"),
        ("train/shard_00000.documents.npy", leave_open, "is damaged"),
        ("validation/shard_00000.documents.npy", lambda path: np.save(path, np.zeros(1)), "holds"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_file_and_the_remedy(
    tmp_path: Path, prepared: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    damage(folder / name)
    with pytest.raises(UserError, match=f"{re.escape(str(folder / name))}.*{message}.*prepare"):
        open_corpora(folder)


def test_opening_gives_what_writing_gave_and_minds_the_tokenizer(prepared: Path) -> None:
    corpora = open_corpora(prepared, ByteEncoder())
    assert corpora.split == "tail"
    assert text_of(corpora.train) + text_of(held_out(corpora)) == "text " * 100
    with pytest.raises(UserError, match="a tokenizer with fingerprint 'bytes', not 'others'"):
        open_corpora(prepared, ByteEncoder(fingerprint="others"))
    with pytest.raises(UserError, match="a tokenizer with vocab_size 257, not 300"):
        open_corpora(prepared, ByteEncoder(vocab_size=300))
    with pytest.raises(UserError, match="a tokenizer with bos_id 256, not None"):
        open_corpora(prepared, ByteEncoder(bos_id=None))


@pytest.mark.parametrize("text_bytes", ["x", [1], 10**400, -5, True])
def test_an_index_that_tells_of_no_number_of_bytes_is_damaged(
    tmp_path: Path, prepared: Path, text_bytes: object
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    index = json.loads((folder / "index.json").read_text())
    index["validation"]["text_bytes"] = text_bytes
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is damaged .*no number of bytes"):
        open_corpora(folder)


def test_an_id_that_is_none_is_told_when_it_is_read(tmp_path: Path) -> None:
    corpus = write_shards(documents("abc"), ByteEncoder(), tmp_path).train
    file = tmp_path / "train" / "shard_00000.bin"
    file.write_bytes(file.read_bytes()[:-2] + (257).to_bytes(2, "little"))
    damaged = open_corpora(tmp_path).train
    assert damaged.read(0, 3).tolist() == corpus.read(0, 3).tolist()
    with pytest.raises(
        UserError, match="token id 257, its vocabulary has 257: .* prepare the text again as another --run"
    ):
        damaged.read(2, 4)
