"""torch.compile as an option that says why it can't, instead of failing."""

import logging
import os
import shutil
import sys
from pathlib import Path

import torch

from llamita.config import TrainingConfig
from llamita.kernels import probe
from llamita.training.evaluate import LossFunction, batch_loss

_log = logging.getLogger(__name__)

_MOST_GRAPHS = 64
_RECOMPUTES = "2.12"
_ROOM = 16 << 20  # bytes; about what the graphs of a large model take
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def why_not_compiled(device: str, recompute_layers: int = 0) -> str | None:
    """What torch.compile lacks on this machine, or None."""
    if device == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))):
        return "no C++ compiler (g++ or clang++) on the PATH"
    if device == "cuda" and not shutil.which("gcc") and not shutil.which("cc"):
        return "no C compiler (gcc or cc) on the PATH, which Triton needs"
    if device == "mps":
        return "not tried on mps"
    if recompute_layers and torch.__version__ < _RECOMPUTES:
        return (
            f"torch {torch.__version__} keeps within a graph what training.recompute_layers would compute again; "
            f"torch {_RECOMPUTES} doesn't"
        )
    return None


def loss_function(training: TrainingConfig) -> LossFunction:
    """batch_loss, compiled if the config asks for it and this machine can."""
    if not training.compile or why_not_compiled(training.device, training.recompute_layers):
        return batch_loss
    probe.try_out()
    keep_graphs()
    # A graph for each length of `document_starts`, of which there are more than torch expects.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    # Off by torch's default; without it a graph that was kept is traced and split all the same.
    torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True
    compiled: LossFunction = torch.compile(batch_loss, dynamic=False, fullgraph=True)
    return compiled


def keep_graphs() -> Path | None:
    """Have torch keep compiled graphs in `cache_folder`; None, and as torch does by itself, if it takes no files."""
    folder = cache_folder()
    probe_file = folder / f".{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe_file.write_bytes(bytes(_ROOM))
        finally:
            probe_file.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("compiled graphs can't be kept in %s: %s", folder, error.strerror)
        os.environ.pop(_CACHE, None)
        return None
    os.environ[_CACHE] = str(folder)
    return folder


def cache_folder() -> Path:
    """Where compiled graphs are kept: what torch was told, else a folder of the user's that outlives a reboot."""
    told, caches = os.environ.get(_CACHE), os.environ.get("XDG_CACHE_HOME")
    # Torch itself names one as soon as its compiler is loaded, as by an optimizer's first step.
    compiler = sys.modules.get("torch._inductor.runtime.cache_dir_utils")
    if told and not (compiler and told == compiler.default_cache_dir()):
        return Path(told)
    base = Path(caches) if caches and os.path.isabs(caches) else Path(os.path.expanduser("~")) / ".cache"
    return base / "llamita" / "compiled"
