"""LLaMaTransformer: embeddings -> decoder blocks -> norm -> logits."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llamita.config import ModelConfig
from llamita.model.attention import Rope, document_mask
from llamita.model.block import DecoderBlock
from llamita.model.embedding import TokenEmbedding
from llamita.model.kv_cache import KVCache
from llamita.model.norm import RMSNorm
from llamita.model.precision import compute_dtype
from llamita.model.rope import rope_tables

# Standard deviations at width 1; both are 0.02 or little less at 768 (docs/design.md).
_BODY_STD = 0.6
_HEAD_STD = 0.5


class LLaMaTransformer(nn.Module):
    """A decoder-only LLaMA (arXiv 2302.13971), read from top to bottom by `embed`, `hidden` and `forward`."""

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TokenEmbedding(config.vocab_size, config.n_embd, scale=config.embedding_scale)
        learned = config.positions == "learned"
        self.position_embeddings = nn.Embedding(config.max_seq_len, config.n_embd) if learned else None
        self.decoder_blocks = nn.ModuleList(DecoderBlock(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.n_embd, eps=config.norm_eps)
        self.recompute_layers = 0  # so many blocks, the first ones, keep nothing for the backward pass
        # A tied model has no head of its own to come apart from the table.
        tied = config.tie_embeddings
        self.lm_head = None if tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_buffers()
        self.init_weights()

    def init_buffers(self) -> None:
        """Compute what follows from the config alone and so is never saved."""
        config = self.config
        if config.positions == "rope":
            scaling, device = config.rope_scaling, self.embeddings.weight.device
            cos, sin = rope_tables(config.head_dim, config.max_seq_len, config.rope_theta, scaling)
            self.register_buffer("rope_cos", cos.to(device), persistent=False)
            self.register_buffer("rope_sin", sin.to(device), persistent=False)

    @property
    def output_weight(self) -> Float[Tensor, "vocab_size n_embd"]:
        """The table that logits are read from: the embeddings themselves when tied."""
        return self.embeddings.weight if self.lm_head is None else self.lm_head.weight

    @property
    def readout(self) -> Float[Tensor, "tokens n_embd"]:
        """The rows of `output_weight` that logits are read from; the others are at its end."""
        silent = self.config.unpredicted_rows
        return self.output_weight[:-silent] if silent else self.output_weight

    def embed(self, tokens: Int[Tensor, "*batch seq"]) -> Float[Tensor, "*batch seq n_embd"]:
        """The vectors of these tokens: (seq_len,) gives (seq_len, n_embd), (batch, seq_len) one dimension more."""
        vectors: Tensor = self.embeddings(tokens)
        return vectors

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        cache: KVCache | None = None,
        documents: Int[Tensor, "batch seq"] | Int[Tensor, " starts"] | None = None,
    ) -> Float[Tensor, "batch seq n_embd"]:
        """What the last layer says of each position, normalised.

        With a cache the tokens follow those already in it. `documents` numbers the document of each position, or, on
        a GPU in half precision, says where in the flattened batch each begins and the last ends (int32); no position
        then sees another document; a cache doesn't remember them, so it excludes `documents`.
        ValueError beyond max_seq_len positions.
        """
        assert cache is None or documents is None, "give a cache or documents, not both"
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > self.config.max_seq_len:
            raise ValueError(f"{end} positions, but model.max_seq_len is {self.config.max_seq_len}")
        x = self.embed(tokens)
        if self.position_embeddings is not None:
            x = x + self.position_embeddings.weight[start:end]
        if x.device.type != "cpu":
            x = x.to(compute_dtype(x))
        rope: Rope | None = None
        if self.config.positions == "rope":
            rope = self.rope_cos[start:end], self.rope_sin[start:end]
        mask = None if documents is None else document_mask(documents)
        for layer, block in enumerate(self.decoder_blocks):
            if layer < self.recompute_layers and torch.is_grad_enabled():
                x = checkpoint(block, x, rope, cache, mask, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, rope, cache, mask)
        if cache is not None:
            cache.advance(tokens.shape[1])
        normed: Tensor = self.norm(x)
        return normed

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        cache: KVCache | None = None,
        documents: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq tokens"]:
        """Logits of the token that follows each position, one a row of `readout`."""
        return F.linear(self.hidden(tokens, cache, documents), self.readout)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw every weight anew from the generator."""
        config = self.config

        def normal(weight: Tensor, std: float) -> None:
            weight.normal_(0.0, std, generator=generator)

        normal(self.embeddings.weight, config.embedding_std)
        if self.lm_head is not None:
            normal(self.lm_head.weight, min(0.02, _HEAD_STD / math.sqrt(config.n_embd)))
        if self.position_embeddings is not None:
            normal(self.position_embeddings.weight, config.embedding_std * config.embedding_scale)
        for module in self.decoder_blocks.modules():
            if isinstance(module, nn.Linear):
                normal(module.weight, _BODY_STD / math.sqrt(module.in_features))
            elif isinstance(module, RMSNorm):
                module.weight.fill_(1.0)
        self.norm.weight.fill_(1.0)
        for block in self.decoder_blocks:
            assert isinstance(block, DecoderBlock)
            block.attention.o_proj.weight.zero_()
            block.feed_forward.down_proj.weight.zero_()
