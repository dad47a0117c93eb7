"""A tokenizer.model of sentencepiece's BPE (Llama 1 and 2, TinyLlama, Mistral) as a tokenizer with the same ids."""

import re
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from llamita.interop.merges import check_lengths, joined, merges_of
from llamita.interop.sentencepiece_file import Kind, Model, read_model
from llamita.text.splitting import SPACE, SPACED

_ALTERNATIVES = 1 << 12  # of a regular expression, which tries one after the other


def sentencepiece_tokenizer(data: bytes) -> tuple[Backend, dict[str, Any]]:
    """The tokenizer of a tokenizer.model, and the names of its first and last token.

    ValueError for a file that is damaged, and for a model whose ids couldn't be the same here.
    """
    model = read_model(data)
    check_lengths(model.pieces)
    scores, symbols = model.scores, model.named(Kind.USER_DEFINED)
    merges = merges_of(scores)
    if lacking := next((part for pair in merges for part in pair if part not in model.pieces), None):
        raise ValueError(f"{lacking!r} is part of a piece, and no piece itself")
    whole = any(len(symbol) > 1 for symbol in symbols)
    (unknown,) = model.named(Kind.UNKNOWN)
    backend = Backend(
        BPE(
            vocab={piece: at for at, piece in enumerate(model.pieces)},
            merges=merges,
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
            ignore_merges=whole,
        )
    )
    backend.normalizer = _normalizer(model)
    if symbols:
        made = {left + right for left, right in merges}
        never = [piece for piece in scores if len(piece) > 1 and piece not in made]
        names = [*never, *model.named(Kind.UNKNOWN, Kind.CONTROL, Kind.BYTE)]
        steps = [_split(map(re.escape, sorted(symbols, key=len, reverse=True)))]
        steps += [_split(_beginnings(names, model))] if whole else []
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    elif (model.byte_fallback or SPACE in scores) and not any(re.search(f"[^{SPACE}]{SPACE}", one) for one in scores):
        backend.pre_tokenizer = SPACED.pre_tokenizer
    backend.decoder = _decoder(model, unknown)
    control = model.named(Kind.CONTROL)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in control])
    ends = {"bos_token": model.bos, "eos_token": model.eos}
    return backend, {name: token if token in control else None for name, token in ends.items()}


def _normalizer(model: Model) -> normalizers.Normalizer:
    if model.dummy_prefix and not model.one_space and SPACED.normalizer is not None:
        return SPACED.normalizer
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    if model.dummy_prefix:
        steps.insert(0, normalizers.Prepend(SPACE))
    if model.one_space:
        spaces = [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        steps = [*spaces, *steps, normalizers.Replace(Regex(rf"{SPACE}+\z"), "")]
    return normalizers.Sequence(steps)


def _decoder(model: Model, unknown: str) -> decoders.Decoder:
    """What is unknown, and a byte, brings spaces of its own, which outlast those dropped before the first word."""
    steps: list[decoders.Decoder] = [decoders.Replace(Regex(rf"\A{re.escape(unknown)}\z"), model.unknown_shown)]
    if model.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if SPACE not in model.pieces:  # bytes spell it then, which show it as it is
        return decoders.Sequence(steps)
    if model.dummy_prefix or model.one_space:
        steps.append(decoders.Replace(Regex(rf"\A{SPACE}{'+' if model.one_space else ''}"), ""))
    return decoders.Sequence([*steps, decoders.Replace(SPACE, " ")])


def _split(alternatives: Iterable[str]) -> pre_tokenizers.PreTokenizer:
    patterns = list(alternatives)
    if len(patterns) > _ALTERNATIVES:
        raise ValueError(f"it has symbols defined by the user, and more than {_ALTERNATIVES} pieces that stand apart")
    return pre_tokenizers.Split(Regex("|".join(patterns)), "isolated")


def _beginnings(names: list[str], model: Model) -> Iterable[str]:
    """Where to cut a name that stands between such symbols, as it would be taken for what it names."""
    scores, taken = model.scores, set(names)
    for name in names:
        parts = joined(name, scores)
        for at in range(1, len(parts)):
            left, right = "".join(parts[:at]), "".join(parts[at:])
            fused = not model.byte_fallback and parts[at - 1] not in scores and parts[at] not in scores
            if left not in taken and right not in taken and not fused:
                yield rf"\A{re.escape(left)}(?={re.escape(right)}\z)"
                break
        else:
            if len(parts) > 1:
                raise ValueError(f"{name!r} in a text couldn't be told from the piece")
