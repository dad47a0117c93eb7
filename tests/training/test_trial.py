"""What a kernel belongs to, and that a trial takes the steps that a run would."""

import math

import pytest
import torch

from llamita.training.trial import Trial, kind_of, measure, product_speed, random_batch
from tests.training.tiny_runs import small_config


# Names as profiles of an H200 and of a CPU have them (docs/log.md, 2026-11-27).
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", "matrix products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64_1x4x1", "attention"),
        ("triton_poi_fused__unsafe_view_mul_silu_5", "norms, SwiGLU, rotations, casts, sums"),
        ("triton_red_fused__log_softmax__to_copy_prepare_softmax_online_13", "loss"),
        ("_losses_into_gradients", "loss"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedOptimizer>", "optimizer, clipping"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("aten::mm", "matrix products"),
        ("CpuAttention", "attention"),
        ("aten::_fused_adamw_", "optimizer, clipping"),
    ],
)
def test_kernels_are_known_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_trial_takes_whole_optimizer_steps() -> None:
    config = small_config(training__micro_batch_size=2)
    trial = Trial(config)
    before = trial.model.embeddings.weight.detach().clone()
    seen = []
    trial.model.embeddings.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    trial.step()
    assert seen == [(2, config.model.max_seq_len)] * config.training.accumulation
    assert len(seen) > 1 and not torch.equal(trial.model.embeddings.weight, before)


def test_random_tokens_are_those_that_have_a_logit() -> None:
    config = small_config(model__unpredicted_rows=60)
    batch = random_batch(config, torch.device("cpu"))
    rows = config.model.vocab_size - 60
    assert batch.inputs.shape == (config.training.micro_batch_size, config.model.max_seq_len)
    assert int(batch.targets.min()) >= 0 and int(batch.targets.max()) < rows
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_documents_are_kept_apart_where_the_runs_are() -> None:
    batch = random_batch(small_config(data__packing="documents", model__max_seq_len=1000), torch.device("cpu"))
    assert batch.documents is not None and batch.documents.shape == batch.inputs.shape and batch.documents.max() > 0
    assert (batch.documents.diff(dim=1) >= 0).all()


def test_blocks_are_computed_again_in_a_trial_too() -> None:
    trial = Trial(small_config(training__recompute_layers=1))
    assert trial.model.recompute_layers == 1 and trial.model.training


def test_measuring_tells_how_far_it_is() -> None:
    told: list[tuple[str, float, float]] = []
    found = measure(small_config(), seconds=0.2, progress=lambda *what: told.append(what))
    assert told[0] == ("starting", 0.0, 0.2) and {what for what, *_ in told[1:]} == {"measuring"}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told) and told[-1][1] == 0.2
    assert found.spread >= 0 and found.start_seconds > 0 and math.isfinite(found.tokens_per_second)


def test_a_product_runs_at_some_speed() -> None:
    assert 1e8 < product_speed("cpu", "fp32") < 1e14
