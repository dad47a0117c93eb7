"""A run folder: its parts, by name. Everything a run is lies in here; nothing outside is needed to use it."""

import json
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
from llamita.errors import UsageError, UserError
from llamita.files import write_text
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.checkpoint import Checkpoint, checkpoints, load_model
from llamita.text.tokenizer import Tokenizer

_PACKAGES = ("llamita", "torch", "numpy", "tokenizers", "safetensors", "pyarrow")


@dataclass(frozen=True, slots=True)
class Run:
    """runs/NAME: config.toml, tokenizer.json, data/, metrics.jsonl, checkpoints/, samples/."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> "Run":
        """A new run's folder; UsageError if a run is there already."""
        if (path / "config.toml").exists():
            raise UsageError(f"{path} holds a run already; go on with: llamita resume {path}")
        if checkpoints(path / "checkpoints"):
            raise UsageError(f"{path} holds checkpoints but no config.toml; remove it or choose another --run")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: can't be made ({error.strerror}); choose another --run") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """The run in this folder; UserError if there's none."""
        run = cls(Path(path))
        if not run.config_file.is_file():
            raise UserError(f"{path}: no run here (no config.toml); `llamita runs` lists those under runs/")
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
    def checkpoint_folder(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    def config(self) -> RunConfig:
        """The resolved config."""
        return layers.build(layers.from_file(self.config_file).values)

    def write_config(self, config: RunConfig) -> None:
        """Replace config.toml in one rename."""
        write_text(self.config_file, layers.to_toml(config))

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
        """The run's tokenizer."""
        return Tokenizer.load(self.tokenizer_file)

    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        return checkpoints(self.checkpoint_folder)

    def checkpoint(self, which: str = "best") -> Checkpoint:
        """The "best" checkpoint by validation loss, the "latest", or the one of a step; UserError if none."""
        found = self.checkpoints()
        if not found:
            raise UserError(f"{self.path}: no checkpoint yet; start over with: llamita resume {self.path}")
        if which == "latest":
            return found[-1]
        if which == "best":
            rated = [item for item in found if item.val_loss is not None]
            return min(rated, key=lambda item: item.val_loss or 0.0) if rated else found[-1]
        for item in found:
            if str(item.step) == which:
                return item
        steps = ", ".join(str(item.step) for item in found)
        raise UserError(f"--checkpoint {which}: not in {self.path}; there are best, latest, initial, {steps}")

    def model(self, which: str = "best", device: str = "cpu") -> LLaMaTransformer:
        """The model of a checkpoint, in evaluation mode; "initial" is the model before its first step."""
        if which == "initial":
            return initial_model(self.config()).to(device).eval()
        model = load_model(self.checkpoint(which), self.config().model)
        return model.to(device).eval()

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl, or nothing at all if it can't be written."""
        before = self.metrics_file.stat().st_size if self.metrics_file.exists() else 0
        try:
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError:
            # Half a line would make the next one unreadable, too.
            if self.metrics_file.exists():
                os.truncate(self.metrics_file, before)
            raise

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut off is left out."""
        if not self.metrics_file.exists():
            return
        with self.metrics_file.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)

    def forget_metrics_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run is going to take again."""
        kept = [row for row in self.metrics() if row["step"] <= step]
        write_text(self.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))


def initial_model(config: RunConfig) -> LLaMaTransformer:
    """A run's model with the weights that its seed gives it; other random numbers of the process go on as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.training.seed)
        return LLaMaTransformer(config.model)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
