"""Half a run, and the other half by a session that knows the folder alone, is the whole run bit for bit."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llamita.config import OptimizerConfig
from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.text.batches import Position
from llamita.text.tokenizer import Tokenizer
from llamita.training import session as session_module
from llamita.training.compiling import why_not_compiled
from llamita.training.evaluate import DeviceBatch, batch_loss
from llamita.training.events import Evaluated, Sampled, Saved
from llamita.training.loop import StepMetrics
from llamita.training.optimizer import build_optimizer
from llamita.training.session import Session
from llamita.training.state import TrainState, restore_state, state_tensors
from tests.faults import die, ended, forked
from tests.model.tiny import tiny_config
from tests.training.tiny_runs import checkpoint_bytes, small_run, trained

OFTEN: dict[str, Any] = {"training.steps": 12, "training.eval_every": 4, "training.save_every": 4}


@pytest.fixture(scope="session")
def paragraphs(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny text as many documents."""
    file = tmp_path_factory.mktemp("text") / "paragraphs.jsonl"
    parts = tiny_text.read_text(encoding="utf-8").split("\n\n")
    file.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts), encoding="utf-8")
    return file


def twins(tmp_path: Path, source: Path, settings: dict[str, Any]) -> tuple[Run, Run]:
    """Two folders of the same run, ready to train."""
    one = small_run(tmp_path / "whole", source, settings)
    return one, Run.open(shutil.copytree(one.path, tmp_path / "halves"))


def assert_same_end(one: Run, two: Run) -> None:
    """Weights, moments, counters and figures are the same to the last bit."""
    assert [found.step for found in one.checkpoints()] == [found.step for found in two.checkpoints()]
    assert checkpoint_bytes(one) == checkpoint_bytes(two)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"training.micro_batch_size": 1},
    "untied wsd": {"model.tie_embeddings": False, "optimizer.schedule": "wsd"},
    "packed documents": {"data.packing": "documents", "data.mask_documents": True},
    "bf16": {"training.precision": "bf16"},
    "learned positions": {"model.positions": "learned", "model.qk_norm": True},
    "words": {"tokenizer.kind": "word"},
    "characters": {"tokenizer.kind": "char"},
    "bytes": {"tokenizer.kind": "byte"},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_half_and_half_is_the_whole_run(settings: dict[str, Any], paragraphs: Path, tmp_path: Path) -> None:
    whole, halves = twins(tmp_path, paragraphs, OFTEN | settings)
    trained(whole)
    first = trained(halves, until=6)[-1]
    assert isinstance(first, Saved)
    assert (first.checkpoint.step, first.stopped) == (6, True)
    torch.manual_seed(99)
    last = trained(halves)[-1]
    assert isinstance(last, Saved)
    assert (last.checkpoint.step, last.stopped) == (12, False)
    assert_same_end(whole, halves)


def test_a_run_that_is_resumed_twice_is_the_whole_run(paragraphs: Path, tmp_path: Path) -> None:
    whole, parts = twins(tmp_path, paragraphs, OFTEN)
    trained(whole)
    for until in (3, 4, 9, None):
        trained(parts, until)
    assert checkpoint_bytes(whole) == checkpoint_bytes(parts)


COMPILED_HALVES = """
import sys
from pathlib import Path
from tests.training.test_session import OFTEN, assert_same_end, twins
from tests.training.tiny_runs import trained
settings = OFTEN | {"training.compile": True, "training.micro_batch_size": 2}
whole, halves = twins(Path(sys.argv[1]), Path(sys.argv[2]), settings)
trained(whole)
trained(halves, until=6)
trained(halves)
assert_same_end(whole, halves)
"""


@pytest.mark.slow
@pytest.mark.skipif(why_not_compiled("cpu") is not None, reason="no compiler")
def test_a_compiled_run_is_half_of_it_and_the_other_half(paragraphs: Path, tmp_path: Path) -> None:
    # In a process without the checks of types, through which torch.compile can't see.
    command = [sys.executable, "-c", COMPILED_HALVES, str(tmp_path), str(paragraphs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


SLOW = pytest.mark.slow


def killed_at(run: Run, call: int) -> None:
    """Train in a process of its own, which dies as by `kill -9` when it asks for the loss for so many-th time."""

    def train() -> None:
        calls = iter(range(1 << 30))

        def loss(model: LLaMaTransformer, batch: DeviceBatch) -> torch.Tensor:
            if next(calls) == call:
                die()
            return batch_loss(model, batch)

        session_module.loss_function = lambda _training: loss
        trained(run)

    assert ended(forked(train)) == -signal.SIGKILL


@pytest.mark.parametrize(
    "kind", ["bpe", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("word", "char", "byte"))]
)
def test_200_steps_are_100_a_kill_in_mid_accumulation_and_100(kind: str, paragraphs: Path, tmp_path: Path) -> None:
    settings = {"training.steps": 200, "training.save_every": 25, "training.log_every": 10, "tokenizer.kind": kind}
    whole, killed = twins(tmp_path, paragraphs, settings | {"training.micro_batch_size": 2})
    trained(whole)
    # Two micro-batches a step: this is the second one of the 101st.
    killed_at(killed, 201)
    assert killed.checkpoints()[-1].step in (75, 100)
    trained(killed)
    assert_same_end(whole, killed)


@pytest.mark.parametrize("stop", range(1, 12, 3))
def test_a_run_may_stop_after_any_step(stop: int, tiny_text: Path, tmp_path: Path) -> None:
    settings = {"training.steps": 12, "training.keep_last": 1, "data.validation_fraction": 0}
    whole, halves = twins(tmp_path, tiny_text, settings)
    trained(whole)
    trained(halves, until=stop)
    trained(halves)
    assert_same_end(whole, halves)


def test_a_run_that_stops_at_the_edge_of_an_epoch_goes_on_as_the_whole_run(tmp_path: Path) -> None:
    # With its BOS the text is 24 rows of 32 tokens: 6 steps of 4 rows.
    text = tmp_path / "text.txt"
    text.write_text("".join(chr(97 + 7 * place * place % 26) for place in range(24 * 32 - 1)), encoding="utf-8")
    settings = {"tokenizer.kind": "byte", "data.validation_fraction": 0, "training.steps": 12, "training.keep_last": 1}
    whole, halves = twins(tmp_path, text, settings)
    trained(whole)
    trained(halves, until=6)
    assert TrainState.from_dict(halves.checkpoints()[-1].meta).position == Position(epoch=1, row=0)
    trained(halves)
    assert_same_end(whole, halves)


def test_a_run_that_dies_without_saving_takes_its_last_steps_again(paragraphs: Path, tmp_path: Path) -> None:
    whole, dead = twins(tmp_path, paragraphs, OFTEN)
    trained(whole)
    for event in Session(dead).events():
        if isinstance(event, StepMetrics) and event.step == 7:
            break
    assert [row["step"] for row in dead.metrics()][-1] == 7
    trained(dead)
    assert_same_end(whole, dead)
    figures = [
        [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in run.metrics()]
        for run in (whole, dead)
    ]
    assert figures[0] == figures[1]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(paragraphs: Path, tmp_path: Path) -> None:
    whole, damaged = twins(tmp_path, paragraphs, OFTEN)
    trained(whole)
    trained(damaged, until=9)
    newest = damaged.checkpoints()[-1]
    weights = newest.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=re.escape(str(weights))):
        Session(damaged)
    shutil.rmtree(newest.path)
    trained(damaged)
    assert_same_end(whole, damaged)


def test_two_runs_of_the_same_seed_are_the_same_and_others_are_not(tiny_text: Path, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = small_run(tmp_path / name, tiny_text, {"training.seed": seed})
        trained(run)
        found.append(checkpoint_bytes(run))
    assert found[0] == found[1]
    assert found[0]["model.safetensors"] != found[2]["model.safetensors"]


def test_a_run_tells_its_story_in_order(paragraphs: Path, tmp_path: Path) -> None:
    settings = {"training.steps": 6, "training.eval_every": 3, "training.save_every": 5, "training.log_every": 2}
    run = small_run(tmp_path / "run", paragraphs, {**settings, "training.sample_tokens": 5, "training.keep_last": 9})
    story = [
        (type(event).__name__, event.checkpoint.step if isinstance(event, Saved) else getattr(event, "step", 0))
        for event in trained(run)
    ]
    looks = [name for name, step in story if step == 3 and name != "Saved"]
    assert story[:2] == [("Preflight", 0), ("Evaluated", 0)]
    assert looks == ["Evaluated", "Sampled"]
    assert [step for name, step in story if name == "StepMetrics"] == [2, 4, 6]
    assert [step for name, step in story if name == "Evaluated"] == [0, 3, 6]
    assert [step for name, step in story if name == "Saved"] == [3, 5, 6]
    assert story[-2:] == [("Saved", 6), ("Sampled", 6)]
    assert sorted(path.name for path in (run.path / "samples").iterdir()) == ["step_00000003.txt", "step_00000006.txt"]


def test_what_is_told_is_what_lies_in_the_folder(paragraphs: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", paragraphs, OFTEN | {"training.sample_tokens": 5})
    events = trained(run)
    rows = list(run.metrics())
    losses = {event.step: event.evaluation.loss for event in events if isinstance(event, Evaluated)}
    assert {row["step"]: row["val_loss"] for row in rows if "val_loss" in row} == losses
    assert [row["loss"] for row in rows if "loss" in row] == [e.loss for e in events if isinstance(e, StepMetrics)]
    for event in events:
        if isinstance(event, Sampled):
            file = run.path / "samples" / f"step_{event.step:08d}.txt"
            assert file.read_text(encoding="utf-8") == event.text + "\n"
    assert {found.step: found.val_loss for found in run.checkpoints()}[12] == losses[12]


def test_the_best_weights_are_kept_however_old_they_are(paragraphs: Path, tmp_path: Path) -> None:
    # A rate far too high makes the loss rise after a while.
    settings = OFTEN | {"optimizer.lr": 1.0, "optimizer.warmup_steps": 9, "training.eval_every": 1}
    run = small_run(tmp_path / "run", paragraphs, {**settings, "training.keep_last": 1})
    losses = {e.step: e.evaluation.loss for e in trained(run) if isinstance(e, Evaluated) and e.step}
    best = min(losses, key=losses.__getitem__)
    assert best < 12
    assert [found.step for found in run.checkpoints()] == [best, 12]
    assert run.checkpoint("best").val_loss == losses[best]


def test_a_run_without_held_out_text_is_never_evaluated(tiny_text: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", tiny_text, {"data.validation_fraction": 0, "training.eval_every": 1})
    assert not [event for event in trained(run) if isinstance(event, Evaluated)]
    assert run.checkpoint("best").val_loss is None


def test_another_tokenizer_in_the_folder_is_refused(tiny_text: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", tiny_text)
    Tokenizer.train([], vocab_size=0, kind="byte").save(run.tokenizer_file)
    with pytest.raises(UserError, match="encoded by a tokenizer with fingerprint"):
        Session(run)


def test_a_finished_run_has_nothing_left_to_do(tiny_text: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", tiny_text, {"data.validation_fraction": 0})
    trained(run)
    before = checkpoint_bytes(run)
    assert trained(run) == []
    assert checkpoint_bytes(run) == before


def test_a_state_survives_the_trip_through_json() -> None:
    state = TrainState(step=3, tokens=1 << 40, position=Position(epoch=2, row=7))
    assert TrainState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def stepped_optimizer(**shape: Any) -> tuple[LLaMaTransformer, torch.optim.Optimizer]:
    model = LLaMaTransformer(tiny_config(**shape))
    optimizer = build_optimizer(model, OptimizerConfig())
    model(torch.tensor([[1, 2, 3]])).logsumexp(-1).sum().backward()
    optimizer.step()
    return model, optimizer


def test_the_state_of_training_is_the_moments_by_name_and_the_random_numbers() -> None:
    model, optimizer = stepped_optimizer()
    tensors = state_tensors(model, optimizer)
    names = {name for name, _ in model.named_parameters()}
    assert tensors.keys() - {"rng.cuda"} == {"rng.cpu"} | {
        f"optimizer.{name}.{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")
    }
    other, fresh = LLaMaTransformer(tiny_config()), None
    fresh = build_optimizer(other, OptimizerConfig())
    restore_state(other, fresh, tensors)
    again = state_tensors(other, fresh)
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_the_state_of_another_model_is_refused_by_name() -> None:
    tensors = state_tensors(*stepped_optimizer())
    other = LLaMaTransformer(tiny_config(vocab_size=99))
    with pytest.raises(UserError, match=re.escape("optimizer.embeddings.weight.exp_avg is float32 (61, 32), not")):
        restore_state(other, build_optimizer(other, OptimizerConfig()), tensors)
