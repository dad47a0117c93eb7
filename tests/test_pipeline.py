"""From a file of text to a model that writes, the whole way."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import llamita
from llamita.runs.folder import Run
from llamita.text.shards import open_corpora
from tests.cli.command_line import TINY
from tests.cli.command_line import llamita as command
from tests.training.tiny_runs import small_run


def in_text(path: Path, texts: list[str]) -> Path:
    path.mkdir()
    for number, text in enumerate(texts):
        (path / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return path


def in_text_of_windows(path: Path, texts: list[str]) -> Path:
    path.mkdir()
    for number, text in enumerate(texts):
        (path / f"{number:02}.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    return path


def rows(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def in_json_lines(path: Path, texts: list[str]) -> Path:
    file = path.with_suffix(".jsonl.gz")
    file.write_bytes(gzip.compress(rows(texts)))
    return file


def in_compressed_json_lines(path: Path, texts: list[str]) -> Path:
    file = path.with_suffix(".jsonl.zst")
    with pa.output_stream(file, compression="zstd") as stream:
        stream.write(rows(texts))
    return file


def in_parquet(path: Path, texts: list[str]) -> Path:
    file = path.with_suffix(".parquet")
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), file)
    return file


FORMATS = [in_text, in_text_of_windows, in_json_lines, in_compressed_json_lines, in_parquet]


@pytest.fixture(scope="module")
def texts(tiny_text: Path) -> list[str]:
    """The tiny text in a few parts of several lines, with letters beyond ASCII."""
    parts = tiny_text.read_text(encoding="utf-8").replace("Maren", "Mårén").split("\n\n")
    return ["\n\n".join(parts[start : start + 4]) for start in range(0, len(parts), 4)]


@pytest.mark.parametrize("number", [1, 5])
def test_the_same_text_gives_the_same_tokens_in_every_format(number: int, texts: list[str], tmp_path: Path) -> None:
    hashes = set()
    for write in FORMATS:
        source = write(tmp_path / write.__name__, texts[:number])
        corpora = open_corpora(small_run(tmp_path / f"run {write.__name__}", source).data_folder)
        assert corpora.validation is not None
        assert corpora.train.tokens > 50
        hashes.add((corpora.train.token_hash, corpora.validation.token_hash))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("content", "held_out"),
    [
        ("One line.\nAnother line.\nA third line.\n", True),
        ("one line that has no end", True),
        ("ab", True),
        ("渡し守\n渡し守\n川\n", True),
        ("a", False),
    ],
)
def test_a_very_short_text_trains(content: str, held_out: bool, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text(content, encoding="utf-8")
    told = command("train", text, "--run", tmp_path / "run", *TINY, "--training.steps", 3, "--json")
    assert told.json["step"] == 3
    assert (told.json["val_loss"] is not None) == held_out
    assert ("there will be no validation loss" in told.err) is not held_out
    assert command("generate", tmp_path / "run", "a", "--max-new-tokens", 3, "--json").json["token_ids"]


def empty(folder: Path) -> None:
    (folder / "text.txt").touch()


def blank(folder: Path) -> None:
    (folder / "text.txt").write_text(" \n\t\n", encoding="utf-8")


def binary(folder: Path) -> None:
    (folder / "text.txt").write_bytes(bytes(range(256)) * 20)


def pictures(folder: Path) -> None:
    (folder / "cat.jpg").write_bytes(b"\xff\xd8\xff")


def nothing(folder: Path) -> None:
    assert not list(folder.iterdir())


def other_field(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"body": "text"}\n', encoding="utf-8")


@pytest.mark.parametrize(
    ("fill", "named"),
    [
        (empty, "no text"),
        (blank, "no text"),
        (binary, "binary"),
        (pictures, "no text in this folder"),
        (nothing, "no text in this folder"),
        (other_field, "no field 'text', only 'body'"),
    ],
)
def test_what_is_no_text_is_refused_before_anything_is_written(
    fill: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    fill(source)
    refused = command("train", source, "--run", tmp_path / "run", *TINY)
    assert (refused.code, refused.out) == (1, "")
    assert named in refused.err
    assert str(source) in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def book(size: int) -> str:
    """Sentences with something to learn: words, endings, who does what."""
    chance = random.Random(0)
    nouns = ["ferry", "river", "boat", "rope", "miller", "daughter", "lake", "winter", "road", "hand"]
    verbs = ["crosses", "follows", "remembers", "carries", "loses", "finds"]
    places = ["at night", "in the spring", "below the hills", "without a word", "before the rain"]
    lines: list[str] = []
    while sum(map(len, lines)) < size:
        some = [f"The {chance.choice(nouns)} {chance.choice(verbs)} the {chance.choice(nouns)}" for _ in range(5)]
        lines.append(" ".join(f"{line} {chance.choice(places)}." for line in some) + "\n\n")
    return "".join(lines)


def test_a_book_is_learnt_with_the_sizes_that_are_picked(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text(book(30_000), encoding="utf-8")
    run = tmp_path / "run"
    told = command("train", text, "--run", run, "--device", "cpu", "--training.steps", 20, "--json")
    losses = {row["step"]: row["val_loss"] for row in Run.open(run).metrics() if "val_loss" in row}
    assert told.json["val_loss"] == min(losses[step] for step in losses if step)
    assert losses[20] < losses[0] - 0.5
    assert losses[0] < torch.log(torch.tensor(told.json["vocab_size"])) + 0.5
    assert told.json["bits_per_byte"] < 3
    other = command("eval", run, text, "--json").json
    assert other["bits_per_byte"] == pytest.approx(told.json["bits_per_byte"], rel=0.1)


def test_the_library_goes_the_same_road(tiny_run: Run) -> None:
    tokenizer = llamita.Tokenizer.load(tiny_run.tokenizer_file)
    config = llamita.ModelConfig(vocab_size=tokenizer.get_vocab_size(), n_embd=32, n_layers=2, n_heads=2)
    model = llamita.LLaMaTransformer(config)
    ids = tokenizer.encode("The river is wide")
    assert model.embed(torch.tensor(ids)).shape == (len(ids), 32)
    assert model.embed(torch.tensor([ids])).shape == (1, len(ids), 32)
    (made,) = llamita.generate(model, tokenizer, "The river", max_new_tokens=3)
    assert len(made.token_ids) == 3
    opened = llamita.Run.open(tiny_run.path).model()
    assert opened.embeddings.weight.shape == (tokenizer.get_vocab_size(), 32)
