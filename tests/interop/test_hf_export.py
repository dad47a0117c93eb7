"""What is exported computes the same logits and ids in transformers as here, whatever the architecture."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llamita.config import RopeScaling
from llamita.errors import UserError
from llamita.files import whole_folder
from llamita.generation.engine import generate
from llamita.generation.sampling import Sampling
from llamita.interop import hf_export
from llamita.interop.hf_export import export_hf
from llamita.interop.hf_names import hf_config, hf_weights
from llamita.runs.folder import Run
from llamita.text.shards import open_corpora
from llamita.training.evaluate import evaluate
from tests.cli.command_line import llamita
from tests.faults import die, ended, forked
from tests.model.tiny import random_tokens, stirred, tiny_config
from tests.training.tiny_runs import small_run, trained

SCALINGS = {
    "no": None,
    "linear": RopeScaling(kind="linear", factor=4.0, original_max_seq_len=24),
    "llama3": RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=48),
    "yarn": RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=24, beta_fast=2.0, beta_slow=0.25),
}
TEXTS = ("", "The river", " two  spaces\n\n\ttab", "naïve café 犬 🐫‍🐫 é", "<|begin_of_text|> x", "a\x00b", "1234567")


def foreign(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_the_model(tied: bool, n_kv_heads: int, qk_norm: bool, kind: str, tmp_path: Path) -> None:
    config = tiny_config(
        **{"tie_embeddings": tied, "n_kv_heads": n_kv_heads, "qk_norm": qk_norm, "max_seq_len": 96},
        **{"rope_scaling": SCALINGS[kind], "embedding_scale": 7.0, "rope_theta": 500.0},
    )
    model = stirred(config)
    (tmp_path / "config.json").write_text(json.dumps(hf_config(config, torch.float32)))
    hf_export._write_weights(tmp_path, hf_weights(model, torch.float32))
    theirs = foreign(tmp_path)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM")
    tokens = random_tokens(2, 96)
    ours = model(tokens)
    assert float((theirs(tokens).logits - ours).abs().max()) <= 1e-5
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert ("lm_head.weight" in names) != tied and file.metadata() == {"format": "pt"}


@pytest.fixture(scope="module")
def exported(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_hf(tiny_run, tmp_path_factory.mktemp("hf") / "out", checkpoint="latest", license_name="cc0-1.0")


def test_ids_are_those_of_the_tokenizer(tiny_run: Run, exported: Path) -> None:
    ours, theirs = tiny_run.tokenizer(), AutoTokenizer.from_pretrained(exported)
    for text in TEXTS:
        ids = theirs(text).input_ids
        assert ids == [ours.bos_id, *ours.encode(text)]
        assert theirs.decode(ids, skip_special_tokens=True) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)


def strings(number: int) -> list[str]:
    """Strings of ASCII, accents, CJK, emoji, runs of whitespace, control characters and anything else, by a seed."""
    draw = random.Random(0)
    alphabets = (
        "abcdefghijklmnopqrstuvwxyz ABC 0123456789 .,;:!?'()[]{}<|>_#@$%^&*",
        "éàüßñçøåčžłő ĞŞİ ﬁ K",
        "".join(map(chr, [*range(0x4E00, 0x4E80), *range(0x3041, 0x3090), *range(0xAC00, 0xAC40)])),
        "🐫🦙👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪☃️❤️‍🔥",
        " \t\n\r\u00a0\u2003\u3000",
        "".join(map(chr, [*range(32), 0x7F, 0x85, 0xAD, 0x200B, 0x202E, 0xFEFF, 0xFFFD, 0x10FFFF])),
    )

    def one() -> str:
        parts = []
        for _ in range(draw.randint(1, 6)):
            if draw.random() < 0.1:
                points = [draw.randrange(0x110000) for _ in range(draw.randint(1, 8))]
                parts.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
            else:
                parts.append("".join(draw.choices(draw.choice(alphabets), k=draw.randint(1, 12))))
        return "".join(parts)

    return [*TEXTS, *(one() for _ in range(number - len(TEXTS)))]


def test_ids_of_ten_thousand_strings_are_equal_there(tiny_run: Run, exported: Path) -> None:
    ours, theirs = tiny_run.tokenizer(), AutoTokenizer.from_pretrained(exported)
    texts = strings(10_000)
    found = theirs(texts, add_special_tokens=False).input_ids
    assert found == [ids.tolist() for ids in ours.encode_batch(texts)]
    assert theirs.batch_decode(found) == texts


def test_a_run_speaks_the_same_words_there(tiny_text: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", tiny_text, {"model.max_seq_len": 96, "training.steps": 20})
    trained(run)
    folder = export_hf(run, tmp_path / "out")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), foreign(folder)
    inputs = tokenizer("The ", return_tensors="pt")
    theirs = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs.input_ids.shape[1] :]
    greedy = Sampling(temperature=0)
    (ours,) = generate(run.model(), run.tokenizer(), "The ", max_new_tokens=64, sampling=greedy)
    assert theirs.tolist() == list(ours.token_ids) and len(ours.token_ids) == 64


@torch.no_grad()
def test_the_loss_on_a_text_is_the_same_there(tiny_run: Run, exported: Path) -> None:
    corpus = open_corpora(tiny_run.data_folder, tiny_run.tokenizer()).train
    result = evaluate(tiny_run.model("latest"), corpus, counts=corpus.token_counts)
    theirs, length = foreign(exported), tiny_run.config().model.max_seq_len
    stream, silent = corpus.read(0, corpus.tokens), tiny_run.config().model.unpredicted_rows
    nats = []
    for start in range(0, len(stream) - 1, length):
        row = torch.from_numpy(stream[start : start + length + 1].astype(np.int64))
        logits = theirs(row[None, :-1]).logits[0, :, : -silent or None]
        nats += F.cross_entropy(logits.double(), row[1:], reduction="none").tolist()
    assert result.loss == pytest.approx(sum(nats) / len(nats), rel=1e-5) and result.tokens == len(nats)
    for band in result.contexts:
        some = [one for at, one in enumerate(nats) if band.least <= at % length + 1 < 2 * band.least]
        assert band.loss == pytest.approx(sum(some) / len(some), rel=1e-5) and band.tokens == len(some)


def test_settings_of_generation_name_what_ends_and_what_is_never_said(tiny_run: Run, exported: Path) -> None:
    settings, config = GenerationConfig.from_pretrained(exported), tiny_run.config().model
    assert config.unpredicted_rows > 0
    beyond = range(config.vocab_size - config.unpredicted_rows, config.vocab_size)
    unknown = tiny_run.tokenizer().unknown_id
    assert settings.suppress_tokens == sorted({*beyond, *([] if unknown is None else [unknown])})
    assert tiny_run.tokenizer().eos_id in settings.eos_token_id


def test_numbers_of_the_settings_are_those_of_the_model_and_agree(tiny_run: Run, exported: Path) -> None:
    names = ("config", "generation_config", "tokenizer_config")
    config, generation, tokenizer = (json.loads((exported / f"{name}.json").read_text()) for name in names)
    positions, eos = tiny_run.config().model.max_seq_len, tiny_run.tokenizer().eos_id
    assert positions > 7 and eos
    assert config["max_position_embeddings"] == generation["max_length"] == tokenizer["model_max_length"] == positions
    assert config["pad_token_id"] == generation["pad_token_id"] == eos
    assert tokenizer["pad_token"] == tiny_run.tokenizer().id_to_token(eos)


def test_all_files_may_be_read_alike(exported: Path) -> None:
    assert len({file.stat().st_mode for file in exported.iterdir()}) == 1


def test_the_card_has_the_runs_own_figures(tiny_run: Run, exported: Path) -> None:
    card, config, found = (exported / "README.md").read_text(), tiny_run.config(), tiny_run.checkpoint("latest")
    assert card.startswith("---\n") and 'license: "cc0-1.0"' in card
    assert f"8 steps of {config.tokens_per_step:,} tokens, {found.tokens:,} in all" in card
    assert found.val_loss is not None and f"{found.val_loss:.4f} nats" in card
    assert all(Path(source).name in card and str(Path(source).parent) not in card for source in config.data.sources)


def test_a_large_model_is_cut_into_files_with_an_index(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_export, "_SHARD_BYTES", 30_000)
    folder = export_hf(tiny_run, tmp_path / "out", checkpoint="latest")
    files = sorted(folder.glob("model-*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(files) > 2 and not (folder / "model.safetensors").exists()
    assert {file.name for file in files} == set(index["weight_map"].values())
    weights = [weight for file in files for weight in load_file(file).values()]
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in weights) > 60_000
    tokens = random_tokens(1, 8, vocab_size=300)
    torch.testing.assert_close(foreign(folder)(tokens).logits[..., :300], tiny_run.model("latest")(tokens)[..., :300])


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "close"), [("bf16", 0.05), ("fp16", 0.01)])
def test_narrow_weights_are_close(dtype: Any, close: float, tiny_run: Run, tmp_path: Path) -> None:
    folder = export_hf(tiny_run, tmp_path / "out", checkpoint="latest", dtype=dtype)
    tokens = random_tokens(1, 8, vocab_size=300)
    theirs, ours = foreign(folder)(tokens).logits[..., :300], tiny_run.model("latest")(tokens)[..., :300]
    assert 0 < float((theirs - ours).abs().max()) < close * float(ours.abs().max())


def test_what_has_no_place_there_is_refused_with_the_way_out(copied_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        export_hf(copied_run, tmp_path)
    config = tiny_config(positions="learned")
    with pytest.raises(UserError, match="--model.positions rope"):
        hf_config(config, torch.float32)
    model = stirred(tiny_config())
    with torch.no_grad():
        model.norm.weight[0] = 1e6
    with pytest.raises(UserError, match="model.norm.weight: isn't finite as torch.float16.*--dtype"):
        hf_export._write_weights(tmp_path, hf_weights(model, torch.float16))


def test_nothing_is_left_of_an_export_that_failed(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (OSError(28, "No space left on device"), SafetensorError("No space left on device (os error 28)")):

        def full(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(hf_export, "save_file", full)
        with pytest.raises(UserError, match="No space left on device"):
            export_hf(tiny_run, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


def test_every_byte_is_on_the_disk_before_the_folder_has_its_name_and_then_the_name(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, int]] = []
    sync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        events.append(("fsync", os.fstat(descriptor).st_ino))
        sync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        events.append(("rename", os.stat(source).st_ino))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(hf_export, "_SHARD_BYTES", 30_000)
    folder = export_hf(tiny_run, tmp_path / "out")
    *before, last = (inode for what, inode in events)
    assert [what for what, _ in events[-2:]] == ["rename", "fsync"]
    assert last == tmp_path.stat().st_ino
    assert {file.stat().st_ino for file in (folder, *folder.iterdir())} <= set(before[:-1])
    with whole_folder(tmp_path / "plain") as aside:
        (aside / "file").touch()
    assert [what for what, _ in events[-3:]] == ["fsync", "rename", "fsync"]
    assert events[-3][1] == (tmp_path / "plain").stat().st_ino


def test_what_a_killed_export_left_goes_after_a_day_and_what_is_new_stays(tiny_run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        assert ended(forked(lambda: die_within(tmp_path / "[o]"))) == -signal.SIGKILL
    old, new = tmp_path.glob(".?o?.*.part")
    other = tmp_path / ".o.1-ab.part"  # of another folder
    other.mkdir()
    for folder in (old, other):
        os.utime(folder, (time.time() - 90_000,) * 2)
    export_hf(tiny_run, tmp_path / "[o]")
    assert {path.name for path in tmp_path.iterdir()} == {"[o]", new.name, other.name}
    assert (new / "half").read_text() == "x" and not (tmp_path / "[o]" / "half").exists()


def die_within(target: Path) -> None:
    with whole_folder(target) as aside:
        (aside / "half").write_text("x")
        die()


def test_two_writers_of_one_folder_do_not_touch_each_others(tmp_path: Path) -> None:
    with pytest.raises(OSError), whole_folder(tmp_path / "out") as late:
        (late / "file").write_text("late")
        with whole_folder(tmp_path / "out") as early:
            (early / "file").write_text("early")
        assert (late / "file").read_text() == "late"
    assert (tmp_path / "out" / "file").read_text() == "early" and [*tmp_path.iterdir()] == [tmp_path / "out"]


def test_nothing_that_is_named_can_forge_a_card(tiny_run: Run, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(tiny_run.path, tmp_path / "a\n---\nlicense: mit"))
    card = (export_hf(run, tmp_path / "out", license_name="x\ny: z") / "README.md").read_text()
    front = card.split("---\n")[1].splitlines()
    assert len(front) == 4 and front[-1] == 'license: "x\\ny: z"'
    assert "# a --- license: mit" in card.splitlines()


def test_a_card_names_datasets_in_full_and_files_without_their_folders(tiny_run: Run, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(tiny_run.path, tmp_path / "run"))
    address = f"hf://datasets/owner/tales@{'0' * 40}"
    config = run.config()
    run.write_config(replace(config, data=replace(config.data, sources=(address, "/home/me/book.txt"))))
    card = (export_hf(run, tmp_path / "out") / "README.md").read_text()
    assert f"- text: {address}, book.txt; " in card


def test_the_command_tells_what_it_wrote(tiny_run: Run, tmp_path: Path) -> None:
    told = llamita("export", "hf", tiny_run.path, tmp_path / "out", "--json").json
    assert told["folder"] == str(tmp_path / "out") and told["address"] is None
    assert told["bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) > 10_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(os.listdir(tmp_path / "out"))


def test_uploading_is_asked_for_and_private(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Api:
        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
            asked.append((name, private, exist_ok))
            return f"https://huggingface.co/{name}"

        def repo_info(self, name: str) -> Any:
            return SimpleNamespace(private=name != "me/public")

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
            asked.append((repo_id, sorted(os.listdir(folder_path))))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    told = llamita("export", "hf", tiny_run.path, tmp_path / "out", "--push", "me/tiny", "--json").json
    assert told["address"] == "https://huggingface.co/me/tiny"
    assert asked == [("me/tiny", True, True), ("me/tiny", sorted(os.listdir(tmp_path / "out")))]

    refused = llamita("export", "hf", tiny_run.path, tmp_path / "public", "--push", "me/public")
    assert refused.code == 1 and "is there already, and public" in refused.err
    assert asked.pop() == ("me/public", True, True)

    class ConnectError(Exception):
        """What httpx raises: no OSError."""

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectError("no route to huggingface.co")

    monkeypatch.setattr(Api, "create_repo", offline)
    refused = llamita("export", "hf", tiny_run.path, tmp_path / "again", "--push", "me/tiny")
    assert refused.code == 1 and "no route" in refused.err and "hf auth login" in refused.err
    assert (tmp_path / "again" / "config.json").exists()
