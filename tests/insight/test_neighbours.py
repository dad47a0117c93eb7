import torch

from llamita.insight.neighbours import nearest


def test_nearest_rows_are_those_of_the_highest_cosine_by_brute_force() -> None:
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    cosines = [torch.cosine_similarity(table[7], row, dim=0).item() for row in table]
    expected = sorted((index for index in range(50) if index != 7), key=lambda index: -cosines[index])[:5]
    found = nearest(table, 7, 5)
    assert [index for index, _ in found] == expected
    torch.testing.assert_close(
        torch.tensor([value for _, value in found]), torch.tensor([cosines[i] for i in expected])
    )


def test_excluded_rows_and_the_row_itself_are_never_neighbours() -> None:
    table = torch.eye(6) + 0.1
    found = [index for index, _ in nearest(table, 0, 10, exclude=[1, 2])]
    assert sorted(found) == [3, 4, 5]
