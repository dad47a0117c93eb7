"""Words as people type them, and the token ids that stand for them."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from llamita.errors import UserError
from llamita.text.tokenizer import Tokenizer

_BY_ID = re.compile(r"#(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its tokens; several where the vocabulary has no single one for it."""

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]

    @property
    def several(self) -> bool:
        """Whether it takes more than one token."""
        return len(self.ids) > 1

    def __str__(self) -> str:
        parts = " + ".join(map(repr, self.tokens))
        return f"{self.text!r} is {len(self.ids)} tokens ({parts})" if self.several else f"{self.text!r} is {parts}"


def find_word(tokenizer: Tokenizer, text: str) -> Word:
    """The tokens of a word as it stands in running text, after a space, if one token says it so.

    Otherwise the token of the word without a space, of that spelling in tokenizer.json, or several tokens.
    "#123" is token 123. UserError for what the vocabulary doesn't have.
    """
    found = _find(tokenizer, text)
    if found is not None:
        return found
    names = filter(None, map(tokenizer.id_to_token, range(tokenizer.get_vocab_size())))
    unknown = (tokenizer.unknown(text) or [text])[0]
    near = difflib.get_close_matches(unknown, names, n=3)
    hint = f"; it has {', '.join(near)}" if near else ""
    raise UserError(f"{unknown!r} isn't in the vocabulary of {tokenizer.get_vocab_size()} tokens{hint}")


def find_words(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[list[Word], list[str]]:
    """The words that the vocabulary has, each once, and those that it lacks."""
    found = {text: _find(tokenizer, text) for text in dict.fromkeys(texts)}
    return [word for word in found.values() if word], [text for text, word in found.items() if word is None]


def whole_words(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens that are a word of running text by themselves; all that stand for text if none is marked so."""
    plain = [number for number in range(tokenizer.get_vocab_size()) if stands_for_text(tokenizer, number)]
    texts = [text.replace("▁", " ", 1) for text in tokenizer.tokens(plain)]
    begun = [number for number, text in zip(plain, texts, strict=True) if text[:1] == " " and text[1:].isalpha()]
    return begun or plain


def stands_for_text(tokenizer: Tokenizer, number: int) -> bool:
    """Whether text is made of a token: not of special, reserved and unknown ones, nor of ids without a token."""
    mute = number in tokenizer.special_ids or number == tokenizer.unknown_id
    return not mute and tokenizer.id_to_token(number) is not None


def _find(tokenizer: Tokenizer, text: str) -> Word | None:
    """The tokens of a word; None if the vocabulary lacks it. UserError for an empty word or a wrong id."""
    if by_id := _BY_ID.fullmatch(text):
        return _word(tokenizer, text, tokenizer.checked([int(by_id[1])]))
    exact = tokenizer.token_to_id(text)
    if exact is not None and not stands_for_text(tokenizer, exact):
        return _word(tokenizer, text, [exact])
    ids = tokenizer.encode(text)
    if not ids:
        raise UserError(f"{text!r} has no tokens: give a word")
    spaced = tokenizer.encode(f" {text}") if tokenizer.byte_table is not None and not text[0].isspace() else ids
    for spelling in (spaced, ids, [] if exact is None else [exact]):
        if len(spelling) == 1 and spelling[0] != tokenizer.unknown_id:
            return _word(tokenizer, text, spelling)
    return None if tokenizer.unknown_id in spaced and tokenizer.unknown(text) else _word(tokenizer, text, spaced)


def _word(tokenizer: Tokenizer, text: str, ids: list[int]) -> Word:
    return Word(text, tuple(ids), tuple(tokenizer.tokens(ids)))
