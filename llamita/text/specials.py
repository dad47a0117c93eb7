"""What a tokenizer.json doesn't say, from the tokenizer_config.json beside it: where texts begin and end, say."""

import json
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from llamita.errors import UserError
from llamita.files import read_text, write_text
from llamita.text.vocabulary import BOS, EOS

Settings = dict[str, Any]

_FILE: Final = "tokenizer_config.json"
_TEMPLATE: Final = "chat_template.jinja"
_BYTES: Final = 1 << 24
_TOKENS: Final = ("bos_token", "eos_token", "pad_token", "unk_token")
_FLAGS: Final = ("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "split_special_tokens")
# Tokens that end a text besides bos_token and eos_token: a field of ours, for what generation_config.json says.
END_TOKENS: Final = "end_tokens"
_KEPT: Final = (*_TOKENS, *_FLAGS, END_TOKENS, "chat_template")
# Names by which a beginning and an end are known where no such file tells them.
_GUESSED: Final = {
    "bos_token": (BOS, "<s>", "<bos>", "[BOS]", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "<|endoftext|>"),
    "eos_token": (EOS, "</s>", "<eos>", "[EOS]", "<|endoftext|>", "<｜end▁of▁sentence｜>"),
}


def settings_beside(tokenizer_file: Path) -> Settings:
    """The settings that matter to others than transformers, empty where there are none; UserError for a broken file."""
    file, template = tokenizer_file.with_name(_FILE), tokenizer_file.with_name(_TEMPLATE)
    if not file.is_file():
        return {}
    try:
        given = json.loads(read_text(file, _BYTES))
        if not isinstance(given, dict):
            raise ValueError("no object")
        if template.is_file():
            given["chat_template"] = read_text(template, _BYTES)
        json.dumps(given, ensure_ascii=False).encode()  # a lone surrogate would fail where it is written
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: can't be read ({error}); copy it again, or remove it") from error
    kept = {name: given[name] for name in _KEPT if name in given}
    for name, (fits, wanted) in _WANTED.items():
        if kept.get(name) is not None and not fits(kept[name]):
            shown = reprlib.repr(kept[name])
            raise UserError(f"{file}: {name} is {shown}; it must be {wanted}: correct or remove it")
    for name in _TOKENS:
        told = kept.get(name)
        content = told.get("content") if isinstance(told, dict) else told
        if content is not None and not isinstance(content, str):
            raise UserError(f"{file}: {name} is {told!r}; it must be the text of a token")
        if name in kept:
            kept[name] = content
    return kept


def _is_template(value: Any) -> bool:
    named = value if isinstance(value, list) else [{"name": "", "template": value}]
    return all(isinstance(one, dict) and _are_texts([one.get("name"), one.get("template")]) for one in named)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_WANTED: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(_FLAGS, (lambda value: isinstance(value, bool), "true or false")),
    "chat_template": (_is_template, "a text, or a list of texts with names"),
    END_TOKENS: (_are_texts, "a list of the texts of tokens"),
}


def known_tokens(settings: Settings, token_to_id: Callable[[str], int | None]) -> Settings:
    """The same settings; a special token that isn't in the vocabulary is none, for no row of the table is its own."""
    unknown = [name for name in _TOKENS if settings.get(name) is not None and token_to_id(settings[name]) is None]
    return settings | dict.fromkeys(unknown)


def save_settings(settings: Settings, tokenizer_file: Path) -> None:
    """Write what `settings_beside` reads, and remove what it would read of an earlier tokenizer."""
    tokenizer_file.with_name(_TEMPLATE).unlink(missing_ok=True)
    if settings:
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        write_text(tokenizer_file.with_name(_FILE), text + "\n")
    else:
        tokenizer_file.with_name(_FILE).unlink(missing_ok=True)


def special_id(
    name: str, settings: Mapping[str, Any], token_to_id: Callable[[str], int | None], special: frozenset[int]
) -> int | None:
    """The id of the "bos_token" or "eos_token": what the settings say, or the first known name of a special token."""
    if name in settings:
        told = settings[name]
        return None if told is None else token_to_id(told)
    found = map(token_to_id, _GUESSED[name])
    return next((number for number in found if number in special), None)
