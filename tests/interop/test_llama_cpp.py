"""llama.cpp reads the same ids, and computes the same words, where llama-cpp-python is installed."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llamita.interop.gguf_export import GgufType, export_gguf
from llamita.runs.folder import Run
from tests.cli.command_line import llamita

llama_cpp = pytest.importorskip("llama_cpp")

TEXTS = (
    *("", " ", "a", "The river was wide.", "  two  spaces\n\n\ttab\r\n", "naïve café", "犬が走る", "🐫‍🐫 👩‍👩‍👧"),
    *(
        "1234567 89",
        "don't we'LL I'M",
        "<|begin_of_text|> <|end_of_text|>",
        "a\u0301 e\u0301",
        "\u00a0x\u3000y",
        "x" * 300,
    ),
)
SHAPE = (
    *("--device", "cpu", "--precision", "fp32", "--tokenizer.vocab-size", 320, "--training.sample-tokens", 0),
    *("--model.max-seq-len", 128, "--model.n-embd", 64, "--model.n-layers", 2, "--training.steps", 60),
    *("--model.n-heads", 4, "--training.batch-size", 8),
)


# Norms and rotations that llama.cpp takes where a file says nothing are other ones.
OTHER = ("--model.rope-theta", 5e5, "--model.norm-eps", 0.1)
SCALED = ("--model.rope-scaling.factor", 4.0, "--model.rope-scaling.original-max-seq-len", 32)
KINDS: dict[str, tuple[object, ...]] = {
    "tied": (),
    "untied": ("--model.no-tie-embeddings", *OTHER),
    "grouped": ("--model.n-kv-heads", 2),
    "normed": ("--model.qk-norm", *OTHER),
    "normed-yarn": ("--model.qk-norm", "--model.rope-scaling.kind", "yarn", *SCALED),
    "normed-linear": ("--model.qk-norm", "--model.rope-scaling.kind", "linear", *SCALED),
    **{kind: ("--model.rope-scaling.kind", kind, *SCALED) for kind in ("llama3", "yarn", "linear")},
}


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("llama") / request.param
    made = llamita("train", tiny_text, "--run", folder, *SHAPE, *KINDS[request.param])
    assert made.code == 0, made.err
    return Run.open(folder)


def opened(run: Run, kind: GgufType, folder: Path) -> Any:
    file = folder / f"{kind}.gguf"
    if not file.exists():
        export_gguf(run, file, kind=kind)
    return llama_cpp.Llama(str(file), n_ctx=128, logits_all=True, verbose=False, n_threads=1)


def test_ids_are_those_of_the_tokenizer(run: Run, tmp_path: Path) -> None:
    theirs, ours = opened(run, "f32", tmp_path), run.tokenizer()
    for text in TEXTS:
        assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ours.encode(text), repr(text)
    assert theirs.tokenize(b"a", add_bos=True) == [ours.bos_id, *ours.encode("a")]


def test_ids_without_a_logit_are_known_to_its_samplers(run: Run, tmp_path: Path) -> None:
    theirs, config, count = opened(run, "f32", tmp_path), run.config().model, ctypes.c_int32()
    ask = llama_cpp.llama_cpp._lib.llama_vocab_get_suppress_tokens
    ask.argtypes, ask.restype = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32)), ctypes.POINTER(ctypes.c_int32)
    found = ask(llama_cpp.llama_model_get_vocab(theirs.model), ctypes.byref(count))
    silent = range(config.vocab_size - config.unpredicted_rows, config.vocab_size)
    assert len(silent) > 0 and found[: count.value] == list(silent)


# After 60 steps many tokens are about as likely, and 8 bits decide between them.
@torch.no_grad()
@pytest.mark.parametrize(("kind", "least"), [("f32", 1.0), ("q8_0", 0.98)])
def test_the_likeliest_token_is_the_same(
    kind: GgufType, least: float, run: Run, tiny_text: Path, tmp_path: Path
) -> None:
    theirs, model, tokenizer = opened(run, kind, tmp_path), run.model(), run.tokenizer()
    ids = tokenizer.encode(tiny_text.read_text(encoding="utf-8"))
    same = []
    for start in range(0, 3 * 127, 127):
        row = [tokenizer.bos_id, *ids[start : start + 127]]
        theirs.reset()
        theirs.eval(row)
        ours = model(torch.tensor([row]))[0]
        found = np.array(theirs.scores[: len(row)])[:, : ours.shape[1]]
        same += (found.argmax(1) == ours.argmax(1).numpy()).tolist()
        if kind == "f32":
            assert float(np.abs(found - ours.numpy()).max()) < 1e-3 * float(ours.abs().max())
    assert sum(same) >= least * len(same)


@torch.no_grad()
def test_it_goes_on_with_the_same_words(run: Run, tmp_path: Path) -> None:
    theirs, model, tokenizer = opened(run, "f32", tmp_path), run.model(), run.tokenizer()
    ids = [tokenizer.bos_id, *tokenizer.encode("The river")]
    ours = list(ids)
    for _ in range(64):
        ours.append(int(model(torch.tensor([ours]))[0, -1].argmax()))
    theirs.reset()
    generated = theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
    assert [next(generated) for _ in range(64)] == ours[len(ids) :]
