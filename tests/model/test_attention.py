import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llamita.model.attention import CausalSelfAttention, attend, document_mask
from llamita.model.cpu_attention import MAX_SEQ, kept_weights
from llamita.model.rope import rope_tables
from llamita.training.evaluate import document_starts
from tests.oracles import attention_by_loops, rope_by_complex_numbers

Heads = tuple[Tensor, Tensor, Tensor]


def heads(n_heads: int, n_kv_heads: int, seq: int, total: int, dim: int = 4) -> Heads:
    """Queries, keys and values of two sequences."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, n_heads, seq, dim, generator=generator)
    k, v = torch.randn(2, 2, n_kv_heads, total, dim, generator=generator)
    return q, k, v


def learning_copy(inputs: Heads, dtype: torch.dtype = torch.float32) -> Heads:
    q, k, v = (x.detach().to(dtype, copy=True).requires_grad_() for x in inputs)
    return q, k, v


def before(seq: int, total: int) -> Tensor:
    """The last `seq` of `total` positions see themselves and all before them; (2, seq, total)."""
    return (torch.arange(total) <= torch.arange(total - seq, total)[:, None]).expand(2, seq, total)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    weights: Tensor = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1)
    return weights @ v


@pytest.mark.parametrize("learning", [True, False])
@settings(deadline=None, max_examples=25)
@given(
    n_kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    seq=st.integers(1, 5),
    cached=st.integers(0, 3),
)
def test_attention_equals_loops(n_kv_heads: int, group: int, seq: int, cached: int, learning: bool) -> None:
    q, k, v = heads(n_kv_heads * group, n_kv_heads, seq, seq + cached)
    mixed = attend(q.requires_grad_(learning), k, v).detach()
    expected = attention_by_loops(q.detach(), k, v, before(seq, seq + cached))
    torch.testing.assert_close(mixed.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("documents", [[[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]], [[7, 7, 7, 7, 7], [3, 5, 3, 5, 3]]])
def test_masked_attention_equals_loops(documents: list[list[int]], learning: bool) -> None:
    q, k, v = heads(4, 2, 5, 5)
    numbers = torch.tensor(documents)
    allowed = before(5, 5) & (numbers[:, :, None] == numbers[:, None])
    mixed = attend(q.requires_grad_(learning), k, v, document_mask(numbers)).detach()
    expected = attention_by_loops(q.detach(), k, v, allowed)
    torch.testing.assert_close(mixed.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_gradients_of_attention_are_those_of_its_formula(n_kv_heads: int, masked: bool) -> None:
    inputs = learning_copy(heads(4, n_kv_heads, 3, 3), torch.float64)
    mask = document_mask(torch.tensor([[0, 1, 1], [0, 0, 1]])) if masked else None
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, mask), inputs)


@pytest.mark.parametrize("seq", [64, 65, 200, 1000, MAX_SEQ, MAX_SEQ + 1])
@pytest.mark.parametrize("masked", [True, False])
def test_short_and_long_sequences_learn_alike(seq: int, masked: bool) -> None:
    quick = learning_copy(heads(2, 1, seq, seq))
    plain = learning_copy(quick)
    numbers = (torch.arange(seq) >= seq // 3).long().expand(2, -1)
    mask = document_mask(numbers) if masked else None
    allowed = before(seq, seq) & (numbers[:, :, None] == numbers[:, None] if masked else True)
    weights = torch.randn(2, 2, seq, 4, generator=torch.Generator().manual_seed(1))
    ours, theirs = attend(*quick, mask), attend_plainly(*plain, allowed)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for mixed in (ours, theirs):
        (mixed.square() * weights).sum().backward()
    for mine, other in zip(quick, plain, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seq", [1, 64, 65, 513, MAX_SEQ, MAX_SEQ + 1])
def test_what_is_kept_for_gradients_is_known_beforehand(seq: int) -> None:
    mixed = attend(*learning_copy(heads(2, 2, seq, seq)))
    assert mixed.grad_fn is not None
    kept = sum(x.numel() for x in getattr(mixed.grad_fn, "saved_tensors", ())[3:])
    assert kept == 4 * kept_weights(seq)


@pytest.mark.parametrize("masked", [True, False])
def test_answering_equals_learning(masked: bool) -> None:
    q, k, v = heads(4, 2, 9, 9)
    mask = document_mask((torch.arange(9) // 4).expand(2, -1)) if masked else None
    learning = attend(q.requires_grad_(), k, v, mask).detach()
    with torch.no_grad():
        answering = attend(q.detach(), k, v, mask)
    torch.testing.assert_close(answering, learning, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("seq", [12, 300])
def test_narrow_attention_is_close_to_wide(seq: int) -> None:
    wide = learning_copy(heads(4, 2, seq, seq, dim=16))
    narrow = learning_copy(wide, torch.bfloat16)
    ours, theirs = attend(*narrow), attend(*wide)
    assert ours.dtype == torch.bfloat16
    for mixed in (ours, theirs):
        mixed.float().square().sum().backward()
    for close, exact in [(ours, theirs), *((n.grad, w.grad) for n, w in zip(narrow, wide, strict=True))]:
        assert close is not None and exact is not None
        assert (close.float() - exact).norm() < 0.02 * exact.norm()


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    q, k, v = learning_copy(heads(2, 2, 3, 3))
    (slope,) = torch.autograd.grad(attend(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("learning", [True, False])
def test_the_layer_projects_turns_attends_and_projects_back(learning: bool) -> None:
    layer = CausalSelfAttention(dim=12, n_heads=4, n_kv_heads=2, head_dim=6, qk_norm=False, norm_eps=1e-5)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(learning):
        update = layer(x, rope_tables(6, 5, 100.0, None)).detach()
    with torch.no_grad():
        frequencies = 100.0 ** (-torch.arange(3) / 3)
        q, k = (
            rope_by_complex_numbers(proj(x).view(2, 5, -1, 6), frequencies, torch.arange(5)).transpose(1, 2)
            for proj in (layer.q_proj, layer.k_proj)
        )
        v = layer.v_proj(x).view(2, 5, 2, 6).transpose(1, 2)
        mixed = attention_by_loops(q, k, v, before(5, 5))
        expected = layer.o_proj(mixed.transpose(1, 2).flatten(2).float())
    torch.testing.assert_close(update, expected, atol=1e-6, rtol=1e-5)


def varlen_by_loops(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, ends: Tensor, longest: int, _: int, window_size: tuple[int, int]
) -> Tensor:
    """What torch's varlen_attn computes, which no CPU does: (positions, heads, dim), documents one after another."""
    assert window_size == (-1, 0) and torch.equal(starts, ends) and starts.dtype == torch.int32
    mixed = []
    for start, end in itertools.pairwise(starts.tolist()):
        assert 0 <= end - start <= longest
        if end > start:
            one, keys, values = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
            mixed.append(attend_plainly(one, keys, values, before(end - start, end - start)[:1])[0].transpose(0, 1))
    return torch.cat(mixed)


@pytest.mark.parametrize("n_kv_heads", [4, 2])
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=2, max_size=2))
def test_documents_told_by_their_starts_are_those_told_by_number(
    numbers: list[list[int]], n_kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamita.model.attention.varlen_attn", varlen_by_loops)
    q, k, v = heads(4, n_kv_heads, 6, 6)
    documents = torch.tensor(numbers).cumsum(1)
    starts = torch.from_numpy(document_starts(documents.numpy()))
    by_starts = attend(q, k, v, document_mask(starts))
    torch.testing.assert_close(by_starts, attend(q, k, v, document_mask(documents)), atol=1e-6, rtol=1e-5)


def test_document_mask_shows_what_came_before_in_the_same_document() -> None:
    mask = document_mask(torch.tensor([[4, 4, 9]]))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]
