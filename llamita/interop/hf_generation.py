"""generation_config.json, both ways: what ends and fills up a text, and what is never said."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from llamita.config import ModelConfig
from llamita.errors import UserError
from llamita.generation.engine import end_ids
from llamita.text.specials import END_TOKENS
from llamita.text.tokenizer import Tokenizer

GENERATION = "generation_config.json"


def special_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """The ids that config.json names."""
    pad = tokenizer.settings.get("pad_token")
    pad_id = tokenizer.eos_id if pad is None else tokenizer.token_to_id(pad)
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": pad_id}


def generation_config(tokenizer: Tokenizer, model: ModelConfig) -> dict[str, Any]:
    """Where generation begins and ends, and what it never says: ids without a logit, and the unknown token."""
    beyond = range(model.vocab_size - model.unpredicted_rows, model.vocab_size)
    silent = sorted({*beyond, *([] if tokenizer.unknown_id is None else [tokenizer.unknown_id])})
    return {
        **special_ids(tokenizer),
        "eos_token_id": end_ids(tokenizer) or None,  # of an empty list transformers can't make a tensor of ids
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "max_length": model.max_seq_len,
        **({"suppress_tokens": silent} if silent else {}),
    }


def token_ids(given: Mapping[str, Any], name: str, file: Path, vocab_size: int) -> list[int]:
    """The ids of a field that has one, several or none; UserError for what is no id of the table."""
    told = given.get(name)
    ids = [] if told is None else told if isinstance(told, list) else [told]
    for number in ids:
        if type(number) is not int or not 0 <= number < vocab_size:
            raise UserError(
                f"{file}: {name} has {number!r:.40}; ids are whole numbers from 0 to {vocab_size - 1}: correct or "
                "remove it"
            )
    return ids


def note_ends(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Note in a tokenizer's settings what ends a text besides its own BOS and EOS: a chat's turn, say."""
    known = end_ids(tokenizer)
    names = [tokenizer.id_to_token(number) for number in ids if number not in known]
    if more := [name for name in names if name is not None]:
        tokenizer.settings[END_TOKENS] = more


def silent_rows(tokenizer: Tokenizer, suppressed: list[int], vocab_size: int) -> int:
    """How many rows at the table's end get no logit: those of no token, and ids that are never said nor in any text.

    They are never said if nothing but them and the unknown token is suppressed, as `generation_config` has it.
    """
    never = set(suppressed)
    last = next(number for number in count() if vocab_size - 1 - number not in never)
    if not never <= {*range(vocab_size - last, vocab_size), tokenizer.unknown_id}:
        last = 0
    return max(vocab_size - tokenizer.get_vocab_size(), min(last, vocab_size - tokenizer.text_size))
