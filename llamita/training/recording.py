"""Work of a GPU, recorded as a CUDA graph and done again without Python."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def can_capture(device: torch.device) -> bool:
    """Whether torch records work of this device: of CUDA, the current one, and the one of the first recording."""
    if device.type != "cuda" or torch.version.hip:
        return False
    current, stream = torch.cuda.current_device(), torch.cuda.graph.default_capture_stream
    return device.index in (None, current) and (stream is None or stream.device.index == current)


def captured(work: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], None], Tensor]:
    """What does the work on a GPU again, and the tensor that its result is then in; the work isn't done by this.

    RuntimeError for work that can't be recorded, as whatever waits for the GPU.
    """
    graph = torch.cuda.CUDAGraph()
    # Left as it is if recording fails, which torch.cuda.graph alone doesn't see to.
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            # Threads that save or read meanwhile may use the GPU.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                result = work()
        except BaseException:
            device = torch.cuda.current_device()
            with contextlib.suppress(RuntimeError):  # it has ended cleanly
                torch._C._cuda_endAllocateToPool(device, pool)
            # Random numbers, which torch 2.11 would take for those of a recording ever after.
            draw = torch.cuda.default_generators[device]
            draw.graphsafe_set_state(draw.clone_state())
            raise
    return graph.replay, result
