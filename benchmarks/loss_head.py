"""The loss head alone, forward and back: llamita's, by chunks, against plain cross entropy of all logits.

    python benchmarks/loss_head.py --vocab-size 131072 --rounds 5

Hidden states in bf16, the table in fp32, both with gradients; plain cross entropy also compiled where a compiler is.
They take turns; prints one JSON line a candidate with its median milliseconds and, on a GPU, the most memory that it
took beside inputs and gradients, then one with the ratios and how far losses and gradients are apart.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from llamita.kernels import probe
from llamita.model.loss import hidden_loss
from llamita.training.compiling import why_not_compiled

STEPS = 5
Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """The library's head."""
    return hidden_loss(hidden, table, targets, tokens=targets.numel())


def plain(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """All logits at a time, as torch's users write it."""
    return F.cross_entropy(F.linear(hidden, table.to(hidden.dtype)).float(), targets)


def step(head: Head, leaves: list[Tensor], targets: Tensor) -> Tensor:
    """The loss, with gradients in the leaves."""
    for leaf in leaves:
        leaf.grad = None
    loss = head(leaves[0], leaves[1], targets)
    loss.backward()
    return loss.detach()


def milliseconds(head: Head, leaves: list[Tensor], targets: Tensor) -> float:
    """Time of a step, of a few."""
    wait = torch.cuda.synchronize if targets.is_cuda else (lambda: None)
    wait()
    began = time.perf_counter()
    for _ in range(STEPS):
        step(head, leaves, targets)
    wait()
    return 1000 * (time.perf_counter() - began) / STEPS


def peak_gib(head: Head, leaves: list[Tensor], targets: Tensor) -> float | None:
    """The most memory beside inputs and gradients, where it can be told."""
    if not targets.is_cuda:
        return None
    step(head, leaves, targets)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(head, leaves, targets)
    return float(torch.cuda.max_memory_allocated() - before) / 2**30


def main() -> None:
    """Measure in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab-size", type=int, default=131072)
    parser.add_argument("--n-embd", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probe.try_out()
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.n_embd, device=device).to(torch.bfloat16).requires_grad_()
    table = (0.02 * torch.randn(options.vocab_size, options.n_embd, device=device)).requires_grad_()
    targets = torch.randint(options.vocab_size, (options.tokens,), device=device)
    heads: dict[str, Head] = {"llamita": ours, "plain": plain}
    if why_not_compiled(device) is None:
        heads["plain, compiled"] = torch.compile(plain, dynamic=False)
    leaves = [hidden, table]
    found, results = {}, {}
    for name, head in heads.items():
        loss = step(head, leaves, targets)
        results[name] = [loss, *(leaf.grad.float() for leaf in leaves if leaf.grad is not None)]
        found[name] = {"peak_gib": peak_gib(head, leaves, targets), "milliseconds": list[float]()}
    for _ in range(options.rounds):
        for name, head in heads.items():
            found[name]["milliseconds"].append(milliseconds(head, leaves, targets))
    medians = {name: statistics.median(one["milliseconds"]) for name, one in found.items()}
    for name, one in found.items():
        print(json.dumps({"candidate": name, "milliseconds": round(medians[name], 2), "peak_gib": one["peak_gib"]}))
    apart = {
        name: [
            float((mine - other).norm() / other.norm()) for mine, other in zip(results["llamita"], them, strict=True)
        ]
        for name, them in results.items()
        if name != "llamita"
    }
    asked = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "torch": torch.__version__}
    times = {name: round(medians["llamita"] / one, 3) for name, one in medians.items() if name != "llamita"}
    print(json.dumps({**vars(options), **asked, "time_over_theirs": times, "relative_distance": apart}))


if __name__ == "__main__":
    main()
