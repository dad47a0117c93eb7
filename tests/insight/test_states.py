import numpy as np
import pytest
import torch

from llamita.errors import UserError
from llamita.insight.states import layer_states, mean_states
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import IGNORE, Batch
from tests.model.tiny import random_tokens, stirred, tiny_config


@pytest.fixture(scope="module")
def model() -> LLaMaTransformer:
    return stirred(tiny_config()).eval()


@torch.no_grad()
def test_layers_are_those_that_the_model_goes_through(model: LLaMaTransformer) -> None:
    tokens = random_tokens(2, 9)
    states = layer_states(model, tokens)
    assert len(states) == model.config.n_layers + 1
    x = model.embed(tokens)
    torch.testing.assert_close(states[0], x)
    for number, block in enumerate(model.decoder_blocks, 1):
        x = block(x, (model.rope_cos[:9], model.rope_sin[:9]))
        torch.testing.assert_close(states[number], x if number < model.config.n_layers else model.norm(x))
    torch.testing.assert_close(states[-1], model.hidden(tokens))


def test_a_learned_position_is_in_what_enters_the_first_block() -> None:
    model = stirred(tiny_config(positions="learned")).eval()
    assert model.position_embeddings is not None
    tokens = random_tokens(1, 5)
    expected = model.embed(tokens) + model.position_embeddings.weight[:5]
    torch.testing.assert_close(layer_states(model, tokens)[0], expected.detach())


def test_asking_leaves_nothing_behind(model: LLaMaTransformer) -> None:
    layer_states(model, random_tokens(1, 4))
    with pytest.raises(ValueError, match="positions"):
        layer_states(model, random_tokens(1, 99))
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.decoder_blocks)


def test_mean_states_are_means_over_every_place_but_padding(model: LLaMaTransformer) -> None:
    tokens = random_tokens(3, 8, vocab_size=10).numpy()
    targets = np.ones_like(tokens)
    targets[2, 5:] = IGNORE
    documents = np.array([[0, 0, 0, 1, 1, 1, 1, 1]] * 3)
    batch = Batch(tokens, targets, documents, tokens=21)
    found = mean_states(model, [batch, batch], max_tokens=22)
    states = layer_states(model, torch.from_numpy(tokens), torch.from_numpy(documents))
    for layer, matrix in enumerate(found.layers):
        for number in range(12):
            places = [(r, c) for r in range(3) for c in range(8) if tokens[r, c] == number and targets[r, c] != IGNORE]
            assert int(found.counts[number]) == 2 * len(places)
            mean = sum(states[layer][r, c] for r, c in places) / len(places) if places else torch.zeros(32)
            torch.testing.assert_close(matrix[number], mean, atol=1e-5, rtol=1e-4)
    assert found.met == sorted(set(tokens[targets != IGNORE].tolist()))
    assert int(mean_states(model, [batch, batch], max_tokens=21).counts.sum()) == 21


def test_no_text_has_no_states(model: LLaMaTransformer) -> None:
    with pytest.raises(UserError, match="no text to read"):
        mean_states(model, [], max_tokens=10)
