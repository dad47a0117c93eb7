"""The text of a continuation while its tokens come in."""

from collections.abc import Sequence

from llamita.text.streaming import StreamDecoder
from llamita.text.tokenizer import Tokenizer

# UTF-8 spells a character in at most so many bytes, so more of the prompt can't matter to what follows it.
_CHARACTER_BYTES = 4


class ContinuationText:
    """Text that follows a prompt, released as soon as it can't be part of a stop string any more.

    `stopped` says that a stop string was found: what came before it has been released, the rest never is.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stop = stop
        self._held = ""
        self._decoder = StreamDecoder(tokenizer)
        # A decoder that has seen the prompt's end knows whether a space belongs between it and the next word.
        prompt_end = prompt_ids[-_CHARACTER_BYTES:]
        shown = "".join(map(self._decoder.push, prompt_end))
        self._owed = len(tokenizer.decode(prompt_end)) - len(shown)

    def push(self, token_id: int) -> str:
        """The text that has become certain with this token."""
        return self._release(self._decoder.push(token_id), last=False)

    def flush(self) -> str:
        """The rest, without a character that was left unfinished."""
        return self._release(self._decoder.flush().rstrip("\N{REPLACEMENT CHARACTER}"), last=True)

    def _release(self, piece: str, *, last: bool) -> str:
        if self._owed:
            piece, self._owed = piece[self._owed :], max(self._owed - len(piece), 0)
        if self.stopped or not self._stop:
            return "" if self.stopped else piece
        text = self._held + piece
        # The match that ends first, as if characters came one by one: tokens don't decide where a text stops.
        found = [(start + len(s), start) for s in self._stop if (start := text.find(s)) >= 0]
        self.stopped = bool(found)
        certain = min(found)[1] if found else len(text) - (0 if last else self._undecided(text))
        self._held = text[certain:]
        return text[:certain]

    def _undecided(self, text: str) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        lengths = (n for s in self._stop for n in range(1, len(s)) if text.endswith(s[:n]))
        return max(lengths, default=0)
