"""What a GGUF file holds, read back; and that llama.cpp computes the same with it, where llama-cpp-python is."""

import json
import os
import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.processors import ByteLevel

from llamita.config import RopeScaling
from llamita.errors import UserError
from llamita.interop import gguf_export
from llamita.interop.gguf_export import GgufType, export_gguf, gguf_weights
from llamita.runs.folder import Run
from llamita.text.tokenizer import Tokenizer
from tests.cli.command_line import TINY, llamita
from tests.model.tiny import stirred, tiny_config


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def written(file: Path, add: Callable[[Any], None]) -> dict[str, Any]:
    """The fields of a file that `add` gives fields to."""
    with closing(gguf.GGUFWriter(file, "llama")) as writer:
        add(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
    return fields(file)


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
def test_rotations_and_norms_are_told(kind: Any, tmp_path: Path) -> None:
    scaling = RopeScaling(kind=kind, factor=4.0, original_max_seq_len=16)
    model = stirred(tiny_config(rope_scaling=scaling, rope_theta=5e5, norm_eps=1e-6))
    found = written(tmp_path / "it.gguf", lambda writer: gguf_export._add_model(writer, gguf, model.config, "f32"))
    assert found["llama.rope.freq_base"] == 5e5
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    told = {name: value for name, value in found.items() if "rope.scaling" in name}
    weights = dict(gguf_weights(model))
    if kind == "llama3":
        assert told == {} and weights["rope_freqs.weight"].shape == (model.config.head_dim // 2,)
        assert weights["rope_freqs.weight"].max() == 4.0 and weights["rope_freqs.weight"].min() >= 1.0
    else:
        assert told["llama.rope.scaling.type"] == kind and told["llama.rope.scaling.factor"] == 4.0
        assert told.get("llama.rope.scaling.original_context_length") == (16 if kind == "yarn" else None)
        assert "rope_freqs.weight" not in weights


@pytest.mark.parametrize("settings", [{"chat_template": "{{ messages }}"}, {}])
def test_what_the_tokenizers_settings_say_goes_along(settings: Any, tiny_run: Run, tmp_path: Path) -> None:
    backend = Backend.from_str(tiny_run.tokenizer().to_json())
    if settings:  # its own template would add BOS
        backend.post_processor = ByteLevel()
    tokenizer = Tokenizer(backend, settings)
    spec, size = json.loads(tokenizer.to_json()), tokenizer.get_vocab_size()
    begin, end = tokenizer.bos_id, tokenizer.eos_id
    assert begin is not None and end is not None
    for spoken in (size, end + 1, end):
        config = tiny_config(vocab_size=size + 2, unpredicted_rows=size + 2 - spoken)
        file = tmp_path / f"{spoken}.gguf"
        found = written(file, lambda writer: gguf_export._add_tokenizer(writer, tokenizer, spec, config))  # noqa: B023
        assert found["tokenizer.ggml.bos_token_id"] == begin
        assert found["tokenizer.ggml.add_bos_token"] == (not settings)
        assert found.get("tokenizer.chat_template") == settings.get("chat_template")
        # A text is over where the model says a token that it has learnt to say.
        assert found["tokenizer.ggml.eos_token_id"] == (begin if spoken == end else end)
        assert found["tokenizer.ggml.suppress_tokens"] == list(range(spoken, size + 2))
        assert found["tokenizer.ggml.token_type"][size:] == [5, 5]


@pytest.mark.parametrize(
    ("rule", "value"),
    [("ignore_merges", False), ("byte_fallback", True), ("unk_token", "a"), ("dropout", 0.5), ("fuse_unk", True)]
    + [("end_of_word_suffix", "</w>")],
)
def test_a_tokenizer_that_merges_otherwise_is_refused(rule: str, value: Any, tiny_run: Run, tmp_path: Path) -> None:
    ours = gguf_export._readable_tokenizer(tiny_run.tokenizer(), tmp_path)
    changed = {**ours, "model": {**ours["model"], rule: value}}
    with pytest.raises(UserError, match=f"model.{rule} is {value!r}, which isn't Llama 3's.*export hf"):
        gguf_export._readable_tokenizer(Tokenizer(Backend.from_str(json.dumps(changed))), tmp_path)
    said_otherwise = {**ours, "model": {**ours["model"], "continuing_subword_prefix": "", "dropout": 0.0}}
    assert gguf_export._readable_tokenizer(Tokenizer(Backend.from_str(json.dumps(said_otherwise))), tmp_path)


_UP, _DOWN, _VALUE = (
    (f"decoder_blocks.1.{ours}.weight", f"blk.1.{theirs}.weight")
    for ours, theirs in (
        ("feed_forward.up_proj", "ffn_up"),
        ("feed_forward.down_proj", "ffn_down"),
        ("attention.v_proj", "attn_v"),
    )
)
_F16, _BF16 = 65_504.0, 3.389e38


@torch.no_grad()
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "stored", "weight", "most"),
    [("f16", "f16", _UP, _F16), ("bf16", "bf16", _UP, _BF16), ("q8_0", "f16", _DOWN, _F16)]
    + [("q8_0", "q8_0", _UP, 127 * _F16), ("q4_0", "q4_0", _VALUE, 8 * _F16)]
    + [("q4_0", "q8_0", ("embeddings.weight", "token_embd.weight"), 127 * _F16)],
)
def test_a_weight_that_would_become_infinite_is_refused(
    kind: GgufType, stored: str, weight: tuple[str, str], most: float, tmp_path: Path
) -> None:
    model = stirred(tiny_config(embedding_scale=1.0))
    changed = model.get_parameter(weight[0])
    changed[:1] = 1e-42  # whose blocks have a scale of 0
    changed[3, 5] = -most
    with closing(gguf.GGUFWriter(tmp_path / "it.gguf", "llama")) as writer:
        gguf_export._add_weights(writer, gguf, model, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    found = tensors(tmp_path / "it.gguf")[weight[1]]
    assert np.isfinite(found).all() and found[3, 5] == pytest.approx(-most, rel=0.01) and (found[0] <= 1e-42).all()
    changed[3, 5] = -1.002 * most
    remedy = "--type f32" if kind == "bf16" else "--type bf16 or --type f32"
    told = re.escape(f"{weight[1]}: its largest value is {1.002 * most:g}, and {stored} ends at ")
    with pytest.raises(UserError, match=f"{told}.*; use {remedy}$"):
        gguf_export._add_weights(gguf.GGUFWriter(None, "llama"), gguf, model, kind)
    changed[3, 5] = float("nan")
    with pytest.raises(UserError, match="is nan, .* use an earlier --checkpoint"):
        gguf_export._add_weights(gguf.GGUFWriter(None, "llama"), gguf, model, kind)


def test_what_llama_cpp_lacks_is_refused_with_the_way_out(tiny_text: Path, tiny_run: Run, tmp_path: Path) -> None:
    # llama.cpp doesn't load a vocabulary without merges either.
    for tokenizer in ("word", "char", "byte"):
        run = tmp_path / tokenizer
        made = llamita("train", tiny_text, "--run", run, *TINY, "--training.steps", 0, "--tokenizer.kind", tokenizer)
        assert made.code == 0, made.err
        refused = llamita("export", "gguf", run, tmp_path / "it.gguf")
        assert refused.code == 1 and "--tokenizer.kind bpe" in refused.err
    yarn = partial(RopeScaling, kind="yarn", factor=4.0, original_max_seq_len=16)
    llama3 = RopeScaling(kind="llama3", factor=4.0, original_max_seq_len=16, beta_fast=24.0)
    assert gguf_export._architecture(tiny_config(rope_scaling=llama3), "f16") == "llama"
    assert gguf_export._architecture(tiny_config(rope_scaling=yarn(), qk_norm=True), "f16") == "qwen3"
    for config, kind, told in (
        (tiny_config(positions="none"), "f16", "--model.positions rope"),
        (tiny_config(ffn_dim=40), "q4_0", "ffn_dim is 40.*--type f16"),
        (tiny_config(n_embd=40), "q8_0", "n_embd is 40.*--type f16"),
        (tiny_config(rope_scaling=yarn(beta_fast=24.0)), "f16", "beta_fast 24 and beta_slow 1,.*`llamita export hf`"),
        (tiny_config(rope_scaling=yarn(beta_slow=0.5)), "f16", "beta_fast 32 and beta_slow 0.5,.*`llamita export hf`"),
        (tiny_config(rope_scaling=llama3, qk_norm=True), "f16", "qk_norm is on.*'llama3'.*`llamita export hf`"),
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
    opened: list[Any] = []

    def full(writer: Any) -> None:
        opened.extend(writer.fout)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        export_gguf(tiny_run, tmp_path / "it.gguf")
    assert list(tmp_path.iterdir()) == [] and opened and all(file.closed for file in opened)


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_that_is_too_long_is_refused_in_words(length: int, tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="File name too long.*choose another name"):
        export_gguf(tiny_run, tmp_path / ("x" * length))
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_on_the_disk_before_it_has_its_name_and_the_folder_after(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[tuple[str, int]] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        did.append(("sync", os.fstat(descriptor).st_ino))
        assert os.fstat(descriptor).st_ino == tmp_path.stat().st_ino or os.fstat(descriptor).st_size > 10_000
        sync(descriptor)

    def named(aside: Path, file: Path) -> None:
        did.append(("name", aside.stat().st_ino))
        replace(aside, file)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    inode = export_gguf(tiny_run, tmp_path / "it.gguf").stat().st_ino
    assert did == [("sync", inode), ("name", inode), ("sync", tmp_path.stat().st_ino)]


def test_without_the_package_the_extra_is_named(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'llamita\[gguf\]'"):
        export_gguf(tiny_run, tmp_path / "it.gguf")


def test_the_command_tells_what_it_wrote(tiny_run: Run, tmp_path: Path) -> None:
    told = llamita("export", "gguf", tiny_run.path, tmp_path / "it.gguf", "--type", "q8_0", "--json").json
    assert told["bytes"] == (tmp_path / "it.gguf").stat().st_size > 10_000
