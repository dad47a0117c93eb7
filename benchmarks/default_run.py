"""`llamita train TEXT` without any option: minutes, and validation bits per byte beside `xz -9`.

python benchmarks/default_run.py tinyshakespeare.txt
"""

import argparse
import json
import lzma
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Train once and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    options = parser.parse_args()
    data = options.text.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "llamita", "train", str(options.text), "--run", f"{folder}/run", "--json"]
        begun = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - begun
    result = json.loads(done.stdout)
    xz = 8 * len(lzma.compress(data, preset=9)) / len(data)
    row = {"text": options.text.name, "bytes": len(data), "seconds": seconds, "xz_9_bits_per_byte": xz}
    print(
        json.dumps(row | {key: result[key] for key in ("parameters", "step", "best_step", "val_loss", "bits_per_byte")})
    )


if __name__ == "__main__":
    main()
