"""Neighbours in a large table: seconds a question, beside gensim on the same rows; equal answers are asserted.

python benchmarks/neighbors.py --rows 128000 --dim 4096 --rounds 5
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from gensim.models import KeyedVectors

from llamita.insight.vectors import Vectors
from llamita.text.tokenizer import Tokenizer

QUESTIONS = 20


def main() -> None:
    """Print a JSON line a candidate and round, then one with the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    words = " ".join(f"w{number}" for number in range(options.rows))
    tokenizer = Tokenizer.train([words], vocab_size=options.rows + 64, kind="word")
    table = torch.randn(tokenizer.get_vocab_size(), options.dim, generator=torch.Generator().manual_seed(0))
    begun = time.perf_counter()
    plain, prepared = Vectors(table, tokenizer), Vectors(table, tokenizer)
    prepared.prepare()
    loading = time.perf_counter() - begun
    keyed = KeyedVectors(vector_size=options.dim)
    keyed.index_to_key = tokenizer.tokens(plain.ids)
    keyed.key_to_index = {key: number for number, key in enumerate(keyed.index_to_key)}
    keyed.vectors = plain.rows.numpy()
    keyed.fill_norms()

    def ask(vectors: Vectors) -> Callable[[str], list[str]]:
        return lambda word: [found.token for found in vectors.most_similar(word, topn=10)]

    candidates = {
        "llamita, prepared": ask(prepared),
        "llamita, plain": ask(plain),
        "gensim": lambda word: [found for found, _ in keyed.most_similar(word, topn=10)],
    }
    asked = keyed.index_to_key[:: max(options.rows // QUESTIONS, 1)]
    answers = {name: [candidate(word) for word in asked] for name, candidate in candidates.items()}
    assert answers["llamita, prepared"] == answers["llamita, plain"] == answers["gensim"]
    medians: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(options.rounds):
        for name, candidate in candidates.items():
            seconds = []
            for word in asked:
                begun = time.perf_counter()
                candidate(word)
                seconds.append(time.perf_counter() - begun)
            medians[name].append(statistics.median(seconds))
            line = {"candidate": name, "round": round_number, "ms": round(1000 * medians[name][-1], 2)}
            print(json.dumps(line), flush=True)
    shape = {"rows": len(plain.ids), "dim": options.dim, "loaded_twice_and_prepared_in_s": round(loading, 2)}
    ms = {name: round(1000 * statistics.median(found), 2) for name, found in medians.items()}
    print(json.dumps({**shape, "ms": ms}))


if __name__ == "__main__":
    main()
