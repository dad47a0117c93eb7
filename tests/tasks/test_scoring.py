"""Scores are what counting by hand gives."""

import statistics
from collections.abc import Sequence

import pytest
import torch

from llamita.config import ModelConfig
from llamita.generation.likelihood import encode_pair
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.tasks.items import Item
from llamita.tasks.scoring import TASKS, score
from llamita.text.tokenizer import Tokenizer

ITEMS = [
    Item("once there was a", ("king", "fortress of stone", "queens"), 1, "length"),
    Item("once", ("there were two", "there was a"), 0, "number"),
    Item("the king is", ("brave .", "handsome and kind ."), 1, "length"),
    Item("he", ("plays .", "play ."), 0, "number"),
]


@torch.no_grad()
def by_hand(model: LLaMaTransformer, tokenizer: Tokenizer, items: Sequence[Item]) -> tuple[list[bool], list[bool]]:
    plain, normed = [], []
    for item in items:
        nats = []
        for choice in item.choices:
            before, after = encode_pair(tokenizer, item.context, " " + choice)
            scores = model(torch.tensor([before + after]))[0].log_softmax(-1)
            nats.append(sum(float(scores[len(before) + n - 1, one]) for n, one in enumerate(after)))
        plain.append(nats.index(max(nats)) == item.gold)
        shares = [one / len(choice) for one, choice in zip(nats, item.choices, strict=True)]
        normed.append(shares.index(max(shares)) == item.gold)
    return plain, normed


def test_scores_are_those_counted_by_hand(story_run: Run) -> None:
    model, tokenizer = story_run.model(), story_run.tokenizer()
    items = [*ITEMS, *TASKS["cloze"]()[::12]]
    found, (plain, normed) = score(model, tokenizer, items), by_hand(model, tokenizer, items)
    assert (found.acc, found.acc_norm) == (pytest.approx(sum(plain) / len(items)), sum(normed) / len(items))
    assert plain != normed
    assert found.acc_stderr == pytest.approx(statistics.stdev(map(float, plain)) / len(items) ** 0.5)
    assert found.acc_norm_stderr == pytest.approx(statistics.stdev(map(float, normed)) / len(items) ** 0.5)
    assert (found.items, found.unknown) == (len(items), 0)
    assert found.families["number"] == sum(plain[n] for n in (1, 3)) / 2
    assert score(model, tokenizer, items, batch_size=1) == found


def test_chance_is_what_the_number_of_choices_says(story_run: Run) -> None:
    model, tokenizer = story_run.model("initial"), story_run.tokenizer()
    assert score(model, tokenizer, ITEMS).chance == pytest.approx((1 / 3 + 3 / 2) / 4)
    for task, chance in (("storyworld_agreement", 0.5), ("cloze", 0.25)):
        untrained = score(model, tokenizer, TASKS[task]()[::2])
        assert untrained.chance == chance
        assert untrained.acc == pytest.approx(chance, abs=4 * untrained.acc_stderr)


def test_words_that_a_tokenizer_does_not_know_are_told() -> None:
    tokenizer = Tokenizer.train(["once there was a king . he plays ."], vocab_size=64, kind="word")
    model = LLaMaTransformer(
        ModelConfig(vocab_size=tokenizer.get_vocab_size(), n_embd=16, n_layers=1, n_heads=2, max_seq_len=32)
    )
    items = [
        Item("once there was a", ("king .", "queen ."), 0, "all"),
        Item("once there", ("was a", "a was"), 0, "all"),
    ]
    assert score(model, tokenizer, items).unknown == 1
