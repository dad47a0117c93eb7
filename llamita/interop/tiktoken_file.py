"""A file of tiktoken's, a token in base64 and its rank a line, as a tokenizer with the same ids: Llama 3 comes so."""

import re
from base64 import b64decode

from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from llamita.interop.merges import merges_of
from llamita.text.byte_level import BYTE_SYMBOLS
from llamita.text.splitting import SCHEMES

_TOKENS = 1 << 19
_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2})[ \t]+([0-9]{1,9})\s*")
_SPECIAL = 256


def is_tiktoken(data: bytes) -> bool:
    """Whether a file begins as tiktoken's do."""
    return _LINE.fullmatch(data[: 1 << 12].partition(b"\n")[0]) is not None


def tiktoken_tokenizer(data: bytes) -> Backend:
    """The tokenizer of such a file, which doesn't say where text is split: as Llama 3 does.

    Without special tokens. ValueError for a file that is damaged.
    """
    ranks = {"".join(map(BYTE_SYMBOLS.__getitem__, token)): rank for token, rank in read_ranks(data).items()}
    merges = merges_of({token: -rank for token, rank in ranks.items()})
    # tiktoken, too, takes a stretch of text that is a token as it is.
    backend = Backend(BPE(vocab=ranks, merges=merges, ignore_merges=True))
    backend.pre_tokenizer, backend.decoder = SCHEMES["bpe"].pre_tokenizer, SCHEMES["bpe"].decoder
    return backend


def read_ranks(data: bytes) -> dict[bytes, int]:
    """Each token and its rank, which is its id; ValueError unless they count from 0 and have all bytes."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if not found:
            raise ValueError(f"line {number} is {line[:40]!r}; it must be a token in base64 and its rank")
        try:
            token = b64decode(found[1], validate=True)
        except ValueError as error:
            raise ValueError(f"line {number} is {line[:40]!r}, which is no base64") from error
        if not token or token in ranks or len(ranks) == _TOKENS:
            reason = "is there twice" if token in ranks else "is one too many" if token else "is empty"
            raise ValueError(f"line {number}: the token {token[:40]!r} {reason}")
        ranks[token] = int(found[2])
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None:
        raise ValueError(f"the byte {missing} is no token; all must be")
    wrong = next((rank for at, rank in enumerate(sorted(ranks.values())) if rank != at), None)
    if wrong is not None:
        raise ValueError(f"rank {wrong} is there twice, or the one before it isn't; they must count from 0")
    return ranks


def llama3_special_tokens() -> list[str]:
    """The special tokens of Llama 3, which follow those of the file, by its tokenizer.py."""
    reserved = (f"<|reserved_special_token_{number}|>" for number in range(_SPECIAL))
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(next(reserved) for _ in range(4))]
    names += ["<|start_header_id|>", "<|end_header_id|>", next(reserved), "<|eot_id|>"]
    return [*names, *(next(reserved) for _ in range(_SPECIAL - len(names)))]
