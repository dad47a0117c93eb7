"""Runs small enough to be trained many times over, and corpora made by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llamita import layers
from llamita.config import RunConfig
from llamita.layers import Layer
from llamita.runs.folder import Run
from llamita.text.shards import Corpus
from llamita.training.events import Event
from llamita.training.prepare import prepare_run
from llamita.training.session import Session

SMALL: dict[str, Any] = {
    **{"model.n_embd": 32, "model.n_layers": 2, "model.n_heads": 2, "model.max_seq_len": 32},
    **{"tokenizer.vocab_size": 320, "training.batch_size": 4, "training.steps": 4, "training.sample_tokens": 0},
    **{"training.device": "cpu", "training.precision": "fp32", "training.threads": 1, "optimizer.warmup_steps": 2},
    **{"training.save_every": 100, "training.eval_every": 100, "training.log_every": 1},
}


def small_config(vocab_size: int = 64, **changes: Any) -> RunConfig:
    """A config that needs no text to be resolved; `changes` with __ for the dot."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    stack = [layers.from_dotted("", {"model.vocab_size": vocab_size, **SMALL}), layers.from_dotted("", dotted)]
    return layers.build(layers.merge(stack)[0])


def small_run(folder: Path, source: Path, settings: dict[str, Any] | None = None) -> Run:
    """A run folder that is ready to train, with dotted settings over SMALL."""
    asked = [layers.from_dotted("small", SMALL), Layer("test", layers.from_dotted("", settings or {}).values)]
    return prepare_run(folder, [str(source)], asked).run


def trained(run: Run, until: int | None = None) -> list[Event]:
    """Open the run as a new process would, and train it to its end, or stop it as a signal would after a step."""
    session = Session(run)
    return list(session.events(lambda: session.state.step == until))


def checkpoint_bytes(run: Run) -> dict[str, bytes]:
    """Every byte of the newest checkpoint."""
    return {path.name: path.read_bytes() for path in run.checkpoints()[-1].path.iterdir()}


def corpus_of(documents: Sequence[Sequence[int]], *, vocab_size: int = 64, text_bytes: int = 1000) -> Corpus:
    """A corpus of documents, each of which begins with 0, the BOS."""
    starts = np.cumsum([0, *map(len, documents)])
    return Corpus(
        shards=(np.concatenate([np.asarray(document, "<u2") for document in documents]),),
        offsets=(starts[:-1].astype("<i8"),),
        vocab_size=vocab_size,
        bos_id=0,
        fingerprint="test",
        text_bytes=text_bytes,
        token_hash="",
    )


def random_documents(*lengths: int, vocab_size: int = 64, seed: int = 0) -> list[list[int]]:
    """Documents of these lengths, BOS included, of random tokens."""
    numbers = np.random.default_rng(seed)
    return [[0, *numbers.integers(1, vocab_size, length - 1).tolist()] for length in lengths]
