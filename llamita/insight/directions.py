"""A direction for a difference in meaning, such as from man to woman, and whether it holds for words it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llamita.errors import UserError
from llamita.insight.probes import balanced_accuracy, lemma_folds, shuffle_by_lemma

_RANDOM_SIDES = 1000
_RANDOM_LABELS = 200
_SEED = 0


@dataclass(frozen=True, slots=True)
class Direction:
    """A unit vector from one side to the other, with the share of unseen words that it puts on their right sides.

    `accuracy` is held out: of pairs, those whose second word lies further along a direction that pairs without
    any of their words gave; of two lists, balanced over both, in folds by lemma. `p_value` is the share of random
    choices of sides for the same words that come out at least as well (a permutation test): small numbers of
    words often come out well by luck. `agreement` is the cosine between the directions of two halves.
    """

    vector: Float[Tensor, " dim"]
    accuracy: float
    p_value: float
    agreement: float
    words: int


def direction_of_pairs(
    first: Float[Tensor, "pairs dim"], second: Float[Tensor, "pairs dim"], words: Sequence[tuple[str, str]]
) -> Direction:
    """The mean difference of pairs of words, each pair once; UserError for fewer than 3 that can be tested.

    Pairs with a word in common are held out together. Forms of a pair (king:queen, kings:queens) are not known
    to belong together: give one of them.
    """
    place = {pair: number for number, pair in reversed(list(enumerate(words)))}
    pairs = sorted(place, key=lambda pair: place[pair])
    differences = (second - first).float().cpu()[[place[pair] for pair in pairs]]
    group = _linked(pairs)
    groups = int(group.max()) + 1 if len(group) else 0
    if groups < 3:
        raise UserError(f"{groups} groups of pairs without a word in common: to test a direction, give at least 3")
    generator = torch.Generator().manual_seed(_SEED)
    # Each pair's product with every pair of other groups: all that sides at random, one a group, need.
    products = (differences @ differences.T) * (group.unsqueeze(0) != group.unsqueeze(1))
    signs = (torch.randint(0, 2, (_RANDOM_SIDES, groups), generator=generator) * 2.0 - 1)[:, group]
    accuracies = _share_right(torch.cat([torch.ones(1, len(pairs)), signs]), products)
    order = torch.randperm(groups, generator=generator)
    halves = [differences[torch.isin(group, half)].mean(0) for half in order.tensor_split(2)]
    return Direction(
        vector=_unit(differences.mean(0)),
        accuracy=float(accuracies[0]),
        p_value=_p_value(accuracies),
        agreement=float(F.cosine_similarity(halves[0], halves[1], dim=0)),
        words=len({word for pair in pairs for word in pair}),
    )


def direction_of_lists(
    first: Float[Tensor, "words_a dim"],
    second: Float[Tensor, "words_b dim"],
    lemmas: Sequence[str],
) -> Direction:
    """From the mean of one list to the mean of another; `lemmas` are those of both lists, one after the other.

    UserError for lists of fewer than 3 lemmas.
    """
    rows = torch.cat([first, second]).float().cpu()
    truth = torch.arange(len(rows)) >= len(first)
    sides = [set(lemmas[: len(first)]), set(lemmas[len(first) :])]
    if min(map(len, sides)) < 3:
        raise UserError(f"lists of {len(sides[0])} and {len(sides[1])} lemmas: give at least 3 in each")
    generator = torch.Generator().manual_seed(_SEED)
    tried = [truth, *(shuffle_by_lemma(truth, lemmas, generator) for _ in range(_RANDOM_LABELS))]
    accuracies = torch.tensor([_side_accuracy(rows, labels, lemmas) for labels in tried])
    halves = [rows[half & truth].mean(0) - rows[half & ~truth].mean(0) for half in lemma_folds(truth, lemmas, folds=2)]
    return Direction(
        vector=_unit(rows[truth].mean(0) - rows[~truth].mean(0)),
        accuracy=float(accuracies[0]),
        p_value=_p_value(accuracies),
        agreement=float(F.cosine_similarity(halves[0], halves[1], dim=0)),
        words=len(rows),
    )


def _linked(pairs: Sequence[tuple[str, str]]) -> Int[Tensor, " pairs"]:
    """A number for each pair, the same for those that are linked by words in common."""
    group: dict[str, int] = {}
    for number, (a, b) in enumerate(pairs):
        joined = {group.get(a, number), group.get(b, number)}
        group |= {word: number for word, old in group.items() if old in joined} | {a: number, b: number}
    distinct = {old: number for number, old in enumerate(dict.fromkeys(group[a] for a, _ in pairs))}
    return torch.tensor([distinct[group[a]] for a, _ in pairs], dtype=torch.long)


def _unit(difference: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
    if not difference.any():
        raise UserError("both sides have the same vectors: there is no direction from one to the other")
    return F.normalize(difference, dim=0)


def _p_value(accuracies: Float[Tensor, " tried"]) -> float:
    """The share of tries, the first being the truth itself, that are at least as good as the truth."""
    return float((accuracies >= accuracies[0] - 1e-6).float().mean())


def _share_right(
    signs: Float[Tensor, "tried pairs"], products: Float[Tensor, "pairs pairs"]
) -> Float[Tensor, " tried"]:
    """The share of pairs that lie along the sum of the others, with sides by sign; a tie counts half."""
    along = signs * (signs @ products)
    return (along > 0).float().mean(1) + 0.5 * (along == 0).float().mean(1)


def _side_accuracy(rows: Float[Tensor, "words dim"], truth: Bool[Tensor, " words"], lemmas: Sequence[str]) -> float:
    """Balanced share of held-out words nearer, along the others' direction, to the mean of their own side."""
    guesses = torch.zeros_like(truth)
    for test in lemma_folds(truth, lemmas):
        low, high = rows[~test & ~truth].mean(0), rows[~test & truth].mean(0)
        guesses[test] = (rows[test] - (low + high) / 2) @ (high - low) > 0
    return float(balanced_accuracy(guesses.unsqueeze(1), truth.unsqueeze(1)))
