"""What the layers of a model make of tokens in context."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import IGNORE, Batch


@torch.no_grad()
def layer_states(
    model: LLaMaTransformer, tokens: Int[Tensor, "batch seq"], documents: Int[Tensor, "batch seq"] | None = None
) -> list[Float[Tensor, "batch seq n_embd"]]:
    """The stream before the first block (0), after each block, and last of all after block and final norm.

    n_layers + 1 of them, as `output_hidden_states` of Hugging Face models gives.
    """
    found: list[Tensor] = []
    first = model.decoder_blocks[0].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    rest = [block.register_forward_hook(lambda _, __, output: found.append(output)) for block in model.decoder_blocks]
    try:
        normed = model.hidden(tokens, documents=documents)
    finally:
        for hook in (first, *rest):
            hook.remove()
    return [*found[:-1], normed]


@dataclass(frozen=True, slots=True)
class MeanStates:
    """Each token's mean state over the places where it was met, a matrix a layer, and how often it was."""

    layers: tuple[Float[Tensor, "vocab_size n_embd"], ...]
    counts: Int[Tensor, " vocab_size"]

    @property
    def met(self) -> list[int]:
        """Ids of the tokens that were met."""
        return [int(number) for number in self.counts.nonzero()[:, 0]]


def mean_states(model: LLaMaTransformer, batches: Iterable[Batch], *, max_tokens: int) -> MeanStates:
    """Mean states of every layer over the first `max_tokens` tokens of batches; UserError without any."""
    vocab_size, device = model.config.vocab_size, model.embeddings.weight.device
    sums: list[Tensor] = []
    counts = torch.zeros(vocab_size, dtype=torch.long)
    for batch in batches:
        if int(counts.sum()) >= max_tokens:
            break
        inputs = torch.from_numpy(batch.inputs)
        documents = None if batch.documents is None else torch.from_numpy(batch.documents).to(device)
        real = torch.from_numpy(batch.targets) != IGNORE
        met = inputs[real]
        states = layer_states(model, inputs.to(device), documents)
        sums = sums or [torch.zeros(vocab_size, model.config.n_embd) for _ in states]
        for total, state in zip(sums, states, strict=True):
            total.index_add_(0, met, state.float().cpu()[real])
        counts += torch.bincount(met, minlength=vocab_size)
    if not sums:
        raise UserError("no text to read: a layer's states need tokens in context")
    often = counts.clamp_min(1).unsqueeze(1)
    return MeanStates(tuple(total / often for total in sums), counts)
