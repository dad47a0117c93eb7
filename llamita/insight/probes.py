"""Linear probes: can a property of words be read off their vectors by one direction, or does it only seem so."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llamita.errors import UserError

_FOLDS = 10
_SHUFFLES = 20
_RIDGE = 0.1


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """Balanced accuracy on words whose lemma the probe never saw: 0.5 is chance whatever the classes' sizes.

    `control` is the same with shuffled labels, the mean of several shuffles (Hewitt & Liang 2019, D19-1275).
    `one_dimension` is the best that a single coordinate does, chosen on the words that it isn't tested on: what
    it lacks to `accuracy` takes a combination of dimensions.
    `majority` is the share of the larger class: what plain accuracy without any knowledge would be.
    """

    words: int
    majority: float
    accuracy: float
    control: float
    one_dimension: float


def linear_probe(
    vectors: Float[Tensor, "words dim"], labels: Sequence[bool], lemmas: Sequence[str], *, seed: int = 0
) -> ProbeScore:
    """A ridge classifier in folds by lemma; UserError if a class has too few lemmas to learn from and be tested on."""
    for label in (False, True):
        known = {lemma for lemma, found in zip(lemmas, labels, strict=True) if found == label}
        if len(known) < 2:
            raise UserError(f"{len(known)} lemmas in a class: a probe needs at least 2 in each, better 20")
    truth = torch.tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    shuffled = [truth[torch.randperm(len(truth), generator=generator)] for _ in range(_SHUFFLES)]
    targets = torch.stack([truth, *shuffled], dim=1)
    guesses, by_one = torch.zeros_like(targets), torch.zeros_like(truth)
    for test in lemma_folds(lemmas, seed):
        guesses[test] = _classify(vectors[~test], targets[~test], vectors[test])
        by_one[test] = _classify_by_one(vectors[~test], truth[~test], vectors[test])
    accuracies = _balanced(guesses, targets)
    majority = max(float(truth.float().mean()), 1 - float(truth.float().mean()))
    alone = float(_balanced(by_one.unsqueeze(1), truth.unsqueeze(1)))
    return ProbeScore(len(truth), majority, float(accuracies[0]), float(accuracies[1:].mean()), alone)


def lemma_folds(lemmas: Sequence[str], seed: int) -> list[Bool[Tensor, " words"]]:
    """Which words are tested in each fold; words of one lemma are always together."""
    distinct = sorted(set(lemmas))
    random.Random(seed).shuffle(distinct)
    fold = {lemma: number % _FOLDS for number, lemma in enumerate(distinct)}
    numbers = torch.tensor([fold[lemma] for lemma in lemmas])
    return [numbers == number for number in range(min(_FOLDS, len(distinct)))]


def _classify(
    known: Float[Tensor, "train dim"], targets: Bool[Tensor, "train tasks"], asked: Float[Tensor, "test dim"]
) -> Bool[Tensor, "test tasks"]:
    """Ridge regression on labels of -1 and 1, cut halfway between the classes' mean scores; one fit a column."""
    mean = known.mean(0)
    known, asked = known - mean, asked - mean
    # By words rather than dimensions: there are fewer of them where vectors are wide.
    products = known @ known.T
    ridge = _RIDGE * products.diagonal().mean() * torch.eye(len(known), device=known.device)
    signs = targets.to(known) * 2 - 1
    weights = torch.linalg.solve(products + ridge, signs - signs.mean(0))
    scores, there = products @ weights, targets.to(known)
    high = (scores * there).sum(0) / there.sum(0).clamp_min(1)
    low = (scores * (1 - there)).sum(0) / (1 - there).sum(0).clamp_min(1)
    above: Tensor = asked @ known.T @ weights > (high + low) / 2
    return above


def _classify_by_one(
    known: Float[Tensor, "train dim"], truth: Bool[Tensor, " train"], asked: Float[Tensor, "test dim"]
) -> Bool[Tensor, " test"]:
    """Cut the coordinate that tells the known words best, halfway between its classes' means."""
    high, low = known[truth].mean(0), known[~truth].mean(0)
    sign, middle = (high - low).sign(), (high + low) / 2
    fits = _balanced((known - middle) * sign > 0, truth.unsqueeze(1).expand(-1, known.shape[1]))
    best = int(fits.argmax())
    above: Tensor = (asked[:, best] - middle[best]) * sign[best] > 0
    return above


def _balanced(guesses: Bool[Tensor, "words tasks"], targets: Bool[Tensor, "words tasks"]) -> Float[Tensor, " tasks"]:
    """The mean of both classes' shares that were guessed right."""
    shares = [((guesses == targets) & side).sum(0) / side.sum(0) for side in (targets, ~targets)]
    return (shares[0] + shares[1]) / 2
