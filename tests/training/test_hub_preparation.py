"""A dataset of the hub becomes a run as its files would, goes on after an interruption, and stays the commit it was."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llamita import layers
from llamita.errors import UserError
from llamita.training.prepare import Prepared, prepare_run
from tests.cli.command_line import TINY, Outcome, llamita
from tests.text.hub_stand_in import Dataset, Hub, User, running_hub
from tests.training.tiny_runs import SMALL

SETTINGS = {**SMALL, "tokenizer.kind": "char", "data.validation_fraction": 0.3}
TEXTS = [
    f"Story {number}: the owl of tower {number} called, and the clöck struck {number}.\n" * 3 for number in range(9)
]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        split = {
            f"data/train-{number:05}-of-00003.jsonl": lines(TEXTS[3 * number : 3 * number + 3]) for number in range(3)
        }
        hub.datasets["owner/tales"] = Dataset({**split, "data/validation-00000-of-00001.jsonl": lines(["held out"])})
        yield hub


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> Iterator[User]:
    user = User(HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path / "home"))
    yield user
    user.leaves()


def lines(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@dataclass(frozen=True)
class Made:
    """What came of preparing."""

    notices: list[str]
    sources: tuple[str, ...]
    token_hashes: list[str]
    text_bytes: int


def prepared(target: Path, sources: Sequence[str], **settings: Any) -> Made:
    asked = [layers.from_dotted("", SETTINGS | {name.replace("__", "."): value for name, value in settings.items()})]
    notices: list[str] = []
    made: Prepared = prepare_run(target, sources, asked, None, notices.append)
    parts = [made.corpora.train, made.corpora.validation]
    return Made(
        notices,
        made.run.config().data.sources,
        [part.token_hash for part in parts if part],
        made.text.report.bytes,
    )


def trained(folder: Path, *arguments: object) -> Outcome:
    os.chdir(folder)
    return llamita("train", *arguments, *TINY, "--training.steps", 1)


def test_a_dataset_is_prepared_as_its_files_would_be_and_its_commit_is_kept(
    hub: Hub, user: User, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_bytes(lines(TEXTS))
    local = prepared(tmp_path / "local", [str(tmp_path / "texts.jsonl")])
    made = user.does(prepared, tmp_path / "run", ["hf://datasets/owner/tales"])
    assert made.token_hashes == local.token_hashes and len(made.token_hashes) == 2
    assert made.sources == (f"hf://datasets/owner/tales@{hub.datasets['owner/tales'].commit}",)
    assert not any("validation" in path for path in hub.read_paths())
    # The commit of config.toml gives the same again.
    hub.reads.clear()
    assert user.does(prepared, tmp_path / "again", made.sources).token_hashes == made.token_hashes


@pytest.mark.parametrize("troubles_after", [1, 4, 7])
def test_after_the_hub_was_away_preparing_goes_on_where_it_stood(
    troubles_after: int, hub: Hub, user: User, tmp_path: Path
) -> None:
    # Each of three passes (reading, tokenizer, encoding) reads three files of one block.
    whole = user.does(prepared, tmp_path / "whole", ["hf://datasets/owner/tales"])
    assert len(hub.reads) == 9
    hub.reads.clear()
    hub.troubles += [None] * troubles_after + [503] * 5
    with pytest.raises(UserError, match="the hub doesn't answer .*; what was prepared stays"):
        user.does(prepared, tmp_path / "run", ["hf://datasets/owner/tales"])
    hub.reads.clear()
    made = user.does(prepared, tmp_path / "run", ["hf://datasets/owner/tales"])
    assert made.token_hashes == whole.token_hashes
    went_on = troubles_after >= 3
    assert made.notices == (["going on where preparing stood"] if went_on else [])
    assert len(hub.reads) == {1: 9, 4: 6, 7: 3}[troubles_after]


def test_a_commit_in_between_is_told_and_nothing_of_two_is_mixed(hub: Hub, user: User, tmp_path: Path) -> None:
    hub.troubles += [None] * 7 + [503] * 5
    with pytest.raises(UserError, match="the hub doesn't answer"):
        user.does(prepared, tmp_path / "run", ["hf://datasets/owner/tales"])
    hub.datasets["owner/tales"].files["data/train-00002-of-00003.jsonl"] = lines(["another end"])
    made = user.does(prepared, tmp_path / "run", ["hf://datasets/owner/tales"])
    assert "is no longer among the sources: preparing anew" in made.notices[0]
    whole = user.does(prepared, tmp_path / "whole", ["hf://datasets/owner/tales"])
    assert made.token_hashes == whole.token_hashes


def test_a_part_of_a_dataset_is_read_from_its_beginning_alone(hub: Hub, user: User, tmp_path: Path) -> None:
    size = sum(len(text.encode()) for text in TEXTS[:2])
    made = user.does(prepared, tmp_path / "run", ["hf://datasets/owner/tales"], data__max_bytes=size + 5)
    assert made.text_bytes == size
    assert set(hub.read_paths()) == {"data/train-00000-of-00003.jsonl"}
    (tmp_path / "two.jsonl").write_bytes(lines(TEXTS[:2]))
    assert made.token_hashes == prepared(tmp_path / "local", [str(tmp_path / "two.jsonl")]).token_hashes


def test_train_takes_the_id_of_a_dataset_and_names_the_run_after_it(hub: Hub, user: User, tmp_path: Path) -> None:
    done = user.does(trained, tmp_path, "owner/tales", "--data.max-bytes", 500)
    assert done.code == 0, done.err
    config = (tmp_path / "runs" / "tales" / "config.toml").read_text(encoding="utf-8")
    assert f'sources = ["hf://datasets/owner/tales@{hub.datasets["owner/tales"].commit}"]' in config
    assert "max_bytes = 500" in config
    refused = user.does(trained, tmp_path, "hf://datasets/owner/tales?config=en", "--run", "other")
    assert refused.code == 2 and "its card has no configs" in refused.err
    missing = user.does(trained, tmp_path, "owner/nothing", "--run", "other")
    assert missing.code == 1 and "owner/nothing: no such file or folder here; as a dataset" in missing.err
    assert not (tmp_path / "other").exists()
