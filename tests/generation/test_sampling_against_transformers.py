"""Every filter, alone and in company, against the processors of transformers."""

import pytest
import torch
from transformers.generation import logits_process as process

from llamita.generation.sampling import Sampling, filtered


def by_transformers(logits: torch.Tensor, previous: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The scores of transformers' processors in the order of its generate()."""
    steps = [
        (process.RepetitionPenaltyLogitsProcessor, sampling.repetition_penalty),
        (process.TemperatureLogitsWarper, sampling.temperature),
        (process.TopKLogitsWarper, sampling.top_k),
        (process.TopPLogitsWarper, sampling.top_p),
        (process.MinPLogitsWarper, sampling.min_p),
    ]
    scores = logits
    for make, value in steps:
        if value is not None:
            scores = make(value)(previous, scores)
    return scores


@pytest.mark.parametrize("vocab_size", [5, 300, 2000])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(repetition_penalty=1.3),
        Sampling(repetition_penalty=0.5),
        Sampling(temperature=0.3),
        Sampling(temperature=2.5),
        Sampling(top_k=1),
        Sampling(top_k=4),
        Sampling(top_k=100_000),
        Sampling(top_p=0.05),
        Sampling(top_p=0.9),
        Sampling(top_p=0.9995),
        Sampling(min_p=0.05),
        Sampling(min_p=1.0),
        Sampling(temperature=0.8, top_p=0.95),
        Sampling(temperature=0.8, top_k=40, top_p=0.7, min_p=0.02, repetition_penalty=1.2),
        Sampling(temperature=3.0, top_k=400, top_p=0.99, min_p=0.001, repetition_penalty=2.0),
    ],
    ids=str,
)
def test_filters_equal_those_of_transformers(sampling: Sampling, vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(6, vocab_size, generator=generator) * 3
    previous = torch.randint(vocab_size, (6, 20), generator=generator)
    ours, theirs = filtered(logits, previous, sampling), by_transformers(logits, previous, sampling)
    # Sums of float32 decide at the edge of a nucleus: there the two may differ, by next to nothing.
    differs = ours.isfinite() != theirs.isfinite()
    assert logits.softmax(-1)[differs].sum() < 1e-5
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=1e-4, atol=1e-5)
