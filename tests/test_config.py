"""What can't be is refused with the table, the field and the value; what isn't given follows from what is."""

import math
import re
from typing import Any

import pytest

from llamita import layers
from llamita.config import DataConfig, ModelConfig, RopeScaling, RunConfig, TrackingConfig, TrainingConfig
from llamita.errors import UsageError
from llamita.model.rope import rope_tables

SCALING = {"kind": "llama3", "factor": 2.0, "original_max_seq_len": 64}

# Values outside what a field can be, for every number in the configuration.
IMPOSSIBLE: dict[str, list[float]] = {
    "model.vocab_size": [0, -1],
    "model.n_embd": [0, -64],
    "model.unpredicted_rows": [-1, 64],
    "model.n_layers": [0],
    "training.recompute_layers": [-1],
    "model.n_heads": [0],
    "model.n_kv_heads": [0, 3],
    "model.head_dim": [0, 7],
    "model.ffn_dim": [0],
    "model.multiple_of": [0],
    "model.max_seq_len": [0],
    "model.rope_theta": [0.0, -1.0],
    "model.rope_scaling.factor": [0.0, 0.5],
    "model.rope_scaling.original_max_seq_len": [0],
    "model.rope_scaling.low_freq_factor": [0.0, 4.0],
    "model.rope_scaling.high_freq_factor": [0.0, 1.0],
    "model.rope_scaling.beta_fast": [0.0, 1.0],
    "model.rope_scaling.beta_slow": [0.0, 32.0],
    "model.norm_eps": [0.0, -1e-5],
    "model.embedding_std": [0.0, -0.02],
    "model.embedding_scale": [0.0, -1.0],
    "tokenizer.vocab_size": [0],
    "data.validation_fraction": [-0.1, 1.0],
    "optimizer.lr": [0.0, -1e-3],
    "optimizer.table_lr_ratio": [0.0],
    "optimizer.input_grad_scale": [0.0],
    "optimizer.eps": [0.0],
    "optimizer.weight_decay": [-0.1],
    "optimizer.clip": [0.0, -1.0],
    "optimizer.warmup_steps": [-1],
    "optimizer.decay_fraction": [-0.1, 1.1],
    "optimizer.min_lr_ratio": [-0.1, 1.1],
    "training.steps": [-1],
    "training.batch_size": [0],
    "training.micro_batch_size": [0, 5],
    "training.threads": [0],
    "training.max_z_score": [0.0, -1.0],
    "training.rewind_after": [0],
    "training.max_rewinds": [-1],
    "training.log_every": [0],
    "training.eval_every": [0],
    "training.eval_tokens": [0],
    "training.save_every": [0],
    "training.keep_last": [0],
    "training.sample_tokens": [-1],
}
# Any whole number will do.
UNBOUNDED = {"training.seed"}


def settings(**tables: dict[str, Any]) -> dict[str, Any]:
    """Every table, with a scaling of RoPE, so that every field is there."""
    return {**tables, "model": {"vocab_size": 64, "rope_scaling": SCALING, **tables.get("model", {})}}


def with_value(dotted: str, value: object) -> dict[str, Any]:
    """Settings in which one field has this value."""
    return layers.merge([layers.Layer("", settings()), layers.from_dotted("", {dotted: value})])[0]


def test_every_number_of_the_configuration_has_values_that_are_impossible() -> None:
    values = layers.flat(layers.build(settings()))
    numbers = {name for name, value in values.items() if type(value) in (int, float)}
    assert numbers == IMPOSSIBLE.keys() | UNBOUNDED


@pytest.mark.parametrize(
    ("dotted", "value", "told"),
    [
        ("model.n_embd", 72, "model.n_embd (72)"),
        ("model.ffn_dim", 200, "model.ffn_dim (200)"),
        ("model.n_kv_heads", 1, "model.n_kv_heads x model.head_dim (24)"),
        ("training.micro_batch_size", 3, "training.micro_batch_size x model.max_seq_len (99)"),
    ],
)
def test_fp8_takes_sizes_that_a_gpus_products_can(dotted: str, value: int, told: str) -> None:
    fits = {"model.n_embd": 96, "model.n_heads": 4, "model.ffn_dim": 192, "model.max_seq_len": 33}
    sizes = fits | {"training.micro_batch_size": 16, "training.batch_size": 48, dotted: value}
    stack = [layers.from_dotted("", {"model.vocab_size": 64, **sizes})]
    layers.build(layers.merge(stack)[0])
    with pytest.raises(UsageError, match=re.escape(f"{told} must be a multiple of 16 for --precision fp8")):
        layers.build(layers.merge([*stack, layers.from_dotted("", {"training.precision": "fp8"})])[0])


@pytest.mark.parametrize(
    ("dotted", "value"), [(dotted, value) for dotted, values in IMPOSSIBLE.items() for value in values]
)
def test_an_impossible_value_is_refused_by_name(dotted: str, value: float) -> None:
    with pytest.raises(UsageError) as refused:
        layers.build(with_value(dotted, value))
    assert f"{dotted} ({value})" in str(refused.value)


@pytest.mark.parametrize("betas", [[-0.1, 0.9], [0.9, 1.0]])
def test_impossible_betas_are_refused_by_name(betas: list[float]) -> None:
    with pytest.raises(UsageError, match=re.escape(f"optimizer.betas ({betas})")):
        layers.build(settings(optimizer={"betas": betas}))


@pytest.mark.parametrize("name", [field for field in IMPOSSIBLE if isinstance(IMPOSSIBLE[field][0], float)])
def test_nan_is_refused_where_it_is_built_directly(name: str) -> None:
    table, _, field = name.rpartition(".")
    config = layers.build(settings())
    part: Any = config.model.rope_scaling if table.endswith("rope_scaling") else getattr(config, table)
    given = {**{key: getattr(part, key) for key in layers.field_names(type(part))}, field: math.nan}
    with pytest.raises(UsageError, match=re.escape(f"{name} (nan)")):
        type(part)(**given)


def test_values_at_the_edge_of_what_can_be_are_accepted() -> None:
    edges = {
        "optimizer": {"weight_decay": 0.0, "warmup_steps": 0, "decay_fraction": 1.0, "min_lr_ratio": 1.0},
        "data": {"validation_fraction": 0.0},
        "training": {"sample_tokens": 0, "seed": -5, "batch_size": 1},
        "model": {"n_heads": 4, "n_kv_heads": 1},
    }
    config = layers.build(settings(**edges))
    flat = layers.flat(config)
    for table, fields in edges.items():
        for name, value in fields.items():
            assert flat[f"{table}.{name}"] == value


def test_a_batch_is_one_micro_batch_unless_that_is_given() -> None:
    assert TrainingConfig(batch_size=12).accumulation == 1
    assert TrainingConfig(batch_size=12, micro_batch_size=4).accumulation == 3


def test_the_tokens_of_a_step_are_all_positions_of_its_rows() -> None:
    model = ModelConfig(vocab_size=64, max_seq_len=16)
    config = RunConfig(model=model, training=TrainingConfig(batch_size=12, micro_batch_size=4))
    assert config.tokens_per_step == 12 * 16


def test_a_config_cannot_be_changed_once_it_is_made() -> None:
    scaling = RopeScaling(kind="linear", factor=2.0, original_max_seq_len=64)
    with pytest.raises(AttributeError):
        scaling.factor = 3.0  # type: ignore[misc]


def test_a_limit_of_time_must_leave_some() -> None:
    assert TrainingConfig().max_minutes is None
    for minutes in (0.0, -1.0):
        with pytest.raises(UsageError, match=f"training.max_minutes .{minutes}. must be greater than 0"):
            TrainingConfig(max_minutes=minutes)


@pytest.mark.parametrize("most", [0, -1])
def test_a_limit_of_text_must_leave_some(most: int) -> None:
    assert DataConfig().max_bytes is None
    with pytest.raises(UsageError, match=f"data.max_bytes .{most}. must be greater than 0, or off"):
        DataConfig(max_bytes=most)


def test_checkpoints_are_kept_at_some_distance_or_not_for_it() -> None:
    with pytest.raises(UsageError, match="training.keep_every .0. must be greater than 0, or off"):
        TrainingConfig(keep_every=0)


# Beyond what anybody builds: a stranger's config must not take memory, threads or time without end.
ENORMOUS: dict[str, float] = {
    **{"model.vocab_size": 1 << 22, "model.n_embd": 1 << 17, "model.n_layers": 1 << 10, "model.n_heads": 1 << 12},
    **{"model.n_kv_heads": 1 << 12, "model.head_dim": 1 << 14, "model.ffn_dim": 1 << 20, "model.multiple_of": 1 << 17},
    **{"model.max_seq_len": 1 << 20, "model.rope_scaling.original_max_seq_len": 1 << 20},
    **{"model.rope_scaling.factor": 1e6, "model.rope_scaling.high_freq_factor": 1e6},
    **{"model.rope_scaling.beta_fast": 1e6, "tokenizer.vocab_size": 1 << 22, "training.batch_size": 1 << 20},
    **{"training.threads": 1 << 10, "training.sample_tokens": 1 << 16},
}
# What else must change for the largest value to be possible.
ROOM: dict[str, dict[str, Any]] = {
    "model.n_embd": {"model.n_heads": 32},
    "model.n_heads": {"model.head_dim": 2},
    "model.n_kv_heads": {"model.n_heads": 1 << 12, "model.head_dim": 2},
}


@pytest.mark.parametrize("name", ENORMOUS)
def test_the_largest_size_is_built_and_a_larger_one_refused(name: str) -> None:
    limit = ENORMOUS[name]
    for value in (limit, limit + 1, 2**63 - 1 if isinstance(limit, int) else 1e300):
        values = layers.merge(
            [layers.Layer("", settings()), layers.from_dotted("", {**ROOM.get(name, {}), name: value})]
        )
        if value == limit:
            layers.build(values[0])
            continue
        with pytest.raises(UsageError, match=re.escape(f"{name} ({value})") + " must be"):
            layers.build(values[0])


def test_a_table_of_angles_has_a_largest_size() -> None:
    sizes = {"model.n_embd": 4096, "model.n_heads": 8, "model.max_seq_len": 1 << 20}
    for head_dim, there in ((256, True), (512, False)):
        changes = layers.from_dotted("", {**sizes, "model.head_dim": head_dim})
        values, _ = layers.merge([layers.Layer("", settings()), changes])
        if there:
            layers.build(values)
            continue
        with pytest.raises(UsageError, match=re.escape("model.max_seq_len (1048576) times head_dim (512) is more")):
            layers.build(values)
        values["model"]["positions"] = "learned"
        layers.build(values)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
@pytest.mark.parametrize(
    "extreme", [{"beta_slow": 1e-6}, {"beta_fast": 1e6}, {"factor": 1e6}, {"low_freq_factor": 1e-6}]
)
def test_angles_stay_finite_however_they_are_stretched(kind: Any, extreme: dict[str, float]) -> None:
    for length in (1, 1 << 20):
        for theta in (math.nextafter(1.0, 2.0), 1e300):
            scaling = RopeScaling(**{"kind": kind, "factor": 2.0, "original_max_seq_len": length} | extreme)
            assert all(table.isfinite().all() for table in rope_tables(8, 16, theta, scaling))


@pytest.mark.parametrize("name", ["low_freq_factor", "beta_slow"])
def test_a_number_of_turns_has_a_smallest_size(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"model.rope_scaling.{name} (5e-324) must be")):
        RopeScaling(**{"kind": "yarn", "factor": 2.0, "original_max_seq_len": 64, name: 5e-324})


@pytest.mark.parametrize("project", ["", " ", "a/b", "a\\b", "50%", "a\nb"])
def test_a_project_has_a_name_that_trackers_take(project: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"tracking.project = {project!r} must be a name")):
        TrackingConfig(project=project)


def test_each_tracker_must_be_one_that_there_is() -> None:
    with pytest.raises(UsageError, match=r"tracking\.to"):
        layers.build(with_value("tracking.to", ["tensorboard", "mlflow"]))
    assert TrackingConfig(to=("wandb", "trackio")).to == ("wandb", "trackio")
