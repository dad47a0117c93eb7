"""Before the first step: the law of the copy logit, the two roles' gradients, and starts that are refused."""

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from llamita.config import ModelConfig, OptimizerConfig
from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.training.evaluate import DeviceBatch, batch_loss
from llamita.training.optimizer import build_optimizer, check_tie
from llamita.training.preflight import Preflight, preflight
from llamita.training.session import Session
from tests.model.tiny import random_tokens, stirred, tiny_config
from tests.training.tiny_runs import small_run, trained


def batch_of(model: LLaMaTransformer, rows: int = 4, documents: bool = False) -> DeviceBatch:
    seq_len = model.config.max_seq_len
    tokens = random_tokens(rows, seq_len + 1, vocab_size=model.config.vocab_size)
    numbers = (torch.arange(seq_len) >= seq_len // 2).long().expand(rows, -1) if documents else None
    return DeviceBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), numbers)


@pytest.mark.parametrize("n_embd", [64, 256, 768])
def test_a_naive_tie_starts_at_about_n_embd_and_is_named(n_embd: int) -> None:
    naive = ModelConfig(vocab_size=2048, n_embd=n_embd, n_layers=2, embedding_std=1.0, embedding_scale=1.0)
    model = LLaMaTransformer(naive)
    found = preflight(model, batch_of(model), "fp32")
    assert found.loss == pytest.approx(n_embd, rel=0.05)
    assert found.self_logit == pytest.approx(found.predicted_self_logit, rel=0.02)
    (problem,) = found.problems
    assert re.search(rf"the first loss is .* x n_embd {n_embd} x .*: leave --model.embedding-std", problem)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_embd", [64, 768])
def test_the_defaults_are_sound(n_embd: int, tied: bool) -> None:
    model = LLaMaTransformer(ModelConfig(vocab_size=2048, n_embd=n_embd, n_layers=2, tie_embeddings=tied))
    found = preflight(model, batch_of(model), "fp32")
    assert not found.problems
    assert found.guess == pytest.approx(math.log(2048))
    assert found.loss < found.guess + 0.5
    assert (found.self_logit > 1) == tied
    assert found.self_logit == pytest.approx(found.predicted_self_logit, rel=0.02, abs=0.05)
    assert len(found.stream_rms) == 3
    assert 0 < found.input_share < 1


@pytest.mark.parametrize("grad_scale", [1.0, 6.0])
@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_the_roles_gradients_are_those_of_training(tied: bool, documents: bool, grad_scale: float) -> None:
    model = stirred(tiny_config(tie_embeddings=tied))
    model.embeddings.grad_scale = grad_scale
    batch = batch_of(model, documents=documents)
    found = preflight(model, batch, "fp32")
    loss = batch_loss(model, batch) / batch.targets.numel()
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert found.gradient_norm == pytest.approx(
        math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values())), rel=1e-4
    )
    if not tied:
        assert found.input_gradient == pytest.approx(gradients["embeddings.weight"].norm().item(), rel=1e-4)
        assert found.output_gradient == pytest.approx(gradients["lm_head.weight"].norm().item(), rel=1e-4)


def test_nothing_of_the_model_changes() -> None:
    model = stirred(tiny_config())
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.embeddings.weight.grad = torch.ones_like(model.embeddings.weight)
    preflight(model, batch_of(model), "fp32")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.embeddings.weight.grad, torch.ones_like(model.embeddings.weight))
    assert model.norm.weight.grad is None


@torch.no_grad()
def broken(how: str) -> LLaMaTransformer:
    model = LLaMaTransformer(tiny_config(tie_embeddings=False, n_layers=3))
    assert model.lm_head is not None
    match how:
        case "spread":
            model.lm_head.weight.mul_(500)
        case "infinite":
            model.decoder_blocks[0].attention_norm.weight.fill_(math.inf)
        case "deaf":
            model.lm_head.weight.zero_()
        case "growing":
            model.decoder_blocks[-1].feed_forward.down_proj.weight.normal_(0, 3000)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_without_a_logit_may_be_read_and_may_follow(tied: bool) -> None:
    model = stirred(tiny_config(unpredicted_rows=3, tie_embeddings=tied))
    batch = batch_of(model)
    assert (batch.inputs >= 58).any() and (batch.targets >= 58).any()
    found = preflight(model, batch, "fp32")
    assert found.guess == pytest.approx(math.log(58))
    loss = batch_loss(model, batch) / (batch.targets < 58).sum()
    loss.backward()
    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    assert found.gradient_norm == pytest.approx(torch.stack(norms).norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("spread", "logits spread by"),
        ("infinite", "isn't finite: give --precision fp32"),
        ("deaf", "no gradient reaches the table through the lookup"),
        ("growing", "the stream grows [0-9]+-fold"),
    ],
)
def test_what_is_broken_is_named_with_a_remedy(how: str, told: str) -> None:
    model = broken(how)
    assert re.search(told, "; ".join(preflight(model, batch_of(model), "fp32").problems))


def test_a_narrow_tie_that_starts_badly_is_told_the_same_remedy() -> None:
    model = LLaMaTransformer(tiny_config(n_embd=8, vocab_size=4096, embedding_std=1.0, embedding_scale=1.0))
    found = preflight(model, batch_of(model), "fp32")
    assert found.self_logit < found.guess
    assert re.search(r"logits spread by 2.*: leave --model.embedding-std", found.problems[0])


def optimizer_of(model: LLaMaTransformer) -> torch.optim.Optimizer:
    return build_optimizer(model, OptimizerConfig())


def on_the_meta_device(model: LLaMaTransformer) -> LLaMaTransformer:
    with torch.device("meta"):
        made = LLaMaTransformer(model.config)
    made.to_empty(device="cpu")
    made.init_buffers()
    made.load_state_dict(model.state_dict())
    return made


def moved(model: LLaMaTransformer, optimizer: torch.optim.Optimizer) -> None:
    model.to(torch.bfloat16).to(torch.float32)


def stepped(model: LLaMaTransformer, optimizer: torch.optim.Optimizer) -> None:
    torch.compile(batch_loss, backend="eager")(model, batch_of(model)).backward()
    optimizer.step()


def is_whole(model: LLaMaTransformer, optimizer: torch.optim.Optimizer, tied: bool) -> None:
    """Whether writing into one table is writing into the other, beside what check_tie looks at."""
    check_tie(model, optimizer)
    with torch.no_grad():
        model.embeddings.weight[3] = 7.0
    assert bool((model.output_weight[3] == 7.0).all()) == tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("made", [lambda model: model, copy.deepcopy, on_the_meta_device])
def test_a_tie_is_whole_in_a_model_made_by(made: Callable[[LLaMaTransformer], LLaMaTransformer], tied: bool) -> None:
    model = made(LLaMaTransformer(tiny_config(tie_embeddings=tied)))
    is_whole(model, optimizer_of(model), tied)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("happens", [moved, stepped])
def test_a_tie_is_whole_after(happens: Callable[[LLaMaTransformer, torch.optim.Optimizer], None], tied: bool) -> None:
    model = LLaMaTransformer(tiny_config(tie_embeddings=tied))
    optimizer = optimizer_of(model)
    happens(model, optimizer)
    is_whole(model, optimizer, tied)


def test_a_tie_that_was_broken_by_hand_is_refused() -> None:
    tied, untied = (LLaMaTransformer(tiny_config(tie_embeddings=tie)) for tie in (True, False))
    tied.lm_head = nn.Linear(32, 61, bias=False)
    with pytest.raises(UserError, match="the tie is broken: model.lm_head is a table of its own"):
        check_tie(tied, optimizer_of(tied))
    assert untied.lm_head is not None
    untied.lm_head.weight = untied.embeddings.weight
    with pytest.raises(UserError, match="one table has both roles"):
        check_tie(untied, optimizer_of(untied))


def test_a_table_that_is_listed_twice_or_decayed_is_refused() -> None:
    model = LLaMaTransformer(tiny_config())
    optimizer = optimizer_of(model)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(UserError, match="the optimizer decays embeddings.weight"):
        check_tie(model, optimizer)
    view = nn.Parameter(model.embeddings.weight.data)
    twice = torch.optim.SGD([*model.parameters(), view], lr=0.1)
    with pytest.raises(UserError, match="the optimizer has embeddings.weight 2 times"):
        check_tie(model, twice)
    without = torch.optim.SGD([weight for weight in model.parameters() if weight is not model.norm.weight], lr=0.1)
    with pytest.raises(UserError, match="the optimizer has norm.weight 0 times"):
        check_tie(model, without)


def test_a_table_that_muon_would_learn_is_refused() -> None:
    model = LLaMaTransformer(tiny_config())
    muon = torch.optim.Muon([weight for weight in model.parameters() if weight.dim() == 2], weight_decay=0.0)
    with pytest.raises(UserError, match="the optimizer is Muon and has embeddings.weight"):
        check_tie(model, muon)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tie_is_whole_in_a_checkpoint_and_after_resuming(tied: bool, tiny_text: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", tiny_text, {"model.tie_embeddings": tied})
    trained(run)
    with safe_open(run.checkpoint("latest").path / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in list(file.keys())) != tied
    session = Session(run)
    check_tie(session.model, session.optimizer)
    assert (session.model.output_weight is session.model.embeddings.weight) == tied
    assert session.optimizer.state[session.model.output_weight]["exp_avg"].any()


NAIVE = {"model.embedding_std": 1.0, "model.embedding_scale": 1.0, "model.n_embd": 64}


def test_a_run_with_a_broken_start_is_refused_before_anything_is_written(tiny_text: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", tiny_text, NAIVE)
    with pytest.raises(
        UserError, match="isn't started: the first loss is 6.* llamita resume .*--training.preflight correct"
    ):
        Session(run)
    assert not run.metrics_file.exists() and not run.checkpoints()


def test_a_broken_start_is_corrected_if_asked(tiny_text: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", tiny_text, NAIVE | {"training.preflight": "correct"})
    sane = small_run(tmp_path / "sane", tiny_text, {"model.n_embd": 64})
    first = next(iter(Session(run).events()))
    assert isinstance(first, Preflight) and not first.problems
    assert run.config().model == sane.config().model
    trained(run), trained(sane)
    assert torch.equal(run.model("latest").embeddings.weight, sane.model("latest").embeddings.weight)


def test_a_start_that_cannot_be_corrected_is_refused_without_naming_that_remedy(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamita.training.preflight._ABOVE_A_GUESS", -1.0)
    run = small_run(tmp_path / "run", tiny_text, {"training.preflight": "correct"})
    with pytest.raises(UserError, match="training.preflight correct doesn't mend that; --training.preflight warn"):
        Session(run)


def test_a_broken_start_is_begun_all_the_same_if_asked(tiny_text: Path, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", tiny_text, NAIVE | {"training.preflight": "warn"})
    first = next(iter(Session(run).events()))
    assert isinstance(first, Preflight) and len(first.problems) == 1
    assert first.loss == pytest.approx(64, rel=0.1)
    assert run.config().model.embedding_std == 1.0


def test_a_session_tells_of_its_start_once(tiny_text: Path, tmp_path: Path) -> None:
    session = Session(small_run(tmp_path / "run", tiny_text, {"training.steps": 4}))
    told = [*session.events(lambda: session.state.step == 2), *session.events()]
    assert session.state.step == 4
    assert sum(isinstance(event, Preflight) for event in told) == 1
