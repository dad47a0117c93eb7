"""What each stage of a model gives on the way from tokens to the last norm, noted while it computes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llamita.model.block import DecoderBlock
from llamita.model.rope import rotate
from llamita.model.transformer import LLaMaTransformer

_MEANINGS = {
    "embeddings": "the vectors that the lookup gives",
    "position_embeddings": "a learnt vector for each position",
    "attention_norm": "each vector divided by its RMS, times a learnt gain",
    "q": "queries, {heads} heads of {width}: what a position looks for",
    "k": "keys, {heads} heads of {width}: what a position is found by",
    "v": "values, {heads} heads of {width}: what a position passes on",
    "rope": "RoPE turns q and k by their position",
    "attention": "each position mixes the values of those up to itself",
    "feed_forward_norm": "each vector divided by its RMS, times a learnt gain",
    "swiglu": "silu(gate_proj) * up_proj, {width} wide",
    "feed_forward": "each position by itself, through down_proj",
    "norm": "each vector divided by its RMS, times a learnt gain",
    "logits": "a score for each token; the RMS is the last position's",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of the model gave: shape and root mean square; `block` counts from 1, None is outside.

    `stream_rms` is that of the stream after this update was added to it, `cosine` that between the last
    position's queries before and after RoPE. The RMS of "logits" is that of the last position's.
    """

    block: int | None
    stage: str
    shape: tuple[int, ...]
    rms: float
    stream_rms: float | None = None
    cosine: float | None = None

    @property
    def meaning(self) -> str:
        """What the stage does, in words, with its further figures to four decimals."""
        said = _MEANINGS[self.stage].format(heads=self.shape[-2], width=self.shape[-1])
        if self.cosine is not None:
            where = "the only position is 0, which isn't turned" if self.shape[1] == 1 else "the last q and what it was"
            said += f"; {where}: cosine {self.cosine:.4f}"
        if self.stream_rms is None:
            return said
        if self.rms == 0:
            return f"{said}; adds nothing: its last projection is zero, as when training starts"
        return f"{said}; added to the stream: RMS {self.stream_rms:.4f}"


class StageRecorder:
    """Notes the stages of a forward pass of one row by hooks, which are gone after the `with`."""

    def __init__(self, model: LLaMaTransformer) -> None:
        self.stages: list[Stage] = []
        self._model = model
        self._handles: list[RemovableHandle] = []
        self._heads: dict[str, Tensor] = {}
        self._stream = torch.empty(0)

    def __enter__(self) -> "StageRecorder":
        self._after(self._model.embeddings, self._embedded)
        for number, block in enumerate(self._model.decoder_blocks, 1):
            assert isinstance(block, DecoderBlock)
            self._watch(number, block)
        self._after(self._model.norm, partial(self._note, None, "norm"))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, number: int, block: DecoderBlock) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self._after(block.attention_norm, partial(self._note, number, "attention_norm"))
        self._after(attention.q_norm or attention.q_proj, partial(self._projected, "q"))
        self._after(attention.k_norm or attention.k_proj, partial(self._projected, "k"))
        self._after(attention.v_proj, partial(self._projected, "v"))
        self._after(attention, partial(self._attended, number))
        self._after(block.feed_forward_norm, partial(self._note, number, "feed_forward_norm"))
        gated = partial(self._note, number, "swiglu")
        self._handles.append(feed_forward.down_proj.register_forward_pre_hook(lambda _, given: gated(given[0])))
        self._after(feed_forward, partial(self._add, number, "feed_forward"))

    def _after(self, module: nn.Module, note: Callable[[Tensor], None]) -> None:
        self._handles.append(module.register_forward_hook(lambda _module, _given, output: note(output)))

    def _note(self, block: int | None, stage: str, output: Tensor) -> None:
        self.stages.append(Stage(block, stage, tuple(output.shape), rms(output)))

    def _embedded(self, vectors: Tensor) -> None:
        self._stream = vectors
        self._note(None, "embeddings", vectors)
        if self._model.position_embeddings is not None:
            self._add(None, "position_embeddings", self._model.position_embeddings.weight[: vectors.shape[1]])

    def _projected(self, name: str, output: Tensor) -> None:
        self._heads[name] = output.reshape(*output.shape[:2], -1, self._model.config.head_dim)

    def _attended(self, block: int, update: Tensor) -> None:
        # Their norms come after all three projections, so they are noted together.
        for name in ("q", "k", "v"):
            self._note(block, name, self._heads[name])
        if self._model.config.positions == "rope":
            self._turned(block)
        self._add(block, "attention", update)

    def _add(self, block: int | None, stage: str, update: Tensor) -> None:
        self._stream = self._stream + update
        self.stages.append(Stage(block, stage, tuple(update.shape), rms(update), rms(self._stream)))

    def _turned(self, block: int) -> None:
        before, seq_len = self._heads["q"], self._heads["q"].shape[1]
        after = rotate(before, self._model.rope_cos[:seq_len], self._model.rope_sin[:seq_len])
        cosine = F.cosine_similarity(before[0, -1].float().flatten(), after[0, -1].float().flatten(), dim=0)
        self.stages.append(Stage(block, "rope", tuple(after.shape), rms(after), cosine=cosine.item()))


def rms(values: Tensor) -> float:
    """The root mean square of all values."""
    return values.float().square().mean().sqrt().item()
