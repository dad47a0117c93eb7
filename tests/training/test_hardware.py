"""What "auto" becomes follows from the machine alone."""

import pytest
import torch

from llamita.config import DeviceName, Precision
from llamita.errors import UsageError
from llamita.training.hardware import autocast, choose_hardware


def test_the_same_machine_always_gets_the_same_answer() -> None:
    chosen = choose_hardware("auto", "auto")
    assert chosen == choose_hardware("auto", "auto")
    assert chosen.device in ("cpu", "cuda", "mps")
    assert chosen.precision in ("fp32", "bf16")
    assert chosen.threads >= 1
    assert chosen.description


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_asked_for_is_taken(precision: Precision) -> None:
    chosen = choose_hardware("cpu", precision)
    assert (chosen.device, chosen.precision) == ("cpu", precision)


def test_fp8_is_refused_without_a_gpu_that_has_it() -> None:
    with pytest.raises(
        UsageError, match=r"--precision fp8 needs an NVIDIA GPU .* 8\.9 .*here is cpu; --precision bf16"
    ):
        choose_hardware("cpu", "fp8")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_by_name(device: DeviceName) -> None:
    if {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]:
        pytest.skip(f"this machine has {device}")
    with pytest.raises(UsageError, match=f"--device {device}: .*cpu"):
        choose_hardware(device, "auto")


def test_threads_are_no_more_than_torch_would_use() -> None:
    assert choose_hardware("cpu", "auto").threads <= torch.get_num_threads()


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp8", torch.bfloat16)]
)
def test_matrix_products_compute_in_the_chosen_precision(precision: Precision, expected: torch.dtype) -> None:
    one = torch.ones(2, 2)
    with autocast("cpu", precision):
        assert (one @ one).dtype == expected
