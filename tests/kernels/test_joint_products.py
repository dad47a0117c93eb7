"""Joint products against the plain ones, on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from llamita.config import ModelConfig, RopeScaling
from llamita.kernels import joint, narrow, products, rotary, swiglu
from llamita.model.linear import Linear
from llamita.model.transformer import LLaMaTransformer

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def model_and_tokens(**shape: object) -> tuple[LLaMaTransformer, Tensor]:
    torch.manual_seed(0)
    given = {"vocab_size": 50, "n_layers": 2, "ffn_dim": 96, "max_seq_len": 40} | shape
    model = LLaMaTransformer(ModelConfig(**given))  # type: ignore[arg-type]
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0, 0.3)
    return model.to(DEVICE), torch.randint(50, (3, 37), device=DEVICE)


@pytest.mark.parametrize(
    "shape",
    [
        {"n_embd": 64, "n_heads": 4},
        {"n_embd": 64, "n_heads": 4, "n_kv_heads": 1},
        {"n_embd": 36, "n_heads": 3, "n_kv_heads": 1},  # head_dim 12
        {"n_embd": 32, "n_heads": 2, "qk_norm": True},
        {"n_embd": 32, "n_heads": 2, "positions": "learned"},
        {"n_embd": 32, "n_heads": 2, "rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=10)},
    ],
)
def test_output_and_gradients_are_those_of_plain_products(
    shape: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = model_and_tokens(**shape)
    found = {}
    for by_kernel in (True, False):
        monkeypatch.setattr(joint, "usable", lambda _, by_kernel=by_kernel: by_kernel)
        model.zero_grad()
        logits = model(tokens)
        logits.square().mean().backward()
        found[by_kernel] = {"logits": logits.detach()} | {name: one.grad for name, one in model.named_parameters()}
    for name, plain in found[False].items():
        assert plain is not None and plain.any(), name
        torch.testing.assert_close(found[True][name], plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


def test_each_part_of_a_joint_product_goes_where_it_belongs() -> None:
    both = torch.randn(3, 5, 14, device=DEVICE)
    gate, up = both.chunk(2, dim=-1)
    torch.testing.assert_close(swiglu.gated(both), torch.nn.functional.silu(gate) * up)
    of_q, of_k, of_v = (torch.randn(2, 3, heads, 4, device=DEVICE) for heads in (3, 1, 1))
    ones, zeros = torch.ones(3, 2, device=DEVICE), torch.zeros(3, 2, device=DEVICE)
    unturned = rotary.joint_gradient(of_q, of_k, of_v, ones, zeros)
    assert torch.equal(unturned, torch.cat([of_q.flatten(2), of_k.flatten(2), of_v.flatten(2)], dim=-1))
    # A quarter turn takes the first half to the second.
    turned = rotary.joint_gradient(of_q, of_k, of_v, zeros, ones)
    assert torch.equal(turned[..., :2], of_q[:, :, 0, 2:]) and torch.equal(turned[..., -4:], of_v[:, :, 0])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (200, 130)])
def test_narrow_values_are_within_a_step_of_their_own_and_both_ways_round_the_same(
    dtype: torch.dtype, rows: int, columns: int
) -> None:
    x = torch.randn(rows, columns, device=DEVICE) * 100
    scale = x.abs().amax() / torch.finfo(dtype).max
    narrowed, transposed = narrow.narrow(x, scale, dtype)
    assert torch.equal(narrowed.float(), transposed.float().T)
    expected = (x / scale).to(dtype).float()
    if DEVICE == "cuda":
        assert torch.equal(narrowed.float(), expected)
    else:
        # Triton's interpreter doesn't round as its compiler does.
        torch.testing.assert_close(narrowed.float(), expected, rtol=0.55, atol=1e-3)


def test_values_beyond_the_range_become_its_end() -> None:
    x = torch.tensor([[1e6, -1e6, 1.0]], device=DEVICE)
    narrowed, _ = narrow.narrow(x, torch.ones((), device=DEVICE), torch.float8_e4m3fn)
    assert narrowed.float().tolist() == [[448.0, -448.0, 1.0]]


@pytest.mark.gpu
def test_fp8_products_are_near_exact_ones() -> None:
    draw = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(4, 64, 128, generator=draw, device="cuda", dtype=torch.bfloat16)
    layer = Linear(128, 96).cuda()
    grad = torch.randn(4, 64, 96, generator=draw, device="cuda", dtype=torch.bfloat16)
    found = {}
    for fp8 in (True, False):
        product, kept = products.multiply(x, layer.weight.detach().bfloat16(), fp8)
        found[fp8] = [product, *products.gradients(grad, kept)]
    for narrowed, exact in zip(found[True], found[False], strict=True):
        assert narrowed.shape == exact.shape and narrowed.dtype == exact.dtype
        error = (narrowed.float() - exact.float()).norm() / exact.float().norm()
        assert 0.001 < error < 0.08
