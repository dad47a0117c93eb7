"""A training state that doesn't belong to the model is refused, and nothing is changed by it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from llamita.config import OptimizerConfig
from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.training.optimizer import build_optimizer
from llamita.training.state import TrainState, restore_state, state_tensors
from tests.model.tiny import random_tokens, tiny_config

MOMENT = "optimizer.norm.weight.exp_avg"


def stepped() -> tuple[LLaMaTransformer, torch.optim.Optimizer]:
    model = LLaMaTransformer(tiny_config())
    optimizer = build_optimizer(model, OptimizerConfig())
    model(random_tokens(1, 4)).logsumexp(-1).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({MOMENT: None}, f"{MOMENT} is missing"),
        ({"optimizer.norm.weight.step": None}, "optimizer.norm.weight.step is missing"),
        ({MOMENT: torch.zeros(31)}, rf"{MOMENT} is float32 \(31,\), not numbers of shape \(32,\)"),
        ({MOMENT: torch.zeros(0)}, rf"{MOMENT} is float32 \(0,\)"),
        ({MOMENT: torch.tensor(1.0)}, rf"{MOMENT} is float32 \(\), not"),
        ({MOMENT: torch.zeros(32, dtype=torch.int64)}, rf"{MOMENT} is int64 \(32,\)"),
        ({"optimizer.norm.weight.step": torch.zeros(32)}, r"step is float32 \(32,\), not numbers of shape \(\)"),
        ({"optimizer.../../x.exp_avg": torch.zeros(1)}, "optimizer.../../x.exp_avg is of another model"),
        ({"surprise": torch.zeros(1)}, "surprise is of another model"),
        ({"rng.cpu": None}, "no random number generator"),
        ({"rng.cpu": torch.zeros(3, dtype=torch.uint8)}, "no random number generator"),
        ({"rng.cpu": torch.zeros(5056)}, "no random number generator"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(changes: dict[str, Any], said: str) -> None:
    model, optimizer = stepped()
    given = {name: tensor.clone() for name, tensor in state_tensors(model, optimizer).items()} | changes
    torch.manual_seed(1)
    before = {name: tensor.clone() for name, tensor in state_tensors(model, optimizer).items()}
    with pytest.raises(UserError, match=f"training state: .*{said}.*use another checkpoint"):
        restore_state(model, optimizer, {name: tensor for name, tensor in given.items() if tensor is not None})
    after: dict[str, Tensor] = state_tensors(model, optimizer)
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_moments_that_are_not_numbers_are_restored_as_they_are() -> None:
    model, optimizer = stepped()
    restore_state(model, optimizer, state_tensors(model, optimizer) | {MOMENT: torch.full((32,), torch.nan)})
    assert optimizer.state[model.norm.weight]["exp_avg"].isnan().all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": None}, "step = None must be a whole number from 0"),
        ({"step": "3"}, "step = '3'"),
        ({"step": True}, "step = True"),
        ({"step": -1}, "step = -1"),
        ({"step": 2**63}, "step = 9223372036854775808"),
        ({"tokens": 1.5}, "tokens = 1.5"),
        ({"position": None}, "position = None must be epoch and row"),
        ({"position": [0, 1]}, "must be epoch and row"),
        ({"position": {"epoch": 0}}, "give epoch and row"),
        ({"position": {"epoch": 0, "row": -1}}, "give epoch and row"),
        ({"position": {"epoch": 0, "row": 0, "x": 0}}, "give epoch and row"),
    ],
)
def test_a_state_that_was_never_written_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainState.from_dict({**TrainState(step=3, tokens=5).to_dict(), **changes})


def test_a_state_without_its_parts_is_refused_by_name() -> None:
    for name in ("step", "tokens", "position"):
        meta = TrainState().to_dict()
        del meta[name]
        with pytest.raises(UserError, match=f"meta.json: {name} = None"):
            TrainState.from_dict(meta)
