"""Word lists that people bring: analogies, pairs and lists, a line each."""

from pathlib import Path

from llamita.errors import UserError
from llamita.files import read_text

Analogies = dict[str, list[tuple[str, ...]]]

_FILE_BYTES = 1 << 26


def read_analogies(path: Path) -> Analogies:
    """Families of pairs ("man woman") or whole questions ("man woman king queen"), by the name after a colon.

    The format of word2vec's questions-words.txt. UserError names the line that is neither.
    """
    families: Analogies = {}
    name = path.stem
    for number, line in _lines(path):
        if line.startswith(":"):
            name = line[1:].strip() or path.stem
            continue
        words = tuple(line.split())
        if len(words) not in (2, 4):
            raise UserError(f"{path}:{number}: {line!r} has {len(words)} words; give a pair or a question of 4")
        families.setdefault(name, []).append(words)
    if not families:
        raise UserError(f"{path} holds no analogies: give lines such as: man woman")
    return families


def read_words(path: Path) -> dict[str, str]:
    """Words by line, each with its lemma: the second word of a line, or the word itself."""
    found = {}
    for number, line in _lines(path):
        words = line.split()
        if len(words) > 2:
            raise UserError(f"{path}:{number}: {line!r} has {len(words)} words; give a word, and after it its lemma")
        found[words[0]] = words[-1]
    if not found:
        raise UserError(f"{path} holds no words: give one a line")
    return found


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Pairs of words, a line each."""
    pairs = []
    for number, line in _lines(path):
        words = line.split()
        if len(words) != 2:
            raise UserError(f"{path}:{number}: {line!r} has {len(words)} words; give a pair")
        pairs.append((words[0], words[1]))
    if not pairs:
        raise UserError(f"{path} holds no pairs: give two words a line")
    return pairs


def read_two_lists(first: Path, second: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Two lists of words with their lemmas; UserError for a word of both."""
    lists = read_words(first), read_words(second)
    for both in sorted(set(lists[0]) & set(lists[1])):
        raise UserError(f"{both!r} is in both {first} and {second}; keep it in one")
    return lists


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with something on them, numbered; "# " begins a comment ("#123" is a token)."""
    try:
        text = read_text(path, _FILE_BYTES).removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; give a text file of words") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and line != "#" and not line.startswith("# ")]
