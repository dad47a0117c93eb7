"""A run from its folder: train from the newest checkpoint on, evaluate, sample, save, and go back where it must."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from typing import Any

import torch

from llamita.config import RunConfig
from llamita.errors import UserError, command_line
from llamita.files import remove_asides, write_text
from llamita.generation.engine import generate
from llamita.generation.sampling import Sampling
from llamita.runs.abandon import set_aside
from llamita.runs.checkpoint import Checkpoint, check_shape, load_state, load_weights
from llamita.runs.folder import Run, initial_model
from llamita.runs.lock import writing
from llamita.runs.saving import Saver
from llamita.text.batches import Position
from llamita.text.shards import open_corpora
from llamita.training.compiling import loss_function
from llamita.training.evaluate import LossFunction, evaluate, to_device
from llamita.training.events import Abandoned, Evaluated, Event, NotSaved, Rewound, Sampled, Saved, StepsSkipped
from llamita.training.giving_up import give_up
from llamita.training.guard import Guard
from llamita.training.incidents import documents_of, excerpts, note_incident
from llamita.training.loop import StepMetrics, batches_of, train
from llamita.training.metrics_log import MetricsLog
from llamita.training.optimizer import build_optimizer
from llamita.training.preflight import Preflight, sound_start
from llamita.training.recovery import Recovery
from llamita.training.state import TrainState, restore_state, state_tensors
from llamita.training.tuning import pinned


class Session:
    """A run's model, optimizer and data in memory, at the newest checkpoint or at the start.

    `config` stands for the run's own where it was changed on resuming. `begin`: a step, "best" or "initial" to go on
    from instead; later checkpoints move to checkpoints/abandoned when training begins. `started`: by time.monotonic(),
    where `training.max_minutes` count from something earlier.
    """

    def __init__(
        self, run: Run, config: RunConfig | None = None, *, begin: str | None = None, started: float | None = None
    ) -> None:
        self.run = run
        self.config: RunConfig = config or run.config()
        training = self.config.training
        minutes = math.inf if training.max_minutes is None else training.max_minutes
        self._deadline = (time.monotonic() if started is None else started) + 60 * minutes
        self.tokenizer = run.tokenizer()
        self.corpora = open_corpora(run.data_folder, self.tokenizer)
        torch.set_num_threads(training.threads)
        if training.deterministic:
            # Read when CUDA starts: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(training.deterministic)
        torch.manual_seed(training.seed)
        found = run.beginning(begin)
        if found is not None:
            check_shape(found, self.config.model)
        self._batches = batches_of(self.corpora.train, self.config)
        self._start: Preflight | None = None
        if found is None:
            first = to_device(self._batches.batch(Position())[0], torch.device(training.device))
            self.config, self.model, self._start = sound_start(run, self.config, first)
        else:
            self.model = initial_model(self.config).to(training.device)
        self.optimizer = build_optimizer(self.model, self.config.optimizer)
        self.guard = Guard(self.model.embeddings.weight.device, training.max_z_score)
        self.state, self._recovery = TrainState(), Recovery()
        if found is not None:
            self._restore(found)
            self._batches.batch(self.state.position)  # damaged tokens are told before anything changes
        self._abandon_after = None if begin is None else 0 if found is None else found.step
        self._seen = self._newest_step()
        self._saver = Saver(run.checkpoint_folder, training.keep_last, training.keep_every)
        self._best, self._saving, self._owed = self._best_saved(), 0, False
        self._last_evaluation: Evaluated | None = None
        self._metrics = MetricsLog(run)

    def events(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Train to the end, or to the step after which `should_stop` holds or time is up; everything is saved then.

        A disk that is full is no reason to stop before the end: what can't be written is tried again. UserError
        if the end can't be saved, if the run diverges whatever is skipped, or if another process is writing the
        run or has gone on with it meanwhile.
        """
        with writing(self.run.path):
            if (newest := self._newest_step()) > max(self._seen, self.state.step):
                raise UserError(f"{self.run.path} has gone on to step {newest} meanwhile; resume it again")
            remove_asides(self.run.path, "config.toml", "metrics.jsonl", "diagnosis.json", "tracking.json")
            before = self.run.config()
            if self.config.model != before.model:
                # Weights must never lie beside the config of another model.
                yield from self._abandon()
            if self.config != before:
                self.run.write_config(self.config)
            yield from self._abandon()
            # A kill may have come before that.
            self._saver.prune()
            try:
                with pinned(self.config.training.attention):
                    yield from self._train(should_stop)
            except BaseException:
                # Whoever is next may write as soon as the lock is free.
                self._saver.outcome(wait=True)
                raise

    def _newest_step(self) -> int:
        return max((item.step for item in self.run.checkpoints()), default=0)

    def _abandon(self) -> Iterator[Event]:
        """Set the checkpoints behind the one that was asked for aside."""
        if self._abandon_after is not None and (moved := set_aside(self.run, after=self._abandon_after)):
            yield Abandoned(tuple(moved))
        self._abandon_after, self._best = None, self._best_saved()

    def _train(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        # A run that starts over measures itself at step 0 again.
        self._metrics.forget_after(self.state.step or -1)
        start, self._start = self._start, None
        if start is not None:
            yield start
        if self.state.step == 0:
            yield from self._evaluate()
        loss = loss_function(self.config.training)
        while (yield from self._train_until_rewound(loss, should_stop)):
            pass

    def _train_until_rewound(self, loss: LossFunction, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
        """Train to the end or to a stop; true if the run went back instead and has to go on from there."""
        training = self.config.training
        steps = train(self.model, self.optimizer, self._batches, self.config, self.state, loss, self.guard)
        for self.state, metrics in steps:
            step, last = self.state.step, self.state.step == training.steps
            if metrics is not None:
                yield from self._report(metrics)
                if metrics.streak >= training.rewind_after:
                    yield from self._rewind(metrics)
                    return True
            due = step % training.eval_every == 0 or last
            if due:
                yield from self._evaluate()
            stopping = (should_stop() or time.monotonic() >= self._deadline) and not last
            if stopping and metrics is None:
                yield from self._report_skipped(steps.send(True)[1])
            yield from self._save_if_due(stopping, last, retry=metrics is not None)
            if stopping:
                break
            if due:
                yield from self._sample()
        return False

    def _report(self, metrics: StepMetrics) -> Iterator[Event]:
        self._metrics.note(metrics.row())
        yield metrics
        yield from self._report_skipped(metrics)

    def _report_skipped(self, metrics: StepMetrics | None) -> Iterator[Event]:
        if metrics is None or not metrics.skipped:
            return
        documents: list[int] = []
        for skipped in metrics.skipped:
            documents = documents_of(self._batches, skipped.position, self.config.training.accumulation)
            note_incident(self.run, {"kind": "skipped", **asdict(skipped), "documents": documents})
        yield StepsSkipped(metrics.skipped, excerpts(self.corpora.train, self.tokenizer, documents))

    def _evaluate(self) -> Iterator[Event]:
        if self.corpora.validation is None:
            return
        result = evaluate(
            self.model,
            self.corpora.validation,
            precision=self.config.training.precision,
            max_tokens=self.config.training.eval_tokens,
            data=self.config.data,
            lossless=self.tokenizer.lossless,
            counts=self.corpora.train.token_counts,
        )
        event = self._last_evaluation = Evaluated(self.state.step, result)
        self._metrics.note({"step": event.step, **result.row()})
        yield event

    def _sample(self) -> Iterator[Event]:
        tokens = self.config.training.sample_tokens
        if tokens == 0:
            return
        sampling, seed = Sampling(temperature=0.8, top_p=0.95), self.config.training.seed
        prompt = "" if self.tokenizer.bos_id is not None else "\n"
        try:
            (made,) = generate(self.model, self.tokenizer, prompt, max_new_tokens=tokens, sampling=sampling, seed=seed)
        except UserError:
            # A tokenizer that makes nothing of the prompt, or a diverged model, is no reason to end training.
            return
        folder = self.run.path / "samples"
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            write_text(folder / f"step_{self.state.step:08d}.txt", made.text + "\n")
        yield Sampled(self.state.step, made.text)

    def _best_saved(self) -> float:
        return min((item.val_loss for item in self.run.checkpoints() if item.val_loss is not None), default=math.inf)

    def _val_loss(self) -> float | None:
        """The validation loss of this very step, if it was measured."""
        event = self._last_evaluation
        return event.evaluation.loss if event is not None and event.step == self.state.step else None

    def _save_if_due(self, stopping: bool, last: bool, retry: bool) -> Iterator[Event]:
        """Begin a save where one is due, and tell what came of the one before; an end is waited for."""
        yield from self._outcome()
        loss = self._val_loss()
        best = loss is not None and loss < self._best
        ends = stopping or last
        if not (ends or best or self.state.step % self.config.training.save_every == 0 or (self._owed and retry)):
            return
        streak = self.guard.streak
        if streak and not ends:
            # Weights that only bad batches came after may be bad themselves.
            self._owed = True
            return
        yield from self._outcome(wait=True)
        self._begin_save(streak)
        if ends:
            yield from self._outcome(wait=True, end=True, stopped=stopping)

    def _begin_save(self, streak: int) -> None:
        loss = self._val_loss()
        self._recovery = self._recovery.at(self.state.step - streak)
        meta: dict[str, Any] = {**self.state.to_dict(), "streak": streak, **self._recovery.to_dict()}
        if self._last_evaluation is not None and loss is not None:
            meta |= {"val_loss": loss, "bits_per_byte": self._last_evaluation.evaluation.bits_per_byte}
            self._best = min(self._best, loss)
        self._saving, self._owed = self.state.step, False
        state = {**state_tensors(self.model, self.optimizer), **self.guard.tensors()}
        self._saver.begin(self.model.state_dict(), state, meta)

    def _outcome(self, wait: bool = False, end: bool = False, stopped: bool = False) -> Iterator[Event]:
        """What came of the last save, if it's known by now."""
        outcome = self._saver.outcome(wait)
        if isinstance(outcome, Checkpoint):
            yield Saved(outcome, stopped)
        elif outcome is not None:
            if end:
                raise UserError(f"{outcome}; then go on with: {command_line('resume', self.run.path)}") from outcome
            self._owed, self._best = True, self._best_saved()
            yield NotSaved(self._saving, str(outcome))

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_weights(self.model, checkpoint)
        tensors = load_state(checkpoint)
        restore_state(self.model, self.optimizer, tensors)
        self.guard = Guard(self.model.embeddings.weight.device, self.config.training.max_z_score)
        self.guard.restore(tensors)
        self.state = TrainState.from_dict(checkpoint.meta)
        self._recovery = Recovery.from_dict(checkpoint.meta)

    def _start_over(self) -> None:
        torch.manual_seed(self.config.training.seed)
        self.model.load_state_dict(self.run.initial_model(self.config).state_dict())
        self.optimizer.state.clear()
        self.guard = Guard(self.model.embeddings.weight.device, self.config.training.max_z_score)
        self.state = TrainState()

    def _rewind(self, metrics: StepMetrics) -> Iterator[Event]:
        """Go back to the last good checkpoint and on from there with the data behind the bad batches."""
        yield from self._outcome(wait=True)
        here, recovery = self.state, self._recovery.at(self.state.step - metrics.streak)
        found = self.run.checkpoints()
        targets = recovery.targets(found, here.step - metrics.streak)
        if recovery.rewinds >= self.config.training.max_rewinds or not self._went_back(found, targets):
            raise give_up(self.run, self.model, self.config, self._batches, metrics, recovery.rewinds)
        target = self.state.step
        # Nothing hangs on it: should they stay, the run comes to the same point again.
        with contextlib.suppress(UserError):
            set_aside(self.run, after=target)
        self.state = TrainState(target, self.state.tokens, here.position)
        self._recovery = recovery.after(here.step, target)
        self._best, self._last_evaluation, self._owed = self._best_saved(), None, False
        self._metrics.forget_after(target)
        event = Rewound(here.step, target, metrics.streak)
        note_incident(self.run, {"kind": "rewound", **asdict(event)})
        yield event

    def _went_back(self, found: list[Checkpoint], targets: list[int]) -> bool:
        """Whether the model is at one of these steps again, the first that can be read; 0 is the beginning."""
        for target in targets:
            if target == 0:
                self._start_over()
                return True
            with contextlib.suppress(UserError):
                self._restore(next(item for item in found if item.step == target))
                return True
        return False
