"""Shards to packed batches: a batch is a pure function of its position, so that resuming costs nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from llamita.errors import UserError
from llamita.text.order import permuted, random_words
from llamita.text.shards import Corpus, IntArray

IGNORE = -100  # a target that is none; the value torch.nn.functional.cross_entropy ignores
NOTHING = -1  # in place of an index into the stream


@dataclass(frozen=True)
class Position:
    """How far the order of rows was read; it means a place in one corpus, cut and packed in one way."""

    epoch: int = 0
    row: int = 0

    def to_dict(self) -> dict[str, int]:
        """The position as JSON stores it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Position":
        """The position that `to_dict` stored; raises UserError for anything else."""
        if set(values) != {"epoch", "row"} or not all(type(n) is int and n >= 0 for n in values.values()):
            raise UserError(f"data position {dict(values)}: give epoch and row, both whole numbers from 0")
        return cls(**values)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of token ids with the ids to predict; all arrays have the shape (rows, seq_len).

    inputs: 0 as padding. targets: IGNORE where there is none. documents: number of the document within its
    row, ascending from 0, padding being one of its own; None unless asked for. tokens: number of targets.
    """

    inputs: IntArray
    targets: IntArray
    documents: IntArray | None
    tokens: int


class Batches:
    """Batches of a corpus in a seeded order; every token is an input exactly once an epoch.

    packing "stream": the corpus is one stream cut every `seq_len` tokens, at other places in every epoch;
    each token but the very first is a target exactly once.
    packing "documents": whole documents, fitted into rows once; longer ones are cut every `seq_len` tokens.
    The end of a document is an event to predict: the target of its last token is BOS, at the end of a row
    too. In a corpus without BOS it is the first token of the document next in the row, if there is one.

    shuffle: other order and cuts in every epoch; else rows come as they lie. mask_documents: give
    `Batch.documents`. The ranks read one global order: of its next `rows * world_size` rows each has its
    contiguous share. Raises UserError for an empty corpus or sizes below 1.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        rows: int,
        seq_len: int,
        seed: int,
        packing: Literal["stream", "documents"] = "stream",
        mask_documents: bool = False,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if min(rows, seq_len) < 1:
            raise UserError(f"batches of {rows} rows of {seq_len} tokens: give at least 1 of both")
        if not corpus.tokens:
            raise UserError("the corpus holds no tokens; prepare a text that is not empty")
        assert 0 <= rank < world_size
        self.corpus, self.rows, self.seq_len = corpus, rows, seq_len
        self.seed = seed if shuffle else None
        self.mask_documents = mask_documents
        self._global_rows = rows * world_size
        self._share = range(rank * rows, (rank + 1) * rows)
        self._layout: _Stream | _Packed
        if packing == "stream":
            self._layout = _Stream(corpus.tokens, seq_len, self.seed)
        else:
            self._layout = _Packed(corpus, seq_len)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of the first epoch, all ranks together; a shuffled stream may have one more in later ones."""
        return self.rows_in(0)

    def rows_in(self, epoch: int) -> int:
        """Rows of an epoch, all ranks together."""
        return self._layout.rows_in(epoch)

    def batch(self, position: Position) -> tuple[Batch, Position]:
        """This rank's share of the global batch at a position, and the position after it.

        Always full: after the last row of an epoch comes the first of the next. Raises UserError for a
        position outside of its epoch.
        """
        return self._read(position, None)

    def iterate(self, position: Position = Position()) -> Iterator[tuple[Batch, Position]]:
        """Batches from a position on, without end, each with the position after it."""
        while True:
            batch, position = self.batch(position)
            yield batch, position

    def one_epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """Exactly the rows of one epoch, in as many batches on every rank; blank rows fill up the last."""
        position = Position(epoch)
        while position.epoch == epoch:
            batch, position = self._read(position, epoch)
            yield batch

    def documents(self, position: Position) -> IntArray:
        """Numbers of the documents, from 0 in the order of the corpus, that the batch at a position shows a part of."""
        spans, _ = self._spans(position, None)
        starts = self.corpus.document_starts
        first = np.searchsorted(starts, spans.start, side="right") - 1
        count = np.searchsorted(starts, spans.stop, side="left") - first
        return np.unique(np.repeat(first, count) + ragged_range(count))

    def _read(self, position: Position, only_epoch: int | None) -> tuple[Batch, Position]:
        spans, position = self._spans(position, only_epoch)
        return self._gather(spans), position

    def _spans(self, position: Position, only_epoch: int | None) -> tuple["_Spans", Position]:
        epoch, row = position.epoch, position.row
        if row >= self.rows_in(epoch):
            where = f"data position {position.to_dict()} in an epoch of {self.rows_in(epoch)} rows"
            raise UserError(f"{where}: go back to the text, seq_len and packing that it was stored with")
        spans = [_Spans(*np.empty((4, 0), np.int64))]
        done = 0
        while done < self._global_rows and only_epoch in (None, epoch):
            count = min(self.rows_in(epoch) - row, self._global_rows - done)
            mine = np.arange(max(done, self._share.start), min(done + count, self._share.stop))
            if mine.size:
                rows = row + mine - done
                if self.seed is not None:
                    rows = permuted(rows, self.rows_in(epoch), self.seed, epoch)
                spans.append(self._layout.spans(epoch, rows, mine - self._share.start))
            done, row = done + count, row + count
            if row == self.rows_in(epoch):
                epoch, row = epoch + 1, 0
        return _Spans(*map(np.concatenate, zip(*spans, strict=True))), Position(epoch, row)

    def _gather(self, spans: "_Spans") -> Batch:
        size = self.rows * self.seq_len
        length = spans.stop - spans.start
        before = np.cumsum(length) - length
        first = np.searchsorted(spans.row, spans.row)  # the first span of the same row
        begin = spans.row * self.seq_len + before - before[first]
        within = ragged_range(length)
        place = np.repeat(begin, length) + within
        here = np.repeat(spans.start, length) + within
        following = here + 1
        following[before + length - 1] = spans.follow
        inputs, targets = np.zeros(size, np.int64), np.full(size, IGNORE)
        inputs[place] = self.corpus.take(here)
        known = following != NOTHING
        targets[place[known]] = self.corpus.take(following[known])
        documents = self._number_documents(spans, begin) if self.mask_documents else None
        shape = (self.rows, self.seq_len)
        return Batch(inputs.reshape(shape), targets.reshape(shape), documents, int(known.sum()))

    def _number_documents(self, spans: "_Spans", begin: IntArray) -> IntArray:
        starts = self.corpus.document_starts
        first = np.searchsorted(starts, spans.start, side="right")
        count = np.searchsorted(starts, spans.stop, side="left") - first
        inside = starts[np.repeat(first, count) + ragged_range(count)]
        end = begin + spans.stop - spans.start
        change = np.zeros(self.rows * self.seq_len, np.int64)
        change[np.repeat(begin - spans.start, count) + inside] = 1
        change[end[end < (spans.row + 1) * self.seq_len]] = 1
        return np.cumsum(change.reshape(self.rows, self.seq_len), axis=1)


class _Spans(NamedTuple):
    """Stretches [start, stop) of the stream, in the order in which they fill the rows of a batch.

    row: which row, ascending. follow: where in the stream the target of the last token stands, or NOTHING.
    """

    row: IntArray
    start: IntArray
    stop: IntArray
    follow: IntArray


class _Stream:
    """The corpus cut every seq_len tokens, the first row of an epoch being shorter by a seeded shift."""

    def __init__(self, tokens: int, seq_len: int, seed: int | None) -> None:
        self._tokens, self._seq_len, self._seed = tokens, seq_len, seed

    def _shift(self, epoch: int) -> int:
        if self._seed is None or epoch == 0:
            return 0
        return int(random_words("shift", self._seed, epoch)[0]) % self._seq_len

    def rows_in(self, epoch: int) -> int:
        return -(-(self._tokens + self._shift(epoch)) // self._seq_len)

    def spans(self, epoch: int, rows: IntArray, places: IntArray) -> _Spans:
        start = rows * self._seq_len - self._shift(epoch)
        stop = np.minimum(start + self._seq_len, self._tokens)
        return _Spans(places, np.maximum(start, 0), stop, np.where(stop < self._tokens, stop, NOTHING))


class _Packed:
    """Documents and pieces of long ones, packed into rows once."""

    def __init__(self, corpus: Corpus, seq_len: int) -> None:
        starts = corpus.document_starts
        length = np.diff(starts, append=corpus.tokens)
        pieces = -(-length // seq_len)
        number = ragged_range(pieces)
        start = np.repeat(starts, pieces) + number * seq_len
        stop = np.minimum(start + seq_len, np.repeat(starts + length, pieces))
        opens, ends = number == 0, number == np.repeat(pieces, pieces) - 1
        order, self._first = best_fit(stop - start, seq_len)
        row = np.repeat(np.arange(len(self._first) - 1), np.diff(self._first))
        # Pieces that begin inside a document go to the end of their row, so that rows begin with documents.
        order = order[np.argsort(2 * row + ~opens[order], kind="stable")]
        self._start, self._stop = start[order], stop[order]
        document_next = np.append((np.diff(row) == 0) & opens[order][1:], False)
        event = np.where(document_next, np.roll(self._start, -1), NOTHING)
        if corpus.bos_id is not None:
            event[:] = 0  # the stream begins with a document and so with BOS
        self._follow = np.where(ends[order], event, self._stop)

    def rows_in(self, _epoch: int) -> int:
        return len(self._first) - 1

    def spans(self, _epoch: int, rows: IntArray, places: IntArray) -> _Spans:
        count = self._first[rows + 1] - self._first[rows]
        chosen = np.repeat(self._first[rows], count) + ragged_range(count)
        return _Spans(np.repeat(places, count), self._start[chosen], self._stop[chosen], self._follow[chosen])


def best_fit(lengths: IntArray, capacity: int) -> tuple[IntArray, IntArray]:
    """Pack items into rows, each row taking the longest item that still fits until none does.

    Gives the items in the order of their rows and where each row begins in it, shape (rows + 1,). The rows
    are those of first-fit decreasing (Johnson 1973); equal lengths keep their order. While items last, the
    next row is filled like the one before, so the search takes time by the number of different lengths.
    """
    counts = np.bincount(lengths, minlength=capacity + 1).tolist()
    available = sum(1 << length for length, count in enumerate(counts) if count)  # bit n: some item is n long
    picked, row_sizes = [np.empty(0, np.int64)], [np.zeros(1, np.int64)]
    while available:
        pattern: dict[int, int] = {}
        space = limit = capacity
        while fitting := available & ((2 << min(space, limit)) - 1):
            length = fitting.bit_length() - 1
            pattern[length] = min(counts[length], space // length)
            space, limit = space - length * pattern[length], length - 1
        repeat = min(counts[length] // times for length, times in pattern.items())
        for length, times in pattern.items():
            counts[length] -= times * repeat
            available ^= (not counts[length]) << length
        picked.append(np.tile(np.repeat(list(pattern), list(pattern.values())), repeat))
        row_sizes.append(np.full(repeat, sum(pattern.values())))
    order = np.empty_like(lengths)
    order[np.argsort(np.concatenate(picked), kind="stable")] = np.argsort(lengths, kind="stable")
    return order, np.cumsum(np.concatenate(row_sizes))


def ragged_range(counts: IntArray) -> IntArray:
    """range(count) of every count, one after the other; shape (sum of counts,)."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
