"""Layers of settings: which one wins, what is refused, and what survives a trip through TOML."""

import json
import math
import re
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamita import layers
from llamita.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RopeScaling,
    TokenizerConfig,
    TrackingConfig,
    TrainingConfig,
)
from llamita.errors import UsageError
from llamita.layers import Layer
from llamita.training.plan import count_parameters

SCALING = {"kind": "yarn", "factor": 2.0, "original_max_seq_len": 64}
FULL: dict[str, Any] = {"model": {"vocab_size": 64, "rope_scaling": SCALING}}


def unfit(value: object) -> list[object]:
    """Values of other types than the given one's."""
    if isinstance(value, bool):
        return [1, "yes", None]
    if isinstance(value, int):
        return [1.5, "three", True, [3]]
    if isinstance(value, float):
        return ["three", True, math.nan, math.inf, [3.0]]
    if isinstance(value, tuple):
        return ["text", 3, [3, None]]
    return [["text"], False] if value is None else [3, ["text"], False]


WRONG_TYPES = [(dotted, wrong) for dotted, value in layers.flat(layers.build(FULL)).items() for wrong in unfit(value)]


@pytest.mark.parametrize(("dotted", "wrong"), WRONG_TYPES)
def test_a_value_of_the_wrong_type_is_refused_by_name(dotted: str, wrong: object) -> None:
    values, _ = layers.merge([Layer("", FULL), layers.from_dotted("", {dotted: wrong})])
    with pytest.raises(UsageError) as refused:
        layers.build(values)
    assert dotted in str(refused.value)
    assert repr(wrong) in str(refused.value) or isinstance(wrong, list)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"vocab_size": 64, "n_embed": 32}}, "unknown setting model.n_embed = 32"),
        ({"modle": {"n_embd": 32}}, "unknown setting modle"),
        ({"model": {"vocab_size": 64, "rope_scaling": {**SCALING, "kin": 1}}}, "model.rope_scaling.kin = 1"),
        ({"model": {"n_embd": 32}}, "model.vocab_size is missing"),
        ({}, "model is missing"),
        ({"model": {"vocab_size": 64, "rope_scaling": {"kind": "linear"}}}, "model.rope_scaling.factor is missing"),
        ({"model": 3}, "model = 3 must be a table"),
        ({"model": {"vocab_size": 64, "rope_scaling": 2.0}}, "model.rope_scaling = 2.0 must be a table"),
        ({**FULL, "data": {"packing": "loose"}}, "data.packing = 'loose' must be one of 'stream', 'documents'"),
        ({**FULL, "optimizer": {"betas": [0.9]}}, "optimizer.betas = [0.9] must be a list of 2 values"),
        ({**FULL, "data": {"sources": ["a\udcffb"]}}, r"data.sources = 'a\udcffb' must be a string in UTF-8"),
    ],
)
def test_settings_that_do_not_fit_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        layers.build(values)
    assert message in str(refused.value)


def test_an_unknown_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="known here: .*n_embd.*n_layers"):
        layers.build({"model": {"vocab_size": 64, "width": 3}})


def test_a_whole_number_is_fine_where_a_float_is_wanted() -> None:
    config = layers.build({**FULL, "optimizer": {"lr": 1, "betas": [0, 0.5]}})
    assert (config.optimizer.lr, config.optimizer.betas) == (1.0, (0.0, 0.5))
    assert type(config.optimizer.lr) is type(config.optimizer.betas[0]) is float


@pytest.mark.parametrize("off", ["off", None])
def test_off_and_none_turn_off_what_can_be_off(off: object) -> None:
    config = layers.build({"model": {"vocab_size": 64, "rope_scaling": off}, "optimizer": {"clip": off}})
    assert config.model.rope_scaling is config.optimizer.clip is None


def test_partial_settings_have_the_types_of_their_fields() -> None:
    values = {
        "model": {"n_embd": 64, "rope_scaling": {"factor": 2}},
        "optimizer": {"lr": 1, "betas": [0, 0.5], "clip": "off"},
    }
    typed = layers.typed(values)
    assert typed == {
        "model": {"n_embd": 64, "rope_scaling": {"factor": 2.0}},
        "optimizer": {"lr": 1.0, "betas": (0.0, 0.5), "clip": None},
    }
    assert type(typed["optimizer"]["lr"]) is type(typed["model"]["rope_scaling"]["factor"]) is float
    assert layers.typed({}) == {}


@pytest.mark.parametrize(
    "values", [{"modle": {}}, {"model": {"n_embed": 3}}, {"training": {"device": "gpu"}}, {"data": 3}]
)
def test_partial_settings_that_do_not_fit_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        layers.typed(values)


def test_later_layers_win_and_each_setting_knows_where_it_comes_from() -> None:
    stack = [
        Layer("weak", {"model": {"vocab_size": 1, "n_embd": 1, "n_layers": 1}}),
        Layer("middle", {"model": {"n_embd": 2, "n_layers": 2}, "training": {"steps": 2}}),
        layers.from_dotted("strong", {"model.n_layers": 3, "optimizer.lr": 3.0}),
    ]
    values, origin = layers.merge(stack)
    assert values == {
        "model": {"vocab_size": 1, "n_embd": 2, "n_layers": 3},
        "training": {"steps": 2},
        "optimizer": {"lr": 3.0},
    }
    assert origin == {
        "model.vocab_size": "weak",
        "model.n_embd": "middle",
        "model.n_layers": "strong",
        "training.steps": "middle",
        "optimizer.lr": "strong",
    }


def test_merging_leaves_the_layers_as_they_were() -> None:
    weak, strong = Layer("weak", {"model": {"n_embd": 1}}), Layer("strong", {"model": {"n_embd": 2}})
    layers.merge([weak, strong])
    assert weak.values == {"model": {"n_embd": 1}}


def test_a_table_can_be_turned_off_and_on_again_by_later_layers() -> None:
    off = Layer("off", {"model": {"rope_scaling": "off"}})
    assert layers.build(layers.merge([Layer("", FULL), off])[0]).model.rope_scaling is None
    values, _ = layers.merge([off, Layer("", FULL)])
    assert layers.build(values).model.rope_scaling == RopeScaling(kind="yarn", factor=2.0, original_max_seq_len=64)


def test_flat_names_every_field_of_every_table() -> None:
    names = layers.flat(layers.build(FULL)).keys()
    expected = {f"model.{name}" for name in layers.field_names(ModelConfig)} - {"model.rope_scaling"}
    expected |= {f"model.rope_scaling.{name}" for name in layers.field_names(RopeScaling)}
    for table, cls in (
        ("tokenizer", TokenizerConfig),
        ("data", DataConfig),
        ("optimizer", OptimizerConfig),
        ("training", TrainingConfig),
        ("tracking", TrackingConfig),
    ):
        expected |= {f"{table}.{name}" for name in layers.field_names(cls)}
    assert names == expected


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
shares = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-300, 1e300)
scaling = {
    "kind": st.sampled_from(["linear", "llama3", "yarn"]),
    "factor": st.floats(1, 1e6),
    "original_max_seq_len": st.integers(1, 1 << 20),
    "low_freq_factor": st.floats(0.1, 1.0),
}
model = {
    "vocab_size": st.integers(1, 1 << 20),
    "n_kv_heads": st.sampled_from([1, 2, 4]),
    "positions": st.sampled_from(["rope", "learned", "none"]),
    "rope_theta": st.floats(1.5, 1e300),
    "rope_scaling": st.just("off") | st.fixed_dictionaries(scaling),
    "tie_embeddings": st.booleans(),
}
settings = {
    "model": st.fixed_dictionaries(model),
    "tokenizer": st.fixed_dictionaries({"file": st.none() | texts}),
    "data": st.fixed_dictionaries({"sources": st.lists(texts, max_size=3), "field": texts}),
    "optimizer": st.fixed_dictionaries({"lr": positive, "betas": st.lists(shares, min_size=2, max_size=2)}),
    "training": st.fixed_dictionaries({"seed": st.integers(-(1 << 62), 1 << 62)}),
}


@given(st.fixed_dictionaries(settings))
def test_a_config_survives_the_trip_through_toml(values: dict[str, Any]) -> None:
    config = layers.build(values)
    assert layers.build(tomllib.loads(layers.to_toml(config))) == config


def test_a_toml_file_is_a_layer_with_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[model]\nn_embd = 48\n[model.rope_scaling]\nkind = "linear"\n', encoding="utf-8")
    found = layers.from_file(file)
    assert found == Layer(str(file), {"model": {"n_embd": 48, "rope_scaling": {"kind": "linear"}}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[model\n", "not valid TOML"),
        (b"[model]\nn_embd = \xff\n", "not valid TOML"),
        (b"model = 3\n", "model = 3 must stand in a table"),
        (b"steps = 3\n", "steps = 3 must stand in a table"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        layers.from_file(file)
    assert str(file) in str(refused.value)
    assert message in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(UsageError, match="can't be read"):
            layers.from_file(path)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("nano", 0.5e6, 2e6), ("30m", 25e6, 35e6), ("124m", 110e6, 140e6), ("350m", 315e6, 385e6), ("1b", 0.9e9, 1.2e9)],
)
def test_a_preset_has_about_as_many_parameters_as_its_name_says(name: str, low: float, high: float) -> None:
    found = layers.preset(name)
    vocab_size = found.values["tokenizer"]["vocab_size"]
    config = layers.build(layers.merge([found, Layer("", {"model": {"vocab_size": vocab_size}})])[0])
    assert low <= sum(count_parameters(config.model).values()) <= high


def test_presets_are_listed_from_the_narrowest_on() -> None:
    widths = [layers.preset(name).values["model"]["n_embd"] for name in layers.presets()]
    assert {"nano", "30m", "124m", "350m", "1b"} <= set(layers.presets())
    assert widths == sorted(widths)


@pytest.mark.parametrize("name", layers.presets())
def test_every_preset_is_a_config_once_the_vocabulary_is_known(name: str) -> None:
    values, _ = layers.merge([layers.preset(name), Layer("", {"model": {"vocab_size": 64}})])
    flat = layers.flat(layers.build(values))
    given = {f"{table}.{key}": value for table, fields in values.items() for key, value in fields.items()}
    assert {key: flat[key] for key in given} == given


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="--preset huge.*nano, 30m, 124m, 350m, 1b"):
        layers.preset("huge")


CORPUS = Path(__file__).parent / "fuzz" / "corpus" / "config"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dotted_name_of_1200_parts", "more than 8 tables in each other"),
        ("table_of_1200_parts", "more than 8 tables in each other"),
        ("inline_name_of_1200_parts", "more than 8 tables in each other"),
        ("tables_nine_deep", "more than 8 tables in each other"),
        ("lists_in_lists", "not valid TOML: "),
        ("tables_in_tables", "not valid TOML: "),
        ("decimal_of_4400_digits", "not valid TOML: .*4300 digits"),
        ("not_utf8", "not valid TOML: .*utf-8"),
        ("nul", "not valid TOML: "),
        ("no_table", "vocab_size = 64 must stand in a table"),
    ],
)
def test_a_file_made_to_do_harm_is_refused_by_name(name: str, said: str) -> None:
    file = CORPUS / f"{name}.toml"
    with pytest.raises(UsageError, match=re.escape(f"{file}: ") + said):
        layers.from_file(file)


def test_a_name_of_very_many_parts_takes_no_time(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    begun = time.process_time()
    for text in (
        "[" + "a." * 500_000 + "a]\n",
        "  'a' . " * 500_000 + "a = 1\n",
        " " * 4_000_000 + "a",
        "a" * 4_000_000,
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError):
            layers.from_file(file)
    assert time.process_time() - begun < 5


def test_dots_in_strings_are_no_parts_of_names(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    names = [".".join("abcdefghijklmnop"), "a.b/" * 30]
    file.write_text(f"[data]\nsources = [\n{json.dumps(names[0])},\n  {json.dumps(names[1])}]\n", encoding="utf-8")
    assert layers.from_file(file).values["data"]["sources"] == names


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match="/dev/zero: can't be read .*more than 4,194,304 bytes"):
        layers.from_file(Path("/dev/zero"))


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, 16**5000], ids=["above", "below", "far above"])
def test_a_whole_number_that_toml_lacks_is_refused(value: int) -> None:
    shown = str(value) if value < 16**5000 else "a number of thousands of digits"
    for dotted in ("training.seed", "optimizer.lr", "model.n_embd", "other.x", "model.rope_scaling", "data.sources"):
        values, _ = layers.merge([Layer("", FULL), layers.from_dotted("", {dotted: value})])
        with pytest.raises(UsageError, match=re.escape(shown)):
            layers.build(values)
    layers.build(layers.merge([Layer("", FULL), layers.from_dotted("", {"training.seed": (1 << 63) - 1})])[0])


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(UsageError) as refused:
        layers.build({**FULL, "data": {"packing": "x" * 100_000}})
    assert len(str(refused.value)) < 500
    with pytest.raises(UsageError) as refused:
        layers.build({"x" * 100_000: {}})
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["../presets/nano", "nano.toml", "", "x" * 5000, "NANO", "nano\0", "/etc/hosts"])
def test_the_name_of_a_preset_is_never_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="no such preset; choose one of .*nano"):
        layers.preset(name)
