import torch

from llamita.insight.analogies import AnalogyScore, analogy_questions, score_analogies
from llamita.insight.vectors import Vectors
from tests.insight.conftest import WORDS

PAIRS = [("man", "woman"), ("king", "queen"), ("prince", "princess"), ("uncle", "aunt")]


def row(vectors: Vectors, word: str) -> int:
    return vectors.ids.index(vectors.find(word).ids[0])


def test_every_two_pairs_make_two_questions_without_an_answer_in_the_question() -> None:
    assert analogy_questions([(0, 1), (2, 3), (0, 1)]) == [(0, 1, 2, 3), (2, 3, 0, 1)]
    assert analogy_questions([(0, 1), (2, 1), (4, 0)]) == [(2, 1, 4, 0), (4, 0, 0, 1), (4, 0, 2, 1)]
    many = [(2 * number, 2 * number + 1) for number in range(300)]
    sample = analogy_questions(many)
    assert len(set(sample)) == 20_000 and sample == analogy_questions(many)
    assert all(question[:2] in many and question[2:] in many for question in sample)
    assert analogy_questions([(0, 1)]) == analogy_questions([]) == []


def test_scores_are_those_of_asking_one_question_at_a_time(vectors: Vectors) -> None:
    words = [(a, b, c, d) for a, b in PAIRS for c, d in PAIRS if a != c]
    words += [("dog", "cat", "horse", "cow"), ("red", "blue", "big", "small"), ("king", "queen", "dog", "cat")]
    add = sum(vectors.analogy(a, b, c, 1)[0].token == d for a, b, c, d in words)
    mul = sum(vectors.analogy(a, b, c, 1, "3CosMul")[0].token == d for a, b, c, d in words)
    control = 0
    for a, b, c, d in words:
        asked = [vectors.find(word).ids[0] for word in (a, b, c)]
        control += vectors.nearest(vectors.vector(c), 1, exclude=asked)[0].token == d
    questions = [tuple(row(vectors, word) for word in question) for question in words]
    found = score_analogies(vectors.unit, {"all": questions, "none": []})  # type: ignore[dict-item]
    assert found == {"all": AnalogyScore(len(words), *(n / len(words) for n in (add, mul, control)))}
    assert 12 <= add < len(words)


def test_neighbors_that_answer_by_themselves_are_told_by_the_control() -> None:
    # Pairs that lie together but share no offset: the answer is right, and says nothing.
    generator = torch.Generator().manual_seed(0)
    firsts = torch.nn.functional.normalize(torch.randn(20, 64, generator=generator), dim=1)
    seconds = torch.nn.functional.normalize(firsts + 0.02 * torch.randn(20, 64, generator=generator), dim=1)
    unit = torch.cat([firsts, seconds])
    score = score_analogies(unit, {"pairs": analogy_questions([(n, n + 20) for n in range(20)])})["pairs"]
    assert score.accuracy > 0.95 and score.control == 1.0


def test_random_rows_know_nothing() -> None:
    unit = torch.nn.functional.normalize(torch.randn(len(WORDS), 16, generator=torch.Generator().manual_seed(1)), dim=1)
    score = score_analogies(unit, {"x": analogy_questions([(n, n + 15) for n in range(15)])})["x"]
    assert score.accuracy < 0.2 and score.control < 0.2
