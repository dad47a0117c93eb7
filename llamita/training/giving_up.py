"""The end of a run that diverges whatever is skipped: a diagnosis, and the way out."""

import contextlib
import json
from dataclasses import asdict
from itertools import islice

from llamita.config import RunConfig
from llamita.errors import UserError, command_line
from llamita.files import write_text
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.text.batches import Batches
from llamita.training.diagnosis import diagnose
from llamita.training.evaluate import to_device
from llamita.training.incidents import documents_of, note_incident
from llamita.training.loop import StepMetrics


def give_up(
    run: Run, model: LLaMaTransformer, config: RunConfig, batches: Batches, metrics: StepMetrics, rewinds: int
) -> UserError:
    """Write diagnosis.json of the last batch that was skipped; gives the error that tells of it."""
    position, accumulation = metrics.skipped[-1].position, config.training.accumulation
    device = model.embeddings.weight.device
    taken = islice(batches.iterate(position), accumulation)
    found = [diagnose(model, to_device(batch, device), config, metrics.lr) for batch, _ in taken]
    diagnosis = next((one for one in found if one.loss is None), found[0])
    told = {"step": metrics.step, "documents": documents_of(batches, position, accumulation), **asdict(diagnosis)}
    file = run.path / "diagnosis.json"
    with contextlib.suppress(OSError):
        write_text(file, json.dumps(told, indent=2) + "\n")
    note_incident(run, {"kind": "gave up", "step": metrics.step, "rewinds": rewinds})
    return UserError(
        f"{run.path}: {metrics.streak} steps in a row were skipped at step {metrics.step} "
        f"(the last one: {metrics.skipped[-1].reason}), after {rewinds} rewinds; {diagnosis.summary()}. "
        f"Layer by layer: {file}. A lower learning rate often helps: "
        + command_line("resume", run.path, "--optimizer.lr", f"{config.optimizer.lr / 3:.1e}")
    )
