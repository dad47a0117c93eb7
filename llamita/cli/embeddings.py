"""`llamita embeddings ...`: questions put to the vectors of a run."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from llamita.cli.console import aligned, escaped, out, padded, print_json
from llamita.cli.space import Asked, Space
from llamita.errors import UsageError
from llamita.insight.directions import Direction, direction_of_lists, direction_of_pairs
from llamita.insight.vectors import Neighbor, Vectors
from llamita.insight.words import whole_words
from llamita.observatory.export import export_vectors
from llamita.observatory.plots import plot_map
from llamita.observatory.word_lists import read_pairs, read_two_lists

_MAP_WORDS = 60
_ALONG = 12
_TOKEN_WIDTH = 24


def neighbors(
    run: Path, token: str, *, top: int = 10, context: str | None = None, space: Space = Space(), json: bool = False
) -> None:
    """The tokens whose vectors have the highest cosine to a word's.

    Parameters
    ----------
    run
        The run's folder.
    token
        A word; "#123" is token 123. The mean of its tokens' vectors stands for one that takes several.
    top
        How many.
    context
        Ask for the word's state in this text, after --layer (the last one unless given).
    json
        Print one JSON object.
    """
    asked = space.ask(run, [token], context)
    found = asked.vectors.most_similar(asked.words[0], topn=top)
    if json:
        print_json(asked.told(neighbors=_rows(found)))
        return
    asked.say()
    out.print(f"nearest to {escaped(token)} ({asked.space.name}), by cosine:")
    for one in found:
        out.print(f"  {one.similarity:7.4f}  {padded(escaped(one.token), _TOKEN_WIDTH)} #{one.id}")


def analogy(
    run: Path,
    a: str,
    b: str,
    c: str,
    *,
    top: int = 5,
    context: str | None = None,
    space: Space = Space(),
    json: bool = False,
) -> None:
    """What is to C as B is to A, by 3CosAdd and 3CosMul, and what lies next to C anyway.

    Parameters
    ----------
    run
        The run's folder.
    a
        man, in: man is to woman as king is to what?
    b
        woman
    c
        king
    top
        How many answers of each kind.
    context
        Ask for the words' states in this text, after --layer (the last one unless given).
    json
        Print one JSON object.
    """
    asked = space.ask(run, [a, b, c], context)
    first, second, third = asked.words
    added = asked.vectors.analogy(first, second, third, top)
    multiplied = asked.vectors.analogy(first, second, third, top, "3CosMul")
    own = [word.ids[0] for word in asked.words if not word.several]
    control = asked.vectors.nearest(asked.vectors.vector(third), top, exclude=own)
    if json:
        print_json(asked.told(add=_rows(added), mul=_rows(multiplied), control=_rows(control)))
        return
    asked.say()
    out.print(f"{escaped(a)} is to {escaped(b)} as {escaped(c)} is to ... ({asked.space.name})")
    rows = [["3CosAdd", "", "3CosMul", "", f"control: nearest to {escaped(c)}", ""]]
    for row in zip(added, multiplied, control, strict=True):
        rows.append([cell for found in row for cell in (escaped(found.token), f"{found.similarity:.4f}")])
    for line in aligned(rows, left=(0, 2, 4)):
        out.print(f"  {line}")
    if added and added[0].id == control[0].id:
        out.print(f"the nearest neighbor of {escaped(c)} is the same: this answer says nothing of the relation")


def similarity(
    run: Path, a: str, b: str, *, context: str | None = None, space: Space = Space(), json: bool = False
) -> None:
    """The cosine of two words' vectors, and where it stands among all.

    Parameters
    ----------
    run
        The run's folder.
    a
        A word.
    b
        Another.
    context
        Ask for the words' states in this text, after --layer (the last one unless given).
    json
        Print one JSON object.
    """
    asked = space.ask(run, [a, b], context)
    first, second = asked.words
    cosine = asked.vectors.similarity(first, second)
    # The word's own cosine, computed in another order, may differ in the last digit.
    share = float((asked.vectors.unit @ asked.vectors.unit_vector(first) < cosine - 1e-6).float().mean())
    if json:
        print_json(asked.told(similarity=cosine, nearer_than=share))
        return
    asked.say()
    out.print(f"{cosine:.4f}  cosine of {escaped(a)} and {escaped(b)} ({asked.space.name})")
    out.print(f"{escaped(b)} is nearer to {escaped(a)} than {share:.1%} of the vocabulary")


def odd_one_out(run: Path, *words: str, context: str | None = None, space: Space = Space(), json: bool = False) -> None:
    """The word that doesn't match the others: the furthest from the mean of all.

    Parameters
    ----------
    run
        The run's folder.
    words
        At least three.
    context
        Ask for the words' states in this text, after --layer (the last one unless given).
    json
        Print one JSON object.
    """
    asked = space.ask(run, words, context)
    ranked = asked.vectors.match(asked.words)
    if json:
        rows = [{"word": word, "similarity": cosine} for word, cosine in ranked]
        print_json(asked.told(odd_one_out=ranked[0][0], ranked=rows))
        return
    asked.say()
    out.print(f"{escaped(ranked[0][0])} doesn't match; cosine of each to the mean of all ({asked.space.name}):")
    for word, cosine in ranked:
        out.print(f"  {cosine:7.4f}  {escaped(word)}")


def direction(
    run: Path,
    *pairs: str,
    pairs_file: Path | None = None,
    lists: tuple[Path, Path] | None = None,
    top: int = _ALONG,
    space: Space = Space(),
    json: bool = False,
) -> None:
    """A direction from pairs of words or two lists: does it hold for words that it never saw, what lies along it.

    Example: llamita embeddings direction runs/demo man:woman king:queen uncle:aunt monk:nun

    Parameters
    ----------
    run
        The run's folder.
    pairs
        Two words with a colon between them; the direction goes from the first to the second.
    pairs_file
        A file with more pairs, two words a line.
    lists
        Two files of words instead, one a line (and its lemma); the direction goes from the first to the second.
    top
        How many tokens to show on either side.
    json
        Print one JSON object.
    """
    known = [_pair(text) for text in pairs] + (read_pairs(pairs_file) if pairs_file else [])
    if bool(known) == (lists is not None):
        raise UsageError("give pairs such as man:woman king:queen uncle:aunt, or --pairs-file FILE, or --lists A B")
    lemmas = [] if lists is None else list(read_two_lists(*lists))
    sides = [list(side) for side in lemmas] if lemmas else [[pair[end] for pair in known] for end in (0, 1)]
    asked = space.ask(run, list(dict.fromkeys(sides[0] + sides[1])))

    def measure(vectors: Vectors) -> Direction:
        first, second = (_unit_vectors(vectors, side) for side in sides)
        if lemmas:
            return direction_of_lists(first, second, [lemma for side in lemmas for lemma in side.values()])
        return direction_of_pairs(first, second, known)

    found, untrained = measure(asked.vectors), measure(replace(space, checkpoint="initial").open(run))
    ends = {"first": asked.vectors.nearest(-found.vector, top), "second": asked.vectors.nearest(found.vector, top)}
    if json:
        figures = {name: getattr(found, name) for name in ("accuracy", "p_value", "agreement")}
        along = {end: _rows(tokens) for end, tokens in ends.items()}
        print_json(asked.told(**figures, before=untrained.accuracy, vector=found.vector.tolist(), along=along))
        return
    asked.say()
    out.print(f"direction from {found.words} words ({asked.space.name})")
    out.print(
        f"  {found.accuracy:.3f}  of held-out words on their right side; {untrained.accuracy:.3f} before training"
    )
    out.print(f"  {found.p_value:.3f}  of random choices of sides for these words do as well (p-value)")
    out.print(f"  {found.agreement:.3f}  cosine between the directions of two halves of the words")
    for end, label in (("first", "towards the first"), ("second", "towards the second")):
        out.print(f"  {label}: " + "  ".join(f"{escaped(one.token)} {abs(one.similarity):.2f}" for one in ends[end]))


def export(run: Path, file: Path, *, space: Space = Space(), json: bool = False) -> None:
    """Write the vectors in word2vec's format, which gensim reads.

    Parameters
    ----------
    run
        The run's folder.
    file
        NAME.txt or NAME.vec for text, NAME.bin for binary.
    json
        Print one JSON object.
    """
    vectors = space.open(run)
    number = export_vectors(vectors, file)
    if json:
        print_json({"file": str(file), "tokens": number, "n_embd": vectors.n_embd, "space": space.name})
        return
    binary = ", binary=True" if file.suffix == ".bin" else ""
    out.print(f"{file}: {number} vectors ({space.name}); in Python:")
    out.print(f'  from gensim.models import KeyedVectors; KeyedVectors.load_word2vec_format("{file}"{binary})')


def draw_map(
    run: Path, *words: str, file: Path = Path("embeddings.png"), space: Space = Space(), json: bool = False
) -> None:
    """Draw rows before and after training in two dimensions (principal components), labelled.

    Parameters
    ----------
    run
        The run's folder.
    words
        What to draw; the first words of the vocabulary if none are given.
    file
        NAME.png or NAME.svg.
    json
        Print one JSON object.
    """
    after = space.open(run)
    chosen = list(dict.fromkeys(words)) or _first_words(after)
    if not chosen:
        raise UsageError("this vocabulary has no whole words to draw; name some")
    asked = Asked(space, after, [after.find(word) for word in chosen])
    before = replace(space, checkpoint="initial").open(run)
    points = [torch.stack([vectors.vector(word) for word in asked.words]) for vectors in (before, after)]
    plot_map(points[0], points[1], {word: "words" for word in chosen}, file)
    if json:
        print_json(asked.told(file=str(file)))
        return
    asked.say()
    out.print(f"{len(chosen)} words drawn in {file}")


def _first_words(vectors: Vectors) -> list[str]:
    """Words to draw where none are named: of the vocabulary, nearly in order of frequency."""
    here = set(vectors.ids)
    ids = [number for number in whole_words(vectors.tokenizer) if number in here]
    names = (token.strip() for token in vectors.tokenizer.tokens(ids))
    return list(dict.fromkeys(name for name in names if len(name) > 2 and name.isalpha()))[:_MAP_WORDS]


def _unit_vectors(vectors: Vectors, words: Sequence[str]) -> Tensor:
    return torch.stack([vectors.unit_vector(word) for word in words])


def _pair(text: str) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not (colon and first and second) or ":" in second:
        raise UsageError(f"{text!r} is no pair: write two words with a colon between them, as man:woman")
    return first, second


def _rows(found: Sequence[Neighbor]) -> list[dict[str, object]]:
    return [asdict(neighbor) for neighbor in found]
