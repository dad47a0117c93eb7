"""What one dimension of a table of embeddings means, measured against directions drawn at random."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llamita.errors import UsageError
from llamita.insight.words import stands_for_text
from llamita.text.tokenizer import Tokenizer

_ENDS = 10  # tokens at each end of a direction
_DIRECTIONS = 200  # random directions to compare with
_MEASURED = 64  # dimensions whose mean stands for all
_ROWS = 20_000  # enough to see what a direction gathers; the frequent tokens of BPE have the lowest ids
_CHANCE = 95.0  # the percentile among random directions above which one is called meaningful


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A token and its row's value on a dimension."""

    id: int
    token: str
    value: float


@dataclass(frozen=True, slots=True)
class DimensionStudy:
    """What lies at the ends of a dimension, and whether that is more alike than at the ends of any direction.

    `random_highest` and `random_lowest` are the ends of the first of the random directions, to look at beside.
    A coherence is the mean cosine between the `ends` rows at an end of a direction, averaged over both ends,
    with the direction's own component taken out of the rows: what is left tells whether they have anything
    else in common. A percentile is the share, in percent, of `directions` random directions of lower coherence;
    50 is chance. `mean_percentile` is over `measured` dimensions, evenly spaced. `rows` is how many rows were
    looked at. All figures are NaN where there are too few rows.
    """

    dimension: int
    highest: tuple[Coordinate, ...]
    lowest: tuple[Coordinate, ...]
    random_highest: tuple[Coordinate, ...]
    random_lowest: tuple[Coordinate, ...]
    coherence: float
    percentile: float
    random_mean: float
    random_std: float
    mean_percentile: float
    ends: int
    rows: int
    directions: int
    measured: int
    verdict: str


def study_dimension(
    table: Float[Tensor, "vocab_size n_embd"],
    tokenizer: Tokenizer,
    dimension: int | None = None,
    chosen: Sequence[int] = (),
) -> DimensionStudy:
    """Study a dimension; by default the one on which the rows `chosen` stand out most from the table.

    Rows that no text is made of are left out. UsageError for a dimension that the table doesn't have.
    """
    n_embd = table.shape[1]
    if dimension is not None and not 0 <= dimension < n_embd:
        raise UsageError(f"--dimension {dimension}: n_embd is {n_embd}, so choose 0 to {n_embd - 1}")
    ids = _ids_of_text(tokenizer)
    rows = table[torch.tensor(ids, dtype=torch.long, device=table.device)].float()
    if dimension is None:
        dimension = _outstanding(rows, table[list(chosen)].float()) if ids and chosen else 0
    ends = min(_ENDS, len(ids) // 2)
    random = _random_directions(n_embd).to(table.device)

    def at_ends(values: Tensor) -> tuple[tuple[Coordinate, ...], tuple[Coordinate, ...]]:
        order = values.argsort(stable=True).tolist()
        highest, lowest = order[::-1][:ends], order[:ends]
        names = dict(zip(highest + lowest, tokenizer.tokens([ids[row] for row in highest + lowest]), strict=True))
        made = ([Coordinate(ids[row], names[row], float(values[row])) for row in side] for side in (highest, lowest))
        return tuple(next(made)), tuple(next(made))

    measured = torch.linspace(0, n_embd - 1, min(_MEASURED, n_embd)).round().long()
    axes = F.one_hot(torch.cat((torch.tensor([dimension]), measured)), n_embd).to(rows)
    found, by_chance = coherence(rows, axes, ends), coherence(rows, random, ends)
    percentile, *percentiles = (_percentile(value, by_chance) for value in found.tolist())
    mean_percentile = sum(percentiles) / len(percentiles)
    highest, lowest = at_ends(rows[:, dimension])
    random_highest, random_lowest = at_ends(rows @ random[0])
    return DimensionStudy(
        dimension=dimension,
        highest=highest,
        lowest=lowest,
        random_highest=random_highest,
        random_lowest=random_lowest,
        coherence=found[0].item(),
        percentile=percentile,
        random_mean=by_chance.mean().item(),
        random_std=by_chance.std().item(),
        mean_percentile=mean_percentile,
        ends=ends,
        rows=len(ids),
        directions=_DIRECTIONS,
        measured=len(measured),
        verdict=_verdict(dimension, percentile, mean_percentile, len(measured)),
    )


def coherence(
    rows: Float[Tensor, "rows n_embd"], directions: Float[Tensor, "directions n_embd"], ends: int
) -> Float[Tensor, " directions"]:
    """Of each unit direction: how alike the rows at its two ends are beside it; NaN for ends of fewer than two."""
    if ends < 2:
        return rows.new_full((len(directions),), math.nan)
    along = rows @ directions.T  # (rows, directions)
    total = torch.zeros_like(along[0])
    for largest in (True, False):
        values, numbers = along.topk(ends, dim=0, largest=largest)
        beside = rows[numbers] - values.unsqueeze(2) * directions  # (ends, directions, n_embd)
        units = F.normalize(beside, dim=2)
        # The square of their sum holds each pair twice, and each with itself.
        pairs = units.sum(0).square().sum(1) - units.square().sum((0, 2))
        total += pairs / (ends * (ends - 1))
    return total / 2


def _ids_of_text(tokenizer: Tokenizer) -> list[int]:
    """The lowest ids that text is made of."""
    made = (number for number in range(tokenizer.get_vocab_size()) if stands_for_text(tokenizer, number))
    return list(itertools.islice(made, _ROWS))


def _outstanding(rows: Float[Tensor, "rows n_embd"], chosen: Float[Tensor, "chosen n_embd"]) -> int:
    """The dimension on which the chosen rows are the most standard deviations away from the mean."""
    spread = rows.std(0, correction=0).clamp_min(torch.finfo(rows.dtype).tiny)
    return int(((chosen - rows.mean(0)).abs().mean(0) / spread).argmax())


def _random_directions(n_embd: int) -> Float[Tensor, "directions n_embd"]:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(_DIRECTIONS, n_embd, generator=generator), dim=1)


def _percentile(value: float, among: Float[Tensor, " directions"]) -> float:
    """The share of values below this one, in percent; equal ones count half."""
    if math.isnan(value):
        return math.nan
    below, equal = (among < value).sum().item(), (among == value).sum().item()
    return 100 * (below + equal / 2) / len(among)


def _verdict(dimension: int, percentile: float, mean: float, measured: int) -> str:
    if math.isnan(percentile):
        return "There are too few tokens to tell what a dimension means."
    # Percentiles of directions without meaning are uniform: their mean strays twice this from 50 by chance.
    error = 100 * math.sqrt((1 / measured + 1 / _DIRECTIONS) / 12)
    axis, axes = ("more" if more else "no more" for more in (percentile >= _CHANCE, mean > 50 + 2 * error))
    return (
        f"By this measure dimension {dimension} means {axis} than a random direction, and the dimensions on the whole "
        f"mean {axes}."
    )
