"""Every token is seen exactly once an epoch, in one global order, from any position on."""

import time
from collections import Counter
from itertools import islice, pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamita.errors import UserError
from llamita.text.batches import IGNORE, Batch, Batches, Position, best_fit
from llamita.text.order import permuted
from llamita.text.shards import Corpus

Packing = Literal["stream", "documents"]
PACKINGS: list[Packing] = ["stream", "documents"]
BOS = 1  # every other token of a test corpus is unique, and none is 0 like padding


def corpus_of(lengths: list[int], *, bos: bool = True, shards: int = 1) -> Corpus:
    """Documents of these lengths, BOS included, spread over some shards."""
    starts = np.cumsum([0, *lengths])
    stream = np.arange(starts[-1]) + 2
    if bos:
        stream[starts[:-1]] = BOS
    cuts = [0, *(len(lengths) * number // shards for number in range(1, shards)), len(lengths)]
    borders = list(pairwise(cuts))
    return Corpus(
        shards=tuple(stream[starts[low] : starts[high]].astype("<u4") for low, high in borders),
        offsets=tuple(starts[low:high] - starts[low] for low, high in borders),
        vocab_size=len(stream) + 2,
        bos_id=BOS if bos else None,
        fingerprint="test",
        text_bytes=0,
        token_hash="",
    )


def rows_of(batches: list[Batch]) -> list[tuple[list[int], list[int]]]:
    """(inputs, targets) of each row."""
    return [
        (inputs, targets)
        for batch in batches
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
    ]


def global_rows(corpus: Corpus, count: int, *, rows: int, world_size: int, **options: object) -> list[object]:
    """The first rows of the global order, put together from what the ranks read."""
    ranks = [
        Batches(corpus, rows=rows, rank=rank, world_size=world_size, **options)  # type: ignore[arg-type]
        for rank in range(world_size)
    ]
    order: list[object] = []
    position = Position()
    while len(order) < count:
        read = [reader.batch(position) for reader in ranks]
        assert len({after for _, after in read}) == 1
        for batch, after in read:
            order += rows_of([batch])
            position = after
    return order[:count]


def expected_targets(corpus: Corpus, packing: Packing) -> Counter[int]:
    stream = corpus.read(0, corpus.tokens).tolist()
    if packing == "stream":
        return Counter(stream[1:])
    starts = set(corpus.document_starts.tolist())
    inner = [token for place, token in enumerate(stream) if place not in starts]
    return Counter(inner + [BOS] * len(starts))


def check_epoch(rows: list[tuple[list[int], list[int]]], corpus: Corpus, packing: Packing) -> None:
    stream = corpus.read(0, corpus.tokens).tolist()
    assert Counter(token for inputs, _ in rows for token in inputs if token) == Counter(stream)
    targets = Counter(token for _, targets in rows for token in targets if token != IGNORE)
    assert targets == expected_targets(corpus, packing)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("seq_len", [1, 2, 7, 16, 50])
def test_every_token_is_seen_exactly_once_in_every_epoch(packing: Packing, world_size: int, seq_len: int) -> None:
    corpus = corpus_of([5, 1, 12, 33, 2, 2, 7, 16, 40], shards=3)
    plan = Batches(corpus, rows=2, seq_len=seq_len, seed=5, packing=packing)
    epochs = [plan.rows_in(epoch) for epoch in range(4)]
    order = global_rows(corpus, sum(epochs), rows=2, world_size=world_size, seq_len=seq_len, seed=5, packing=packing)
    for count in epochs:
        check_epoch(order[:count], corpus, packing)  # type: ignore[arg-type]
        order = order[count:]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    seq_len=st.integers(1, 20),
    rows=st.integers(1, 5),
    seed=st.integers(0, 2**40),
    packing=st.sampled_from(PACKINGS),
    shuffle=st.booleans(),
    epoch=st.integers(0, 10**9),
)
def test_any_epoch_of_any_corpus_is_complete(
    lengths: list[int], seq_len: int, rows: int, seed: int, packing: Packing, shuffle: bool, epoch: int
) -> None:
    corpus = corpus_of(lengths)
    batches = Batches(corpus, rows=rows, seq_len=seq_len, seed=seed, packing=packing, shuffle=shuffle)
    read = list(batches.one_epoch(epoch))
    check_epoch(rows_of(read), corpus, packing)
    assert len(read) == -(-batches.rows_in(epoch) // rows)
    assert sum(batch.tokens for batch in read) == expected_targets(corpus, packing).total()


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("tokens", [1, 7, 8, 9])
def test_a_tiny_corpus_fills_batches_by_going_round_and_round(packing: Packing, tokens: int) -> None:
    corpus = corpus_of([tokens])
    batches = Batches(corpus, rows=8, seq_len=8, seed=0, packing=packing)
    batch, after = batches.batch(Position())
    assert after.epoch >= 3
    assert np.count_nonzero(batch.inputs.any(axis=1)) == 8
    order = global_rows(corpus, batches.rows_in(0), rows=8, world_size=1, seq_len=8, seed=0, packing=packing)
    check_epoch(order, corpus, packing)  # type: ignore[arg-type]


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_global_order_knows_nothing_of_ranks_and_batch_sizes(packing: Packing) -> None:
    corpus = corpus_of([9, 4, 25, 3, 3, 11, 6])
    orders = [
        global_rows(corpus, 60, rows=rows, world_size=world_size, seq_len=8, seed=1, packing=packing)
        for rows, world_size in [(1, 1), (4, 1), (2, 2), (1, 3), (3, 4), (30, 1)]
    ]
    assert all(order == orders[0] for order in orders)


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_number_of_readers_may_change_wherever_reading_stopped(packing: Packing) -> None:
    corpus = corpus_of([9, 4, 25, 3, 3, 11, 6])
    expected = global_rows(corpus, 120, rows=1, world_size=1, seq_len=8, seed=1, packing=packing)
    order: list[object] = []
    position = Position()
    for world_size, rows in [(1, 12), (2, 6), (4, 3), (3, 4), (4, 3), (1, 12), (3, 4), (2, 6), (1, 12), (4, 3)]:
        stored = Position.from_dict(position.to_dict())
        for rank in range(world_size):
            reader = Batches(corpus, rows=rows, seq_len=8, seed=1, packing=packing, rank=rank, world_size=world_size)
            batch, position = reader.batch(stored)
            order += rows_of([batch])
    assert order == expected


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bos", [False, True])
def test_the_documents_of_a_batch_are_those_that_its_tokens_are_of(packing: Packing, bos: bool) -> None:
    corpus = corpus_of([9, 4, 25, 3, 3, 11, 6], bos=bos)
    starts, stream = corpus.document_starts, corpus.read(0, corpus.tokens)
    batches, position = Batches(corpus, rows=2, seq_len=8, seed=3, packing=packing), Position()
    for _ in range(20):
        told = batches.documents(position).tolist()
        batch, position = batches.batch(position)
        places = [int(np.flatnonzero(stream == token)[0]) for token in batch.inputs.ravel() if token > BOS]
        seen = set((np.searchsorted(starts, places, side="right") - 1).tolist())
        # A document of which a row shows no more than its BOS can't be told from the tokens.
        assert seen <= set(told) and len(set(told) - seen) <= (2 if bos else 0)
        assert told == sorted(set(told))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("mask_documents", [False, True])
def test_shard_borders_leave_no_trace(packing: Packing, mask_documents: bool) -> None:
    lengths = [9, 4, 25, 3, 3, 11, 6]
    reads = []
    for shards in (1, 2, 7):
        corpus = corpus_of(lengths, shards=shards)
        batches = Batches(corpus, rows=3, seq_len=8, seed=1, packing=packing, mask_documents=mask_documents)
        reads.append([batch for batch, _ in islice(batches.iterate(), 10)])
    for other in reads[1:]:
        for left, right in zip(reads[0], other, strict=True):
            np.testing.assert_array_equal(left.inputs, right.inputs)
            np.testing.assert_array_equal(left.targets, right.targets)
            np.testing.assert_equal(left.documents, right.documents)


@pytest.mark.parametrize("packing", PACKINGS)
def test_going_on_from_any_position_equals_never_having_stopped(packing: Packing) -> None:
    corpus = corpus_of([9, 4, 25, 3, 3, 11, 6])

    def reader() -> Batches:
        return Batches(corpus, rows=2, seq_len=8, seed=7, packing=packing)

    whole = list(islice(reader().iterate(), 40))
    assert any(position.epoch and not position.row for _, position in whole)  # stops at an epoch's edge too
    for stop in range(39):
        stored = Position.from_dict(whole[stop][1].to_dict())
        resumed = list(islice(reader().iterate(stored), 3))
        twice = list(islice(reader().iterate(resumed[0][1]), 2))
        ahead = whole[stop + 1 : stop + 4]
        for (batch, position), (other, after) in zip(ahead, [resumed[0], *twice], strict=False):
            assert position == after
            np.testing.assert_array_equal(batch.inputs, other.inputs)
            np.testing.assert_array_equal(batch.targets, other.targets)


def test_a_position_far_into_a_huge_corpus_costs_no_more_than_the_first() -> None:
    tokens = 10**12
    endless = np.broadcast_to(np.uint16(3), (tokens,))
    corpus = Corpus((endless,), (np.zeros(1, np.int64),), 4, None, "", 0, "")
    batches = Batches(corpus, rows=4, seq_len=64, seed=0)
    begin = time.process_time()
    batch, after = batches.batch(Position(epoch=123_456_789, row=15_000_000_000))
    assert time.process_time() - begin < 0.5
    assert batch.tokens == 4 * 64
    assert after == Position(123_456_789, 15_000_000_004)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_targets_are_the_tokens_that_follow(packing: Packing, bos: bool, shuffle: bool) -> None:
    corpus = corpus_of([9, 4, 25, 1, 3, 8, 16, 6], bos=bos)
    stream = corpus.read(0, corpus.tokens).tolist()
    starts = set(corpus.document_starts.tolist())
    openings = {stream[start] for start in starts}
    batches = Batches(corpus, rows=3, seq_len=8, seed=3, packing=packing, shuffle=shuffle)
    for batch in batches.one_epoch(1):
        for inputs, targets in rows_of([batch]):
            for column, (token, target) in enumerate(zip(inputs, targets, strict=True)):
                if token in (0, BOS):
                    assert token == BOS or target == IGNORE
                    continue
                place = token - 2
                beside = inputs[column + 1] if column + 1 < len(inputs) else 0
                if packing == "stream":
                    assert target == (stream[place + 1] if place + 1 < len(stream) else IGNORE)
                elif place + 1 not in starts | {len(stream)}:
                    assert target == stream[place + 1]
                elif bos:
                    assert target == BOS
                else:
                    assert target == (beside if beside in openings else IGNORE)


def test_the_end_of_every_document_is_predicted_at_the_end_of_a_row_too() -> None:
    corpus = corpus_of([8, 3, 5, 4])
    (batch,) = Batches(corpus, rows=3, seq_len=8, seed=0, packing="documents", shuffle=False).one_epoch()
    assert batch.inputs.tolist() == [
        [BOS, 3, 4, 5, 6, 7, 8, 9],
        [BOS, 14, 15, 16, 17, BOS, 11, 12],
        [BOS, 19, 20, 21, 0, 0, 0, 0],
    ]
    assert batch.targets.tolist() == [
        [3, 4, 5, 6, 7, 8, 9, BOS],
        [14, 15, 16, 17, BOS, 11, 12, BOS],
        [19, 20, 21, BOS, IGNORE, IGNORE, IGNORE, IGNORE],
    ]


def test_without_bos_a_cut_piece_is_never_predicted_from_another_document() -> None:
    corpus = corpus_of([11, 4], bos=False)
    (batch,) = Batches(corpus, rows=2, seq_len=8, seed=0, packing="documents", shuffle=False).one_epoch()
    assert batch.inputs.tolist() == [[2, 3, 4, 5, 6, 7, 8, 9], [13, 14, 15, 16, 10, 11, 12, 0]]
    assert batch.targets.tolist() == [
        [3, 4, 5, 6, 7, 8, 9, 10],
        [14, 15, 16, IGNORE, 11, 12, IGNORE, IGNORE],
    ]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(2, 16))
def test_packed_rows_begin_with_a_document_if_one_begins_in_them(lengths: list[int], seq_len: int) -> None:
    batches = Batches(corpus_of(lengths), rows=4, seq_len=seq_len, seed=0, packing="documents")
    for inputs, _ in rows_of(list(batches.one_epoch())):
        assert inputs[0] == BOS or BOS not in inputs


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bos", [True, False])
def test_documents_are_numbered_within_their_row(packing: Packing, bos: bool) -> None:
    corpus = corpus_of([9, 4, 25, 1, 1, 3, 8, 16, 6], bos=bos)
    starts = corpus.document_starts.tolist()
    batches = Batches(corpus, rows=3, seq_len=10, seed=3, packing=packing, mask_documents=True)
    unique = Batches(corpus_of([9, 4, 25, 1, 1, 3, 8, 16, 6], bos=False), rows=3, seq_len=10, seed=3, packing=packing)
    for epoch in range(3):
        for batch, plain in zip(batches.one_epoch(epoch), unique.one_epoch(epoch), strict=True):
            assert batch.documents is not None
            for numbers, tokens in zip(batch.documents.tolist(), plain.inputs.tolist(), strict=True):
                owners = [sum(start <= token - 2 for start in starts) for token in tokens]
                changes = [left != right for left, right in pairwise(owners)]
                assert numbers == np.cumsum([0, *changes]).tolist()


def test_document_numbers_are_given_only_when_asked_for() -> None:
    assert Batches(corpus_of([4]), rows=1, seq_len=4, seed=0).batch(Position())[0].documents is None


def test_a_shuffled_stream_is_cut_elsewhere_in_later_epochs_and_an_ordered_one_is_not() -> None:
    corpus = corpus_of([1000])
    shuffled = Batches(corpus, rows=4, seq_len=16, seed=0)
    cuts = [{row[0][0] for row in rows_of(list(shuffled.one_epoch(epoch)))} - {BOS} for epoch in range(6)]
    assert len(set(map(frozenset, cuts))) > 3
    ordered = Batches(corpus, rows=4, seq_len=16, seed=0, shuffle=False)
    first, later = (rows_of(list(ordered.one_epoch(epoch))) for epoch in (0, 5))
    assert first == later
    inputs = [token for row, _ in first for token in row if token]
    assert inputs == corpus.read(0, 1000).tolist()


def test_ranks_evaluate_one_epoch_in_equally_many_batches() -> None:
    corpus = corpus_of([9, 4, 25, 3, 3, 11, 6])
    for world_size in (1, 2, 3, 4):
        shares = [
            list(
                Batches(corpus, rows=2, seq_len=8, seed=0, shuffle=False, rank=rank, world_size=world_size).one_epoch()
            )
            for rank in range(world_size)
        ]
        assert len({len(share) for share in shares}) == 1
        check_epoch([row for share in shares for row in rows_of(share)], corpus, "stream")


def first_fit_decreasing(lengths: list[int], capacity: int) -> Counter[tuple[int, ...]]:
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        for row in rows:
            if sum(row) + length <= capacity:
                row.append(length)
                break
        else:
            rows.append([length])
    return Counter(tuple(row) for row in rows)


@given(st.lists(st.integers(1, 24), min_size=1, max_size=80), st.integers(24, 60))
def test_packing_equals_first_fit_decreasing(lengths: list[int], capacity: int) -> None:
    order, borders = best_fit(np.array(lengths), capacity)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    rows = [[lengths[item] for item in order[low:high]] for low, high in pairwise(borders)]
    assert Counter(map(tuple, rows)) == first_fit_decreasing(lengths, capacity)


def test_equal_lengths_are_packed_in_their_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 5000)
    order, _ = best_fit(lengths, 64)
    for length in range(1, 20):
        alike = order[lengths[order] == length]
        assert alike.tolist() == np.flatnonzero(lengths == length).tolist()


def test_packing_many_documents_is_quick_and_wastes_little() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 300, 300_000).clip(max=1024)
    begin = time.process_time()
    _, borders = best_fit(lengths, 1024)
    assert time.process_time() - begin < 1
    assert lengths.sum() / (1024 * (len(borders) - 1)) > 0.99


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 4097])
def test_the_order_of_rows_is_a_permutation(size: int) -> None:
    for seed, epoch in [(0, 0), (0, 1), (12345678901234567890, 3), (-1, 0)]:
        assert sorted(permuted(np.arange(size), size, seed, epoch).tolist()) == list(range(size))


@given(st.integers(1, 2**60), st.lists(st.integers(0, 2**60), min_size=1, unique=True), st.integers(0, 9))
def test_the_order_of_a_huge_number_of_rows_maps_them_apart(size: int, indices: list[int], seed: int) -> None:
    inside = np.unique(np.array(indices) % size)
    images = permuted(inside, size, seed, 0)
    assert len(set(images.tolist())) == len(inside)
    assert images.min() >= 0 and images.max() < size


def test_the_order_of_rows_looks_random() -> None:
    size = 20_011
    orders = [permuted(np.arange(size), size, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    limit = 5 / size**0.5  # five standard deviations of the correlation of independent numbers
    for order in orders:
        for lag in (1, 2, 3, 64):
            assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < limit
        assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < limit
        halves = np.abs(np.diff(order < size // 2)).sum()  # changes between the lower and the upper half
        assert abs(halves - size / 2) < 5 * (size / 4) ** 0.5
    for left, right in [(0, 1), (0, 2), (1, 2)]:
        assert abs(np.corrcoef(orders[left], orders[right])[0, 1]) < limit


def test_small_orders_are_all_about_equally_likely() -> None:
    seen = Counter(tuple(permuted(np.arange(3), 3, seed, 0).tolist()) for seed in range(3000))
    assert len(seen) == 6
    assert all(abs(count - 500) < 130 for count in seen.values())


def test_the_order_never_changes_between_versions() -> None:
    assert permuted(np.arange(10), 10, seed=42, epoch=0).tolist() == [8, 9, 4, 5, 0, 3, 6, 2, 1, 7]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"epoch": 0},
        {"epoch": 0, "row": -1},
        {"epoch": "0", "row": 0},
        {"epoch": 0, "row": True},
        {"epoch": 0, "row": 1.0},
        {"epoch": 0, "row": 0, "step": 1},
    ],
)
def test_a_stored_position_that_is_none_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match="data position"):
        Position.from_dict(values)


def test_a_position_of_other_data_is_refused() -> None:
    batches = Batches(corpus_of([20]), rows=1, seq_len=4, seed=0)
    batches.batch(Position(0, 4))
    with pytest.raises(UserError, match="5 rows"):
        batches.batch(Position(0, 5))


@pytest.mark.parametrize(("rows", "seq_len"), [(0, 4), (4, 0), (-1, 4)])
def test_impossible_sizes_are_refused(rows: int, seq_len: int) -> None:
    with pytest.raises(UserError, match="at least 1"):
        Batches(corpus_of([4]), rows=rows, seq_len=seq_len, seed=0)
