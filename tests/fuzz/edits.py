"""Changes to good input: to bytes, to numbers in arrays, to JSON, to TOML and to safetensors headers."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 64, 2**31, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400),
    *(0.5, -0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
)
TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "x" * 5000,
        "../../x",
        "/",
        "..",
        "C:\\x",
        "off",
        "None",
        "\ufeff",
        "\udcff",
        "￭",
        "é",
        "👩‍👩‍👧",
    ),
    *("\x1b[2J", "[bold]", "%s%n", "{0}", "<|begin_of_text|>", "a.b.c", '"', "'", "\\", "\u202e", "nan", "١٢"),
)
VOCAB_SIZE = 320  # of the run that is damaged
# Stand for what no Python value can: they are replaced in the text of the JSON.
_DEEP, _LONG = "a list in lists", "a number of many digits"
_SPELLED = {_DEEP: "[" * 100_000 + "]" * 100_000, _LONG: "9" * 5000}

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=20))
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), texts, st.sampled_from([_DEEP, _LONG]))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
places = st.floats(0, 1, exclude_max=True)


@dataclass(frozen=True)
class ByteEdit:
    """Something done at a place, a share of the content's length."""

    action: Literal["flip", "cut off", "remove", "insert", "overwrite", "repeat"]
    place: float
    size: int
    data: bytes


byte_edits = st.lists(
    st.builds(
        ByteEdit,
        action=st.sampled_from(["flip", "cut off", "remove", "insert", "overwrite", "repeat"]),
        place=places,
        size=st.integers(1, 64),
        data=st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\0" * 8, b"\xff" * 8, b"{", b"[", b'"'])),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: Sequence[ByteEdit]) -> bytes:
    """Bytes after edits, one after another."""
    for edit in edits:
        at = int(edit.place * len(content))
        end = at + edit.size
        match edit.action:
            case "flip":
                changed = bytes([content[at] ^ 1 << edit.size % 8]) if content else b""
                content = content[:at] + changed + content[at + 1 :]
            case "cut off":
                content = content[:at]
            case "remove":
                content = content[:at] + content[end:]
            case "insert":
                content = content[:at] + edit.data + content[at:]
            case "overwrite":
                content = content[:at] + edit.data + content[at + len(edit.data) :]
            case "repeat":
                content = content[:at] + content[at:end] * 3 + content[end:]
    return content


# The edges of the types that shards have, of the small vocabulary, and of what JSON and C take.
EDGES = (0, -1, 1, VOCAB_SIZE - 1, VOCAB_SIZE, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, -(2**63), 2**63 - 1)


@dataclass(frozen=True)
class NumberEdit:
    """A number in the place of some of an array's, as far as its type has room for it."""

    place: float
    count: int
    number: int


number_edits = st.lists(
    st.builds(NumberEdit, place=places, count=st.sampled_from([1, 1, 2, 1 << 20]), number=st.sampled_from(EDGES)),
    min_size=1,
    max_size=3,
)


def numbers_edited(content: bytes, edits: Sequence[NumberEdit]) -> bytes:
    """A file of numpy's, or one of nothing but token ids, after edits."""
    is_npy = content.startswith(b"\x93NUMPY")
    numbers = np.load(io.BytesIO(content)) if is_npy else np.frombuffer(content, "<u2").copy()
    for edit in edits:
        at = int(edit.place * len(numbers))
        numbers[at : at + edit.count] = np.array([edit.number % 2**64], np.uint64).astype(numbers.dtype)
    file = io.BytesIO()
    if is_npy:
        np.save(file, numbers)
    return file.getvalue() or numbers.tobytes()


@dataclass(frozen=True)
class JsonEdit:
    """Something done to one value inside others; `way` leads there."""

    action: Literal["replace", "remove", "add", "rename"]
    way: tuple[float, ...]
    name: str
    value: Any


json_edits = st.lists(
    st.builds(
        JsonEdit,
        action=st.sampled_from(["replace", "replace", "remove", "add", "rename"]),
        way=st.lists(places, min_size=1, max_size=6).map(tuple),
        name=texts,
        value=values,
    ),
    min_size=1,
    max_size=3,
)


def json_edited(value: Any, edits: Sequence[JsonEdit]) -> str:
    """The text of a JSON value after edits."""
    value = json.loads(json.dumps(value))
    for edit in edits:
        value = _json_edited(value, edit, edit.way)
    return spelled(value)


def spelled(value: Any) -> str:
    """A value as JSON, lone surrogates, NaN and what Python has no value for included."""
    text = json.dumps(value)
    for name, spelling in _SPELLED.items():
        text = text.replace(json.dumps(name), spelling)
    return text


def _json_edited(value: Any, edit: JsonEdit, way: Sequence[float]) -> Any:
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not way or not keys:
        return edit.value
    key = keys[int(way[0] * len(keys))]
    inner = value[key]
    if len(way) > 1 and isinstance(inner, dict | list) and inner:
        value[key] = _json_edited(inner, edit, way[1:])
    elif edit.action == "remove":
        del value[key]
    elif edit.action == "add" and isinstance(value, dict):
        value[edit.name] = edit.value
    elif edit.action == "add":
        value.append(edit.value)
    elif edit.action == "rename" and isinstance(value, dict):
        value[edit.name] = value.pop(key)
    else:
        value[key] = edit.value
    return value


def with_header(content: bytes, edits: Sequence[JsonEdit]) -> bytes:
    """A safetensors file whose header was edited."""
    size = int.from_bytes(content[:8], "little")
    header = json_edited(json.loads(content[8 : 8 + size]), edits).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


# Stand for literals and lines that are too long to be shown when a case fails.
_LONG_TOML = {
    **{"HEXADECIMAL": "0x" + "f" * 9000, "DECIMAL": "9" * 5000, "STRING": '"' + "x" * 5000 + '"'},
    **{"LISTS": "[" * 2000 + "]" * 2000, "TABLES": "{a=" * 2000 + "1" + "}" * 2000, "DOTS": "{" + "a." * 5000 + "a=1}"},
    **{"DEEP TABLE": "[" + "a." * 3000 + "a]", "DEEP NAME": "a." * 3000 + "a = 1"},
}
LITERALS = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "1.5",
        "1024",
        "131072",
        "9223372036854775807",
        "9223372036854775808",
        "1e400",
        "nan",
        "-inf",
    ),
    *(
        "true",
        '""',
        '"off"',
        "[]",
        "{}",
        "1979-05-27",
        '"\\u0000"',
        '["../../x", "/etc/passwd"]',
        "'''",
        '"""',
        "1_0",
        "0b11",
    ),
    *("HEXADECIMAL", "DECIMAL", "STRING", "LISTS", "TABLES", "DOTS", "\ud800"),
)
LINES = (
    *(
        "[model]",
        "[[model]]",
        "[model.rope_scaling]",
        "[model.rope_scaling.kind]",
        "[other]",
        "a = 1",
        "= 1",
        "[",
        "\0",
        "#",
    ),
    *(
        'kind = "yarn"\nfactor = 4.0\noriginal_max_seq_len = 8',
        'kind = "llama3"\nfactor = 1e5\noriginal_max_seq_len = 1',
    ),
    *("DEEP TABLE", "DEEP NAME", "max_seq_len = 4", "vocab_size = 1", "'''", "🙂 = 1", '"" = 1', "]"),
)


@dataclass(frozen=True)
class LineEdit:
    """Something done to one line of a TOML file."""

    action: Literal["value", "line", "remove", "repeat"]
    place: float
    literal: str
    line: str


line_edits = st.lists(
    st.builds(
        LineEdit,
        action=st.sampled_from(["value", "value", "value", "line", "remove", "repeat"]),
        place=places,
        literal=st.sampled_from(LITERALS),
        line=st.sampled_from(LINES),
    ),
    min_size=1,
    max_size=3,
)


def lines_edited(text: str, edits: Sequence[LineEdit]) -> bytes:
    """A TOML file after edits."""
    lines = text.splitlines()
    for edit in edits:
        at = int(edit.place * len(lines))
        match edit.action:
            case "value":
                lines[at : at + 1] = [
                    f"{line.partition('=')[0]}= {_LONG_TOML.get(edit.literal, edit.literal)}"
                    for line in lines[at : at + 1]
                ]
            case "line":
                lines.insert(at, _LONG_TOML.get(edit.line, edit.line))
            case "remove":
                del lines[at : at + 1]
            case "repeat":
                lines += lines[at : at + 1]
    return "\n".join(lines).encode(errors="surrogatepass")
