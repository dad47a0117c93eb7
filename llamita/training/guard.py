"""A guard over every step: a loss or gradient that isn't finite, or far out of line, changes no weight.

It judges on the device: nobody waits for its verdict, and what it skipped is read with the other figures.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from llamita.errors import UserError
from llamita.text.batches import Position

_WINDOW = 128  # accepted steps that a step is measured by; before there are as many none is called a spike
# A spike must also stand out by so many nats of loss, or by so many powers of e in the norm of the gradient: a
# factor of 3 occurs in healthy runs (docs/log.md), and clipping deals with it.
_MARGINS = (0.1, 2.0)
_SMALLEST_NORM = 1e-30
_REASONS = {1: "not finite", 2: "spike"}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that changed nothing, why, and where in the data its batch begins."""

    step: int
    reason: str
    loss: float
    grad_norm: float
    position: Position


class Guard:
    """The figures of the last accepted steps, and how many were skipped in a row since."""

    def __init__(self, device: torch.device, max_z_score: float | None) -> None:
        self._max_z_score = max_z_score
        self._window = torch.zeros(2, _WINDOW, device=device)  # losses, and logarithms of gradient norms
        self._margins = torch.tensor(_MARGINS, device=device)
        self._accepted = torch.zeros((), dtype=torch.int64, device=device)
        self._streak = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def streak(self) -> int:
        """Steps skipped in a row, up to now; reading it waits for the device."""
        return int(self._streak.item())

    @torch.no_grad()
    def judge(self, loss: Float[Tensor, ""], grad_norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """0 for a step that may be taken, else the number of the reason against it, as a tensor."""
        # Logarithms, because gradient norms scatter by factors.
        seen = torch.stack([loss, grad_norm.clamp_min(_SMALLEST_NORM).log()])
        verdict = 1.0 - torch.isfinite(seen).all().float()
        if self._max_z_score is not None:
            std, mean = torch.std_mean(self._window, dim=1)
            limit = mean + torch.maximum(self._max_z_score * std, self._margins)
            spike = (seen > limit).any() & (self._accepted >= _WINDOW)
            verdict = torch.where(verdict == 0, 2.0 * spike, verdict)
        good = verdict == 0
        shifted = torch.cat([self._window[:, 1:], seen[:, None]], dim=1)
        # In place, for a recorded step reads and writes these tensors where they are.
        self._window.copy_(torch.where(good, shifted, self._window))
        self._accepted += good
        self._streak.copy_(torch.where(good, 0, self._streak + 1))
        return verdict

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs to judge alike."""
        return {"guard.window": self._window, "guard.accepted": self._accepted, "guard.streak": self._streak}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave; an early checkpoint without any changes nothing."""
        for name, mine in self.tensors().items():
            given = tensors.get(name)
            if given is None:
                continue
            if given.shape != mine.shape or given.dtype != mine.dtype:
                raise UserError(
                    f"training state: {name} is {given.dtype} {tuple(given.shape)}, not {tuple(mine.shape)}"
                )
            mine.copy_(given)


def reason(verdict: float) -> str:
    """What a verdict other than 0 means."""
    return _REASONS[round(verdict)]
