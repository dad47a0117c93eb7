import math
from collections import Counter

import pytest
import torch

from llamita.insight import ppmi
from llamita.insight.ppmi import ppmi_vectors
from llamita.text.shards import Corpus, write_shards
from llamita.text.sources import Document
from llamita.text.tokenizer import Tokenizer

TEXTS = ["the cat sees the dog", "a dog sees a cat here", "the king rules", "a b c d e f g the cat"] * 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    tokenizer = Tokenizer.train(TEXTS, vocab_size=64, kind="word")
    folder = tmp_path_factory.mktemp("ppmi")
    documents = [Document(text, "memory") for text in TEXTS]
    return write_shards(documents, tokenizer, folder, validation_fraction=0.0, seed=0).train


def counted_slowly(corpus: Corpus, window: int) -> dict[str, Counter[tuple[int, int]]]:
    """Weighted (word, context) pairs by side, a document at a time."""
    starts = [*corpus.document_starts.tolist(), corpus.tokens]
    sides: dict[str, Counter[tuple[int, int]]] = {"right": Counter(), "left": Counter()}
    for start, stop in zip(starts, starts[1:], strict=False):
        ids = corpus.read(start, stop).tolist()
        for here, word in enumerate(ids):
            for there, context in enumerate(ids):
                if 0 < abs(there - here) <= window:
                    sides["right" if there > here else "left"][word, context] += 1 / abs(there - here)
    return sides


@pytest.mark.parametrize("at_a_time", [7, 4_000_000])
def test_products_of_vectors_are_those_of_the_mutual_information(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(ppmi, "_TOKENS_AT_A_TIME", at_a_time)
    ids = sorted(set(corpus.read(0, corpus.tokens).tolist()))
    matrix = torch.zeros(len(ids), 2 * len(ids), dtype=torch.float64)
    for side, counts in enumerate(counted_slowly(corpus, window=3).values()):
        chance = {c: sum(n for (_, context), n in counts.items() if context == c) ** 0.75 for c in ids}
        for (word, context), number in counts.items():
            given = number / sum(n for (w, _), n in counts.items() if w == word)
            information = math.log(given / (chance[context] / sum(chance.values())))
            matrix[ids.index(word), side * len(ids) + ids.index(context)] = max(information, 0.0)
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    expected = left * values.sqrt()
    found = ppmi_vectors(corpus, ids, dim=len(ids), window=3)
    # Vectors are the same but for signs of dimensions: their products are equal.
    torch.testing.assert_close(found @ found.T, (expected @ expected.T).float(), atol=1e-3, rtol=1e-3)
    first = ppmi_vectors(corpus, ids, dim=4, window=3)
    torch.testing.assert_close(first @ first.T, (expected[:, :4] @ expected[:, :4].T).float(), atol=1e-3, rtol=1e-3)


def test_only_the_first_tokens_count_if_so_asked(corpus: Corpus) -> None:
    ids = sorted(set(corpus.read(0, corpus.tokens).tolist()))
    few = ppmi_vectors(corpus, ids, dim=8, max_tokens=6)
    met = set(corpus.read(0, 6).tolist())
    assert all((few[ids.index(number)].norm() > 0) == (number in met) for number in ids)
