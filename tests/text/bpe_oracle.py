"""Byte-level BPE by the quadratic method, straight from the content of a tokenizer.json."""

import json
from itertools import pairwise

import regex


def byte_to_symbol() -> dict[int, str]:
    """GPT-2's spelling of bytes, told by the ranges of Latin-1 that are printable."""
    mapping = {}
    shift = 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            mapping[byte] = chr(byte)
        else:
            mapping[byte] = chr(256 + shift)
            shift += 1
    return mapping


def encode_slowly(tokenizer_json: str, text: str) -> list[int]:
    """Ids of a text: one lowest-ranked leftmost merge at a time, each found by looking at all pairs."""
    spec = json.loads(tokenizer_json)
    vocabulary = spec["model"]["vocab"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(spec["model"]["merges"])}
    pattern = spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    symbols = byte_to_symbol()
    ids: list[int] = []
    for piece in regex.findall(pattern, text):
        parts = [symbols[byte] for byte in piece.encode()]
        if "".join(parts) in vocabulary:
            ids.append(vocabulary["".join(parts)])
            continue
        while True:
            pairs = list(pairwise(parts))
            best = min((pair for pair in pairs if pair in ranks), key=ranks.__getitem__, default=None)
            if best is None:
                break
            at = pairs.index(best)
            parts[at : at + 2] = ["".join(best)]
        ids += [vocabulary[part] for part in parts]
    return ids
