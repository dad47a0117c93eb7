"""What a run is and how far it came, in one object."""

from dataclasses import dataclass

from llamita.runs.folder import Run
from llamita.training.plan import count_parameters


@dataclass(frozen=True, slots=True)
class Summary:
    """`val_loss` and `bits_per_byte` are those of the best checkpoint, taken at `best_step`."""

    run: str
    step: int
    steps: int
    parameters: int
    vocab_size: int
    n_embd: int
    tokens: int
    val_loss: float | None
    bits_per_byte: float | None
    best_step: int | None
    checkpoints: tuple[int, ...]


def summarize(run: Run) -> Summary:
    """The summary of a run, at step 0 if it has no checkpoint yet."""
    config, found = run.config(), run.checkpoints()
    best = run.checkpoint("best") if found else None
    rated = best is not None and best.val_loss is not None
    return Summary(
        run=str(run.path),
        step=found[-1].step if found else 0,
        steps=config.training.steps,
        parameters=sum(count_parameters(config.model).values()),
        vocab_size=config.model.vocab_size,
        n_embd=config.model.n_embd,
        tokens=found[-1].tokens if found else 0,
        val_loss=best.val_loss if best else None,
        bits_per_byte=best.bits_per_byte if best else None,
        best_step=best.step if best and rated else None,
        checkpoints=tuple(item.step for item in found),
    )
