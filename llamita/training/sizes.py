"""Sizes for a text when nothing was asked for: what trains in minutes on this kind of machine."""

import math
from typing import Any

from llamita.layers import Layer, Table, merge
from llamita.text.shards import Corpus
from llamita.text.tokenizer import Tokenizer
from llamita.training.hardware import Hardware

# Floating-point operations of a training run of a few minutes, by device and precision.
_BUDGET = {("cpu", "fp32"): 2.5e13, ("cpu", "bf16"): 6e13, ("mps", "fp32"): 3e14, ("mps", "bf16"): 3e14}
_GPU_BUDGET = 3e16
_TOKENS_PER_PARAMETER = 20
_MAX_EPOCHS = 12
_PARAMETERS_PER_TOKEN = 10
_HEAD_DIM = 32
_FEWEST_STEPS = 1000  # rather small batches than fewer

# A larger table would be most of a model that trains in minutes there.
_MAX_VOCAB = {"cpu": 2048, "mps": 4096, "cuda": 32768}

# The best rates fall as the width grows. A table's grows with the vocabulary, whose tokens are met less often, and
# falls in long runs (docs/ties.md).
_LR_TIMES_WIDTH, _MAX_LR = 0.768, 4e-3
_TABLE_LR_PER_TOKEN, _MAX_TABLE_LR_RATIO, _TABLE_STEPS = 1 / 512, 4.0, 1000

# Names of layers: what follows from the hardware, and what from the text as well.
THIS_MACHINE, PICKED = "this machine", "picked for this text and machine"

# With 40 a tied model of n_embd 768 ended 0.1 to 0.4 nats behind (docs/ties.md).
_WARMUP_STEPS = 150

# Text that is read often wants more weight decay, up to 1 (docs/log.md).
_DECAY_PER_EPOCH = 0.1


def pick_vocab_size(text_bytes: int, device: str) -> int:
    """A vocabulary that grows with the square root of the text, as its number of different words does (docs/log.md)."""
    wanted = 1 << round(math.log2(max(text_bytes, 4)) / 2 - 1)
    return min(max(wanted, 384), _MAX_VOCAB[device])


def pick_sizes(train_tokens: int, vocab_size: int, hardware: Hardware, asked: Table | None = None) -> Layer:
    """Model, batch and steps for a text of this many tokens, around the sizes that were asked for.

    The budget of operations is spent on 20 tokens a parameter (arXiv 2203.15556) if the text has them, else on
    a larger model that reads the text several times.
    """
    budget = _BUDGET.get((hardware.device, hardware.precision), _GPU_BUDGET)
    tokens = min(math.sqrt(budget * _TOKENS_PER_PARAMETER / 6), train_tokens * _MAX_EPOCHS)
    parameters = min(budget / (6 * tokens), max(train_tokens * _PARAMETERS_PER_TOKEN, 100_000))
    n_embd, n_layers = _shape(parameters, vocab_size)
    asked_model, asked_training = ((asked or {}).get(table, {}) for table in ("model", "training"))
    if asked_model.keys() & {"n_embd", "n_layers"}:
        # A shape that was asked for gets the tokens it wants, however long that takes.
        n_embd = asked_model.get("n_embd", n_embd)
        parameters = vocab_size * n_embd + 12 * asked_model.get("n_layers", n_layers) * n_embd**2
        tokens = min(_TOKENS_PER_PARAMETER * parameters, train_tokens * _MAX_EPOCHS)
    small = hardware.device == "cpu"
    seq_len = 256 if small else 1024
    while seq_len > 32 and seq_len * 16 > train_tokens:
        seq_len //= 2
    seq_len = asked_model.get("max_seq_len", seq_len)
    batch_size = max((4096 if small else 65536) // max(seq_len, 1), 1)
    while batch_size > 4 and batch_size * seq_len * _FEWEST_STEPS > tokens:
        batch_size //= 2
    batch_size = asked_training.get("batch_size", batch_size)
    steps = asked_training.get("steps", max(round(tokens / max(batch_size * seq_len, 1)), 20))
    model: dict[str, Any] = {
        "n_embd": n_embd,
        "n_layers": n_layers,
        "n_heads": _heads(n_embd, asked_model.get("n_kv_heads", 1)),
        "max_seq_len": seq_len,
    }
    training: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "eval_every": max(steps // 10, 1)}
    epochs = steps * batch_size * seq_len / train_tokens
    decay = round(min(max(_DECAY_PER_EPOCH * epochs, _DECAY_PER_EPOCH), 1.0), 3)
    optimizer = {**pick_rates(n_embd, vocab_size, steps), "weight_decay": decay}
    return Layer(PICKED, {"model": model, "training": training, "optimizer": optimizer})


def pick_rates(n_embd: int, vocab_size: int, steps: int) -> Table:
    """Settings of the optimizer that follow from the shape of a model and the length of its training."""
    ratio = min(_TABLE_LR_PER_TOKEN * vocab_size, _MAX_TABLE_LR_RATIO) * min(math.sqrt(_TABLE_STEPS / max(steps, 1)), 1)
    return {
        "lr": round(min(_MAX_LR, _LR_TIMES_WIDTH / max(n_embd, 1)), 6),
        "table_lr_ratio": round(max(ratio, 1.0), 3),
        "warmup_steps": min(_WARMUP_STEPS, 3 * steps // 10),
    }


def vocabulary_layer(vocab_size: int, unpredicted_rows: int = 0) -> Layer:
    """The table that a tokenizer's vocabulary needs."""
    return Layer("the tokenizer", {"model": {"vocab_size": vocab_size, "unpredicted_rows": unpredicted_rows}})


def never_predicted(tokenizer: Tokenizer, corpus: Corpus, packing: str) -> int:
    """How many ids at the end of a vocabulary follow nothing in a corpus.

    Reserved tokens, the end of text where documents only begin, and the beginning of text if there is one document.
    In a tied table their rows would drift away together, and all that has seldom been read would predict them.
    """
    begins = tokenizer.bos_id is not None and (packing == "documents" or corpus.documents > 1)
    return tokenizer.get_vocab_size() - max(tokenizer.text_size, (tokenizer.bos_id or 0) + 1 if begins else 0)


def hardware_layer(hardware: Hardware, asked: list[Layer]) -> Layer:
    """What "auto" became: the device, and precision and threads unless they were asked for."""
    given = {name for name, value in merge(asked)[0].get("training", {}).items() if value != "auto"}
    chosen = {"device": hardware.device, "precision": hardware.precision, "threads": hardware.threads}
    kept = {name: value for name, value in chosen.items() if name == "device" or name not in given}
    return Layer(THIS_MACHINE, {"training": kept})


def _shape(parameters: float, vocab_size: int) -> tuple[int, int]:
    """Width and depth whose tied parameters come nearest, about 48 wide a layer."""

    def size(n_embd: int) -> int:
        return vocab_size * n_embd + 12 * _depth(n_embd) * n_embd**2

    widths = [*range(64, 512, 32), *range(512, 1025, 64)]
    n_embd = min(widths, key=lambda width: abs(math.log(size(width) / parameters)))
    return n_embd, _depth(n_embd)


def _heads(n_embd: int, n_kv_heads: int) -> int:
    """As many heads as the width has room for, each of the same even size."""
    most = n_embd // (_HEAD_DIM if n_embd < 512 else 64)
    fitting = (n for n in range(most, 0, -1) if n_embd % (2 * n) == 0 and n % max(n_kv_heads, 1) == 0)
    return next(fitting, max(n_kv_heads, 1))


def _depth(n_embd: int) -> int:
    return max(2, min(n_embd // 48, 24))
