"""The rows of highest cosine among many, read as fast as memory allows and still exactly."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Below so many values a plain product is quick enough.
_LARGE = 1 << 26
# From this share of the rows on, gathering candidates costs more than reading everything.
_MOST_CANDIDATES = 1 / 16
_ROWS_AT_A_TIME = 4096
# Relative error of a bfloat16 result, and of sums of some thousand fp32 products, each with room to spare.
_ROUNDING, _SUMMING = 2.0**-8, 1e-3


class CosineScan:
    """Unit rows to search. `prepare` makes a coarse copy of one byte a value that large tables are read by first.

    What the coarse copy can be wrong by is known for each row, so rows that might be among the best are computed
    anew from the exact ones: the answer is the same with the copy and without it.
    """

    def __init__(self, unit: Float[Tensor, "rows dim"]) -> None:
        self.unit = unit
        self._coarse: Tensor | None = None

    def prepare(self) -> None:
        """Make the coarse copy, where the table is large and a kernel reads it; a quarter more memory."""
        kernel = getattr(torch, "_weight_int8pack_mm", None)
        if kernel is None or self.unit.device.type != "cpu" or self.unit.numel() < _LARGE:
            return
        self._coarse = torch.empty(self.unit.shape, dtype=torch.int8)
        self._scales = torch.empty(len(self.unit), dtype=torch.bfloat16)
        self._errors = torch.empty(len(self.unit))
        room = torch.empty(_ROWS_AT_A_TIME, self.unit.shape[1])
        for start in range(0, len(self.unit), _ROWS_AT_A_TIME):
            some = slice(start, start + _ROWS_AT_A_TIME)
            rows = self.unit[some]
            # Rounded before use, so that a scale has no error of its own; 127.25 at most still rounds to 127.
            largest = torch.linalg.vector_norm(rows, torch.inf, dim=1)
            self._scales[some] = (largest / 127).clamp_min(torch.finfo(torch.bfloat16).tiny).bfloat16()
            scales = self._scales[some].float().unsqueeze(1)
            coarse = torch.div(rows, scales, out=room[: len(rows)]).round_()
            self._coarse[some] = coarse
            self._errors[some] = coarse.mul_(scales).sub_(rows).norm(dim=1)
        exact, (roughly, within) = self.unit[:64] @ self.unit[0], self._roughly(self.unit[0])
        if bool(((exact - roughly[:64]).abs() > within[:64]).any()):
            self._coarse = None  # a kernel that sums otherwise than it is trusted to

    def top(
        self, query: Float[Tensor, " dim"], count: int, exclude: list[int]
    ) -> tuple[Int[Tensor, " count"], Float[Tensor, " count"]]:
        """The rows of the highest cosine to a unit vector, but for the excluded ones, and their cosines."""
        wanted = min(count, len(self.unit) - len(set(exclude)))
        candidates = self._candidates(query, wanted + len(exclude))
        if candidates is None:
            cosines = self.unit @ query
            cosines[exclude] = -torch.inf
        else:
            candidates = candidates[~torch.isin(candidates, torch.tensor(exclude, dtype=torch.long))]
            cosines = self.unit[candidates] @ query
        best = cosines.topk(max(wanted, 0))
        return best.indices if candidates is None else candidates[best.indices], best.values

    def _roughly(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """The cosine of every row as the coarse copy tells it, and what each may be wrong by."""
        assert self._coarse is not None
        rounded = query.bfloat16()
        roughly = torch._weight_int8pack_mm(rounded.unsqueeze(0), self._coarse, self._scales)[0].float()
        of_query = (query - rounded.float()).norm() * (1 + self._errors)
        return roughly, self._errors + of_query + _ROUNDING * roughly.abs() + _SUMMING

    def _candidates(self, query: Tensor, count: int) -> Tensor | None:
        """Rows that may be among the best `count`; None where that is no saving."""
        if self._coarse is None or not 0 < count <= len(self.unit):
            return None
        roughly, within = self._roughly(query)
        least = (roughly - within).topk(count).values[-1]
        candidates = (roughly + within >= least).nonzero()[:, 0]
        return candidates if len(candidates) <= _MOST_CANDIDATES * len(self.unit) else None
