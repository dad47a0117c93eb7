"""A run from its folder: train from the newest checkpoint on, evaluate, sample, save."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.files import write_text
from llamita.generation.engine import generate
from llamita.generation.sampling import Sampling
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.checkpoint import (
    Checkpoint,
    UnsavedError,
    load_state,
    load_weights,
    prune_checkpoints,
    save_checkpoint,
)
from llamita.runs.folder import Run
from llamita.runs.lock import writing
from llamita.text.batches import Batches
from llamita.text.shards import Corpora, open_corpora
from llamita.text.tokenizer import Tokenizer
from llamita.training.compiling import loss_function
from llamita.training.evaluate import Evaluation, evaluate
from llamita.training.loop import StepMetrics, train
from llamita.training.optimizer import build_optimizer
from llamita.training.state import TrainState, restore_state, state_tensors


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out loss after a step."""

    step: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Sampled:
    """A text that the model made up after a step."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint was written; `stopped` if training ends here before its time."""

    checkpoint: Checkpoint
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class NotSaved:
    """A checkpoint couldn't be written for this reason; training goes on and tries again soon."""

    step: int
    reason: str


Event = StepMetrics | Evaluated | Sampled | Saved | NotSaved


class Session:
    """A run's model, optimizer and data in memory, at the newest checkpoint or at the start.

    `config` stands for the run's own where it was changed on resuming.
    """

    def __init__(self, run: Run, config: RunConfig | None = None) -> None:
        self.run = run
        self.config: RunConfig = config or run.config()
        minutes = self.config.training.max_minutes
        self._deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.tokenizer: Tokenizer = run.tokenizer()
        self.corpora: Corpora = open_corpora(run.data_folder, fingerprint=self.tokenizer.fingerprint)
        training = self.config.training
        torch.set_num_threads(training.threads)
        torch.manual_seed(training.seed)
        self.model = LLaMaTransformer(self.config.model).to(training.device)
        self.optimizer = build_optimizer(self.model, self.config.optimizer)
        self.state = TrainState()
        found = run.checkpoints()
        if found:
            load_weights(self.model, found[-1])
            restore_state(self.model, self.optimizer, load_state(found[-1]))
            self.state = TrainState.from_dict(found[-1].meta)
        self._last_evaluation: Evaluated | None = None
        self._unsaved = False
        self._unwritten: list[dict[str, Any]] = []

    def events(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Train to the end, or to the step after which `should_stop` holds or time is up; everything is saved then.

        A disk that is full is no reason to stop before the end: what can't be written is tried again. UserError
        if the end can't be saved, or another process is writing the run or has gone on with it meanwhile.
        """
        with writing(self.run.path):
            found = self.run.checkpoints()
            if found and found[-1].step > self.state.step:
                raise UserError(f"{self.run.path} has gone on to step {found[-1].step} meanwhile; resume it again")
            if self.config != self.run.config():
                self.run.write_config(self.config)
            yield from self._train(should_stop)

    def _train(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        training = self.config.training
        # A run that starts over measures itself at step 0 again.
        self.run.forget_metrics_after(self.state.step or -1)
        if self.state.step == 0:
            yield from self._evaluate()
        steps = train(self.model, self.optimizer, self._batches(), self.config, self.state, loss_function(training))
        for self.state, metrics in steps:
            step, last = self.state.step, self.state.step == training.steps
            if metrics is not None:
                self._note(asdict(metrics))
                yield metrics
            stopping = (should_stop() or time.monotonic() >= self._deadline) and not last
            due = step % training.eval_every == 0 or last
            if due:
                yield from self._evaluate()
            retry = self._unsaved and metrics is not None
            if stopping or last or step % training.save_every == 0 or self._is_best() or retry:
                yield self._save_or_tell(stopping, last)
            if stopping:
                return
            if due:
                yield from self._sample()

    def _batches(self) -> Batches:
        config = self.config
        return Batches(
            self.corpora.train,
            rows=config.training.micro_batch_size,
            seq_len=config.model.max_seq_len,
            seed=config.training.seed,
            packing=config.data.packing,
            mask_documents=config.data.mask_documents,
        )

    def _evaluate(self) -> Iterator[Event]:
        if self.corpora.validation is None:
            return
        config = self.config
        result = evaluate(
            self.model,
            self.corpora.validation,
            precision=config.training.precision,
            max_tokens=config.training.eval_tokens,
            data=config.data,
            lossless=self.tokenizer.lossless,
        )
        event = self._last_evaluation = Evaluated(self.state.step, result)
        figures = {"val_loss": result.loss, "bits_per_byte": result.bits_per_byte}
        self._note({"step": event.step, **figures})
        yield event

    def _is_best(self) -> bool:
        event = self._last_evaluation
        if event is None or event.step != self.state.step:
            return False
        rated = [item.val_loss for item in self.run.checkpoints() if item.val_loss is not None]
        return not rated or event.evaluation.loss < min(rated)

    def _sample(self) -> Iterator[Event]:
        tokens = self.config.training.sample_tokens
        if tokens == 0:
            return
        sampling = Sampling(temperature=0.8, top_p=0.95)
        seed = self.config.training.seed
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

    def _note(self, row: dict[str, Any]) -> None:
        """Add a line to the metrics, after those that couldn't be written before."""
        self._unwritten.append(row)
        with contextlib.suppress(OSError):
            while self._unwritten:
                self.run.append_metrics(self._unwritten[0])
                del self._unwritten[0]

    def _save_or_tell(self, stopping: bool, last: bool) -> Saved | NotSaved:
        try:
            saved = Saved(self._save(), stopping)
        except UnsavedError as error:
            if stopping or last:
                raise UserError(f"{error}; then go on with: llamita resume {self.run.path}") from error
            self._unsaved = True
            return NotSaved(self.state.step, str(error))
        self._unsaved = False
        return saved

    def _save(self) -> Checkpoint:
        event = self._last_evaluation
        meta: dict[str, Any] = self.state.to_dict()
        if event is not None and event.step == self.state.step:
            meta |= {"val_loss": event.evaluation.loss, "bits_per_byte": event.evaluation.bits_per_byte}
        folder = self.run.checkpoint_folder
        state = state_tensors(self.model, self.optimizer)
        checkpoint = save_checkpoint(folder, self.model.state_dict(), state, meta)
        prune_checkpoints(folder, self.config.training.keep_last, self.config.training.keep_every)
        return checkpoint
