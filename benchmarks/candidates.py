"""llamita and its rivals as training steps over the same weights and batches, for train_step.py."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from llamita.config import ModelConfig, OptimizerConfig, Precision, RunConfig, TrainingConfig
from llamita.kernels import joint
from llamita.model import loss, transformer
from llamita.model.attention import load_varlen
from llamita.model.transformer import LLaMaTransformer
from llamita.training import evaluate, stepping
from llamita.training.compiling import loss_function
from llamita.training.evaluate import DeviceBatch, document_starts
from llamita.training.guard import Guard
from llamita.training.optimizer import build_optimizer
from llamita.training.stepping import Stepper, make_ready

LR, BETAS, EPS, CLIP = 1e-4, (0.9, 0.95), 1e-8, 1.0


@dataclass(frozen=True)
class Shape:
    """A model's shape, untied, and the numbers of rows a step that candidates may choose among."""

    vocab_size: int
    n_embd: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_dim: int
    seq_len: int
    rows: tuple[int, ...]

    @property
    def flops_per_token(self) -> float:
        """Forward and back, causal attention counted once, the lookup not at all."""
        kv = self.n_kv_heads * self.n_embd // self.n_heads
        block = 2 * self.n_embd**2 + 2 * self.n_embd * kv + 3 * self.n_embd * self.ffn_dim
        products = self.n_layers * block + self.vocab_size * self.n_embd
        return 6 * products + 6 * self.n_layers * self.n_embd * self.seq_len


SHAPES = {
    "tiny": Shape(512, 64, 2, 2, 1, 192, 64, (2, 4)),  # to try the script on a CPU
    "30m": Shape(16384, 384, 12, 6, 6, 1024, 512, (64, 128, 256)),
    "124m": Shape(32768, 768, 12, 12, 12, 2048, 1024, (32, 64)),
    "1b": Shape(32000, 2048, 22, 32, 4, 5632, 2048, (8, 16)),
}

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Candidate:
    """A model that trains: `step` takes inputs and targets and gives the loss, which may still be on its way.

    moved: to be called when weights and moments lie elsewhere in memory.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Step
    moved: Callable[[], None] = lambda: None


def configured(shape: Shape, device: str, precision: Precision = "bf16") -> RunConfig:
    """llamita's configuration of a shape."""
    model = ModelConfig(
        vocab_size=shape.vocab_size,
        n_embd=shape.n_embd,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        ffn_dim=shape.ffn_dim,
        max_seq_len=shape.seq_len,
        tie_embeddings=False,
        embedding_std=15.36 / shape.n_embd,  # at which the table's rate is that of the matrices
    )
    optimizer = OptimizerConfig(lr=LR, table_lr_ratio=1.0, betas=BETAS, eps=EPS, weight_decay=0.0, clip=CLIP)
    training = TrainingConfig(
        steps=1,
        batch_size=shape.rows[-1],
        device="cuda" if device == "cuda" else "cpu",
        precision=precision,
        compile=True,
    )
    return RunConfig(model=model, optimizer=optimizer, training=training)


def initial(shape: Shape) -> LLaMaTransformer:
    """llamita's model, drawn from seed 0; no product starts at zero, so that every part counts at once."""
    torch.manual_seed(0)
    model = LLaMaTransformer(configured(shape, "cpu").model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2 and not weight.any():
                weight.normal_(0, 0.02 / (2 * shape.n_layers) ** 0.5)
    return model


def llamita(shape: Shape, device: str, documents: int | None = None, precision: Precision = "bf16") -> Candidate:
    """The library's own step, with its guard; documents of this mean length see no other."""
    config = configured(shape, device, precision)
    model = initial(shape).to(device)
    make_ready(model, config)
    optimizer = build_optimizer(model, config.optimizer)
    guard, loss = Guard(torch.device(device), config.training.max_z_score), loss_function(config.training)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        numbers, starts = (None, None) if documents is None else numbered(len(inputs), shape.seq_len, documents, device)
        batch = DeviceBatch(inputs, targets, numbers, starts)
        return stepper([(batch, targets.numel())], LR)[0]

    def moved() -> None:
        nonlocal stepper
        stepper = Stepper(model, optimizer, config, guard, loss)

    stepper = Stepper(model, optimizer, config, guard, loss)
    return Candidate(model, optimizer, step, moved)


@cache
def numbered(rows: int, seq_len: int, mean: int, device: str) -> tuple[Tensor, Tensor | None]:
    """Numbers and starts of documents of random lengths, as `to_device` would give them."""
    draw = np.random.default_rng(0)
    numbers = np.cumsum(draw.random((rows, seq_len)) < 1 / mean, axis=1)
    load_varlen()
    starts = torch.from_numpy(document_starts(numbers)).to(device) if device == "cuda" else None
    return torch.from_numpy(numbers).to(device), starts


def rival(model: nn.Module, device: str, loss_of: Step) -> Candidate:
    """What a training loop around somebody else's model does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return Candidate(model, optimizer, step)


def hf(shape: Shape, device: str) -> Candidate:
    """transformers' LlamaForCausalLM, compiled."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.n_embd,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        intermediate_size=shape.ffn_dim,
        max_position_embeddings=shape.seq_len,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(dict(hf_names(initial(shape))))
    model = model.to(device)
    compiled = torch.compile(model, dynamic=False)

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        # shift_labels: the targets position for position.
        loss: Tensor = compiled(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False).loss
        return loss

    return rival(model, device, loss_of)


def hf_names(model: LLaMaTransformer) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of LlamaForCausalLM."""
    parts = {
        "attention_norm": "input_layernorm",
        "attention": "self_attn",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward": "mlp",
    }
    for name, weight in model.state_dict().items():
        if name.startswith("decoder_blocks."):
            _, layer, part, *rest = name.split(".")
            yield ".".join(["model.layers", layer, parts[part], *rest]), weight
        else:
            yield (
                {"embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}.get(name, name),
                weight,
            )


def litgpt(shape: Shape, device: str, as_it_pretrains: bool = False) -> Candidate:
    """litgpt's GPT and its loss in one graph; or the model compiled alone and the loss in chunks, as it pretrains."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        name="bench",
        block_size=shape.seq_len,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_query_groups=shape.n_kv_heads,
        n_embd=shape.n_embd,
        intermediate_size=shape.ffn_dim,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        norm_eps=1e-5,
    )
    model = GPT(config)
    model.load_state_dict(litgpt_weights(initial(shape)), strict=False)
    model = model.to(device)

    if as_it_pretrains:
        compiled = torch.compile(model, dynamic=False)
        return rival(model, device, lambda inputs, targets: chunked_cross_entropy(compiled(inputs), targets))

    def whole(inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = chunked_cross_entropy(model(inputs), targets, chunk_size=0)
        return loss

    return rival(model, device, torch.compile(whole, dynamic=False))


def litgpt_weights(model: LLaMaTransformer) -> dict[str, Tensor]:
    """The weights under litgpt's names; its qkv holds queries, then keys, then values."""
    given = model.state_dict()
    found = {
        "transformer.wte.weight": given["embeddings.weight"],
        "transformer.ln_f.weight": given["norm.weight"],
        "lm_head.weight": given["lm_head.weight"],
    }
    for layer in range(model.config.n_layers):
        block, here = f"decoder_blocks.{layer}.", f"transformer.h.{layer}."
        found[here + "attn.qkv.weight"] = torch.cat([given[f"{block}attention.{x}_proj.weight"] for x in "qkv"])
        found[here + "attn.proj.weight"] = given[block + "attention.o_proj.weight"]
        found[here + "norm_1.weight"] = given[block + "attention_norm.weight"]
        found[here + "norm_2.weight"] = given[block + "feed_forward_norm.weight"]
        for ours, theirs in (("gate_proj", "fc_1"), ("up_proj", "fc_2"), ("down_proj", "proj")):
            found[f"{here}mlp.{theirs}.weight"] = given[f"{block}feed_forward.{ours}.weight"]
    return found


def _without_bf16_stream() -> None:
    transformer.compute_dtype = lambda x: x.dtype


def _without_kernel() -> None:
    loss.usable = lambda _: False


def _without_joint_products() -> None:
    joint.usable = lambda _: False


def _without_cuda_graph() -> None:
    stepping._can_record = lambda *_: False


def _without_starts() -> None:
    evaluate._told = lambda batch, _: batch.documents


def _without_compilation() -> None:
    global loss_function
    loss_function = lambda _: evaluate.batch_loss  # noqa: E731


# What takes a trick of llamita's step away, in the process that calls it.
TRICKS: dict[str, Callable[[], None]] = {
    "bf16-stream": _without_bf16_stream,
    "loss-kernel": _without_kernel,
    "joint-products": _without_joint_products,
    "cuda-graph": _without_cuda_graph,
    "document-starts": _without_starts,
    "compilation": _without_compilation,
}
CANDIDATES: dict[str, Callable[[Shape, str], Candidate]] = {
    "llamita": llamita,
    "fp8": partial(llamita, precision="fp8"),
    "hf": hf,
    "litgpt": litgpt,
    "litgpt-pretrain": partial(litgpt, as_it_pretrains=True),
}
