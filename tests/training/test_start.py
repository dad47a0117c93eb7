"""A run that begins with the weights of another is that model at first, and a run like any other from there on."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llamita.errors import UserError
from llamita.runs.folder import Run
from llamita.runs.saving import prune_checkpoints, save_checkpoint
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
        (("--checkpoint", "initial"), "a model gives nothing to begin with"),
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


def test_interrupted_before_its_config_is_there_the_same_command_goes_on(
    tiny_run: Run, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for plain in (False, True):
        folder = tmp_path / f"on{plain}"
        with monkeypatch.context() as patch:
            patch.setattr(Run, "write_config", die)
            command = ("train", tiny_text, "--run", folder, "--training.steps", 1, *ON_CPU)
            assert llamita(*command, "--from", tiny_run.path).code == 130
        assert (folder / "checkpoints" / "step_00000000").is_dir() and not (folder / "config.toml").exists()
        # Whoever wants no weights after all gets none.
        done = llamita(*command, *(() if plain else ("--from", tiny_run.path)))
        assert done.code == 0, done.err
        assert (Run.open(folder).start is None) == plain


@pytest.mark.parametrize("harm", ["meta", "folder"])
def test_damaged_first_weights_are_never_replaced_by_random_ones(
    harm: str, tiny_run: Run, tiny_text: Path, tmp_path: Path
) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on")
    first = run.checkpoint_folder / "step_00000000"
    if harm == "meta":
        with (first / "meta.json").open("a") as file:
            file.write("x")
    else:
        shutil.rmtree(first)
    for command in (
        ("resume", run.path, "--checkpoint", "initial"),
        ("eval", run.path, tiny_text, "--checkpoint", "initial"),
    ):
        refused = llamita(*command)
        assert refused.code == 1 and "the run began with these weights" in refused.err, command
    assert [item.step for item in run.checkpoints()][-1] == 4
    assert llamita("generate", run.path, "The", "--max-new-tokens", 2).code == 0


def test_broken_first_weights_are_not_said_to_be_those_before_training(
    tiny_run: Run, tiny_text: Path, tmp_path: Path
) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on")
    (run.checkpoint_folder / "step_00000000" / "model.safetensors").write_bytes(b"x" * 100)
    refused = llamita("generate", run.path, "The", "--checkpoint", "initial")
    assert refused.code == 1 and f"copy them again from '{tiny_run.path}, step" in refused.err


def test_weights_that_were_trained_are_not_held_to_what_fresh_ones_must_be(
    tiny_run: Run, tiny_text: Path, tmp_path: Path
) -> None:
    source = Run.open(shutil.copytree(tiny_run.path, tmp_path / "source"))
    best = source.checkpoint("best")
    weights = load_file(best.path / "model.safetensors")
    weights["embeddings.weight"] *= 30
    shutil.rmtree(source.checkpoint_folder)
    save_checkpoint(source.checkpoint_folder, weights, {"rng.cpu": torch.get_rng_state()}, {"step": 8, "tokens": 8})
    run = begun(source, tiny_text, tmp_path / "on", "--training.preflight", "correct")
    assert run.config().model == dataclasses.replace(
        source.config().model, unpredicted_rows=run.config().model.unpredicted_rows
    )


def test_no_row_loses_its_logit_and_no_other_tokenizer_fits(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    source = Run.open(shutil.copytree(tiny_run.path, tmp_path / "source"))
    config = source.config()
    assert config.model.unpredicted_rows > 0
    source.write_config(dataclasses.replace(config, model=dataclasses.replace(config.model, unpredicted_rows=0)))
    assert begun(source, tiny_text, tmp_path / "on").config().model.unpredicted_rows == 0
    other = tmp_path / "other.toml"
    other.write_text(f'[tokenizer]\nfile = "{tiny_run.tokenizer_file}"\n')
    refused = llamita("train", tiny_text, "--from", source.path, "--run", tmp_path / "b", "--config", other, *ON_CPU)
    assert refused.code == 2 and "tokenizer.file (" in refused.err


def test_windows_are_short_enough_to_train_on(tiny_run: Run, tmp_path: Path) -> None:
    source = Run.open(shutil.copytree(tiny_run.path, tmp_path / "source"))
    config = source.config()
    source.write_config(dataclasses.replace(config, model=dataclasses.replace(config.model, max_seq_len=131072)))
    start = Start.of(source.path)
    assert start.layer("cpu").values["model"]["max_seq_len"] == 512
    assert start.layer("cuda").values["model"]["max_seq_len"] == 2048


def test_the_best_is_the_first_where_training_did_harm(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on", "--optimizer.lr", 10.0, "--optimizer.warmup-steps", 0)
    losses = {row["step"]: row["val_loss"] for row in run.metrics() if "val_loss" in row}
    assert losses[0] < min(losses[2], losses[4])
    assert run.checkpoint("best").step == 0 and run.checkpoint("latest").step == 4


def test_the_card_says_whence_the_weights_came(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    run = begun(tiny_run, tiny_text, tmp_path / "on")
    assert llamita("export", "hf", run.path, tmp_path / "out").code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"trained on from {tiny_run.name}, step" in card and "from scratch" not in card


def test_there_is_no_start_in_a_run_without_checkpoint(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    empty = Run.open(shutil.copytree(tiny_run.path, tmp_path / "empty"))
    shutil.rmtree(empty.checkpoint_folder)
    assert empty.start is None
    with pytest.raises(UserError, match="no checkpoint yet"):
        Start.of(empty.path)
