"""Why a run diverges: every layer's numbers on the batch that it couldn't learn from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamita.config import RunConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.training.evaluate import DeviceBatch, batch_loss, targets_with_logit
from llamita.training.hardware import autocast

_LARGEST_ROWS = 5
_LOGIT_ROWS = 4


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """Root mean squares of a layer's weights and of its outputs, the norm of its gradient; None where not finite.

    A table that is only read from has outputs of 0.
    """

    name: str
    weight_rms: float | None
    output_rms: float | None
    gradient_norm: float | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A model on one batch; `largest_rows` are token ids of the table with the norms of their rows."""

    loss: float | None
    lr: float
    layers: tuple[LayerFigures, ...]
    logit_std: float | None
    logit_max: float | None
    table_row_norm: float | None
    largest_rows: tuple[tuple[int, float | None], ...]

    @property
    def first_broken(self) -> str | None:
        """The first layer whose weights or outputs aren't finite."""
        weights = next((layer.name for layer in self.layers if layer.weight_rms is None), None)
        return weights or next((layer.name for layer in self.layers if layer.output_rms is None), None)

    def summary(self) -> str:
        """The figures that tell most, in a sentence."""
        shown = {
            "loss": self.loss,
            "learning rate": self.lr,
            "largest logit": self.logit_max,
            "mean row norm of the table": self.table_row_norm,
        }
        figures = ", ".join(f"{name} {_told(value)}" for name, value in shown.items())
        graded = [layer for layer in self.layers if layer.gradient_norm is not None]
        if self.first_broken is not None:
            return f"{figures}; the first layer that isn't finite is {self.first_broken}"
        if len(graded) < len(self.layers):
            missing = next(layer.name for layer in self.layers if layer.gradient_norm is None)
            return f"{figures}; the gradient of {missing} isn't finite"
        steepest = max(graded, key=lambda layer: layer.gradient_norm or 0.0)
        return f"{figures}; the largest gradient is that of {steepest.name}: {_told(steepest.gradient_norm)}"


def diagnose(model: LLaMaTransformer, batch: DeviceBatch, config: RunConfig, lr: float) -> Diagnosis:
    """Run a batch through a model and back, and measure every layer on the way; no weight changes."""
    outputs: dict[str, float | None] = {}
    hooks = [module.register_forward_hook(_measuring(outputs, name)) for name, module in _layers(model)]
    try:
        with autocast(model.embeddings.weight.device.type, config.training.precision):
            loss = batch_loss(model, batch) / max(int((targets_with_logit(model, batch) >= 0).sum()), 1)
        loss.backward()
        with torch.no_grad(), autocast(model.embeddings.weight.device.type, config.training.precision):
            rows = batch.inputs[:_LOGIT_ROWS]
            logits = F.linear(model.hidden(rows), model.readout).float()
        # The head and learned positions are read from, not called.
        layers = tuple(_figures(name, module, outputs.get(name, 0.0)) for name, module in _layers(model))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in model.parameters():
            parameter.grad = None
    norms = model.embeddings.weight.detach().float().norm(dim=1)
    largest = norms.nan_to_num(math.inf).topk(min(_LARGEST_ROWS, len(norms))).indices.tolist()
    return Diagnosis(
        loss=_finite(loss),
        lr=lr,
        layers=layers,
        logit_std=_finite(logits.std()),
        logit_max=_finite(logits.abs().max()),
        table_row_norm=_finite(norms.mean()),
        largest_rows=tuple((row, _finite(norms[row])) for row in largest),
    )


def _layers(model: LLaMaTransformer) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = [("embeddings", model.embeddings)]
    for number, block in enumerate(model.decoder_blocks):
        found += [(f"decoder_blocks.{number}.{name}", part) for name, part in block.named_children()]
    found.append(("norm", model.norm))
    tables = {"position_embeddings": model.position_embeddings, "lm_head": model.lm_head}
    return found + [(name, table) for name, table in tables.items() if table is not None]


def _measuring(outputs: dict[str, float | None], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def measure(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.setdefault(name, _rms(output.detach()))

    return measure


def _figures(name: str, module: nn.Module, output_rms: float | None) -> LayerFigures:
    weights = list(module.parameters())
    together = torch.cat([weight.detach().flatten() for weight in weights])
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm() if gradients else torch.zeros(())
    return LayerFigures(name, _rms(together), output_rms, _finite(norm))


def _rms(values: Tensor) -> float | None:
    return _finite(values.float().pow(2).mean().sqrt())


def _finite(value: Tensor) -> float | None:
    number = float(value.detach())
    return number if math.isfinite(number) else None


def _told(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
