import pytest
import torch
from torch import nn

from llamita.model.embedding import TokenEmbedding
from llamita.model.transformer import LLaMaTransformer
from tests.model.tiny import random_tokens, tiny_config


def test_a_token_is_looked_up_as_its_row() -> None:
    table = TokenEmbedding(7, 3)
    assert isinstance(table, nn.Embedding) and table.weight.shape == (7, 3)
    assert torch.equal(table(torch.tensor([2, 5, 2])), table.weight[[2, 5, 2]])


def test_the_scale_multiplies_what_is_read_and_leaves_the_table() -> None:
    table = TokenEmbedding(7, 3, scale=4.0)
    vectors = table(torch.tensor([[1, 6]]))
    assert torch.equal(vectors[0], 4.0 * table.weight[[1, 6]])
    vectors.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.sum(1).tolist() == [0, 12, 0, 0, 0, 0, 12]


def test_the_gradient_scale_changes_what_the_lookup_learns_and_no_vector() -> None:
    torch.manual_seed(0)
    table, tokens = TokenEmbedding(7, 3, scale=0.3), torch.tensor([1, 6, 6])
    plain = table(tokens)
    (once,) = torch.autograd.grad(plain.square().sum(), table.weight)
    table.grad_scale = 8.0
    scaled = table(tokens)
    assert torch.equal(scaled, plain)
    (more,) = torch.autograd.grad(scaled.square().sum(), table.weight)
    torch.testing.assert_close(more, 8.0 * once)


def test_the_gradient_scale_leaves_what_a_tied_table_learns_as_output() -> None:
    model = LLaMaTransformer(tiny_config(tie_embeddings=True))
    tokens = random_tokens(1, 6)

    def gradient() -> torch.Tensor:
        (found,) = torch.autograd.grad(model(tokens).logsumexp(-1).sum(), model.embeddings.weight)
        return found

    plain = gradient()
    model.embeddings.grad_scale = 3.0
    absent = [row for row in range(model.config.vocab_size) if row not in tokens]
    tripled = gradient()
    torch.testing.assert_close(tripled[absent], plain[absent])
    assert not torch.allclose(tripled[tokens[0]], plain[tokens[0]])


@pytest.mark.parametrize("tied", [True, False])
def test_a_sentence_embeds_alone_or_in_a_batch(tied: bool) -> None:
    model = LLaMaTransformer(tiny_config(tie_embeddings=tied))
    sentence = random_tokens(6)
    alone, batch = model.embed(sentence), model.embed(sentence.expand(3, -1))
    assert alone.shape == (6, 32) and batch.shape == (3, 6, 32)
    rows = model.embeddings.weight[sentence] * model.config.embedding_scale
    assert torch.equal(alone, rows) and torch.equal(batch, rows.expand(3, -1, -1))


@pytest.mark.parametrize("tied", [True, False])
def test_fresh_vectors_enter_the_stream_at_the_configured_size(tied: bool) -> None:
    config = tiny_config(vocab_size=2000, tie_embeddings=tied)
    vectors = LLaMaTransformer(config).embed(torch.arange(2000))
    assert vectors.std().item() == pytest.approx(config.embedding_std * config.embedding_scale, rel=0.03)
