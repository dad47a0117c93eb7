"""What went wrong in a run, in its incidents.jsonl, and the documents that were there when it did."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from llamita.runs.folder import Run
from llamita.text.batches import Batches, Position
from llamita.text.shards import Corpus
from llamita.text.tokenizer import Tokenizer
from llamita.training.events import Excerpt

_EXCERPTS = 8
_EXCERPT_TOKENS = 24


def note_incident(run: Run, row: dict[str, Any]) -> None:
    """Add a line to incidents.jsonl, numbers that JSON lacks as null; a disk that is full stops nothing."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    with contextlib.suppress(OSError):
        run.append_incident(plain)


def documents_of(batches: Batches, position: Position, accumulation: int) -> list[int]:
    """Numbers of the documents that the batch of a step shows, all its micro-batches together."""
    found = set[int]()
    for _ in range(accumulation):
        found.update(batches.documents(position).tolist())
        _, position = batches.batch(position)
    return sorted(found)


def excerpts(corpus: Corpus, tokenizer: Tokenizer, documents: Sequence[int]) -> tuple[Excerpt, ...]:
    """How the first of these documents begin."""
    told = []
    for number in documents[:_EXCERPTS]:
        begin = int(corpus.document_starts[number])
        end = int(corpus.document_starts[number + 1]) if number + 1 < corpus.documents else corpus.tokens
        tokens = corpus.read(begin, min(begin + _EXCERPT_TOKENS, end))
        told.append(Excerpt(number, tokenizer.decode(tokens)))
    return tuple(told)
