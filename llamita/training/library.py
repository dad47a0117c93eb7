"""Training in one call, for scripts and notebooks that need no run folder."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from llamita.config import DeviceName, OptimizerConfig, RunConfig, TrainingConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import Batches
from llamita.text.shards import write_shards
from llamita.text.sources import find, read
from llamita.text.tokenizer import Tokenizer
from llamita.training.hardware import choose_hardware
from llamita.training.loop import StepMetrics
from llamita.training.loop import train as training_steps
from llamita.training.optimizer import build_optimizer


def train(
    model: LLaMaTransformer,
    tokenizer: Tokenizer,
    sources: str | Sequence[str],
    *,
    steps: int = 1000,
    batch_size: int = 16,
    seed: int = 0,
    optimizer: OptimizerConfig = OptimizerConfig(),
) -> list[StepMetrics]:
    """Train a model in place, where it is, on sources as `llamita train` takes them; gives every tenth step's metrics.

    UserError for sources that can't be read. Nothing is kept on disk: `llamita train` makes runs.
    """
    hardware = choose_hardware(cast(DeviceName, model.embeddings.weight.device.type), "auto")
    with tempfile.TemporaryDirectory() as folder:
        paths = [sources] if isinstance(sources, str) else list(sources)
        corpus = write_shards(read(find(paths)), tokenizer, Path(folder)).train
        training = TrainingConfig(steps=steps, batch_size=batch_size, seed=seed, precision=hardware.precision)
        config = RunConfig(model=model.config, optimizer=optimizer, training=training)
        batches = Batches(corpus, rows=batch_size, seq_len=model.config.max_seq_len, seed=seed)
        taken = training_steps(model, build_optimizer(model, optimizer), batches, config)
        return [metrics for _, metrics in taken if metrics is not None]
