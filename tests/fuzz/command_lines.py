"""Command lines of every command, with options that it has and values that it may not want."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from cyclopts import App
from hypothesis import strategies as st

from llamita.cli.app import app
from tests.cli.command_line import TINY
from tests.fuzz.edits import NUMBERS, TEXTS

# All that a command could write to lies below the working directory or right above it.
PATHS = (
    "out.txt",
    "out.vec",
    "out.html",
    "deep/down/out.bin",
    "../up.png",
    ".",
    "..",
    "text.txt",
    "nowhere",
    "text.txt/x",
)
ODD_PATHS = (
    *("", "a" * 300, "x\udcff", "[b]", "*", "~", "~nobody/x", "\n", "runs", "list.txt", "odd.toml", "-"),
    *("nobody/nothing", "hf://datasets/nobody/nothing?split=x", "hf://nobody/nothing", "hf://datasets/../x"),
)
RUNS = ("runs/it", "runs/it/", "runs/it/config.toml", "runs/it/checkpoints", "nowhere", "", "a" * 300, "x\udcff", "*")
WORDS = (
    "the",
    "a",
    "river",
    "boat",
    "#70",
    "#99999999",
    "#0",
    "man:woman",
    "the:a",
    "best",
    "latest",
    "initial",
    "4",
    "-5",
    "--",
)
SIZES = tuple(str(number) for number in NUMBERS if not isinstance(number, int) or not 64 < number < 2**62)

# What would train for long, or build something large, is kept small by options at the end.
STEP = ("--training.steps", "1", "--training.eval-tokens", "64", "--training.no-compile", "--training.threads", "1")
BOUNDED = {
    ("train",): (*TINY, *STEP),
    ("resume",): (*STEP[2:], "--training.steps", "9", "--device", "cpu", "--training.sample-tokens", "0"),
    # It never trains: a demo doesn't replace a run that isn't one.
    ("demo",): ("--run", "runs/it", *TINY, *STEP),
    ("plan",): TINY,
    ("bench",): (*TINY, *STEP, "--seconds", "0.05"),
    ("generate",): ("--max-new-tokens", "3"),
}


@dataclass(frozen=True)
class Option:
    """An option by its name, and the type of what follows it."""

    name: str
    type: Any


@dataclass(frozen=True)
class Command:
    """A command by its words, with what it takes by place and by name."""

    words: tuple[str, ...]
    takes_run: bool
    places: tuple[Any, ...]
    options: tuple[Option, ...]


@cache
def commands() -> list[Command]:
    """Every command there is."""
    return [_command(words, function) for words, function in _leaves(app, ())]


def _leaves(parent: App, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    for name in parent:
        if not name.startswith("-"):
            child = parent[name]
            function = child.default_command
            if function is not None:
                yield (*words, name), function
            yield from _leaves(child, (*words, name))


def _command(words: tuple[str, ...], function: Callable[..., Any]) -> Command:
    places, options = [], []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind = _plain(parameter.annotation)
        if parameter.kind is parameter.KEYWORD_ONLY:
            options += _options(name, kind)
        else:
            places.append(list[kind] if parameter.kind is parameter.VAR_POSITIONAL else kind)  # type: ignore[valid-type]
    fixed = {word for word in BOUNDED.get(words, ()) if word.startswith("--")}
    fixed |= {f"--training.{name}" for name in ("seed", "device", "precision", "compile") if fixed}
    takes_run = "run" in inspect.signature(function).parameters
    return Command(words, takes_run, tuple(places), tuple(option for option in options if option.name not in fixed))


def _options(name: str, kind: Any) -> list[Option]:
    """An option, or those of a dataclass that stands for many; such a one at the top has no name of its own."""
    if not dataclasses.is_dataclass(kind):
        return [Option(f"--{name.replace('_', '-')}", kind)]
    found = []
    hints = typing.get_type_hints(kind, include_extras=False)
    for field in dataclasses.fields(kind):
        inner = _plain(hints[field.name])
        prefix = "" if name in ("settings", "space") else f"{name}."
        found += _options(f"{prefix}{field.name}", inner)
    return found


def _plain(annotation: Any) -> Any:
    """A type without what may be said beside it."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    options = [option for option in get_args(annotation) if option is not type(None)]
    is_union = get_origin(annotation) is typing.Union or type(annotation).__name__ == "UnionType"
    return _plain(options[0]) if is_union else annotation


def fitting(kind: Any) -> st.SearchStrategy[list[str]]:
    """Words of a command line that a type may like."""
    if get_origin(kind) is tuple:
        return st.tuples(*(fitting(one) for one in get_args(kind) if one is not Ellipsis)).map(
            lambda each: sum(each, [])
        )
    if get_origin(kind) is list:
        return st.lists(fitting(get_args(kind)[0]), max_size=4).map(lambda each: sum(each, []))
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind)).map(lambda one: [str(one)])
    pools: dict[Any, Sequence[str]] = {int: ("1", "2", "4", "64"), float: ("0.5", "1", "3e-3"), Path: PATHS, str: WORDS}
    return st.just([]) if kind is bool else st.sampled_from(pools.get(kind, WORDS)).map(lambda one: [one])


anything = st.one_of(
    st.sampled_from(SIZES), st.sampled_from(TEXTS[:3] + TEXTS[4:]), st.sampled_from(ODD_PATHS), st.text(max_size=8)
).map(lambda one: [one.replace("\0", "")])


def _places(command: Command) -> st.SearchStrategy[list[list[str]]]:
    given = []
    for number, kind in enumerate(command.places):
        likely = (
            st.sampled_from(RUNS[:1] * 6 + RUNS).map(lambda one: [one])
            if kind is Path and number == 0
            else fitting(kind)
        )
        given.append(st.one_of(likely, likely, likely, anything))
    return st.tuples(*given).map(list)


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, ...]:
    """A command, what it takes by place, and some options."""
    command = draw(st.sampled_from(commands()))
    words = [*command.words, *sum(draw(_places(command)), [])]
    for option in draw(st.lists(st.sampled_from(command.options), max_size=4)) if command.options else ():
        good = fitting(option.type)
        value = draw(st.one_of(good, good, good, good, anything, st.just([])))
        joined = len(value) == 1 and draw(st.booleans())
        words += [f"{option.name}={value[0]}"] if joined else [option.name, *value]
    if draw(st.integers(0, 9)) == 0:
        words.insert(
            draw(st.integers(0, len(words))), draw(st.sampled_from(["--help", "--version", "--no-such", "-x", "--"]))
        )
    return (*words, *BOUNDED.get(command.words, ()))
