"""The command line, called inside the test process."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from llamita.cli.app import main

# A model so small that a step takes milliseconds, the same on every machine.
TINY = (
    *("--device", "cpu", "--precision", "fp32", "--model.n-embd", "32", "--model.n-layers", "2"),
    *("--model.n-heads", "2", "--model.max-seq-len", "32", "--training.batch-size", "4"),
    *("--tokenizer.vocab-size", "320", "--training.sample-tokens", "8"),
)


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object that stdout must be."""
        assert self.code == 0, self.err
        found = json.loads(self.out)
        assert isinstance(found, dict)
        assert self.out.count("\n") == 1
        return found


def llamita(*arguments: object) -> Outcome:
    """Run `llamita ARGUMENTS`; an exception that isn't SystemExit is a failure of the test."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit:
            assert isinstance(exit.code, int)
            code = exit.code
    return Outcome(code, out.getvalue(), err.getvalue())
