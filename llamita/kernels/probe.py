"""Whether kernels written in Triton compile and run here, tried once."""

import logging

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # on a machine without a GPU that Triton knows
    triton = None

_log = logging.getLogger(__name__)

_works: bool | None = None  # once it was tried


def try_out() -> bool:
    """Whether a kernel compiles and runs on this machine's GPU: without a C compiler, say, it doesn't. Tried once."""
    global _works
    if _works is None:
        _works = False
        if triton is not None and torch.cuda.is_available():
            try:
                one = torch.zeros(1, device="cuda")
                _add_one[(1,)](one)
                _works = one.item() == 1.0
            except Exception as error:
                _log.warning("training goes without its Triton kernels, which don't run here: %s", error)
    return _works


def usable(x: Tensor) -> bool:
    """Whether kernels run where x is."""
    if not x.is_cuda:
        return False
    # Nothing can be tried in the middle of a graph; `loss_function` does it before.
    return bool(_works) if torch.compiler.is_compiling() else try_out()


if triton is not None:

    @triton.jit
    def _add_one(x):
        tl.store(x, tl.load(x) + 1.0)
