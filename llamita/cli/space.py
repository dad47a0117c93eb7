"""Which vectors of a run are asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from llamita.insight.vectors import Vectors
from llamita.observatory.spaces import state_vectors, table_vectors
from llamita.runs.folder import Run


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Space:
    """Which vectors of a run are asked; every command takes these options."""

    table: Literal["input", "output"] = "input"
    """The table that tokens are looked up in, or the one that logits are read from (the same if tied)."""
    layer: int | None = None
    """Instead of a table: each token's mean state after this layer, over the run's own text."""
    checkpoint: str = "best"
    """best, latest, initial (before training) or a step."""
    center: bool = False
    """Take the mean of all vectors from each first."""

    @property
    def name(self) -> str:
        """What it is called in print."""
        return f"{self.table} table" if self.layer is None else f"layer {self.layer}"

    def open(self, run: Path) -> Vectors:
        """The vectors."""
        opened = Run.open(run)
        if self.layer is None:
            return table_vectors(opened, self.table, checkpoint=self.checkpoint, center=self.center)
        return state_vectors(opened, self.layer, checkpoint=self.checkpoint, center=self.center)
