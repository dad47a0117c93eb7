"""Run the commands of a page again and put what they print under them.

python docs/refresh.py docs/embeddings.md          # after `make demo`, in the folder that holds runs/

A block that begins with "```console" holds a command after "$ " and its output; the output is replaced.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```console\n\$ (?P<command>[^\n]+)\n(?P<output>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The commands of a page with the output shown under each."""
    return [(found["command"], found["output"]) for found in BLOCK.finditer(page)]


def run(command: str) -> str:
    """What a command prints, errors included, in 110 columns; stops at a command that fails."""
    here = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), "COLUMNS": "110"}
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(
        shell, env={**os.environ, **here}, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(f"$ {command}\n{done.stdout}failed with exit code {done.returncode}")
    return done.stdout.rstrip("\n") + "\n"


def main() -> None:
    """Refresh the pages named on the command line."""
    for path in map(Path, sys.argv[1:]):
        page = path.read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda found: f"```console\n$ {found['command']}\n{run(found['command'])}```", page)
        path.write_text(fresh, encoding="utf-8")
        print(f"{path}: {len(blocks(page))} commands run")


if __name__ == "__main__":
    main()
