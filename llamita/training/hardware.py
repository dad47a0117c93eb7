"""What the machine has, and what follows for a run: device, precision, threads."""

import contextlib
import os
from dataclasses import dataclass

import torch

from llamita.config import DeviceName, Precision
from llamita.errors import UsageError
from llamita.kernels import probe


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device of torch, the precision to compute in and the number of CPU threads."""

    device: DeviceName
    precision: Precision
    threads: int

    @property
    def description(self) -> str:
        """The device in words."""
        if self.device == "cuda":
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
            return f"{torch.cuda.get_device_name()} ({memory:.0f} GiB)"
        return f"{self.device}, {self.threads} thread{'s' if self.threads > 1 else ''}"


def choose_hardware(device: DeviceName, precision: Precision) -> Hardware:
    """Resolve "auto" from the machine's features; UsageError if what is asked for isn't there.

    Nothing is timed, so the same machine always gives the same answer.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[device]:
        there = ", ".join(name for name, here in available.items() if here)
        raise UsageError(f"--device {device}: this machine has none that torch can use; there are: {there}")
    if precision == "auto":
        precision = "bf16" if _computes_bf16(device) else "fp32"
    if precision == "fp8" and (lacking := _why_not_fp8(device)):
        raise UsageError(f"--precision fp8 needs {lacking}; --precision bf16 does without")
    return Hardware(device, precision, _threads())


def scoring_precision(hardware: Hardware, asked: Precision) -> Precision:
    """What choices are compared in: fp32 on a CPU unless asked for, so that no two are equal by rounding alone."""
    return "fp32" if hardware.device == "cpu" and asked == "auto" else hardware.precision


def _computes_bf16(device: DeviceName) -> bool:
    """Whether matrix products in bf16 are faster there than in fp32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))
    return False


def _why_not_fp8(device: DeviceName) -> str | None:
    """What fp8 lacks here, or None."""
    if device != "cuda" or torch.version.hip or torch.cuda.get_device_capability() < (8, 9):
        here = torch.cuda.get_device_name() if device == "cuda" else device
        return f"an NVIDIA GPU of compute capability 8.9 or more (Ada, Hopper or later), and here is {here}"
    if not probe.try_out():
        return "Triton, whose kernels don't run here"
    return None


def _threads() -> int:
    """Cores that this process may use, as far as torch would use them by itself."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(torch.get_num_threads(), allowed), 1)


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which matrix products compute in the run's precision."""
    if precision in ("bf16", "fp8"):
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()
