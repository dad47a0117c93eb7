"""What the machine has, and what follows for a run: device, precision, threads."""

import contextlib
import os
from dataclasses import dataclass

import torch

from llamita.config import DeviceName, Precision
from llamita.errors import UsageError


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
    return Hardware(device, precision, _threads())


def _computes_bf16(device: DeviceName) -> bool:
    """Whether matrix products in bf16 are faster there than in fp32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))
    return False


def _threads() -> int:
    """Cores that this process may use, as far as torch would use them by itself."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(torch.get_num_threads(), allowed), 1)


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which matrix products compute in the run's precision."""
    if precision == "bf16":
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()
