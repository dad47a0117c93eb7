"""Steps that are recorded and replayed are the same steps; what a GPU does is played by work done again."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llamita.model.loss import IGNORE
from llamita.model.transformer import LLaMaTransformer
from llamita.training import stepping
from llamita.training.compiling import loss_function
from llamita.training.evaluate import DeviceBatch, batch_loss, document_starts
from llamita.training.guard import Guard
from llamita.training.optimizer import build_optimizer
from llamita.training.plan import training_memory
from llamita.training.stepping import WARMUP_STEPS, Stepper
from tests.model.tiny import random_tokens
from tests.training.tiny_runs import small_config

CPU = torch.device("cpu")
Batches = list[tuple[DeviceBatch, int]]
Recorded = list[Callable[[], None]]
Learnt = tuple[list[list[float]], dict[str, Tensor]]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What was recorded, where anything can be."""
    found: Recorded = []

    def captured(work: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], None], Tensor]:
        result = torch.full((3,), torch.nan)

        def again() -> None:
            result.copy_(work())

        found.append(again)
        return again, result

    monkeypatch.setattr(stepping, "captured", captured)
    monkeypatch.setattr(stepping, "_can_record", lambda *_: True)
    monkeypatch.setattr(stepping, "_check_free_memory", lambda *_: None)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
    return found


def batches(step: int, accumulation: int = 1, rows: int = 2, documents: bool = False) -> Batches:
    """Micro-batches of a step, of which some targets don't count."""
    found = []
    for number in range(accumulation):
        seed = 10 * step + number
        tokens = random_tokens(rows, 33, vocab_size=64, seed=seed)
        targets = tokens[:, 1:].clone()
        targets[0, : seed % 7] = IGNORE
        numbers = starts = None
        if documents:
            ids = np.cumsum(np.random.default_rng(seed).random((rows, 32)) < 0.05 * (1 + seed % 4), axis=1)
            numbers, starts = torch.from_numpy(ids), torch.from_numpy(document_starts(ids))
        batch = DeviceBatch(tokens[:, :-1].contiguous(), targets, numbers, starts)
        found.append((batch, int((targets != IGNORE).sum())))
    return found


def new_stepper(**changes: Any) -> tuple[Stepper, LLaMaTransformer, Guard]:
    config = small_config(**{"optimizer__clip": 1.0} | changes)
    torch.manual_seed(0)
    model = LLaMaTransformer(config.model)
    guard = Guard(CPU, 6.0)
    return Stepper(model, build_optimizer(model, config.optimizer), config, guard), model, guard


def learnt(steps: list[Batches]) -> Learnt:
    """What a model's steps told, and where its weights and its guard are after them."""
    (stepper, model, guard), told = new_stepper(optimizer__table_lr_ratio=3.0), []
    for number, given in enumerate(steps):
        told.append(stepper(given, 2**-10 * (1 + number % 8)))  # the same in 32 bits
        for batch, _ in given:
            batch.inputs.zero_()  # whoever gave it may use it again
    return [one.tolist() for one in told], {**model.state_dict(), **guard.tensors()}


def plainly(steps: list[Batches]) -> Learnt:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping, "_can_record", lambda *_: False)
        return learnt(steps)


def assert_same(one: Learnt, two: Learnt) -> None:
    assert one[0] == two[0]
    assert all(torch.equal(one[1][name], value) for name, value in two[1].items())


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("documents", [False, True])
def test_replayed_steps_teach_what_plain_ones_do(accumulation: int, documents: bool, recorded: Recorded) -> None:
    def steps() -> list[Batches]:
        return [batches(number, accumulation, documents=documents) for number in range(12)]

    found = learnt(steps())
    assert len(recorded) == 1
    assert_same(found, plainly(steps()))


def test_each_shape_has_a_recording_of_its_own_up_to_so_many(recorded: Recorded) -> None:
    def steps() -> list[Batches]:
        shapes = [1 + number % 10 for number in range(10 * (WARMUP_STEPS + 2))]
        return [batches(number, rows=rows) for number, rows in enumerate(shapes)]

    found = learnt(steps())
    assert len(recorded) == 8
    assert_same(found, plainly(steps()))


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_deterministic_run_sees_as_many_documents_as_there_are(deterministic: bool, recorded: Recorded) -> None:
    config = small_config(training__deterministic=deterministic)
    model = LLaMaTransformer(config.model)
    (few, count), seen = batches(0, documents=True)[0], []
    pairs = np.arange(64).reshape(2, 32) // 2
    many = replace(few, documents=torch.from_numpy(pairs), starts=torch.from_numpy(document_starts(pairs)))
    given = [(batch, count) for batch in (many, few, many, few)]

    def loss(model: LLaMaTransformer, batch: DeviceBatch) -> Tensor:
        seen.append(0 if batch.starts is None else len(batch.starts))
        return batch_loss(model, batch)

    stepper = Stepper(model, build_optimizer(model, config.optimizer), config, Guard(CPU, None), loss)
    for one in given:
        stepper([one], 1e-3)
    lengths = [len(batch.starts) for batch, _ in given if batch.starts is not None]
    assert min(lengths) < max(lengths) <= 4 * min(lengths)  # or it would be shorter
    assert seen == (lengths if deterministic else [max(lengths)] * len(lengths))


def test_a_step_that_is_skipped_is_skipped_in_a_replay_too(recorded: Recorded) -> None:
    def steps() -> list[Batches]:
        found = [batches(number) for number in range(8)]
        targets = torch.full_like(found[6][0][0].targets, 9999)  # of no column: a loss that is no number
        found[6] = [(replace(found[6][0][0], targets=targets), 60)]
        return found

    def loss(model: LLaMaTransformer, batch: DeviceBatch) -> Tensor:
        wrong = (batch.targets == 9999).any()
        targets = torch.where(wrong, 0, batch.targets)
        return torch.where(wrong, torch.nan, 1.0) * batch_loss(model, replace(batch, targets=targets))

    config = small_config()
    torch.manual_seed(0)
    model = LLaMaTransformer(config.model)
    guard = Guard(CPU, None)
    stepper = Stepper(model, build_optimizer(model, config.optimizer), config, guard, loss)
    verdicts, weights = [], []
    for given in steps():
        verdicts.append(int(stepper(given, 1e-3)[2]))
        weights.append(model.norm.weight.detach().clone())
    assert verdicts == [0] * 6 + [1, 0] and len(recorded) == 1
    assert torch.equal(weights[6], weights[5]) and not torch.equal(weights[7], weights[6])


def test_where_nothing_can_be_recorded_training_goes_on(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(work: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], None], Tensor]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    def nothing(*_: Any) -> Tensor:
        return torch.zeros(3)

    def steps() -> list[Batches]:
        return [batches(number) for number in range(8)]

    plain = plainly(steps())
    step = stepping.train_step
    monkeypatch.setattr(
        stepping, "captured", lambda work, pool: patched_while(monkeypatch, nothing, step, lambda: refused(work, pool))
    )
    assert_same(learnt(steps()), plain)
    assert [record.getMessage() for record in caplog.records] == [
        "training goes on without a CUDA graph: operation not permitted when stream is capturing"
    ]


def test_a_recording_that_fails_leaves_no_gradients_and_no_other_recordings(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, model, _ = new_stepper()
    for number in range(WARMUP_STEPS + 2):
        assert stepper(batches(number), 1e-3)[2] == 0
    assert len(stepper._recordings) == 1

    def refused(work: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], None], Tensor]:
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, torch.nan)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(stepping, "captured", refused)
    verdicts = [int(stepper(batches(number, rows=3), 1e-3)[2]) for number in range(WARMUP_STEPS + 3)]
    assert not any(verdicts) and not stepper._recordings
    assert stepper(batches(0), 1e-3)[2] == 0 and len(recorded) == 1


def test_batches_stay_as_they_were_given(recorded: Recorded) -> None:
    stepper, given = new_stepper()[0], [batches(number) for number in range(3)]
    before = [one[0][0].inputs.clone() for one in given]
    for number in range(12):
        stepper(given[number % 3], 1e-3)
    assert len(recorded) == 1
    assert all(torch.equal(one[0][0].inputs, old) for one, old in zip(given, before, strict=True))


def test_a_step_without_targets_is_no_reason_to_stop(recorded: Recorded) -> None:
    batch = batches(0)[0][0]
    nothing = replace(batch, targets=torch.full_like(batch.targets, IGNORE))
    stepper = new_stepper()[0]
    assert [int(stepper([(nothing, 0)], 1e-3)[2]) for _ in range(WARMUP_STEPS + 2)] == [0] * (WARMUP_STEPS + 2)


@pytest.mark.parametrize("factor", [2, 64])
def test_starts_are_filled_up_with_empty_documents_and_not_without_end(factor: int) -> None:
    batch = batches(0, documents=True)[0][0]
    assert batch.starts is not None
    length = len(batch.starts)
    filled = stepping._padded(batch, factor * length).starts
    assert filled is not None and len(filled) == length * min(factor, 4) and filled.dtype == batch.starts.dtype
    assert torch.equal(filled[:length], batch.starts) and (filled[length:] == batch.inputs.numel()).all()


def test_nothing_is_recorded_where_others_have_taken_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config, free = small_config(training__device="cuda"), 0
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free, 1 << 40))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 3 << 20)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 2 << 20)
    with pytest.raises(RuntimeError, match=r"0\.0 GiB of the GPU's memory are free"):
        stepping._check_free_memory(config, torch.device("cuda"))
    free = training_memory(config) - (1 << 20)
    stepping._check_free_memory(config, torch.device("cuda"))


def patched_while(patch: pytest.MonkeyPatch, other: Any, step: Any, work: Callable[[], Any]) -> Any:
    """The work with another step in the place of the real one: recording takes none."""
    patch.setattr(stepping, "train_step", other)
    try:
        return work()
    finally:
        patch.setattr(stepping, "train_step", step)


def test_only_the_librarys_own_loss_and_optimizer_are_recorded_and_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, gpu = small_config(training__device="cuda"), torch.device("cuda")
    model = LLaMaTransformer(config.model)
    adamw = build_optimizer(model, config.optimizer)
    memory = 1 << 40
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=memory))
    compiled = torch.compile(batch_loss, backend="eager")
    for known in (batch_loss, compiled, loss_function(config.training)):
        assert stepping._can_record(gpu, model, adamw, config, known)
    assert not stepping._can_record(CPU, model, adamw, config, batch_loss)
    assert not stepping._can_record(gpu, model, adamw, config, lambda model, batch: 2 * batch_loss(model, batch))
    assert not stepping._can_record(gpu, model, torch.optim.SGD(model.parameters()), config, batch_loss)
    assert not stepping._can_record(gpu, model, torch.optim.AdamW(model.parameters()), config, batch_loss)
    for register in (
        model.norm.register_forward_hook,
        model.norm.register_forward_pre_hook,
        model.norm.register_full_backward_hook,
        model.norm.register_full_backward_pre_hook,
        model.norm.weight.register_hook,
        model.norm.weight.register_post_accumulate_grad_hook,
        adamw.register_step_pre_hook,
        adamw.register_step_post_hook,
    ):
        hook = register(lambda *_: None)
        assert not stepping._can_record(gpu, model, adamw, config, batch_loss)
        hook.remove()
        assert stepping._can_record(gpu, model, adamw, config, batch_loss)
    assert not stepping._can_record(torch.device("cuda:1"), model, adamw, config, batch_loss)
    for before, again in (("cuda:0", True), ("cuda:1", False)):
        stream = SimpleNamespace(device=torch.device(before))
        monkeypatch.setattr("torch.cuda.graph.default_capture_stream", stream)
        for named in (gpu, torch.device("cuda:0")):
            assert stepping._can_record(named, model, adamw, config, batch_loss) is again
    monkeypatch.setattr("torch.cuda.graph.default_capture_stream", None)
    memory = 1 << 20
    assert not stepping._can_record(gpu, model, adamw, config, batch_loss)
