"""Held-out loss, and bits per byte: the figure that compares models across tokenizers."""

import math
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

# Of heads that FlashAttention takes.
_HEAD_DIM_STEP, _LARGEST_HEAD_DIM = 8, 256
_MOST_STARTS = 1 << 16

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
    """

    loss: float
    tokens: int
    bytes: int
    bits_per_byte: float | None
    left_out: int = 0
    bands: tuple[Band, ...] = ()

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
    total, tokens, complete = torch.zeros(1 + len(_POWERS), 2, dtype=torch.float64), 0, True
    for batch in batches.one_epoch():
        if max_tokens is not None and tokens >= max_tokens:
            complete = False
            break
        with autocast(device.type, precision):
            total += _by_band(model, to_device(batch, device), band_of)
        tokens += batch.tokens
    model.train(was_training)
    measured = int(total[:, 1].sum())
    loss = total[:, 0].sum().item() / max(measured, 1)
    # Where only a part was read, its bytes are taken to be its share of the corpus.
    text_bytes = corpus.text_bytes if complete else round(corpus.text_bytes * tokens / corpus.tokens)
    per_byte = bits_per_byte(loss, measured, text_bytes) if lossless and text_bytes else None
    named = zip((0, *_POWERS), total.tolist(), strict=True)
    bands = [Band(least, int(size), nats / size) for least, (nats, size) in named if size]
    kept = () if counts is None else tuple(bands)
    return Evaluation(loss, measured, text_bytes, per_byte, tokens - measured, kept)


def _by_band(
    model: LLaMaTransformer, batch: DeviceBatch, band_of: Int[Tensor, " vocab_size"] | None
) -> Float[Tensor, "bands 2"]:
    """Nats and number of the targets in each band; all in the first where nobody asked for bands."""
    wanted = targets_with_logit(model, batch)
    hidden = model.hidden(batch.inputs, documents=_told(batch, model))
    losses = token_losses(hidden, model.readout, wanted)
    targets, nats = wanted.cpu(), losses.cpu().double()
    real = targets != IGNORE
    band = torch.zeros_like(targets) if band_of is None else band_of[targets.clamp(min=0)]
    found = torch.zeros(1 + len(_POWERS), 2, dtype=torch.float64)
    return found.index_add_(0, band[real], torch.stack([nats[real], torch.ones_like(nats[real])], 1))


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
