"""Neighbours in a large table: seconds a question, beside gensim on the same rows; equal answers are asserted.

python benchmarks/neighbors.py --rows 128000 --dim 4096 --rounds 5
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from gensim.models import KeyedVectors

from llamita.insight.cosine_scan import CosineScan

QUESTIONS = 20


def main() -> None:
    """Print a JSON line a candidate and round, then one with the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table = torch.randn(options.rows, options.dim, generator=torch.Generator().manual_seed(0))
    begun = time.perf_counter()
    scan = CosineScan(F.normalize(table, dim=1))
    plain = CosineScan(scan.unit)
    scan.prepare()
    loading = time.perf_counter() - begun
    keyed = KeyedVectors(vector_size=options.dim)
    keyed.index_to_key = list(map(str, range(options.rows)))
    keyed.key_to_index = {key: number for number, key in enumerate(keyed.index_to_key)}
    keyed.vectors = table.numpy()
    keyed.fill_norms()

    def ask_gensim(number: int) -> list[int]:
        return [int(key) for key, _ in keyed.most_similar(str(number), topn=10)]

    def ask(asked: CosineScan) -> Callable[[int], list[int]]:
        return lambda number: asked.top(asked.unit[number], 10, [number])[0].tolist()

    candidates = {"llamita, prepared": ask(scan), "llamita, plain": ask(plain), "gensim": ask_gensim}
    numbers = range(0, options.rows, max(options.rows // QUESTIONS, 1))
    answers = {name: [candidate(number) for number in numbers] for name, candidate in candidates.items()}
    assert answers["llamita, prepared"] == answers["llamita, plain"] == answers["gensim"]
    medians: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(options.rounds):
        for name, candidate in candidates.items():
            seconds = []
            for number in numbers:
                begun = time.perf_counter()
                candidate(number)
                seconds.append(time.perf_counter() - begun)
            medians[name].append(statistics.median(seconds))
            line = {"candidate": name, "round": round_number, "ms": round(1000 * medians[name][-1], 2)}
            print(json.dumps(line), flush=True)
    shape = {"rows": options.rows, "dim": options.dim, "prepared_in_s": round(loading, 2)}
    ms = {name: round(1000 * statistics.median(found), 2) for name, found in medians.items()}
    print(json.dumps({**shape, "ms": ms}))


if __name__ == "__main__":
    main()
