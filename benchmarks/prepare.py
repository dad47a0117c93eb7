"""Seconds from raw text to token shards, by encoding engine. One JSON line a run, then the medians.

python benchmarks/prepare.py TEXT... --rounds 3 --vocab-size 32768
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The fastest first: each is what is left when those before it are not installed.
ENGINES = ("gigatoken", "tiktoken", "tokenizers")


def prepare(texts: list[str], vocab_size: int, engine: str) -> dict[str, object]:
    """Prepare once, in a process that lacks the engines before this one."""
    for name in ENGINES[: ENGINES.index(engine)]:
        sys.modules[name] = None  # type: ignore[assignment]
    from llamita.layers import Layer
    from llamita.training.prepare import prepare_run

    seconds: dict[str, float] = {}
    last = ["start", time.perf_counter()]

    def progress(doing: str, *_: int) -> None:
        if doing != last[0]:
            settle(doing)

    def settle(doing: str) -> None:
        now = time.perf_counter()
        seconds[str(last[0])] = seconds.get(str(last[0]), 0.0) + round(now - float(last[1]), 2)
        last[:] = [doing, now]

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # Threads and precision are asked for, so that nothing is measured for the training that could follow.
        training = {"threads": os.cpu_count() or 1, "precision": "fp32"}
        asked = [Layer("asked", {"tokenizer": {"vocab_size": vocab_size}, "training": training})]
        prepared = prepare_run(Path(folder) / "run", texts, asked, progress)
        settle("end")
    return {
        "engine": engine,
        "used": prepared.tokenizer.engine.name,
        "text_bytes": prepared.text.report.bytes,
        "tokens": prepared.corpora.train.tokens,
        "token_hash": prepared.corpora.train.token_hash[:16],
        "seconds": round(time.perf_counter() - began, 2),
        **{name: value for name, value in seconds.items() if name != "start"},
    }


def main() -> None:
    """Run the rounds, or one of them where --only is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--only", choices=ENGINES)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(prepare(options.texts, options.vocab_size, options.only)))
        return
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for number in range(options.rounds):
        for engine in ENGINES:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", engine]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(json.dumps({"round": number, **row}), flush=True)
            if row["used"] == engine:
                seconds[engine].append(row["seconds"])
    print(json.dumps({engine: statistics.median(found) for engine, found in seconds.items() if found}))


if __name__ == "__main__":
    main()
