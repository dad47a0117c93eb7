"""Training tokens a second on a CPU, llamita against Hugging Face's LlamaForCausalLM at its best effort.

Both get the same shape, batch, tied table, fused AdamW, clipping and precision. Rounds are interleaved, every
candidate runs in one process of its own per round. Prints one JSON line a candidate and round, then the medians
and their ratio.

    python benchmarks/train_step_cpu.py --shape 7m --rounds 5
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

# vocab_size, n_embd, n_layers, n_heads, ffn_dim, seq_len, batch
SHAPES = {
    "1m": (1024, 128, 4, 4, 352, 128, 16),
    "7m": (4096, 288, 6, 6, 768, 256, 8),
    "30m": (8192, 512, 8, 8, 1376, 256, 4),
}


def llamita_loss(shape: tuple[int, ...], compiled: bool):
    """Model and loss function of llamita."""
    from llamita.config import ModelConfig, TrainingConfig
    from llamita.model.transformer import LLaMaTransformer
    from llamita.training.compiling import loss_function
    from llamita.training.evaluate import DeviceBatch

    vocab_size, n_embd, n_layers, n_heads, ffn_dim, seq_len, _ = shape
    model = LLaMaTransformer(
        ModelConfig(
            vocab_size=vocab_size,
            n_embd=n_embd,
            n_layers=n_layers,
            n_heads=n_heads,
            ffn_dim=ffn_dim,
            max_seq_len=seq_len,
        )
    )
    loss = loss_function(TrainingConfig(compile=compiled))
    return model, lambda inputs, targets: loss(model, DeviceBatch(inputs, targets, None)) / targets.numel()


def hf_loss(shape: tuple[int, ...], compiled: bool):
    """Model and loss function of transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab_size, n_embd, n_layers, n_heads, ffn_dim, seq_len, _ = shape
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=n_embd,
            num_hidden_layers=n_layers,
            num_attention_heads=n_heads,
            intermediate_size=ffn_dim,
            max_position_embeddings=seq_len,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
        )
    )
    call = torch.compile(model) if compiled else model
    # shift_labels: the targets are those of llamita, position for position.
    return (
        model,
        lambda inputs, targets: call(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False).loss,
    )


def measure(candidate: str, shape_name: str, threads: int, precision: str, compiled: bool, steps: int) -> dict:
    """Steps of one candidate in this process."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = SHAPES[shape_name]
    model, loss_of = (llamita_loss if candidate == "llamita" else hf_loss)(shape, compiled)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(0, shape[0], (shape[6], shape[5] + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    first = step()
    step()
    walls, cpus = [], []
    for _ in range(steps):
        wall, cpu = time.perf_counter(), time.process_time()
        last = step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "candidate": candidate,
        "shape": shape_name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "precision": precision,
        "compiled": compiled,
        "threads": threads,
        "tokens_per_second": inputs.numel() / statistics.median(walls),
        "tokens_per_cpu_second": inputs.numel() / statistics.median(cpus),
        "loss_first": first,
        "loss_last": last,
    }


def main() -> None:
    """Run the rounds, or one measurement where --only is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", choices=("llamita", "hf"))
    options = parser.parse_args()
    if options.only:
        one = measure(options.only, options.shape, options.threads, options.precision, options.compile, options.steps)
        print(json.dumps(one))
        return
    rows: dict[str, list[dict]] = {"llamita": [], "hf": []}
    for number in range(options.rounds):
        for candidate in rows:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", candidate]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows[candidate].append(result)
            print(json.dumps({"round": number, **result}), flush=True)
    summary: dict[str, object] = {"shape": options.shape, "precision": options.precision, "compiled": options.compile}
    for key in ("tokens_per_second", "tokens_per_cpu_second"):
        medians = {name: statistics.median(row[key] for row in found) for name, found in rows.items()}
        summary[key] = medians
        summary[f"ratio_{key}"] = medians["llamita"] / medians["hf"]
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
