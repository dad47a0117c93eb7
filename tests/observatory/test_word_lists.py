from pathlib import Path

import pytest

from llamita.errors import UserError
from llamita.observatory.word_lists import read_analogies, read_pairs, read_two_lists, read_words


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_analogies_are_pairs_or_questions_in_named_families(tmp_path: Path) -> None:
    text = (
        "man woman\n\n: capital-common-countries\nAthens Greece Baghdad Iraq\n# a comment\n: past\nrun ran\nsee saw\n"
    )
    families = read_analogies(written(tmp_path, text))
    assert families == {
        "mine": [("man", "woman")],
        "capital-common-countries": [("Athens", "Greece", "Baghdad", "Iraq")],
        "past": [("run", "ran"), ("see", "saw")],
    }


def test_files_of_windows_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"\xef\xbb\xbf: fam\r\nman woman\r\n#\r\n")
    assert read_analogies(path) == {"fam": [("man", "woman")]}
    path.write_bytes(b"\xef\xbb\xbf#12 woman\r\n")
    assert read_pairs(path) == [("#12", "woman")]


def test_what_stands_in_both_lists_is_named(tmp_path: Path) -> None:
    for name, text in (("a", "dog\ndogs dog\n"), ("b", "cat\n"), ("c", "cat\ndog\n"), ("d", "hounds dog\n")):
        (tmp_path / name).write_text(text)
    assert read_two_lists(tmp_path / "a", tmp_path / "b") == ({"dog": "dog", "dogs": "dog"}, {"cat": "cat"})
    with pytest.raises(UserError, match="'dog' is in both"):
        read_two_lists(tmp_path / "a", tmp_path / "c")
    # Singulars and plurals share lemmas.
    assert read_two_lists(tmp_path / "a", tmp_path / "d")[1] == {"hounds": "dog"}


def test_words_may_name_their_lemma(tmp_path: Path) -> None:
    assert read_words(written(tmp_path, "dog\ndogs dog\n")) == {"dog": "dog", "dogs": "dog"}
    assert read_pairs(written(tmp_path, "man woman\nking queen")) == [("man", "woman"), ("king", "queen")]


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_analogies, "a b\na b c\n", r"mine.txt:2: 'a b c' has 3 words; give a pair"),
        (read_analogies, ": empty\n", r"mine.txt holds no analogies"),
        (read_words, "a b c", r"mine.txt:1: 'a b c' has 3 words; give a word"),
        (read_words, "\n", r"mine.txt holds no words"),
        (read_pairs, "# none", r"mine.txt holds no pairs"),
        (read_pairs, "a", r"mine.txt:1: 'a' has 1 words; give a pair"),
    ],
)
def test_a_line_that_is_neither_is_named(tmp_path: Path, read: object, text: str, message: str) -> None:
    assert callable(read)
    with pytest.raises(UserError, match=message):
        read(written(tmp_path, text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_words(tmp_path / name)
