"""Dotted options such as --training.steps: every field of the config's tables, as asked for or not."""

import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from llamita import layers
from llamita.config import (
    DataConfig,
    DeviceName,
    ModelConfig,
    OptimizerConfig,
    Precision,
    TokenizerConfig,
    TrackingConfig,
    TrainingConfig,
)


def _partial(config: type, *, without: tuple[str, ...] = ()) -> Any:
    """A dataclass like `config` whose every field may be left out."""
    hints = typing.get_type_hints(config)
    names = [field.name for field in dataclasses.fields(config) if field.name not in without]
    fields = [(name, _optional(hints[name]), None) for name in names]
    made = dataclasses.make_dataclass(f"Partial{config.__name__}", fields, kw_only=True, frozen=True)
    made.__doc__, made.__module__ = config.__doc__, __name__
    return made


def _optional(hint: Any) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if type(None) in typing.get_args(hint):
        (inner,) = options
        if dataclasses.is_dataclass(inner):
            return typing.Optional[_partial(typing.cast(type, inner))]  # noqa: UP045
        return typing.Union[inner, Literal["off"], None]  # noqa: UP007
    return typing.Optional[hint]  # noqa: UP045


_Tokenizer: Any = _partial(TokenizerConfig, without=("file",))
_Data: Any = _partial(DataConfig, without=("sources",))
_Model: Any = _partial(ModelConfig, without=("vocab_size", "unpredicted_rows"))
_Optimizer: Any = _partial(OptimizerConfig)
_Training: Any = _partial(TrainingConfig)
_Tracking: Any = _partial(TrackingConfig)


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that every command with a configuration takes."""

    preset: str | None = None
    """A model of a known size: nano, 30m, 124m, 350m, 1b."""
    config: Path | None = None
    """A TOML file with the tables tokenizer, data, model, optimizer, training and tracking."""
    seed: int | None = None
    """Of weights, data order and samples; the same as --training.seed."""
    device: DeviceName | None = None
    """Where to compute; the same as --training.device."""
    precision: Precision | None = None
    """What matrix products compute in; the same as --training.precision."""
    tokenizer: Annotated[_Tokenizer, Parameter(group="Tokenizer")] = _Tokenizer()
    data: Annotated[_Data, Parameter(group="Data")] = _Data()
    model: Annotated[_Model, Parameter(group="Model")] = _Model()
    optimizer: Annotated[_Optimizer, Parameter(group="Optimizer")] = _Optimizer()
    training: Annotated[_Training, Parameter(group="Training")] = _Training()
    tracking: Annotated[_Tracking, Parameter(group="Tracking")] = _Tracking()

    def asked(self) -> list[layers.Layer]:
        """What was asked for, weakest first: preset, file, command line."""
        found = []
        if self.preset is not None:
            found.append(layers.preset(self.preset))
        if self.config is not None:
            found.append(layers.from_file(self.config))
        return [*found, self.command_line()]

    def command_line(self) -> layers.Layer:
        """What was given as options."""
        given: dict[str, Any] = {}
        for name in ("tokenizer", "data", "model", "optimizer", "training", "tracking"):
            given[name] = _given(getattr(self, name))
        for name in ("seed", "device", "precision"):
            if getattr(self, name) is not None:
                given.setdefault("training", {})[name] = getattr(self, name)
        return layers.Layer("command line", given)


def _given(table: Any) -> dict[str, Any]:
    values = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    return {
        name: _given(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
        if value is not None
    }
