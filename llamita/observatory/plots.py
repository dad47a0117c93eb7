"""Pictures of runs."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from llamita.errors import UsageError, UserError
from llamita.runs.folder import Run

_LARGEST_LOSS = 1e30  # beyond it a picture's axes overflow


def plot_losses(run: Run, floor: float | None = None) -> Path:
    """Draw training and validation loss over steps into the run's loss.png, with an entropy floor if known."""
    rows = list(run.metrics())
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for key, label, style in (("loss", "training", "-"), ("val_loss", "validation", "o")):
        points = [(row["step"], row[key]) for row in rows if _is_drawn(row.get(key))]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4, linewidth=1.5)
    if floor is not None:
        axes.axhline(floor, color="black", linestyle="--", linewidth=1, label=f"entropy floor {floor:.3f}")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=run.name)
    axes.grid(alpha=0.3)
    axes.legend()
    path = run.path / "loss.png"
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror}); make room, or let it be written") from error
    return path


def _is_drawn(value: object) -> bool:
    return isinstance(value, float | int) and abs(value) < _LARGEST_LOSS


def principal_plane(vectors: Float[Tensor, "words dim"]) -> tuple[Float[Tensor, "words 2"], tuple[float, float]]:
    """Vectors in their first two principal components, and the share of the variance that each holds.

    A component's sign is free; here its entry of the largest magnitude is positive, so a picture comes again.
    UserError for numbers that are not finite.
    """
    if not vectors.isfinite().all():
        raise UserError("the vectors hold numbers that are not finite: use an earlier checkpoint of the model")
    exact = vectors.double()
    centered = exact - exact.mean(0)
    _, sizes, components = torch.linalg.svd(centered, full_matrices=False)
    components = components[:2]
    largest = components.abs().argmax(1, keepdim=True)
    components = components * components.gather(1, largest).sign()
    shares = (sizes.square() / sizes.square().sum().clamp_min(1e-30))[:2].tolist()
    return (centered @ components.T).float(), (shares[0], shares[1])


def plot_map(
    before: Float[Tensor, "words dim"],
    after: Float[Tensor, "words dim"],
    groups: Mapping[str, str],
    *files: Path,
) -> None:
    """Draw the vectors of words, named and coloured by group, before and after training, side by side.

    UsageError for fewer than 3 words and for a suffix that isn't .png or .svg.
    """
    if len(groups) < 3:
        raise UsageError(f"{len(groups)} words: a map needs at least 3")
    for file in files:
        if file.suffix not in (".png", ".svg"):
            raise UsageError(f"{file}: a map is drawn as .png or .svg; name a file that ends so")
    names = list(dict.fromkeys(groups.values()))
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    for axes, vectors, title in zip(figure.subplots(1, 2), (before, after), ("before", "after"), strict=True):
        points, shares = principal_plane(vectors)
        for number, name in enumerate(names):
            chosen = [row for row, group in enumerate(groups.values()) if group == name]
            axes.scatter(*points[chosen].T.tolist(), s=14, color=f"C{number}", label=name)
        for (word, group), (x, y) in zip(groups.items(), points.tolist(), strict=True):
            color = f"C{names.index(group)}"
            axes.annotate(word, (x, y), (3, 2), textcoords="offset points", fontsize=8, color=color, parse_math=False)
        axes.margins(0.1)
        axes.set_title(f"{title} training")
        axes.set(xlabel=f"first component ({shares[0]:.0%} of the variance)", ylabel=f"second ({shares[1]:.0%})")
        axes.grid(alpha=0.2)
    if len(names) > 1:
        figure.axes[1].legend(loc="best", fontsize=9)
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Without a date and random names, the same vectors give the same file.
            with rc_context({"svg.hashsalt": "llamita"}):
                figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error}") from error
