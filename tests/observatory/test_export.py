from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from llamita.errors import UsageError, UserError
from llamita.insight.vectors import Vectors
from llamita.observatory.export import export_vectors
from llamita.observatory.spaces import table_vectors
from llamita.runs.folder import Run
from llamita.text.tokenizer import Tokenizer


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.vec", "deep/vectors.bin"])
def test_gensim_reads_the_same_numbers_and_finds_the_same_neighbors(tiny_run: Run, tmp_path: Path, name: str) -> None:
    vectors = table_vectors(tiny_run, checkpoint="latest")
    assert export_vectors(vectors, tmp_path / name) == len(vectors.ids)
    keyed = KeyedVectors.load_word2vec_format(str(tmp_path / name), binary=name.endswith("bin"))
    spelled = [vectors.tokenizer.id_to_token(number) for number in vectors.ids]
    assert keyed.index_to_key == spelled
    assert np.array_equal(keyed.vectors, vectors.rows.numpy())
    for number in vectors.ids[::40]:
        ours = vectors.most_similar(f"#{number}", topn=20)
        theirs = keyed.most_similar(vectors.tokenizer.id_to_token(number), topn=20)
        assert [vectors.tokenizer.id_to_token(one.id) for one in ours] == [key for key, _ in theirs]
        np.testing.assert_allclose([one.similarity for one in ours], [value for _, value in theirs], rtol=1e-4)


def test_white_space_in_tokens_does_not_end_them(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["a b\n\nc   d\te"] * 3, vocab_size=64, kind="word")
    vectors = Vectors(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), tokenizer)
    export_vectors(vectors, tmp_path / "v.txt")
    keyed = KeyedVectors.load_word2vec_format(str(tmp_path / "v.txt"))
    assert {"a", "\\u000a", "\\u0020\\u0020\\u0020"} <= set(keyed.index_to_key)
    assert len(keyed) == len(vectors.ids) and np.array_equal(keyed.vectors, vectors.rows.numpy())


def test_other_formats_and_places_are_refused(tiny_run: Run, tmp_path: Path) -> None:
    vectors = table_vectors(tiny_run, checkpoint="latest")
    with pytest.raises(UsageError, match=r"v.npz: vectors are written as .txt, .vec, .bin"):
        export_vectors(vectors, tmp_path / "v.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_vectors(vectors, tmp_path / "file" / "v.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
