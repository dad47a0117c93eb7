"""Folders with something in them, as the place of a new run: it is made there, or refused and nothing changed."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import strategies as st

from llamita.cli import demo
from llamita.errors import UserError
from llamita.observatory.lessons import story_groups
from llamita.observatory.meaning import Meaning
from llamita.runs.folder import Run
from llamita.training import stories
from tests.cli.command_line import TINY, llamita
from tests.fuzz.command_lines import STEP
from tests.fuzz.damage import FOREIGN, Damage, Stranger, damage, damages, put, strangers
from tests.fuzz.plan import rounds
from tests.fuzz.run_commands import asked
from tests.fuzz.trial import cheap, commanded, contents, tried

TRAIN = ("train", "TEXT", "--run", "RUN", *TINY, *STEP)
DEMO = ("demo", "--run", "RUN", *TINY, *STEP)
BASES = ("nothing", "a run", "a demo", "half a run")
# What a preparation that couldn't write on leaves behind, or removes: the next one goes on from it.
PREPARED = ("preparation.json", "tokenizer.json", "environment.json", "data", ".config.toml.1")


@pytest.fixture
def short_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that tells few stories, measures nothing and draws little, but writes all its files."""
    monkeypatch.setattr(stories, "_FEWEST_STORIES", 100)
    monkeypatch.setattr(stories, "_VALIDATION_STORIES", 20)
    monkeypatch.setattr(demo, "measure", lambda *_, **__: Meaning({}, {}, 0, ()))
    monkeypatch.setattr(demo, "story_groups", lambda world: dict([*story_groups(world).items()][:3]))


@pytest.fixture
def bases(short_demo: None, many_parts: Run, places_of: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """Folders to begin with, by what they hold; preparing a run was interrupted in the last one."""
    folder = tmp_path / "bases"
    (folder / "nothing").mkdir(parents=True)
    shutil.copytree(many_parts.path, folder / "a run")
    assert llamita(*asked(DEMO, {"RUN": str(folder / "a demo")})).code == 0
    with patch.object(Run, "write_config", side_effect=UserError("the power is gone")):
        assert llamita(*asked(TRAIN, {**places_of, "RUN": str(folder / "half a run")})).code == 1
    assert (folder / "half a run" / "preparation.json").exists()
    return folder


def changed_parts(folder: Path, before: dict[str, object], after: dict[str, object]) -> set[str]:
    """What in a folder is new, gone or not as it was: a file right there, or a folder with anything in it."""
    paths = {path for path in before | after if before.get(path) != after.get(path)}
    return {Path(path).relative_to(folder).parts[0] for path in paths}


@rounds("place")
def test_a_run_is_made_in_a_folder_or_refused_and_nothing_changed(
    number: int, seed: int, bases: Path, places_of: dict[str, str], tmp_path: Path
) -> None:
    folder, outside = Path(places_of["RUN"]), tmp_path / "outside.txt"
    outside.write_text("a secret", encoding="utf-8")

    def attempt(case: tuple[str, Sequence[Stranger], Sequence[Damage], Sequence[str]]) -> bool:
        base, put_there, done, command = case
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bases / base, folder)
        for stranger in put_there:
            put(folder, stranger, outside)
        for one in done:
            damage(folder, one, outside)
        before = contents(folder)
        outcome = commanded(*asked(command, places_of))
        changed = changed_parts(folder, before, contents(folder))
        # Once it is a run, what goes wrong leaves one to go on with.
        if outcome.code and "config.toml" not in changed:
            assert changed <= set(PREPARED if "can't be written" in outcome.err else ())
        if command is TRAIN or base != "a demo":
            assert not changed & {name.split("/")[0] for name in FOREIGN}
        assert outside.read_text(encoding="utf-8") == "a secret"
        assert "a secret" not in outcome.out + outcome.err
        return outcome.code == 0

    gone = st.sampled_from(["config.toml", "checkpoints", "data", "tokenizer.json"])
    put_there = st.lists(st.one_of(strangers, st.builds(Stranger, name=gone, is_a=st.just("delete"))), max_size=3)
    commands = st.sampled_from([TRAIN, TRAIN, DEMO])
    cases = st.tuples(st.sampled_from(BASES), put_there, st.lists(damages, max_size=1), commands)
    with cheap():
        assert tried(cases, number, attempt, seed=seed) >= number


@pytest.mark.parametrize("source", ["TEXT", "NOWHERE"])
def test_what_is_no_part_of_a_run_stays_as_it_was(source: str, places_of: dict[str, str], tmp_path: Path) -> None:
    folder = Path(places_of["RUN"])
    for name in FOREIGN:
        put(folder, Stranger(name, b"mine"), tmp_path / "outside.txt")
    before = contents(folder)
    outcome = commanded("train", places_of.get(source, "nowhere.txt"), *asked(TRAIN[2:], places_of))
    assert outcome.code == (0 if source == "TEXT" else 1)
    after = contents(folder)
    assert {path: after.get(path) for path in before} == before
