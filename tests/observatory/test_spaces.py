import shutil

import pytest
import torch

from llamita.errors import UsageError, UserError
from llamita.insight.ppmi import ppmi_vectors
from llamita.insight.states import layer_states
from llamita.observatory.spaces import context_state, run_states, state_vectors, table_vectors, training_text
from llamita.runs.folder import Run


def test_a_tied_run_has_one_table_and_the_initial_one_is_another(tiny_run: Run) -> None:
    tables = [table_vectors(tiny_run, table, checkpoint="latest").rows for table in ("input", "output")]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(table_vectors(tiny_run, checkpoint="initial").rows, tables[0])


def test_states_are_of_the_tokens_that_the_text_has(tiny_run: Run) -> None:
    corpus = training_text(tiny_run)
    vectors = state_vectors(tiny_run, 2, checkpoint="latest")
    met = set(corpus.read(0, corpus.tokens).tolist())
    assert set(vectors.ids) <= met - tiny_run.tokenizer().special_ids
    assert len(vectors.ids) > 0.9 * len(met) - 2
    model = tiny_run.model("latest")
    states = run_states(tiny_run, model, corpus)
    torch.testing.assert_close(vectors.rows, states.layers[2][vectors.ids])
    # What enters the first block is the lookup, the same in every context.
    embedded = model.embed(torch.tensor(vectors.ids)).detach()
    torch.testing.assert_close(states.layers[0][vectors.ids], embedded, atol=1e-5, rtol=1e-4)


def test_a_word_in_context_has_the_state_of_its_last_token_where_it_stands_last(tiny_run: Run) -> None:
    model, tokenizer = tiny_run.model("latest"), tiny_run.tokenizer()
    context = "the cat and the zebra and the cat sat"
    for word in ("cat", "zebra", "the"):
        found, state = context_state(model, tokenizer, word, context, 1)
        ids = tokenizer.encode(context[: context.rindex(word) + len(word)])
        assert ids[-len(found.ids) :] == list(found.ids)
        # Later tokens change nothing.
        alone = layer_states(model, torch.tensor([[tokenizer.bos_id, *ids]]))[1][0, -1]
        torch.testing.assert_close(state, alone)


def test_of_both_ways_to_write_a_word_the_later_place_counts(tiny_run: Run) -> None:
    model, tokenizer = tiny_run.model("latest"), tiny_run.tokenizer()
    found, state = context_state(model, tokenizer, "the", "in the (the", 1)
    assert found.ids == tuple(tokenizer.encode("the")) != tuple(tokenizer.encode(" the"))
    tokens = torch.tensor([[tokenizer.bos_id, *tokenizer.encode("in the (the")]])
    torch.testing.assert_close(state, layer_states(model, tokens)[1][0, -1])


def test_a_word_is_not_found_inside_another(tiny_run: Run) -> None:
    model, tokenizer = tiny_run.model("latest"), tiny_run.tokenizer()
    _, state = context_state(model, tokenizer, "in", "in time, inzz and zzin", 1)
    tokens = torch.tensor([[tokenizer.bos_id, *tokenizer.encode("in")]])
    torch.testing.assert_close(state, layer_states(model, tokens)[1][0, -1])


def test_wrong_questions_are_told_what_is_there(tiny_run: Run, copied_run: Run) -> None:
    model, tokenizer = tiny_run.model("latest"), tiny_run.tokenizer()
    with pytest.raises(UsageError, match="--layer 3: this model has layers 0 .* to 2"):
        state_vectors(tiny_run, 3)
    with pytest.raises(UserError, match="'dog' isn't in the context, whose tokens are"):
        context_state(model, tokenizer, "dog", "the cat", 1)
    with pytest.raises(UserError, match="the context has .* tokens, the model reads 32"):
        context_state(model, tokenizer, "cat", "the cat " * 40, 1)
    shutil.rmtree(copied_run.data_folder)
    with pytest.raises(UserError, match="no text was prepared there"):
        state_vectors(copied_run, 1)


def test_a_text_with_other_tokens_than_the_tokenizers_is_refused(copied_run: Run) -> None:
    shard = copied_run.data_folder / "train" / "shard_00000.bin"
    shard.write_bytes(b"\xff\xff" * (shard.stat().st_size // 2))
    told = "holds token id 65535, its vocabulary has 320: its shards are damaged; prepare the text again"
    with pytest.raises(UserError, match=told):
        state_vectors(copied_run, 1)
    with pytest.raises(UserError, match=told):
        ppmi_vectors(training_text(copied_run), [1, 2, 3], dim=2)
    index = copied_run.data_folder / "index.json"
    index.write_text(
        index.read_text(encoding="utf-8").replace('"vocab_size": 320', '"vocab_size": 64'), encoding="utf-8"
    )
    with pytest.raises(UserError, match="by a tokenizer with vocab_size 64, not 320; prepare the text again"):
        training_text(copied_run)
