"""Command line over file over preset over what is picked over defaults, each setting with its origin."""

from pathlib import Path
from typing import Any

import pytest

from llamita.runs.folder import Run
from tests.cli.command_line import llamita

Shown = dict[str, dict[str, Any]]


def shown(*arguments: object) -> Shown:
    found: Shown = llamita("config", "show", "--device", "cpu", *arguments, "--json").json
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "mine.toml"
    made.write_text('[model]\nn_layers = 3\nn_heads = 8\n[optimizer]\nlr = 0.5\nclip = "off"\n', encoding="utf-8")
    return made


def test_the_stronger_layer_wins_and_is_named(file: Path) -> None:
    rows = shown("--preset", "nano", "--config", file, "--model.n-heads", 16)
    expected = {
        "model.n_heads": (16, "command line"),
        "model.n_layers": (3, str(file)),
        "optimizer.lr": (0.5, str(file)),
        "optimizer.clip": (None, str(file)),
        "model.n_embd": (128, "preset nano"),
        "model.max_seq_len": (128, "preset nano"),
        "optimizer.eps": (1e-8, "default"),
        "training.device": ("cpu", "this machine"),
    }
    assert {name: (rows[name]["value"], rows[name]["from"]) for name in expected} == expected
    assert rows["training.steps"]["from"].startswith("picked")


def test_each_layer_alone_beats_what_is_picked(file: Path) -> None:
    assert shown()["model.n_layers"]["from"].startswith("picked")
    assert shown("--preset", "nano")["model.n_layers"] == {"value": 4, "from": "preset nano"}
    assert shown("--config", file)["model.n_layers"] == {"value": 3, "from": str(file)}
    assert shown("--model.n-layers", 2)["model.n_layers"] == {"value": 2, "from": "command line"}


def test_short_options_are_the_dotted_ones() -> None:
    rows = shown("--seed", 7, "--precision", "fp32")
    assert rows["training.seed"] == {"value": 7, "from": "command line"}
    assert rows["training.precision"]["value"] == "fp32"
    assert shown("--training.seed", 7)["training.seed"] == rows["training.seed"]


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (("--model.tie-embeddings",), "model.tie_embeddings", True),
        (("--model.no-tie-embeddings",), "model.tie_embeddings", False),
        (("--model.positions", "learned"), "model.positions", "learned"),
        (("--optimizer.clip", "off"), "optimizer.clip", None),
        (("--optimizer.clip", "0.5"), "optimizer.clip", 0.5),
        (("--optimizer.betas", "0.8", "0.9"), "optimizer.betas", [0.8, 0.9]),
        (("--optimizer.lr", "1e-4"), "optimizer.lr", 1e-4),
        (("--optimizer.lr", "1"), "optimizer.lr", 1.0),
        (("--data.mask-documents",), "data.mask_documents", True),
        (("--training.save-every", "3"), "training.save_every", 3),
        (("--training.threads", "2"), "training.threads", 2),
        (("--tokenizer.kind", "char"), "tokenizer.kind", "char"),
        (("--tracking.to", "wandb"), "tracking.to", ["wandb"]),
        (("--tracking.to", "trackio", "--tracking.to", "tensorboard"), "tracking.to", ["trackio", "tensorboard"]),
        (("--tracking.empty-to",), "tracking.to", []),
        (("--tracking.project", "tales"), "tracking.project", "tales"),
    ],
)
def test_an_option_sets_the_field_of_its_name(arguments: tuple[str, ...], name: str, value: object) -> None:
    assert shown(*arguments)[name] == {"value": value, "from": "command line"}


def test_setting_one_field_leaves_its_siblings_alone() -> None:
    before, after = shown(), shown("--optimizer.weight-decay", "0.7")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"optimizer.weight_decay"}


def test_a_scaling_of_rope_can_be_given_on_the_command_line() -> None:
    scaling = ("--model.rope-scaling.kind", "llama3", "--model.rope-scaling.factor", 8)
    rows = shown(*scaling, "--model.rope-scaling.original-max-seq-len", 64)
    assert rows["model.rope_scaling.factor"] == {"value": 8.0, "from": "command line"}
    assert rows["model.rope_scaling.beta_fast"]["from"] == "default"


def test_the_text_for_which_sizes_are_picked_can_be_named() -> None:
    small, large = (shown("--text-bytes", size) for size in (1000, 10**9))
    assert small["tokenizer.vocab_size"]["value"] < large["tokenizer.vocab_size"]["value"]


def test_the_settings_of_a_run_are_those_in_its_folder(tiny_run: Run) -> None:
    rows = shown(tiny_run.path)
    assert {row["from"] for row in rows.values()} == {str(tiny_run.config_file)}
    assert rows["model.n_embd"]["value"] == 32


def test_people_see_every_setting_with_its_origin() -> None:
    lines = llamita("config", "show", "--preset", "nano", "--device", "cpu").out.splitlines()
    (width,) = [line.split() for line in lines if line.startswith("model.n_embd ")]
    assert width == ["model.n_embd", "128", "preset", "nano"]
    assert len(lines) == len(shown("--preset", "nano"))


@pytest.mark.parametrize(
    "content", ["[model]\nn_embed = 3\n", "[model]\nn_embd = 1.5\n", "[training]\ndevice = 'gpu'\n"]
)
def test_a_file_that_does_not_fit_exits_with_2(content: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(content, encoding="utf-8")
    refused = llamita("config", "show", "--config", file)
    assert (refused.code, refused.out) == (2, "")
    name = content.split()[1]
    assert name in refused.err
