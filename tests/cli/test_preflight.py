"""`llamita preflight`: a run's own start, or a configuration's, with the verdict as its exit code."""

import pytest

from llamita.runs.folder import Run
from tests.cli.command_line import TINY, llamita

CONFIG = ("--model.n-embd", "64", "--model.n-layers", "1", "--model.max-seq-len", "32", "--tokenizer.vocab-size", "320")


def test_a_sound_start_exits_with_0_and_a_broken_one_with_1() -> None:
    sound = llamita("preflight", *CONFIG)
    assert sound.code == 0 and sound.out.splitlines()[-1].split() == ["verdict", "sound"]
    broken = llamita("preflight", *CONFIG, "--model.embedding-std", 1)
    assert broken.code == 1 and "x n_embd 64 x cosine" in broken.out.splitlines()[-1]


def test_figures_come_as_one_object() -> None:
    told = llamita("preflight", *CONFIG, "--json").json
    assert told["self_logit"] == pytest.approx(told["predicted_self_logit"], rel=0.03)
    assert told["problems"] == [] and told["loss"] < told["guess"] + 0.5


def test_a_run_is_tried_on_its_own_text_at_any_checkpoint(tiny_run: Run) -> None:
    losses = [
        llamita("preflight", "--run", tiny_run.path, "--checkpoint", which, "--json").json["loss"]
        for which in ("initial", "latest")
    ]
    assert losses[1] < losses[0]


def test_a_run_and_settings_are_one_too_many(tiny_run: Run) -> None:
    for setting in (("--model.embedding-std", 1), ("--preset", "nano"), TINY[:2]):
        refused = llamita("preflight", "--run", tiny_run.path, *setting)
        assert (refused.code, refused.out) == (2, "") and "give --run or settings" in refused.err
