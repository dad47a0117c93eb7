"""`llamita embeddings ...`: questions put to the vectors of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamita.cli.console import aligned, escaped, narrator, out, print_json
from llamita.cli.space import Space
from llamita.errors import UsageError
from llamita.insight.directions import direction_of_lists, direction_of_pairs
from llamita.insight.vectors import Neighbor, Vectors
from llamita.insight.words import Word, whole_words
from llamita.observatory.export import export_vectors
from llamita.observatory.plots import plot_map
from llamita.observatory.spaces import check_layer, context_state
from llamita.observatory.word_lists import read_pairs, read_words
from llamita.runs.folder import Run

_MAP_WORDS = 60
_ALONG = 12


def neighbors(
    run: Path, token: str, *, top: int = 10, context: str | None = None, space: Space = Space(), json: bool = False
) -> None:
    """The tokens whose vectors have the highest cosine to a word's.

    Parameters
    ----------
    run
        The run's folder.
    token
        A word; "#123" is token 123. One that takes several tokens is asked for by the mean of their vectors.
    top
        How many.
    context
        Ask for the word's state in this text, after --layer (the last one unless given).
    json
        Print one JSON object.
    """
    if context is None:
        vectors = space.open(run)
        word = vectors.find(token)
        found = vectors.most_similar(word, topn=top)
    else:
        space, vectors, word, found = _in_context(run, token, context, top, space)
    if json:
        rows = [asdict(neighbor) for neighbor in found]
        print_json({**_told(word), "space": space.name, "context": context, "neighbors": rows})
        return
    _say_parts([word])
    out.print(f"nearest to {escaped(token)} in the {space.name}, by cosine:")
    for neighbor in found:
        out.print(f"  {neighbor.similarity:7.4f}  {escaped(neighbor.token):24} #{neighbor.id}")


def analogy(run: Path, a: str, b: str, c: str, *, top: int = 5, space: Space = Space(), json: bool = False) -> None:
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
    json
        Print one JSON object.
    """
    vectors = space.open(run)
    first, second, third = words = [vectors.find(word) for word in (a, b, c)]
    added = vectors.analogy(first, second, third, top)
    multiplied = vectors.analogy(first, second, third, top, "3CosMul")
    asked = [word.ids[0] for word in words if not word.several]
    control = vectors.nearest(vectors.vector(third), top, exclude=asked)
    if json:
        kinds = {"add": added, "mul": multiplied, "control": control}
        answers = {kind: [asdict(neighbor) for neighbor in found] for kind, found in kinds.items()}
        print_json({"a": a, "b": b, "c": c, "space": space.name, **answers})
        return
    _say_parts(words)
    out.print(f"{escaped(a)} is to {escaped(b)} as {escaped(c)} is to ... ({space.name})")
    rows = [["3CosAdd", "", "3CosMul", "", f"control: nearest to {escaped(c)}", ""]]
    for row in zip(added, multiplied, control, strict=True):
        rows.append([cell for found in row for cell in (escaped(found.token), f"{found.similarity:.4f}")])
    for line in aligned(rows, left=(0, 2, 4)):
        out.print(f"  {line}")
    if added[0].id == control[0].id:
        out.print(f"the nearest neighbor of {escaped(c)} is the same: this answer says nothing of the relation")


def similarity(run: Path, a: str, b: str, *, space: Space = Space(), json: bool = False) -> None:
    """The cosine of two words' vectors, and where it stands among all.

    Parameters
    ----------
    run
        The run's folder.
    a
        A word.
    b
        Another.
    json
        Print one JSON object.
    """
    vectors = space.open(run)
    words = [vectors.find(word) for word in (a, b)]
    cosine = vectors.similarity(*words)
    share = float((vectors.unit @ vectors.unit_vector(words[0]) < cosine).float().mean())
    if json:
        print_json({"a": a, "b": b, "space": space.name, "similarity": cosine, "nearer_than": share})
        return
    _say_parts(words)
    out.print(f"{cosine:.4f}  cosine of {escaped(a)} and {escaped(b)} ({space.name})")
    out.print(f"{escaped(b)} is nearer to {escaped(a)} than {share:.1%} of the vocabulary")


def odd_one_out(run: Path, *words: str, space: Space = Space(), json: bool = False) -> None:
    """The word that doesn't match the others: the furthest from the mean of all.

    Parameters
    ----------
    run
        The run's folder.
    words
        At least three.
    json
        Print one JSON object.
    """
    vectors = space.open(run)
    found = [vectors.find(word) for word in words]
    ranked = vectors.match(found)
    if json:
        rows = [{"word": word, "similarity": cosine} for word, cosine in ranked]
        print_json({"odd_one_out": ranked[0][0], "space": space.name, "words": rows})
        return
    _say_parts(found)
    out.print(f"{escaped(ranked[0][0])} doesn't match; cosine of each to the mean of all ({space.name}):")
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
        Two files of words instead, one a line; the direction goes from the first list to the second.
    top
        How many tokens to show on either side.
    json
        Print one JSON object.
    """
    asked = [_pair(text) for text in pairs] + (read_pairs(pairs_file) if pairs_file else [])
    if bool(asked) == (lists is not None):
        raise UsageError("give pairs such as man:woman king:queen uncle:aunt, or --lists A B")
    vectors = space.open(run)
    first, second = zip(*asked, strict=True) if lists is None else (read_words(path) for path in lists)
    measure = direction_of_pairs if lists is None else direction_of_lists
    found = measure(*_unit_vectors(vectors, first, second))
    untrained = measure(*_unit_vectors(replace(space, checkpoint="initial").open(run), first, second))
    ends = {"first": vectors.nearest(-found.vector, top), "second": vectors.nearest(found.vector, top)}
    if json:
        figures = {name: getattr(found, name) for name in ("words", "accuracy", "control", "agreement")}
        figures["before"] = untrained.accuracy
        along = {end: [asdict(neighbor) for neighbor in tokens] for end, tokens in ends.items()}
        print_json({"space": space.name, **figures, "vector": found.vector.tolist(), "along": along})
        return
    out.print(f"direction from {found.words} words ({space.name})")
    out.print(
        f"  {found.accuracy:.3f}  of held-out words on their right side; {found.control:.3f} with sides mixed up, "
        f"{untrained.accuracy:.3f} before training"
    )
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
        print_json({"file": str(file), "tokens": number, "n_embd": vectors.rows.shape[1], "space": space.name})
        return
    binary = ", binary=True" if file.suffix == ".bin" else ""
    out.print(f"{file}: {number} vectors of the {space.name}; in Python:")
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
    before = replace(space, checkpoint="initial").open(run)
    chosen = list(words) or _first_words(after)
    found = [after.find(word) for word in chosen]
    points = [torch.stack([vectors.vector(word) for word in found]) for vectors in (before, after)]
    plot_map(points[0], points[1], {word: "words" for word in chosen}, file)
    narrator(json).print(f"{len(chosen)} words drawn in {file}")
    if json:
        print_json({"file": str(file), "words": chosen})


def _first_words(vectors: Vectors) -> list[str]:
    """Words to draw where none are named: of the vocabulary, nearly in order of frequency."""
    here = set(vectors.ids)
    ids = [number for number in whole_words(vectors.tokenizer) if number in here]
    names = (token.strip() for token in vectors.tokenizer.tokens(ids))
    return list(dict.fromkeys(name for name in names if len(name) > 2 and name.isalpha()))[:_MAP_WORDS]


def _in_context(
    run: Path, token: str, context: str, top: int, space: Space
) -> tuple[Space, Vectors, Word, list[Neighbor]]:
    if space.table != "input":
        raise UsageError("--context asks for a layer's state: give --layer instead of --table")
    opened = Run.open(run)
    model = opened.model(space.checkpoint)
    layer = model.config.n_layers if space.layer is None else space.layer
    check_layer(model, layer)
    word, state = context_state(model, opened.tokenizer(), token, context, layer)
    space = replace(space, layer=layer)
    vectors = space.open(run)
    exclude = () if word.several else word.ids
    return space, vectors, word, vectors.nearest(vectors.centered(state), top, exclude=exclude)


def _unit_vectors(vectors: Vectors, *sides: Iterable[str]) -> list[Tensor]:
    return [torch.stack([vectors.unit_vector(word) for word in words]) for words in sides]


def _pair(text: str) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not (colon and first and second) or ":" in second:
        raise UsageError(f"{text!r} is no pair: write two words with a colon between them, as man:woman")
    return first, second


def _told(word: Word) -> dict[str, Any]:
    return {"token": word.text, "ids": list(word.ids), "tokens": list(word.tokens)}


def _say_parts(words: Sequence[Word]) -> None:
    for word in words:
        if word.several:
            out.print(f"{escaped(str(word))}: their mean stands for it")
