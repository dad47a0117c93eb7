"""`runs`, `info`, `plan` and `doctor` tell what is, and change nothing."""

import shutil
from pathlib import Path

import pytest
import torch

from llamita import layers
from llamita.runs.folder import Run
from tests.cli.command_line import llamita


def test_info_tells_how_far_a_run_came(tiny_run: Run) -> None:
    told = llamita("info", tiny_run.path, "--json").json
    best = tiny_run.checkpoint("best")
    expected = {
        "step": 8,
        "steps": 8,
        "checkpoints": [4, 8],
        "best_step": best.step,
        "val_loss": best.val_loss,
        "bits_per_byte": best.bits_per_byte,
        "parameters": sum(weight.numel() for weight in tiny_run.model().parameters()),
        "tokens": tiny_run.checkpoints()[-1].meta["tokens"],
    }
    assert {name: told[name] for name in expected} == expected
    shown = llamita("info", tiny_run.path).out.splitlines()
    assert [line.split()[0] for line in shown] == list(told)


def test_a_run_that_has_not_begun_is_at_step_0(copied_run: Run) -> None:
    for found in copied_run.checkpoints():
        (found.path / "meta.json").unlink()
    told = llamita("info", copied_run.path, "--json").json
    assert (told["step"], told["val_loss"], told["best_step"], told["checkpoints"]) == (0, None, None, [])


def test_runs_lists_those_in_a_folder(copied_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert llamita("runs", "--json").json == {"runs": []}
    shutil.move(copied_run.path, "runs")
    assert llamita("runs", "--json").json == {"runs": [llamita("info", "runs/tiny", "--json").json]}
    row = llamita("runs").out.splitlines()[-1].split()
    assert row[:3] == ["runs/tiny", "8/8", f"{llamita('info', 'runs/tiny', '--json').json['parameters']:,}"]
    assert "llamita train" in llamita("runs", tmp_path / "nowhere").out


def test_a_run_that_cannot_be_read_hides_no_other(copied_run: Run) -> None:
    broken = copied_run.path.with_name("broken")
    broken.mkdir()
    (broken / "config.toml").write_text("[model]\nvocab_size = 0\n", encoding="utf-8")
    told = llamita("runs", copied_run.path.parent, "--json")
    assert [row["run"] for row in told.json["runs"]] == [str(copied_run.path)]
    assert "model.vocab_size (0)" in told.err
    assert str(broken) in told.err


@pytest.mark.parametrize("preset", ["nano", "30m"])
def test_a_plan_has_every_figure(preset: str) -> None:
    command = ("plan", "--preset", preset, "--device", "cpu", "--training.steps", 10)
    plan = llamita(*command, "--json").json
    assert plan.keys() == {
        *("parameters", "total_parameters", "tokens_per_step", "steps", "tokens", "epochs", "flops"),
        *("memory_bytes", "seconds", "warnings"),
    }
    config = layers.preset(preset).values
    vocab_size, n_embd = config["tokenizer"]["vocab_size"], config["model"]["n_embd"]
    assert plan["parameters"]["embeddings"] == vocab_size * n_embd
    assert plan["total_parameters"] == sum(plan["parameters"].values())
    assert plan["tokens"] == 10 * plan["tokens_per_step"]
    assert min(plan["flops"], plan["memory_bytes"], plan["seconds"]) > 0
    shown = llamita(*command).out
    assert f"{plan['total_parameters']:,}" in shown
    assert "GiB" in shown


def test_a_plan_depends_on_the_size_of_the_text() -> None:
    def epochs(text_bytes: int) -> float:
        steps = ("--training.steps", 100, "--training.batch-size", 8)
        plan = llamita("plan", "--preset", "nano", "--device", "cpu", *steps, "--text-bytes", text_bytes, "--json")
        return float(plan.json["epochs"])

    assert epochs(10_000) == pytest.approx(2 * epochs(20_000))


def test_the_vocabulary_of_a_plan_is_a_multiple_of_64() -> None:
    plan = llamita("plan", "--model.n-embd", 64, "--model.n-heads", 2, "--tokenizer.vocab-size", 1000, "--json").json
    assert plan["parameters"]["embeddings"] == 1024 * 64


def test_doctor_tells_versions_and_devices() -> None:
    facts = llamita("doctor", "--json").json
    assert facts["torch"] == torch.__version__
    assert facts["cuda"] == torch.cuda.is_available()
    assert facts["device"] in ("cpu", "cuda", "mps")
    assert facts["precision"] in ("fp32", "bf16")
    shown = llamita("doctor").out.splitlines()
    assert [line.split()[0] for line in shown] == list(facts)
