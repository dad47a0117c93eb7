"""The state of training beside the weights, as tensors and JSON, so that a resumed run is the same run."""

import reprlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llamita.errors import UserError
from llamita.text.batches import Position

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_MOST = 2**63
_REMEDY = "use another checkpoint"


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
        """The state of a meta.json; UserError for one that isn't there or is none."""
        for name in ("step", "tokens"):
            value = meta.get(name)
            if type(value) is not int or not 0 <= value < _MOST:
                raise UserError(f"meta.json: {name} = {reprlib.repr(value)} must be a whole number from 0; {_REMEDY}")
        position = meta.get("position")
        if not isinstance(position, dict):
            raise UserError(f"meta.json: position = {reprlib.repr(position)} must be epoch and row; {_REMEDY}")
        return cls(meta["step"], meta["tokens"], Position.from_dict(position))


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments by parameter name, and the random number generators."""
    tensors = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[_key(name, key)] = value
    return tensors


def restore_state(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what state_tensors took; UserError, and nothing is changed, if it belongs to another model."""
    _check(model, tensors)
    _restore_generators(tensors)
    for name, parameter in model.named_parameters():
        # Fused AdamW keeps its step counters beside the weights.
        optimizer.state[parameter] = {
            key: tensors[_key(name, key)].to(parameter.device, dtype=torch.float32) for key in _MOMENTS
        }


def _check(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """UserError unless every parameter has its moments, in its shape, and nothing else has any."""
    wanted = {_key(name, key): parameter.shape for name, parameter in model.named_parameters() for key in _MOMENTS}
    for key in wanted | {key: None for key in tensors if not key.startswith(("rng.", "guard."))}:
        found, shape = tensors.get(key), wanted.get(key)
        if found is None or shape is None:
            what = "missing" if found is None else "of another model"
            raise UserError(f"training state: {key} is {what}; {_REMEDY}")
        if key.endswith(".step"):
            shape = torch.Size(())
        if found.shape != shape or not found.is_floating_point():
            held = f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
            raise UserError(f"training state: {key} is {held}, not numbers of shape {tuple(shape)}; {_REMEDY}")


def _restore_generators(tensors: dict[str, Tensor]) -> None:
    before = torch.get_rng_state()
    try:
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng.cuda"])
    except (KeyError, TypeError, RuntimeError) as error:
        torch.set_rng_state(before)
        raise UserError(f"training state: no random number generator ({error}); {_REMEDY}") from error


def _key(name: str, key: str) -> str:
    return f"optimizer.{name}.{key}"
