"""Small models for tests."""

from typing import Any

import torch
from torch import Tensor

from llamita.config import ModelConfig
from llamita.model.norm import RMSNorm
from llamita.model.transformer import LLaMaTransformer


def tiny_config(**changes: Any) -> ModelConfig:
    """A config with grouped queries, small enough for loops; `changes` are ModelConfig's own fields."""
    shape = {"vocab_size": 61, "n_embd": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 16}
    return ModelConfig(**{**shape, **changes})


def random_tokens(*shape: int, vocab_size: int = 61, seed: int = 0) -> Tensor:
    """Token ids, each as likely as any other."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def stirred(config: ModelConfig, seed: int = 0) -> LLaMaTransformer:
    """A model in which every weight speaks: fresh blocks add nothing, and so would hide any fault in them."""
    generator = torch.Generator().manual_seed(seed)
    model = LLaMaTransformer(config)
    model.init_weights(generator)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not model.lm_head:
            module.weight.normal_(0, module.in_features**-0.5, generator=generator)
        elif isinstance(module, RMSNorm):
            module.weight.normal_(1, 0.2, generator=generator)
    return model
