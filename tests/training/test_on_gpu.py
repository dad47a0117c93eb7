"""On a GPU with deterministic algorithms a run is part of it, left, and resumed, to the last bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.training.evaluate import DeviceBatch
from llamita.training.events import Evaluated
from llamita.training.guard import Guard
from llamita.training.loop import StepMetrics, train_step
from llamita.training.optimizer import build_optimizer
from llamita.training.session import Session
from tests.training.tiny_runs import checkpoint_bytes, small_config, small_run, trained

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
                # Left without a save of what it did since the last one.
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


@pytest.mark.gpu
def test_a_step_never_waits_for_the_gpu() -> None:
    config = small_config(training__device="cuda", training__precision="bf16", optimizer__clip=1.0)
    model = LLaMaTransformer(config.model).cuda()
    optimizer, guard = build_optimizer(model, config.optimizer), Guard(torch.device("cuda"), 6.0)
    tokens = torch.randint(0, 64, (4, 32), device="cuda")
    batch = [(DeviceBatch(tokens, tokens, None), tokens.numel())]
    train_step(model, optimizer, batch, config, guard)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(5):
            train_step(model, optimizer, batch, config, guard)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guard.streak == 0
