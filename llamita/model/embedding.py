"""TokenEmbedding: the lookup table that turns token ids into vectors."""

from jaxtyping import Float, Int
from torch import Tensor, nn


class TokenEmbedding(nn.Embedding):
    """A table of shape (vocab_size, n_embd): row i is the vector of token i, times a fixed scale on the way in.

    The scale lets one table serve two roles: rows small enough to read logits out, a stream large enough to
    be heard beside the decoder blocks. `grad_scale` multiplies the gradient that comes back through the lookup
    and changes no vector: with it a tied table learns more from what follows a word, and less from where the
    word fits (arXiv 2603.26663).
    """

    def __init__(self, vocab_size: int, n_embd: int, *, scale: float = 1.0) -> None:
        super().__init__(vocab_size, n_embd)
        self.scale = scale
        self.grad_scale = 1.0

    def forward(self, input: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch n_embd"]:
        """The rows of these ids."""
        rows = super().forward(input)
        if self.grad_scale != 1.0:
            rows = rows + (self.grad_scale - 1.0) * (rows - rows.detach())
        return rows if self.scale == 1.0 else rows * self.scale
