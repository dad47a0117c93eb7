"""Files made by hand to do harm, or found to have done some: one after another, in the place they were made for."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llamita.runs.folder import Run
from tests.fuzz.damage import sign
from tests.fuzz.run_commands import steps
from tests.fuzz.test_files import read_config, read_source, use_tokenizer
from tests.fuzz.trial import commanded, contents, works

CORPUS = Path(__file__).parent / "corpus"
CASES = sorted(path for path in CORPUS.rglob("*") if path.is_file())

LIBRARY: dict[str, Callable[[Path], None]] = {
    **{"config": read_config, "jsonl": read_source, "parquet": read_source, "tokenizer": use_tokenizer},
}
GENERATE = ("generate", "--max-new-tokens", "2", "--checkpoint", "latest")
LAYER = ("embeddings", "neighbors", "--token", "the", "--layer", "1", "--run")
RESUME = ("resume", *steps(9, rows=4))
LAST = "checkpoints/step_00000008"
# Where in a run such a file stands, and what reads it there.
PLACES: dict[str, list[tuple[str, tuple[tuple[str, ...], ...]]]] = {
    "config": [("config.toml", (("config", "show"), GENERATE, RESUME))],
    "tokenizer": [("tokenizer.json", (GENERATE,))],
    "meta": [(f"{LAST}/meta.json", (("info",), GENERATE, RESUME))],
    "metrics": [("metrics.jsonl", (RESUME,))],
    "index": [("data/index.json", (LAYER, RESUME))],
    "safetensors": [(f"{LAST}/model.safetensors", (GENERATE,)), (f"{LAST}/state.safetensors", (RESUME,))],
}


def test_the_corpus_is_small_and_all_of_it_is_tried() -> None:
    assert sum(path.stat().st_size for path in CASES) < 100_000
    assert len(CASES) > 100
    assert {path.relative_to(CORPUS).parts[0] for path in CASES} == LIBRARY.keys() | PLACES.keys() | {"words"}


@pytest.mark.parametrize("path", [path for path in CASES if path.parent.name in LIBRARY], ids=lambda path: path.stem)
def test_a_file_is_read_or_refused(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(path, tmp_path))
    works(lambda: LIBRARY[path.parent.name](copy))


@pytest.mark.parametrize("path", [path for path in CASES if path.parent.name in PLACES], ids=lambda path: path.stem)
def test_a_run_with_such_a_file_is_used_or_refused(path: Path, tiny_run: Run, tmp_path: Path) -> None:
    names = []
    for place, commands in PLACES[path.parent.name]:
        names.append(Path(place).stem)
        folder = Path(shutil.copytree(tiny_run.path, tmp_path / names[-1]))
        shutil.copy(path, folder / place)
        if path.suffix == ".safetensors":
            sign((folder / place).parent)
        before = contents(folder)
        for words in commands:
            commanded(*words, *(("--run",) if words[0] == "config" else ()), folder)
            assert words is RESUME or contents(folder) == before
    assert sorted(tmp_path.iterdir()) == sorted(tmp_path / name for name in names)


@pytest.mark.parametrize("path", [path for path in CASES if path.parent.name == "words"], ids=lambda path: path.stem)
def test_a_list_of_words_is_read_or_refused(path: Path, tiny_run: Run, tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text("river\nman\nboat\nwater\nrope\n", encoding="utf-8")
    commanded("probe", tiny_run.path, "--lists", path, good)
    commanded("probe", tiny_run.path, "--analogies", path)
    commanded("embeddings", "direction", tiny_run.path, "--lists", good, path)
    commanded("embeddings", "direction", tiny_run.path, "--pairs-file", path)
