import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llamita.insight.directions import direction_of_pairs
from llamita.observatory.spaces import context_state, state_vectors, table_vectors
from llamita.runs.folder import Run
from tests.cli.command_line import llamita


def test_neighbors_are_listed_and_counted(tiny_run: Run) -> None:
    found = llamita("embeddings", "neighbors", tiny_run.path, "the", "--top", 4, "--json").json
    vectors = table_vectors(tiny_run)
    expected = vectors.most_similar("the", topn=4)
    assert found["neighbors"] == [{"token": one.token, "id": one.id, "similarity": one.similarity} for one in expected]
    assert found["words"][0]["tokens"] == [" the"] and found["space"] == "input table"
    shown = llamita("embeddings", "neighbors", tiny_run.path, "the", "--top", 4)
    assert shown.code == 0 and all(f"{one.similarity:.4f}" in shown.out for one in expected)


def test_other_spaces_give_other_neighbors(tiny_run: Run) -> None:
    def ask(*options: object) -> dict[str, Any]:
        return llamita("embeddings", "neighbors", tiny_run.path, "the", "--json", *options).json

    told = [ask(*options) for options in ((), ("--checkpoint", "initial"), ("--layer", 2), ("--center",))]
    assert len({json.dumps(one["neighbors"]) for one in told}) == 4
    assert told[2]["space"] == "layer 2"
    assert ask("--table", "output")["neighbors"] == told[0]["neighbors"]


def test_in_a_context_words_are_asked_for_as_they_stand_there(tiny_run: Run) -> None:
    model, tokenizer, context = tiny_run.model(), tiny_run.tokenizer(), "and the man was in it"
    for options, layer in ((("--layer", 1), 1), ((), 2)):
        states = {
            word: context_state(model, tokenizer, word, context, layer)[1] for word in ("the", "man", "was", "it")
        }
        vectors = state_vectors(tiny_run, layer).in_context(states)

        def ask(*arguments: object, options: tuple[object, ...] = options) -> dict[str, Any]:
            command, *words = arguments
            return llamita("embeddings", command, tiny_run.path, *words, "--context", context, *options, "--json").json

        found = ask("neighbors", "the")
        assert found["space"] == f"layer {layer}" and found["context"] == context
        expected = vectors.nearest(states["the"], 10, exclude=vectors.find("the").ids)
        assert [row["id"] for row in found["neighbors"]] == [one.id for one in expected]
        assert ask("similarity", "the", "man")["similarity"] == pytest.approx(vectors.similarity("the", "man"))
        assert ask("odd-one-out", "the", "man", "was")["odd_one_out"] == vectors.doesnt_match(["the", "man", "was"])
        answers = ask("analogy", "the", "man", "was")["add"]
        assert [row["id"] for row in answers] == [one.id for one in vectors.analogy("the", "man", "was", 5)]


def test_a_word_of_several_tokens_is_said_to_be_one(tiny_run: Run, tmp_path: Path) -> None:
    shown = llamita("embeddings", "neighbors", tiny_run.path, "zebra")
    assert shown.code == 0 and "their mean stands for it" in shown.out
    refused = llamita("embeddings", "neighbors", tiny_run.path, "zebra", "--layer", 1)
    assert refused.code == 1 and "in a context only" in refused.err
    inside = llamita("embeddings", "neighbors", tiny_run.path, "zebra", "--context", "the zebra", "--layer", 1)
    assert inside.code == 0 and "the state of the last stands for it" in inside.out and "mean" not in inside.out
    for arguments in (
        ("direction", "the:a", "and:he", "in:zebra"),
        ("map", "the", "zebra", "in", "--file", tmp_path / "m.png"),
    ):
        shown = llamita("embeddings", arguments[0], tiny_run.path, *arguments[1:])
        assert shown.code == 0 and "'zebra' is" in shown.out and "their mean stands for it" in shown.out


def test_an_analogy_shows_both_methods_and_the_control(tiny_run: Run) -> None:
    found = llamita("embeddings", "analogy", tiny_run.path, "the", "a", "and", "--top", 3, "--json").json
    vectors = table_vectors(tiny_run)
    assert [row["id"] for row in found["add"]] == [one.id for one in vectors.analogy("the", "a", "and", 3)]
    assert [row["id"] for row in found["mul"]] == [one.id for one in vectors.analogy("the", "a", "and", 3, "3CosMul")]
    asked = {vectors.find(word).ids[0] for word in ("the", "a", "and")}
    near = [one.id for one in vectors.most_similar("and", topn=5) if one.id not in asked][:3]
    assert [row["id"] for row in found["control"]] == near
    shown = llamita("embeddings", "analogy", tiny_run.path, "the", "a", "and", "--top", 3).out
    assert "3CosAdd" in shown and "3CosMul" in shown and "control: nearest to and" in shown
    assert ("says nothing of the relation" in shown) == (found["add"][0]["id"] == found["control"][0]["id"])


def test_similarity_and_the_odd_one_out(tiny_run: Run) -> None:
    vectors = table_vectors(tiny_run)
    found = llamita("embeddings", "similarity", tiny_run.path, "the", "and", "--json").json
    assert found["similarity"] == vectors.similarity("the", "and")
    cosines = [one.similarity for one in vectors.most_similar("the", topn=1000)]
    below = sum(cosine < found["similarity"] - 1e-6 for cosine in cosines)
    assert found["nearer_than"] == pytest.approx(below / len(vectors.ids), abs=0.002)
    assert f"{found['similarity']:.4f}" in llamita("embeddings", "similarity", tiny_run.path, "the", "and").out
    words = ("the", "and", "he", "zebra")
    odd = llamita("embeddings", "odd-one-out", tiny_run.path, *words, "--json").json
    assert odd["odd_one_out"] == vectors.doesnt_match(words)
    assert f"{odd['odd_one_out']} doesn't match" in llamita("embeddings", "odd-one-out", tiny_run.path, *words).out


def test_a_direction_from_pairs_or_lists_is_tested_and_shown(tiny_run: Run, tmp_path: Path) -> None:
    pairs = ("the:a", "and:he", "in:to", "was:said")
    found = llamita("embeddings", "direction", tiny_run.path, *pairs, "the:a", "--top", 3, "--json").json
    words = [(pair.split(":")[0], pair.split(":")[1]) for pair in pairs]
    for checkpoint, figures in (("best", ("accuracy", "p_value", "agreement")), ("initial", ())):
        vectors = table_vectors(tiny_run, checkpoint=checkpoint)
        sides = [torch.stack([vectors.unit_vector(pair[end]) for pair in words]) for end in (0, 1)]
        expected = direction_of_pairs(sides[0], sides[1], words)
        assert all(found[name] == pytest.approx(getattr(expected, name)) for name in figures)
    assert found["before"] == expected.accuracy
    assert len(found["along"]["first"]) == len(found["along"]["second"]) == 3
    assert torch.tensor(found["vector"]).norm().item() == pytest.approx(1.0, abs=1e-5)
    (tmp_path / "pairs").write_text("\n".join(pair.replace(":", " ") for pair in pairs))
    by_file = llamita(
        "embeddings", "direction", tiny_run.path, "--pairs-file", tmp_path / "pairs", "--top", 3, "--json"
    )
    assert by_file.json == found
    for name in ("a", "b"):
        (tmp_path / name).write_text("\n".join(pair.split(":")["ab".index(name)] for pair in pairs))
    lists = llamita("embeddings", "direction", tiny_run.path, "--lists", tmp_path / "a", tmp_path / "b")
    assert lists.code == 0 and "direction from 8 words" in lists.out and "p-value" in lists.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("direction",), 2, "give pairs such as man:woman"),
        (("direction", "the:a:b"), 2, "'the:a:b' is no pair"),
        (("direction", "the:a"), 1, "1 groups of pairs"),
        (("direction", "the:the", "a:a", "and:and"), 1, "both sides have the same vectors"),
        (("neighbors", "the", "--layer", "1", "--table", "output"), 2, "--layer 1 is no part of --table output"),
        (("neighbors", "the", "--top", "0"), 1, "topn is 0"),
        (("neighbors", "the", "--layer", "9"), 2, "--layer 9: this model has layers 0"),
        (("neighbors", "dog", "--context", "the cat"), 1, "'dog' isn't in the context"),
        (("neighbors", "the", "--context", "the cat", "--table", "output"), 2, "give --layer instead of --table"),
        (("neighbors", "the", "--checkpoint", "77"), 2, "there are best, latest, initial"),
        (("odd-one-out", "the"), 1, "1 words: give at least 3"),
        (("export", "vectors.npz"), 2, "vectors are written as .txt, .vec, .bin"),
        (("map", "the", "a"), 2, "2 words: a map needs at least 3"),
    ],
)
def test_wrong_questions_get_an_answer(tiny_run: Run, arguments: tuple[str, ...], code: int, message: str) -> None:
    group, *rest = arguments
    shown = llamita("embeddings", group, tiny_run.path, *rest)
    assert shown.code == code and message in shown.err and "Traceback" not in shown.err


def test_vectors_leave_and_are_drawn(tiny_run: Run, tmp_path: Path) -> None:
    found = llamita("embeddings", "export", tiny_run.path, tmp_path / "v.txt", "--json").json
    first = (tmp_path / "v.txt").read_text().splitlines()[0]
    assert first == f"{found['tokens']} {found['n_embd']}" == f"{len(table_vectors(tiny_run).ids)} 32"
    assert "load_word2vec_format" in llamita("embeddings", "export", tiny_run.path, tmp_path / "v.bin").out
    chosen = llamita("embeddings", "map", tiny_run.path, "--file", tmp_path / "map.svg", "--json").json["words"]
    repeated = llamita("embeddings", "map", tiny_run.path, "the", "in", "the", "was", "--file", tmp_path / "again.png")
    assert repeated.code == 0 and "3 words drawn" in repeated.out
    svg = (tmp_path / "map.svg").read_text()
    assert len(chosen) > 4 and svg.count("<!--") > len(chosen) and "<!-- before training -->" in svg


def test_tokens_cannot_reach_the_terminal(tiny_run: Run) -> None:
    shown = llamita("embeddings", "neighbors", tiny_run.path, "\x1b", "--top", 3)
    assert shown.code == 0 and "\x1b" not in shown.out and "\\x1b" in shown.out
