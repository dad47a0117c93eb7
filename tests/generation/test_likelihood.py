"""Log-likelihoods are those that a loop over single texts finds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamita.config import ModelConfig
from llamita.errors import UserError
from llamita.generation.likelihood import encode_pair, log_likelihoods, windows
from llamita.model.transformer import LLaMaTransformer
from llamita.text.tokenizer import Tokenizer
from tests.generation.conftest import MakeModel


@torch.no_grad()
def one_by_one(model: LLaMaTransformer, before: list[int], after: list[int]) -> tuple[float, bool]:
    """The same, an id at a time: each read after all before it."""
    total, greedy = 0.0, True
    whole = [*before, *after][-model.config.max_seq_len - 1 :]
    for at in range(len(whole) - len(after), len(whole)):
        scores = model(torch.tensor([whole[:at]]))[0, -1].double().log_softmax(-1)
        total += float(scores[whole[at]])
        greedy = greedy and int(scores.argmax()) == whole[at]
    return total, greedy


def pairs_of(model: LLaMaTransformer) -> list[tuple[list[int], list[int]]]:
    draw = torch.Generator().manual_seed(0)
    sizes = [(1, 1), (5, 3), (31, 1), (31, 2), (40, 7), (1, 32), (200, 32), (3, 0), (2, 1)]
    rows = [torch.randint(len(model.readout), (a + b,), generator=draw).tolist() for a, b in sizes]
    pairs = [(row[:a], row[a:]) for row, (a, _) in zip(rows, sizes, strict=True)]
    # One whose continuation is the likeliest.
    best = int(model(torch.tensor([[7, 8, 9]]))[0, -1].argmax())
    return [*pairs, ([7, 8, 9], [best])]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_log_likelihoods_are_those_of_single_ids(make_model: MakeModel, batch_size: int) -> None:
    model = make_model()
    pairs = pairs_of(model)
    found = log_likelihoods(model, pairs, batch_size=batch_size)
    for (nats, greedy), pair in zip(found, pairs, strict=True):
        expected, likeliest = one_by_one(model, *pair)
        assert nats == pytest.approx(expected, abs=1e-4)
        assert greedy == likeliest
    assert found[-1][1]
    assert not all(greedy for _, greedy in found)


def test_logits_may_be_computed_in_chunks(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    whole = log_likelihoods(model, pairs_of(model))
    monkeypatch.setattr("llamita.generation.likelihood._CHUNK_VALUES", 1)
    for (nats, greedy), (expected, likeliest) in zip(log_likelihoods(model, pairs_of(model)), whole, strict=True):
        assert nats == pytest.approx(expected, abs=1e-5)
        assert greedy == likeliest


def test_what_the_model_has_no_logit_of_is_impossible() -> None:
    model = LLaMaTransformer(ModelConfig(vocab_size=64, unpredicted_rows=10, n_embd=16, n_layers=1, n_heads=2))
    assert log_likelihoods(model, [([60], [3, 59])]) == [(-torch.inf, False)]


def test_what_cannot_be_scored_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    for pair in (([], [1]), ([1], [2] * 33)):
        with pytest.raises(UserError, match="at most 32 ids to score"):
            log_likelihoods(model, [pair])
    with torch.no_grad():
        model.output_weight.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        log_likelihoods(model, [([1], [2])])


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(1, 9))
def test_windows_hold_each_id_once_with_all_the_context_that_fits(ids: list[int], size: int) -> None:
    pairs = list(windows(ids, 100, size))
    assert [one for _, after in pairs for one in after] == ids
    text, done = [100, *ids], 1
    for before, after in pairs:
        done += len(after)
        assert [*before, *after] == text[max(done - size - 1, 0) : done]


def test_a_context_begins_with_bos_and_gives_its_last_spaces_away() -> None:
    text = "the river runs and the river sleeps " * 50
    tokenizer = Tokenizer.train([text], vocab_size=320)
    assert tokenizer.bos_id is not None
    for context, continuation in (("the river", " runs"), ("the river ", "runs"), ("", "the river")):
        before, after = encode_pair(tokenizer, context, continuation)
        assert [*before, *after] == [tokenizer.bos_id, *tokenizer.encode(context + continuation)]
        assert before == [tokenizer.bos_id, *tokenizer.encode(context.rstrip())]
    assert encode_pair(tokenizer, "the river ", "runs") == encode_pair(tokenizer, "the river", " runs")


def test_a_continuation_that_melts_into_its_context_is_scored_with_the_token_that_both_make() -> None:
    tokenizer = Tokenizer.train(["once upon a time, once more " * 50], vocab_size=320)
    (once,) = tokenizer.encode("once")
    before, after = encode_pair(tokenizer, "on", "ce")
    assert (before, after) == ([tokenizer.bos_id], [once])
    assert encode_pair(tokenizer, "once", "")[1] == []
