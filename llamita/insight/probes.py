"""Linear probes: can a property of words be read off their vectors by one direction, or does it only seem so."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llamita.errors import UserError

_FOLDS = 10
_SHUFFLES = 20
_RIDGE = 0.1
_FEWEST_LEMMAS = 5
_SEED = 0

Classify = Callable[
    [Float[Tensor, "train dim"], Bool[Tensor, " train"], Float[Tensor, "test dim"]], Bool[Tensor, " test"]
]


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """Balanced accuracy (the mean of both classes' shares guessed right) on words whose lemma the probe never saw.

    `control` is the same with shuffled labels (`shuffle_by_lemma`), the mean of several (Hewitt & Liang 2019,
    D19-1275): about 0.5, the chance level; for some ten words a class it is less, as a word that is held out
    leaves the others against it. `majority` is the share of the larger class. `one_dimension` is the best that a
    single coordinate does, chosen on the words that it isn't tested on: what it lacks to `accuracy` takes a
    combination of dimensions.
    """

    words: int
    majority: float
    accuracy: float
    control: float
    one_dimension: float


def linear_probe(vectors: Float[Tensor, "words dim"], labels: Sequence[bool], lemmas: Sequence[str]) -> ProbeScore:
    """A ridge classifier in folds by lemma; UserError for a class of fewer than 5 lemmas."""
    for label in (False, True):
        known = {lemma for lemma, found in zip(lemmas, labels, strict=True) if found == label}
        if len(known) < _FEWEST_LEMMAS:
            raise UserError(f"a class of {len(known)} lemmas: a probe needs at least {_FEWEST_LEMMAS}, better 20")
    vectors, truth = vectors.float().cpu(), torch.tensor(labels)
    generator = torch.Generator().manual_seed(_SEED)
    shuffled = [shuffle_by_lemma(truth, lemmas, generator) for _ in range(_SHUFFLES)]
    controls = [_held_out(vectors, one, lemmas, _classify) for one in shuffled]
    share = float(truth.float().mean())
    return ProbeScore(
        words=len(truth),
        majority=max(share, 1 - share),
        accuracy=_held_out(vectors, truth, lemmas, _classify),
        control=sum(controls) / len(controls),
        one_dimension=_held_out(vectors, truth, lemmas, _classify_by_one),
    )


def lemma_folds(
    truth: Bool[Tensor, " words"], lemmas: Sequence[str], folds: int = _FOLDS
) -> list[Bool[Tensor, " words"]]:
    """Which words are tested in each fold: words of one lemma together, both classes spread evenly."""
    labels = _labels_of(truth, lemmas)
    rng = random.Random(_SEED)
    # Lemmas of one class alone, of both, of the other alone: each class is one stretch, so every fold gets some.
    dealt = sorted(labels, key=lambda lemma: (sorted(labels[lemma]), rng.random()))
    folds = min(folds, *(sum(label in found for found in labels.values()) for label in (False, True)))
    number = {lemma: place % folds for place, lemma in enumerate(dealt)}
    numbers = torch.tensor([number[lemma] for lemma in lemmas])
    return [numbers == fold for fold in range(folds)]


def shuffle_by_lemma(
    truth: Bool[Tensor, " words"], lemmas: Sequence[str], generator: torch.Generator
) -> Bool[Tensor, " words"]:
    """Labels exchanged at random between lemmas; between words where a lemma's words differ in them."""
    labels = _labels_of(truth, lemmas)
    if any(len(found) > 1 for found in labels.values()):
        return truth[torch.randperm(len(truth), generator=generator)]
    single = [found == {True} for found in labels.values()]
    order = torch.randperm(len(single), generator=generator).tolist()
    given = dict(zip(labels, (single[place] for place in order), strict=True))
    return torch.tensor([given[lemma] for lemma in lemmas])


def balanced_accuracy(
    guesses: Bool[Tensor, "words tasks"], truth: Bool[Tensor, "words tasks"]
) -> Float[Tensor, " tasks"]:
    """The mean of both classes' shares that were guessed right."""
    shares = [((guesses == truth) & side).sum(0) / side.sum(0) for side in (truth, ~truth)]
    return (shares[0] + shares[1]) / 2


def _labels_of(truth: Bool[Tensor, " words"], lemmas: Sequence[str]) -> dict[str, set[bool]]:
    labels: dict[str, set[bool]] = {}
    for lemma, label in zip(lemmas, truth.tolist(), strict=True):
        labels.setdefault(lemma, set()).add(label)
    return labels


def _held_out(
    vectors: Float[Tensor, "words dim"], truth: Bool[Tensor, " words"], lemmas: Sequence[str], classify: Classify
) -> float:
    guesses = torch.zeros_like(truth)
    for test in lemma_folds(truth, lemmas):
        guesses[test] = classify(vectors[~test], truth[~test], vectors[test])
    return float(balanced_accuracy(guesses.unsqueeze(1), truth.unsqueeze(1)))


def _classify(
    known: Float[Tensor, "train dim"], truth: Bool[Tensor, " train"], asked: Float[Tensor, "test dim"]
) -> Bool[Tensor, " test"]:
    """Ridge regression on labels of -1 and 1, cut halfway between the classes' mean scores."""
    mean = known.mean(0)
    known, asked, signs = known - mean, asked - mean, truth.float() * 2 - 1
    signs = signs - signs.mean()
    ridge = _RIDGE * known.square().sum(1).mean().clamp_min(1e-12)
    # By words or by dimensions, whichever are fewer: the same weights.
    if len(known) < known.shape[1]:
        weights = known.T @ torch.linalg.solve(known @ known.T + ridge * torch.eye(len(known)), signs)
    else:
        weights = torch.linalg.solve(known.T @ known + ridge * torch.eye(known.shape[1]), known.T @ signs)
    scores = known @ weights
    above: Tensor = asked @ weights > (scores[truth].mean() + scores[~truth].mean()) / 2
    return above


def _classify_by_one(
    known: Float[Tensor, "train dim"], truth: Bool[Tensor, " train"], asked: Float[Tensor, "test dim"]
) -> Bool[Tensor, " test"]:
    """Cut the coordinate that tells the known words best, halfway between its classes' means."""
    high, low = known[truth].mean(0), known[~truth].mean(0)
    sign, middle = (high - low).sign(), (high + low) / 2
    fits = balanced_accuracy((known - middle) * sign > 0, truth.unsqueeze(1).expand(-1, known.shape[1]))
    best = int(fits.argmax())
    above: Tensor = (asked[:, best] - middle[best]) * sign[best] > 0
    return above
