import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llamita.config import ModelConfig
from llamita.model.loss import hidden_loss, next_token_loss
from llamita.model.transformer import LLaMaTransformer
from tests.model.tiny import random_tokens, stirred, tiny_config

VARIANTS: list[dict[str, Any]] = [
    {},
    {"n_kv_heads": 4, "tie_embeddings": False},
    {"n_kv_heads": 1, "qk_norm": True},
    {"positions": "learned"},
    {"positions": "none"},
]


@settings(deadline=None, max_examples=40)
@given(
    variant=st.sampled_from(VARIANTS),
    known=st.integers(1, 11),
    learning=st.booleans(),
    seed=st.integers(0, 99),
)
def test_future_tokens_do_not_change_earlier_logits(
    variant: dict[str, Any], known: int, learning: bool, seed: int
) -> None:
    model = stirred(tiny_config(**variant), seed)
    tokens = random_tokens(2, 12, seed=seed)
    other = tokens.clone()
    other[:, known:] = (other[:, known:] + 1) % 61
    with torch.set_grad_enabled(learning):
        before, after = model(tokens).detach(), model(other).detach()
    torch.testing.assert_close(after[:, :known], before[:, :known], atol=1e-6, rtol=0)
    assert ((after[:, known:] - before[:, known:]).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_earlier_token_changes_the_last_logits(variant: dict[str, Any]) -> None:
    model = stirred(tiny_config(**variant))
    vectors = model.embed(random_tokens(1, 12)).detach().requires_grad_()
    model.embed = lambda _: vectors  # type: ignore[method-assign]
    model(random_tokens(1, 12))[0, -1].square().sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad[0].abs().amax(-1) > 0).all()


@torch.no_grad()
@pytest.mark.parametrize(("positions", "matters"), [("rope", True), ("learned", True), ("none", False)])
def test_order_matters_only_with_positions(positions: str, matters: bool) -> None:
    model = stirred(tiny_config(positions=positions, n_layers=1))
    tokens = random_tokens(1, 12)
    shuffled = torch.cat((tokens[:, :11].flip(1), tokens[:, 11:]), dim=1)
    difference = (model(tokens)[0, -1] - model(shuffled)[0, -1]).abs().max()
    assert (difference > 1e-3) == matters


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_masked_document_is_blind_to_the_others(variant: dict[str, Any], learning: bool) -> None:
    model = stirred(tiny_config(**variant))
    tokens, other = random_tokens(2, 12), random_tokens(2, 12)
    documents = torch.tensor([[0] * 5 + [1] * 7, [3] * 8 + [4] * 4])
    first = documents == documents[:, :1]
    other[first] = (other[first] + 1) % 61
    with torch.set_grad_enabled(learning):
        before = model(tokens, documents=documents).detach()
        after = model(other, documents=documents).detach()
        unmasked = model(tokens).detach()
    torch.testing.assert_close(after[~first], before[~first], atol=1e-6, rtol=0)
    assert ((before - unmasked)[~first].abs().amax(-1) > 1e-4).all()
    torch.testing.assert_close(before[first], unmasked[first], atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["rope", "none"])
def test_a_masked_document_reads_as_if_alone(positions: str) -> None:
    model = stirred(tiny_config(positions=positions))
    tokens = random_tokens(1, 12)
    together = model(tokens, documents=torch.tensor([[0] * 5 + [1] * 7]))
    torch.testing.assert_close(together[:, 5:], model(tokens[:, 5:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_document_is_no_mask(variant: dict[str, Any]) -> None:
    model = stirred(tiny_config(**variant))
    tokens = random_tokens(2, 12)
    torch.testing.assert_close(model(tokens, documents=torch.ones_like(tokens)), model(tokens))


def test_rows_of_a_batch_do_not_mix() -> None:
    model = stirred(tiny_config())
    tokens = random_tokens(3, 12)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(model(tokens), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_verb_builds_on_the_one_before(variant: dict[str, Any]) -> None:
    model = stirred(tiny_config(**variant))
    tokens = random_tokens(2, 12)
    hidden, logits = model.hidden(tokens), model(tokens)
    assert model.embed(tokens).shape == hidden.shape == (2, 12, 32)
    assert logits.shape == (2, 12, 61)
    torch.testing.assert_close(logits, hidden @ model.output_weight.T)


@pytest.mark.parametrize("vocab_size", [65, 256, 4096, 32768])
@pytest.mark.parametrize("n_embd", [64, 128, 768])
@pytest.mark.parametrize("tied", [True, False])
def test_the_first_loss_is_that_of_a_guess(tied: bool, n_embd: int, vocab_size: int) -> None:
    check_first_loss(ModelConfig(vocab_size=vocab_size, n_embd=n_embd, n_layers=2, tie_embeddings=tied))


@pytest.mark.parametrize("vocab_size", [256, 4096])
@pytest.mark.parametrize("tied", [True, False])
def test_the_first_loss_of_a_wide_model_is_that_of_a_guess(tied: bool, vocab_size: int) -> None:
    check_first_loss(
        ModelConfig(vocab_size=vocab_size, n_embd=4096, n_layers=1, n_heads=8, ffn_dim=512, tie_embeddings=tied)
    )


@pytest.mark.parametrize("variant", [{"qk_norm": True}, {"positions": "learned"}, {"positions": "none"}])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_embd", [64, 768])
def test_the_first_loss_of_other_designs_is_that_of_a_guess(n_embd: int, tied: bool, variant: dict[str, Any]) -> None:
    check_first_loss(ModelConfig(vocab_size=4096, n_embd=n_embd, n_layers=2, tie_embeddings=tied, **variant))


@torch.no_grad()
def check_first_loss(config: ModelConfig) -> None:
    model = LLaMaTransformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    text = random_tokens(4, 65, vocab_size=config.vocab_size)
    tokens, targets = text[:, :-1], text[:, 1:]
    loss = hidden_loss(model.hidden(tokens), model.output_weight, targets, tokens=targets.numel()).item()
    assert math.log(config.vocab_size) - 0.5 < loss < math.log(config.vocab_size) + 0.5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_embd", [64, 768])
def test_weights_are_drawn_with_the_standard_deviation_of_their_kind(n_embd: int, tied: bool) -> None:
    config = ModelConfig(
        vocab_size=512, n_embd=n_embd, n_layers=1, tie_embeddings=tied, positions="learned", qk_norm=True
    )
    model = LLaMaTransformer(config)
    block = model.decoder_blocks[0]
    table_std = math.log(1 + 512 / 15) / n_embd if tied else 1.0
    assert model.embeddings.weight.std().item() == pytest.approx(table_std, rel=0.03)
    if model.lm_head is not None:
        assert model.lm_head.weight.std().item() == pytest.approx(min(0.02, 0.5 / n_embd**0.5), rel=0.03)
    assert model.position_embeddings is not None
    assert model.position_embeddings.weight.std().item() == pytest.approx(0.2 if tied else 1.0, rel=0.03)
    layers = {name: module for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
    assert len(layers) == 7
    for name, layer in layers.items():
        expected = 0 if name.endswith(("o_proj", "down_proj")) else 0.6 / layer.in_features**0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05), name
    gains = [weight for weight in model.parameters() if weight.dim() == 1]
    assert len(gains) == 5
    for gain in gains:
        assert torch.equal(gain, torch.ones_like(gain))


def test_fresh_blocks_pass_the_stream_on_unchanged() -> None:
    model = LLaMaTransformer(tiny_config())
    tokens = random_tokens(2, 12)
    torch.testing.assert_close(model.hidden(tokens), model.norm(model.embed(tokens)))


def test_a_generator_makes_weights_reproducible() -> None:
    config = tiny_config(positions="learned")
    first, second = LLaMaTransformer(config), LLaMaTransformer(config)
    for model, seed in ((first, 5), (second, 5)):
        model.init_weights(torch.Generator().manual_seed(seed))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    second.init_weights(torch.Generator().manual_seed(6))
    assert not torch.equal(first.embeddings.weight, second.embeddings.weight)


def test_initialisation_leaves_nothing_of_what_was_before() -> None:
    config = tiny_config(qk_norm=True, tie_embeddings=False)
    fresh, used = LLaMaTransformer(config), stirred(config)
    for model in (fresh, used):
        model.init_weights(torch.Generator().manual_seed(0))
    for ours, theirs in zip(fresh.parameters(), used.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("positions", ["rope", "learned", "none"])
def test_a_model_built_without_memory_comes_alive(positions: str) -> None:
    config = tiny_config(positions=positions)
    with torch.device("meta"):
        shell = LLaMaTransformer(config)
    assert all(tensor.is_meta for tensor in (*shell.parameters(), *shell.buffers()))
    model = shell.to_empty(device="cpu")
    model.init_buffers()
    model.init_weights(torch.Generator().manual_seed(0))
    direct = LLaMaTransformer(config)
    direct.init_weights(torch.Generator().manual_seed(0))
    for built, expected in ((model.parameters(), direct.parameters()), (model.buffers(), direct.buffers())):
        for ours, theirs in zip(built, expected, strict=True):
            assert torch.equal(ours, theirs)


def test_the_state_holds_weights_only_and_a_tie_once() -> None:
    for tied in (True, False):
        model = LLaMaTransformer(tiny_config(tie_embeddings=tied))
        state = model.state_dict()
        assert set(state) == {name for name, _ in model.named_parameters()}
        assert ("lm_head.weight" in state) != tied


def test_a_tie_survives_a_copy_and_learns_in_both_roles() -> None:
    model = stirred(tiny_config())
    tokens = random_tokens(1, 4)
    twin = LLaMaTransformer(model.config)
    twin.load_state_dict(model.state_dict())
    assert twin.output_weight is twin.embeddings.weight
    assert torch.equal(twin(tokens), model(tokens))
    twin(tokens).square().sum().backward()
    gradient = twin.embeddings.weight.grad
    assert gradient is not None
    assert gradient.any(dim=1).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_learns(variant: dict[str, Any]) -> None:
    model = stirred(tiny_config(**variant))
    tokens = random_tokens(2, 16)
    next_token_loss(model(tokens), tokens.roll(-1, 1)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Table, then for each of two layers attention (q, k, v, o), SwiGLU and two norms, then the last norm.
        ({}, 61 * 32 + 2 * ((32 + 16 + 16 + 32) * 32 + 3 * 32 * 96 + 2 * 32) + 32),
        ({"tie_embeddings": False}, 2 * 61 * 32 + 2 * (96 * 32 + 3 * 32 * 96 + 64) + 32),
        ({"n_kv_heads": 4}, 61 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 96 + 64) + 32),
        ({"qk_norm": True}, 61 * 32 + 2 * (96 * 32 + 3 * 32 * 96 + 64 + 2 * 8) + 32),
        ({"positions": "learned"}, (61 + 16) * 32 + 2 * (96 * 32 + 3 * 32 * 96 + 64) + 32),
        ({"head_dim": 10, "ffn_dim": 7}, 61 * 32 + 2 * ((40 + 20 + 20 + 40) * 32 + 3 * 32 * 7 + 64) + 32),
    ],
)
def test_parameters_count_as_by_hand(changes: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = LLaMaTransformer(tiny_config(**changes))
    assert sum(weight.numel() for weight in model.parameters()) == expected


def losses_and_gradients(model: LLaMaTransformer, tokens: Tensor) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    targets = tokens.roll(-1, 1)
    loss = hidden_loss(model.hidden(tokens), model.output_weight, targets, tokens=targets.numel())
    loss.backward()
    return loss.item(), [weight.grad.clone().float() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_changes_loss_and_gradients_little(variant: dict[str, Any]) -> None:
    model = stirred(tiny_config(**variant))
    tokens = random_tokens(4, 16)
    exact, exact_gradients = losses_and_gradients(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = losses_and_gradients(model, tokens)
    assert loss == pytest.approx(exact, rel=5e-3)
    assert len(gradients) == len(list(model.parameters()))
    for ours, theirs in zip(gradients, exact_gradients, strict=True):
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_is_overfitted(variant: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = LLaMaTransformer(tiny_config(**variant))
    tokens = random_tokens(4, 16)
    targets = tokens.roll(-1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(100):
        optimizer.zero_grad()
        loss = hidden_loss(model.hidden(tokens), model.output_weight, targets, tokens=targets.numel())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("annotations_unchecked")
def test_the_compiled_step_equals_the_plain_one() -> None:
    model = stirred(tiny_config(qk_norm=True, n_layers=1))
    tokens = random_tokens(2, 16)
    targets = tokens.roll(-1, 1)

    def loss_of(tokens: Tensor, targets: Tensor) -> Tensor:
        return hidden_loss(model.hidden(tokens), model.output_weight, targets, tokens=targets.numel())

    results = []
    for step in (loss_of, torch.compile(loss_of, fullgraph=True)):
        loss = step(tokens, targets)
        results.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_unpredicted_rows_get_no_logit_and_no_gradient(tied: bool) -> None:
    model = stirred(tiny_config(unpredicted_rows=5, tie_embeddings=tied))
    tokens = random_tokens(2, 16) % 56
    logits = model(tokens)
    assert logits.shape == (2, 16, 56)
    torch.testing.assert_close(logits, model.hidden(tokens) @ model.output_weight[:56].T)
    next_token_loss(logits, tokens.roll(-1, 1)).backward()
    for table in (model.embeddings.weight, model.output_weight):
        assert table.shape == (61, 32) and table.grad is not None
        assert not table.grad[56:].any() and table.grad[:56].any()


@pytest.mark.parametrize("layers", [1, 2, 9])
def test_blocks_that_are_computed_again_keep_less_and_learn_the_same(layers: int) -> None:
    model = stirred(tiny_config())
    tokens = random_tokens(3, 12)

    def learn(recomputed: int) -> tuple[list[Tensor], int]:
        model.recompute_layers, kept = recomputed, []
        model.zero_grad()

        def note(x: Tensor) -> Tensor:
            kept.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            loss = model(tokens).square().mean()
        loss.backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None], sum(kept)

    plain, saved = learn(0)
    again, fewer = learn(layers)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert fewer < saved * (0.8 if layers == 1 else 0.6)
    with torch.no_grad():
        assert torch.equal(model(tokens), model(tokens))
