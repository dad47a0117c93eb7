"""A checkpoint is whole or not there, and what isn't as it was written is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.checkpoint import Checkpoint, checkpoints, load_model, load_state, load_weights
from llamita.runs.saving import prune_checkpoints, save_checkpoint
from tests.model.tiny import random_tokens, stirred, tiny_config

STATE = {"rng.cpu": torch.arange(10, dtype=torch.uint8), "optimizer.x.step": torch.tensor(3.0)}


def saved(folder: Path, step: int = 1, model: LLaMaTransformer | None = None, **meta: Any) -> Checkpoint:
    """A checkpoint of a tiny model."""
    model = model or stirred(tiny_config())
    return save_checkpoint(folder, model.state_dict(), STATE, {"step": step, **meta})


def steps(folder: Path) -> list[int]:
    return [found.step for found in checkpoints(folder)]


@pytest.mark.parametrize(
    "shape", [{}, {"tie_embeddings": False}, {"positions": "learned"}, {"qk_norm": True}, {"positions": "none"}]
)
def test_a_loaded_model_says_what_the_saved_one_said(shape: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(**shape)
    model = stirred(config)
    loaded = load_model(saved(tmp_path, model=model), config)
    tokens = random_tokens(2, 16)
    assert torch.equal(loaded(tokens), model(tokens))
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_a_checkpoint_is_three_files_in_a_folder_named_by_its_step(tmp_path: Path) -> None:
    made = saved(tmp_path, 12, val_loss=1.5)
    assert made.path == tmp_path / "step_00000012"
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000012"]
    assert sorted(path.name for path in made.path.iterdir()) == ["meta.json", "model.safetensors", "state.safetensors"]
    assert (made.step, made.val_loss, made.bits_per_byte) == (12, 1.5, None)


def test_what_is_found_on_disk_is_what_saving_gave(tmp_path: Path) -> None:
    made = saved(tmp_path, 3, val_loss=0.1 + 0.2, bits_per_byte=None, position={"epoch": 0, "row": 4})
    assert checkpoints(tmp_path) == [made]
    state = load_state(made)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) and state[name].dtype == STATE[name].dtype for name in STATE)


def test_the_same_weights_make_the_same_bytes(tmp_path: Path) -> None:
    model = stirred(tiny_config())
    one, two = saved(tmp_path / "one", model=model), saved(tmp_path / "two", model=model)
    for name in ("meta.json", "model.safetensors", "state.safetensors"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_no_file_of_a_checkpoint_can_hold_a_pickle(tmp_path: Path) -> None:
    made = saved(tmp_path)
    for path in made.path.iterdir():
        content = path.read_bytes()
        header = content if path.suffix == ".json" else content[8 : 8 + int.from_bytes(content[:8], "little")]
        assert path.suffix in (".json", ".safetensors")
        assert isinstance(json.loads(header), dict)


def test_checkpoints_come_oldest_first_whatever_the_order_of_saving(tmp_path: Path) -> None:
    for step in (1000, 20, 100_000_000, 99_999_999, 300):
        saved(tmp_path, step)
    assert steps(tmp_path) == [20, 300, 1000, 99_999_999, 100_000_000]


def test_a_folder_without_its_meta_is_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (saved(tmp_path, 2).path / "meta.json").unlink()
    (saved(tmp_path, 3).path / "meta.json").write_text('{"step": 3', encoding="utf-8")
    (tmp_path / ".step_00000004.77").mkdir()
    assert steps(tmp_path) == [1]


def test_where_nothing_was_saved_there_are_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "nowhere") == []


def test_a_step_that_is_saved_again_is_replaced(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    other = stirred(tiny_config(), seed=1)
    again = saved(tmp_path, 1, other)
    assert torch.equal(load_model(again, tiny_config()).norm.weight, other.norm.weight)
    assert len(list(tmp_path.iterdir())) == 1


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flipped, truncated, emptied, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_a_damaged_file_is_named_with_the_checkpoint_to_use_instead(
    damage: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    saved(tmp_path, 1)
    found = saved(tmp_path, 2)
    damage(found.path / name)

    def load() -> None:
        load_state(found) if name.startswith("state") else load_model(found, tiny_config())

    with pytest.raises(UserError) as refused:
        load()
    assert str(found.path / name) in str(refused.value)
    assert str(refused.value).endswith("use --checkpoint 1, which is whole")


def test_only_a_checkpoint_that_is_whole_is_named_instead(tmp_path: Path) -> None:
    made = {step: saved(tmp_path, step) for step in (100, 200, 300, 400)}

    def advice() -> str:
        with pytest.raises(UserError) as refused:
            load_model(made[300], tiny_config())
        return str(refused.value)

    flipped(made[300].path / "model.safetensors")
    assert "use --checkpoint 200, which is whole" in advice()
    flipped(made[200].path / "state.safetensors")
    assert "use --checkpoint 100, which is whole" in advice()
    (made[100].path / "model.safetensors").unlink()
    assert "use --checkpoint 400, which is whole" in advice()
    (made[400].path / "meta.json").unlink()
    assert "no other is whole; --checkpoint initial" in advice()


def test_the_other_file_of_a_damaged_checkpoint_still_loads(tmp_path: Path) -> None:
    model = stirred(tiny_config())
    one, two = saved(tmp_path, 1, model), saved(tmp_path, 2, model)
    flipped(one.path / "state.safetensors")
    flipped(two.path / "model.safetensors")
    weights, state = load_model(one, tiny_config()).state_dict(), load_state(two)
    assert weights.keys() == model.state_dict().keys() and state.keys() == STATE.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert all(torch.equal(state[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize(
    ("change", "weight"),
    [
        ({"vocab_size": 62}, "embeddings.weight"),
        ({"max_seq_len": 8, "positions": "learned"}, "position_embeddings.weight"),
        ({"tie_embeddings": False}, "lm_head.weight"),
        ({"n_layers": 1}, "decoder_blocks.1."),
        ({"ffn_dim": 64}, "_proj.weight"),
    ],
)
def test_weights_of_another_shape_are_refused_by_name(change: dict[str, Any], weight: str, tmp_path: Path) -> None:
    found = saved(tmp_path)
    with pytest.raises(UserError) as refused:
        load_model(found, tiny_config(**change))
    assert str(found.path / "model.safetensors") in str(refused.value)
    assert weight in str(refused.value)


def test_refused_weights_leave_the_model_as_it_was(tmp_path: Path) -> None:
    model = stirred(tiny_config(n_layers=1))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(UserError):
        load_weights(model, saved(tmp_path))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5, 6: 2.4}
    for step, loss in losses.items():
        saved(tmp_path, step, **({} if loss is None else {"val_loss": loss}))
    prune_checkpoints(tmp_path, keep_last=2)
    assert steps(tmp_path) == [2, 5, 6]
    prune_checkpoints(tmp_path, keep_last=1)
    assert steps(tmp_path) == [2, 6]


def test_milestones_stay(tmp_path: Path) -> None:
    for step in range(1, 10):
        saved(tmp_path, step, val_loss=10.0 - step)
    prune_checkpoints(tmp_path, keep_last=2, keep_every=3)
    assert steps(tmp_path) == [3, 6, 8, 9]


@pytest.mark.parametrize("keep_last", [1, 3, 5])
def test_without_validation_losses_only_the_newest_stay(keep_last: int, tmp_path: Path) -> None:
    for step in range(1, 5):
        saved(tmp_path, step)
    prune_checkpoints(tmp_path, keep_last)
    assert steps(tmp_path) == [1, 2, 3, 4][-keep_last:]


def test_tensors_are_saved_whatever_their_layout_and_type(tmp_path: Path) -> None:
    across = torch.arange(12.0).view(3, 4).T
    state = {"across": across, "part": across[1:3], "half": torch.arange(3, dtype=torch.bfloat16)}
    loaded = load_state(save_checkpoint(tmp_path, {}, state, {"step": 1}))
    assert all(torch.equal(loaded[name], state[name]) and loaded[name].dtype == state[name].dtype for name in state)


def test_a_model_is_loaded_without_drawing_random_numbers(tmp_path: Path) -> None:
    found = saved(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_model(found, tiny_config())
    assert torch.equal(torch.rand(2), expected)
