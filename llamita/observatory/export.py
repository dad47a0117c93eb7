"""Vectors in the word2vec format, which gensim and many others read."""

import os
import re
from pathlib import Path

from llamita.errors import UsageError, UserError
from llamita.insight.vectors import Vectors

_FORMATS = {".txt": False, ".vec": False, ".bin": True}
_SPACE = re.compile(r"\s")


def export_vectors(vectors: Vectors, path: Path) -> int:
    """Write the vector of every token that can be found, as text (.txt, .vec) or binary (.bin); gives their number.

    Tokens are spelled as in tokenizer.json ("Ġking" for " king"). The format ends a token at white space, so
    that becomes \\u0020 and the like. UsageError for another suffix, UserError for a file that can't be written.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"{path}: vectors are written as {', '.join(_FORMATS)}; name a file that ends so")
    keys, rows = _keys(vectors), vectors.rows.cpu().numpy().astype("<f4")
    binary = _FORMATS[path.suffix]
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(f"{len(keys)} {rows.shape[1]}\n".encode())
                for key, row in zip(keys, rows, strict=True):
                    # Nine digits give every fp32 number back.
                    numbers = row.tobytes() if binary else " ".join(f"{value:.9g}" for value in row.tolist()).encode()
                    file.write(key.encode() + b" " + numbers + b"\n")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    return len(keys)


def _keys(vectors: Vectors) -> list[str]:
    """A distinct key without white space for each token."""
    keys: dict[str, None] = {}
    for number in vectors.ids:
        name = vectors.tokenizer.id_to_token(number) or ""
        key = _SPACE.sub(lambda found: f"\\u{ord(found[0]):04x}", name)
        while key in keys:
            key = f"{key}#{number}"
        keys[key] = None
    return list(keys)
