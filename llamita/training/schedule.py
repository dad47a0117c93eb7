"""The learning rate as a pure function of the step."""

import math

from llamita.config import OptimizerConfig


def lr_multiplier(step: int, steps: int, config: OptimizerConfig) -> float:
    """The share of the peak learning rate at a step (0-based) of a run of `steps`.

    "cosine" falls along half a cosine after the warm-up; "wsd" (warm-up, stable, decay; arXiv 2404.06395)
    stays at the peak until the last `decay_fraction` of the run, then falls in a straight line.
    """
    warmup = min(config.warmup_steps, steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    floor = config.min_lr_ratio
    if config.schedule == "cosine":
        progress = (step - warmup) / max(steps - warmup, 1)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    decay_steps = max(min(round(config.decay_fraction * steps), steps - warmup), 1)
    remaining = max(steps - step, 0) / decay_steps
    return floor + (1 - floor) * min(remaining, 1.0)
