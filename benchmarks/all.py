"""Every benchmark that needs nothing but this repository, one after the other, each on its own."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = (
    ("train_step_cpu.py", "--shape", "1m"),
    ("train_step_cpu.py", "--shape", "7m"),
    ("train_step_cpu.py", "--shape", "30m", "--rounds", "3"),
    ("demo.py", "--seeds", "1"),
    ("neighbors.py",),
)


def main() -> None:
    """Run them; each prints JSON lines."""
    for script, *options in COMMANDS:
        print(f"# {script} {' '.join(options)}", flush=True)
        subprocess.run([sys.executable, HERE / script, *options], check=True)


if __name__ == "__main__":
    main()
