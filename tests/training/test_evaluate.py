"""The held-out loss is the plain mean over a corpus, and bits per byte follow from it."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llamita.config import DataConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import Batch
from llamita.text.frequency import count_tokens
from llamita.text.shards import Corpus
from llamita.training.evaluate import (
    DeviceBatch,
    batch_loss,
    bits_per_byte,
    context_lengths,
    document_starts,
    evaluate,
)
from tests.model.tiny import stirred
from tests.training.tiny_runs import corpus_of, random_documents, small_config


@pytest.fixture(scope="module")
def model() -> LLaMaTransformer:
    return stirred(small_config().model)


def surprises(model: LLaMaTransformer, corpus: Corpus) -> list[float]:
    """-log p of every token of the corpus but the first, each seen from the start of its row of 32 on."""
    found = []
    stream = corpus.read(0, corpus.tokens).tolist()
    with torch.no_grad():
        for start in range(0, len(stream), 32):
            row, following = stream[start : start + 32], stream[start + 1 : start + 33]
            chances = torch.log_softmax(model(torch.tensor([row]))[0].double(), dim=-1)
            found += [-chances[place, token].item() for place, token in enumerate(following)]
    return found


@pytest.mark.parametrize("lengths", [[2], [32], [33], [500], [40, 7, 90]])
@pytest.mark.parametrize("batch_tokens", [1, 64, 16384])
def test_the_loss_is_the_mean_surprise_at_every_token(
    model: LLaMaTransformer, lengths: list[int], batch_tokens: int
) -> None:
    corpus = corpus_of(random_documents(*lengths), text_bytes=777)
    result = evaluate(model, corpus, batch_tokens=batch_tokens)
    expected = surprises(model, corpus)
    assert result.tokens == len(expected) == corpus.tokens - 1
    assert result.loss == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert result.bytes == 777
    assert result.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / 777, rel=1e-5)


def test_bits_per_byte_of_a_uniform_guess_at_bytes_is_eight() -> None:
    assert bits_per_byte(math.log(256), 100, 100) == pytest.approx(8)


def test_a_tokenizer_that_loses_text_has_no_bits_per_byte(model: LLaMaTransformer) -> None:
    assert evaluate(model, corpus_of(random_documents(50)), lossless=False).bits_per_byte is None


def test_a_part_of_a_corpus_counts_its_share_of_the_bytes(model: LLaMaTransformer) -> None:
    corpus = corpus_of(random_documents(640), text_bytes=6400)
    result = evaluate(model, corpus, max_tokens=100, batch_tokens=64)
    assert result.tokens == 128
    assert result.bytes == 1280
    assert result.loss == pytest.approx(sum(surprises(model, corpus)[:128]) / 128, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_model_as_it_was(model: LLaMaTransformer, training: bool) -> None:
    model.train(training)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    evaluate(model, corpus_of(random_documents(50)))
    assert model.training is training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("changes", [{"packing": "documents"}, {"mask_documents": True}])
def test_the_loss_depends_on_how_the_rows_are_made(model: LLaMaTransformer, changes: dict[str, Any]) -> None:
    corpus = corpus_of(random_documents(40, 7, 90, 13))
    plain, other = evaluate(model, corpus), evaluate(model, corpus, data=DataConfig(**changes))
    assert other.loss != plain.loss
    assert other.loss == pytest.approx(plain.loss, rel=0.2)


def test_a_document_that_sees_no_other_costs_as_much_as_alone(model: LLaMaTransformer) -> None:
    documents = random_documents(9, 12, 11)
    masked = evaluate(model, corpus_of(documents), data=DataConfig(packing="documents", mask_documents=True))
    alone = [evaluate(model, corpus_of([document]), data=DataConfig(packing="documents")) for document in documents]
    total = sum(result.loss * result.tokens for result in alone)
    assert masked.tokens == sum(result.tokens for result in alone)
    # RoPE sees distances alone, so a later place in the row changes nothing.
    assert masked.loss * masked.tokens == pytest.approx(total, rel=1e-5)


def test_bf16_gives_about_the_same_loss(model: LLaMaTransformer) -> None:
    corpus = corpus_of(random_documents(200))
    assert evaluate(model, corpus, precision="bf16").loss == pytest.approx(evaluate(model, corpus).loss, rel=0.01)


def test_the_loss_by_frequency_is_the_mean_over_the_targets_of_each_band(model: LLaMaTransformer) -> None:
    corpus = corpus_of(random_documents(300, 41))
    counts = np.array([0, 1, 9, 10, 99, 100, 12345] * 10)[:64]
    result = evaluate(model, corpus, counts=counts)
    stream = corpus.read(0, corpus.tokens).tolist()
    by_band: dict[int, list[float]] = {}
    for token, surprise in zip(stream[1:], surprises(model, corpus), strict=True):
        least = 0 if counts[token] == 0 else 10 ** (len(str(counts[token])) - 1)
        by_band.setdefault(least, []).append(surprise)
    assert [band.least for band in result.bands] == sorted(by_band) == [0, 1, 10, 100, 10000]
    for band in result.bands:
        assert band.tokens == len(by_band[band.least])
        assert band.loss == pytest.approx(sum(by_band[band.least]) / band.tokens, rel=1e-5)
    assert result.row()["val_loss_by_frequency"] == {str(band.least): band.loss for band in result.bands}
    assert evaluate(model, corpus).bands == ()


def test_the_loss_by_context_is_the_mean_over_the_targets_with_about_as_many_tokens_before(
    model: LLaMaTransformer,
) -> None:
    corpus = corpus_of(random_documents(300))
    result = evaluate(model, corpus)
    expected: dict[int, list[float]] = {}
    for place, nats in enumerate(surprises(model, corpus)):
        expected.setdefault(1 << int(math.log2(place % 32 + 1)), []).append(nats)
    assert [band.least for band in result.contexts] == [1, 2, 4, 8, 16, 32] == sorted(expected)
    for band in result.contexts:
        assert band.tokens == len(expected[band.least])
        assert band.loss == pytest.approx(sum(expected[band.least]) / band.tokens, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_context_is_counted_from_the_beginning_of_a_document_where_the_model_sees_no_more() -> None:
    tokens = np.zeros((2, 5), np.int64)
    numbers = np.array([[0, 0, 1, 1, 1], [4, 5, 6, 6, 6]])
    batch = Batch(tokens, tokens, numbers, 10)
    assert context_lengths(batch).tolist() == [[1, 2, 1, 2, 3], [1, 1, 1, 2, 3]]
    assert context_lengths(dataclasses.replace(batch, documents=None)).tolist() == [[1, 2, 3, 4, 5]] * 2


def test_a_target_without_a_logit_is_left_out() -> None:
    silent = stirred(small_config(model__unpredicted_rows=4).model)
    documents = [[min(token, 59) for token in document] for document in random_documents(90)]
    plain, marked = corpus_of(documents), corpus_of([[*documents[0], 62]])
    assert evaluate(silent, plain).tokens == evaluate(silent, marked).tokens
    assert (evaluate(silent, plain).left_out, evaluate(silent, marked).left_out) == (0, 1)
    assert evaluate(silent, marked).loss == pytest.approx(evaluate(silent, plain).loss, rel=1e-5)
    tokens = torch.tensor([[5, 62, 7]])
    seen = batch_loss(silent, DeviceBatch(tokens, torch.tensor([[4, 62, 3]]), None)).item()
    assert seen == pytest.approx(batch_loss(silent, DeviceBatch(tokens, torch.tensor([[4, -100, 3]]), None)).item())


def test_starts_of_documents_end_with_the_size_and_have_few_lengths() -> None:
    documents = np.array([[0, 0, 1, 1, 1], [0, 1, 2, 2, 3]])
    starts = document_starts(documents)
    assert starts.dtype == np.int32
    assert starts[:7].tolist() == [0, 2, 5, 6, 7, 9, 10] and set(starts[6:].tolist()) == {10}
    assert len(starts) == 16
    draw = np.random.default_rng(0)
    lengths = {len(document_starts(np.cumsum(draw.random((16, 64)) < chance, 1))) for chance in (0, 0.02, 0.05, 0.06)}
    assert lengths == {128}
    for chance in (0.0, 0.3, 1.0):
        many = document_starts(np.cumsum(draw.random((3, 50)) < chance, 1))
        assert many[-1] == 150 and many[-2] <= 150 and (np.diff(many) >= 0).all()


@pytest.mark.parametrize("head_dim", [8, 12, 512])
def test_documents_are_told_by_their_starts_only_where_a_kernel_takes_them(
    head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    model = stirred(small_config(model__head_dim=head_dim).model)
    hidden = model.hidden(torch.zeros(1, 4, dtype=torch.long))

    def noted(_: Tensor, documents: Tensor) -> Tensor:
        told.append(documents.dim())
        return hidden

    monkeypatch.setattr(model, "hidden", noted)
    ids, numbers = torch.zeros(1, 4, dtype=torch.long), torch.tensor([[0, 0, 1, 1]])
    starts = torch.from_numpy(document_starts(numbers.numpy()))
    for narrow in (False, True):
        monkeypatch.setattr("torch.is_autocast_enabled", lambda _="cpu", narrow=narrow: narrow)
        for given in (starts, None):
            batch_loss(model, DeviceBatch(ids, ids, numbers, given))
    assert told == [2, 2, 1 if head_dim == 8 else 2, 2]


def test_tokens_are_counted_over_all_shards_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = random_documents(100, 7, 50)
    tokens = [token for document in documents for token in document]
    one = corpus_of(documents)
    shards = tuple(np.split(one.read(0, one.tokens).astype(np.uint16), [33, 34, 90]))
    several = dataclasses.replace(one, shards=shards)
    stream = one.read(0, one.tokens)
    assert set(tokens) <= set(stream.tolist())
    expected = np.bincount(stream, minlength=64).tolist()
    assert one.token_counts.tolist() == several.token_counts.tolist() == expected
    monkeypatch.setattr("llamita.text.frequency._AT_ONCE", 8)
    assert count_tokens(several.shards, 64).tolist() == expected
    monkeypatch.setattr("llamita.text.frequency.COUNTED_TOKENS", 50)
    assert count_tokens(several.shards, 64).tolist() == np.bincount(stream[:50], minlength=64).tolist()


def test_a_damaged_id_is_not_counted() -> None:
    shard = np.array([1, 2, 2**32 - 1, 2], np.uint32)
    assert count_tokens([shard], 4).tolist() == [0, 1, 2, 0]
