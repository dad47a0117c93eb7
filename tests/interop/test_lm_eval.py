"""lm-evaluation-harness asks a run, and finds what it finds in the run's export, and what our own scores say."""

import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llamita.errors import UserError
from llamita.generation.likelihood import windows
from llamita.interop import lm_eval as adapter
from llamita.interop.hf_export import export_hf
from llamita.interop.hf_import import import_hf
from llamita.runs.folder import Run
from llamita.tasks.scoring import TASKS, score
from tests.cli.command_line import llamita

harness = pytest.importorskip("lm_eval")
instances, models, registry, tasks, utils = (
    importlib.import_module(f"lm_eval.{name}")
    for name in ("api.instance", "models.huggingface", "api.registry", "tasks", "utils")
)
pytestmark = pytest.mark.interop


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def native(run: Run, **settings: Any) -> adapter.LlamitaLM:
    return adapter.LlamitaLM(run.path, device="cpu", **settings)


def foreign(folder: Path, **settings: Any) -> Any:
    return models.HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=8, **settings)


@pytest.fixture(scope="module")
def folder(story_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_hf(story_run, tmp_path_factory.mktemp("hf") / "out")


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [instances.Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def results(model: Any, names: Sequence[str]) -> dict[str, dict[str, float]]:
    manager = tasks.TaskManager(include_path=adapter.TASK_FOLDER, include_defaults=False)
    return harness.simple_evaluate(model=model, tasks=list(names), task_manager=manager, log_samples=False)["results"]


def test_our_tasks_have_the_same_scores_in_the_harness_of_the_run_and_of_its_export(
    story_run: Run, folder: Path
) -> None:
    ours, theirs = results(native(story_run), list(TASKS)), results(foreign(folder), list(TASKS))
    for task, make in TASKS.items():
        expected = score(story_run.model(), story_run.tokenizer(), make())
        for found in (ours[task], theirs[task]):
            assert found["acc,none"] == pytest.approx(expected.acc)
            assert found["acc_norm,none"] == pytest.approx(expected.acc_norm)
            assert found["acc_stderr,none"] == pytest.approx(expected.acc_stderr)
            assert found["acc_norm_stderr,none"] == pytest.approx(expected.acc_norm_stderr)


def test_log_likelihoods_are_those_of_the_export(story_run: Run, folder: Path) -> None:
    long = "once there was a king . " * 40
    pairs = [("once there was", " a king"), ("once there was ", "a king"), ("", "once there"), (long, " the king is")]
    pairs += [("café 犬", "🐫 x"), ("once", "\n\n"), ("x <|begin_of_text|>", " x")]
    asked = requests("loglikelihood", *pairs)
    # Its cache gives continuations of several lengths after the same ids the logits of the wrong place.
    export = foreign(folder, logits_cache=False)
    for (nats, greedy), (expected, likeliest) in zip(
        native(story_run, batch_size=3).loglikelihood(asked), export.loglikelihood(asked), strict=True
    ):
        # The export has logits of ids that no text has, too: a little less is left for the others.
        assert nats == pytest.approx(expected, rel=0.005)
        assert greedy == likeliest


def test_whole_texts_are_scored_in_the_windows_of_the_export(story_run: Run, folder: Path) -> None:
    for length in (0, 1, 7, 8, 9, 16, 17, 100):
        ids = list(range(length))
        theirs = map(utils.make_disjoint_window, utils.get_rolling_token_windows(ids, 999, 8, 1))
        assert list(windows(ids, 999, 8)) == list(theirs)
    texts = ("once there was a king named tom . " * 30, "once there was", "o")
    asked = requests("loglikelihood_rolling", *((text,) for text in texts))
    ours = native(story_run).loglikelihood_rolling(asked)
    assert ours == pytest.approx(foreign(folder, add_bos_token=False).loglikelihood_rolling(asked), rel=0.005)


def test_texts_go_on_as_those_of_the_export(story_run: Run, folder: Path) -> None:
    settings = ({"until": ["."], "max_gen_toks": 30}, {"until": [], "max_gen_toks": 9, "do_sample": False})
    contexts = ("once there was a king", "once there were two", "the king is ")
    asked = requests("generate_until", *((context, one) for context in contexts for one in settings))
    ours, model = native(story_run).generate_until(asked), foreign(folder)
    assert all("." not in text for text in ours[::2])
    assert ours == [text for one in asked for text in model.generate_until([one])]


def test_a_tokenizer_that_adds_no_bos_is_asked_without_one_as_there(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    told = json.loads((bare / "tokenizer.json").read_text())
    (bare / "tokenizer.json").write_text(json.dumps({**told, "post_processor": None}))
    run, export = import_hf(bare, tmp_path / "run"), foreign(bare, logits_cache=False)
    asked = requests("loglikelihood", ("once there was", " a king"), ("", "once there"))
    ours = native(run).loglikelihood(asked)
    for (nats, greedy), (expected, likeliest) in zip(ours, export.loglikelihood(asked), strict=True):
        assert (nats, greedy) == (pytest.approx(expected, rel=0.005), likeliest)
    whole = requests("loglikelihood_rolling", ("once there was a king . " * 30,))
    assert native(run).loglikelihood_rolling(whole) == pytest.approx(export.loglikelihood_rolling(whole), rel=0.005)
    going = requests("generate_until", ("once there was a king", {"until": [], "max_gen_toks": 9, "do_sample": False}))
    assert native(run).generate_until(going) == export.generate_until(going)


def test_a_temperature_draws(story_run: Run) -> None:
    sampled = {"until": [], "max_gen_toks": 20, "do_sample": True, "temperature": 1.5}
    greedy = {**sampled, "do_sample": False}
    drawn, likeliest = native(story_run).generate_until(
        requests("generate_until", ("once there", sampled), ("once there", greedy))
    )
    assert drawn != likeliest


def test_the_harness_knows_the_name_beside_its_own(story_run: Run) -> None:
    assert registry.get_model("llamita") is adapter.LlamitaLM
    assert registry.get_model("hf").__name__ == "HFLM"
    made = registry.get_model("llamita").create_from_arg_string(
        f"run={story_run.path},checkpoint=latest", {"batch_size": "auto", "device": "cuda:0", "max_batch_size": None}
    )
    assert (made.batch_size, made.max_length) == (32, story_run.config().model.max_seq_len)


def test_the_command_line_of_the_harness_finds_runs_and_tasks(
    story_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run={story_run.path}"
    words = ["lm_eval", "--model", "llamita", "--model_args", run, "--tasks", "analogies", "--batch_size", "32"]
    monkeypatch.setattr(sys, "argv", [*words])
    adapter.main()
    expected = score(story_run.model(), story_run.tokenizer(), TASKS["analogies"]())
    assert f"|{expected.acc:.4f}|" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*words[:4], "run=nowhere", *words[5:]])
    with pytest.raises(SystemExit) as left:
        adapter.main()
    assert left.value.code == 1
    assert "llamita: nowhere: no run here" in capsys.readouterr().err


def test_tasks_of_the_harness_are_handed_over(story_run: Run, tmp_path: Path) -> None:
    rows = [{"q": "once there was", "a": ["a king", "king a"], "gold": 0}, {"q": "he", "a": ["is", "are"], "gold": 0}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = (
        f"task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/rows.jsonl\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: a\n'
        "doc_to_target: gold\nmetric_list:\n  - metric: acc\n"
    )
    (tmp_path / "mine.yaml").write_text(described)
    command = ("eval", story_run.path, "--json", "--device", "cpu", "--tasks")
    found = llamita(*command, f"{tmp_path / 'mine.yaml'},analogies").json["tasks"]
    assert found.keys() == {"mine", "analogies"}
    assert found["mine"]["acc"] in (0.0, 0.5, 1.0)
    assert llamita(*command, tmp_path).json["tasks"]["mine"]["acc"] == found["mine"]["acc"]
    assert "mine: " in llamita(*command[:2], "--tasks", tmp_path).out
    shutil.move(tmp_path / "rows.jsonl", tmp_path / "gone.jsonl")
    lost = llamita(*command, tmp_path / "mine.yaml")
    assert (lost.code, lost.out) == (1, "")
    assert "lm_eval can't evaluate that" in lost.err


def test_wrong_arguments_are_refused(story_run: Run) -> None:
    for settings in ({"device": "tpu"}, {"batch_size": "many"}, {"batch_size": 0}, {"run": "nowhere"}):
        with pytest.raises(UserError, match=next(str(value) for value in settings.values())):
            adapter.LlamitaLM(**{"run": story_run.path, "device": "cpu", **settings})


def test_half_precision_scores_and_speaks(story_run: Run) -> None:
    model = native(story_run, precision="bf16")
    asked = requests("loglikelihood", ("once there was", " a king"))
    ((nats, _),), ((expected, _),) = model.loglikelihood(asked), native(story_run).loglikelihood(asked)
    assert nats == pytest.approx(expected, abs=0.1)
    assert model.generate_until(requests("generate_until", ("once", {"max_gen_toks": 5})))[0]
