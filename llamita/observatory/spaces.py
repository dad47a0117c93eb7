"""The vectors of a run: its tables, and its layers' states of the tokens of its own text."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from llamita.errors import UsageError, UserError
from llamita.insight.states import MeanStates, layer_states, mean_states
from llamita.insight.vectors import Vectors
from llamita.insight.words import Word, find_word
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.text.batches import Batches
from llamita.text.shards import Corpus, open_corpora
from llamita.text.tokenizer import Tokenizer

Table = Literal["input", "output"]

# So much text shows most tokens in many contexts; a small model reads it in seconds.
_STATE_TOKENS = 200_000
_BATCH_TOKENS = 8192


def table_vectors(run: Run, table: Table = "input", *, checkpoint: str = "best", center: bool = False) -> Vectors:
    """The table that tokens are looked up in ("input") or that logits are read from ("output"); one if tied."""
    model = run.model(checkpoint)
    weight = model.embeddings.weight if table == "input" else model.output_weight
    return Vectors(weight, run.tokenizer(), center=center)


def state_vectors(run: Run, layer: int, *, checkpoint: str = "best", center: bool = False) -> Vectors:
    """Each token's mean state after a layer, over the first tokens of the text that the run learnt from.

    Layer 0 is what enters the first block, the last one comes after the final norm. UsageError for a layer
    that isn't there, UserError if the run's text isn't.
    """
    model = run.model(checkpoint)
    check_layer(model, layer)
    states = run_states(run, model, training_text(run))
    return Vectors(states.layers[layer], run.tokenizer(), answers=states.met, center=center, whole_only=True)


def check_layer(model: LLaMaTransformer, layer: int) -> None:
    """UsageError unless the model has this layer."""
    if not 0 <= layer <= model.config.n_layers:
        raise UsageError(
            f"--layer {layer}: this model has layers 0 (before the first block) to {model.config.n_layers}"
        )


def training_text(run: Run) -> Corpus:
    """The text that a run learns from, as it was prepared; UserError if it isn't in the run's folder any more."""
    return open_corpora(run.data_folder, run.tokenizer()).train


def run_states(run: Run, model: LLaMaTransformer, corpus: Corpus) -> MeanStates:
    """Mean states of all layers over the first tokens of a corpus, read in rows as the run reads them."""
    data, seq_len = run.config().data, model.config.max_seq_len
    batches = Batches(
        corpus,
        rows=max(_BATCH_TOKENS // seq_len, 1),
        seq_len=seq_len,
        seed=0,
        packing=data.packing,
        mask_documents=data.mask_documents,
        shuffle=False,
    )
    return mean_states(model, batches.one_epoch(), max_tokens=_STATE_TOKENS)


def context_state(
    model: LLaMaTransformer, tokenizer: Tokenizer, word: str, context: str, layer: int
) -> tuple[Word, Float[Tensor, " n_embd"]]:
    """A word and its state after a layer where it stands last in a context; of several tokens, the last one's.

    UserError if the context doesn't have the word or is longer than max_seq_len.
    """
    ids = tokenizer.encode(context)
    opening = tokenizer.opening(ids)
    if len(opening) + len(ids) > model.config.max_seq_len:
        raise UserError(f"the context has {len(ids)} tokens, the model reads {model.config.max_seq_len}: shorten it")
    spellings = [list(find_word(tokenizer, word).ids), tokenizer.encode(word)]
    found = [(end, wanted) for wanted in spellings for end in _ends_of(tokenizer, wanted, ids)]
    if not found:
        raise UserError(
            f"{word!r} isn't in the context, whose tokens are {', '.join(map(repr, tokenizer.tokens(ids)))}"
        )
    end, here = max(found, key=lambda place: place[0])
    tokens = torch.tensor([opening + ids], device=model.embeddings.weight.device)
    state = layer_states(model, tokens)[layer][0, len(opening) + end - 1]
    return Word(word, tuple(here), tuple(tokenizer.tokens(here))), state


def _ends_of(tokenizer: Tokenizer, wanted: list[int], ids: list[int]) -> list[int]:
    """Where a word's tokens end in a text; with subwords, not inside a longer word."""
    size = len(wanted)
    ends = [at + size for at in range(len(ids) - size + 1) if wanted and ids[at : at + size] == wanted]
    if tokenizer.byte_table is None:
        return ends
    tokens = tokenizer.tokens(ids)

    def apart(end: int) -> bool:
        before, first = tokens[end - size - 1][-1:] if end > size else "", tokens[end - size][:1]
        after = tokens[end][:1] if end < len(tokens) else ""
        return not after.isalpha() and not (before.isalpha() and first.isalpha())

    return [end for end in ends if apart(end)]
