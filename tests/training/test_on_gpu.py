"""On a GPU with deterministic algorithms a run is half of it, a kill and the other half, to the last bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llamita.runs.folder import Run
from llamita.training.events import Evaluated
from llamita.training.loop import StepMetrics
from llamita.training.session import Session
from tests.training.tiny_runs import checkpoint_bytes, small_run, trained

TEXT = Path(__file__).parents[1] / "data" / "tiny.txt"
SETTINGS: dict[str, Any] = {
    **{"training.device": "cuda", "training.precision": "bf16", "training.deterministic": True},
    **{"training.steps": 60, "training.save_every": 10, "training.eval_every": 20, "training.log_every": 1},
    **{"model.n_embd": 128, "model.n_heads": 2, "model.max_seq_len": 64, "training.micro_batch_size": 2},
}


@pytest.mark.gpu
@pytest.mark.parametrize("packing", ["stream", "documents"])
@pytest.mark.parametrize("compiled", [False, True])
def test_resumed_losses_and_weights_are_equal_on_a_gpu(packing: str, compiled: bool, tmp_path: Path) -> None:
    settings = SETTINGS | {"data.packing": packing, "training.compile": compiled}
    whole = small_run(tmp_path / "whole", TEXT, settings)
    dead = Run.open(shutil.copytree(whole.path, tmp_path / "dead"))
    losses = {}
    for run in (whole, dead):
        if run is dead:
            for event in Session(run).events():
                # As a kill would end it: without a save.
                if isinstance(event, StepMetrics) and event.step == 33:
                    break
            torch.manual_seed(7)
        told = trained(run)
        losses[run.path.name] = {
            **{("train", one.step): one.loss for one in told if isinstance(one, StepMetrics)},
            **{("held out", one.step): one.evaluation.loss for one in told if isinstance(one, Evaluated)},
        }
    assert min(step for _, step in losses["dead"]) == 31
    assert all(losses["whole"][key] == loss for key, loss in losses["dead"].items())
    assert checkpoint_bytes(whole) == checkpoint_bytes(dead)
