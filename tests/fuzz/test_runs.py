"""Run folders that somebody made: commands use them or refuse them, and change nothing that they only read."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llamita.runs.checkpoint import checkpoints, load_model, load_state
from llamita.runs.folder import Run
from llamita.training.optimizer import build_optimizer
from llamita.training.state import TrainState, restore_state
from tests.fuzz.edits import (
    ByteEdit,
    Deed,
    JsonEdit,
    LineEdit,
    byte_edits,
    deeds,
    done_to,
    edited,
    json_edited,
    json_edits,
    line_edits,
    lines_edited,
    places,
    with_header,
)
from tests.fuzz.plan import rounds
from tests.fuzz.trial import commanded, contents, tried, works

READING = (
    *(("info", "RUN"), ("info", "RUN", "--json"), ("runs", "PARENT"), ("config", "show", "--run", "RUN")),
    *(("generate", "RUN", "The river", "--max-new-tokens", "4"), ("tokenizer", "encode", "RUN", "The river 犬")),
    *(("generate", "RUN", "--json", "--samples", "2", "--checkpoint", "initial", "--max-new-tokens", "3"),),
    *(("generate", "RUN", "The", "--checkpoint", "latest", "--greedy", "--max-new-tokens", "2"),),
    *(("walkthrough", "the boat", "--run", "RUN", "--json"), ("walkthrough", "--run", "RUN", "--checkpoint", "4")),
    *(("embeddings", "neighbors", "RUN", "the"), ("embeddings", "similarity", "RUN", "the", "#70")),
    *(("embeddings", "analogy", "RUN", "the", "a", "and"), ("embeddings", "export", "RUN", "OUT")),
    *(("embeddings", "odd-one-out", "RUN", "the", "a", "river", "--center"), ("eval", "RUN", "TEXT")),
    # These read the run's own text, too.
    *(("embeddings", "neighbors", "RUN", "the", "--layer", "1"), ("probe", "RUN", "--lists", "LIST", "OTHER")),
)


def one_step(rows: int) -> tuple[str, ...]:
    """Options with which a run that is resumed takes one step of so many rows, whatever its config says."""
    return (
        *(
            "--training.steps",
            "9",
            "--training.max-minutes",
            "0.05",
            "--training.sample-tokens",
            "0",
            "--device",
            "cpu",
        ),
        *("--training.batch-size", str(rows), "--training.micro-batch-size", str(rows), "--training.threads", "1"),
        *("--precision", "fp32", "--training.save-every", "100", "--training.eval-tokens", "100"),
        "--training.no-compile",
    )


@dataclass(frozen=True)
class Damage:
    """What is done to a file of a run; `signed` has the checksums agree with what came of it."""

    name: str
    which: float
    work: Deed | Sequence[LineEdit] | Sequence[JsonEdit] | Sequence[ByteEdit]
    signed: bool = False


damages = st.one_of(
    st.builds(Damage, name=st.just("*"), which=places, work=deeds),
    st.builds(Damage, name=st.just("*"), which=places, work=byte_edits),
    st.builds(Damage, name=st.just("config.toml"), which=st.just(0.0), work=line_edits),
    st.builds(Damage, name=st.just("*.json*"), which=places, work=json_edits),
    st.builds(Damage, name=st.just("meta.json"), which=places, work=json_edits),
    st.builds(Damage, name=st.just("*.safetensors"), which=places, work=json_edits, signed=st.booleans()),
    st.builds(Damage, name=st.just("*.safetensors"), which=places, work=byte_edits, signed=st.just(True)),
    st.builds(Damage, name=st.sampled_from(["shard_*.bin", "shard_*.npy"]), which=places, work=byte_edits),
)


def damage(folder: Path, done: Damage, outside: Path) -> None:
    """Damage a file of a folder."""
    files = sorted(path for path in folder.rglob(done.name) if path.is_file() and path.stat().st_size < 1 << 24)
    if not files:
        return
    path = files[int(done.which * len(files))]
    if isinstance(done.work, str):
        done_to(path, files[0], outside, done.work)
        return
    with contextlib.suppress(OSError, ValueError, RecursionError, LookupError):  # damaged before
        path.write_bytes(worked(path, done.work))
        if done.signed:
            sign(path.parent)


def worked(path: Path, work: Sequence[LineEdit] | Sequence[JsonEdit] | Sequence[ByteEdit]) -> bytes:
    """The content of a file after edits."""
    content = path.read_bytes()
    lines = [edit for edit in work if isinstance(edit, LineEdit)]
    changes = [edit for edit in work if isinstance(edit, JsonEdit)]
    if lines:
        return lines_edited(content.decode(), lines)
    if not changes:
        return edited(content, [edit for edit in work if isinstance(edit, ByteEdit)])
    if path.suffix == ".safetensors":
        return with_header(content, changes)
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        return json_edited(rows, changes).strip("[]").replace("}, {", "}\n{").encode() + b"\n"
    return json_edited(json.loads(content), changes).encode()


def sign(checkpoint: Path) -> None:
    """Have meta.json tell the checksums of the files as they are, as whoever makes a run to harm would."""
    meta = checkpoint / "meta.json"
    files = [checkpoint / name for name in ("model.safetensors", "state.safetensors")]
    if not all(path.is_file() and path.stat().st_size < 1 << 24 for path in (meta, *files)):
        return
    found = json.loads(meta.read_bytes())
    for path in files:
        found["sha256"][path.name] = sha256(path.read_bytes()).hexdigest()
    meta.write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture
def places_of(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> dict[str, str]:
    """What the capitals in commands stand for; the run's folder isn't there yet."""
    (tmp_path / "list.txt").write_text("the\na\nand\nin\nher\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text("river\nman\nboat\nwater\nrope\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text(tiny_text.read_text(encoding="utf-8")[:400], encoding="utf-8")
    (tmp_path / "runs").mkdir()
    return {
        **{"RUN": str(tmp_path / "runs" / "it"), "PARENT": str(tmp_path / "runs"), "TEXT": str(tmp_path / "text.txt")},
        **{
            "LIST": str(tmp_path / "list.txt"),
            "OTHER": str(tmp_path / "other.txt"),
            "OUT": str(tmp_path / "o.vec"),
        },
    }


def fresh(run: Run, folder: Path, packed: bool) -> None:
    """A new copy of a run in the place of the old one, that reads whole documents or one stream."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.path, folder)
    if packed:
        text = (folder / "config.toml").read_text(encoding="utf-8")
        text = text.replace('packing = "stream"', 'packing = "documents"')
        (folder / "config.toml").write_text(
            text.replace("mask_documents = false", "mask_documents = true"), encoding="utf-8"
        )


def asked(command: Sequence[str], names: dict[str, str]) -> list[str]:
    return [names.get(word, word) for word in command]


@rounds("run")
def test_a_run_is_used_or_refused_and_never_changed_by_reading(
    number: int, seed: int, tiny_run: Run, places_of: dict[str, str], tmp_path: Path
) -> None:
    folder, outside = Path(places_of["RUN"]), tmp_path / "outside.txt"
    outside.write_text("a secret", encoding="utf-8")

    def attempt(case: tuple[Sequence[Damage], Sequence[str], bool]) -> bool:
        done, command, packed = case
        fresh(tiny_run, folder, packed)
        for one in done:
            damage(folder, one, outside)
        before = contents(folder)
        outcome = commanded(*asked(command, places_of))
        assert contents(folder) == before
        assert "a secret" not in outcome.out + outcome.err
        return outcome.code == 0

    cases = st.tuples(st.lists(damages, min_size=1, max_size=2), st.sampled_from(READING), st.booleans())
    assert tried(cases, number, attempt, seed=seed) >= number


@rounds("resume")
def test_a_run_is_resumed_or_refused(
    number: int, seed: int, tiny_run: Run, places_of: dict[str, str], tmp_path: Path
) -> None:
    folder, outside = Path(places_of["RUN"]), tmp_path / "outside.txt"
    outside.write_text("a secret", encoding="utf-8")

    def attempt(case: tuple[Damage, Sequence[str], bool]) -> bool:
        done, options, packed = case
        fresh(tiny_run, folder, packed)
        damage(folder, done, outside)
        outcome = commanded("resume", folder, *one_step(rows=32), *options)
        assert outside.read_text(encoding="utf-8") == "a secret"
        return outcome.code == 0

    options = st.sampled_from(
        [(), ("--checkpoint", "4"), ("--checkpoint", "best"), ("--checkpoint", "../../x"), ("--json",)]
    )
    assert tried(st.tuples(damages, options, st.booleans()), number, attempt, seed=seed) >= number


@rounds("checkpoint")
def test_a_checkpoint_is_loaded_or_refused(number: int, seed: int, tiny_run: Run, tmp_path: Path) -> None:
    folder, config = tmp_path / "checkpoints", tiny_run.config()
    outside = tmp_path / "outside.txt"
    outside.touch()

    def load(which: int) -> None:
        found = checkpoints(folder)
        assert [item.path.name for item in found] == [f"step_{item.step:08d}" for item in found]
        for item in found[which : which + 1]:
            assert (item.val_loss or 0.0) * (item.bits_per_byte or 0.0) < 1e300 and item.tokens >= 0
            model = load_model(item, config.model)
            restore_state(model, build_optimizer(model, config.optimizer), load_state(item))
            assert TrainState.from_dict(item.meta).step == item.step

    def attempt(case: tuple[Damage, int]) -> bool:
        done, which = case
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_run.checkpoint_folder, folder)
        damage(folder, done, outside)
        return works(lambda: load(which))

    cases = st.tuples(damages, st.integers(0, 1))
    assert tried(cases, number, attempt, seed=seed) >= number


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e38, 1e-45, 0.0, 1.0])
def test_a_run_whose_weights_are_all_the_same_is_used_or_refused(
    value: float, tiny_run: Run, places_of: dict[str, str]
) -> None:
    folder = Path(places_of["RUN"])
    fresh(tiny_run, folder, packed=False)
    for item in Run(folder).checkpoints():
        weights = load_file(item.path / "model.safetensors")
        save_file(
            {name: torch.full_like(weight, value) for name, weight in weights.items()}, item.path / "model.safetensors"
        )
        sign(item.path)
    for command in READING:
        commanded(*asked(command, places_of))
    commanded("embeddings", "direction", folder, "--lists", places_of["LIST"], places_of["OTHER"])
    commanded("embeddings", "map", folder, "--file", places_of["OUT"].replace(".vec", ".svg"))
    commanded("resume", folder, *one_step(rows=4))
