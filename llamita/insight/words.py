"""Words as people type them, and the token ids that stand for them."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from llamita.errors import UserError
from llamita.text.tokenizer import Tokenizer

_BY_ID = re.compile(r"#(\d+)")
# What byte-level and sentencepiece vocabularies put before a token that begins a word.
_WORD_STARTS = ("Ġ", "▁")


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
    if by_id := _BY_ID.fullmatch(text):
        return _word(tokenizer, text, [*tokenizer.checked([int(by_id[1])])])
    spaced = tokenizer.byte_table is not None and not text[:1].isspace()
    spellings = [tokenizer.encode(spelling) for spelling in ([f" {text}"] if spaced else []) + [text]]
    exact = tokenizer.token_to_id(text)
    for ids in [*spellings, [] if exact is None else [exact]]:
        if len(ids) == 1 and not (exact is not None and ids[0] == tokenizer.unknown_id):
            return _checked(tokenizer, text, ids)
    return _checked(tokenizer, text, spellings[0])


def find_words(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[list[Word], list[str]]:
    """The words that the vocabulary has, each once, and those that it lacks."""
    found, missing = [], []
    for text in dict.fromkeys(texts):
        try:
            found.append(find_word(tokenizer, text))
        except UserError:
            missing.append(text)
    return found, missing


def whole_words(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens that are a word of running text by themselves; all but special ones if none is marked so."""
    names = {number: tokenizer.id_to_token(number) or "" for number in range(tokenizer.get_vocab_size())}
    plain = [number for number in names if number not in tokenizer.special_ids and names[number]]
    begun = [number for number in plain if names[number].startswith(_WORD_STARTS) and names[number][1:].isalpha()]
    return begun or plain


def _word(tokenizer: Tokenizer, text: str, ids: list[int]) -> Word:
    return Word(text, tuple(ids), tuple(tokenizer.tokens(ids)))


def _checked(tokenizer: Tokenizer, text: str, ids: list[int]) -> Word:
    if not ids:
        raise UserError(f"{text!r} has no tokens: give a word")
    if tokenizer.unknown_id in ids and (unknown := tokenizer.unknown(text)):
        names = filter(None, map(tokenizer.id_to_token, range(tokenizer.get_vocab_size())))
        near = difflib.get_close_matches(unknown[0], names, n=3)
        hint = f"; it has {', '.join(near)}" if near else ""
        raise UserError(f"{unknown[0]!r} isn't in the vocabulary of {tokenizer.get_vocab_size()} tokens{hint}")
    return _word(tokenizer, text, ids)
