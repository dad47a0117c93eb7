"""Every parameter is trained once, in the group that its kind belongs to."""

from typing import Any

import pytest
import torch

from llamita.config import OptimizerConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import Batches
from llamita.training.loop import train
from llamita.training.optimizer import build_optimizer, parameters_by_kind
from tests.model.tiny import tiny_config
from tests.training.tiny_runs import corpus_of, random_documents, small_config

SHAPES: list[dict[str, Any]] = [
    {},
    {"tie_embeddings": False},
    {"qk_norm": True, "n_kv_heads": 1},
    {"positions": "learned", "tie_embeddings": False},
    {"positions": "none"},
]


def groups_of(shape: dict[str, Any], **settings: Any) -> dict[str, dict[str, Any]]:
    """The optimizer's groups by kind."""
    model = LLaMaTransformer(tiny_config(**shape))
    return {group["kind"]: group for group in build_optimizer(model, OptimizerConfig(**settings)).param_groups}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_is_in_exactly_one_group(shape: dict[str, Any]) -> None:
    model = LLaMaTransformer(tiny_config(**shape))
    optimizer = build_optimizer(model, OptimizerConfig())
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, model.parameters()))
    assert all(group["params"] for group in optimizer.param_groups)


@pytest.mark.parametrize("shape", SHAPES)
def test_kinds_are_told_apart(shape: dict[str, Any]) -> None:
    model = LLaMaTransformer(tiny_config(**shape))
    kinds = parameters_by_kind(model)
    assert [id(one) for one in kinds["embeddings"]] == [id(model.embeddings.weight)]
    assert [id(one) for one in kinds["head"]] == ([] if model.lm_head is None else [id(model.lm_head.weight)])
    assert all(matrix.dim() == 2 for matrix in kinds["matrices"])
    per_block = 7  # q, k, v, o, gate, up, down
    assert len(kinds["matrices"]) == per_block * model.config.n_layers


@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_matrices_are_decayed(shape: dict[str, Any]) -> None:
    decays = {kind: group["weight_decay"] for kind, group in groups_of(shape, weight_decay=0.3).items()}
    assert decays.pop("matrices") == 0.3
    assert set(decays.values()) == {0.0}


def test_a_tied_table_is_one_entry_and_an_untied_one_two() -> None:
    assert groups_of({}).keys() == {"embeddings", "matrices", "gains"}
    assert groups_of({"tie_embeddings": False}).keys() == {"embeddings", "head", "matrices", "gains"}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ratio_moves_the_rates_of_the_tables_alone(shape: dict[str, Any]) -> None:
    once, thrice = groups_of(shape, table_lr_ratio=1.0), groups_of(shape, table_lr_ratio=3.0)
    for kind in once:
        expected = 3.0 if kind in ("embeddings", "head") else 1.0
        assert thrice[kind]["lr_ratio"] / once[kind]["lr_ratio"] == pytest.approx(expected)
        assert thrice[kind]["lr"] / thrice[kind]["lr_ratio"] == pytest.approx(OptimizerConfig().lr)


def test_the_rate_of_an_input_table_follows_the_scale_of_its_rows() -> None:
    small, large, wide = (
        groups_of({"tie_embeddings": False, "embedding_std": std, "n_embd": n_embd})
        for std, n_embd in ((0.02, 64), (0.2, 64), (0.2, 128))
    )
    assert large["embeddings"]["lr"] / small["embeddings"]["lr"] == pytest.approx(10)
    assert large["head"]["lr"] == small["head"]["lr"] == wide["head"]["lr"]
    # The picked rate of the matrices halves where the width doubles; this one then stays what it is.
    assert wide["embeddings"]["lr_ratio"] / large["embeddings"]["lr_ratio"] == pytest.approx(2)


def test_training_sets_every_groups_rate_from_its_ratio() -> None:
    config = small_config(optimizer__table_lr_ratio=7.0, training__steps=5)
    model = LLaMaTransformer(config.model)
    optimizer = build_optimizer(model, config.optimizer)
    batches = Batches(corpus_of(random_documents(200)), rows=4, seq_len=32, seed=0)
    for _, metrics in train(model, optimizer, batches, config):
        assert metrics is not None
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(metrics.lr * group["lr_ratio"])


def test_the_row_of_a_token_that_never_occurs_stays_as_it_began() -> None:
    config = small_config(model__tie_embeddings=False, training__steps=6)
    model = LLaMaTransformer(config.model)
    before = model.embeddings.weight.detach().clone()
    documents = [[min(token, 59) for token in document] for document in random_documents(120, 150)]
    batches = Batches(corpus_of(documents), rows=4, seq_len=32, seed=0)
    list(train(model, build_optimizer(model, config.optimizer), batches, config))
    seen = sorted({token for document in documents for token in document})
    unseen = sorted(set(range(64)) - set(seen))
    assert {60, 61, 62, 63} <= set(unseen)
    assert torch.equal(model.embeddings.weight[unseen], before[unseen])
    assert (model.embeddings.weight[seen] != before[seen]).any(dim=1).all()


@pytest.mark.parametrize("tied", [True, False])
def test_unpredicted_rows_stay_as_they_began(tied: bool) -> None:
    config = small_config(model__tie_embeddings=tied, model__unpredicted_rows=4, training__steps=6)
    model = LLaMaTransformer(config.model)
    tables = {id(table): table for table in (model.embeddings.weight, model.output_weight)}.values()
    before = [table.detach().clone() for table in tables]
    documents = [[min(token, 59) for token in document] for document in random_documents(120, 150)]
    batches = Batches(corpus_of(documents), rows=4, seq_len=32, seed=0)
    list(train(model, build_optimizer(model, config.optimizer), batches, config))
    for table, start in zip(tables, before, strict=True):
        assert torch.equal(table[60:], start[60:])
        assert (table[:60] != start[:60]).any()


def test_the_momentum_of_the_optimizer_is_that_of_the_config() -> None:
    model = LLaMaTransformer(tiny_config())
    optimizer = build_optimizer(model, OptimizerConfig(betas=(0.5, 0.6), eps=1e-3))
    assert all((group["betas"], group["eps"]) == ((0.5, 0.6), 1e-3) for group in optimizer.param_groups)
