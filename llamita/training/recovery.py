"""Where a run goes back to after the guard skipped too many steps in a row, and when it gives up."""

import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from llamita.errors import UserError
from llamita.runs.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Recovery:
    """Rewinds so far, the furthest step that one began from, and the step that the last one went back to."""

    rewinds: int = 0
    furthest: int = 0
    returned_to: int | None = None

    @classmethod
    def from_dict(cls, meta: dict[str, Any]) -> "Recovery":
        """The recovery of a meta.json; none yet where it tells of none."""
        told = meta.get("recovery", {})
        if not (isinstance(told, dict) and all(_fits(*item) for item in told.items())):
            raise UserError(f"meta.json: recovery = {reprlib.repr(told)} is none; use another checkpoint")
        return cls(**told)

    def to_dict(self) -> dict[str, Any]:
        """The recovery as meta.json holds it."""
        return {"recovery": asdict(self)} if self.rewinds else {}

    def at(self, step: int) -> "Recovery":
        """The recovery at a good step: all is forgotten once the run is past its troubles."""
        return Recovery() if step > self.furthest else self

    def targets(self, found: Sequence[Checkpoint], last_good: int) -> list[int]:
        """Steps to go back to, the best first; 0, the beginning, for a run that never had a good checkpoint.

        `last_good` is the last step that the guard let pass. A checkpoint after which no step passed isn't tried
        again, but the last one that there is stays the end of the run: nothing is gone back behind it.
        """
        hopeless = self.returned_to is not None and last_good <= self.returned_to
        limit = (self.returned_to or 0) - 1 if hopeless else last_good
        good = [item.step for item in found if not item.meta.get("streak")]
        if not good:
            return [] if hopeless else [0]
        return sorted((step for step in good if step <= limit), reverse=True)

    def after(self, from_step: int, to_step: int) -> "Recovery":
        """The recovery after one more rewind."""
        return Recovery(self.rewinds + 1, max(self.furthest, from_step), to_step)


def _fits(name: str, value: object) -> bool:
    """Whether there is a field of this name that can have this value."""
    if value is None:
        return name == "returned_to"
    return type(value) is int and value >= 0 and name in {field.name for field in fields(Recovery)}
