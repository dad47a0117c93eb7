"""How much longer the steps of a tokenizer may make a text: a stranger's could fill all memory with a line of it."""

from collections.abc import Iterator
from typing import Any, Final

from tokenizers import Tokenizer as Backend

from llamita.text.splitting import state

_INNER: Final = ("normalizers", "pretokenizers", "decoders")
_BYTES: Final = 4.0  # of a character in UTF-8, each of which becomes a character


def growth(backend: Backend) -> float:
    """A bound on the factor, over all steps of normalizer and pre-tokenizer or those of the decoder."""
    before = [*_steps(state(backend.normalizer)), *_steps(state(backend.pre_tokenizer))]
    return max(_product(before), _product(_steps(state(backend.decoder))))


def _product(steps: list[dict[str, Any]]) -> float:
    total = 1.0
    for step in steps:
        total *= _factor(step)
        if total > 1e30:  # enough to know, and short of infinity
            break
    return total


def _factor(step: dict[str, Any]) -> float:
    if step["type"] == "ByteLevel":
        return _BYTES
    if step["type"] != "Replace":
        return 1.0
    replaced, content = step["pattern"].get("String"), len(step["content"])
    # A regular expression may match between any two characters.
    return max(content / len(replaced), 1.0) if replaced else 1.0 + content


def _steps(spec: Any) -> list[dict[str, Any]]:
    """The steps of a component as JSON objects, those of a sequence one by one."""
    return list(_walk(spec)) if spec is not None else []


def _walk(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner = [step for name in _INNER for step in spec.get(name, ())]
    if spec["type"] != "Sequence":
        yield spec
    for step in inner:
        yield from _walk(step)
