import pytest
import torch

from llamita.errors import UserError
from llamita.observatory.lessons import Lessons, Property, story_groups, story_lessons
from llamita.observatory.meaning import measure, measure_run
from llamita.observatory.spaces import training_text
from llamita.runs.folder import Run
from llamita.text.storyworld import StoryWorld
from llamita.text.tokenizer import Tokenizer

WHICH = ("the", "a", "and", "he", "in", "to", "was", "said", "it", "on")
WORLD = StoryWorld(seed=0)
LESSONS = story_lessons(WORLD)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORLD.vocabulary)], vocab_size=1024, kind="word")


def random_table(tokenizer: Tokenizer, seed: int, dim: int = 64) -> torch.Tensor:
    return torch.randn(tokenizer.get_vocab_size(), dim, generator=torch.Generator().manual_seed(seed))


def learnt_table(tokenizer: Tokenizer) -> torch.Tensor:
    """Rows made of a part for the role, one for gender, one for number: what a perfect learner of persons has."""
    table, generator = random_table(tokenizer, 1), torch.Generator().manual_seed(2)
    gender, number = torch.eye(64)[:2] * torch.tensor([[12.0], [6.0]])
    for male, female in WORLD.analogies()["gender"]:
        plurals = {a: b for a, b in WORLD.analogies()["number_person"]}
        role = torch.randn(64, generator=generator)
        for word, row in ((male, role), (female, role + gender)):
            for form, shift in ((word, 0.0), (plurals[word], 1.0)):
                token_id = tokenizer.token_to_id(form)
                assert token_id is not None
                table[token_id] = row + shift * number
    return table


def test_lessons_are_what_the_grammar_makes_true() -> None:
    assert len(LESSONS.analogies) == 12 and ("king", "queen") in LESSONS.analogies["gender"]
    known = {name: dict(zip(lesson.words, lesson.labels, strict=True)) for name, lesson in LESSONS.properties.items()}
    assert known["gender"]["queen"] and not known["gender"]["king"] and "dog" not in known["gender"]
    assert known["animacy"]["dog"] and not known["animacy"]["crown"] and known["plural"]["kings"]
    lemmas = dict(zip(LESSONS.properties["plural"].words, LESSONS.properties["plural"].lemmas, strict=True))
    assert lemmas["dogs"] == lemmas["dog"] == "dog"


def test_a_learnt_table_is_told_from_a_random_one(tokenizer: Tokenizer) -> None:
    spaces = {"before": random_table(tokenizer, 0), "after": learnt_table(tokenizer)}
    found = measure(tokenizer, LESSONS, spaces)
    gender = found.analogies["gender"]
    assert gender.before < 0.05 and gender.after > 0.95 and gender.mul > 0.9 and gender.after - gender.control > 0.5
    assert found.analogies["capital"].after < 0.2 and gender.ppmi is None and gender.spaces == {}
    probe = found.probes["gender"]
    assert abs(probe.before - 0.5) < 0.2 < 0.3 < probe.after - 0.5 and abs(probe.control - 0.5) < 0.1
    assert found.missing == () and found.answers == tokenizer.get_vocab_size() - len(tokenizer.special_ids) - 1


def test_more_spaces_have_columns_and_layers_only_where_every_word_was_met(tokenizer: Tokenizer) -> None:
    table = learnt_table(tokenizer)
    layer = table.clone()
    layer[tokenizer.token_to_id("king")] = 0.0
    spaces = {"before": random_table(tokenizer, 0), "after": table, "output": table, "layer 1": layer}
    found = measure(tokenizer, LESSONS, spaces)
    assert found.analogies["gender"].spaces == {"output": found.analogies["gender"].after}
    assert set(found.analogies["capital"].spaces) == {"output", "layer 1"}
    assert set(found.probes["gender"].spaces) == {"output"}


def test_tokens_that_were_never_met_neither_move_the_centre_nor_answer(tokenizer: Tokenizer) -> None:
    # A space far from the origin, where half of the other words have no vector.
    table = learnt_table(tokenizer) + 30.0
    taught = {word for pairs in LESSONS.analogies.values() for words in pairs for word in words}
    layer = table.clone()
    layer[[tokenizer.token_to_id(word) for word in WORLD.vocabulary if word not in taught]] = 0.0
    assert not layer.any(1).all()
    found = measure(tokenizer, LESSONS, {"before": table, "after": table, "layer 1": layer})
    for name in ("gender", "number_person"):
        assert found.analogies[name].spaces["layer 1"] == pytest.approx(found.analogies[name].after, abs=0.05)


def lessons_of(*pairs: tuple[str, str]) -> Lessons:
    return Lessons({"x": list(pairs)}, {})


def spaces_of(tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    return {name: random_table(tokenizer, seed) for seed, name in enumerate(("before", "after"))}


def test_questions_that_answer_themselves_are_left_out(tokenizer: Tokenizer) -> None:
    own = Lessons({"own": [("man", "woman", "king", "queen"), ("man", "king", "woman", "man")]}, {})
    assert measure(tokenizer, own, spaces_of(tokenizer)).analogies["own"].questions == 1


def test_words_of_other_scripts_are_answers_too() -> None:
    text = "король и королева, князь и княгиня, über größe fährt ein öl "
    tokenizer = Tokenizer.train([text] * 60, vocab_size=420)
    lessons = lessons_of(("король", "королева"), ("князь", "княгиня"))
    found = measure(tokenizer, lessons, spaces_of(tokenizer))
    assert found.answers >= 9 and found.analogies["x"].questions == 2


def test_a_map_shows_some_of_each_group() -> None:
    groups = story_groups(WORLD)
    assert groups["king"] == "men" and groups["dog"] == "animals" and set(groups.values()) >= {"women", "places"}
    assert all(list(groups.values()).count(group) <= 11 for group in set(groups.values())) and "kings" not in groups


def test_words_of_several_tokens_are_asked_apart_and_missing_ones_are_named() -> None:
    tokenizer = Tokenizer.train(["a king and a queen, a man and a woman "] * 40, vocab_size=320)
    lessons = Lessons({"gender": [("man", "woman"), ("king", "queen"), ("tsar", "tsarina")]}, {})
    spaces = {name: random_table(tokenizer, seed) for seed, name in enumerate(("before", "after"))}
    found = measure(tokenizer, lessons, spaces)
    assert {name: row.questions for name, row in found.analogies.items()} == {
        "gender": 2,
        "gender (several tokens)": 4,
    }
    words = Tokenizer.train(["king queen man woman"] * 3, vocab_size=64, kind="word")
    found = measure(words, lessons, {name: random_table(words, 0) for name in spaces})
    assert found.missing == ("tsar", "tsarina") and found.analogies["gender"].questions == 2
    with pytest.raises(UserError, match="no question can be made of these analogies .2 words aren't"):
        measure(words, lessons_of(("king", "queen"), ("tsar", "tsarina")), spaces_of(words))
    with pytest.raises(UserError, match="none of the 2 words is in the vocabulary; the first is 'tsar'"):
        measure(words, lessons_of(("tsar", "tsarina")), spaces_of(words))


def test_a_run_is_measured_before_and_after_in_its_layers_and_by_counting(tiny_run: Run) -> None:
    lessons = Lessons(
        {"pairs": [("the", "a"), ("and", "he"), ("in", "to")]},
        {"which": Property(WHICH, (True, False) * 5, WHICH)},
    )
    corpus = training_text(tiny_run)
    found = measure_run(tiny_run, lessons, checkpoint="latest", corpus=corpus)
    assert found.analogies["pairs"].ppmi is not None and found.probes["which"].ppmi is not None
    assert list(found.probes["which"].spaces) == ["layer 1", "layer 2"]
    tables = {name: tiny_run.model(name).embeddings.weight.detach() for name in ("initial", "latest")}
    expected = measure(tiny_run.tokenizer(), lessons, {"before": tables["initial"], "after": tables["latest"]})
    for name in ("before", "after", "control"):
        assert getattr(found.probes["which"], name) == getattr(expected.probes["which"], name)
        assert getattr(found.analogies["pairs"], name) == getattr(expected.analogies["pairs"], name)
