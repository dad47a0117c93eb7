"""The page of a walkthrough: whole in itself, safe for any text, and true to the numbers."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llamita.insight.walkthrough import Walkthrough, toy, walk_through
from llamita.observatory.walkthrough_page import walkthrough_page
from llamita.runs.folder import Run

VOID = {"meta", "br", "hr", "img", "input", "link"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "h3", "p", "div", "span", "b"),
    *("blockquote", "bdi", "small", "i", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"),
}


class Parsed(HTMLParser):
    """Elements, attributes and texts of a page; fails where elements aren't closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    @property
    def text(self) -> str:
        return "".join(text for tag, texts in self.texts.items() if tag != "style" for text in texts)


def page_of(text: str) -> tuple[Walkthrough, str]:
    walk = walk_through(*toy(text), text, step=0)
    return walk, walkthrough_page(walk)


def check_safe(page: str) -> Parsed:
    parsed = Parsed(page)
    assert parsed.tags <= ALLOWED
    names = {name for name, _ in parsed.attributes}
    assert names <= {*("class", "style", "lang", "dir", "open", "tabindex", "charset", "http-equiv", "content", "name")}
    assert not any(name.startswith("on") for name in names)
    for name, value in parsed.attributes:
        if name == "style":
            assert re.fullmatch(r"--(a:[01]\.\d+|h:\d+)", value or "")
    styles = "".join(parsed.texts["style"])
    assert "url(" not in styles and "@import" not in styles and "http" not in styles
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in parsed.attributes
    assert all(c.isprintable() or c == "\n" for c in page.replace("\u200c", "").replace("\u200d", ""))
    return parsed


def test_the_page_needs_nothing_but_itself() -> None:
    _, page = page_of("I love dogs")
    check_safe(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?:|<script|<link|<img|src=|href=", page)


@settings(deadline=None, max_examples=5)
@given(st.text(max_size=40))
@example("<script>alert(1)</script>")
@example('"onmouseover="alert(1)" \'><img src=http://a.b/c.png onerror=alert(1)>')
@example("</style><script>alert(1)</script><!--")
@example("\x00\x1b[31m\n\u202e\u2028 \ufeff")
@example("&lt;b&gt; &amp; &#60;")
def test_any_text_is_shown_as_text_alone(text: str) -> None:
    walk, page = page_of(text)
    parsed = check_safe(page)
    quoted = "".join(parsed.texts["blockquote"])
    if text:
        assert quoted == "".join(c if c.isprintable() or c in "\u200c\u200d" else ascii(c)[1:-1] for c in text)
    for known in walk.tokens:
        if known.token.isprintable() and len(known.token) <= 40:
            assert known.token.replace(" ", "␣") in parsed.texts["bdi"]


def test_markup_of_a_text_arrives_as_characters() -> None:
    _, page = page_of("<script>alert(1)</script>")
    assert "<script" not in page
    assert "<script>alert(1)</script>" in Parsed(page).text


def test_control_characters_are_shown_and_not_sent() -> None:
    _, page = page_of("a\x00b\x1b\u202e\n")
    assert not set(page) & {"\x00", "\x1b", "\u202e"}
    assert all(shown in Parsed(page).text for shown in (r"\x00", r"\x1b", r"\u202e", r"\n"))


def test_text_of_either_direction_is_isolated() -> None:
    _, page = page_of("שלום dogs")
    parsed = check_safe(page)
    assert ("dir", "auto") in parsed.attributes
    assert {"שלום", "dogs"} <= set(parsed.texts["bdi"])


def test_numbers_are_the_walkthroughs_to_four_decimals() -> None:
    walk, page = page_of("I love dogs")
    parsed = check_safe(page)
    cells = [float(text) for text in parsed.texts["td"]]
    rows = [row.values for row in walk.matrix] + [found.row for found in walk.lookup] + list(walk.output.rows)
    assert cells == [float(f"{value:.4f}") for row in rows for value in row]
    for coordinate in (*walk.dimension.highest, *walk.dimension.lowest):
        assert f"{coordinate.value:.4f}" in parsed.texts["span"]
    for guess in walk.next_tokens:
        assert f"{guess.probability:.4f}" in parsed.texts["span"]
    for stage in walk.blocks:
        assert {stage.stage, str(stage.shape), f"RMS {stage.rms:.4f}", stage.meaning} <= {
            *parsed.texts["b"],
            *parsed.texts["span"],
        }
    for shape in (
        "(seq_len,) = (3,)",
        f"({walk.vocab_size}, 8)",
        "(3, 8)",
        "(1, 3, 8)",
        str([known.id for known in walk.tokens]),
    ):
        assert shape in parsed.text
    assert walk.dimension.verdict in parsed.texts["p"]


def test_a_runs_page_shows_scaled_rows_and_the_spaces_of_tokens(tiny_run: Run) -> None:
    walk = walk_through(tiny_run.model(), tiny_run.tokenizer(), "The river", run="<b>tiny</b>", step=8)
    parsed = check_safe(walkthrough_page(walk))
    assert {"<b>tiny</b>", *(known.token.replace(" ", "␣") for known in walk.tokens)} <= set(parsed.texts["bdi"])
    assert any(known.token.startswith(" ") for known in walk.tokens)
    assert parsed.text.count(f"times {walk.scale:g}") == len(walk.lookup)
    cells = [float(text) for text in parsed.texts["td"]]
    rows = [row.values for row in walk.matrix]
    rows += [values for found in walk.lookup for values in (found.row, found.vector)]
    assert cells == [float(f"{value:.4f}") for row in (*rows, *walk.output.rows) for value in row]


@pytest.mark.parametrize(("dimension", "columns"), [(3, 32), (39, 33)])
def test_of_many_dimensions_the_first_are_shown_and_the_one_that_is_studied(dimension: int, columns: int) -> None:
    walk, _ = page_of("I love dogs")
    wide = widened(walk, 40, dimension)
    parsed = check_safe(walkthrough_page(wide))
    # Three heads, and the rows below them.
    assert parsed.texts["td"].count("…") == 3 + len(walk.matrix) + 2 * len(walk.lookup)
    heads = [text for text in parsed.texts["th"] if text.isdecimal()]
    assert heads == [*map(str, range(32)), *(["39"] if columns == 33 else [])] * 3
    assert ("class", "seen") in parsed.attributes and ("class", "scroll") in parsed.attributes


def widened(walk: Walkthrough, n_embd: int, dimension: int) -> Walkthrough:
    def wide(row: tuple[float, ...]) -> tuple[float, ...]:
        return (row * n_embd)[:n_embd]

    return replace(
        walk,
        n_embd=n_embd,
        matrix=tuple(replace(row, values=wide(row.values)) for row in walk.matrix),
        lookup=tuple(replace(found, row=wide(found.row), vector=wide(found.vector)) for found in walk.lookup),
        output=replace(walk.output, rows=tuple(map(wide, walk.output.rows))),
        dimension=replace(walk.dimension, dimension=dimension),
    )


def test_a_long_text_makes_a_small_page() -> None:
    walk, page = page_of("".join(chr(0x1F300 + i % 600) for i in range(10_000)))
    parsed = check_safe(page)
    assert len(page) < 100_000
    assert f"{walk.seq_len - 48:,} more" in parsed.text
    assert "9,993 rows" in parsed.text
    assert "the last 256 of 10,000 tokens" in parsed.text


def test_an_empty_text_has_a_page_too() -> None:
    _, page = page_of("")
    parsed = check_safe(page)
    for said in ("nothing to look up", "(0, 8)", "(1, 0, 8)", "the blocks read BOS"):
        assert said in parsed.text
