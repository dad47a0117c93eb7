"""What there is to show of each event of a session: figures by the names that trackers group them by, and texts."""

import math

from llamita.training.evaluate import Evaluation
from llamita.training.events import Evaluated, Event, Rewound, Sampled, StepsSkipped
from llamita.training.loop import StepMetrics


def step_of(event: Event) -> int:
    """The step that an event's figures and texts belong to; -1 for an event that has none."""
    if isinstance(event, StepMetrics | Evaluated | Sampled):
        return event.step
    if isinstance(event, StepsSkipped):
        return event.skipped[-1].step
    return event.to_step if isinstance(event, Rewound) else -1


def figures(event: Event) -> dict[str, float]:
    """An event's figures, without those that aren't finite."""
    if isinstance(event, StepMetrics):
        found = {f"train/{name}": float(value) for name, value in event.row().items() if name != "step"}
    elif isinstance(event, Evaluated):
        found = _held_out(event.evaluation)
    else:
        found = {}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _held_out(result: Evaluation) -> dict[str, float]:
    found = {"eval/loss": result.loss, "eval/perplexity": result.perplexity}
    if result.bits_per_byte is not None:
        found["eval/bits_per_byte"] = result.bits_per_byte
    return found | {f"eval/loss_band_{band.least}": band.loss for band in result.bands}


def texts(event: Event) -> dict[str, str]:
    """An event's texts by name."""
    if isinstance(event, Sampled):
        return {"sample": event.text}
    if isinstance(event, StepsSkipped):
        lines = (
            f"skipped step {one.step}: {one.reason} (loss {one.loss:.4g}, gradient norm {one.grad_norm:.4g})"
            for one in event.skipped
        )
        return {"incidents": "\n".join(lines)}
    if isinstance(event, Rewound):
        why = f"{event.streak} skipped in a row"
        return {"incidents": f"went back from step {event.from_step} to step {event.to_step}: {why}"}
    return {}
