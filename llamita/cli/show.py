"""`llamita runs`, `info`, `plan`, `config show` and `doctor`: nothing here changes anything."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from llamita import __version__, layers
from llamita.cli.console import count, duration, err, escaped, out, print_json
from llamita.cli.settings import Settings
from llamita.config import RunConfig
from llamita.errors import UsageError, UserError
from llamita.observatory.summary import summarize
from llamita.runs.folder import Run
from llamita.training.compiling import cache_folder, why_not_compiled
from llamita.training.hardware import choose_hardware
from llamita.training.plan import make_plan
from llamita.training.prepare import known_first, resolve

ASSUMED_BYTES = 100_000_000
_ROUGH_BYTES_PER_TOKEN = 4
_ENGINES = ("tokenizers", "gigatoken", "tiktoken")
_PACKAGES = ("torch", "numpy", *_ENGINES, "safetensors", "pyarrow", "rich", "cyclopts", "matplotlib")


def runs(folder: Path = Path("runs"), *, json: bool = False) -> None:
    """List runs.

    Parameters
    ----------
    folder
        Where the run folders lie.
    json
        Print one JSON object.
    """
    found = []
    for path in sorted(folder.glob("*/config.toml")) if os.path.isdir(folder) else ():
        try:
            found.append(summarize(Run.open(path.parent)))
        except UserError as error:
            err.print(f"{path.parent} is left out: {error}", markup=False)
    if json:
        print_json({"runs": [_plain(summary) for summary in found]})
        return
    if not found:
        out.print(f"no runs under {folder}; begin with: llamita train book.txt")
        return
    table = Table("run", "step", "parameters", "val loss", "bits per byte", box=None)
    for summary in found:
        loss, per_byte = _figure(summary.val_loss), _figure(summary.bits_per_byte)
        table.add_row(summary.run, f"{summary.step}/{summary.steps}", f"{summary.parameters:,}", loss, per_byte)
    out.print(table)


def info(run: Path, *, json: bool = False) -> None:
    """Tell what a run is and how far it came.

    Parameters
    ----------
    run
        The run's folder.
    json
        Print one JSON object.
    """
    summary = _plain(summarize(Run.open(run)))
    if json:
        print_json(summary)
        return
    for name, value in summary.items():
        out.print(f"{name:14} {value:,}" if isinstance(value, int) else f"{name:14} {value}", markup=False)


def plan(*, settings: Settings = Settings(), text_bytes: int = ASSUMED_BYTES, json: bool = False) -> None:
    """Parameters, memory and time of a configuration on this machine, without building the model.

    Parameters
    ----------
    text_bytes
        Size of the text that it would be trained on.
    json
        Print one JSON object.
    """
    config, _ = resolved(settings, text_bytes)
    costs = make_plan(config, text_bytes // _ROUGH_BYTES_PER_TOKEN)
    total = sum(costs.parameters.values())
    if json:
        print_json({**_plain(costs), "total_parameters": total})
        return
    for kind, number in costs.parameters.items():
        out.print(f"{kind:14} {number:>15,} parameters")
    out.print(f"{'in all':14} {total:>15,}")
    out.print(f"steps          {costs.steps:,} of {costs.tokens_per_step:,} tokens: {count(costs.tokens)} tokens")
    out.print(f"memory         about {costs.memory_bytes / 2**30:.2f} GiB beside torch itself")
    out.print(f"operations     {costs.flops:.2e}, here about {duration(costs.seconds)}")
    for warning in costs.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)


def config_show(
    run: Path | None = None,
    *,
    settings: Settings = Settings(),
    text_bytes: int = ASSUMED_BYTES,
    json: bool = False,
) -> None:
    """Print every setting and where it comes from.

    Parameters
    ----------
    run
        A run's folder, whose settings are shown instead.
    text_bytes
        Size of the text for which sizes are picked.
    json
        Print one JSON object.
    """
    if run is not None:
        opened = Run.open(run)
        config, origin = opened.config(), dict.fromkeys(layers.flat(opened.config()), str(opened.config_file))
    else:
        config, origin = resolved(settings, text_bytes)
    rows = layers.flat(config)
    if json:
        print_json({name: {"value": value, "from": origin.get(name, "default")} for name, value in rows.items()})
        return
    for name, value in rows.items():
        shown = "off" if value is None else escaped(str(value))
        out.print(f"{name:30} {shown:28} {origin.get(name, 'default')}", markup=False)


def doctor(*, json: bool = False) -> None:
    """Versions, devices and what this machine can do.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    hardware = choose_hardware("auto", "auto")
    facts: dict[str, Any] = {
        "llamita": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _installed(name) for name in _PACKAGES},
        "device": hardware.device,
        "precision": hardware.precision,
        "threads": hardware.threads,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "compile": why_not_compiled(hardware.device) or f"yes; graphs are kept in {cache_folder()}",
    }
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        out.print(f"{name:14} {value}", markup=False)


def resolved(settings: Settings, text_bytes: int) -> tuple[RunConfig, dict[str, str]]:
    """The config of a run on so much text, and where each setting comes from."""
    if text_bytes < 1:
        raise UsageError(f"--text-bytes {text_bytes}: give at least 1")
    asked = settings.asked()
    _, hardware = known_first(asked)
    tokens = max(text_bytes // _ROUGH_BYTES_PER_TOKEN, 1)
    picked, _ = resolve(asked, hardware, text_bytes, tokens, 1024)
    vocab_size = -(-picked.tokenizer.vocab_size // 64) * 64
    return resolve(asked, hardware, text_bytes, tokens, vocab_size)


def _plain(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
