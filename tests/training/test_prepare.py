"""Text becomes a run folder, or nothing at all; what nobody asked for is picked."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamita import layers
from llamita.config import RunConfig
from llamita.errors import UsageError, UserError
from llamita.layers import Layer
from llamita.text.batches import Batches
from llamita.text.shards import open_corpora, write_shards
from llamita.text.sources import Document
from llamita.text.tokenizer import Tokenizer
from llamita.training.hardware import Hardware, choose_hardware
from llamita.training.prepare import make_tokenizer, prepare_run, read_text, resolve
from llamita.training.sizes import never_predicted, pick_rates
from tests.training.tiny_runs import SMALL, small_run

CPU = Hardware("cpu", "fp32", 2)
MACHINES = [CPU, Hardware("cpu", "bf16", 8), Hardware("cuda", "bf16", 4), Hardware("mps", "fp32", 4)]


@given(
    st.sampled_from(MACHINES),
    st.floats(0, 12).map(lambda power: int(10**power)),
    st.sampled_from([64, 320, 1024, 32768]),
)
def test_sizes_are_picked_for_any_text_on_any_machine(machine: Hardware, text_bytes: int, vocab_size: int) -> None:
    config, origin = resolve([], machine, text_bytes, max(text_bytes // 3, 1), vocab_size)
    assert (config.training.device, config.training.precision) == (machine.device, machine.precision)
    assert config.training.threads == machine.threads
    assert config.model.vocab_size == vocab_size
    assert config.model.n_heads * config.model.head_dim == config.model.n_embd
    assert 1 <= config.training.eval_every <= config.training.steps
    assert config.optimizer.warmup_steps <= config.training.steps
    assert origin["model.n_embd"].startswith("picked")
    assert origin["training.device"] == "this machine"
    assert origin["model.vocab_size"] == "the tokenizer"


@given(
    st.sampled_from(MACHINES),
    st.floats(0, 12).map(lambda power: int(10**power)),
    st.integers(1, 2048).map(lambda half: 2 * half),
    st.sampled_from([{}, {"model.n_kv_heads": 2}, {"model.n_layers": 3}]),
)
def test_any_even_width_can_be_asked_for_alone(
    machine: Hardware, text_bytes: int, n_embd: int, more: dict[str, Any]
) -> None:
    asked = {"model.n_embd": n_embd if "model.n_kv_heads" not in more else 2 * n_embd, **more}
    config, _ = resolve([layers.from_dotted("", asked)], machine, text_bytes, max(text_bytes // 3, 1), 64)
    assert config.model.n_embd == asked["model.n_embd"] == config.model.n_heads * config.model.head_dim


@pytest.mark.parametrize("asked", [{"training.batch_size": 100}, {"model.max_seq_len": 2048}])
def test_as_many_tokens_are_read_whatever_the_size_of_a_step(asked: dict[str, Any]) -> None:
    def tokens(*stack: Layer) -> int:
        config, _ = resolve(list(stack), CPU, 10_000_000, 3_000_000, 1024)
        return config.training.steps * config.tokens_per_step

    assert tokens(layers.from_dotted("", asked)) == pytest.approx(tokens(), rel=0.05)


@pytest.mark.parametrize("name", sorted({*layers.presets()} - {"storyworld"}))
def test_a_preset_learns_at_the_rates_of_its_width(name: str) -> None:
    config, _ = resolve([layers.preset(name)], CPU, 10_000_000, 3_000_000, 1024)
    picked = pick_rates(config.model.n_embd, 1024, config.training.steps)
    assert {setting: getattr(config.optimizer, setting) for setting in picked} == picked
    assert config.optimizer.lr == pytest.approx(0.768 / max(config.model.n_embd, 192), rel=1e-3)


def test_the_longer_the_training_and_the_fewer_the_tokens_the_slower_the_tables() -> None:
    ratios = [pick_rates(768, 32768, steps)["table_lr_ratio"] for steps in (0, 300, 1000, 4000, 16_000, 1_000_000)]
    assert ratios == [4, 4, 4, 2, 1, 1]
    assert [pick_rates(768, size, 1000)["table_lr_ratio"] for size in (1, 512, 1024, 2048, 4096)] == [1, 1, 2, 4, 4]


def test_what_follows_from_the_number_of_steps_follows_from_the_one_asked_for() -> None:
    asked = [layers.from_dotted("", {"training.steps": 50_000})]
    few, many = (resolve(stack, CPU, 3000, 1000, 64)[0] for stack in ([], asked))
    assert many.training.steps == 50_000 > few.training.steps
    assert [one.training.steps // one.training.eval_every for one in (few, many)] == [10, 10]


@given(st.floats(0, 10).map(lambda power: int(10**power)), st.integers(0, 10))
def test_more_text_never_gets_a_smaller_vocabulary(text_bytes: int, factor: int) -> None:
    sizes = [resolve([], CPU, size, 1000, 64)[0].tokenizer.vocab_size for size in (text_bytes, text_bytes << factor)]
    assert sizes[0] <= sizes[1]


def test_what_is_asked_for_wins_over_what_is_picked() -> None:
    asked = {"training.threads": 7, "model.n_layers": 5, "training.steps": 3, "tokenizer.vocab_size": 999}
    config, origin = resolve([layers.from_dotted("me", asked)], CPU, 10_000, 3_000, 64)
    flat = layers.flat(config)
    assert {name: flat[name] for name in asked} == asked
    assert {origin[name] for name in asked} == {"me"}


def test_a_prepared_run_holds_what_training_needs(tiny_text: Path, tmp_path: Path) -> None:
    prepared = prepare_run(tmp_path / "run", [str(tiny_text)], [layers.from_dotted("", SMALL)])
    run = prepared.run
    assert run.tokenizer().fingerprint == prepared.tokenizer.fingerprint
    model, tokenizer = run.config().model, prepared.tokenizer
    assert model.vocab_size == tokenizer.get_vocab_size()
    # One text: nothing follows its end.
    assert model.unpredicted_rows == tokenizer.reserved + 2 == tokenizer.get_vocab_size() - tokenizer.text_size
    assert run.config().data.sources == (str(tiny_text),)
    corpora = open_corpora(run.data_folder, prepared.tokenizer)
    assert corpora.validation is not None
    assert corpora.train.tokens == prepared.corpora.train.tokens
    text = tiny_text.read_text(encoding="utf-8")
    pieces = [prepared.tokenizer.decode(part.read(0, part.tokens)) for part in (corpora.train, corpora.validation)]
    assert "".join(pieces) == text


@pytest.mark.parametrize(
    ("texts", "packing", "predicted"),
    [
        (1, "stream", 256),
        (2, "stream", 257),  # the beginning of the second text follows the first
        (1, "documents", 257),  # and ends every text
        (5, "documents", 257),
    ],
)
def test_what_follows_nothing_is_never_predicted(
    texts: int, packing: Literal["stream", "documents"], predicted: int, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.train([], vocab_size=0, kind="byte")
    documents = [Document(f"text {number}", "") for number in range(texts)]
    corpus = write_shards(documents, tokenizer, tmp_path).train
    silent = never_predicted(tokenizer, corpus, packing)
    assert tokenizer.get_vocab_size() - silent == predicted
    targets = [batch.targets for batch in Batches(corpus, rows=2, seq_len=5, seed=0, packing=packing).one_epoch(1)]
    assert max(target.max() for target in targets) < predicted


def test_sources_may_come_from_the_settings(tiny_text: Path, tmp_path: Path) -> None:
    asked = [layers.from_dotted("", {**SMALL, "data.sources": [str(tiny_text)]})]
    assert prepare_run(tmp_path / "run", [], asked).run.config().data.sources == (str(tiny_text),)
    other = tmp_path / "other.txt"
    other.write_text("Something else, said twice. " * 20, encoding="utf-8")
    assert prepare_run(tmp_path / "more", [str(other)], asked).run.config().data.sources == (str(other),)


def test_a_tokenizer_that_is_given_is_the_runs_own(tiny_text: Path, tmp_path: Path) -> None:
    file = tmp_path / "bytes.json"
    Tokenizer.train([], vocab_size=0, kind="byte").save(file)
    run = small_run(tmp_path / "run", tiny_text, {"tokenizer.file": str(file)})
    assert run.tokenizer().kind == "byte"
    assert (run.config().model.vocab_size, run.config().model.unpredicted_rows) == (320, 64)


UNFIT: list[dict[str, Any]] = [
    {"model.n_embd": 0},
    {"model.head_dim": 7},
    {"model.n_embed": 64},
    {"data.validation_fraction": 1.0},
    {"data.field": 3},
    {"data.sources": "text.txt"},
    {"training.device": "gpu"},
    {"training.precision": "fp16"},
    {"training.micro_batch_size": 3},
    {"tokenizer.vocab_size": 10},
    {"tokenizer.file": "missing.json"},
    {"optimizer.lr": "fast"},
]


@pytest.mark.parametrize("unfit", UNFIT, ids=lambda unfit: next(iter(unfit)))
def test_nothing_is_written_for_settings_that_do_not_fit(
    unfit: dict[str, Any], tiny_text: Path, tmp_path: Path
) -> None:
    sources = [] if "data.sources" in unfit else [str(tiny_text)]
    with pytest.raises(UserError):
        prepare_run(tmp_path / "run", sources, [layers.from_dotted("", SMALL), layers.from_dotted("", unfit)])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_without_a_text(tmp_path: Path) -> None:
    for sources, kind in (([], UsageError), ([str(tmp_path / "missing.txt")], UserError)):
        with pytest.raises(kind):
            prepare_run(tmp_path / "run", sources, [layers.from_dotted("", SMALL)])
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_run_keeps_no_memory_of_the_words_of_its_text(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamita.text.engines._WORTHWHILE", 1)
    engine = prepare_run(tmp_path / "run", [str(tiny_text)], [layers.from_dotted("", SMALL)]).tokenizer.engine
    assert engine._other is not None and engine._other._encode is None


def test_a_preparation_that_failed_halfway_is_begun_again(tiny_text: Path, tmp_path: Path) -> None:
    whole = small_run(tmp_path / "whole", tiny_text)
    run = small_run(tmp_path / "run", tiny_text)
    run.config_file.unlink()
    (run.data_folder / "index.json").unlink()
    again = small_run(tmp_path / "run", tiny_text)
    assert open_corpora(again.data_folder).train.token_hash == open_corpora(whole.data_folder).train.token_hash


def test_progress_of_each_piece_of_work_grows_up_to_the_whole_text(tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("A line that is néither short nor long.\n" * 80_000, encoding="utf-8")
    told: list[tuple[str, int, int]] = []
    asked = [Layer("", layers.from_dotted("", {**SMALL, "tokenizer.kind": "char"}).values)]
    prepare_run(tmp_path / "run", [str(text)], asked, lambda *what: told.append(what))
    size = text.stat().st_size
    assert {total for _, _, total in told} == {size}
    for work in ("training the tokenizer", "encoding the text"):
        done = [done for doing, done, _ in told if doing == work]
        assert done == sorted(done)
        assert done[-1] == size


def test_reading_counts_what_it_met(tiny_text: Path) -> None:
    text = read_text([str(tiny_text)], "text")
    assert text.report.bytes == tiny_text.stat().st_size
    assert text.report.documents == 1
    assert "".join(text.documents("", None)) == tiny_text.read_text(encoding="utf-8")


def test_a_tokenizer_is_trained_as_asked(tiny_text: Path) -> None:
    text = read_text([str(tiny_text)], "text")
    config, _ = resolve([layers.from_dotted("", {"tokenizer.kind": "char"})], CPU, 3000, 1000, 64)
    tokenizer = make_tokenizer(text, config.tokenizer)
    assert tokenizer.kind == "char"
    assert tokenizer.unknown("ferry") == []


def test_what_is_measured_before_a_run_is_kept_in_its_config(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measured(config: RunConfig, origin: dict[str, str], notify: object) -> RunConfig:
        seen.append(origin["training.threads"])
        return dataclasses.replace(config, training=dataclasses.replace(config.training, threads=7))

    monkeypatch.setattr("llamita.training.prepare.tuned", measured)
    run = prepare_run(tmp_path / "run", [str(tiny_text)], []).run
    assert run.config().training.threads == 7 and seen == ["this machine"]


@pytest.mark.parametrize("asked", ["auto", "fp32"])
def test_auto_over_a_files_precision_is_resolved_too(
    asked: str, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a busy machine would measure is no matter of this.
    monkeypatch.setattr("llamita.training.prepare.tuned", lambda config, *_: config)
    stack = [Layer(name, {"training": {"precision": value}}) for name, value in (("my.toml", "fp32"), ("line", asked))]
    config = prepare_run(tmp_path / "run", [str(tiny_text)], stack).run.config()
    assert config.training.precision == ("fp32" if asked == "fp32" else choose_hardware("auto", "auto").precision)
