"""`tokenizer train` and `tokenizer encode`."""

from pathlib import Path

import pytest

from llamita.runs.folder import Run
from llamita.text.tokenizer import Tokenizer
from tests.cli.command_line import llamita


@pytest.mark.parametrize("kind", ["bpe", "word", "char", "byte"])
def test_a_tokenizer_is_trained_and_described(kind: str, tiny_text: Path, tmp_path: Path) -> None:
    file = tmp_path / "deep" / f"{kind}.json"
    command = ("tokenizer", "train", tiny_text, "--out", file, "--vocab-size", 300, "--kind", kind)
    told = llamita(*command, "--json").json
    tokenizer = Tokenizer.load(file)
    assert told == {
        "file": str(file),
        "kind": kind,
        "vocab_size": tokenizer.get_vocab_size(),
        "learned": tokenizer.get_vocab_size() - tokenizer.reserved,
        "reserved": tokenizer.reserved,
        "fingerprint": tokenizer.fingerprint,
    }
    assert tokenizer.kind == kind
    assert told["vocab_size"] % 64 == 0
    assert f"{told['vocab_size']} entries" in llamita(*command).out


def test_encoding_shows_ids_and_tokens(tiny_run: Run) -> None:
    text = "The ferryman <|end_of_text|> 渡し守"
    told = llamita("tokenizer", "encode", tiny_run.tokenizer_file, text, "--json").json
    tokenizer = tiny_run.tokenizer()
    assert told == {"ids": tokenizer.encode(text), "tokens": tokenizer.tokens(told["ids"]), "unknown": []}
    assert tokenizer.decode(told["ids"]) == text
    assert llamita("tokenizer", "encode", tiny_run.path, text, "--json").json == told
    shown = llamita("tokenizer", "encode", tiny_run.path, text).out.splitlines()
    assert [int(line.split()[0]) for line in shown] == told["ids"]


def test_what_the_vocabulary_lacks_is_named(tiny_text: Path, tmp_path: Path) -> None:
    file = tmp_path / "words.json"
    llamita("tokenizer", "train", tiny_text, "--out", file, "--kind", "word")
    told = llamita("tokenizer", "encode", file, "Maren pulled a zeppelin", "--json").json
    assert told["unknown"] == ["zeppelin"]
    assert "not in the vocabulary: zeppelin" in llamita("tokenizer", "encode", file, "Maren pulled a zeppelin").out


def test_an_empty_text_has_no_tokens(tiny_run: Run) -> None:
    told = llamita("tokenizer", "encode", tiny_run.path, "", "--json").json
    assert told == {"ids": [], "tokens": [], "unknown": []}
