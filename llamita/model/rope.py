"""Rotary position embeddings: queries and keys are turned by an angle that grows with their position."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from llamita.config import RopeScaling


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> tuple[Float[Tensor, " half"], float]:
    """Radians a position for each pair of coordinates, and the factor on cos and sin (arXiv 2104.09864)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / theta**exponents
    if scaling is None:
        return frequencies, 1.0
    if scaling.kind == "linear":
        return frequencies / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling), 1.0
    # YaRN's temperature, eq. 22 of arXiv 2309.00071.
    temperature = 0.1 * math.log(scaling.factor) + 1.0
    return _yarn(frequencies, head_dim, theta, scaling), temperature


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's rule: slow waves stretched, fast ones kept, those between blended."""
    turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return torch.lerp(frequencies / scaling.factor, frequencies, keep.clamp(0, 1))


def _yarn(frequencies: Tensor, head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """YaRN's NTK-by-parts: a linear ramp over the pair's index between two numbers of turns."""

    def index_of(turns: float) -> float:
        wavelength = scaling.original_max_seq_len / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(theta))

    low = max(math.floor(index_of(scaling.beta_fast)), 0)
    high = min(math.ceil(index_of(scaling.beta_slow)), head_dim - 1)
    ramp = (torch.arange(head_dim // 2).float() - low) / max(high - low, 0.001)
    return torch.lerp(frequencies, frequencies / scaling.factor, ramp.clamp(0, 1))


def rope_tables(
    head_dim: int, max_seq_len: int, theta: float, scaling: RopeScaling | None
) -> tuple[Float[Tensor, "max_seq half"], Float[Tensor, "max_seq half"]]:
    """Cosines and sines of every position's angles."""
    frequencies, factor = rope_frequencies(head_dim, theta, scaling)
    angles = torch.outer(torch.arange(max_seq_len).float(), frequencies)
    return angles.cos() * factor, angles.sin() * factor


def rotate(
    x: Float[Tensor, "batch seq heads head_dim"],
    cos: Float[Tensor, "seq half"],
    sin: Float[Tensor, "seq half"],
) -> Float[Tensor, "batch seq heads head_dim"]:
    """x turned by its position's angles; coordinate i pairs with i + head_dim / 2, as in Hugging Face."""
    cos, sin = cos.to(x.dtype).unsqueeze(1), sin.to(x.dtype).unsqueeze(1)  # (T, 1, E/2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
