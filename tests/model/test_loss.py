import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from llamita.model.loss import IGNORE, _device_chunk, hidden_loss, next_token_loss, token_losses
from tests.model.tiny import random_tokens, stirred, tiny_config
from tests.oracles import cross_entropy_in_python


def problem(rows: int, vocab_size: int, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a table and targets of which about every fifth is to be ignored."""
    generator = torch.Generator().manual_seed(seed)
    hidden, table = (torch.randn(n, dim, generator=generator).requires_grad_() for n in (rows, vocab_size))
    targets = torch.randint(vocab_size, (rows,), generator=generator)
    ignored = torch.rand(rows, generator=generator) < 0.2
    return hidden, table, targets.masked_fill(ignored, IGNORE)


def real(targets: Tensor) -> int:
    return int((targets != IGNORE).sum())


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [5.0, -5.0]])
    assert next_token_loss(logits, torch.tensor([1, 0, IGNORE])).item() == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2
    )
    whole = next_token_loss(logits, torch.tensor([1, 0, IGNORE]), tokens=10)
    assert whole.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 10)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 20), vocab_size=st.integers(2, 30), scale=st.floats(0.1, 300), seed=st.integers(0, 99))
def test_both_losses_equal_the_sum_in_python(rows: int, vocab_size: int, scale: float, seed: int) -> None:
    hidden, table, targets = problem(rows, vocab_size, seed=seed)
    logits = (hidden * scale) @ table.T
    expected = cross_entropy_in_python(logits, targets, IGNORE) / 100
    assert next_token_loss(logits, targets, tokens=100).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    chunked = hidden_loss(hidden * scale, table, targets, tokens=100)
    assert chunked.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("rows", "vocab_size"), [(40, 50), (600, 4096), (1, 3)])
def test_the_chunked_loss_and_its_gradients_are_those_of_cross_entropy(rows: int, vocab_size: int) -> None:
    hidden, table, targets = problem(rows, vocab_size)
    exact_hidden, exact_table = (x.detach().double().requires_grad_() for x in (hidden, table))
    loss = hidden_loss(hidden, table, targets, tokens=77)
    exact = F.cross_entropy(exact_hidden @ exact_table.T, targets, ignore_index=IGNORE, reduction="sum") / 77
    (3 * loss).backward()
    (3 * exact).backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    for ours, theirs in ((hidden.grad, exact_hidden.grad), (table.grad, exact_table.grad)):
        assert ours is not None and theirs is not None
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-4)


def test_losses_of_any_leading_shape_agree() -> None:
    hidden, table, targets = problem(24, 10)
    flat = hidden_loss(hidden, table, targets, tokens=24)
    folded = hidden_loss(hidden.view(2, 3, 4, 8), table, targets.view(2, 3, 4), tokens=24)
    assert folded.item() == flat.item()


@pytest.mark.parametrize("factor", [1, 30])
def test_extreme_logits_stay_right(factor: int) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(300, 700, generator=generator)
    inputs = random_tokens(64, vocab_size=300)
    # A naive tie's first step: each position is sure of its own token, by n_embd nats.
    hidden, targets = (factor * table[inputs]).requires_grad_(), (inputs + 1) % 300
    weight = table.clone().requires_grad_()
    loss = hidden_loss(hidden, weight, targets, tokens=64)
    loss.backward()
    exact_hidden = hidden.detach().double().requires_grad_()
    exact = F.cross_entropy(exact_hidden @ table.double().T, targets)
    exact.backward()
    assert exact.item() > 600 * factor
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert hidden.grad is not None and exact_hidden.grad is not None and weight.grad is not None
    torch.testing.assert_close(hidden.grad.double(), exact_hidden.grad, atol=1e-5, rtol=1e-4)
    assert weight.grad.isfinite().all()


def test_a_batch_without_targets_costs_nothing() -> None:
    hidden, table, _ = problem(5, 7)
    loss = hidden_loss(hidden, table, torch.full((5,), IGNORE), tokens=9)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None and not hidden.grad.any()


@pytest.mark.parametrize("wrong", [-1, 7])
def test_a_target_outside_the_vocabulary_is_an_error(wrong: int) -> None:
    hidden, table, _ = problem(2, 7)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        hidden_loss(hidden, table, torch.tensor([0, wrong]), tokens=2)


def test_narrow_hidden_states_learn_without_bias() -> None:
    hidden, table, targets = problem(400, 300, dim=32)
    hidden = (0.2 * hidden).detach().bfloat16().requires_grad_()
    exact_hidden, exact_table = (x.detach().double().requires_grad_() for x in (hidden, table))
    loss = hidden_loss(hidden, table, targets, tokens=769)
    exact = F.cross_entropy(exact_hidden @ exact_table.T, targets, ignore_index=IGNORE, reduction="sum") / 769
    loss.backward()
    exact.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    for ours, theirs in ((hidden.grad, exact_hidden.grad), (table.grad, exact_table.grad)):
        assert ours is not None and theirs is not None
        assert (ours.double() - theirs).norm() < 0.01 * theirs.norm()
        # The length along the exact gradient: single errors cancel there, a badly rounded scale doesn't.
        assert float((ours.double() * theirs).sum() / theirs.square().sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("chunked", [True, False])
def test_micro_batches_add_up_to_the_whole_batch(pieces: int, chunked: bool) -> None:
    tokens, targets = random_tokens(4, 12), random_tokens(4, 12, seed=1)
    lengths = torch.tensor([12, 1, 7, 4])
    targets[torch.arange(12) >= lengths[:, None]] = IGNORE
    model = stirred(tiny_config())

    def loss_and_gradients(count: int) -> tuple[float, list[Tensor]]:
        model.zero_grad()
        total = 0.0
        for some, wanted in zip(tokens.chunk(count), targets.chunk(count), strict=True):
            if chunked:
                loss = hidden_loss(model.hidden(some), model.output_weight, wanted, tokens=real(targets))
            else:
                loss = next_token_loss(model(some), wanted, tokens=real(targets))
            loss.backward()
            total += loss.item()
        return total, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    expected = torch.autograd.grad(whole, list(model.parameters()))
    total, gradients = loss_and_gradients(pieces)
    assert total == pytest.approx(whole.item(), rel=1e-5)
    assert len(gradients) == len(expected)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Remembers the most values that any operation returned."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.values = max(self.values, result.numel())
        return result


def test_the_logits_never_exist_as_a_whole() -> None:
    hidden, table, targets = problem(2000, 2000)
    with LargestTensor() as largest:
        hidden_loss(hidden, table, targets, tokens=2000).backward()
    assert 0 < largest.values < 2000 * 2000 / 2


@pytest.mark.parametrize(("learning", "products"), [(True, 3), (False, 1)])
def test_a_loss_that_teaches_nothing_computes_no_gradients(learning: bool, products: int) -> None:
    hidden, table, targets = problem(40, 50)
    with FlopCounterMode(display=False) as flops, torch.set_grad_enabled(learning):
        hidden_loss(hidden, table, targets, tokens=40)
    assert flops.get_total_flops() == products * 2 * 40 * 50 * 8


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    hidden, table, targets = problem(4, 5)
    loss = hidden_loss(hidden, table, targets, tokens=4)
    (slope,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
        slope.square().sum().backward()


@pytest.mark.parametrize("chunk_values", [1, 64, 1 << 20])
def test_the_loss_of_each_token_is_its_share_of_the_whole(chunk_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamita.model.loss._CHUNK_VALUES", chunk_values)
    hidden, table, targets = problem(12, 30)
    losses = token_losses(hidden.view(3, 4, 8), table, targets.view(3, 4))
    assert losses.shape == (3, 4) and not losses.requires_grad
    expected = F.cross_entropy(hidden @ table.T, targets, ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(losses.flatten(), expected.detach())
    assert losses.sum().item() == pytest.approx(hidden_loss(hidden, table, targets, tokens=1).item(), rel=1e-5)


def test_silenced_columns_are_as_if_they_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, table, targets = problem(12, 30)
    targets = targets.masked_fill(targets >= 25, IGNORE)
    found = []
    for compiling in (False, True):
        monkeypatch.setattr("torch.compiler.is_compiling", lambda compiling=compiling: compiling)
        loss = hidden_loss(hidden, table, targets, tokens=9, rows=25)
        found.append((loss, *torch.autograd.grad(loss, (hidden, table))))
        assert not found[-1][2][25:].any() and found[-1][2][:25].any()
    for chunked, whole in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole)
    without = hidden_loss(hidden, table[:25], targets, tokens=9)
    assert without.item() == pytest.approx(found[0][0].item())


@pytest.mark.parametrize(
    ("positions", "columns", "chunks"), [(32768, 32768, 4), (32768, 131072, 8), (1, 512, 1), (4096, 8192, 1)]
)
def test_a_gpu_computes_few_chunks_of_whole_tiles(positions: int, columns: int, chunks: int) -> None:
    size = _device_chunk(positions, columns)
    assert size % 128 == 0 and -(-positions // size) == chunks
