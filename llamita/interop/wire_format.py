"""Messages in protobuf's wire format, as far as a sentencepiece model needs them.

https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator, Mapping

Message = Mapping[int, int | bytes]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field, an integer or bytes; ValueError where the message is damaged."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"byte {at} begins no field")
        if size > len(data) - at:
            raise ValueError(f"a field of {size:,} bytes goes beyond the end")
        yield key >> 3, data[at : at + size]
        at += size


def number(message: Message, field: int, default: int) -> int:
    """An integer or a truth value; ValueError if the field holds something else."""
    value = message.get(field, default)
    if isinstance(value, bytes):
        raise ValueError(f"field {field} is no number")
    return value


def content(message: Message, field: int, default: bytes = b"") -> bytes:
    """The bytes of a field; ValueError if it holds something else."""
    value = message.get(field, default)
    if isinstance(value, int):
        raise ValueError(f"field {field} is a number")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer that begins at a place, and the place after it."""
    value = 0
    for place, byte in enumerate(data[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"byte {at} begins a number without an end")
