"""Compiled graphs are kept where a reboot leaves them, or where torch was told to."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.torch_version import TorchVersion

from llamita.config import TrainingConfig
from llamita.training.compiling import cache_folder, loss_function, why_not_compiled
from llamita.training.evaluate import batch_loss

COMPILED = TrainingConfig(compile=True, device="cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("llamita.training.compiling.why_not_compiled", lambda *_: None)
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
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")  # to be ignored, by its specification
    assert cache_folder() == home / ".cache/llamita/compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(home / "mine"))
    loss_function(COMPILED)
    assert cache_folder() == home / "mine" == Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])


def test_a_cache_that_takes_no_files_is_said_and_left_to_torch(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = home / ".cache/llamita/compiled"
    full.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert loss_function(COMPILED) is not batch_loss
    assert not os.environ.get("TORCHINDUCTOR_CACHE_DIR", "").startswith(str(home))
    assert [record.getMessage() for record in caplog.records] == [
        f"compiled graphs can't be kept in {full}: No space left on device"
    ]
    loss_function(COMPILED)
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == full and not list(full.iterdir())


def test_what_torch_names_when_its_compiler_is_loaded_is_nobodys_wish(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    assert cache_folder() == home / ".cache/llamita/compiled"
    loss_function(COMPILED)
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == cache_folder()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir() + "-mine")
    assert cache_folder() == Path(default_cache_dir() + "-mine")


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


RECOMPUTED = """
import torch
from tests.model.tiny import random_tokens, stirred, tiny_config
model, tokens, kept = stirred(tiny_config()), random_tokens(3, 12), []
for model.recompute_layers in (0, 2):
    torch._dynamo.reset()
    kept.append(0)
    def note(x):
        kept[-1] += x.numel()
        return x
    learn = torch.compile(lambda: model(tokens).square().mean(), backend="aot_eager_decomp_partition")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        learn().backward()
assert kept[1] < 0.6 * kept[0], kept
"""


@pytest.mark.slow
@pytest.mark.skipif(why_not_compiled("cpu", 1) is not None, reason="a compiler, or torch, is lacking")
def test_what_is_computed_again_is_not_kept_in_a_graph_either() -> None:
    # In a process without the checks of types, through which torch.compile can't see.
    done = subprocess.run([sys.executable, "-c", RECOMPUTED], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_torch_that_keeps_what_it_would_compute_again_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    training = replace(COMPILED, recompute_layers=1)
    monkeypatch.setattr("torch.__version__", TorchVersion("2.11.0+cu130"))
    assert "torch 2.12" in str(why_not_compiled("cpu", 1)) and loss_function(training) is batch_loss
    monkeypatch.setattr("torch.__version__", TorchVersion("2.12.1"))
    assert "torch" not in str(why_not_compiled("cpu", 1))


KEPT = """
import sys
import torch._dynamo  # which names a cache where none is set yet, and which an optimizer's first step loads
from llamita.model.transformer import LLaMaTransformer
from llamita.training.evaluate import DeviceBatch
from llamita.training.tuning import pinned
from tests.model.tiny import random_tokens, tiny_config
from tests.training.test_compiling import COMPILED, loss_function
tokens, loss = random_tokens(2, 8), loss_function(COMPILED)
with pinned(sys.argv[1]):
    loss(LLaMaTransformer(tiny_config(n_layers=1)), DeviceBatch(tokens, tokens, None)).backward()
from torch._dynamo.utils import counters
print({name: counters["aot_autograd"][f"autograd_cache_{name}"] for name in ("bypass", "hit")})
"""


@pytest.mark.slow
@pytest.mark.skipif(why_not_compiled("cpu") is not None, reason="no compiler")
def test_the_next_process_takes_the_graph_that_was_kept_unless_another_kernel_is_pinned(home: Path) -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", KEPT, kernel], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.strip()
        for kernel in ("flash", "flash", "math")
    ]
    assert told == [str({"bypass": 0, "hit": hit}) for hit in (0, 1, 0)]
    assert {"aotautograd", "fxgraph"} <= {item.name for item in (home / ".cache/llamita/compiled").iterdir()}
