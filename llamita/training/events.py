"""What a session tells of while it trains."""

from dataclasses import dataclass
from pathlib import Path

from llamita.runs.checkpoint import Checkpoint
from llamita.training.evaluate import Evaluation
from llamita.training.guard import Skipped
from llamita.training.loop import StepMetrics
from llamita.training.preflight import Preflight


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out loss after a step."""

    step: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Sampled:
    """A text that the model made up after a step."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint was written, while training went on; `stopped` if training ends here before its time."""

    checkpoint: Checkpoint
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class NotSaved:
    """A checkpoint couldn't be written for this reason; training goes on and tries again soon."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A document of the training corpus by its number, from 0, and how it begins."""

    document: int
    text: str


@dataclass(frozen=True, slots=True)
class StepsSkipped:
    """Steps that the guard skipped since the last report, and what the batch of the last of them shows."""

    skipped: tuple[Skipped, ...]
    documents: tuple[Excerpt, ...]


@dataclass(frozen=True, slots=True)
class Rewound:
    """After `streak` skipped steps the run went back `to_step`, and on with the data behind them."""

    from_step: int
    to_step: int
    streak: int


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Checkpoints that are later than the one to begin with, where they lie now."""

    paths: tuple[Path, ...]


Event = StepMetrics | Evaluated | Sampled | Saved | NotSaved | StepsSkipped | Rewound | Abandoned | Preflight
