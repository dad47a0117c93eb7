"""DecoderBlock: attention, then the feed-forward network, each added to the stream it reads."""

from jaxtyping import Float
from torch import Tensor, nn

from llamita.config import ModelConfig
from llamita.model.attention import CausalSelfAttention, Mask, Rope
from llamita.model.feed_forward import FeedForward
from llamita.model.kv_cache import KVCache
from llamita.model.norm import RMSNorm


class DecoderBlock(nn.Module):
    """One pre-norm layer of the LLaMA decoder."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = RMSNorm(config.n_embd, eps=config.norm_eps)
        self.attention = CausalSelfAttention(
            dim=config.n_embd,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            qk_norm=config.qk_norm,
            norm_eps=config.norm_eps,
        )
        self.feed_forward_norm = RMSNorm(config.n_embd, eps=config.norm_eps)
        self.feed_forward = FeedForward(dim=config.n_embd, hidden_dim=config.ffn_dim)

    def forward(
        self,
        x: Float[Tensor, "batch seq n_embd"],
        rope: Rope | None,
        cache: KVCache | None = None,
        mask: Mask | None = None,
    ) -> Float[Tensor, "batch seq n_embd"]:
        """The stream after this layer."""
        attended = self.attention(self.attention_norm(x), rope, layer=self.layer, cache=cache, mask=mask)
        x = x + attended
        stream: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return stream
