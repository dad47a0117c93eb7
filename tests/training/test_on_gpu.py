"""What only a GPU shows: runs resumed to the last bit, steps that never wait, kernels beside plain operations."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llamita.errors import UsageError
from llamita.kernels import probe
from llamita.model.attention import attend, document_mask, load_varlen
from llamita.model.loss import hidden_loss
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.training import plan, stepping
from llamita.training.compiling import loss_function
from llamita.training.evaluate import DeviceBatch, batch_loss, document_starts
from llamita.training.events import Evaluated
from llamita.training.guard import Guard
from llamita.training.hardware import choose_hardware
from llamita.training.loop import StepMetrics
from llamita.training.optimizer import build_optimizer
from llamita.training.session import Session
from llamita.training.state import state_tensors
from llamita.training.stepping import WARMUP_STEPS, Stepper, make_ready
from llamita.training.tuning import attention_seconds, find_micro_batch, seconds_per_token
from tests.training.test_stepping import batches
from tests.training.tiny_runs import checkpoint_bytes, small_config, small_run, trained

TEXT = Path(__file__).parents[1] / "data" / "tiny.txt"
SETTINGS: dict[str, Any] = {
    **{"training.device": "cuda", "training.precision": "bf16", "training.deterministic": True},
    **{"training.steps": 60, "training.save_every": 10, "training.eval_every": 20, "training.log_every": 1},
    **{"model.n_embd": 128, "model.n_heads": 2, "model.max_seq_len": 64, "training.micro_batch_size": 2},
}


@pytest.fixture(autouse=True)
def determinism_ends() -> Iterator[None]:
    """What a deterministic run asks of the process is no matter of the next test's."""
    yield
    torch.use_deterministic_algorithms(False)


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
@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_never_waits_for_the_gpu(recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not recorded:
        monkeypatch.setattr(stepping, "_can_record", lambda *_: False)
    config = small_config(training__device="cuda", training__precision="bf16", optimizer__clip=1.0)
    model = LLaMaTransformer(config.model).cuda()
    optimizer, guard = build_optimizer(model, config.optimizer), Guard(torch.device("cuda"), 6.0)
    tokens = torch.randint(0, 64, (4, 32), device="cuda")
    batch = [(DeviceBatch(tokens, tokens, None), tokens.numel())]
    stepper = Stepper(model, optimizer, config, guard)
    for _ in range(WARMUP_STEPS + 2):
        stepper(batch, 1e-3)
    assert len(stepper._recordings) == recorded
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(5):
            stepper(batch, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guard.streak == 0


def losses_of(steps: int, *, kernels: bool = True, **changes: Any) -> list[float]:
    """Losses of a few steps on one batch."""
    config = small_config(
        **{"training__device": "cuda", "training__precision": "bf16", "model__n_embd": 128, "model__n_heads": 4}
        | {"model__n_kv_heads": 2, "model__max_seq_len": 64, "optimizer__lr": 3e-3}
        | changes
    )
    torch.manual_seed(0)
    model = LLaMaTransformer(config.model).cuda()
    make_ready(model, config)
    optimizer, guard = build_optimizer(model, config.optimizer), Guard(torch.device("cuda"), 6.0)
    tokens = torch.randint(0, 64, (4, 65), device="cuda")
    batch = [(DeviceBatch(tokens[:, :-1], tokens[:, 1:].contiguous(), None), 256)]
    with pytest.MonkeyPatch.context() as patch:
        if not kernels:
            patch.setattr("llamita.kernels.joint.usable", lambda _: False)
            patch.setattr("llamita.model.loss.usable", lambda _: False)
        torch._dynamo.reset()
        stepper = Stepper(model, optimizer, config, guard, loss_function(config.training))
        return [stepper(batch, config.optimizer.lr)[0].item() for _ in range(steps)]


@pytest.mark.gpu
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"training__compile": False},
        {"training__compile": True},
        {"training__compile": True, "training__precision": "fp8"},
        {"training__compile": False, "training__recompute_layers": 2},
    ],
)
def test_replayed_steps_are_the_same_to_the_last_bit(
    accumulation: int, documents: bool, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        **{"training__device": "cuda", "training__precision": "bf16"}
        | {"model__n_embd": 128, "model__n_heads": 4, "optimizer__clip": 1.0}
        | changes
    )
    torch.use_deterministic_algorithms(True)
    loss, captures, found = loss_function(config.training), [], []
    capture = stepping.captured
    monkeypatch.setattr(stepping, "captured", lambda *given: (capture(*given), captures.append(1))[0])
    for records in (True, False):
        if not records:
            monkeypatch.setattr(stepping, "_can_record", lambda *_: False)
        torch.manual_seed(0)
        model = LLaMaTransformer(config.model).cuda()
        make_ready(model, config)
        optimizer, guard = build_optimizer(model, config.optimizer), Guard(torch.device("cuda"), 6.0)
        if not records:  # rates of 32 bits, as recorded steps have them
            for group in optimizer.param_groups:
                group.update(lr=torch.tensor(group["lr"], device="cuda"))
        stepper = Stepper(model, optimizer, config, guard, loss)
        told = [
            stepper(
                [(on_gpu(batch), count) for batch, count in batches(step, accumulation, 4, documents)],
                1e-3 * (1 + step % 3),
            )
            for step in range(12)
        ]
        found.append([*told, *model.state_dict().values(), *guard.tensors().values()])
    assert len(captures) == 1
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def on_gpu(batch: DeviceBatch) -> DeviceBatch:
    moved = (batch.inputs, batch.targets, batch.documents, batch.starts)
    if moved[3] is not None:
        load_varlen()
    return DeviceBatch(*(None if one is None else one.cuda() for one in moved))  # type: ignore[arg-type]


@pytest.mark.gpu
def test_a_replayed_step_that_is_no_number_changes_nothing() -> None:
    config = small_config(training__device="cuda", training__precision="bf16")
    model = LLaMaTransformer(config.model).cuda()
    optimizer, guard = build_optimizer(model, config.optimizer), Guard(torch.device("cuda"), 6.0)
    stepper = Stepper(model, optimizer, config, guard)
    given = [(on_gpu(batches(0)[0][0]), 64)]
    for _ in range(WARMUP_STEPS + 2):
        assert stepper(given, 1e-3)[2] == 0
    assert stepper._recordings
    before = {name: value.clone() for name, value in {**model.state_dict(), **state_tensors(model, optimizer)}.items()}
    model.norm.weight.data[0] = torch.nan
    assert stepper(given, 1e-3)[2] == 1 and guard.streak == 1
    model.norm.weight.data[0] = before["norm.weight"][0]
    after = {**model.state_dict(), **state_tensors(model, optimizer)}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert stepper(given, 1e-3)[2] == 0 and guard.streak == 0
    assert not torch.equal(model.norm.weight, before["norm.weight"])


@pytest.mark.gpu
def test_steps_of_two_shapes_share_memory_and_not_results() -> None:
    config = small_config(training__device="cuda", training__precision="bf16")
    found = []
    for records in (True, False):
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(0)
        model = LLaMaTransformer(config.model).cuda()
        optimizer, guard = build_optimizer(model, config.optimizer), Guard(torch.device("cuda"), 6.0)
        with pytest.MonkeyPatch.context() as patch:
            if not records:
                patch.setattr(stepping, "_can_record", lambda *_: False)
                for group in optimizer.param_groups:
                    group.update(lr=torch.tensor(group["lr"], device="cuda"))
            stepper = Stepper(model, optimizer, config, guard)
        told = [stepper([(on_gpu(batches(step, 1, 1 + step % 3)[0][0]), 30)], 1e-3) for step in range(24)]
        assert len(stepper._recordings) == (3 if records else 0)
        found.append([*told, *model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("why", ["it waits for the GPU", "there is no memory"])
def test_what_cannot_be_recorded_is_taught_by(why: str, caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(training__device="cuda", training__precision="bf16")

    def told(records: bool) -> list[float]:
        torch.manual_seed(0)
        model = LLaMaTransformer(config.model).cuda()
        optimizer, guard = build_optimizer(model, config.optimizer), Guard(torch.device("cuda"), 6.0)
        waiting: list[float] = []

        def loss(model: LLaMaTransformer, batch: DeviceBatch) -> torch.Tensor:
            value = batch_loss(model, batch)
            if why == "it waits for the GPU":
                waiting.append(value.item())
            elif torch.cuda.is_current_stream_capturing():
                torch.empty(1 << 50, device="cuda")
            return value

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stepping, "_can_record", lambda *_: records)
            stepper = Stepper(model, optimizer, config, guard, loss)
            return [stepper([(on_gpu(batches(0)[0][0]), 64)], 1e-3)[0].item() for _ in range(8)]

    stream = torch.cuda.current_stream()
    assert told(True) == pytest.approx(told(False), rel=1e-3)
    assert [record.getMessage()[:39] for record in caplog.records] == ["training goes on without a CUDA graph: "]
    # And the process is as it was.
    torch.cuda.empty_cache()
    assert torch.cuda.current_stream() == stream and torch.rand(1, device="cuda").isfinite()


@pytest.mark.gpu
def test_the_time_of_a_run_is_that_of_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_config(training__device="cuda", training__precision="bf16")
    wide = {"model__n_embd": 1024, "model__n_heads": 16, "model__max_seq_len": 1024}
    large = small_config(
        32768, training__device="cuda", training__precision="bf16", training__micro_batch_size=16,
        training__batch_size=16, **wide,
    )  # fmt: skip
    torch.cuda.manual_seed(0)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(0)
    recorded = [plan.seconds_per_step(config) for config in (small, large)]
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    monkeypatch.setattr(plan, "can_capture", lambda _: False)
    plainly = [plan.seconds_per_step(config) for config in (small, large)]
    # A small model waits for Python, a large one for the GPU.
    assert 0 < 3 * recorded[0] < plainly[0]
    assert 0.6 * plainly[1] < recorded[1] < 1.2 * plainly[1]


@pytest.mark.gpu
def test_what_cannot_be_recorded_is_timed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(training__device="cuda", training__precision="bf16")
    calls = []

    def waiting(*given: Any, **named: Any) -> torch.Tensor:
        loss = hidden_loss(*given, **named)
        calls.append(loss.item())
        return loss

    monkeypatch.setattr(plan, "hidden_loss", waiting)
    torch.cuda.manual_seed(0)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(0)
    assert plan.seconds_per_step(config) > 0
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    assert len(calls) == 5  # twice before, and three times
    monkeypatch.setattr(plan, "hidden_loss", hidden_loss)
    assert plan.seconds_per_step(config) > 0


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training__compile": True},
        {"training__compile": True, "training__recompute_layers": 1},
        {"training__precision": "fp32", "training__compile": True},
        {"model__qk_norm": True, "training__compile": True},
        {"model__tie_embeddings": False, "training__compile": True},
    ],
)
def test_kernels_teach_what_plain_operations_do(changes: dict[str, Any]) -> None:
    assert probe.try_out()
    plain, ours = losses_of(25, kernels=False, **changes), losses_of(25, **changes)
    assert plain[-1] < plain[0] - 1
    assert max(abs(one - other) for one, other in zip(plain, ours, strict=True)) < 0.05
    assert abs(plain[0] - ours[0]) < 0.002


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_fp8_learns_about_as_well(compiled: bool) -> None:
    wide, narrow = (losses_of(25, training__precision=name, training__compile=compiled) for name in ("bf16", "fp8"))
    assert narrow != wide and max(abs(one - other) for one, other in zip(wide, narrow, strict=True)) < 0.15


@pytest.mark.gpu
def test_fp8_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_hardware("cuda", "fp8").precision == "fp8"
    monkeypatch.setattr(probe, "try_out", lambda: False)
    with pytest.raises(UsageError, match="Triton"):
        choose_hardware("cuda", "fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(UsageError, match=r"8\.9"):
        choose_hardware("cuda", "fp8")


@pytest.mark.gpu
@pytest.mark.parametrize("kv_heads", [4, 1])
def test_documents_told_by_their_starts_are_kept_apart_as_by_a_mask(kv_heads: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, heads, 64, 32, device="cuda", dtype=torch.bfloat16) for heads in (4, kv_heads, kv_heads))
    numbers = np.cumsum(np.random.default_rng(0).random((3, 64)) < 0.1, axis=1)
    load_varlen()
    found = []
    for told in (torch.from_numpy(numbers), torch.from_numpy(document_starts(numbers))):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        mixed = attend(*leaves, document_mask(told.cuda()))
        mixed.square().sum().backward()
        found.append([mixed.detach(), *(leaf.grad for leaf in leaves)])
    for masked, started in zip(*found, strict=True):
        torch.testing.assert_close(masked, started, rtol=0.05, atol=0.05)


@pytest.mark.gpu
def test_the_stream_is_narrow_and_gradients_are_wide() -> None:
    config = small_config(training__device="cuda", training__precision="bf16")
    model = LLaMaTransformer(config.model).cuda()
    tokens = torch.randint(0, 64, (2, 32), device="cuda")
    seen: list[torch.dtype] = []
    for block in model.decoder_blocks:
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.autocast("cuda", torch.bfloat16):
        model(tokens).float().sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert {weight.grad.dtype for weight in model.parameters() if weight.grad is not None} == {torch.float32}


@pytest.mark.gpu
def test_attention_is_picked_among_kernels_that_a_gpu_has() -> None:
    config = small_config(
        training__device="cuda", training__precision="bf16", model__n_embd=256, model__n_heads=4, model__max_seq_len=512
    )
    seconds = attention_seconds(config)
    assert {"cudnn", "flash"} <= set(seconds) and "math" not in seconds
    assert all(0 < one < 1 for one in seconds.values())


@pytest.mark.gpu
def test_a_micro_batch_is_found_by_trials_and_one_that_does_not_fit_is_none() -> None:
    shape = {"model__n_embd": 256, "model__n_heads": 4, "model__max_seq_len": 256, "training__device": "cuda"}
    config = small_config(**shape, training__precision="bf16", training__batch_size=8, training__micro_batch_size=4)
    rows, tried = find_micro_batch(config, seconds_per_token)
    assert rows in tried and 4 in tried and all(0 < one < 1 for one in tried.values())
    many = {"training__batch_size": 1 << 16, "training__micro_batch_size": 1 << 16}
    assert seconds_per_token(small_config(**shape | many, training__precision="bf16")) is None
