"""Held-out loss, and bits per byte: the figure that compares models across tokenizers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from llamita.config import DataConfig, Precision
from llamita.model.attention import load_varlen
from llamita.model.loss import IGNORE, hidden_loss, token_losses
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import Batch, Batches
from llamita.text.shards import Corpus, IntArray
from llamita.training.hardware import autocast

LossFunction = Callable[[LLaMaTransformer, "DeviceBatch"], Float[Tensor, ""]]

# Of heads that FlashAttention takes.
_HEAD_DIM_STEP, _LARGEST_HEAD_DIM = 8, 256
_MOST_STARTS = 1 << 16

_LARGEST_EXPONENT = 700.0  # beyond it no float holds a perplexity
# Where bands of counts begin, beside that of those that never occur.
_POWERS = tuple(10**power for power in range(11))


@dataclass(frozen=True, slots=True)
class Band:
    """Targets that the training text has from `least` times on and less than ten times that; 0: never."""

    least: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`loss` in nats over `tokens` predicted tokens, the text of `bytes` bytes; `bands` by frequency, rarest first.

    `left_out`: targets that the model has no logit of, as the beginning of the next text for a model of one text.
    `contexts`: by how many tokens came before in the window, from `least` on and less than twice that.
    """

    loss: float
    tokens: int
    bytes: int
    bits_per_byte: float | None
    left_out: int = 0
    bands: tuple[Band, ...] = ()
    contexts: tuple[Band, ...] = ()

    @property
    def perplexity(self) -> float:
        """e to the loss: among how many tokens the model is at a loss, so to speak."""
        return math.exp(self.loss) if self.loss < _LARGEST_EXPONENT else math.inf

    def row(self) -> dict[str, Any]:
        """The figures as a line of metrics.jsonl."""
        bands = {str(band.least): band.loss for band in self.bands}
        return {"val_loss": self.loss, "bits_per_byte": self.bits_per_byte, "val_loss_by_frequency": bands}


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A batch where the model is; `starts`, on a GPU, says of documents what `document_starts` does."""

    inputs: Int[Tensor, "batch seq"]
    targets: Int[Tensor, "batch seq"]
    documents: Int[Tensor, "batch seq"] | None
    starts: Int[Tensor, " starts"] | None = None


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """Nats a token turned into bits a byte of UTF-8 text."""
    return loss * tokens / (text_bytes * math.log(2))


@torch.no_grad()
def evaluate(
    model: LLaMaTransformer,
    corpus: Corpus,
    *,
    precision: Precision = "fp32",
    max_tokens: int | None = None,
    batch_tokens: int = 16384,
    data: DataConfig = DataConfig(),
    lossless: bool = True,
    counts: npt.NDArray[np.int64] | None = None,
) -> Evaluation:
    """The model's loss on a corpus, in rows of max_seq_len that don't overlap; `max_tokens` bounds the work.

    counts: how often each id occurs in the training text, shape (vocab_size,), for the loss by frequency.
    """
    seq_len = model.config.max_seq_len
    batches = Batches(
        corpus,
        rows=max(batch_tokens // seq_len, 1),
        seq_len=seq_len,
        seed=0,
        packing=data.packing,
        mask_documents=data.mask_documents,
        shuffle=False,
    )
    device = model.embeddings.weight.device
    was_training = model.training
    model.eval()
    band_of = None if counts is None else torch.from_numpy(np.searchsorted(_POWERS, counts, side="right"))
    by_frequency, by_context = _Sums(1 + len(_POWERS)), _Sums(seq_len.bit_length())
    tokens, complete = 0, True
    for batch in batches.one_epoch():
        if max_tokens is not None and tokens >= max_tokens:
            complete = False
            break
        with autocast(device.type, precision):
            targets, nats = _measured(model, to_device(batch, device))
        by_frequency.add(torch.zeros_like(targets) if band_of is None else band_of[targets.clamp(min=0)], targets, nats)
        by_context.add(_doublings(torch.from_numpy(context_lengths(batch))), targets, nats)
        tokens += batch.tokens
    model.train(was_training)
    measured, loss = by_frequency.tokens, by_frequency.loss
    # Where only a part was read, its bytes are taken to be its share of the corpus.
    text_bytes = corpus.text_bytes if complete else round(corpus.text_bytes * tokens / corpus.tokens)
    per_byte = bits_per_byte(loss, measured, text_bytes) if lossless and text_bytes else None
    bands = () if counts is None else by_frequency.bands((0, *_POWERS))
    contexts = by_context.bands([1 << power for power in range(seq_len.bit_length())])
    return Evaluation(loss, measured, text_bytes, per_byte, tokens - measured, bands, contexts)


class _Sums:
    """Nats and numbers of targets by band."""

    def __init__(self, bands: int) -> None:
        self._total = torch.zeros(bands, 2, dtype=torch.float64)

    def add(
        self, band: Int[Tensor, "batch seq"], targets: Int[Tensor, "batch seq"], nats: Float[Tensor, "batch seq"]
    ) -> None:
        """Count targets, but those to be ignored, in their bands."""
        real = targets != IGNORE
        self._total.index_add_(0, band[real], torch.stack([nats[real], torch.ones_like(nats[real])], 1))

    @property
    def tokens(self) -> int:
        """All targets."""
        return int(self._total[:, 1].sum())

    @property
    def loss(self) -> float:
        """Nats of the mean target."""
        return float(self._total[:, 0].sum()) / max(self.tokens, 1)

    def bands(self, least: Sequence[int]) -> tuple[Band, ...]:
        """Those that have targets, each from so much on."""
        named = zip(least, self._total.tolist(), strict=True)
        return tuple(Band(start, int(size), nats / size) for start, (nats, size) in named if size)


def _measured(
    model: LLaMaTransformer, batch: DeviceBatch
) -> tuple[Int[Tensor, "batch seq"], Float[Tensor, "batch seq"]]:
    """Targets, and the loss of each in nats."""
    wanted = targets_with_logit(model, batch)
    hidden = model.hidden(batch.inputs, documents=_told(batch, model))
    return wanted.cpu(), token_losses(hidden, model.readout, wanted).cpu().double()


def context_lengths(batch: Batch) -> npt.NDArray[np.int64]:
    """How many tokens a prediction is made from, shape (rows, seq_len): those of its document, if the model knows."""
    rows, seq_len = batch.inputs.shape
    place = np.broadcast_to(np.arange(seq_len), (rows, seq_len))
    if batch.documents is None:
        return place + 1
    begins = np.diff(batch.documents, axis=1, prepend=batch.documents[:, :1]) != 0
    return place + 1 - np.maximum.accumulate(np.where(begins, place, 0), axis=1)


def _doublings(lengths: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """How often 1 doubles within a length; exact, for these are small."""
    return lengths.double().log2().floor().long()


def to_device(batch: Batch, device: torch.device) -> DeviceBatch:
    """A batch's arrays as tensors on a device, copied while the device works where it can."""
    on_gpu = device.type == "cuda"
    starts = document_starts(batch.documents) if on_gpu and batch.documents is not None else None
    if starts is not None:
        load_varlen()
        # FlashAttention's grid has no more.
        starts = starts if len(starts) <= _MOST_STARTS else None
    arrays = (batch.inputs, batch.targets, batch.documents, starts)
    tensors = [None if array is None else torch.from_numpy(array) for array in arrays]
    if on_gpu:
        tensors = [None if t is None else t.pin_memory().to(device, non_blocking=True) for t in tensors]
    inputs, targets, *documents = [None if t is None else t.to(device) for t in tensors]
    assert inputs is not None and targets is not None
    return DeviceBatch(inputs, targets, *documents)


def document_starts(documents: IntArray) -> npt.NDArray[np.int32]:
    """Where in a flattened batch each document begins, then its size as often as makes the length a power of two.

    documents: their numbers, shape (rows, seq_len). Few lengths occur, since a graph is compiled for each.
    """
    rows, seq_len = documents.shape
    first = np.diff(documents, axis=1, prepend=-1) != 0
    starts = np.flatnonzero(first)
    length = 1 << max(len(starts), 4 * rows).bit_length()
    return np.append(starts, np.full(length - len(starts), documents.size)).astype(np.int32)


def batch_loss(model: LLaMaTransformer, batch: DeviceBatch) -> Float[Tensor, ""]:
    """The model's loss on a batch in nats, summed over its targets."""
    hidden = model.hidden(batch.inputs, documents=_told(batch, model))
    rows = len(model.readout)
    return hidden_loss(hidden, model.output_weight, targets_with_logit(model, batch), tokens=1, rows=rows)


def _told(batch: DeviceBatch, model: LLaMaTransformer) -> Tensor | None:
    """How the model is told of documents: by their starts where a kernel for them runs, else by their numbers."""
    fits = model.config.head_dim % _HEAD_DIM_STEP == 0 and model.config.head_dim <= _LARGEST_HEAD_DIM
    return batch.starts if batch.starts is not None and fits and torch.is_autocast_enabled("cuda") else batch.documents


def targets_with_logit(model: LLaMaTransformer, batch: DeviceBatch) -> Int[Tensor, "batch seq"]:
    """The targets, but for those that the model has no logit of: they are IGNORE."""
    if model.config.unpredicted_rows == 0:
        return batch.targets
    return batch.targets.masked_fill(batch.targets >= len(model.readout), IGNORE)
