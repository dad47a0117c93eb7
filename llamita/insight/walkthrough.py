"""A text's way through a model: tokens, the table, the lookup, the output tensor, the decoder blocks, a guess."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llamita.config import ModelConfig
from llamita.errors import UserError
from llamita.insight.dimensions import DimensionStudy, study_dimension
from llamita.insight.stages import Stage, StageRecorder, rms
from llamita.model.transformer import LLaMaTransformer
from llamita.text.storyworld import StoryWorld
from llamita.text.tokenizer import Tokenizer

# How much is held of what may be long.
_TOKENS, _UNKNOWN, _DISTINCT, _FIRST_ROWS, _HEAD, _TAIL = 256, 32, 8, 6, 5, 2
_NEXT = 5
_STUDIED = 1000  # distinct tokens that decide which dimension is shown


@dataclass(frozen=True, slots=True)
class NamedToken:
    """An id and its token as a person reads it."""

    id: int
    token: str


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """A row of the table, `chosen` if the text has its token; `token` is None for a row without one."""

    id: int
    token: str | None
    chosen: bool
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Lookup:
    """A token, its row of the table, and the vector that looking it up gives: the row times the scale."""

    id: int
    token: str
    row: tuple[float, ...]
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """The vectors one below the other; `rows` are those at `positions`, with the `tokens` there."""

    shape: tuple[int, int]
    batch_shape: tuple[int, int, int]
    positions: tuple[int, ...]
    tokens: tuple[NamedToken, ...]
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class NextToken:
    """A token that may follow, with its probability; `token` is None for a row of the table without one."""

    id: int
    token: str | None
    probability: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many tokens, unknown words, distinct ids and rows of the output tensor are not held."""

    tokens: int
    unknown: int
    lookup: int
    output: int


@dataclass(frozen=True, slots=True)
class Walkthrough:
    """A text's way through a model, in numbers that are exactly the tensors' own.

    `run` is None for a model of no run, `step` the optimizer steps that it took, if known. `read` says how many
    tokens went through the decoder blocks: the last max_seq_len of the text, BOS for an empty one, or none.
    """

    text: str
    run: str | None
    step: int | None
    tokens: tuple[NamedToken, ...]
    unknown: tuple[str, ...]
    seq_len: int
    vocab_size: int
    n_embd: int
    scale: float
    tied: bool
    matrix: tuple[MatrixRow, ...]
    lookup: tuple[Lookup, ...]
    output: OutputTensor
    dimension: DimensionStudy
    read: int
    blocks: tuple[Stage, ...]
    next_tokens: tuple[NextToken, ...]
    left_out: LeftOut

    @property
    def toy(self) -> bool:
        """Whether this is the small model that was drawn for the purpose."""
        return self.run is None and self.step == 0


def toy(text: str) -> tuple[LLaMaTransformer, Tokenizer]:
    """A small model of random weights, and a word-level tokenizer that knows StoryWorld's words and the text's.

    The same text gives the same weights; the global state of random numbers is neither read nor changed.
    """
    # Bytes take any text but lone surrogates: the error is the one that every tokenizer gives.
    Tokenizer.train((), vocab_size=0, kind="byte").encode(text)
    world = StoryWorld()
    # Ids go by frequency, so stories spread the words over the table as real text would.
    documents = [" ".join(world.vocabulary), *(story.text for story in world.stories(12, seed=0)), text]
    room = 2 * len(world.vocabulary) + len(text)
    tokenizer = Tokenizer.train(documents, vocab_size=room, kind="word")
    config = ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        unpredicted_rows=tokenizer.get_vocab_size() - tokenizer.text_size,
        n_embd=8,
        n_layers=2,
        n_heads=2,
        max_seq_len=256,
        tie_embeddings=False,
        embedding_std=0.3,
    )
    # A model draws weights when it is made; those are thrown away.
    with torch.random.fork_rng(devices=[]):
        model = LLaMaTransformer(config)
    generator = torch.Generator().manual_seed(0)
    model.init_weights(generator)
    with torch.no_grad():
        # Zero when training starts; drawn here, so that the blocks have something to show.
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator)
    return model.eval(), tokenizer


@torch.no_grad()
def walk_through(
    model: LLaMaTransformer,
    tokenizer: Tokenizer,
    text: str,
    *,
    run: str | None = None,
    step: int | None = None,
    dimension: int | None = None,
) -> Walkthrough:
    """Follow a text through a model.

    UserError for a text with a lone surrogate, a tokenizer larger than the table and a model whose numbers are
    not finite; UsageError for a dimension that the table doesn't have.
    """
    table = model.embeddings.weight
    vocab_size, n_embd = table.shape
    _check(table, tokenizer)
    ids, unknown = tokenizer.encode(text), list(dict.fromkeys(tokenizer.unknown(text)))
    distinct = list(dict.fromkeys(ids))
    shown = distinct[:_DISTINCT]
    tokens = _named(tokenizer, ids[:_TOKENS])
    output = _output(model, tokenizer, ids)
    read = ids[-model.config.max_seq_len :]
    if not ids and tokenizer.bos_id is not None:
        read = [tokenizer.bos_id]
    blocks, next_tokens = _through_blocks(model, tokenizer, read) if read else ((), ())
    return Walkthrough(
        text=text,
        run=run,
        step=step,
        tokens=tokens,
        unknown=tuple(unknown[:_UNKNOWN]),
        seq_len=len(ids),
        vocab_size=vocab_size,
        n_embd=n_embd,
        scale=model.embeddings.scale,
        tied=model.lm_head is None,
        matrix=_matrix(table, tokenizer, shown),
        lookup=_lookup(model, tokenizer, shown),
        output=output,
        dimension=study_dimension(table, tokenizer, dimension, distinct[:_STUDIED]),
        read=len(read),
        blocks=blocks,
        next_tokens=next_tokens,
        left_out=LeftOut(
            tokens=len(ids) - len(tokens),
            unknown=max(len(unknown) - _UNKNOWN, 0),
            lookup=len(distinct) - len(shown),
            output=len(ids) - len(output.rows),
        ),
    )


def _check(table: Float[Tensor, "vocab_size n_embd"], tokenizer: Tokenizer) -> None:
    size = tokenizer.get_vocab_size()
    if size > len(table):
        raise UserError(
            f"the tokenizer has {size} tokens, but the model's table only {len(table)} rows: "
            "use the tokenizer that the model was trained with"
        )
    if not table.sum(dtype=torch.float32).isfinite():
        raise UserError("the model's table holds numbers that are not finite: use an earlier checkpoint of it")


def _named(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[NamedToken, ...]:
    return tuple(NamedToken(number, token) for number, token in zip(ids, tokenizer.tokens(ids), strict=True))


def _name(tokenizer: Tokenizer, token_id: int) -> str | None:
    """The token of a row, which a table larger than the vocabulary may lack."""
    known = tokenizer.id_to_token(token_id) is not None
    return tokenizer.tokens([token_id])[0] if known else None


def _rows(values: Float[Tensor, "rows n_embd"]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())


def _matrix(
    table: Float[Tensor, "vocab_size n_embd"], tokenizer: Tokenizer, chosen: Sequence[int]
) -> tuple[MatrixRow, ...]:
    numbers = sorted({*range(min(_FIRST_ROWS, len(table))), *chosen})
    return tuple(
        MatrixRow(number, _name(tokenizer, number), number in chosen, row)
        for number, row in zip(numbers, _rows(table[numbers]), strict=True)
    )


def _lookup(model: LLaMaTransformer, tokenizer: Tokenizer, ids: list[int]) -> tuple[Lookup, ...]:
    table = model.embeddings.weight
    tokens = torch.tensor(ids, dtype=torch.long, device=table.device)
    rows, vectors = _rows(table[tokens]), _rows(model.embed(tokens))
    return tuple(
        Lookup(known.id, known.token, row, vector)
        for known, row, vector in zip(_named(tokenizer, ids), rows, vectors, strict=True)
    )


def _output(model: LLaMaTransformer, tokenizer: Tokenizer, ids: list[int]) -> OutputTensor:
    seq_len, n_embd = len(ids), model.config.n_embd
    held = seq_len <= _HEAD + _TAIL
    positions = list(range(seq_len)) if held else [*range(_HEAD), *range(seq_len - _TAIL, seq_len)]
    there = [ids[position] for position in positions]
    vectors = model.embed(torch.tensor(there, dtype=torch.long, device=model.embeddings.weight.device))
    return OutputTensor(
        shape=(seq_len, n_embd),
        batch_shape=(1, seq_len, n_embd),
        positions=tuple(positions),
        tokens=_named(tokenizer, there),
        rows=_rows(vectors),
    )


def _through_blocks(
    model: LLaMaTransformer, tokenizer: Tokenizer, ids: list[int]
) -> tuple[tuple[Stage, ...], tuple[NextToken, ...]]:
    tokens = torch.tensor([ids], device=model.embeddings.weight.device)
    with StageRecorder(model) as recorder:
        last = model.hidden(tokens)[0, -1]
    # Only the last position's are computed: all of them may be gigabytes.
    logits = F.linear(last, model.readout).float()
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite numbers: use an earlier checkpoint of it")
    best = logits.softmax(0).topk(min(_NEXT, len(logits)))
    guesses = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    read_out = Stage(None, "logits", (1, len(ids), len(logits)), rms(logits))
    return (*recorder.stages, read_out), tuple(NextToken(number, _name(tokenizer, number), p) for number, p in guesses)
