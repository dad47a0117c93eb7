"""What isn't finite or far out of line changes nothing; what lasts is gone back from, and told of at the end."""

import json
import math
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.runs.saving import Saver
from llamita.text.batches import Batches
from llamita.text.shards import open_corpora
from llamita.training import session as session_module
from llamita.training.diagnosis import diagnose
from llamita.training.evaluate import DeviceBatch, batch_loss
from llamita.training.events import Event, Rewound, Saved, StepsSkipped
from llamita.training.guard import Guard
from llamita.training.loop import StepMetrics
from llamita.training.optimizer import build_optimizer
from llamita.training.recovery import Recovery
from llamita.training.session import Session
from llamita.training.state import state_tensors
from llamita.training.stepping import train_step
from tests.model.tiny import random_tokens
from tests.training.tiny_runs import checkpoint_bytes, small_config, small_run, trained

CPU = torch.device("cpu")
SETTINGS = {
    **{"training.steps": 24, "training.save_every": 4, "training.log_every": 2, "training.eval_every": 100},
    **{"training.rewind_after": 3, "training.keep_last": 3},
}


def judged(guard: Guard, loss: float, norm: float = 1.0) -> int:
    return int(guard.judge(torch.tensor(loss), torch.tensor(norm)))


def settled(max_z_score: float | None = 6.0, steps: int = 128) -> Guard:
    """A guard that has seen losses of about 5, give or take 0.1, and norms of about 1."""
    guard, noise = Guard(CPU, max_z_score), torch.Generator().manual_seed(0)
    for wobble in torch.randn(steps, generator=noise).tolist():
        assert judged(guard, 5 + 0.1 * wobble, math.exp(0.2 * wobble)) == 0
    return guard


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 5.0])
@pytest.mark.parametrize("norm", [math.nan, math.inf, 1.0])
def test_only_finite_figures_pass(loss: float, norm: float) -> None:
    guard = Guard(CPU, None)
    assert judged(guard, loss, norm) == (0 if math.isfinite(loss) and math.isfinite(norm) else 1)


@pytest.mark.parametrize(
    ("loss", "norm", "verdict"),
    [(5.5, 1.0, 0), (6.0, 1.0, 2), (5.0, 7.0, 0), (5.0, 20.0, 2), (1.0, 1e-9, 0), (0.0, 0.0, 0), (math.nan, 20.0, 1)],
)
def test_a_spike_is_far_above_the_last_figures_never_below(loss: float, norm: float, verdict: int) -> None:
    assert judged(settled(), loss, norm) == verdict


def test_a_guard_judges_where_it_lies() -> None:
    guard = Guard(torch.device("cpu"), 6.0)
    before = {name: value.data_ptr() for name, value in guard.tensors().items()}
    guard.judge(torch.tensor(1.0), torch.tensor(1.0))
    assert {name: value.data_ptr() for name, value in guard.tensors().items()} == before


def test_nothing_is_called_a_spike_before_the_window_is_full_or_where_it_is_off() -> None:
    assert judged(settled(steps=127), 100.0, 1e6) == 0
    assert judged(settled(max_z_score=None), 100.0, 1e6) == 0


def test_a_spike_smaller_than_anyone_would_mind_passes_however_calm_it_was_before() -> None:
    guard = Guard(CPU, 6.0)
    for _ in range(128):
        assert judged(guard, 2.0, 1.0) == 0
    assert judged(guard, 2.05, 5.0) == 0
    assert judged(guard, 2.2, 1.0) == 2


def test_what_was_skipped_is_no_measure_for_what_comes() -> None:
    guard = settled()
    assert [judged(guard, 50.0) for _ in range(20)] == [2] * 20
    assert guard.streak == 20
    assert judged(guard, 5.0) == 0 and guard.streak == 0
    assert judged(guard, 50.0) == 2 and guard.streak == 1


def test_a_guard_goes_on_from_its_tensors_as_if_never_interrupted() -> None:
    one, two = settled(), Guard(CPU, 6.0)
    judged(one, 50.0)
    two.restore({name: tensor.clone() for name, tensor in one.tensors().items()})
    losses = [5.0, 5.3, 5.6, 5.9, 6.2, math.nan, 5.0]
    assert [judged(one, loss) for loss in losses] == [judged(two, loss) for loss in losses]
    assert all(torch.equal(tensor, two.tensors()[name]) for name, tensor in one.tensors().items())
    with pytest.raises(UserError, match=re.escape("guard.window is torch.float32 (2, 3), not (2, 128)")):
        two.restore({"guard.window": torch.zeros(2, 3)})


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_skipped_step_leaves_every_weight_and_moment_as_it_was(where: str) -> None:
    config = small_config()
    torch.manual_seed(0)
    model = LLaMaTransformer(config.model)
    optimizer, guard = build_optimizer(model, config.optimizer), Guard(CPU, None)
    tokens = random_tokens(2, 32, vocab_size=64)
    batch = [DeviceBatch(tokens, tokens, None)], torch.tensor(64.0)
    poisoned = False

    def loss_function(model: LLaMaTransformer, batch: DeviceBatch) -> Tensor:
        loss = batch_loss(model, batch)
        if not poisoned:
            return loss
        # The square root's slope is infinite at 0, its value is not.
        return loss * math.nan if where == "loss" else loss + (model.norm.weight * 0).sum().sqrt()

    train_step(model, optimizer, *batch, config, guard, loss_function)
    before = {name: value.clone() for name, value in {**model.state_dict(), **state_tensors(model, optimizer)}.items()}
    poisoned = True
    loss, norm, verdict = train_step(model, optimizer, *batch, config, guard, loss_function)
    assert verdict == 1 and guard.streak == 1
    assert not torch.isfinite(loss if where == "loss" else norm)
    after = {**model.state_dict(), **state_tensors(model, optimizer)}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    poisoned = False
    assert train_step(model, optimizer, *batch, config, guard, loss_function)[2] == 0
    assert not torch.equal(model.norm.weight, before["norm.weight"])


Poison = Callable[[Run, list[int]], None]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Make the batches of some steps, counted from 1, as the run would see them, give a loss that isn't finite."""

    def poisoned(run: Run, steps: list[int]) -> None:
        config = run.config()
        rows, seq_len = config.training.micro_batch_size, config.model.max_seq_len
        corpus = open_corpora(run.data_folder).train
        batches = Batches(corpus, rows=rows, seq_len=seq_len, seed=config.training.seed).iterate()
        contents = [next(batches)[0].inputs.tobytes() for _ in range(max(steps, default=0))]
        bad = {contents[step - 1] for step in steps}

        def loss_function(_training: Any) -> Callable[[LLaMaTransformer, DeviceBatch], Tensor]:
            def loss(model: LLaMaTransformer, batch: DeviceBatch) -> Tensor:
                found = batch_loss(model, batch)
                return found * math.nan if batch.inputs.numpy().tobytes() in bad else found

            return loss

        monkeypatch.setattr(session_module, "loss_function", loss_function)

    return poisoned


def rewinds(events: list[Event]) -> list[tuple[int, int, int]]:
    return [(one.from_step, one.to_step, one.streak) for one in events if isinstance(one, Rewound)]


def incidents(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.incidents_file.read_text(encoding="utf-8").splitlines()]


def test_single_bad_batches_are_skipped_counted_and_told_with_their_documents(
    tiny_text: Path, tmp_path: Path, poison: Poison
) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS)
    poison(run, [3, 6, 7])
    events = trained(run)
    told = [event for event in events if isinstance(event, StepsSkipped)]
    assert [[one.step for one in event.skipped] for event in told] == [[3], [6], [7]]
    assert all(one.reason == "not finite" for event in told for one in event.skipped)
    text = tiny_text.read_text(encoding="utf-8")
    assert [excerpt.document for excerpt in told[0].documents] == [0]
    assert told[0].documents[0].text.strip()[:20] == text.strip()[:20]
    assert not rewinds(events)
    metrics = [event for event in events if isinstance(event, StepMetrics)]
    assert all(math.isfinite(event.loss) and math.isfinite(event.grad_norm) for event in metrics)
    assert [len(event.skipped) for event in metrics[:4]] == [0, 1, 1, 1]
    assert [row["skipped"] for row in run.metrics() if "loss" in row][:4] == [0, 1, 1, 1]
    assert [(row["kind"], row["step"], row["loss"], row["documents"]) for row in incidents(run)] == [
        ("skipped", step, None, [0]) for step in (3, 6, 7)
    ]
    assert json.loads((run.checkpoints()[-1].path / "meta.json").read_text(encoding="utf-8"))["streak"] == 0


def test_several_bad_batches_in_a_row_send_the_run_back_and_on_with_the_data_behind_them(
    tiny_text: Path, tmp_path: Path, poison: Poison
) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS)
    poison(run, [10, 11, 12])
    events = trained(run)
    assert rewinds(events) == [(12, 8, 3)]
    last = events[-1]
    assert isinstance(last, Saved) and last.checkpoint.step == 24
    # 24 steps were taken, and 4 more batches read: 9 to 12.
    batches = Batches(open_corpora(run.data_folder).train, rows=4, seq_len=32, seed=0).iterate()
    *_, (_, position) = islice(batches, 28)
    assert last.checkpoint.meta["position"] == position.to_dict()
    assert [row["step"] for row in run.metrics() if "loss" in row] == list(range(2, 25, 2))
    assert [row["kind"] for row in incidents(run)] == ["skipped"] * 3 + ["rewound"]


def test_a_run_without_a_checkpoint_goes_back_to_the_beginning(tiny_text: Path, tmp_path: Path, poison: Poison) -> None:
    run, other = (small_run(tmp_path / name, tiny_text, SETTINGS) for name in ("run", "other"))
    poison(run, [2, 3, 4])
    assert rewinds(trained(run)) == [(4, 0, 3)]
    # From the same weights with the data behind: like a run that begins there.
    poison(other, [])
    begun = Session(other)
    begun.state = type(begun.state)(0, 0, type(begun.state.position)(0, 16))
    list(begun.events())
    assert checkpoint_bytes(run)["model.safetensors"] == checkpoint_bytes(other)["model.safetensors"]


@pytest.mark.parametrize("stop", [11, 14, 17])
def test_a_run_that_went_back_is_the_same_run_however_it_was_interrupted(
    stop: int, tiny_text: Path, tmp_path: Path, poison: Poison
) -> None:
    whole, dead = (small_run(tmp_path / name, tiny_text, SETTINGS) for name in ("whole", "dead"))
    poison(whole, [10, 11, 12])
    trained(whole)
    session = Session(dead)
    taken = 0
    for event in session.events():
        # Left without a save of what it did since the last one.
        taken += 2 * isinstance(event, StepMetrics)
        if taken >= stop:
            break
    trained(dead)
    assert checkpoint_bytes(whole) == checkpoint_bytes(dead)


def test_a_stop_in_the_middle_of_bad_batches_remembers_how_many_there_were(
    tiny_text: Path, tmp_path: Path, poison: Poison
) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS | {"training.keep_last": 1})
    poison(run, [10, 11, 12])
    trained(run, until=11)
    assert run.checkpoints()[-1].meta["streak"] == 2
    assert rewinds(trained(run)) == [(12, 8, 3)]


def test_a_checkpoint_after_which_nothing_passes_is_given_up_for_the_one_before(
    tiny_text: Path, tmp_path: Path, poison: Poison
) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS)
    # After the first rewind the run takes step 9 again with the 13th batch.
    poison(run, list(range(9, 17)))
    assert rewinds(trained(run)) == [(12, 8, 4), (12, 4, 4)]
    assert [found.step for found in run.checkpoints()][-1] == 24


def test_a_run_that_keeps_diverging_ends_with_a_diagnosis_and_its_checkpoints(
    tiny_text: Path, tmp_path: Path, poison: Poison
) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS)
    poison(run, list(range(6, 100)))
    with pytest.raises(UserError) as ended:
        trained(run)
    told = str(ended.value)
    assert "not finite" in told and f"llamita resume {run.path} --optimizer.lr" in told
    diagnosis = json.loads((run.path / "diagnosis.json").read_text(encoding="utf-8"))
    assert diagnosis["lr"] > 0 and diagnosis["documents"] == [0]
    names = [layer["name"] for layer in diagnosis["layers"]]
    assert names[0] == "embeddings" and names[-1] == "norm"
    assert "decoder_blocks.1.feed_forward" in names
    assert incidents(run)[-1]["kind"] == "gave up"
    (left,) = run.checkpoints()
    assert left.step == 4 and Session(run).state.step == 4


def test_a_run_may_be_told_to_stop_instead_of_going_back(tiny_text: Path, tmp_path: Path, poison: Poison) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS | {"training.max_rewinds": 0})
    poison(run, [10, 11, 12])
    with pytest.raises(UserError, match="after 0 rewinds"):
        trained(run)
    assert [found.step for found in run.checkpoints()] == [4, 8]


def test_a_diagnosis_names_the_layer_that_broke_and_the_largest_rows() -> None:
    config = small_config()
    torch.manual_seed(0)
    model = LLaMaTransformer(config.model)
    tokens = random_tokens(2, 32, vocab_size=64)
    batch = DeviceBatch(tokens, tokens, None)
    with torch.no_grad():
        model.embeddings.weight[7] *= 50
    whole = diagnose(model, batch, config, 0.1)
    assert whole.first_broken is None and whole.largest_rows[0][0] == 7
    assert whole.loss == pytest.approx(batch_loss(model, batch).item() / 64, rel=1e-4)
    assert all(layer.gradient_norm is not None for layer in whole.layers)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        model.get_submodule("decoder_blocks.1.feed_forward.up_proj").weight[0, 0] = math.inf
    broken = diagnose(model, batch, config, 0.1)
    assert broken.first_broken == "decoder_blocks.1.feed_forward"
    assert "decoder_blocks.1.feed_forward" in broken.summary()


def test_what_a_rewind_leaves_behind_is_moved_not_removed(tiny_text: Path, tmp_path: Path, poison: Poison) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS | {"training.keep_every": 4})
    poison(run, list(range(9, 17)))
    assert rewinds(trained(run)) == [(12, 8, 4), (12, 4, 4)]
    assert [path.name for path in (run.checkpoint_folder / "abandoned").iterdir()] == ["step_00000008"]


def test_a_damaged_checkpoint_is_passed_over_on_the_way_back(tiny_text: Path, tmp_path: Path, poison: Poison) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS)
    poison(run, [14, 15, 16])
    session = Session(run)
    events: list[Event] = []
    for event in session.events():
        events.append(event)
        if isinstance(event, Saved) and event.checkpoint.step == 12:
            (event.checkpoint.path / "state.safetensors").write_bytes(b"")
    assert rewinds(events) == [(16, 8, 3)]
    assert run.checkpoints()[-1].step == 24


def test_steps_skipped_since_the_last_report_are_told_when_the_run_stops(
    tiny_text: Path, tmp_path: Path, poison: Poison
) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS | {"training.log_every": 10})
    poison(run, [3])
    told = [event for event in trained(run, until=5) if isinstance(event, StepsSkipped)]
    assert [one.step for event in told for one in event.skipped] == [3]
    assert [row["step"] for row in incidents(run)] == [3]


def test_a_kill_before_old_checkpoints_were_removed_changes_nothing(
    tiny_text: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS | {"training.keep_last": 1, "training.max_rewinds": 5}
    whole, killed = (small_run(tmp_path / name, tiny_text, settings) for name in ("whole", "killed"))
    poison(whole, [10, 11, 12])
    expected = rewinds(trained(whole))
    with monkeypatch.context() as patched:
        patched.setattr(Saver, "prune", lambda _: None)
        for event in Session(killed).events():
            if isinstance(event, StepMetrics) and event.step == 10:
                break
    assert [found.step for found in killed.checkpoints()] == [4, 8]
    assert rewinds(trained(killed)) == expected == [(12, 8, 3)]
    assert checkpoint_bytes(whole) == checkpoint_bytes(killed)


def test_a_full_disk_does_not_end_a_run_that_goes_back(
    tiny_text: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS)
    poison(run, [10, 11, 12])
    real, calls = Run.forget_metrics_after, iter(range(100))

    def forget_metrics_after(self: Run, step: int) -> None:
        # The first is that of the start.
        if next(calls) in (1, 2):
            raise OSError(28, "No space left on device")
        real(self, step)

    monkeypatch.setattr(Run, "forget_metrics_after", forget_metrics_after)
    assert rewinds(trained(run)) == [(12, 8, 3)]
    assert [row["step"] for row in run.metrics() if "loss" in row] == list(range(2, 25, 2))


def test_a_spike_in_a_run_is_skipped_whether_it_was_resumed_before_or_not(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training.steps": 150, "training.save_every": 50, "training.log_every": 10}
    runs = [small_run(tmp_path / name, tiny_text, settings) for name in ("whole", "halves")]
    whole = Session(runs[0])

    def loss_function(_training: Any) -> Callable[[LLaMaTransformer, DeviceBatch], Tensor]:
        return lambda model, batch: batch_loss(model, batch) * (4 if current.state.step == 140 else 1)

    monkeypatch.setattr(session_module, "loss_function", loss_function)
    current = whole
    told = [event for event in whole.events() if isinstance(event, StepsSkipped)]
    assert [(one.step, one.reason) for event in told for one in event.skipped] == [(141, "spike")]
    current = Session(runs[1])
    list(current.events(lambda: current.state.step == 90))
    current = Session(runs[1])
    list(current.events())
    assert checkpoint_bytes(runs[0]) == checkpoint_bytes(runs[1])


def test_what_a_checkpoint_says_of_rewinds_is_checked() -> None:
    for told in ({"x": 1}, {"rewinds": "3"}, [], {"rewinds": -1}, {"furthest": None}):
        with pytest.raises(UserError, match="recovery"):
            Recovery.from_dict({"recovery": told})
    assert Recovery.from_dict({}) == Recovery.from_dict({"recovery": {"returned_to": None}}) == Recovery()
    assert Recovery.from_dict(Recovery(1, 12, 8).to_dict()) == Recovery(1, 12, 8)
