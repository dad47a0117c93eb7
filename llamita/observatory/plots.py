"""Pictures of runs."""

from pathlib import Path

from matplotlib.figure import Figure

from llamita.runs.folder import Run


def plot_losses(run: Run, floor: float | None = None) -> Path:
    """Draw training and validation loss over steps into the run's loss.png, with an entropy floor if known."""
    rows = list(run.metrics())
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for key, label, style in (("loss", "training", "-"), ("val_loss", "validation", "o")):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4, linewidth=1.5)
    if floor is not None:
        axes.axhline(floor, color="black", linestyle="--", linewidth=1, label=f"entropy floor {floor:.3f}")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=run.name)
    axes.grid(alpha=0.3)
    axes.legend()
    path = run.path / "loss.png"
    figure.savefig(path, dpi=120)
    return path
