"""Command lines of the commands that take a run: those that read it, and those that may change it."""

from collections.abc import Sequence

READING = (
    *(("info", "RUN"), ("info", "RUN", "--json"), ("runs", "PARENT"), ("config", "show", "--run", "RUN")),
    *(("generate", "RUN", "The river", "--max-new-tokens", "4"), ("tokenizer", "encode", "RUN", "The river 犬")),
    *(("generate", "RUN", "--json", "--samples", "2", "--checkpoint", "initial", "--max-new-tokens", "3"),),
    *(("generate", "RUN", "The", "--checkpoint", "latest", "--greedy", "--max-new-tokens", "2"),),
    *(("walkthrough", "the boat", "--run", "RUN", "--json"), ("walkthrough", "--run", "RUN", "--checkpoint", "4")),
    *(("embeddings", "neighbors", "RUN", "the"), ("embeddings", "similarity", "RUN", "the", "#70")),
    *(("embeddings", "analogy", "RUN", "the", "a", "and"), ("embeddings", "export", "RUN", "OUT")),
    *(("embeddings", "odd-one-out", "RUN", "the", "a", "river", "--center"), ("eval", "RUN", "TEXT")),
    ("eval", "RUN", "TEXT", "--max-bytes", "200"),
    *(("embeddings", "direction", "RUN", "--lists", "LIST", "OTHER"),),
    *(("embeddings", "map", "RUN", "the", "a", "and", "--file", "MAP"),),
    *(("export", "hf", "RUN", "OUT"), ("export", "gguf", "RUN", "OUT")),
    ("bench", "RUN", "--seconds", "0.05", "--json"),
    *(("eval", "RUN", "--tasks", "analogies"), ("eval", "RUN", "TEXT", "--tasks", "cloze", "--json")),
    *(("preflight", "RUN"), ("preflight", "RUN", "--checkpoint", "latest", "--json")),
    # These read the run's own text, too.
    *(("embeddings", "neighbors", "RUN", "the", "--layer", "1"), ("probe", "RUN", "--lists", "LIST", "OTHER")),
)
CHANGING = (("demo",), ("train",), ("resume",))
WITHOUT_RUN = (("doctor",), ("plan",), ("tokenizer", "train"), ("import", "hf"))


def steps(until: int, *, rows: int) -> tuple[str, ...]:
    """Options with which a run that is resumed goes on to a step, each of so many rows, whatever its config says."""
    return (
        *("--training.steps", str(until), "--training.max-minutes", "0.05", "--training.sample-tokens", "0"),
        *("--device", "cpu", "--precision", "fp32", "--training.no-compile", "--training.threads", "1"),
        *("--training.batch-size", str(rows), "--training.micro-batch-size", str(rows)),
        *("--training.save-every", "100", "--training.eval-tokens", "100"),
    )


# The run has checkpoints at 4 and 8; each of these takes one step.
RESUMING = (
    *(("resume", "RUN", *steps(9, rows=32)), ("resume", "RUN", "--json", *steps(9, rows=32))),
    *(("resume", "RUN", "--checkpoint", which, *steps(9, rows=32)) for which in ("best", "../../x")),
    *(("resume", "RUN", "--checkpoint", which, *steps(until, rows=32)) for which, until in (("4", 5), ("initial", 1))),
    ("resume", "RUN", "--tracking.to", "tensorboard", "--tracking.project", "tales", *steps(9, rows=32)),
    # A step that is skipped has the run go back at once.
    ("resume", "RUN", "--training.rewind-after", "1", *steps(9, rows=32)),
)


def asked(command: Sequence[str], names: dict[str, str]) -> list[str]:
    """A command line in which capitals are paths."""
    return [names.get(word, word) for word in command]
