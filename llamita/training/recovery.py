"""Where a run goes back to after the guard skipped too many steps in a row, and when it gives up."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
        return cls(**meta.get("recovery", {}))

    def to_dict(self) -> dict[str, Any]:
        """The recovery as meta.json holds it."""
        return {"recovery": asdict(self)} if self.rewinds else {}

    def at(self, step: int) -> "Recovery":
        """The recovery at a good step: all is forgotten once the run is past its troubles."""
        return Recovery() if step > self.furthest else self

    def target(self, found: Sequence[Checkpoint], last_good: int) -> int | None:
        """The step to go back to, 0 for the beginning; None if there's none better than what was tried.

        `last_good` is the last step that the guard let pass. A checkpoint after which no step passed is no good.
        """
        hopeless = self.returned_to is not None and last_good <= self.returned_to
        if hopeless and self.returned_to == 0:
            return None
        limit = (self.returned_to or 0) - 1 if hopeless else last_good
        steps = [item.step for item in found if item.step <= limit and not item.meta.get("streak")]
        return max(steps, default=0)

    def after(self, from_step: int, to_step: int) -> "Recovery":
        """The recovery after one more rewind."""
        return Recovery(self.rewinds + 1, max(self.furthest, from_step), to_step)
