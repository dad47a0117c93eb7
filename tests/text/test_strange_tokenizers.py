"""Tokenizers of strangers: what can't be used says so, what is used is used right, and no memory is lost to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamita.errors import UserError
from llamita.text.byte_level import BYTE_SYMBOLS
from llamita.text.tokenizer import Tokenizer

CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus" / "tokenizer"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def loaded(folder: Path, **parts: Any) -> Tokenizer:
    """A tokenizer of a word, with other parts."""
    model = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, **parts}), encoding="utf-8")
    return Tokenizer.load(folder)


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def test_a_backend_that_panics_is_an_error_like_any_other() -> None:
    with pytest.raises(UserError, match="panics_when_loaded.json is not a tokenizer.json"):
        Tokenizer.load(CORPUS / "panics_when_loaded.json")
    tokenizer = Tokenizer.load(CORPUS / "panics_when_it_encodes.json")
    with pytest.raises(UserError, match="this tokenizer cannot encode the text .*: give one that can"):
        tokenizer.encode("text")
    with pytest.raises(UserError, match="cannot encode"):
        tokenizer.unknown("text")


def test_a_pattern_that_tries_forever_is_given_up() -> None:
    with pytest.raises(UserError, match="cannot encode the text .*retry-limit"):
        Tokenizer.load(CORPUS / "tries_forever.json").encode("a" * 3000 + "!")


def test_an_interrupt_is_no_error_of_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llamita.text.tokenizer.loses_nothing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loaded(tmp_path)


def test_ids_beyond_any_table_are_refused(tmp_path: Path) -> None:
    at_most = {"type": "WordLevel", "vocab": {"a": (1 << 22) - 1}, "unk_token": "a"}
    assert loaded(tmp_path, model=at_most).get_vocab_size() == 1 << 22
    with pytest.raises(UserError, match="a token has id 4194304: give a tokenizer whose ids are below 4194304"):
        loaded(tmp_path, model={**at_most, "vocab": {"a": 1 << 22}})


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": replacing({"String": "a"}, "a" * 5000)},
        {"normalizer": replacing({"Regex": ""}, "a" * 5000)},
        {"normalizer": replacing({"String": ""}, "a" * 5000)},
        {"normalizer": {"type": "Sequence", "normalizers": [replacing({"Regex": "."}, "aa")] * 12}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 7}},
        {
            "normalizer": replacing({"String": "a"}, "a" * 100),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 3},
        },
        {"decoder": {"type": "Sequence", "decoders": [replacing({"String": "a"}, "a" * 100)] * 2}},
    ],
)
def test_steps_that_make_a_text_much_longer_are_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its steps may make a text .* times as long"):
        loaded(tmp_path, **parts)


def test_steps_that_keep_a_text_at_its_length_are_taken_however_many(tmp_path: Path) -> None:
    many = [replacing({"String": "abc"}, "xyz"), {"type": "Lowercase"}, replacing({"Regex": "b"}, "")] * 30
    tokenizer = loaded(tmp_path, normalizer={"type": "Sequence", "normalizers": many})
    assert tokenizer.encode("abc") == [0]


def test_characters_without_an_unknown_token_are_left_to_the_backend() -> None:
    tokenizer = Tokenizer.load(CORPUS / "characters_without_unknown.json")
    assert tokenizer.kind == "wordlevel" and tokenizer.encode("aa") == [0, 0]
    with pytest.raises(UserError, match=r"cannot encode the text \(.*Missing \[UNK\]"):
        tokenizer.encode("ab")


def test_bytes_in_another_order_are_encoded_in_that_order() -> None:
    tokenizer = Tokenizer.load(CORPUS / "bytes_in_another_order.json")
    text = "a犬"
    assert tokenizer.encode(text) == [255 - byte for byte in text.encode()]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.token_to_id(symbol) for symbol in BYTE_SYMBOLS] == list(range(255, -1, -1))


def test_no_token_is_a_lone_surrogate(tmp_path: Path) -> None:
    assert loaded(tmp_path).token_to_id("\udcff") is None


def test_a_name_too_long_for_any_file_is_no_tokenizer() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load("x" * 5000)
