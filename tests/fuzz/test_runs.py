"""Run folders that somebody made: commands use them or refuse them, and change nothing that they only read."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llamita.runs.checkpoint import checkpoints, load_model, load_state
from llamita.runs.folder import Run
from llamita.training.optimizer import build_optimizer
from llamita.training.recovery import Recovery
from llamita.training.state import TrainState, restore_state
from tests.fuzz.damage import Damage, damage, damages, sign
from tests.fuzz.plan import rounds
from tests.fuzz.run_commands import READING, RESUMING, asked
from tests.fuzz.trial import cheap, commanded, contents, tried, works


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


BEGUN = ("going on from", "starting over")


@rounds("run")
def test_a_run_is_used_or_refused_and_never_changed_by_reading(
    number: int, seed: int, many_parts: Run, places_of: dict[str, str], tmp_path: Path
) -> None:
    folder, outside = Path(places_of["RUN"]), tmp_path / "outside.txt"
    outside.write_text("a secret", encoding="utf-8")

    def attempt(case: tuple[Sequence[Damage], Sequence[str], bool]) -> bool:
        done, command, packed = case
        fresh(many_parts, folder, packed)
        for one in done:
            damage(folder, one, outside)
        before = contents(folder)
        outcome = commanded(*asked(command, places_of))
        assert contents(folder) == before
        assert "a secret" not in outcome.out + outcome.err
        return outcome.code == 0

    cases = st.tuples(st.lists(damages, min_size=1, max_size=2), st.sampled_from(READING), st.booleans())
    with cheap():
        assert tried(cases, number, attempt, seed=seed) >= number


@rounds("resume")
def test_a_run_is_resumed_or_refused(
    number: int, seed: int, many_parts: Run, places_of: dict[str, str], tmp_path: Path
) -> None:
    folder, outside = Path(places_of["RUN"]), tmp_path / "outside.txt"
    outside.write_text("a secret", encoding="utf-8")

    def attempt(case: tuple[Damage, Sequence[str], bool]) -> bool:
        done, command, packed = case
        fresh(many_parts, folder, packed)
        damage(folder, done, outside)
        before = contents(folder)
        outcome = commanded(*asked(command, places_of))
        assert outside.read_text(encoding="utf-8") == "a secret"
        if outcome.code != 0 and not any(word in outcome.out + outcome.err for word in BEGUN):
            assert contents(folder) == before
        return outcome.code == 0

    cases = st.tuples(damages, st.sampled_from(RESUMING), st.booleans())
    with cheap():
        assert tried(cases, number, attempt, seed=seed) >= number


@rounds("checkpoint")
def test_a_checkpoint_is_loaded_or_refused(number: int, seed: int, many_parts: Run, tmp_path: Path) -> None:
    folder, config = tmp_path / "checkpoints", many_parts.config()
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
            assert all(0 <= step <= 10 for step in Recovery.from_dict(item.meta).targets(found, 10))

    def attempt(case: tuple[Damage, int]) -> bool:
        done, which = case
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(many_parts.checkpoint_folder, folder)
        damage(folder, done, outside)
        return works(lambda: load(which))

    cases = st.tuples(damages, st.integers(0, 1))
    assert tried(cases, number, attempt, seed=seed) >= number


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 0.0, *(pytest.param(value, marks=pytest.mark.slow) for value in (-1e38, 1e-45, 1.0))],
)
def test_a_run_whose_weights_are_all_the_same_is_used_or_refused(
    value: float, many_parts: Run, places_of: dict[str, str]
) -> None:
    folder = Path(places_of["RUN"])
    fresh(many_parts, folder, packed=False)
    for item in Run(folder).checkpoints():
        weights = load_file(item.path / "model.safetensors")
        save_file(
            {name: torch.full_like(weight, value) for name, weight in weights.items()}, item.path / "model.safetensors"
        )
        sign(item.path)
    with cheap():
        for command in (*READING, RESUMING[0], RESUMING[-1]):
            commanded(*asked(command, places_of))
