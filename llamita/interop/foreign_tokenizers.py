"""The tokenizer of a Hugging Face folder, in whichever of three formats it comes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llamita.errors import UserError
from llamita.files import read_text
from llamita.interop.sentencepiece_bpe import sentencepiece_tokenizer
from llamita.interop.tiktoken_file import is_tiktoken, llama3_special_tokens, tiktoken_tokenizer
from llamita.text.specials import settings_beside
from llamita.text.tokenizer import Tokenizer
from llamita.text.vocabulary import add_first

_BYTES = 1 << 26
_LARGEST = 1 << 22
# Classes of tokenizers whose files of tiktoken's split text as Llama 3 does, or leave open what they are.
_LLAMA = ("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")


def tokenizer_of(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a folder with a model of that many rows: tokenizer.json, or else what it has instead.

    The names of special tokens, those that tokenizer_config.json and added_tokens.json add included, are ordinary text
    here. UserError names the file that is missing, damaged, too large for the model or can't give the same ids.
    """
    file = tokenizer_file_of(folder)
    tokenizer = Tokenizer.load(file) if file.suffix == ".json" else _converted(file, vocab_size)
    if tokenizer.get_vocab_size() > vocab_size:
        raise UserError(
            f"{folder / 'config.json'}: vocab_size is {vocab_size}, and {file} has "
            f"{tokenizer.get_vocab_size()} tokens; take both from one model"
        )
    return tokenizer


def tokenizer_file_of(folder: Path) -> Path:
    """tokenizer.json, or else tokenizer.model, or else the one *.tiktoken; UserError if there is none."""
    named = [file for name in ("tokenizer.json", "tokenizer.model") if (file := folder / name).is_file()]
    others = [file for file in sorted(folder.glob("*.tiktoken")) if file.is_file()]
    if not named and len(others) != 1:
        found = f"and {len(others)} *.tiktoken are" if others else "nor tokenizer.model or a *.tiktoken"
        raise UserError(f"{folder / 'tokenizer.json'}: isn't there, {found}; copy the model's tokenizer")
    return [*named, *others][0]


def _converted(file: Path, vocab_size: int) -> Tokenizer:
    added, told = _added_tokens(file.parent), settings_beside(file)
    try:
        with file.open("rb") as opened:
            data = opened.read(_BYTES + 1)
        if len(data) > _BYTES:
            raise ValueError(f"it has more than {_BYTES:,} bytes")
        if is_tiktoken(data):
            _check_class(file.parent)
            backend, settings = tiktoken_tokenizer(data), dict[str, Any]()
            size = backend.get_vocab_size()
            if not any(number >= size for number in added):
                added |= dict(enumerate(llama3_special_tokens(), size))
        else:
            backend, settings = sentencepiece_tokenizer(data)
        _add(backend, added, min(vocab_size, _LARGEST))
        tokenizer = Tokenizer(backend, settings | told)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: can't be read as a model of sentencepiece or a file of tiktoken ({error}); copy it again, or "
            "make a tokenizer.json with save_pretrained of transformers"
        ) from error
    _begin(backend, tokenizer)
    return tokenizer


def _added_tokens(folder: Path) -> dict[int, str]:
    """The tokens by id that a folder names beside its vocabulary; UserError for files that don't agree."""
    decoder = _object(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    entries = decoder.items() if isinstance(decoder, dict) else [("", None)]
    named = [(number, told.get("content") if isinstance(told, dict) else told) for number, told in entries]
    named += [(number, name) for name, number in _object(folder / "added_tokens.json").items()]
    found: dict[int, str] = {}
    for told, name in named:
        number = int(told) if isinstance(told, str) and told.isdecimal() and len(told) < 10 else told
        if type(number) is not int or number < 0 or not isinstance(name, str) or not name:
            raise UserError(f"{folder}: the added token {name!r} has id {told!r}; it must be a name and a number")
        if found.setdefault(number, name) != name:
            raise UserError(f"{folder}: id {number} is {found[number]!r} and {name!r}; keep one of them")
    return found


def _add(backend: Backend, added: Mapping[int, str], vocab_size: int) -> None:
    """Append special tokens; ids between them that nobody named are reserved. ValueError for those that don't fit."""
    size = backend.get_vocab_size()
    for number, name in added.items():
        there = backend.id_to_token(number) if number < size else name
        if there != name or number >= vocab_size or (number >= size and backend.token_to_id(name) is not None):
            raise ValueError(f"the added token {name!r} has id {number}, which doesn't fit the vocabulary of {size}")
    if len(set(added.values())) < len(added):
        raise ValueError("two added tokens have one name")
    names = (added.get(number, f"<|reserved_{number}|>") for number in range(size, max(added, default=0) + 1))
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    for number, name in added.items():
        if backend.token_to_id(name) != number:  # one before it has a name that is taken
            raise ValueError(f"the added token {name!r} can't have id {number}: a name before it is taken twice")


def _begin(backend: Backend, tokenizer: Tokenizer) -> None:
    name = None if tokenizer.bos_id is None else tokenizer.id_to_token(tokenizer.bos_id)
    if name is not None and tokenizer.settings.get("add_bos_token", True):
        add_first(backend, name)


def _check_class(folder: Path) -> None:
    kind = _object(folder / "tokenizer_config.json").get("tokenizer_class", _LLAMA[0])
    if kind not in _LLAMA:
        raise ValueError(f"tokenizer_class is {kind!r}, and where it splits text isn't known")


def _object(file: Path) -> dict[str, Any]:
    """The content of a JSON file, empty where there is none."""
    try:
        value = json.loads(read_text(file, _BYTES)) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: can't be read ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: must hold one object")
    return value
