from pathlib import Path

import pytest
import torch

from llamita.errors import UsageError, UserError
from llamita.observatory.plots import plot_losses, plot_map, principal_plane
from llamita.runs.folder import Run


def cloud(seed: int = 0) -> torch.Tensor:
    return torch.randn(12, 7, generator=torch.Generator().manual_seed(seed)) * torch.tensor([9, 4, 1, 1, 1, 1, 1.0])


def test_the_plane_holds_the_most_variance_and_its_signs_do_not_depend_on_luck() -> None:
    vectors = cloud()
    points, shares = principal_plane(vectors)
    values = torch.linalg.eigvalsh(torch.cov((vectors - vectors.mean(0)).double().T)).flip(0)
    assert shares == pytest.approx((values[:2] / values.sum()).tolist())
    torch.testing.assert_close(points.var(0).double(), values[:2], rtol=1e-5, atol=1e-5)
    # Mirrored or moved vectors are drawn mirrored as they are, not by the whim of a decomposition.
    torch.testing.assert_close(principal_plane(vectors + 3.0)[0], points, atol=1e-4, rtol=1e-4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(principal_plane(vectors[order])[0], points[order], atol=1e-4, rtol=1e-4)


def test_equal_vectors_are_a_point_and_no_error() -> None:
    points, shares = principal_plane(torch.ones(4, 3))
    assert not points.any() and shares == (0.0, 0.0)


def test_a_map_is_drawn_as_both_kinds_and_comes_again(tmp_path: Path) -> None:
    words = {f"w{number}": "ab"[number % 2] for number in range(10)} | {"$x$": "a", "_^": "b"}
    for folder in ("one", "two"):
        plot_map(cloud(), cloud(1), words, tmp_path / folder / "map.png", tmp_path / folder / "map.svg")
    for name in ("map.png", "map.svg"):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert first == second and len(first) > 10_000


def test_too_few_words_and_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 words: a map needs at least 3"):
        plot_map(cloud()[:2], cloud()[:2], {"a": "", "b": ""}, tmp_path / "map.png")
    with pytest.raises(UsageError, match=r"map.gif: a map is drawn as .png or .svg"):
        plot_map(cloud(), cloud(), dict.fromkeys(map(str, range(12)), ""), tmp_path / "map.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        plot_map(cloud(), cloud(), dict.fromkeys(map(str, range(12)), ""), tmp_path / "file" / "map.png")


def test_losses_that_cannot_be_drawn_are_left_out_and_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for number, loss in enumerate((3.0, "low", None, [1], float("nan"), 1e308, -1e308, 10**300, 2.0)):
        run.append_metrics({"step": number, "loss": loss, "val_loss": loss})
    assert plot_losses(run).stat().st_size > 1000
    (tmp_path / "loss.png").unlink()
    (tmp_path / "loss.png").mkdir()
    with pytest.raises(UserError, match="loss.png: can't be written"):
        plot_losses(run)
