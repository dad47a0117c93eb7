import json
import re
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from llamita import layers
from llamita.cli.app import main
from llamita.runs.folder import Run
from llamita.text.storyworld import StoryWorld
from llamita.training.stories import STORY_SOURCE, is_story_run, story_config
from tests.cli.command_line import llamita
from tests.cli.interrupted import held


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        main([*arguments, "--debug"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SHORT = (
    *("--training.steps", "12", "--training.eval-every", "12", "--training.eval-tokens", "10000"),
    *("--precision", "fp32", "--training.threads", "1"),
)


def test_the_demo_shows_the_road_and_repeats_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    code, printed, _ = run_cli(capsys, "demo", "--run", str(folder), *SHORT, "--seed", "3")
    assert code == 0
    # The order of the source page, then what came of it.
    parts = (
        *("once there was", "Step 1. Tokenization", "Step 2. Embedding matrix", "(576, 96)", "Step 3. Lookup"),
        *(
            "Step 4. Output tensor",
            "(6, 96)",
            "(1, 6, 96)",
            "above the floor",
            "before:",
            "3CosMul",
            "match",
            "Analogies",
            "PPMI+SVD",
        ),
        *("Linear probes", "direction from men to women", "Step 5. What each value is", "Step 6.", "next"),
    )
    places = [printed.index(part) for part in parts]
    assert places == sorted(places)
    first = json.loads((folder / "report.json").read_text())
    assert first["gap"] == first["val_loss"] - first["floor"] > 0
    assert 1.1 < first["floor"] < 1.6
    for picture in ("loss.png", "embeddings.png", "embeddings.svg"):
        assert (folder / picture).stat().st_size > 10_000
    assert set(first["analogies"]) == set(StoryWorld().analogies())
    for row in first["analogies"].values():
        assert {"before", "after", "control", "ppmi"} <= set(row) and row["before"] <= 0.05
    assert first["analogies"]["gender"]["ppmi"] > 0.9
    assert set(first["probes"]) == {"animacy", "gender", "plural"}
    for row in first["probes"].values():
        assert {"before", "after", "control"} <= set(row)
        assert abs(row["before"] - 0.5) < 0.2 and abs(row["control"] - 0.5) < 0.1
    losses = [row["val_loss"] for row in Run.open(folder).metrics() if "val_loss" in row]
    assert losses[-1] == first["val_loss"] < losses[0] - 1

    # The folder's demo is replaced, and its figures come again.
    code, printed, _ = run_cli(capsys, "demo", "--run", str(folder), *SHORT, "--seed", "3", "--json")
    assert code == 0
    second = json.loads(printed)
    assert second == json.loads((folder / "report.json").read_text())
    for report in (first, second):
        del report["seconds"], report["total_seconds"]
    assert first == second

    # It may be asked again what its grammar makes true.
    code, printed, _ = run_cli(capsys, "probe", str(folder), "--json")
    asked = json.loads(printed)
    assert (
        code == 0
        and set(asked["analogies"]) == set(first["analogies"])
        and set(asked["probes"]) == set(first["probes"])
    )
    assert set(asked["analogies"]["gender"]["spaces"]) == {"layer 1", "layer 2", "layer 3"}


def test_the_demo_leaves_other_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "book.txt"
    text.write_text(" ".join(story.text for story in StoryWorld().stories(40, seed=1)))
    small = ("--model.n-embd", "32", "--model.n-layers", "1", "--model.n-heads", "2", "--training.steps", "2")
    run_cli(capsys, "train", str(text), "--run", str(tmp_path / "mine"), *small)
    before = (tmp_path / "mine" / "config.toml").read_text()
    with pytest.raises(ValueError, match="isn't the demo's"):
        run_cli(capsys, "demo", "--run", str(tmp_path / "mine"), *SHORT)
    assert (tmp_path / "mine" / "config.toml").read_text() == before


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--data.max-bytes", "1000"), "data.max_bytes (1000)"),
        (("--data.field", "body"), "data.field (body)"),
        (("--data.validation-fraction", "0.1"), "data.validation_fraction (0.1)"),
        (("--config", "asked.toml"), "data.sources (('book.txt',))"),
        (("--tokenizer.kind", "bpe"), "tokenizer.kind (bpe)"),
    ],
)
def test_the_demo_refuses_what_only_a_text_of_ones_own_can_have(
    option: tuple[str, str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("asked.toml").write_text('[data]\nsources = ["book.txt"]\n')
    made = llamita("demo", "--run", "new", *option)
    assert made.code == 2 and not Path("new").exists()
    assert f"{told} can't be had in the demo" in " ".join(made.err.split()) and "`llamita train`" in made.err


def test_the_demo_takes_its_own_config_again_and_what_it_can_obey(tmp_path: Path) -> None:
    config = story_config([])
    data = replace(config.data, sources=(STORY_SOURCE,), validation_fraction=0.07)
    file = tmp_path / "config.toml"
    file.write_text(layers.to_toml(replace(config, data=data)), encoding="utf-8")
    asked = layers.Layer("command line", {"data": {"packing": "stream", "max_bytes": "off"}})
    assert story_config([layers.from_file(file), asked]).data == replace(data, packing="stream", mask_documents=True)
    assert story_config([asked]).data.packing == "stream"


def test_a_demo_that_is_stopped_while_an_earlier_one_is_removed_can_be_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    (folder / "checkpoints" / "step_00000002").mkdir(parents=True)
    config = story_config([])
    stories = replace(config, data=replace(config.data, sources=(STORY_SOURCE,)))
    (folder / "config.toml").write_text(layers.to_toml(stories), encoding="utf-8")
    process = held(("demo", "--run", folder), "llamita.cli.demo:shutil.rmtree", tmp_path / "held")
    process.send(signal.SIGTERM)
    assert process.ended() == 143
    assert process.printed == f"stopped; go on with: llamita demo --run {folder}\n"
    assert is_story_run(Run.open(folder).config())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("llamita.training.stories:write_shards", "demo"),
        ("llamita.training.stepping:train_step", "resume"),
        ("llamita.cli.demo:measure", "probe"),
    ],
)
def test_a_demo_that_was_stopped_goes_on_with_what_it_says(place: str, command: str, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    process = held(("demo", "--run", folder, *SHORT), place, tmp_path / "held")
    process.send(signal.SIGINT)
    assert process.code() == 130
    (told,) = re.findall("go on with: llamita (.*)", process.printed)
    assert told.startswith(command)
    assert llamita(*shlex.split(told)).code == 0
    assert Run.open(folder).checkpoints()[-1].step == 12


@pytest.mark.slow
def test_a_demo_that_is_stopped_in_its_last_step_leaves_a_whole_run_to_ask(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    step = "llamita.training.stepping:train_step"
    process = held(("demo", "--run", folder, *SHORT), step, tmp_path / "held", at_call=12)
    process.send(signal.SIGINT)
    assert process.code() == 130
    assert process.printed.endswith(f"stopped after training, all of it saved; go on with: llamita probe {folder}\n")
    assert Run.open(folder).checkpoints()[-1].step == 12


@pytest.mark.slow
def test_the_demo_learns_what_its_world_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = run_cli(capsys, "demo", "--run", str(tmp_path / "demo"), "--json")
    assert code == 0
    report = json.loads(printed)
    assert report["gap"] < 0.05
    gender = report["analogies"]["gender"]
    assert gender["before"] <= 0.05 and gender["after"] >= 0.85 and gender["after"] - gender["control"] >= 0.5
    for probe in report["probes"].values():
        assert probe["after"] >= 0.95 and abs(probe["control"] - 0.5) <= 0.1
    countable = [row for row in report["analogies"].values() if row["ppmi"] >= 0.5]
    assert sum(row["after"] for row in countable) >= 0.75 * sum(row["ppmi"] for row in countable)
