"""Text from a model: a prompt, continued token by token."""

import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from llamita.errors import UserError
from llamita.generation.context import Context
from llamita.generation.continuation import ContinuationText
from llamita.generation.sampling import Sampling, next_ids
from llamita.model.transformer import LLaMaTransformer
from llamita.text.specials import END_TOKENS
from llamita.text.tokenizer import Tokenizer

FinishReason = Literal["length", "stop", "end"]

_MOST_SAMPLES = 4096  # in one batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A continuation and how it came about.

    `text` goes on where the prompt stopped and ends before a stop string; a character that the last tokens
    leave unfinished is not shown. `token_ids` are all tokens drawn but the one of `end_ids` that ended the text.
    `prompt_ids` are what the model read first, a BOS included, and `truncated_prompt` says how many ids before
    them it had no room for.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    finish_reason: FinishReason
    truncated_prompt: int = 0


def generate(
    model: LLaMaTransformer,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 256,
    sampling: Sampling = Sampling(),
    stop: str | Sequence[str] = (),
    samples: int = 1,
    seed: int = 0,
    use_cache: bool = True,
) -> list[Generation]:
    """Continuations of a prompt, all from one batch.

    Each sample has a seed of its own, made of `seed` and its number: it is the same whatever the number of
    samples. The model reads the prompt, behind BOS where the tokenizer adds it. Drawing one of `end_ids` ends the
    text; other special tokens, the unknown token and rows of the table without a token are never drawn. Device and
    dtype are the model's.

    The model sees at most max_seq_len tokens. Of a longer prompt it reads the last max_seq_len - 1; when its
    context is full it goes on from the later half. Raises UserError for values out of range, an empty stop
    string, an empty prompt without a BOS to start from, and a tokenizer larger than the model's table.
    """
    if not 1 <= samples <= _MOST_SAMPLES:
        raise UserError(f"samples is {samples}: ask for at least 1 and at most {_MOST_SAMPLES}")
    request = _Request(
        model=model,
        tokenizer=tokenizer,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=seed,
        use_cache=use_cache,
    )
    rows = [_Row(request) for _ in range(samples)]
    steps = _steps(request, samples)
    with torch.inference_mode(), _evaluating(model):
        while any(row.finish_reason is None for row in rows):
            for row, token_id in zip(rows, next(steps), strict=True):
                row.push(token_id)
    return [row.generation() for row in rows]


def stream(
    model: LLaMaTransformer,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 256,
    sampling: Sampling = Sampling(),
    stop: str | Sequence[str] = (),
    seed: int = 0,
    use_cache: bool = True,
) -> Generator[str, None, Generation]:
    """The text of `generate`'s first sample in pieces, as soon as they are certain.

    A piece never holds part of a character, nor text that may turn out to begin a stop string. The iterator's
    return value is the whole Generation. What is wrong with the request is raised at the call.
    """
    request = _Request(
        model=model,
        tokenizer=tokenizer,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=seed,
        use_cache=use_cache,
    )
    return _pieces(request)


def _pieces(request: "_Request") -> Generator[str, None, Generation]:
    row = _Row(request)
    steps = _steps(request, 1)
    while row.finish_reason is None:
        # Not around the yield: the caller's own code must not run under inference_mode.
        with torch.inference_mode(), _evaluating(request.model):
            (token_id,) = next(steps)
        if piece := row.push(token_id):
            yield piece
    return row.generation()


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What was asked for, checked, and the ids that it comes to."""

    model: LLaMaTransformer
    tokenizer: Tokenizer
    prompt: str
    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    seed: int
    use_cache: bool

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}: it must not be negative")
        if "" in self.stop:
            raise UserError("a stop string is empty: give it at least one character, or leave it out")
        sizes = self.tokenizer.get_vocab_size(), self.tokenizer.text_size
        for tokens, rows in zip(sizes, (self.model.config.vocab_size, len(self.model.readout)), strict=True):
            if tokens > rows:
                raise UserError(
                    f"the tokenizer has {tokens} tokens, but the model's table only {rows} rows for them: "
                    "use the tokenizer that the model was trained with"
                )
        if not self._whole_prompt:
            raise UserError("the prompt is empty, and this tokenizer has no BOS to start from: give a prompt")

    @cached_property
    def _whole_prompt(self) -> list[int]:
        ids = self.tokenizer.encode(self.prompt)
        return self.tokenizer.opening(ids) + ids

    @cached_property
    def prompt_ids(self) -> tuple[int, ...]:
        """As much of the prompt's end as the model has room for, and a token after it."""
        room = self.model.config.max_seq_len
        fits = len(self._whole_prompt) <= room
        return tuple(self._whole_prompt if fits else self._whole_prompt[-max(room - 1, 1) :])

    @property
    def truncated_prompt(self) -> int:
        """How many ids of the prompt were left out."""
        return len(self._whole_prompt) - len(self.prompt_ids)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        return frozenset(end_ids(self.tokenizer))

    def forbidden_ids(self) -> list[int]:
        """Ids that stand for no text and end none."""
        rows = len(self.model.readout)
        mute = {*range(self.tokenizer.get_vocab_size(), rows), *self.tokenizer.special_ids}
        if self.tokenizer.unknown_id is not None:
            mute.add(self.tokenizer.unknown_id)
        return sorted(number for number in mute - self.end_ids if number < rows)


def end_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids that end a text: EOS, BOS, which is all that our own corpora have between documents, and what else does."""
    others = map(tokenizer.token_to_id, tokenizer.settings.get(END_TOKENS) or ())
    return list(dict.fromkeys(one for one in (tokenizer.eos_id, tokenizer.bos_id, *others) if one is not None))


def _steps(request: _Request, samples: int) -> Iterator[list[int]]:
    """The next token of every sample, without end; a step is computed when it is asked for."""
    context = Context(
        request.model,
        request.prompt_ids,
        batch_size=samples,
        max_new_tokens=request.max_new_tokens,
        use_cache=request.use_cache,
    )
    device = context.tokens.device
    # Nearby seeds must not share samples, so sample i isn't simply seeded with seed + i.
    seeds = random.Random(request.seed)
    generators = [torch.Generator(device).manual_seed(seeds.getrandbits(63)) for _ in range(samples)]
    forbidden = torch.tensor(request.forbidden_ids(), dtype=torch.long, device=device)
    # A BOS in front is no word to be repeated: penalizing it would keep texts from ending.
    first = int(request.prompt_ids[0] in request.end_ids)
    logits = context.next_logits()
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite numbers: use an earlier checkpoint of it")
    while True:
        ids = next_ids(logits, context.tokens[:, first:], request.sampling, generators, forbidden)
        yield ids.tolist()
        context.append(ids)
        logits = context.next_logits()


class _Row:
    """One sample on its way: its tokens and text, and why it ended, if it has."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        self._end_ids = request.end_ids
        self._token_ids: list[int] = []
        self._pieces: list[str] = []
        self._text = ContinuationText(request.tokenizer, request.prompt_ids, request.stop)
        self.finish_reason: FinishReason | None = None if request.max_new_tokens else "length"

    def push(self, token_id: int) -> str:
        """Take a token, unless the sample has ended; the text that has become certain with it."""
        if self.finish_reason is not None:
            return ""
        piece = ""
        if token_id in self._end_ids:
            self.finish_reason = "end"
        else:
            self._token_ids.append(token_id)
            piece = self._text.push(token_id)
            if len(self._token_ids) == self._request.max_new_tokens:
                self.finish_reason = "length"
        if self.finish_reason is not None:
            piece += self._text.flush()
        if self._text.stopped:
            self.finish_reason = "stop"
        self._pieces.append(piece)
        return piece

    def generation(self) -> Generation:
        """The sample as it ended."""
        assert self.finish_reason is not None
        return Generation(
            text="".join(self._pieces),
            token_ids=tuple(self._token_ids),
            prompt_ids=self._request.prompt_ids,
            finish_reason=self.finish_reason,
            truncated_prompt=self._request.truncated_prompt,
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off; every module gets the mode back that it was found in."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
