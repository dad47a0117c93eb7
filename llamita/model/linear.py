"""Linear: the matrix product that decoder blocks are made of."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llamita.kernels import joint
from llamita.model.precision import compute_dtype


class Linear(nn.Linear):
    """nn.Linear without a bias; `fp8` has a GPU compute its products in eight bits while it trains."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.fp8 = False

    def forward(self, input: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """input @ weight.T"""
        if joint.usable(input):
            return joint.product(input.to(compute_dtype(input)), self.weight, fp8=self.fp8)
        return F.linear(input, self.weight)
