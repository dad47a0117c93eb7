"""Compiled graphs are kept where a reboot leaves them, or where torch was told to."""

import os
from pathlib import Path

import pytest
import torch

from llamita.config import TrainingConfig
from llamita.training.compiling import cache_folder, loss_function
from llamita.training.evaluate import batch_loss

COMPILED = TrainingConfig(compile=True, device="cpu")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("llamita.training.compiling.why_not_compiled", lambda _: None)
    return tmp_path


def test_graphs_lie_in_the_users_cache_once_something_is_compiled(home: Path) -> None:
    assert loss_function(TrainingConfig(device="cpu")) is batch_loss
    assert not list(home.iterdir()) and "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert loss_function(COMPILED) is not batch_loss
    assert cache_folder() == home / ".cache/llamita/compiled" == Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert cache_folder().is_dir()


def test_another_place_is_kept_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "caches"))
    assert cache_folder() == home / "caches/llamita/compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(home / "mine"))
    loss_function(COMPILED)
    assert cache_folder() == home / "mine" == Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])


def test_where_nothing_can_be_written_torch_decides(home: Path) -> None:
    (home / ".cache").write_text("a file")
    assert loss_function(COMPILED) is not batch_loss
    assert not os.environ.get("TORCHINDUCTOR_CACHE_DIR", "").startswith(str(home))


def test_a_graph_is_whole_of_static_shape_and_one_of_many(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("torch.compile", lambda function, **options: (asked.update(options), function)[1])
    with torch._dynamo.config.patch(recompile_limit=8):
        loss_function(COMPILED)
        assert torch._dynamo.config.recompile_limit >= 20
    assert asked == {"dynamic": False, "fullgraph": True}
