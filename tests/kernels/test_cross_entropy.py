"""The kernel on a GPU where there is one, else in Triton's interpreter where Triton is installed."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llamita.kernels import cross_entropy
from llamita.model.loss import IGNORE, hidden_loss

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def problem(rows: int, columns: int, readable: int, dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows + columns)
    logits = scale * torch.randn(rows, columns, generator=draw)
    targets = torch.randint(readable, (rows,), generator=draw)
    targets[:: max(rows // 2, 2)] = IGNORE
    return logits.to(DEVICE, dtype), targets.to(DEVICE)


@pytest.mark.parametrize(
    ("rows", "columns", "readable"), [(5, 7, 7), (4, 300, 300), (6, 9000, 9000), (3, 20000, 19500), (4, 40, 25)]
)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_losses_and_gradients_are_those_of_cross_entropy(rows: int, columns: int, readable: int, scale: float) -> None:
    logits, targets = problem(rows, columns, readable, torch.float32, scale)
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact[:, :readable], targets, ignore_index=IGNORE, reduction="none")
    expected.sum().backward()
    losses = cross_entropy.losses_into_gradients(logits, targets, readable)
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_narrow_logits_keep_their_type_and_losses_are_wide() -> None:
    logits, targets = problem(6, 500, 500, torch.bfloat16)
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact, targets, ignore_index=IGNORE, reduction="none")
    expected.sum().backward()
    losses = cross_entropy.losses_into_gradients(logits, targets, 500)
    assert losses.dtype == torch.float32 and logits.dtype == torch.bfloat16
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.double(), exact.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("wrong", [-1, 25, 40])
def test_a_target_that_is_no_column_makes_a_loss_that_is_no_number(wrong: int) -> None:
    logits, targets = problem(4, 40, 25, torch.float32)
    targets[1] = wrong
    losses = cross_entropy.losses_into_gradients(logits, targets, 25)
    assert losses.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("chunk_values", [1 << 10, 1 << 28])
@pytest.mark.parametrize("silent", [0, 30])
def test_the_loss_by_the_kernel_teaches_what_the_plain_one_does(
    chunk_values: int, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(700, 16, generator=draw), torch.randn(130, 16, generator=draw)
    targets = torch.randint(130 - silent, (700,), generator=draw)
    targets[::5] = IGNORE
    monkeypatch.setattr("llamita.model.loss.DEVICE_CHUNK_VALUES", chunk_values)
    found = {}
    for by_kernel in (True, False):
        monkeypatch.setattr("llamita.model.loss.usable", lambda _, use=by_kernel: use)
        leaves = [x.to(DEVICE).requires_grad_() for x in (hidden, weight)]
        loss = hidden_loss(*leaves, targets.to(DEVICE), tokens=560, rows=130 - silent)
        loss.backward()
        found[by_kernel] = [loss.detach(), *(leaf.grad for leaf in leaves)]
    for ours, plain in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    assert silent == 0 or not found[True][2][-silent:].any()
