"""From a text file to a GGUF that llama.cpp speaks from, by the README's commands alone: seconds, and how alike it is.

python benchmarks/to_gguf.py tinyshakespeare.txt

Needs llama-cpp-python. Where `unshare` may, every command runs without a network. Prints one JSON line.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamita.runs.folder import Run

_SPEAK = (
    "import sys, llama_cpp; model = llama_cpp.Llama(sys.argv[1], verbose=False); "
    "print(model(sys.argv[2], max_tokens=64, temperature=0.0)['choices'][0]['text'])"
)
_WINDOWS = 16


def offline() -> list[str]:
    """What a command begins with to have no network, if this machine lets it."""
    alone = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0:
        return alone
    return []


def agreement(run: Run, file: Path, text: Path) -> float:
    """The share of positions in the text's end at which both call the same token the likeliest."""
    import llama_cpp

    model, tokenizer = run.model(), run.tokenizer()
    length = run.config().model.max_seq_len - 1
    theirs: Any = llama_cpp.Llama(str(file), n_ctx=length + 1, logits_all=True, verbose=False)
    ids = tokenizer.encode(text.read_text(encoding="utf-8"))[-_WINDOWS * length :]
    same: list[bool] = []
    for start in range(0, len(ids), length):
        row = [tokenizer.bos_id, *ids[start : start + length]]
        theirs.reset()
        theirs.eval(row)
        with torch.no_grad():
            ours = model(torch.tensor([row]))[0].numpy()
        same += (np.array(theirs.scores[: len(row)])[:, : ours.shape[1]].argmax(1) == ours.argmax(1)).tolist()
    return sum(same) / len(same)


def main() -> None:
    """Run the commands one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    options = parser.parse_args()
    alone, seconds = offline(), {}
    with tempfile.TemporaryDirectory() as folder:
        run, file = Path(folder, "run"), Path(folder, "book.gguf")
        llamita = [sys.executable, "-m", "llamita"]
        small = file.with_suffix(".q8_0.gguf")
        commands = {
            "train": [*llamita, "train", str(options.text), "--run", str(run)],
            "export": [*llamita, "export", "gguf", str(run), str(file), "--type", "f16"],
            "speak": [sys.executable, "-c", _SPEAK, str(file), "First Citizen:"],
            "export q8_0": [*llamita, "export", "gguf", str(run), str(small), "--type", "q8_0"],
        }
        said = ""
        for name, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run([*alone, *command], check=True, stdout=subprocess.PIPE, text=True)
            seconds[name] = round(time.perf_counter() - began, 1)
            said = done.stdout if name == "speak" else said
        same = agreement(Run.open(run), small, options.text)
        size = file.stat().st_size
    row = {
        "text": options.text.name,
        "without_network": bool(alone),
        "seconds": seconds,
        "minutes": round(sum(seconds[name] for name in ("train", "export", "speak")) / 60, 2),
        "bytes_f16": size,
        "q8_0_same_likeliest": round(same, 4),
        "said": said.strip(),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
