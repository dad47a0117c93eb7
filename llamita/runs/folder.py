"""A run folder: its parts, by name. Everything a run is lies in here; nothing outside is needed to use it."""

import json
import math
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from llamita import layers
from llamita.config import RunConfig
from llamita.errors import UsageError, UserError, command_line
from llamita.files import append_line, make_folder, sync_folder, write_text
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.checkpoint import Checkpoint, checkpoints, damaged_after, load_model
from llamita.runs.start import START, start_of
from llamita.text.tokenizer import Tokenizer

_PACKAGES = ("llamita", "torch", "numpy", "tokenizers", "safetensors", "pyarrow")
# Those that preparing a run writes, and the note of a preparation that isn't over.
WHOLE_FILES = ("config.toml", "environment.json", "tokenizer.json", "tokenizer_config.json", START)
PREPARATION = "preparation.json"
_ROW_CHARACTERS = 1 << 20  # of a line of metrics.jsonl, which has a few hundred
_MOST_STEPS = 2**63


@dataclass(frozen=True, slots=True)
class Run:
    """runs/NAME: config.toml, tokenizer.json, data/, metrics.jsonl, checkpoints/, samples/."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> "Run":
        """A new run's folder; UsageError if a run is there already."""
        if os.path.exists(path / "config.toml"):
            raise UsageError(f"{path} holds a run already; go on with: {command_line('resume', path)}")
        there = checkpoints(path / "checkpoints")
        # A preparation that was interrupted may have left the weights that its run was to begin with.
        if there and (there[-1].step > 0 or not os.path.exists(path / PREPARATION)):
            raise UsageError(f"{path} holds checkpoints but no config.toml; remove it or choose another --run")
        try:
            make_folder(path)
            sync_folder(path.parent)  # whoever made it before may not have
        except OSError as error:
            raise UserError(f"{path}: can't be made ({error.strerror}); choose another --run") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """The run in this folder; UserError if there's none, or if something in it leads out of it or is no file."""
        run = cls(Path(path))
        if not os.path.isfile(run.config_file):
            raise UserError(f"{path}: no run here (no config.toml); `llamita runs` lists those under runs/")
        check_contents(run.path)
        return run

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The resolved config as TOML."""
        return self.path / "config.toml"

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer in Hugging Face's format."""
        return self.path / "tokenizer.json"

    @property
    def data_folder(self) -> Path:
        """Token shards of the training and the validation text."""
        return self.path / "data"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line: training figures and evaluations, in order of step."""
        return self.path / "metrics.jsonl"

    @property
    def incidents_file(self) -> Path:
        """One JSON object a line: steps that were skipped and rewinds, never forgotten."""
        return self.path / "incidents.jsonl"

    @property
    def checkpoint_folder(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    def config(self) -> RunConfig:
        """The resolved config."""
        return layers.build(layers.from_file(self.config_file).values)

    def write_config(self, config: RunConfig) -> None:
        """Replace config.toml in one rename; UserError if it can't be written."""
        try:
            write_text(self.config_file, layers.to_toml(config))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"{self.config_file}: can't be written ({reason}); make room there, and try again"
            ) from error

    def write_environment(self) -> None:
        """Note versions, machine and command line in environment.json."""
        facts = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "packages": {name: _version(name) for name in _PACKAGES},
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        }
        write_text(self.path / "environment.json", json.dumps(facts, indent=2) + "\n")

    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer; UserError if it has more tokens than the config's table has rows for them."""
        tokenizer, model = Tokenizer.load(self.tokenizer_file), self.config().model
        predicted = model.vocab_size - model.unpredicted_rows
        for tokens, rows in ((tokenizer.get_vocab_size(), model.vocab_size), (tokenizer.text_size, predicted)):
            if tokens > rows:
                raise UserError(
                    f"{self.tokenizer_file} has {tokens} tokens, but the table of {self.config_file} {rows} rows for "
                    "them: put the tokenizer there that the run began with"
                )
        return tokenizer

    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        return checkpoints(self.checkpoint_folder)

    def checkpoint(self, which: str = "best") -> Checkpoint:
        """The "best" checkpoint by validation loss, the "latest", or the one of a step; UserError if there is none."""
        found = self.checkpoints()
        if not found:
            raise UserError(f"{self.path}: no checkpoint yet; start over with: {command_line('resume', self.path)}")
        if which == "latest":
            return found[-1]
        if which == "best":
            losses = {item.path: item.val_loss for item in found}
            if found[0].step == 0:
                # It was measured when training began, after it was written.
                losses[found[0].path] = next((row.get("val_loss") for row in self.metrics() if row["step"] == 0), None)
            rated = [item for item in found if losses[item.path] is not None]
            return min(rated, key=lambda item: losses[item.path] or 0.0) if rated else found[-1]
        for item in found:
            if str(item.step) == which:
                return item
        steps = ", ".join(str(item.step) for item in found)
        raise UsageError(f"--checkpoint {which}: not in {self.path}; there are best, latest, initial, {steps}")

    @property
    def start(self) -> Checkpoint | None:
        """The weights that the run began with, if they were another's; UserError if they are damaged."""
        return start_of(self.path)

    def initial_model(self, config: RunConfig) -> LLaMaTransformer:
        """The model before its first step: with the weights that the run began with, or those its seed gives it."""
        start = self.start
        return initial_model(config) if start is None else load_model(start, config.model)

    def beginning(self, which: str | None = None) -> Checkpoint | None:
        """The checkpoint that training goes on from, by default the newest; None is the model before its first step.

        UserError if there is no such one, or if what came last is damaged.
        """
        if which is not None:
            chosen = None if which == "initial" else self.checkpoint(which)
            return chosen if chosen is not None and chosen.step else None
        found = self.checkpoints()
        reached = found[-1].step if found else -1
        if damaged := damaged_after(self.checkpoint_folder, reached):
            instead = reached if found else "initial"
            raise UserError(f"{damaged[-1]}: meta.json is missing or damaged; use --checkpoint {instead}")
        return found[-1] if reached > 0 else None

    def model(self, which: str = "best", device: str = "cpu") -> LLaMaTransformer:
        """The model of a checkpoint, in evaluation mode; "initial" is the model before its first step."""
        if which == "initial":
            return self.initial_model(self.config()).to(device).eval()
        model = load_model(self.checkpoint(which), self.config().model)
        return model.to(device).eval()

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl, or nothing at all if it can't be written."""
        append_line(self.metrics_file, json.dumps(row))

    def append_incident(self, row: dict[str, Any]) -> None:
        """Add a line to incidents.jsonl, or nothing at all if it can't be written."""
        append_line(self.incidents_file, json.dumps(row))

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl; those that were cut off, or are no object with a step, are left out."""
        if not self.metrics_file.exists():
            return
        with self.metrics_file.open(encoding="utf-8", errors="replace") as file:
            while line := file.readline(_ROW_CHARACTERS):
                row = _row(line)
                if row is not None:
                    yield row

    def forget_metrics_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run is going to take again."""
        kept = [row for row in self.metrics() if row["step"] <= step]
        write_text(self.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))


def check_contents(folder: Path) -> None:
    """UserError for what a stranger could have put into a run folder to have other files read, or nothing forever."""
    root, waiting = os.path.realpath(folder), [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                waiting += [entry.path for entry in entries if _is_folder(entry, root)]
        except FileNotFoundError:
            continue  # another process has just removed it
        except OSError as error:
            raise UserError(f"{error.filename}: can't be searched ({error.strerror}); check its permissions") from error


def _is_folder(entry: os.DirEntry[str], root: str) -> bool:
    """Whether an entry of a run folder is one to search; UserError for what must not be there."""
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not Path(target).is_relative_to(root):
            raise UserError(
                f"{entry.path}: a link out of the run folder, to {target}; remove it, or copy what it leads to "
                "into its place if you trust it"
            )
        return False  # what it leads to is looked at in its own place
    if entry.is_dir():
        return True
    if not entry.is_file() and os.path.lexists(entry.path):
        raise UserError(f"{entry.path}: neither a file nor a folder but a pipe, a socket or a device; remove it")
    return False


def _row(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl, if it is one."""
    try:
        row = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    known = isinstance(row, dict) and type(row.get("step")) is int and abs(row["step"]) < _MOST_STEPS
    return row if known else None


def initial_model(config: RunConfig) -> LLaMaTransformer:
    """A run's model with the weights that its seed gives it; other random numbers of the process go on as they were.

    UserError for one that is larger than the machine's memory.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        with torch.device("meta"):
            weights = LLaMaTransformer(config.model).state_dict().values()
        needed, there = sum(weight.numel() * weight.itemsize for weight in weights), _memory()
        if needed > there:
            raise UserError(
                f"the [model] of config.toml takes {needed / 2**30:,.0f} GiB, this machine has {there / 2**30:,.0f}"
            )
        torch.manual_seed(config.training.seed)
        return LLaMaTransformer(config.model)


def _memory() -> float:
    """Bytes of memory that the machine has, where it tells."""
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    known = hasattr(os, "sysconf") and os.sysconf_names.keys() >= set(names)
    return float(math.prod(map(os.sysconf, names))) if known else math.inf


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
