"""Training that begins with the weights of another run, one that was trained here or came from elsewhere."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from llamita.config import DeviceName, ModelConfig, RunConfig
from llamita.errors import UsageError
from llamita.layers import Layer
from llamita.runs.checkpoint import Checkpoint, load_model
from llamita.runs.folder import Run
from llamita.runs.saving import save_checkpoint
from llamita.runs.start import note_start
from llamita.training.sizes import pick_rates

# Of the rate that a model without any training would get.
_RATE = 0.1
_LONGEST, _LONGEST_ON_CPU = 2048, 512  # positions of a row
# What may differ from the model that the weights are of: they mean the same with it.
_FREE = ("max_seq_len", "unpredicted_rows", "embedding_std")


@dataclass(frozen=True, slots=True)
class Start:
    """The run and the checkpoint that training begins with."""

    run: Run
    checkpoint: Checkpoint

    @classmethod
    def of(cls, path: Path, which: str = "best") -> "Start":
        """The start from a run's "best" or "latest" checkpoint, or the one of a step; UserError if there is none."""
        run = Run.open(path)
        if which == "initial":
            raise UsageError(
                "--checkpoint initial: before its training a model gives nothing to begin with; leave it out"
            )
        return cls(run, run.checkpoint(which))

    @property
    def model(self) -> ModelConfig:
        """The model that the weights are of."""
        return self.run.config().model

    @property
    def name(self) -> str:
        """What the weights are called in words."""
        return f"{self.run.path}, step {self.checkpoint.step}"

    def layer(self, device: DeviceName) -> Layer:
        """Settings that the weights come with: the model, its tokenizer, and a rate that forgets little.

        Windows are no longer than a device trains well, unless positions were learnt: models of others have 131,072.
        """
        model = self.model
        shape = {name: value for name, value in asdict(model).items() if value is not None}
        if model.positions != "learned":
            shape["max_seq_len"] = min(model.max_seq_len, _LONGEST_ON_CPU if device == "cpu" else _LONGEST)
        rate = _RATE * pick_rates(model.n_embd, model.vocab_size, 1)["lr"]
        return Layer(
            f"the weights of {self.run.path}",
            {
                "model": shape,
                "tokenizer": {"file": str(self.run.tokenizer_file)},
                "optimizer": {"lr": round(rate, 7), "table_lr_ratio": 1.0},
            },
        )

    def check(self, asked: RunConfig) -> None:
        """UsageError for a setting of model or tokenizer that the weights don't allow."""
        own = self.model
        if asked.tokenizer.file != str(self.run.tokenizer_file):
            raise UsageError(
                f"tokenizer.file ({asked.tokenizer.file}): the weights of {self.run.path} know their own tokenizer "
                "alone; leave it out, or --from"
            )
        for one in fields(ModelConfig):
            given, there = getattr(asked.model, one.name), getattr(own, one.name)
            free = one.name in _FREE and not (one.name == "max_seq_len" and own.positions == "learned")
            if given != there and not free:
                raise UsageError(
                    f"model.{one.name} ({given}): the weights of {self.run.path} have {there}; leave it out, or --from"
                )

    def save(self, run: Run) -> None:
        """Write the weights as a new run's checkpoint at step 0."""
        note_start(run.path, self.name)
        weights = load_model(self.checkpoint, self.model).state_dict()
        meta = {"step": 0, "tokens": 0, "from": self.name}
        save_checkpoint(run.checkpoint_folder, weights, {"rng.cpu": torch.get_rng_state()}, meta)
