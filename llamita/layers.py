"""TOML layers: defaults, what was picked, a preset, a file and the command line become one RunConfig."""

import dataclasses
import json
import math
import re
import tomllib
import types
import typing
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin

from llamita.config import RunConfig
from llamita.errors import UsageError
from llamita.files import read_text

Table: TypeAlias = dict[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")
_TABLES = tuple(field.name for field in dataclasses.fields(RunConfig))

_FILE_BYTES = 1 << 22  # room for the names of many sources
_DEPTH = 8  # of tables in tables, of which a config has three
# The parser takes time by the square of the parts of a dotted name.
_QUOTED = re.compile(r"""\"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_DEEP_NAME = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){8}")
_SHOWN = 200  # characters of a value in a message
_INTEGERS = range(-(2**63), 2**63)  # as TOML has them


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """Partial settings and where they came from, as `config show` names it."""

    name: str
    values: Table


def presets() -> list[str]:
    """Names of the presets that come with the package, smallest model first."""
    return sorted(_presets(), key=lambda name: preset(name).values["model"]["n_embd"])


def preset(name: str) -> Layer:
    """The layer of a shipped preset; UsageError for an unknown name."""
    file = _presets().get(name)
    if file is None:
        raise UsageError(f"--preset {_cut(name)}: no such preset; choose one of {', '.join(presets())}")
    return Layer(f"preset {name}", tomllib.loads(file.read_text(encoding="utf-8")))


def _presets() -> dict[str, Traversable]:
    """Files by the names of presets; no name that is asked for becomes a path."""
    folder = resources.files("llamita") / "presets"
    return {file.name.removesuffix(".toml"): file for file in folder.iterdir() if file.name.endswith(".toml")}


def from_file(path: Path) -> Layer:
    """The layer of a TOML file; UsageError if it can't be read or parsed, or sets something outside of a table."""
    try:
        text = read_text(path, _FILE_BYTES)
        deep = _DEEP_NAME.search(_QUOTED.sub("q", text)) is not None
        values = {} if deep else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror}); give a TOML file") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    if deep or _is_deep(values):
        raise UsageError(f"{path}: more than {_DEPTH} tables in each other; settings are named like model.n_embd")
    for name, value in values.items():
        if not isinstance(value, dict):
            named = f"{_cut(name)} = {_shown(value)}"
            raise UsageError(f"{path}: {named} must stand in a table; tables: {', '.join(_TABLES)}")
    return Layer(str(path), values)


def from_dotted(name: str, settings: dict[str, Any]) -> Layer:
    """The layer of dotted names such as {"model.n_embd": 64}."""
    values: Table = {}
    for dotted, value in settings.items():
        *tables, key = dotted.split(".")
        table = values
        for part in tables:
            table = table.setdefault(part, {})
        table[key] = value
    return Layer(name, values)


def merge(layers: list[Layer]) -> tuple[Table, dict[str, str]]:
    """Settings of all layers, later ones over earlier ones, and the layer's name for each dotted setting."""
    merged: Table = {}
    origin: dict[str, str] = {}

    def overlay(into: Table, values: Table, prefix: str, name: str) -> None:
        for key, value in values.items():
            dotted = f"{prefix}{key}"
            if isinstance(value, dict):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                overlay(into[key], value, f"{dotted}.", name)
            else:
                into[key] = value
                origin[dotted] = name

    for layer in layers:
        overlay(merged, layer.values, "", layer.name)
    return merged, origin


def build(values: Table) -> RunConfig:
    """A RunConfig of nested plain values; UsageError names the table, field and value that don't fit."""
    config: RunConfig = _build(RunConfig, typed(values), "")
    return config


def typed(values: Table) -> Table:
    """Partial settings, each value in the type of its field; UsageError for unknown names and wrong types."""
    return _typed(RunConfig, values, "")


def field_names(cls: type) -> list[str]:
    """Names of a config dataclass's fields, in order."""
    return [field.name for field in dataclasses.fields(cls)]


def flat(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted name."""
    rows: dict[str, Any] = {}

    def walk(value: Any, prefix: str) -> None:
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if dataclasses.is_dataclass(item):
                walk(item, f"{prefix}{field.name}.")
            else:
                rows[f"{prefix}{field.name}"] = item

    walk(config, "")
    return rows


def to_toml(config: RunConfig) -> str:
    """The whole config as TOML, fields that are off (None) as the string "off"."""
    tables: dict[str, list[str]] = {}
    for dotted, value in flat(config).items():
        table, _, key = dotted.rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {_toml_value(value)}")
    return "\n".join(f"[{table}]\n" + "\n".join(rows) + "\n" for table, rows in tables.items())


def _toml_value(value: Any) -> str:
    if value is None:
        return '"off"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, str):
        # JSON strings are TOML basic strings, except that TOML also wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)


def _build(cls: Any, values: Table, prefix: str) -> Any:
    hints, given = typing.get_type_hints(cls), dict(values)
    for key, value in values.items():
        if isinstance(value, dict):
            (table,) = [hint for hint in (hints[key], *get_args(hints[key])) if dataclasses.is_dataclass(hint)]
            given[key] = _build(table, value, f"{prefix}{key}.")
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise UsageError(f"{prefix}{field.name} is missing; set it")
    return cls(**given)


def _typed(cls: Any, values: Table, prefix: str) -> Table:
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            known = ", ".join(hints)
            raise UsageError(f"unknown setting {prefix}{_cut(key)} = {_shown(values[key])}; known here: {known}")
    return {key: _convert(hints[key], value, f"{prefix}{key}") for key, value in values.items()}


def _convert(hint: Any, value: Any, dotted: str) -> Any:
    origin = get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None or value == "off":
            return None
        (hint,) = [option for option in get_args(hint) if option is not type(None)]
        return _convert(hint, value, dotted)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UsageError(f"{dotted} = {_shown(value)} must be a table of settings")
        return _typed(hint, value, f"{dotted}.")
    if origin is Literal:
        if value not in get_args(hint):
            raise UsageError(f"{dotted} = {_shown(value)} must be one of {', '.join(map(repr, get_args(hint)))}")
        return value
    if origin is tuple:
        return _convert_tuple(hint, value, dotted)
    return _convert_plain(hint, value, dotted)


def _convert_tuple(hint: Any, value: Any, dotted: str) -> tuple[Any, ...]:
    items = get_args(hint)
    variadic = len(items) == 2 and items[1] is Ellipsis
    if not isinstance(value, list | tuple) or not (variadic or len(value) == len(items)):
        count = "" if variadic else f"{len(items)} "
        raise UsageError(f"{dotted} = {_shown(value)} must be a list of {count}values")
    kinds = [items[0]] * len(value) if variadic else items
    return tuple(_convert(kind, item, dotted) for kind, item in zip(kinds, value, strict=True))


def _convert_plain(hint: Any, value: Any, dotted: str) -> Any:
    if type(value) is int and value not in _INTEGERS:
        raise UsageError(f"{dotted} = {_shown(value)} must be less than 2^63")
    if hint is float and type(value) is int:
        value = float(value)
    fits = type(value) is hint
    if fits and hint is float:
        fits = math.isfinite(value)
    if fits and hint is str:
        # A file name that isn't valid UTF-8 reaches Python with lone surrogates, which TOML can't hold.
        fits = not _SURROGATE.search(value)
    if not fits:
        wanted = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a string in UTF-8"}
        raise UsageError(f"{dotted} = {_shown(value)} must be {wanted[hint]}")
    return value


def _is_deep(values: Table) -> bool:
    """Whether tables or lists lie deeper in each other than any setting does."""
    level: list[Any] = [values]
    for _ in range(_DEPTH):
        items = [item.values() if isinstance(item, dict) else item for item in level]
        level = [item for inner in items for item in inner if isinstance(item, dict | list)]
    return bool(level)


def _shown(value: Any) -> str:
    """A value as Python spells it, as far as it fits a message."""
    try:
        return _cut(repr(value))
    except ValueError:  # Python spells no number of thousands of digits
        return "a number of thousands of digits"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
