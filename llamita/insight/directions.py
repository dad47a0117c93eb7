"""A direction for a difference in meaning, such as from man to woman, and whether it holds for words it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from llamita.errors import UserError
from llamita.insight.probes import lemma_folds

_CONTROLS = 50


@dataclass(frozen=True, slots=True)
class Direction:
    """A unit vector from one side to the other, with the share of unseen words that it puts on their right sides.

    `accuracy` is held out: of pairs, those whose second word lies further along a direction that other pairs
    gave; of two lists, balanced over both. `control` is the same with the sides exchanged at random (0.5 is
    chance). `agreement` is the cosine between the directions of two halves of the words.
    """

    vector: Float[Tensor, " dim"]
    accuracy: float
    control: float
    agreement: float
    words: int


def direction_of_pairs(
    first: Float[Tensor, "pairs dim"], second: Float[Tensor, "pairs dim"], *, seed: int = 0
) -> Direction:
    """The mean difference of pairs of words; UserError for fewer than 3 pairs."""
    if len(first) < 3:
        raise UserError(f"{len(first)} pairs of words: a direction that can be tested needs at least 3")
    differences = second - first
    generator = torch.Generator().manual_seed(seed)
    held_out = _pair_accuracy(differences)
    controls = []
    for _ in range(_CONTROLS):
        signs = torch.randint(0, 2, (len(differences), 1), generator=generator).to(differences) * 2 - 1
        controls.append(_pair_accuracy(differences * signs))
    order = torch.randperm(len(differences), generator=generator)
    halves = [differences[half].mean(0) for half in order.tensor_split(2)]
    return Direction(
        vector=F.normalize(differences.mean(0), dim=0),
        accuracy=held_out,
        control=sum(controls) / len(controls),
        agreement=float(F.cosine_similarity(halves[0], halves[1], dim=0)),
        words=2 * len(differences),
    )


def direction_of_lists(
    first: Float[Tensor, "words_a dim"], second: Float[Tensor, "words_b dim"], *, seed: int = 0
) -> Direction:
    """From the mean of one list to the mean of another; UserError for lists of fewer than 3 words."""
    if min(len(first), len(second)) < 3:
        raise UserError(f"lists of {len(first)} and {len(second)} words: each needs at least 3")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([first, second])
    truth = torch.arange(len(rows)) >= len(first)
    folds = lemma_folds([str(number) for number in range(len(rows))], seed)
    shuffled = [truth[torch.randperm(len(rows), generator=generator)] for _ in range(_CONTROLS)]
    controls = [_side_accuracy(rows, mixed, folds) for mixed in shuffled]
    orders = [torch.randperm(len(side), generator=generator) for side in (first, second)]
    halves = [second[orders[1][part::2]].mean(0) - first[orders[0][part::2]].mean(0) for part in (0, 1)]
    return Direction(
        vector=F.normalize(second.mean(0) - first.mean(0), dim=0),
        accuracy=_side_accuracy(rows, truth, folds),
        control=sum(controls) / len(controls),
        agreement=float(F.cosine_similarity(halves[0], halves[1], dim=0)),
        words=len(rows),
    )


def _pair_accuracy(differences: Float[Tensor, "pairs dim"]) -> float:
    """The share of pairs that lie along the mean of the others; a tie counts half."""
    others = differences.sum(0) - differences
    along = (others * differences).sum(1)
    return float((along > 0).float().mean() + 0.5 * (along == 0).float().mean())


def _side_accuracy(
    rows: Float[Tensor, "words dim"], truth: Bool[Tensor, " words"], folds: Sequence[Bool[Tensor, " words"]]
) -> float:
    """Balanced share of held-out words nearer, along the others' direction, to the mean of their own side."""
    guesses = torch.zeros_like(truth)
    for test in folds:
        low, high = rows[~test & ~truth].mean(0), rows[~test & truth].mean(0)
        guesses[test] = (rows[test] - (low + high) / 2) @ (high - low) > 0
    shares = [(guesses == truth)[truth == side].float().mean() for side in (False, True)]
    return float((shares[0] + shares[1]) / 2)
