"""A tiny text and a tiny run that tests share and don't change."""

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

from tests.annotations import check_annotations

# Before anything of llamita is imported:
# Nobody's own cache is written to.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "llamita_tests_compiled"))
# Nor is anybody's account.
os.environ["WANDB_MODE"] = "disabled"

# `make interop` installs all that it compares with: nothing is skipped for want of it.
if os.environ.get("LLAMITA_NO_SKIPS"):
    pytest.importorskip = importlib.import_module  # type: ignore[assignment]

# A word that could be the id of a dataset is looked for nowhere.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Without a GPU the kernels run in Triton's interpreter, which is asked for before they are defined; with one, its
# compiler takes no function that is checked.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    check_annotations()

from llamita.runs.folder import Run
from llamita.text.storyworld import StoryWorld
from tests.cli.command_line import TINY, llamita

# Tests run side by side, one worker a core.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_text() -> Path:
    """A tale of a few thousand characters, one document."""
    return Path(__file__).parent / "data" / "tiny.txt"


@pytest.fixture(scope="session")
def tiny_run(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of 8 steps on the tiny text, with checkpoints at 4 and 8; tests must not change it."""
    folder = tmp_path_factory.mktemp("shared") / "tiny"
    often = ("--training.steps", 8, "--training.save-every", 4, "--training.eval-every", 4, "--training.log-every", 2)
    made = llamita("train", tiny_text, "--run", folder, *TINY, *often)
    assert made.code == 0, made.err
    return Run.open(folder)


@pytest.fixture(scope="session")
def story_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 60 steps on StoryWorld's stories, so that some answers are right; tests must not change it."""
    folder = tmp_path_factory.mktemp("stories")
    stories = "\n\n".join(story.text for story in StoryWorld(seed=0).stories(250, seed=1))
    (folder / "stories.txt").write_text(stories, encoding="utf-8")
    changed = {"--model.max-seq-len": "96", "--tokenizer.vocab-size": "512"}
    shape = dict(zip(TINY[::2], TINY[1::2], strict=True)) | changed | {"--training.steps": "60"}
    options = [word for option in shape.items() for word in option]
    made = llamita("train", folder / "stories.txt", "--run", folder / "run", *options)
    assert made.code == 0, made.err
    return Run.open(folder / "run")


@pytest.fixture
def copied_run(tiny_run: Run, tmp_path: Path) -> Run:
    """A copy of the tiny run that a test may change."""
    return Run.open(shutil.copytree(tiny_run.path, tmp_path / "tiny"))


@pytest.fixture
def annotations_unchecked() -> Iterator[None]:
    """The checker's wrappers break graphs that are to be compiled whole."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
