"""Which vectors of a run are asked, and about which words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from llamita.cli.console import escaped, out
from llamita.errors import UsageError
from llamita.insight.vectors import Vectors
from llamita.insight.words import Word
from llamita.observatory.spaces import check_layer, context_state, state_vectors, table_vectors
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
        """The vectors; UsageError for a table and a layer at once."""
        opened = Run.open(run)
        if self.layer is None:
            return table_vectors(opened, self.table, checkpoint=self.checkpoint, center=self.center)
        if self.table != "input":
            raise UsageError(f"--layer {self.layer} is no part of --table {self.table}: give one of them")
        return state_vectors(opened, self.layer, checkpoint=self.checkpoint, center=self.center)

    def ask(self, run: Path, words: Sequence[str], context: str | None = None) -> "Asked":
        """The vectors and the words asked about; in a context, these are their states after a layer there."""
        if context is None:
            vectors = self.open(run)
            return Asked(self, vectors, [vectors.find(word) for word in words])
        if self.table != "input":
            raise UsageError("--context asks for states of a layer: give --layer instead of --table")
        opened = Run.open(run)
        model, tokenizer = opened.model(self.checkpoint), opened.tokenizer()
        layer = model.config.n_layers if self.layer is None else self.layer
        check_layer(model, layer)
        states = [context_state(model, tokenizer, word, context, layer) for word in words]
        space = replace(self, layer=layer)
        vectors = space.open(run).in_context({word.text: state for word, state in states})
        return Asked(space, vectors, [word for word, _ in states], context)


@dataclass(frozen=True)
class Asked:
    """A space's vectors, and the words that a question is about."""

    space: Space
    vectors: Vectors
    words: list[Word]
    context: str | None = None

    def say(self) -> None:
        """Say which words stand for something else than one row, and for what."""
        for word in self.words:
            if word.several:
                what = "their mean stands for it" if self.context is None else "the state of the last stands for it"
                out.print(f"{escaped(str(word))}: {what}")

    def told(self, **answers: Any) -> dict[str, Any]:
        """The question and answers as JSON; neighbors as objects."""
        words = [{"word": word.text, "ids": list(word.ids), "tokens": list(word.tokens)} for word in self.words]
        return {"space": self.space.name, "context": self.context, "words": words, **answers}
