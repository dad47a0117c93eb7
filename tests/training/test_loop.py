"""A step of training: micro-batches add up to one batch, each token counts the same, gradients are bounded."""

import math
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llamita.config import RunConfig
from llamita.model.loss import IGNORE, next_token_loss
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import Batches
from llamita.training.evaluate import DeviceBatch
from llamita.training.guard import Guard
from llamita.training.loop import StepMetrics, train
from llamita.training.optimizer import build_optimizer
from llamita.training.state import TrainState
from llamita.training.stepping import train_step
from tests.model.tiny import random_tokens, stirred
from tests.training.tiny_runs import corpus_of, random_documents, small_config

Rows = tuple[Tensor, Tensor]
SEQ_LEN = 16


def ragged_rows(kept: list[int], seed: int = 0) -> Rows:
    """Rows of inputs and targets, of which only the first few count."""
    inputs = random_tokens(len(kept), SEQ_LEN, vocab_size=64, seed=seed)
    targets = random_tokens(len(kept), SEQ_LEN, vocab_size=64, seed=seed + 1)
    for row, count in enumerate(kept):
        targets[row, count:] = IGNORE
    return inputs, targets


def micro_batches(rows: Rows, sizes: list[int]) -> list[tuple[DeviceBatch, int]]:
    inputs, targets = (part.split(sizes) for part in rows)
    batches = [DeviceBatch(one, two, None) for one, two in zip(inputs, targets, strict=True)]
    return [(batch, int((batch.targets != IGNORE).sum())) for batch in batches]


def parts(batches: list[tuple[DeviceBatch, int]]) -> tuple[list[DeviceBatch], Tensor]:
    return [batch for batch, _ in batches], torch.tensor(float(max(sum(count for _, count in batches), 1)))


def open_guard() -> Guard:
    return Guard(torch.device("cpu"), None)


def stepped(config: RunConfig, batches: list[tuple[DeviceBatch, int]]) -> tuple[dict[str, Tensor], float, float]:
    """How each weight moves in a step of plain gradient descent, the loss, and the gradient's norm."""
    model = stirred(config.model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    loss, norm, _ = train_step(model, optimizer, *parts(batches), config, open_guard())
    moves = {name: weight.detach() - before[name] for name, weight in model.state_dict().items()}
    return moves, loss.item(), norm.item()


def length(moves: dict[str, Tensor]) -> float:
    return math.sqrt(sum(move.double().pow(2).sum().item() for move in moves.values()))


@settings(deadline=None, max_examples=15)
@given(kept=st.lists(st.integers(0, SEQ_LEN), min_size=6, max_size=6).filter(any), tied=st.booleans())
def test_micro_batches_add_up_to_one_batch(kept: list[int], tied: bool) -> None:
    config = small_config(model__tie_embeddings=tied, optimizer__clip="off")
    rows = ragged_rows(kept)
    whole, loss, norm = stepped(config, micro_batches(rows, [6]))
    for sizes in ([3, 3], [1] * 6, [1, 5]):
        parts, loss_of_parts, norm_of_parts = stepped(config, micro_batches(rows, sizes))
        assert loss_of_parts == pytest.approx(loss, rel=1e-5)
        assert norm_of_parts == pytest.approx(norm, rel=1e-4)
        for name, move in whole.items():
            torch.testing.assert_close(parts[name], move, rtol=1e-3, atol=1e-5 * max(norm, 1.0))


def test_the_loss_of_a_step_is_the_mean_over_tokens_not_over_micro_batches() -> None:
    config = small_config()
    rows = ragged_rows([SEQ_LEN, 1])
    model = stirred(config.model)
    expected = next_token_loss(model(rows[0]), rows[1]).item()
    by_row = [next_token_loss(model(rows[0][row : row + 1]), rows[1][row : row + 1]).item() for row in (0, 1)]
    _, loss, _ = stepped(config, micro_batches(rows, [1, 1]))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert abs(sum(by_row) / 2 - expected) > 1e-2


def test_a_gradient_longer_than_allowed_is_shortened_to_that() -> None:
    batches = micro_batches(ragged_rows([SEQ_LEN, 5]), [1, 1])
    free, _, norm = stepped(small_config(optimizer__clip="off"), batches)
    assert length(free) == pytest.approx(norm, rel=1e-4)
    for clip in (norm / 10, norm * 10):
        moves, _, reported = stepped(small_config(optimizer__clip=clip), batches)
        assert reported == pytest.approx(norm, rel=1e-5)
        assert length(moves) == pytest.approx(min(clip, norm), rel=1e-3)


def test_a_batch_without_a_single_target_moves_nothing() -> None:
    moves, loss, norm = stepped(small_config(), micro_batches(ragged_rows([0, 0]), [2]))
    assert (loss, norm, length(moves)) == (0.0, 0.0, 0.0)


def test_gradients_do_not_leak_into_the_next_step() -> None:
    model = stirred(small_config().model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    train_step(model, optimizer, *parts(micro_batches(ragged_rows([5]), [1])), small_config(), open_guard())
    assert all(parameter.grad is None for parameter in model.parameters())


def events(config: RunConfig, lengths: list[int], state: TrainState = TrainState()) -> list[tuple[TrainState, Any]]:
    """Training of a fresh model on random documents."""
    torch.manual_seed(0)
    model = LLaMaTransformer(config.model)
    corpus = corpus_of(random_documents(*lengths))
    rows = config.training.micro_batch_size
    batches = Batches(corpus, rows=rows, seq_len=config.model.max_seq_len, seed=0)
    return list(train(model, build_optimizer(model, config.optimizer), batches, config, state))


def test_every_step_has_a_state_and_some_have_metrics() -> None:
    found = events(small_config(training__steps=8, training__log_every=3), [500])
    assert [state.step for state, _ in found] == list(range(1, 9))
    assert [state.step for state, metrics in found if metrics is not None] == [3, 6, 8]
    assert all(metrics is None or metrics.step == state.step for state, metrics in found)


def test_metrics_are_means_since_the_last_report() -> None:
    each = [metrics for _, metrics in events(small_config(training__steps=6), [500])]
    twice = [metrics for _, metrics in events(small_config(training__steps=6, training__log_every=3), [500])]
    for report, sources in ((twice[2], each[:3]), (twice[5], each[3:])):
        assert report.loss == pytest.approx(sum(one.loss for one in sources) / 3, rel=1e-6)
        assert report.grad_norm == pytest.approx(sum(one.grad_norm for one in sources) / 3, rel=1e-6)
        assert (report.lr, report.tokens) == (sources[-1].lr, sources[-1].tokens)
        assert report.tokens_per_second > 0


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_state_counts_targets_and_rows_whatever_the_micro_batch(micro: int) -> None:
    found = events(small_config(training__steps=3, training__micro_batch_size=micro), [128])
    assert (found[0][0].position.epoch, found[0][0].position.row) == (1, 0)
    # The first token of the corpus is nobody's target.
    assert found[0][0].tokens == 127
    assert [state for state, _ in found] == [state for state, _ in events(small_config(training__steps=3), [128])]


def test_leaving_and_coming_back_reads_what_was_not_read_yet() -> None:
    config = small_config(training__steps=6)
    whole = events(config, [500])
    later = events(config, [500], whole[2][0])
    assert [state for state, _ in later] == [state for state, _ in whole[3:]]
    assert [metrics.lr for _, metrics in later] == [metrics.lr for _, metrics in whole[3:]]


def test_a_finished_state_takes_no_step() -> None:
    config = small_config(training__steps=3)
    assert events(config, [500], events(config, [500])[-1][0]) == []


def test_a_small_text_is_learnt_by_heart() -> None:
    config = small_config(training__steps=60, training__batch_size=2, optimizer__lr=0.01, optimizer__schedule="wsd")
    losses = [metrics.loss for _, metrics in events(config, [33])]
    assert losses[0] == pytest.approx(math.log(64), abs=0.5)
    assert losses[-1] < 0.1


def test_computing_in_bf16_learns_about_the_same() -> None:
    curves = {}
    for precision in ("fp32", "bf16"):
        config = small_config(training__steps=20, training__precision=precision, optimizer__lr=0.01)
        curves[precision] = [metrics.loss for _, metrics in events(config, [100])]
    assert curves["bf16"] != curves["fp32"]
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=0.03)


def test_another_loss_function_is_asked_for_every_micro_batch() -> None:
    config = small_config(training__steps=3, training__micro_batch_size=2)
    model = LLaMaTransformer(config.model)
    shapes = []

    def watched(model: LLaMaTransformer, batch: DeviceBatch) -> Tensor:
        shapes.append(tuple(batch.inputs.shape))
        return next_token_loss(model(batch.inputs), batch.targets, tokens=1)

    batches = Batches(corpus_of(random_documents(500)), rows=2, seq_len=32, seed=0)
    optimizer = build_optimizer(model, config.optimizer)
    made = list(islice(train(model, optimizer, batches, config, loss_function=watched), 3))
    assert shapes == [(2, 32)] * 6
    assert isinstance(made[0][1], StepMetrics)
