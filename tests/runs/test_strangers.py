"""Runs of strangers: whatever is in a folder, nothing outside of it is read or written, and no memory is lost to it."""

import os
import shutil
import socket
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.observatory.plots import plot_losses
from llamita.runs.checkpoint import Checkpoint, check_shape, checkpoints, load_model, load_state
from llamita.runs.folder import Run, initial_model
from llamita.runs.saving import save_checkpoint
from tests.cli.command_line import llamita
from tests.model.tiny import random_tokens, stirred, tiny_config
from tests.signed import write_meta
from tests.training.tiny_runs import small_config

NOT_META: dict[str, Any] = {
    **{"step": 2, "format": None, "sha256": None, "val_loss": "low", "bits_per_byte": [1], "tokens": -1},
    **{"position": None},
}


def saved(folder: Path, step: int = 1, **shape: Any) -> Checkpoint:
    """A checkpoint of a tiny model."""
    weights = stirred(tiny_config(**shape)).state_dict()
    return save_checkpoint(folder, weights, {"rng.cpu": torch.get_rng_state()}, {"step": step})


def signed(checkpoint: Checkpoint, name: str, content: bytes) -> Checkpoint:
    """The checkpoint with another file, whose checksum is right: whoever makes a run to harm sees to that."""
    (checkpoint.path / name).write_bytes(content)
    meta = {**checkpoint.meta, "sha256": {**checkpoint.meta["sha256"], name: sha256(content).hexdigest()}}
    write_meta(checkpoint.path, meta)
    (found,) = checkpoints(checkpoint.path.parent)
    return found


def with_weights(checkpoint: Checkpoint, weights: dict[str, torch.Tensor]) -> Checkpoint:
    save_file(weights, checkpoint.path / "new")
    return signed(checkpoint, "model.safetensors", (checkpoint.path / "new").read_bytes())


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.path / "model.safetensors")


@pytest.mark.parametrize(
    "place", ["loss.png", "data/train", "checkpoints/step_00000004/model.safetensors", "deep/down"]
)
def test_a_link_out_of_a_run_is_refused_by_name(place: str, copied_run: Run, tmp_path: Path) -> None:
    path = copied_run.path / place
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError) as refused:
        Run.open(copied_run.path)
    assert f"{path}: a link out of the run folder, to {tmp_path / 'elsewhere'}; remove it" in str(refused.value)


def test_a_link_that_goes_round_to_what_is_outside_is_refused_too(copied_run: Run, tmp_path: Path) -> None:
    (copied_run.path / "a").symlink_to("b")
    (copied_run.path / "b").symlink_to("samples/../../secret")
    (tmp_path / "secret").touch()
    with pytest.raises(UserError, match="a link out of the run folder"):
        Run.open(copied_run.path)


def test_links_inside_a_run_and_to_a_run_are_followed(copied_run: Run, tmp_path: Path) -> None:
    (copied_run.path / "newest").symlink_to("checkpoints/step_00000008")
    (copied_run.path / "round").symlink_to(".")
    (copied_run.path / "nowhere").symlink_to("missing")
    (copied_run.path / "itself").symlink_to("itself")
    (tmp_path / "link").symlink_to(copied_run.path, target_is_directory=True)
    for path in (copied_run.path, tmp_path / "link"):
        assert not Run.open(path).model().training


def test_what_is_no_file_is_refused_by_name(copied_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = copied_run.path / "samples" / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=f"{pipe}: neither a file nor a folder but a pipe"):
        Run.open(copied_run.path)
    pipe.unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(copied_run.path)  # a socket's path must be short
        bound.bind("here")
    with pytest.raises(UserError, match="here: neither a file nor a folder"):
        Run.open(copied_run.path)


def test_a_pipe_in_place_of_a_checkpoints_file_is_never_waited_for(tmp_path: Path) -> None:
    found = saved(tmp_path)
    for name in ("model.safetensors", "state.safetensors", "meta.json"):
        (found.path / name).unlink()
        os.mkfifo(found.path / name)
    assert checkpoints(tmp_path) == []
    with pytest.raises(UserError, match="not a file"):
        load_model(found, tiny_config())
    with pytest.raises(UserError, match="not a file"):
        load_state(found)


@pytest.mark.parametrize("which", ["../../x", "/etc/passwd", "step_00000008", "4/../8", "08", "-1", "", "4\0"])
def test_the_name_of_a_checkpoint_is_never_a_path(which: str, copied_run: Run) -> None:
    shutil.copytree(copied_run.path / "checkpoints" / "step_00000004", copied_run.path.parent / "x")
    with pytest.raises(UserError, match="not in .*; there are best, latest, initial, 4, 8"):
        copied_run.checkpoint(which)


@pytest.mark.parametrize(
    "name",
    ["step_1", "step_00000002", "step_0000000001", "step_00000001.json", "step_+0000001", "step_٠٠٠٠٠٠٠١", "step_x"],
)
def test_a_folder_that_isnt_named_by_its_step_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    saved(tmp_path).path.rename(tmp_path / name)
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("field", ["step", "format", "sha256", "val_loss", "bits_per_byte", "tokens"])
def test_a_folder_whose_meta_was_never_written_by_saving_is_no_checkpoint(field: str, tmp_path: Path) -> None:
    found = saved(tmp_path)
    write_meta(found.path, {**found.meta, field: NOT_META[field]})
    assert checkpoints(tmp_path) == []


def test_a_loss_that_is_no_number_counts_as_none(tmp_path: Path) -> None:
    found = saved(tmp_path)
    meta = {**found.meta, "val_loss": float("nan"), "bits_per_byte": float("inf")}
    write_meta(found.path, meta)
    (again,) = checkpoints(tmp_path)
    assert again.val_loss is None and again.bits_per_byte is None and again.tokens == 0


def test_a_checkpoint_of_another_format_is_refused_and_not_left_out(tmp_path: Path) -> None:
    found = saved(tmp_path)
    write_meta(found.path, {**found.meta, "format": 2})
    with pytest.raises(UserError, match="of format 2, this llamita reads 1"):
        load_model(checkpoints(tmp_path)[0], tiny_config())


@pytest.mark.parametrize("name", ["../../../outside", "/tmp/outside", "embeddings.weight/../x", "", "a\0b"])
def test_the_name_of_a_tensor_is_never_a_path(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "down"
    found = saved(folder)
    found = with_weights(found, {**weights_of(found), name: torch.zeros(1)})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as refused:
        load_model(found, tiny_config())
    assert f"{name!r} is (1,), the config wants None" in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_are_missing_empty_or_of_another_type_are_refused(tmp_path: Path) -> None:
    found = saved(tmp_path)
    weights = weights_of(found)
    name = "norm.weight"
    for other, said in (
        (None, r"'norm.weight' is None"),
        (torch.zeros(0, 32), r"'norm.weight' is \(0, 32\)"),
        (torch.ones(32, dtype=torch.int64), "'norm.weight' is of type I64; weights are F64, F32, F16, BF16"),
        (torch.ones(32, dtype=torch.bool), "of type BOOL"),
    ):
        changed = {key: value for key, value in weights.items() if key != name}
        changed |= {} if other is None else {name: other}
        with pytest.raises(UserError, match=said):
            load_model(with_weights(found, changed), tiny_config())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_another_precision_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    found = saved(tmp_path)
    weights = {name: weight.to(dtype) for name, weight in weights_of(found).items()}
    loaded = load_model(with_weights(found, weights), tiny_config())
    assert torch.equal(loaded.norm.weight, weights["norm.weight"].float())


def test_weights_that_are_not_numbers_are_loaded_as_they_are(tmp_path: Path) -> None:
    found = saved(tmp_path)
    weights = {name: torch.full_like(weight, torch.nan) for name, weight in weights_of(found).items()}
    assert load_model(with_weights(found, weights), tiny_config())(random_tokens(1, 4)).isnan().all()


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"\xff" * 8 + b"{}",
            struct.pack("<Q", 90_000_000) + b"{",
            b"PK\x03\x04" + bytes(60),
            b"\x80\x04" + bytes(60),
        ),
        b"\x10" + bytes(7) + b'{"a":[[[[[[[[[[[',
    ],
)
def test_what_is_no_safetensors_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    found = signed(saved(tmp_path), "model.safetensors", content)
    with pytest.raises(UserError, match="model.safetensors: can't be read.*no other is whole"):
        load_model(found, tiny_config())


@pytest.mark.parametrize(
    "shape",
    [
        *({"n_layers": 1024}, {"vocab_size": 1 << 22}, {"n_embd": 1 << 16}, {"ffn_dim": 1 << 20}, {"n_layers": 1}),
        {"positions": "learned", "max_seq_len": 1 << 20},
    ],
)
def test_no_memory_is_taken_for_a_model_that_the_weights_are_not_of(
    shape: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = saved(tmp_path)

    def fill(*_: object, **__: object) -> None:
        raise AssertionError("memory was taken")

    monkeypatch.setattr(LLaMaTransformer, "to_empty", fill)
    for refuse in (load_model, check_shape):
        with pytest.raises(UserError, match="config.toml and weights are of different models"):
            refuse(found, tiny_config(**shape))
    check_shape(found, tiny_config())


def test_a_training_state_larger_than_its_weights_allow_is_not_read(tmp_path: Path) -> None:
    found = saved(tmp_path)
    save_file({"rng.cpu": torch.zeros(1 << 26, dtype=torch.uint8)}, found.path / "new")
    found = signed(found, "state.safetensors", (found.path / "new").read_bytes())
    with pytest.raises(UserError, match="bytes, too many for"):
        load_state(found)


def test_a_model_larger_than_the_machine_is_not_begun() -> None:
    config = small_config(1 << 22, model__n_embd=1 << 17, model__n_heads=1024)
    with pytest.raises(UserError, match=r"the \[model\] of config.toml takes [\d,]+ GiB, this machine has"):
        initial_model(config)


def test_a_tokenizer_of_another_run_is_refused(copied_run: Run) -> None:
    text = copied_run.config_file.read_text(encoding="utf-8")
    rows = copied_run.config().model.vocab_size
    fewer = text.replace(f"vocab_size = {rows}", f"vocab_size = {rows - 1}", 1)
    copied_run.config_file.write_text(fewer, encoding="utf-8")
    with pytest.raises(UserError, match=f"has {rows} tokens, but the table of .* {rows - 1} rows"):
        copied_run.tokenizer()
    unused = copied_run.config().model.unpredicted_rows
    read_out = text.replace(f"unpredicted_rows = {unused}", f"unpredicted_rows = {unused + 1}", 1)
    copied_run.config_file.write_text(read_out, encoding="utf-8")
    with pytest.raises(UserError, match=f"has {rows - unused} tokens, but .* {rows - unused - 1} rows for them"):
        copied_run.tokenizer()


def test_lines_of_metrics_that_are_none_are_left_out_and_forgotten(copied_run: Run) -> None:
    rows = list(copied_run.metrics())
    with copied_run.metrics_file.open("ab") as file:
        file.write(b'[1]\n"step"\nnull\n{}\n{"step": "9"}\n{"step": true}\n{"step": 9e0}\n\xff\xfe\n\n')
        file.write(b'{"step": ' + b"9" * 40 + b"}\n" + b"[" * 100_000 + b"\n" + b"9" * 5000 + b"\n")
        file.write(b'{"step": 9, "loss": "low", "val_loss": 1e400}\n')
        file.write(b'{"step": 10, "x": "' + b"x" * 3_000_000 + b'"}\n')
    assert list(copied_run.metrics()) == [*rows, {"step": 9, "loss": "low", "val_loss": float("inf")}]
    assert plot_losses(copied_run).is_file()
    copied_run.forget_metrics_after(8)
    assert list(copied_run.metrics()) == rows


def test_runs_that_cannot_be_told_of_are_left_out_of_the_list(copied_run: Run, tmp_path: Path) -> None:
    shutil.copytree(copied_run.path, tmp_path / "linked")
    (tmp_path / "linked" / "notes").symlink_to("/etc")
    listed = llamita("runs", tmp_path, "--json")
    assert [row["run"] for row in listed.json["runs"]] == [str(copied_run.path)]
    assert "linked is left out" in listed.err and "a link out of the run folder, to /etc" in listed.err


def test_a_folder_of_thousands_of_files_is_opened_at_once(copied_run: Run) -> None:
    for number in range(5000):
        (copied_run.path / "samples" / f"{number}.txt").touch()
    begun = os.times().user
    Run.open(copied_run.path)
    assert os.times().user - begun < 0.5
