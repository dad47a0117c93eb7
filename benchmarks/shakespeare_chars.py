"""tinyshakespeare by characters at nanoGPT's CPU setting: llamita's validation loss and time beside nanoGPT's.

Setting: 4 layers, 4 heads, 128 wide, context 64, batch 12, 2000 steps, the first 90 % of the text to train on.
Without --nanogpt only llamita runs. The two run in turn, each in a process of its own.

    python benchmarks/shakespeare_chars.py input.txt --nanogpt path/to/nanoGPT
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 2000


def llamita(text: Path, seed: int) -> dict:
    """Train through the command line; the loss is over the whole validation part."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        sizes = {
            "tokenizer.kind": "char",
            "tokenizer.vocab-size": 128,
            "data.validation-fraction": 0.1,
            "model.n-embd": 128,
            "model.n-layers": 4,
            "model.n-heads": 4,
            "model.max-seq-len": 64,
            "optimizer.lr": 4e-3,
            "optimizer.table-lr-ratio": 1.0,
            "optimizer.weight-decay": 0.1,
            "optimizer.warmup-steps": 50,
            "training.batch-size": 12,
            "training.steps": STEPS,
            "training.eval-every": STEPS,
            "training.save-every": STEPS,
            "training.sample-tokens": 0,
        }
        options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "llamita", "train", str(text), "--run", str(run), "--seed", str(seed)]
        begun = time.perf_counter()
        subprocess.run([*command, *options, "--json"], check=True, capture_output=True)
        seconds = time.perf_counter() - begun
        info = subprocess.run(
            [sys.executable, "-m", "llamita", "info", str(run), "--json"], check=True, capture_output=True, text=True
        )
        result = json.loads(info.stdout)
    return {"candidate": "llamita", "seed": seed, "val_loss": result["val_loss"], "seconds": seconds}


def nanogpt(text: Path, checkout: Path, seed: int) -> dict:
    """Train with nanoGPT's own scripts, its README's CPU command line and `compile=False`."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "nanoGPT"
        shutil.copytree(checkout, work, ignore=shutil.ignore_patterns(".git", "assets"))
        shutil.copy(text, work / "data" / "shakespeare_char" / "input.txt")
        subprocess.run(
            [sys.executable, "prepare.py"], cwd=work / "data" / "shakespeare_char", check=True, capture_output=True
        )
        script = work / "train.py"
        script.write_text(script.read_text().replace("torch.manual_seed(1337", f"torch.manual_seed({1337 + seed}"))
        options = (
            "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 "
            f"--n_layer=4 --n_head=4 --n_embd=128 --max_iters={STEPS} --lr_decay_iters={STEPS} --dropout=0.0"
        )
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "train.py", "config/train_shakespeare_char.py", *options.split()],
            cwd=work,
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - begun
    losses = [float(loss) for loss in re.findall(r"step \d+: train loss [\d.]+, val loss ([\d.]+)", done.stdout)]
    return {"candidate": "nanogpt", "seed": seed, "val_loss": losses[-1], "seconds": seconds}


def main() -> None:
    """Run the candidates in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    for seed in range(options.seeds):
        print(json.dumps(llamita(options.text, seed)), flush=True)
        if options.nanogpt:
            print(json.dumps(nanogpt(options.text, options.nanogpt, seed)), flush=True)


if __name__ == "__main__":
    main()
