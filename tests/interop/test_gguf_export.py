"""What a GGUF file holds, read back; and that llama.cpp computes the same with it, where llama-cpp-python is."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from llamita.config import RopeScaling
from llamita.errors import UserError
from llamita.interop import gguf_export
from llamita.interop.gguf_export import GgufType, export_gguf, gguf_weights
from llamita.runs.folder import Run
from tests.cli.command_line import TINY, llamita
from tests.model.tiny import stirred, tiny_config


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def tensors(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor in full precision, in the shape that torch gives it."""
    return {one.name: gguf.quants.dequantize(one.data, one.tensor_type) for one in gguf.GGUFReader(file).tensors}


@pytest.mark.parametrize(
    ("kind", "close"), [("f32", 0.0), ("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 2e-2), ("q4_0", 0.2)]
)
def test_every_weight_comes_back(kind: GgufType, close: float, tiny_run: Run, tmp_path: Path) -> None:
    file = export_gguf(tiny_run, tmp_path / "it.gguf", kind=kind, checkpoint="latest")
    found = tensors(file)
    expected = dict(gguf_weights(tiny_run.model("latest")))
    assert found.keys() == expected.keys() and "output.weight" not in found
    for name, weight in expected.items():
        given = found[name].reshape(weight.shape)
        limit = 0.0 if weight.dim() == 1 else close
        assert float(np.abs(given - weight.numpy()).max()) <= limit * float(weight.abs().max())


def test_rows_of_queries_and_keys_lie_as_llama_cpp_turns_them() -> None:
    model = stirred(tiny_config(n_kv_heads=2))
    config, found = model.config, dict(gguf_weights(model))
    for name, ours, heads in (("attn_q", "q_proj", config.n_heads), ("attn_k", "k_proj", 2)):
        theirs = found[f"blk.1.{name}.weight"]
        plain = getattr(model.decoder_blocks[1].attention, ours).weight
        half = config.head_dim // 2
        for head in range(heads):
            for pair in range(half):
                row = head * config.head_dim
                assert torch.equal(theirs[row + 2 * pair], plain[row + pair])
                assert torch.equal(theirs[row + 2 * pair + 1], plain[row + half + pair])
    normed = stirred(tiny_config(qk_norm=True))
    same = dict(gguf_weights(normed))["blk.0.attn_q.weight"]
    assert torch.equal(same, normed.decoder_blocks[0].attention.q_proj.weight)


def test_fields_say_what_the_config_does(tiny_run: Run, tmp_path: Path) -> None:
    config, tokenizer = tiny_run.config().model, tiny_run.tokenizer()
    found = fields(export_gguf(tiny_run, tmp_path / "it.gguf", kind="q8_0", license_name="cc0-1.0"))
    assert found["general.architecture"] == "llama" and found["general.license"] == "cc0-1.0"
    assert found["llama.context_length"] == config.max_seq_len and found["llama.block_count"] == config.n_layers
    assert found["llama.attention.head_count_kv"] == config.n_kv_heads
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config.norm_eps)
    assert found["tokenizer.ggml.eos_token_id"] in (tokenizer.bos_id, tokenizer.eos_id)
    assert found["llama.rope.freq_base"] == config.rope_theta and found["general.file_type"] == 7
    tokens = found["tokenizer.ggml.tokens"]
    assert tokens == [tokenizer.id_to_token(number) for number in range(config.vocab_size)]
    assert found["tokenizer.ggml.bos_token_id"] == tokenizer.bos_id and found["tokenizer.ggml.add_bos_token"]
    kinds = found["tokenizer.ggml.token_type"]
    assert kinds[tokenizer.bos_id] == 3 and set(kinds[: tokenizer.text_size]) == {1}


@pytest.mark.parametrize(("kind", "finer"), [("q8_0", "F16"), ("q4_0", "Q8_0")])
def test_what_decides_most_is_kept_finer(kind: Any, finer: str, tiny_run: Run, tmp_path: Path) -> None:
    file = export_gguf(tiny_run, tmp_path / "it.gguf", kind=kind)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    readout = "token_embd.weight" if tiny_run.config().model.tie_embeddings else "output.weight"
    assert types[readout] == finer and types["blk.0.attn_q.weight"] == types["blk.0.ffn_up.weight"] == kind.upper()
    assert types["blk.0.ffn_down.weight"] == ("F16" if kind == "q8_0" else "Q4_0")


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_scaled_rotations_are_told(kind: Any, copied_run: Run, tmp_path: Path) -> None:
    scaling = RopeScaling(kind=kind, factor=4.0, original_max_seq_len=16, beta_fast=3.0)
    model = stirred(tiny_config(rope_scaling=scaling))
    writer = gguf.GGUFWriter(tmp_path / "it.gguf", "llama")
    gguf_export._add_model(writer, gguf, model.config, "f32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = fields(tmp_path / "it.gguf")
    told = {name: value for name, value in found.items() if "rope.scaling" in name}
    weights = dict(gguf_weights(model))
    if kind == "llama3":
        assert told == {} and weights["rope_freqs.weight"].shape == (model.config.head_dim // 2,)
        assert weights["rope_freqs.weight"].max() == 4.0 and weights["rope_freqs.weight"].min() >= 1.0
    else:
        assert told["llama.rope.scaling.type"] == kind and told["llama.rope.scaling.factor"] == 4.0
        assert told.get("llama.rope.scaling.original_context_length", 16) == 16
        assert ("llama.rope.scaling.yarn_beta_fast" in told) == (kind == "yarn") and "rope_freqs.weight" not in weights


def test_what_llama_cpp_lacks_is_refused_with_the_way_out(tiny_text: Path, tiny_run: Run, tmp_path: Path) -> None:
    # llama.cpp doesn't load a vocabulary without merges either.
    for tokenizer in ("word", "char", "byte"):
        run = tmp_path / tokenizer
        made = llamita("train", tiny_text, "--run", run, *TINY, "--training.steps", 0, "--tokenizer.kind", tokenizer)
        assert made.code == 0, made.err
        refused = llamita("export", "gguf", run, tmp_path / "it.gguf")
        assert refused.code == 1 and "--tokenizer.kind bpe" in refused.err
    for config, kind, told in (
        (tiny_config(positions="none"), "f16", "--model.positions rope"),
        (tiny_config(ffn_dim=40), "q4_0", "ffn_dim is 40.*--type f16"),
        (tiny_config(n_embd=40), "q8_0", "n_embd is 40.*--type f16"),
    ):
        with pytest.raises(UserError, match=told):
            gguf_export._architecture(config, kind)
    with pytest.raises(UserError, match="is there already"):
        export_gguf(tiny_run, tmp_path)
    with pytest.raises(UserError, match="isn't there; make it first"):
        export_gguf(tiny_run, tmp_path / "no" / "it.gguf")


def test_nothing_is_left_of_an_export_that_failed(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        export_gguf(tiny_run, tmp_path / "it.gguf")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_extra_is_named(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'llamita\[gguf\]'"):
        export_gguf(tiny_run, tmp_path / "it.gguf")


def test_the_command_tells_what_it_wrote(tiny_run: Run, tmp_path: Path) -> None:
    told = llamita("export", "gguf", tiny_run.path, tmp_path / "it.gguf", "--type", "q8_0", "--json").json
    assert told["bytes"] == (tmp_path / "it.gguf").stat().st_size > 10_000
