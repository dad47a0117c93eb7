"""A text's way through a model: every number is the tensor's, for any text."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from torch import Tensor

from llamita.config import ModelConfig
from llamita.errors import UsageError, UserError
from llamita.insight.stages import Stage
from llamita.insight.walkthrough import Walkthrough, toy, walk_through
from llamita.model.block import DecoderBlock
from llamita.model.rope import rotate
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.text.storyworld import StoryWorld
from llamita.text.tokenizer import Tokenizer
from tests.model.tiny import stirred

Loaded = tuple[LLaMaTransformer, Tokenizer]
STRANGE = (
    "",
    "\x00",
    "‏שלום עולם",
    "e\u0301\u0301\u0301 \u0301",
    "<script>alert(1)</script>",
    "[bold]",
    "a\n\n b\t",
    "\uffed",
)


@pytest.fixture(scope="module")
def toy_model() -> Loaded:
    return toy("I love dogs")


@pytest.fixture(scope="module")
def trained(tiny_run: Run) -> Loaded:
    return tiny_run.model(), tiny_run.tokenizer()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["I love dogs . you love cats ."], vocab_size=64, kind="word")


def rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()


def by_hand(model: LLaMaTransformer, tokens: Tensor) -> list[tuple[int | None, str, Tensor, Tensor | None]]:
    """Block, stage, what it gives and the stream after it, computed module by module without hooks."""
    config, x, found = model.config, model.embed(tokens), []
    found.append((None, "embeddings", x, None))
    if model.position_embeddings is not None:
        added = model.position_embeddings.weight[: tokens.shape[1]]
        x = x + added
        found.append((None, "position_embeddings", added, x))
    rope = (
        (model.rope_cos[: tokens.shape[1]], model.rope_sin[: tokens.shape[1]]) if config.positions == "rope" else None
    )
    for number, block in enumerate(model.decoder_blocks, 1):
        assert isinstance(block, DecoderBlock)
        attention, feed_forward = block.attention, block.feed_forward
        normed = block.attention_norm(x)
        found.append((number, "attention_norm", normed, None))
        q, k, v = (
            projection(normed).unflatten(-1, (-1, config.head_dim))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if attention.q_norm is not None and attention.k_norm is not None:
            q, k = attention.q_norm(q), attention.k_norm(k)
        found += [(number, "q", q, None), (number, "k", k, None), (number, "v", v, None)]
        if rope is not None:
            found.append((number, "rope", rotate(q, *rope), None))
        update = attention(normed, rope)
        x = x + update
        found.append((number, "attention", update, x))
        normed = block.feed_forward_norm(x)
        found.append((number, "feed_forward_norm", normed, None))
        found.append((number, "swiglu", F.silu(feed_forward.gate_proj(normed)) * feed_forward.up_proj(normed), None))
        update = feed_forward(normed)
        x = x + update
        found.append((number, "feed_forward", update, x))
    found.append((None, "norm", model.norm(x), None))
    return found


@torch.no_grad()
def check(walk: Walkthrough, model: LLaMaTransformer, tokenizer: Tokenizer) -> None:
    """Everything that a walkthrough says of a text, against the model and the tokenizer themselves."""
    ids, table = tokenizer.encode(walk.text), model.embeddings.weight
    assert (walk.seq_len, walk.vocab_size, walk.n_embd) == (len(ids), *table.shape)
    assert [known.id for known in walk.tokens] == ids[: len(walk.tokens)]
    assert [known.token for known in walk.tokens] == tokenizer.tokens(ids[: len(walk.tokens)])
    assert set(walk.unknown) <= set(tokenizer.unknown(walk.text))
    for row in walk.matrix:
        assert row.values == tuple(table[row.id].tolist())
        assert row.chosen == (row.id in {found.id for found in walk.lookup})
    for found in walk.lookup:
        assert found.row == tuple(table[found.id].tolist())
        assert found.vector == tuple(model.embed(torch.tensor([found.id]))[0].tolist())
    vectors = model.embed(torch.tensor(ids, dtype=torch.long))
    assert walk.output.shape == tuple(vectors.shape)
    assert walk.output.batch_shape == tuple(vectors.unsqueeze(0).shape)
    assert walk.output.rows == tuple(tuple(vectors[position].tolist()) for position in walk.output.positions)
    assert [known.id for known in walk.output.tokens] == [ids[position] for position in walk.output.positions]
    left_out = walk.left_out
    assert len(walk.tokens) + left_out.tokens == len(walk.output.rows) + left_out.output == len(ids)
    assert len(walk.lookup) + left_out.lookup == len(set(ids))
    assert len(walk.unknown) + left_out.unknown == len(set(tokenizer.unknown(walk.text)))
    read = ids[-model.config.max_seq_len :] or ([] if tokenizer.bos_id is None else [tokenizer.bos_id])
    assert walk.read == len(read)
    if read:
        check_blocks(walk, model, torch.tensor([read]))


def check_blocks(walk: Walkthrough, model: LLaMaTransformer, tokens: Tensor) -> None:
    *stages, logits_stage = walk.blocks
    for stage, (block, name, output, stream) in zip(stages, by_hand(model, tokens), strict=True):
        assert (stage.block, stage.stage, stage.shape) == (block, name, tuple(output.shape))
        assert stage.rms == pytest.approx(rms(output), rel=1e-4)
        assert stage.stream_rms == (None if stream is None else pytest.approx(rms(stream), rel=1e-4))
    logits = model(tokens)
    assert logits_stage.shape == tuple(logits.shape)
    assert logits_stage.rms == pytest.approx(rms(logits[0, -1]), rel=1e-4)
    probabilities = logits[0, -1].softmax(0)
    best = probabilities.topk(len(walk.next_tokens)).values.tolist()
    assert [guess.probability for guess in walk.next_tokens] == pytest.approx(best, rel=1e-4)
    for guess in walk.next_tokens:
        assert guess.probability == pytest.approx(probabilities[guess.id].item(), rel=1e-4)


def test_the_toy_takes_the_walk_of_the_source_page(toy_model: Loaded) -> None:
    model, tokenizer = toy_model
    walk = walk_through(model, tokenizer, "I love dogs", step=0)
    check(walk, model, tokenizer)
    assert walk.toy and walk.scale == 1 and not walk.tied
    assert [known.token for known in walk.tokens] == ["I", "love", "dogs"]
    assert (walk.output.shape, walk.output.batch_shape) == ((3, 8), (1, 3, 8))
    assert [row.id for row in walk.matrix] == sorted({*range(6), *(known.id for known in walk.tokens)})
    assert all(found.row == found.vector for found in walk.lookup)
    assert [stage.shape for stage in walk.blocks if stage.stage == "q"] == [(1, 3, 2, 4)] * 2
    assert walk.blocks[-1].shape == (1, 3, tokenizer.text_size) == (1, 3, len(model.readout))
    assert not walk.unknown


def test_the_toy_knows_storyworld_and_the_text_and_lies_in_the_range_of_the_page(toy_model: Loaded) -> None:
    model, tokenizer = toy_model
    assert all(tokenizer.token_to_id(word) is not None for word in (*StoryWorld().vocabulary, "I"))
    assert model.embeddings.weight.std().item() == pytest.approx(0.3, rel=0.05)


def test_the_toy_repeats_and_leaves_the_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, second = (walk_through(*toy("so it goes"), "so it goes", step=0) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


@settings(deadline=None, max_examples=5)
@given(st.text(max_size=60))
def test_the_toy_takes_any_text(text: str) -> None:
    model, tokenizer = toy(text)
    walk = walk_through(model, tokenizer, text, step=0)
    check(walk, model, tokenizer)
    # Only the mark that the tokenizer itself uses can't be a word.
    assert set(walk.unknown) <= {"\uffed"}


@settings(deadline=None, max_examples=8)
@given(text=st.text(max_size=60))
def test_a_trained_run_takes_any_text(trained: Loaded, text: str) -> None:
    model, tokenizer = trained
    check(walk_through(model, tokenizer, text, run="tiny", step=8), model, tokenizer)


@pytest.mark.parametrize("text", STRANGE)
def test_strange_texts_go_through_both(trained: Loaded, text: str) -> None:
    for model, tokenizer in (trained, toy(text)):
        check(walk_through(model, tokenizer, text), model, tokenizer)


def test_a_scaled_tied_table_shows_rows_and_what_the_lookup_makes_of_them(trained: Loaded) -> None:
    model, tokenizer = trained
    walk = walk_through(model, tokenizer, "The river", run="tiny", step=8)
    assert walk.tied and walk.scale == model.config.embedding_scale != 1
    for found in walk.lookup:
        assert found.vector == pytest.approx([walk.scale * value for value in found.row])


def test_a_long_text_is_held_in_parts_that_say_how_much_is_missing(toy_model: Loaded) -> None:
    text = "".join(chr(0x1F300 + i % 600) for i in range(10_000))
    model, tokenizer = toy(text)
    walk = walk_through(model, tokenizer, text, step=0)
    check(walk, model, tokenizer)
    assert (walk.seq_len, walk.read) == (10_000, 256)
    assert walk.output.positions == (0, 1, 2, 3, 4, 9998, 9999)
    assert walk.left_out.output == 9993
    assert len(walk.tokens) + len(walk.matrix) + len(walk.lookup) < 300
    strangers = walk_through(*toy_model, text, step=0)
    assert len(strangers.unknown) + strangers.left_out.unknown == 600


def test_a_word_that_the_vocabulary_lacks_is_named_once(toy_model: Loaded) -> None:
    assert walk_through(*toy_model, "I love zeppelins, zeppelins").unknown == ("zeppelins", ",")


def test_an_empty_text_begins_with_bos(toy_model: Loaded) -> None:
    walk = walk_through(*toy_model, "")
    assert (walk.tokens, walk.lookup, walk.output.rows) == ((), (), ())
    assert (walk.output.shape, walk.output.batch_shape, walk.read) == ((0, 8), (1, 0, 8), 1)
    assert len(walk.next_tokens) == 5


def test_an_empty_text_without_bos_stops_at_the_table() -> None:
    words = Tokenizer(Backend(WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>")))
    model = stirred(ModelConfig(vocab_size=3, n_embd=8, n_layers=1, n_heads=2, max_seq_len=8))
    walk = walk_through(model, words, "")
    assert (walk.read, walk.blocks, walk.next_tokens) == (0, (), ())


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "learned"},
        {"positions": "none", "tie_embeddings": False},
        {"qk_norm": True, "n_kv_heads": 1, "head_dim": 6},
    ],
)
def test_every_shape_of_model_is_followed_stage_by_stage(changes: dict[str, object], tokenizer: Tokenizer) -> None:
    shape = {"vocab_size": 70, "n_embd": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 8}
    model = stirred(ModelConfig(**{**shape, **changes}))
    walk = walk_through(model, tokenizer, "I love dogs . you love cats . I love cats")
    check(walk, model, tokenizer)
    assert walk.read == 8 < walk.seq_len
    assert all(stage.meaning for stage in walk.blocks)


def test_rope_turns_queries_without_stretching_them(trained: Loaded) -> None:
    stages = walk_through(*trained, "The river").blocks
    for q, rope in zip(*([stage for stage in stages if stage.stage == name] for name in ("q", "rope")), strict=True):
        assert rope.rms == pytest.approx(q.rms, rel=1e-5)
        assert rope.cosine is not None and -1 < rope.cosine < 1
        assert f"cosine {rope.cosine:.4f}" in rope.meaning
    alone = [stage for stage in walk_through(*trained, "T").blocks if stage.stage == "rope"]
    assert [stage.cosine for stage in alone] == pytest.approx([1.0] * len(alone))
    assert "isn't turned" in alone[0].meaning


def test_a_block_that_adds_nothing_says_so(tokenizer: Tokenizer) -> None:
    model = LLaMaTransformer(ModelConfig(vocab_size=64, n_embd=8, n_layers=1, n_heads=2, max_seq_len=8))
    added = [stage for stage in walk_through(model, tokenizer, "I love").blocks if stage.stream_rms is not None]
    assert [stage.rms for stage in added] == [0, 0]
    assert all("adds nothing" in stage.meaning for stage in added)
    assert "adds nothing" not in Stage(1, "attention", (1, 1, 8), 0.5, 0.7).meaning


def test_a_row_without_a_token_can_be_the_next(tokenizer: Tokenizer) -> None:
    model = stirred(ModelConfig(vocab_size=70, n_embd=8, n_layers=1, n_heads=2, max_seq_len=8, tie_embeddings=False))
    with torch.no_grad():
        model.output_weight.zero_()
        model.output_weight[69] = model.hidden(torch.tensor([tokenizer.encode("I love")]))[0, -1]
    best = walk_through(model, tokenizer, "I love").next_tokens[0]
    assert (best.id, best.token) == (69, None)


def test_the_model_is_left_as_it_was(trained: Loaded) -> None:
    model, tokenizer = trained
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    first, second = (walk_through(model, tokenizer, "The river") for _ in range(2))
    assert first == second
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_hooks_are_gone_after_a_failure(tokenizer: Tokenizer) -> None:
    model = stirred(ModelConfig(vocab_size=64, n_embd=8, n_layers=1, n_heads=2, max_seq_len=8))
    with torch.no_grad():
        model.norm.weight.fill_(math.inf)
    with pytest.raises(UserError, match="logits are not finite"):
        walk_through(model, tokenizer, "I love")
    assert not any(module._forward_hooks for module in model.modules())


def test_what_does_not_fit_is_refused_with_a_remedy(toy_model: Loaded, tokenizer: Tokenizer) -> None:
    model, words = toy_model
    with pytest.raises(UserError, match=r"has \d+ tokens, but the model's table only 64 rows: use the tokenizer"):
        walk_through(stirred(ModelConfig(vocab_size=64, n_embd=8, n_heads=2)), words, "I")
    with pytest.raises(UsageError, match="--dimension 8"):
        walk_through(model, words, "I", dimension=8)
    broken = stirred(ModelConfig(vocab_size=64, n_embd=8, n_heads=2))
    with torch.no_grad():
        broken.embeddings.weight[3, 3] = math.nan
    with pytest.raises(UserError, match="table holds numbers that are not finite"):
        walk_through(broken, tokenizer, "I")


def test_a_lone_surrogate_is_named(trained: Loaded) -> None:
    with pytest.raises(UserError, match=r"U\+DCFF, a lone surrogate"):
        toy("a\udcffb")
    with pytest.raises(UserError, match=r"U\+D800, a lone surrogate"):
        walk_through(*trained, "a\ud800b")


def test_a_walkthrough_is_plain_data(toy_model: Loaded) -> None:
    plain = dataclasses.asdict(walk_through(*toy_model, "I love dogs", step=0))
    assert {"text", "run", "tokens", "unknown", "vocab_size", "n_embd", "matrix", "lookup", "output"} < plain.keys()
    assert {"scale", "dimension", "blocks", "next_tokens", "left_out"} < plain.keys()
    assert plain["tokens"][0].keys() == {"id", "token"}
    assert plain["matrix"][0].keys() == {"id", "token", "chosen", "values"}
    assert plain["lookup"][0].keys() == {"id", "token", "row", "vector"}
    assert plain["next_tokens"][0].keys() == {"id", "token", "probability"}
