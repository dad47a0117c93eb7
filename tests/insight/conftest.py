"""Tokenizers and vectors small enough to check by hand."""

import pytest
import torch

from llamita.insight.vectors import Vectors
from llamita.text.tokenizer import Tokenizer

_TEXT = """
man woman king queen prince princess uncle aunt monk nun dog cat horse cow street field crown throne box lamp
runs sleeps sees eats red blue green small big fast
"""
WORDS = _TEXT.split()


@pytest.fixture(scope="session")
def word_tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS)] * 3, vocab_size=64, kind="word")


@pytest.fixture(scope="session")
def bpe_tokenizer() -> Tokenizer:
    return Tokenizer.train(["the king and the queen saw the kings "] * 50, vocab_size=320)


@pytest.fixture(scope="session")
def vectors(word_tokenizer: Tokenizer) -> Vectors:
    """Random rows, in which queen = king - man + woman and so on, nearly."""
    generator = torch.Generator().manual_seed(0)
    size = word_tokenizer.get_vocab_size()
    matrix = torch.randn(size, 24, generator=generator)
    gender = 3 * torch.randn(24, generator=generator) / 24**0.5
    for first, second in (("man", "woman"), ("king", "queen"), ("prince", "princess"), ("uncle", "aunt")):
        noise = 0.05 * torch.randn(24, generator=generator)
        ids = [word_tokenizer.token_to_id(word) for word in (first, second)]
        assert ids[0] is not None and ids[1] is not None
        matrix[ids[1]] = matrix[ids[0]] + gender + noise
    return Vectors(matrix, word_tokenizer)
