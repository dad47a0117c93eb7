"""`llamita bench`: what it measures agrees with itself, and nothing is left behind but the trace asked for."""

import json
from pathlib import Path

import pytest
import torch

from llamita.cli.bench import advice, in_time
from llamita.runs.folder import Run
from llamita.training.plan import flops_per_token, training_memory
from llamita.training.trial import Measured
from tests.cli.command_line import TINY, llamita
from tests.training.tiny_runs import small_config

QUICK = ("--seconds", "0.2")


def measured(config_changes: dict[str, object] | None = None, **changes: object) -> Measured:
    given: dict[str, object] = {
        **{"device": "cuda", "precision": "bf16", "compiled": True, "tokens_per_step": 4096, "spread": 0.01},
        **{"seconds_per_step": 0.1, "start_seconds": 1.0, "peak_bytes": 1, "estimated_bytes": 1},
        **{"flops_per_second": 1e12, "product_flops": 2e12, "data_sheet_flops": None},
        "shares": {"matrix products": 1.0},
    }
    return Measured(**{**given, **changes})  # type: ignore[arg-type]


def test_figures_come_as_one_object_that_agrees_with_itself(tiny_run: Run) -> None:
    before = sorted(tiny_run.path.rglob("*"))
    told = llamita("bench", "--run", tiny_run.path, *QUICK, "--json").json
    config = tiny_run.config()
    assert told["tokens_per_step"] == config.tokens_per_step == 4 * 32
    assert told["tokens_per_second"] == pytest.approx(told["tokens_per_step"] / told["seconds_per_step"])
    assert told["flops_per_second"] == pytest.approx(told["tokens_per_second"] * flops_per_token(config.model))
    assert told["estimated_bytes"] == training_memory(config)
    assert sum(told["shares"].values()) == pytest.approx(1) and min(told["shares"].values()) >= 0
    assert {"matrix products", "optimizer, clipping", "nothing, or Python"} <= told["shares"].keys()
    assert 0 < told["flops_per_second"] < told["product_flops"]
    assert sorted(tiny_run.path.rglob("*")) == before


def test_words_say_what_it_is_about() -> None:
    told = llamita("bench", *TINY, *QUICK)
    assert told.code == 0, told.err
    assert "4 rows of 32 tokens a step" in told.out and "tok/s" in told.out and "advice: " in told.out


def test_the_trace_is_one_that_perfetto_opens(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    told = llamita("bench", *TINY, *QUICK, "--profile", trace)
    assert told.code == 0 and str(trace) in told.out
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum("aten::mm" in event.get("name", "") for event in events) > 10


def test_a_run_of_another_machine_and_a_lack_of_memory_are_explained(
    copied_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("llamita.cli.bench.try_out", none_left)
    refused = llamita("bench", "--run", copied_run.path)
    assert refused.code == 1 and "--training.recompute-layers" in refused.err
    if not torch.cuda.is_available():
        text = copied_run.config_file.read_text().replace('device = "cpu"', 'device = "cuda"')
        copied_run.config_file.write_text(text)
        refused = llamita("bench", "--run", copied_run.path)
        assert refused.code == 2 and "--device cuda: this machine has none" in refused.err


def test_where_a_step_takes_too_long_fewer_rows_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    config = small_config(training__batch_size=512, training__micro_batch_size=128)
    for estimate, batch, micro in ((5.0, 512, 128), (40.0, 128, 128), (160.0, 32, 32), (1e9, 1, 1)):
        monkeypatch.setattr("llamita.cli.bench.seconds_per_step", lambda _, estimate=estimate: estimate)
        training = in_time(config, 10.0, told.append).training
        assert (training.batch_size, training.micro_batch_size) == (batch, micro)
    assert len(told) == 3 and told[1] == "a step of 512 rows takes about 3 min here: measured with 32 instead"


def test_what_nobody_asked_for_is_picked_as_training_would(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_with = []
    monkeypatch.setattr("llamita.cli.bench.try_out", lambda config, **_: measured_with.append(config) or measured())
    assert llamita("bench", *TINY).code == 0
    assert measured_with[0].training.attention == "torch"


def test_randomness_and_threads_stay_as_they_were() -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert llamita("bench", *TINY, *QUICK, "--training.threads", "2").code == 0
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--seconds", "0"), "--seconds 0"),
        (("--seconds", "nan"), "--seconds nan"),
        (("--profile", "{there}"), "isn't there yet"),
        (("--profile", "{nowhere}/x.json"), "in a folder that is"),
        (("--run", "{run}", "--preset", "nano"), "give --run or settings"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_tried(
    arguments: tuple[str, ...], reason: str, tiny_run: Run, tmp_path: Path
) -> None:
    there = tmp_path / "there.json"
    there.write_text("mine")
    names = {"{there}": str(there), "{run}": str(tiny_run.path)}
    given = [names.get(word, word.replace("{nowhere}", str(tmp_path / "nowhere"))) for word in arguments]
    refused = llamita("bench", *(() if "--run" in given else TINY), *given)
    assert (refused.code, refused.out) == (2, "") and reason in refused.err
    assert there.read_text() == "mine"


def test_advice_follows_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamita.cli.bench.why_not_compiled", lambda *_: None)
    on_gpu = {"training__device": "cuda", "training__precision": "bf16", "training__compile": True}
    large = {**on_gpu, "model__n_embd": 256, "model__n_layers": 8, "training__batch_size": 512}
    assert advice(small_config(**large), measured()) == ["nothing stands out"]
    for changes, shares, word in (
        ({"training__compile": False}, {}, "--training.compile"),
        ({"training__precision": "fp32"}, {}, "--precision bf16"),
        ({"training__micro_batch_size": 8}, {}, "--training.micro-batch-size"),
        ({"training__micro_batch_size": 8}, {"nothing, or Python": 0.3}, "30% of a step nothing computes: more rows"),
        ({}, {"nothing, or Python": 0.3}, "30% of a step nothing computes"),
        ({"model__vocab_size": 60000}, {}, "--tokenizer.vocab-size"),
    ):
        (hint,) = advice(small_config(**{**large, **changes}), measured(shares=shares or {"matrix products": 1.0}))
        assert word in hint
