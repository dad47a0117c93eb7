"""The state of training beside the weights, as tensors and JSON, so that a resumed run is the same run."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llamita.errors import UserError
from llamita.text.batches import Position


@dataclass(frozen=True, slots=True)
class TrainState:
    """How far a run is: optimizer steps, tokens trained on, and where the next batch begins."""

    step: int = 0
    tokens: int = 0
    position: Position = Position()

    def to_dict(self) -> dict[str, Any]:
        """The state as meta.json holds it."""
        return {"step": self.step, "tokens": self.tokens, "position": self.position.to_dict()}

    @classmethod
    def from_dict(cls, meta: dict[str, Any]) -> "TrainState":
        """The state of a meta.json."""
        return cls(int(meta["step"]), int(meta["tokens"]), Position.from_dict(meta["position"]))


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments by parameter name, and the random number generators."""
    tensors = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    return tensors


def restore_state(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what state_tensors took; UserError if it belongs to another model."""
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        moments = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for key, value in moments.items():
            if value.dim() and value.shape != parameter.shape:
                raise UserError(f"training state: {prefix}{key} is {tuple(value.shape)}, not {tuple(parameter.shape)}")
            # Fused AdamW keeps its step counters beside the weights.
            moments[key] = value.to(parameter.device, dtype=torch.float32)
        optimizer.state[parameter] = moments
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
