import pytest
import torch
import torch.nn.functional as F

from llamita.insight import cosine_scan
from llamita.insight.cosine_scan import CosineScan


def rows_of(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(5000, 128, generator=generator)
    if kind == "outliers":
        rows[:, 7] *= 60
    if kind == "clustered":
        rows = rows[:50].repeat(100, 1) + 0.02 * rows
    if kind == "one-sided":
        rows = rows + 4.0
    return F.normalize(rows, dim=1)


@pytest.mark.parametrize("kind", ["plain", "outliers", "clustered", "one-sided"])
def test_the_coarse_copy_changes_no_answer(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(cosine_scan, "_LARGE", 1)
    rows = rows_of(kind)
    plain, prepared = CosineScan(rows), CosineScan(rows)
    prepared.prepare()
    assert prepared._coarse is not None and prepared._coarse.dtype == torch.int8
    for number in range(0, 5000, 250):
        query = F.normalize(rows[number] + 0.3 * rows[(7 * number + 1) % 5000], dim=0)
        expected, found = plain.top(query, 10, [number]), prepared.top(query, 10, [number])
        # The same products in another order of summation may exchange rows that are equally near.
        torch.testing.assert_close(found[1], expected[1], atol=2e-6, rtol=0)
        differ = (found[0] != expected[0]).nonzero()[:, 0]
        assert all((expected[1] - expected[1][place]).abs().sort().values[1] < 2e-6 for place in differ)
        assert number not in found[0]


def test_the_coarse_copy_spares_most_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine_scan, "_LARGE", 1)
    scan = CosineScan(F.normalize(torch.randn(20_000, 512, generator=torch.Generator().manual_seed(0)), dim=1))
    scan.prepare()
    candidates = scan._candidates(scan.unit[3], 11)
    assert candidates is not None and 11 <= len(candidates) < 1500


def test_a_kernel_that_errs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine_scan, "_LARGE", 1)
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda *given: torch.zeros(1, len(given[1])).bfloat16())
    scan = CosineScan(rows_of("plain"))
    scan.prepare()
    assert scan._coarse is None
    assert scan.top(scan.unit[5], 1, [])[0].tolist() == [5]


def test_small_tables_are_read_as_they_are() -> None:
    scan = CosineScan(rows_of("plain"))
    scan.prepare()
    assert scan._coarse is None


def test_asking_for_more_than_there_is_gives_what_there_is() -> None:
    scan = CosineScan(F.normalize(torch.eye(4) + 0.1, dim=1))
    assert sorted(scan.top(scan.unit[0], 10, [0, 2])[0].tolist()) == [1, 3]
    assert len(scan.top(scan.unit[0], 10, [0, 1, 2, 3])[0]) == 0
