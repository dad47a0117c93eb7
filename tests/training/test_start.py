"""A run that begins with the weights of another is that model at first, and a run like any other from there on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llamita.errors import UserError
from llamita.runs.folder import Run
from llamita.runs.saving import prune_checkpoints
from llamita.training.loop import StepMetrics
from llamita.training.session import Session
from llamita.training.start import Start
from tests.cli.command_line import llamita
from tests.training.tiny_runs import checkpoint_bytes, trained

ON_CPU = ("--device", "cpu", "--precision", "fp32", "--training.sample-tokens", 0, "--training.batch-size", 4)


def begun(source: Run, text: Path, target: Path, *more: object) -> Run:
    """A run of four steps from another's weights."""
    often = ("--training.eval-every", 2, "--training.save-every", 2, "--training.log-every", 1)
    made = llamita("train", text, "--from", source.path, "--run", target, "--training.steps", 4, *ON_CPU, *often, *more)
    assert made.code == 0, made.err
    return Run.open(target)


def weights(run: Run, which: str) -> dict[str, torch.Tensor]:
    return run.model(which).state_dict()


def test_it_begins_with_the_weights_and_goes_on_from_them(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on")
    source, start, end = weights(tiny_run, "best"), weights(run, "initial"), weights(run, "latest")
    assert all(torch.equal(source[name], start[name]) for name in source)
    assert any(not torch.equal(end[name], start[name]) for name in source)
    best = tiny_run.checkpoint("best")
    first = next(row for row in run.metrics() if row["step"] == 0)
    assert first["val_loss"] == pytest.approx(best.val_loss, abs=0.05)
    assert run.start is not None and run.start.meta["from"] == f"{tiny_run.path}, step {best.step}"
    assert run.tokenizer().fingerprint == tiny_run.tokenizer().fingerprint
    kept = run.config()
    assert kept.model.n_embd == tiny_run.config().model.n_embd
    assert kept.optimizer.lr < tiny_run.config().optimizer.lr / 5


def test_its_first_weights_stay_whatever_is_pruned(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on", "--training.keep-last", 1)
    prune_checkpoints(run.checkpoint_folder, 1)
    assert [item.step for item in run.checkpoints()][0] == 0
    assert run.checkpoint("latest").step == 4


def test_left_and_resumed_it_is_the_same_run(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    whole = begun(tiny_run, tiny_text, tmp_path / "whole")
    dead = Run.open(shutil.copytree(whole.path, tmp_path / "dead"))
    for item in dead.checkpoints():
        if item.step > 0:
            shutil.rmtree(item.path)
    dead.forget_metrics_after(-1)
    assert dead.beginning() is None
    told = trained(dead, until=2)
    assert dead.checkpoints()[-1].step == 2
    told += trained(dead)
    assert [one.step for one in told if isinstance(one, StepMetrics)] == [1, 2, 3, 4]
    assert checkpoint_bytes(whole) == checkpoint_bytes(dead)


def test_started_over_it_begins_with_them_again(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on")
    first = [row for row in run.metrics() if row["step"] in (0, 1)]
    told = llamita("resume", run.path, "--checkpoint", "initial", "--training.steps", 1)
    assert told.code == 0, told.err
    again = [row for row in run.metrics() if row["step"] == 0]
    assert again[0]["val_loss"] == first[0]["val_loss"]
    assert [item.step for item in run.checkpoints()] == [0, 1]


def test_a_rewind_to_the_beginning_comes_to_them(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on")
    session = Session(run, begin="initial")
    with torch.no_grad():
        session.model.embeddings.weight.fill_(float("nan"))
    session._start_over()
    start = weights(run, "initial")
    assert all(torch.equal(start[name], one) for name, one in session.model.state_dict().items())


def test_its_windows_may_be_shorter(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on", "--model.max-seq-len", 16)
    assert run.config().model.max_seq_len == 16


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--model.n-embd", 64), "model.n_embd (64): the weights of"),
        (("--model.rope-theta", 5000.0), "model.rope_theta (5000.0): the weights of"),
        (("--model.no-tie-embeddings",), "model.tie_embeddings (False): the weights of"),
        (("--tokenizer", "other.json"), "leave one of them out"),
        (("--checkpoint", 7), "--checkpoint 7: not in"),
    ],
)
def test_what_the_weights_do_not_allow_is_refused_before_anything_is_written(
    more: tuple[Any, ...], told: str, tiny_run: Run, tiny_text: Path, tmp_path: Path
) -> None:
    refused = llamita("train", tiny_text, "--from", tiny_run.path, "--run", tmp_path / "on", *ON_CPU, *more)
    assert refused.code == 2 and told in refused.err
    assert not (tmp_path / "on" / "config.toml").exists() and not (tmp_path / "on" / "checkpoints").exists()


def test_a_checkpoint_needs_a_run_to_be_of(tiny_text: Path, tmp_path: Path) -> None:
    refused = llamita("train", tiny_text, "--checkpoint", "latest", "--run", tmp_path / "on")
    assert refused.code == 2 and "--checkpoint" in refused.err and "--from" in refused.err


def test_a_run_that_only_has_weights_says_how_to_train_on(tiny_run: Run, tmp_path: Path) -> None:
    exported = tmp_path / "hf"
    assert llamita("export", "hf", tiny_run.path, exported).code == 0
    assert llamita("import", "hf", exported, tmp_path / "imported").code == 0
    refused = llamita("resume", tmp_path / "imported", "--training.steps", 4)
    assert refused.code == 1 and f"llamita train TEXT --from {tmp_path / 'imported'}" in refused.err


def test_what_was_imported_trains_on_and_goes_out_again(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    exported, again = tmp_path / "hf", tmp_path / "again"
    assert llamita("export", "hf", tiny_run.path, exported).code == 0
    assert llamita("import", "hf", exported, tmp_path / "imported").code == 0
    run = begun(Run.open(tmp_path / "imported"), tiny_text, tmp_path / "on")
    first = [one for one in run.metrics() if one["step"] == 0][0]["val_loss"]
    assert first == pytest.approx(tiny_run.checkpoint("best").val_loss, abs=0.05)
    assert llamita("export", "hf", run.path, again).code == 0
    made = llamita("generate", run.path, "The", "--greedy", "--max-new-tokens", 4)
    assert made.code == 0 and made.out


def test_there_is_no_start_in_a_run_without_checkpoint(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    empty = Run.open(shutil.copytree(tiny_run.path, tmp_path / "empty"))
    shutil.rmtree(empty.checkpoint_folder)
    assert empty.start is None
    with pytest.raises(UserError, match="no checkpoint yet"):
        Start.of(empty.path)
