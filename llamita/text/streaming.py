"""Text out of ids that arrive one at a time."""

import codecs

from llamita.text.byte_level import BYTE_TOKEN
from llamita.text.tokenizer import Tokenizer


class StreamDecoder:
    """Turns ids into text as they come, never showing part of a character.

    What `push` and `flush` return adds up to `tokenizer.decode` of all ids. A push takes constant time, as it
    looks back at one token that shows something alone. Only the byte tokens (<0xE2>) of a vocabulary that isn't
    byte-level wait for the token after them.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset[int]()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._recent: list[int] = []
        self._shown = 0  # characters of the text of the recent tokens that are out

    def push(self, token_id: int) -> str:
        """The text that has become certain with this id; UserError for an id outside the vocabulary."""
        (token_id,) = self._tokenizer.checked([token_id])
        if token_id in self._skipped:
            return ""
        table = self._tokenizer.byte_table
        if table is not None:
            return self._utf8.decode(table[token_id])
        self._recent.append(token_id)
        if BYTE_TOKEN.fullmatch(self._tokenizer.id_to_token(token_id) or ""):
            return ""
        text = self._release()
        self._shown += len(text)
        # A space that shows nothing alone, as the first of a text, would hide what follows it.
        if text and (alone := self._tokenizer.decode([token_id], skip_special=False)):
            self._recent, self._shown = [token_id], len(alone)
        return text

    def flush(self) -> str:
        """The rest: the bytes of an unfinished character show as U+FFFD. The next push begins a new text."""
        text = self._utf8.decode(b"", final=True) + self._release()
        self._recent, self._shown = [], 0
        return text

    def _release(self) -> str:
        return self._tokenizer.decode(self._recent, skip_special=False)[self._shown :]
