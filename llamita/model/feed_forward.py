"""SwiGLU: a gated feed-forward network, the same for every position."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llamita.kernels import joint
from llamita.model.linear import Linear


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, hidden_dim)
        self.up_proj = Linear(dim, hidden_dim)
        self.down_proj = Linear(hidden_dim, dim)

    def forward(self, x: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch seq dim"]:
        """Each vector's update."""
        if joint.usable(x):
            hidden = joint.gated(x, self.gate_proj.weight, self.up_proj.weight, fp8=self.gate_proj.fp8)
        else:
            hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        update: Tensor = self.down_proj(hidden)
        return update
