"""What is being prepared in a run folder, noted there so that an interrupted preparation goes on with the same."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers

from llamita import __version__
from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.files import read_text, remove_asides, write_text
from llamita.runs.folder import PREPARATION, WHOLE_FILES, Run, check_contents
from llamita.runs.lock import writing
from llamita.text.sources import ReadReport, Source, Stamp, stamp
from llamita.text.tokenizer import Tokenizer

_FORMAT = 1
_NOTE_BYTES = 1 << 28  # room for the stamps of a million sources
_SHA256_DIGITS, _DIGITS_SHOWN = 64, 12


@contextmanager
def claimed(target: Path) -> Iterator[Run]:
    """Make a run's folder and hold it for writing.

    UsageError if it is a run already, UserError if another process holds it or the disk doesn't take what is
    written. What a killed process left aside is removed.
    """
    # Like a run's own, for what a stranger left there might lead anywhere.
    check_contents(Run.create(target).path)
    with writing(target):
        # It may have become a run just before it was locked.
        run = Run.create(target)
        try:
            remove_asides(run.path, PREPARATION, *WHOLE_FILES)
            yield run
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{target}: can't be written ({reason}); make room there, and try again") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """Sources and settings, and what is known of them already.

    settings: all that the tokens depend on besides the text. report, counts: what reading met, and the number of
    documents of each source. tokenizer: the fingerprint of the one that is finished.
    """

    sources: tuple[Stamp, ...]
    settings: dict[str, Any]
    report: ReadReport
    counts: tuple[int, ...]
    tokenizer: str | None = None

    @property
    def key(self) -> str:
        """Another string whenever the tokens might be others."""
        asked = [[asdict(source) for source in self.sources], self.settings]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def has_read(self, sources: Sequence[Stamp], field: str, max_bytes: int | None) -> bool:
        """Whether it has read these sources as they are, as much of them, with this field and this version."""
        return self.sources == tuple(sources) and reading_settings(field, max_bytes).items() <= self.settings.items()

    def changes(self, now: "Preparation") -> list[str]:
        """What differs in another preparation, in words."""
        names = sorted(self.settings.keys() | now.settings.keys())
        values = [(name, self.settings.get(name), now.settings.get(name)) for name in names]
        return changed_sources(self.sources, now.sources) + [
            f"{name} was {_shown(old)}, is {_shown(new)}" for name, old, new in values if old != new
        ]

    def save(self, folder: Path) -> None:
        """Replace the note in a run folder."""
        write_text(folder / PREPARATION, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")


def load_preparation(folder: Path) -> tuple[Preparation | None, list[str]]:
    """The note in a run folder, if there is one that can be used; what to say if it can't."""
    path = folder / PREPARATION
    try:
        values = json.loads(read_text(path, _NOTE_BYTES))
        if values.pop("format") != _FORMAT:
            return None, [f"{path} is of another version of llamita"]
        if not isinstance(values["settings"], dict) or len(values["counts"]) != len(values["sources"]):
            raise ValueError("its parts don't fit")
        values |= {"sources": tuple(Stamp(**source) for source in values["sources"]), "counts": tuple(values["counts"])}
        return Preparation(**values | {"report": ReadReport(**values["report"])}), []
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, [f"{path} is damaged ({error!r})"]


def is_being_prepared(folder: Path) -> bool:
    """Whether a preparation of somebody's text was begun there and isn't over."""
    return os.path.exists(folder / PREPARATION)


def forget_preparation(folder: Path) -> None:
    """Remove the note in a run folder."""
    (folder / PREPARATION).unlink(missing_ok=True)


def reading_settings(field: str, max_bytes: int | None) -> dict[str, Any]:
    """What the documents of a source depend on."""
    return {"llamita": __version__, "data.field": field, "data.max_bytes": max_bytes}


def token_settings(config: RunConfig, given: Tokenizer | None) -> dict[str, Any]:
    """What the tokens of a document depend on; `given`: the tokenizer that is used instead of training one."""
    trained = {"tokenizer.kind": config.tokenizer.kind, "tokenizer.vocab_size": config.tokenizer.vocab_size}
    return {
        "tokenizers": tokenizers.__version__,
        "data.validation_fraction": config.data.validation_fraction,
        "training.seed": config.training.seed,
        **(trained if given is None else {"tokenizer.file": given.fingerprint}),
    }


def stamps(sources: Sequence[Source]) -> tuple[Stamp, ...]:
    """What tells each source from what it might become."""
    return tuple(map(stamp, sources))


def changed_sources(before: Sequence[Stamp], now: Sequence[Stamp]) -> list[str]:
    """What became of sources, in words."""
    old, new = ({source.path: source for source in sources} for sources in (before, now))
    told = [f"{path} is no longer among the sources" for path in old if path not in new]
    for path, source in new.items():
        if path not in old:
            told.append(f"{path} is new among the sources")
        elif old[path].bytes != source.bytes:
            told.append(f"{path} has changed since ({old[path].bytes} bytes -> {source.bytes} bytes)")
        elif old[path] != source:
            how = "written anew" if source.sha256 is None else "others"
            told.append(f"{path} has changed since ({source.bytes} bytes as before, but {how})")
    return told or (["the sources come in another order"] if list(old) != list(new) else [])


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    fingerprint = isinstance(value, str) and len(value) == _SHA256_DIGITS
    return f"{value[:_DIGITS_SHOWN]}..." if fingerprint else str(value)
