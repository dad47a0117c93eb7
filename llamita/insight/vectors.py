"""Questions put to vectors, in gensim's vocabulary: which lie near, which doesn't match, a is to b as c is to what."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llamita.errors import UserError
from llamita.insight.cosine_scan import CosineScan
from llamita.insight.words import Word, find_word, stands_for_text
from llamita.text.tokenizer import Tokenizer

AnalogyMethod = Literal["3CosAdd", "3CosMul"]

# Keeps 3CosMul from dividing by zero; gensim's value.
_EPSILON = 1e-6
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A token of the vocabulary and its cosine to what was asked about; for 3CosMul, its score."""

    token: str
    id: int
    similarity: float


class Vectors:
    """One vector for each token of a vocabulary: a table of embeddings, or a layer's states of each token.

    `answers` are the ids that can be found, by default all that text is made of. `center` takes their mean from
    every vector. A word is asked for as people type it (`find_word`); the vector of one that takes several
    tokens is the mean of theirs, unless `whole_only`: states in context of a word's parts don't add up to it.
    """

    def __init__(
        self,
        matrix: Float[Tensor, "rows n_embd"],
        tokenizer: Tokenizer,
        *,
        answers: Iterable[int] | None = None,
        center: bool = False,
        whole_only: bool = False,
    ) -> None:
        size = tokenizer.get_vocab_size()
        if len(matrix) < size:
            raise UserError(
                f"{len(matrix)} vectors, but the tokenizer has {size} tokens: use the model's own tokenizer"
            )
        ids = range(size) if answers is None else answers
        self.tokenizer, self._whole_only = tokenizer, whole_only
        self._states: dict[str, Tensor] = {}
        self.ids = [number for number in ids if stands_for_text(tokenizer, number)]
        if not self.ids:
            raise UserError("no token has a vector here: give more text")
        self._place = {number: place for place, number in enumerate(self.ids)}
        self._matrix = matrix.detach().float()
        rows = self._matrix[self.ids]
        self._mean = rows.mean(0) if center else None
        if self._mean is not None:
            rows -= self._mean
        # In place: a large table is in memory often enough.
        self._scan = CosineScan(rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(_TINY)))

    @property
    def n_embd(self) -> int:
        """Length of a vector."""
        return self._matrix.shape[1]

    @property
    def rows(self) -> Float[Tensor, "answers n_embd"]:
        """The vectors of `ids`, copied."""
        rows = self._matrix[self.ids]
        return rows if self._mean is None else rows - self._mean

    @property
    def unit(self) -> Float[Tensor, "answers n_embd"]:
        """The vectors of `ids`, each of length 1."""
        return self._scan.unit

    def prepare(self) -> None:
        """Get ready for many questions: a quarter more memory, several times less of it read for each."""
        self._scan.prepare()

    def in_context(self, states: Mapping[str, Float[Tensor, " n_embd"]]) -> "Vectors":
        """The same vectors, but for some words their states in a context, in this space."""
        made = copy.copy(self)
        made._states = dict(states)
        return made

    def find(self, word: str | Word) -> Word:
        """The tokens of a word; UserError if the vocabulary lacks it, or nothing is known of one of its tokens."""
        found = find_word(self.tokenizer, word) if isinstance(word, str) else word
        if found.text in self._states:
            return found
        if found.several and self._whole_only:
            raise UserError(f"{found}: what a layer makes of it shows in a context only, see --context")
        for number, token in zip(found.ids, found.tokens, strict=True):
            if number not in self._place and not self._matrix[number].any():
                raise UserError(f"{found}, and {token!r} has no vector here: it wasn't met in the text that was read")
        return found

    def vector(self, word: str | Word) -> Float[Tensor, " n_embd"]:
        """The vector of a word, the mean of its tokens' where it takes several; centred if these vectors are."""
        found = self.find(word)
        state = self._states.get(found.text)
        vector = self._matrix[list(found.ids)].mean(0) if state is None else state.to(self._matrix)
        return vector if self._mean is None else vector - self._mean

    def unit_vector(self, word: str | Word) -> Float[Tensor, " n_embd"]:
        """The same at length 1."""
        return F.normalize(self.vector(word), dim=0)

    def nearest(self, vector: Float[Tensor, " n_embd"], topn: int = 10, exclude: Iterable[int] = ()) -> list[Neighbor]:
        """The tokens whose vectors have the highest cosine to this one, highest first."""
        places = sorted({self._place[number] for number in exclude if number in self._place})
        found, cosines = self._scan.top(F.normalize(vector.to(self.unit), dim=0), _checked(topn), places)
        return self._neighbors(found.tolist(), cosines.tolist())

    def most_similar(
        self,
        positive: str | Word | Sequence[str | Word],
        negative: str | Word | Sequence[str | Word] = (),
        topn: int = 10,
    ) -> list[Neighbor]:
        """The tokens nearest to the sum of positive words less negative ones, each at length 1; without themselves."""
        plus, minus = _several(positive), _several(negative)
        if not plus and not minus:
            raise UserError("no word to compare with: give at least one")
        words = [self.find(word) for word in (*plus, *minus)]
        units = torch.stack([self.unit_vector(word) for word in words])
        return self.nearest(units[: len(plus)].sum(0) - units[len(plus) :].sum(0), topn, exclude=_ids(words))

    def most_similar_cosmul(
        self, positive: Sequence[str | Word], negative: Sequence[str | Word], topn: int = 10
    ) -> list[Neighbor]:
        """The same by 3CosMul (Levy & Goldberg 2014): cosines are multiplied and divided, not added."""
        plus = [self.find(word) for word in _several(positive)]
        minus = [self.find(word) for word in _several(negative)]
        if not plus and not minus:
            raise UserError("no word to compare with: give at least one")
        # One reading of the table for all words.
        cosines = self.unit @ torch.stack([self.unit_vector(word) for word in (*plus, *minus)]).T
        shifted = (1 + cosines) / 2
        score = shifted[:, : len(plus)].prod(1) / (shifted[:, len(plus) :] + _EPSILON).prod(1)
        places = sorted({self._place[number] for number in _ids([*plus, *minus]) if number in self._place})
        score[places] = -torch.inf
        best = score.topk(min(_checked(topn), len(self.ids) - len(places)))
        return self._neighbors(best.indices.tolist(), best.values.tolist())

    def analogy(
        self, a: str | Word, b: str | Word, c: str | Word, topn: int = 10, method: AnalogyMethod = "3CosAdd"
    ) -> list[Neighbor]:
        """What is to c as b is to a: analogy("man", "woman", "king") asks for "queen"."""
        search = self.most_similar if method == "3CosAdd" else self.most_similar_cosmul
        return search([b, c], [a], topn)

    def similarity(self, a: str | Word, b: str | Word) -> float:
        """The cosine of two words' vectors."""
        return float(self.unit_vector(a) @ self.unit_vector(b))

    def match(self, words: Sequence[str | Word]) -> list[tuple[str, float]]:
        """Words with the cosine of each to the mean of all (of their unit vectors), the odd one first."""
        if len(words) < 3:
            raise UserError(f"{len(words)} words: give at least 3 to find the odd one out")
        units = torch.stack([self.unit_vector(word) for word in words])
        cosines = (units @ F.normalize(units.mean(0), dim=0)).tolist()
        texts = [word if isinstance(word, str) else word.text for word in words]
        return sorted(zip(texts, cosines, strict=True), key=lambda pair: pair[1])

    def doesnt_match(self, words: Sequence[str | Word]) -> str:
        """The word that is furthest from the mean of all."""
        return self.match(words)[0][0]

    def _neighbors(self, places: list[int], values: list[float]) -> list[Neighbor]:
        ids = [self.ids[place] for place in places]
        return [Neighbor(*row) for row in zip(self.tokenizer.tokens(ids), ids, values, strict=True)]


def _checked(topn: int) -> int:
    if topn < 1:
        raise UserError(f"topn is {topn}: ask for at least 1 neighbor")
    return topn


def _several(words: str | Word | Sequence[str | Word]) -> list[str | Word]:
    return [words] if isinstance(words, str | Word) else list(words)


def _ids(words: Iterable[Word]) -> set[int]:
    """The ids that the words asked about are themselves; the parts of a word may well be its neighbors."""
    return {word.ids[0] for word in words if not word.several}
