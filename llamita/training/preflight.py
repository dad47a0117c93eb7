"""Before the first step: one batch through the model as it stands, and whether it can learn from there.

A tied table scores the token just read with std * n_embd * cosine, its own row against itself: with rows from N(0, 1)
the first loss is about n_embd, and Adam takes thousands of steps to shrink them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llamita.config import ModelConfig, Precision, RunConfig
from llamita.errors import UserError, command_line
from llamita.model.loss import hidden_loss
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.training.evaluate import DeviceBatch, targets_with_logit
from llamita.training.hardware import autocast

_TOKENS = 4096  # of the batch that are looked at
_LOGIT_TOKENS = 256
_ABOVE_A_GUESS = 0.5  # nats by which the first loss may be worse than a guess
_LARGEST_GROWTH = 100.0  # of the stream, from the lookup to the last block


@dataclass(frozen=True, slots=True)
class Preflight:
    """What one batch makes of a model; `problems` is empty for one that can be trained as it is.

    loss, guess: in nats a token; a guess is the logarithm of the number of tokens. self_logit: the mean logit of the
    token just read. std, cosine: of the rows that logits are read from, and of hidden states with the row of the token
    just read. logit_std: over the vocabulary, mean. stream_rms: of what was looked up and after each block.
    input_gradient, output_gradient: norms of the gradients that reach a table through the lookup, weighed by
    `optimizer.input_grad_scale`, and through the logits; two tables when untied.
    """

    loss: float
    guess: float
    self_logit: float
    std: float
    cosine: float
    n_embd: int
    logit_std: float
    stream_rms: tuple[float, ...]
    gradient_norm: float
    input_gradient: float
    output_gradient: float
    problems: tuple[str, ...]

    @property
    def predicted_self_logit(self) -> float:
        """What the law says that `self_logit` is, if hidden states have the norm that the final RMSNorm gives them."""
        return self.std * self.n_embd * self.cosine

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    @property
    def input_share(self) -> float:
        """The share of the lookup in the gradients of both roles."""
        return self.input_gradient / max(self.input_gradient + self.output_gradient, 1e-30)

    def summary(self) -> str:
        """The figures that tell most, in a line."""
        return (
            f"first loss {self.loss:.2f}, a guess has {self.guess:.2f}; logit of the token just read "
            f"{self.self_logit:.2f}; the lookup's share of the table's gradient {self.input_share:.0%}"
        )


def preflight(model: LLaMaTransformer, batch: DeviceBatch, precision: Precision) -> Preflight:
    """Measure a model on one batch, forward and back; weights, gradients and random numbers stay as they are."""
    rows = max(_TOKENS // batch.inputs.shape[1], 1)
    documents = None if batch.documents is None else batch.documents[:rows]
    inputs, targets = batch.inputs[:rows], targets_with_logit(model, batch)[:rows]
    # Two views of one tensor, so that each role gets a gradient of its own.
    readout = model.readout.detach().requires_grad_()
    body = [weight for weight in model.parameters() if weight is not model.output_weight]
    learning = [model.embeddings.weight, readout, *(one for one in body if one is not model.embeddings.weight)]
    with autocast(readout.device.type, precision):
        hidden, stream = _hidden(model, inputs, documents)
        loss = hidden_loss(hidden, readout, targets, tokens=max(int((targets >= 0).sum()), 1))
    through_lookup, through_logits, *rest = torch.autograd.grad(loss, learning)
    if model.lm_head is None:
        tables = [through_lookup + F.pad(through_logits, (0, 0, 0, model.config.unpredicted_rows))]
    else:
        tables = [through_lookup, through_logits]
    with torch.no_grad():
        some = torch.linspace(0, inputs.numel() - 1, _LOGIT_TOKENS, device=inputs.device).long().unique()
        vectors, read = hidden.float().flatten(0, 1)[some], inputs.flatten()[some]
        logits, own = vectors @ readout.float().T, model.output_weight[read].float()
    found = Preflight(
        loss=loss.item(),
        guess=math.log(len(readout)),
        self_logit=(vectors * own).sum(1).mean().item(),
        std=readout.float().std().item(),
        cosine=F.cosine_similarity(vectors, own).mean().item(),
        n_embd=model.config.n_embd,
        logit_std=logits.std(1).mean().item(),
        stream_rms=tuple(stream),
        gradient_norm=_norm([*rest, *tables]),
        input_gradient=_norm([through_lookup]),
        output_gradient=_norm([through_logits]),
        problems=(),
    )
    return replace(found, problems=tuple(_problems(found, model)))


def _hidden(model: LLaMaTransformer, inputs: Tensor, documents: Tensor | None) -> tuple[Tensor, list[float]]:
    """What the last layer says, and the root mean square of the stream before each block and after the last."""
    stream: list[Tensor] = []
    readers = [*model.decoder_blocks, model.norm]
    hooks = [one.register_forward_pre_hook(lambda _, given: stream.append(given[0].detach())) for one in readers]
    try:
        hidden = model.hidden(inputs, documents=documents)
    finally:
        for hook in hooks:
            hook.remove()
    return hidden, [state.float().square().mean().sqrt().item() for state in stream]


def sound_start(run: Run, config: RunConfig, batch: DeviceBatch) -> tuple[RunConfig, LLaMaTransformer, Preflight]:
    """The model that a run begins with, and its config, corrected where `training.preflight` is "correct".

    UserError for a start that is broken, unless that is "warn". Weights that were trained before are warned of alone,
    and nothing of their model is changed, unless they give no finite numbers.
    """
    model, found = _measured(run, config, batch)
    if run.start is not None and found.is_finite:
        return config, model, found
    if found.problems and config.training.preflight == "correct":
        chosen = {one.name: getattr(config.model, one.name) for one in fields(config.model)}
        kept = {name: value for name, value in chosen.items() if name not in ("embedding_std", "embedding_scale")}
        config = replace(config, model=ModelConfig(**kept))
        model, found = _measured(run, config, batch)
    if found.problems and config.training.preflight != "warn":
        mend = command_line("resume", run.path, "--training.preflight", "correct")
        corrected = config.training.preflight == "correct"
        told = "training.preflight correct doesn't mend that" if corrected else f"{mend} does that for the table"
        raise UserError(
            f"{run.path} isn't started: {'; '.join(found.problems)}. {told}; "
            "--training.preflight warn starts all the same"
        )
    return config, model, found


def _measured(run: Run, config: RunConfig, batch: DeviceBatch) -> tuple[LLaMaTransformer, Preflight]:
    model = run.initial_model(config).to(config.training.device)
    model.embeddings.grad_scale = config.optimizer.input_grad_scale
    return model, preflight(model, batch, config.training.precision)


def _problems(found: Preflight, model: LLaMaTransformer) -> Iterator[str]:
    config = model.config
    if not found.is_finite:
        yield "the first loss or its gradient isn't finite: give --precision fp32, or smaller weights"
    elif found.loss > found.guess + _ABOVE_A_GUESS:
        told = f"the first loss is {found.loss:.1f}, a guess has {found.guess:.2f}"
        if config.tie_embeddings:
            yield (
                f"{told}: the tied table scores the token just read with {found.self_logit:.1f} (std {found.std:.3g} "
                f"x n_embd {found.n_embd} x cosine {found.cosine:.2f}), and logits spread by {found.logit_std:.1f}: "
                "leave --model.embedding-std and --model.embedding-scale out"
            )
        else:
            yield f"{told}: logits spread by {found.logit_std:.1f}: draw the output's rows smaller"
    growth = max(found.stream_rms) / max(found.stream_rms[0], 1e-30)
    if growth > _LARGEST_GROWTH:
        yield f"the stream grows {growth:.0f}-fold up to the last block: draw the matrices of the blocks smaller"
    if found.input_gradient == 0:
        yield "no gradient reaches the table through the lookup: draw the output's rows larger than 0"


def _norm(gradients: list[Tensor]) -> float:
    return float(torch.stack([gradient.float().norm() for gradient in gradients]).norm())
