"""Small tokenizers, a model with random weights and one that says a given text."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from llamita.config import ModelConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.text.tokenizer import Tokenizer

MakeModel = Callable[..., LLaMaTransformer]


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return Tokenizer.train([], vocab_size=0, kind="byte")


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A model whose every layer matters and whose next tokens are neither certain nor arbitrary.

    It hardly ever draws one of the `unlikely` ids.
    """

    def make(vocab_size: int = 320, unlikely: Sequence[int] = (), seed: int = 0, **settings: Any) -> LLaMaTransformer:
        shape = {"n_embd": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 32, **settings}
        model = LLaMaTransformer(ModelConfig(vocab_size=vocab_size, tie_embeddings=False, **shape))
        generator = torch.Generator().manual_seed(seed)
        model.init_weights(generator)
        with torch.no_grad():
            for parameter in model.decoder_blocks.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
            model.output_weight.normal_(0, 0.4, generator=generator)
            model.output_weight[list(unlikely)] = 0.0
            model.embeddings.weight.normal_(generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def make_scripted_model() -> MakeModel:
    """A model that says the given ids, from the given position on, with near certainty."""

    def make(script: Sequence[int], *, start: int, vocab_size: int = 320) -> LLaMaTransformer:
        room = start + len(script) + 1
        config = ModelConfig(
            vocab_size=vocab_size, n_embd=room, n_heads=1, n_layers=1, max_seq_len=room,
            positions="learned", tie_embeddings=False,
        )  # fmt: skip
        model = LLaMaTransformer(config)
        assert model.position_embeddings is not None
        with torch.no_grad():
            for parameter in (model.embeddings.weight, *model.decoder_blocks.parameters()):
                parameter.zero_()
            model.position_embeddings.weight.copy_(torch.eye(room))
            model.output_weight.zero_()
            for offset, token_id in enumerate(script):
                model.output_weight[token_id, start - 1 + offset] = 50.0
        return model

    return make
