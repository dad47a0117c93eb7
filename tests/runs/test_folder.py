"""A run folder holds everything that a run is, and says so when it doesn't."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from llamita import layers
from llamita.errors import UsageError, UserError
from llamita.files import write_text
from llamita.runs.folder import Run
from llamita.training.session import Session


def test_a_run_folder_holds_its_parts_and_nothing_else(tiny_run: Run) -> None:
    names = {path.name for path in tiny_run.path.iterdir()}
    assert names == {
        *("config.toml", "tokenizer.json", "environment.json", "metrics.jsonl", "loss.png"),
        *("data", "checkpoints", "samples"),
    }
    assert not [path for path in tiny_run.path.rglob("*") if path.name.startswith(".")]


def test_no_file_of_a_run_is_a_pickle(tiny_run: Run) -> None:
    suffixes = {path.suffix for path in tiny_run.path.rglob("*") if path.is_file()}
    assert suffixes <= {".toml", ".json", ".jsonl", ".safetensors", ".bin", ".npy", ".png", ".txt"}
    for path in tiny_run.path.rglob("*"):
        # Protocol 2 and later begin with 0x80; torch.save makes zip files.
        assert path.is_dir() or path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def test_a_run_works_wherever_its_folder_is_moved(tiny_run: Run, copied_run: Run, tmp_path: Path) -> None:
    moved = Run.open(str(shutil.move(copied_run.path, tmp_path / "elsewhere")))
    tokens = torch.tensor([tiny_run.tokenizer().encode("The river")])
    assert torch.equal(moved.model()(tokens), tiny_run.model()(tokens))
    assert moved.tokenizer().fingerprint == tiny_run.tokenizer().fingerprint
    assert moved.name == "elsewhere"


def test_a_model_that_is_opened_is_ready_to_be_used(tiny_run: Run) -> None:
    assert not tiny_run.model().training


def test_a_config_is_read_as_it_was_written(tiny_run: Run, copied_run: Run) -> None:
    config = tiny_run.config()
    copied_run.write_config(config)
    assert copied_run.config() == config
    assert copied_run.config_file.read_text(encoding="utf-8") == layers.to_toml(config)


def test_every_setting_of_a_resolved_config_has_a_real_value(tiny_run: Run) -> None:
    flat = layers.flat(tiny_run.config())
    off = {name for name, value in flat.items() if value is None}
    assert off <= {
        "model.rope_scaling",
        "tokenizer.file",
        "data.max_bytes",
        "optimizer.clip",
        "training.max_minutes",
        "training.keep_every",
    }
    assert "auto" not in flat.values()


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=re.escape(f"{path}: no run here")):
            Run.open(path)


def test_a_new_run_takes_no_place_that_is_taken(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"llamita resume {tiny_run.path}")):
        Run.create(tiny_run.path)
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "inside"):
        with pytest.raises(UserError, match=re.escape(f"{path}: can't be made")):
            Run.create(path)


def test_a_folder_left_without_a_config_is_free_for_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert Run.create(tmp_path) == Run(tmp_path)
    assert Run.create(tmp_path / "deep" / "down").path.is_dir()


def test_a_damaged_config_is_named(copied_run: Run) -> None:
    copied_run.config_file.write_text("[model]\nvocab_size = 0\n", encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape("model.vocab_size (0)")):
        copied_run.config()


def test_a_checkpoint_is_chosen_by_its_loss_its_age_or_its_step(tiny_run: Run) -> None:
    found = tiny_run.checkpoints()
    assert [item.step for item in found] == [4, 8]
    losses = [item.val_loss for item in found]
    assert tiny_run.checkpoint("best").val_loss == min(loss for loss in losses if loss is not None)
    assert tiny_run.checkpoint("latest").step == 8
    assert tiny_run.checkpoint("4").step == 4
    with pytest.raises(UserError, match="--checkpoint 5: .*best, latest, initial, 4, 8"):
        tiny_run.checkpoint("5")


def test_the_initial_model_is_the_one_that_training_began_with(copied_run: Run) -> None:
    state = torch.get_rng_state()
    initial = copied_run.model("initial")
    assert torch.equal(torch.get_rng_state(), state) and not initial.training
    trained = copied_run.model("latest")
    shutil.rmtree(copied_run.checkpoint_folder)
    begun = Session(copied_run).model
    for name, weight in begun.named_parameters():
        assert torch.equal(initial.get_parameter(name), weight)
    assert not torch.equal(trained.embeddings.weight, initial.embeddings.weight)


def test_a_run_without_a_checkpoint_says_how_to_start_it(copied_run: Run) -> None:
    shutil.rmtree(copied_run.checkpoint_folder)
    with pytest.raises(UserError, match=re.escape(f"llamita resume {copied_run.path}")):
        copied_run.checkpoint()


def test_metrics_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert list(run.metrics()) == []
    rows = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "val_loss": None}]
    for row in rows:
        run.append_metrics(row)
    assert list(run.metrics()) == rows


def test_a_line_of_metrics_that_was_cut_off_is_left_out_and_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append_metrics({"step": 1})
    with run.metrics_file.open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "lo')
    assert list(run.metrics()) == [{"step": 1}]
    run.forget_metrics_after(1)
    run.append_metrics({"step": 2})
    assert list(run.metrics()) == [{"step": 1}, {"step": 2}]


def test_metrics_of_steps_that_will_be_taken_again_are_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (0, 1, 2, 2, 3, 4):
        run.append_metrics({"step": step})
    run.forget_metrics_after(2)
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 2]


def test_a_run_notes_what_it_ran_on(tiny_run: Run) -> None:
    facts = json.loads((tiny_run.path / "environment.json").read_text(encoding="utf-8"))
    assert facts["packages"]["torch"] == torch.__version__
    assert facts.keys() == {"python", "platform", "processor", "command", "packages", "gpu"}


def test_a_text_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    write_text(file, "old")
    write_text(file, "nöw\n")
    assert file.read_bytes() == "nöw\n".encode()
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")
    assert file.read_text(encoding="utf-8") == "nöw\n"
