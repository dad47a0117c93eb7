"""Keys and values of the positions seen so far, so that generating a token costs one position."""

import torch
from jaxtyping import Float
from torch import Tensor

from llamita.config import ModelConfig


class KVCache:
    """Room for `max_seq_len` positions of every layer; `length` of them are filled."""

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.n_layers, batch_size, config.max_seq_len, config.n_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def update(
        self,
        layer: int,
        keys: Float[Tensor, "batch seq kv_heads dim"],
        values: Float[Tensor, "batch seq kv_heads dim"],
    ) -> tuple[Float[Tensor, "batch total kv_heads dim"], Float[Tensor, "batch total kv_heads dim"]]:
        """Store a layer's new positions and return all of them; `advance` moves on, once for all layers."""
        end = self.length + keys.shape[1]
        self.keys[layer, :, self.length : end] = keys
        self.values[layer, :, self.length : end] = values
        return self.keys[layer, :, :end], self.values[layer, :, :end]

    def advance(self, positions: int) -> None:
        """Count new positions as seen."""
        self.length += positions
