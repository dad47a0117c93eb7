"""torch.compile as an option that says why it can't, instead of failing."""

import shutil

import torch

from llamita.config import TrainingConfig
from llamita.training.evaluate import batch_loss
from llamita.training.loop import LossFunction


def why_not_compiled(device: str) -> str | None:
    """What torch.compile lacks on this machine, or None."""
    if device == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))):
        return "no C++ compiler (g++ or clang++) on the PATH"
    if device == "cuda" and not shutil.which("gcc") and not shutil.which("cc"):
        return "no C compiler (gcc or cc) on the PATH, which Triton needs"
    if device == "mps":
        return "not tried on mps"
    return None


def loss_function(training: TrainingConfig) -> LossFunction:
    """batch_loss, compiled if the config asks for it and this machine can."""
    if not training.compile or why_not_compiled(training.device):
        return batch_loss
    compiled: LossFunction = torch.compile(batch_loss, dynamic=False, fullgraph=True)
    return compiled
