"""Every field of the configuration does something: with another value, another run."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from llamita import layers
from llamita.config import RunConfig
from llamita.errors import UsageError, UserError
from llamita.text.tokenizer import Tokenizer
from llamita.tracking.tracked import tracked
from llamita.training.compiling import loss_function, why_not_compiled
from llamita.training.evaluate import batch_loss
from llamita.training.prepare import prepare_run
from llamita.training.session import Session
from tests.tracking.fakes import install_trackio
from tests.training.tiny_runs import SMALL

Settings = dict[str, Any]


@dataclass(frozen=True)
class Knob:
    """Settings to change, and settings that must be there for the change to matter."""

    change: Settings
    given: Settings = field(default_factory=dict)


def scaled(kind: str, **values: Any) -> Settings:
    """A scaling of RoPE as dotted settings."""
    fields = {"kind": kind, "factor": 2.0, "original_max_seq_len": 64, **values}
    return {f"model.rope_scaling.{name}": value for name, value in fields.items()}


def often(**values: Any) -> Settings:
    """Many evaluations and checkpoints, all of them kept."""
    every = {"eval_every": 2, "save_every": 2, "keep_last": 9, **values}
    return {f"training.{name}": value for name, value in every.items()}


WSD = {"optimizer.schedule": "wsd"}
# So many short steps that the guard has a window, and a score that it finds many of them too high by.
LONG = WSD | {"training.steps": 200, "training.batch_size": 1, "training.log_every": 1, "optimizer.lr": 0.1}
STRICT = LONG | {"training.max_z_score": 0.01, "training.rewind_after": 2, "training.max_rewinds": 3}
NAIVE = {"model.embedding_std": 1.0, "model.embedding_scale": 1.0, "training.preflight": "warn"}
# Enough held-out text for more than one batch.
MUCH_HELD_OUT = {"data.sources": ["{folder}/long.txt"], "tokenizer.kind": "byte", "data.validation_fraction": 0.9}

KNOBS: dict[str, Knob] = {
    "model.vocab_size": Knob({"tokenizer.vocab_size": 384}),
    "model.unpredicted_rows": Knob({"tokenizer.kind": "byte"}),
    "model.n_embd": Knob({"model.n_embd": 48}),
    "model.n_layers": Knob({"model.n_layers": 1}),
    "model.n_heads": Knob({"model.n_heads": 4}),
    "model.n_kv_heads": Knob({"model.n_kv_heads": 1}),
    "model.head_dim": Knob({"model.head_dim": 8}),
    "model.ffn_dim": Knob({"model.ffn_dim": 40}),
    "model.multiple_of": Knob({"model.multiple_of": 7}),
    "model.max_seq_len": Knob({"model.max_seq_len": 16}),
    "model.positions": Knob({"model.positions": "none"}),
    "model.rope_theta": Knob({"model.rope_theta": 100.0}),
    "model.rope_scaling.kind": Knob(scaled("linear"), scaled("yarn")),
    "model.rope_scaling.factor": Knob(scaled("linear", factor=4.0), scaled("linear")),
    "model.rope_scaling.original_max_seq_len": Knob(scaled("llama3", original_max_seq_len=32), scaled("llama3")),
    "model.rope_scaling.low_freq_factor": Knob(scaled("llama3", low_freq_factor=0.5), scaled("llama3")),
    "model.rope_scaling.high_freq_factor": Knob(scaled("llama3", high_freq_factor=8.0), scaled("llama3")),
    "model.rope_scaling.beta_fast": Knob(scaled("yarn", beta_fast=2.0), scaled("yarn")),
    "model.rope_scaling.beta_slow": Knob(scaled("yarn", beta_slow=0.25), scaled("yarn")),
    "model.qk_norm": Knob({"model.qk_norm": True}, {"model.qk_norm": False}),
    "model.norm_eps": Knob({"model.norm_eps": 1e-2}),
    "model.tie_embeddings": Knob({"model.tie_embeddings": False}, {"model.tie_embeddings": True}),
    "model.embedding_std": Knob({"model.embedding_std": 0.07}),
    "model.embedding_scale": Knob({"model.embedding_scale": 3.0}),
    "tokenizer.kind": Knob({"tokenizer.kind": "char"}),
    "tokenizer.vocab_size": Knob({"tokenizer.vocab_size": 384}),
    "tokenizer.file": Knob({"tokenizer.file": "{folder}/bytes.json"}),
    "data.sources": Knob({"data.sources": ["{folder}/long.txt"]}),
    "data.field": Knob({"data.field": "loud"}),
    "data.max_bytes": Knob({"data.max_bytes": 1500}),
    "data.validation_fraction": Knob({"data.validation_fraction": 0.4}),
    "data.packing": Knob({"data.packing": "documents"}),
    "data.mask_documents": Knob({"data.mask_documents": True}),
    "optimizer.lr": Knob({"optimizer.lr": 0.02}),
    "optimizer.table_lr_ratio": Knob({"optimizer.table_lr_ratio": 1.5}),
    "optimizer.input_grad_scale": Knob({"optimizer.input_grad_scale": 4.0}),
    "optimizer.betas": Knob({"optimizer.betas": [0.5, 0.9]}),
    "optimizer.eps": Knob({"optimizer.eps": 1e-3}),
    "optimizer.weight_decay": Knob({"optimizer.weight_decay": 0.5}),
    "optimizer.clip": Knob({"optimizer.clip": "off"}, {"optimizer.clip": 0.01}),
    "optimizer.schedule": Knob(WSD, {"optimizer.schedule": "cosine"}),
    "optimizer.warmup_steps": Knob({"optimizer.warmup_steps": 3}),
    "optimizer.decay_fraction": Knob(WSD | {"optimizer.decay_fraction": 0.5}, WSD | {"optimizer.decay_fraction": 0.1}),
    "optimizer.min_lr_ratio": Knob({"optimizer.min_lr_ratio": 0.5}, {"optimizer.min_lr_ratio": 0.0}),
    "training.steps": Knob({"training.steps": 5}),
    "training.max_minutes": Knob({"training.max_minutes": 1e-9}),
    "training.batch_size": Knob({"training.batch_size": 2}),
    "training.micro_batch_size": Knob({"training.micro_batch_size": 1}),
    "training.seed": Knob({"training.seed": 1}),
    "training.device": Knob({"training.device": "cuda"}),
    "training.precision": Knob({"training.precision": "bf16"}),
    "training.threads": Knob({"training.threads": 2}),
    "training.preflight": Knob({"training.preflight": "correct"}, NAIVE),
    "training.compile": Knob({"training.compile": True}, {"training.compile": False, "training.steps": 0}),
    "training.recompute_layers": Knob({"training.recompute_layers": 1}),
    "training.attention": Knob({"training.attention": "math"}),
    "training.deterministic": Knob({"training.deterministic": True}),
    "training.max_z_score": Knob(LONG | {"training.max_z_score": 0.01}, LONG),
    "training.rewind_after": Knob(STRICT | {"training.rewind_after": 1}, STRICT),
    "training.max_rewinds": Knob(
        STRICT | {"training.max_rewinds": 0, "training.rewind_after": 1}, STRICT | {"training.rewind_after": 1}
    ),
    "training.log_every": Knob({"training.log_every": 3}),
    "training.eval_every": Knob({"training.eval_every": 1}),
    "training.eval_tokens": Knob({"training.eval_tokens": 100}, MUCH_HELD_OUT),
    "training.save_every": Knob(often(save_every=1), often()),
    "training.keep_last": Knob(often(keep_last=1), often()),
    "training.keep_every": Knob(often(keep_last=1, keep_every=2), often(keep_last=1)),
    "training.sample_tokens": Knob({"training.sample_tokens": 4}),
    "tracking.to": Knob({"tracking.to": ["tensorboard"]}),
    "tracking.project": Knob({"tracking.project": "tales"}, {"tracking.to": ["trackio"]}),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def folder(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts to train on."""
    made = tmp_path_factory.mktemp("knobs")
    parts = tiny_text.read_text(encoding="utf-8").split("\n\n")
    rows = [json.dumps({"text": part, "loud": part.upper()}) + "\n" for part in parts]
    (made / "parts.jsonl").write_text("".join(rows), encoding="utf-8")
    (made / "long.txt").write_text("\n\n".join(parts) * 8, encoding="utf-8")
    Tokenizer.train([], vocab_size=0, kind="byte").save(made / "bytes.json")
    return made


def placed(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [placed(item, folder) for item in value]
    return value.format(folder=folder) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def patches() -> Iterator[pytest.MonkeyPatch]:
    """What is replaced for all tests of this module."""
    with pytest.MonkeyPatch.context() as made:
        yield made


Watch = Callable[[Settings], tuple[RunConfig, dict[str, Any]]]


@pytest.fixture(scope="module")
def watch(folder: Path, tmp_path_factory: pytest.TempPathFactory, patches: pytest.MonkeyPatch) -> Watch:
    """Train a run with some settings; its config, and all that can be seen of it but that config."""
    seen: dict[str, tuple[RunConfig, dict[str, Any]]] = {}

    def watched(settings: Settings) -> tuple[RunConfig, dict[str, Any]]:
        asked = {"data.sources": ["{folder}/parts.jsonl"], **SMALL, **settings}
        key = json.dumps(asked, sort_keys=True)
        if key not in seen:
            values = {name: placed(value, folder) for name, value in asked.items()}
            run = prepare_run(tmp_path_factory.mktemp("run"), [], [layers.from_dotted("", values)]).run
            session = Session(run)
            threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
            end, kernels, passes = "", None, []
            session.model.decoder_blocks[0].register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
            boards = install_trackio(patches)
            try:
                for _ in tracked(session.events(), session, lambda _: None):
                    kernels = torch._C._get_sdp_priority_order()
            except UserError as error:
                end = str(error).replace(str(run.path), "")
            seen[key] = (
                run.config(),
                {
                    "metrics": [{**row, "tokens_per_second": None} for row in run.metrics()],
                    "weights": {name: weight.tolist() for name, weight in session.model.state_dict().items()},
                    "tokens": session.corpora.train.token_hash,
                    "files": sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*")),
                    "threads": threads,
                    "deterministic": deterministic,
                    "end": end,
                    "kernels": kernels,
                    "passes": sum(passes),
                    "compiled": loss_function(session.config.training) is not batch_loss,
                    "projects": [project for project, _ in boards],
                },
            )
        return seen[key]

    return watched


def test_every_field_has_a_knob() -> None:
    everything, _ = layers.merge([layers.from_dotted("", {"model.vocab_size": 64, **scaled("yarn")})])
    config = layers.build(everything)
    assert KNOBS.keys() == layers.flat(config).keys()


@pytest.mark.parametrize("name", [name for name in KNOBS if name != "training.device"])
def test_another_value_makes_another_run(name: str, watch: Watch) -> None:
    if name == "training.compile" and why_not_compiled("cpu"):
        pytest.skip(f"this machine has {why_not_compiled('cpu')}")
    knob = KNOBS[name]
    config, sight = watch(knob.given)
    other_config, other_sight = watch(knob.given | knob.change)
    assert layers.flat(config)[name] != layers.flat(other_config)[name]
    assert sight != other_sight


def test_another_device_is_used_or_refused(watch: Watch) -> None:
    knob = KNOBS["training.device"]
    if torch.cuda.is_available():
        assert watch(knob.given)[1]["weights"] != watch(knob.change)[1]["weights"]
    else:
        with pytest.raises(UsageError, match="--device cuda"):
            watch(knob.change)


def test_the_same_values_make_the_same_run(watch: Watch, folder: Path) -> None:
    again = {"data.sources": [f"{folder}/parts.jsonl"]}
    assert watch({})[1] == watch(again)[1]
