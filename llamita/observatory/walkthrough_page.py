"""A walkthrough as one HTML page that needs nothing else: no script, no font, no picture, no network."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby

from llamita.insight.dimensions import Coordinate
from llamita.insight.stages import Stage
from llamita.insight.walkthrough import Walkthrough

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_COLUMNS = 32
_CHIPS = 48
_CHARACTERS = 40
_TEXT_CHARACTERS = 600
_HUES = (268, 155, 335, 45, 190, 95, 0, 225)
# Invisible by themselves, but Persian words and emoji fall apart without them.
_JOINERS = "\u200c\u200d"
_GAP = '<td class="more">…</td>'


def walkthrough_page(walk: Walkthrough) -> str:
    """The page; it runs nothing, refers to nothing outside itself, and shows what users gave as text alone."""
    page = _Page(walk)
    steps = (
        ("Tokenization", _shape("seq_len,", (walk.seq_len,)), page.tokens()),
        ("Embedding matrix", _shape("vocab_size, n_embd", (walk.vocab_size, walk.n_embd)), page.matrix()),
        ("Lookup", "", page.lookup()),
        ("Output tensor", _shape("seq_len, n_embd", walk.output.shape), page.output()),
        ("What each value is", "", page.dimension()),
        ("On into the decoder blocks", "", page.blocks()),
    )
    body = "".join(
        f"<section><h2><b>{number}</b>{step}{shape}</h2>{content}</section>"
        for number, (step, shape, content) in enumerate(steps, 1)
    )
    style = files("llamita.observatory").joinpath("walkthrough.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>llamita walkthrough</title><style>\n{style}</style></head>"
        f"<body><main>{page.header()}{body}</main></body></html>\n"
    )


class _Page:
    """The parts of a page; each of the text's first distinct tokens has a colour that recurs in all of them."""

    def __init__(self, walk: Walkthrough) -> None:
        self._walk = walk
        self._hues = {found.id: _HUES[i % len(_HUES)] for i, found in enumerate(walk.lookup)}
        studied = walk.dimension.dimension
        beyond = [studied] if studied >= _COLUMNS else []
        gap = [None] if walk.n_embd > _COLUMNS + len(beyond) else []
        # None is where dimensions are left out.
        self._columns: list[int | None] = [*range(min(walk.n_embd, _COLUMNS)), *gap, *beyond]

    def header(self) -> str:
        """What goes through which model."""
        walk = self._walk
        text = _visible(walk.text, _TEXT_CHARACTERS) if walk.text else "(an empty text)"
        model = "a small model" if walk.run is None else f"<bdi>{_visible(walk.run, _TEXT_CHARACTERS)}</bdi>"
        said = f"Through {model}{f', step {walk.step:,}' if walk.step else ''}."
        if walk.step == 0:
            said += " Its weights are random: nothing has been learnt yet."
        if walk.toy:
            said += ' With <span class="mono">--run runs/demo</span> a trained model shows the same.'
        return f'<h1>From text to vectors</h1><blockquote dir="auto">{text}</blockquote><p class="soft">{said}</p>'

    def tokens(self) -> str:
        """The text in tokens with their ids."""
        walk = self._walk
        shown = walk.tokens[:_CHIPS]
        left_out = walk.seq_len - len(shown)
        chips = "".join(f"<li>{self._token(known.id, known.token)}<small>{known.id}</small></li>" for known in shown)
        more = f'<li class="soft">… {left_out:,} more</li>' if left_out else ""
        ids = ", ".join(str(known.id) for known in shown) + (", …" if left_out else "")
        unknown = "".join(f" <span class='token'><bdi>{_visible(word)}</bdi></span>" for word in walk.unknown)
        rest = f" and {walk.left_out.unknown:,} more" if walk.left_out.unknown else ""
        said = "Each token has a number, its id, which is all that the model sees of it."
        return (
            f"<p>{said if walk.seq_len else 'The text is empty: there is nothing to look up.'}</p>"
            f'<ul class="chips">{chips}{more}</ul><div class="ids">[{ids}]</div>'
            + (f"<p>Not in the vocabulary:{unknown}{rest}</p>" if unknown else "")
        )

    def matrix(self) -> str:
        """A part of the table."""
        walk = self._walk
        bound = _bound(row.values for row in walk.matrix)
        lines, following = [], 0
        for row in walk.matrix:
            if row.id != following:
                lines.append('<tr class="gap"><th>⋮</th></tr>')
            head = f"{_number(row.id)}{self._token(row.id, row.token)}"
            lines.append(self._row(head, row.values, bound, row.id if row.chosen else None))
            following = row.id + 1
        if following != walk.vocab_size:
            lines.append('<tr class="gap"><th>⋮</th></tr>')
        return (
            f"<p>The table has {walk.vocab_size:,} rows, one for each id, of {walk.n_embd:,} numbers that training "
            "adjusts. Here are its first rows and those that the text asks for.</p>"
            f'{self._heat(lines)}<div class="legend">{-bound:.2f} or less<i></i>{bound:.2f} or more</div>'
        )

    def lookup(self) -> str:
        """Each id with its row, and with the vector that it becomes where rows are scaled."""
        walk = self._walk
        if not walk.lookup:
            return "<p>No id, no row.</p>"
        scaled = walk.scale != 1
        of_rows, of_vectors = _bound(f.row for f in walk.lookup), _bound(f.vector for f in walk.lookup)
        lines = []
        for found in walk.lookup:
            head = f'<div class="arrow">{self._token(found.id, found.token)}<span>→ {found.id} →</span></div>'
            lines.append(self._row(head, found.row, of_rows))
            if scaled:
                lines.append(
                    self._row(
                        f'<div class="arrow soft"><span></span>times {walk.scale:g}</div>', found.vector, of_vectors
                    )
                )
        more = f'<p class="soft">… and so for {walk.left_out.lookup:,} more ids.</p>' if walk.left_out.lookup else ""
        way = f"; this model multiplies it by {walk.scale:g} on the way in" if scaled else ", as it stands"
        return f"<p>Each id selects its row{way}.</p>{self._heat(lines)}{more}"

    def output(self) -> str:
        """The vectors one below the other."""
        output, left_out = self._walk.output, self._walk.left_out.output
        bound, lines, following = _bound(output.rows), [], 0
        for position, known, row in zip(output.positions, output.tokens, output.rows, strict=True):
            if position != following:
                lines.append(f'<tr class="gap"><th>⋮ {left_out:,} rows</th></tr>')
            lines.append(self._row(_number(position) + self._token(known.id, known.token), row, bound))
            following = position + 1
        return (
            "<p>The vectors stand one below the other, in the order of the text.</p>"
            + (self._heat(lines) if lines else "")
            + "<p>Models read several texts at once, so a batch dimension comes first; here it is 1."
            + _shape("batch, seq_len, n_embd", output.batch_shape)
            + "</p>"
        )

    def dimension(self) -> str:
        """One dimension: the tokens at its ends, and whether that is more than chance."""
        walk, study = self._walk, self._walk.dimension
        own = "".join(
            f"<li>{self._token(found.id, found.token)}<small>{found.row[study.dimension]:.4f}</small></li>"
            for found in walk.lookup
        )
        places = (
            (f"dimension {study.dimension}", study.percentile),
            (f"mean of {study.measured} dimensions", study.mean_percentile),
        )
        gauge = "".join(
            f'<li><span>{name}</span><i style="--a:{value / 100:.3f}"></i><span class="mono">{value:.1f}</span></li>'
            for name, value in places
            if not math.isnan(value)
        )
        return (
            f"<p>A vector has {walk.n_embd:,} values, and each is its coordinate on one dimension: a token is a point "
            f"in {walk.n_embd:,}-dimensional space, and training moves the points. Dimension {study.dimension} is "
            f"marked in the tables above.</p><ul class='chips'>{own}</ul>"
            f'<div class="pair">{self._bars("Highest", study.highest)}{self._bars("Lowest", study.lowest)}</div>'
            "<p>Beside it, a direction drawn at random:</p>"
            f'<div class="pair">{self._bars("Highest", study.random_highest)}'
            f"{self._bars('Lowest', study.random_lowest)}</div><h3>Is an axis a concept?</h3>"
            f"<p>Are the {study.ends} tokens at an end alike in anything else? The mean cosine between them, without "
            "this dimension's own part, averaged over both ends, is "
            f'<span class="mono">{study.coherence:.4f}</span>; for {study.directions} directions drawn at random it '
            f'is <span class="mono">{study.random_mean:.4f}</span>, standard deviation '
            f'<span class="mono">{study.random_std:.4f}</span>. Percentiles among random directions:</p>'
            f'<ul class="gauge">{gauge}</ul>'
            f'<p class="verdict">{escape(study.verdict)}</p>'
            f'<p class="soft">The dashed line is chance. Measured on {study.rows:,} tokens.</p>'
        )

    def blocks(self) -> str:
        """The stages from the vectors to the next token."""
        walk = self._walk
        if not walk.read:
            return "<p>There is nothing to go on with, and this tokenizer has no BOS to start from.</p>"
        said = "The text alone goes through the blocks, without a BOS in front."
        if not walk.seq_len:
            said = "The text is empty, so the blocks read BOS, which begins every text."
        elif walk.read < walk.seq_len:
            said = f"The blocks read the last {walk.read:,} of {walk.seq_len:,} tokens: max_seq_len is {walk.read:,}."
        if walk.toy:
            said += " Training starts each block's last projections at zero; here they are random like the rest."
        last = max(stage.block or 0 for stage in walk.blocks)
        groups = "".join(
            _block(number, last, list(stages)) for number, stages in groupby(walk.blocks, key=lambda stage: stage.block)
        )
        table = "the same table that the lookup uses (tied)" if walk.tied else "lm_head, a table of its own"
        most = max(guess.probability for guess in walk.next_tokens)
        bars = "".join(self._bar(guess.id, guess.token, guess.probability, most, "next") for guess in walk.next_tokens)
        return (
            f"<p>{said}</p><div class='stream'>{groups}</div>"
            f"<p>The logits are read out by {table}; softmax makes probabilities of them. What may come next:</p>"
            f'<ul class="bars">{bars}</ul>'
        )

    def _token(self, token_id: int, token: str | None) -> str:
        if token is None:
            return '<span class="soft">no token</span>'
        hue = self._hues.get(token_id)
        known = "" if hue is None else f' known" style="--h:{hue}'
        return f'<span class="token{known}"><bdi>{_visible(token).replace(" ", "␣")}</bdi></span>'

    def _heat(self, lines: Sequence[str]) -> str:
        marked = self._walk.dimension.dimension
        heads = "".join(
            _GAP if i is None else f"<th{' class=seen' if i == marked else ''}>{i}</th>" for i in self._columns
        )
        return (
            '<div class="scroll" tabindex="0"><table><thead><tr><th></th>'
            f"{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        )

    def _row(self, head: str, values: Sequence[float], bound: float, token_id: int | None = None) -> str:
        """A line of a heat map; one of a token's id is framed in the token's colour."""
        cells = "".join(_GAP if i is None else _cell(values[i], bound) for i in self._columns)
        framed = "" if token_id is None else f' class="known" style="--h:{self._hues[token_id]}"'
        return f"<tr{framed}><th>{head}</th>{cells}</tr>"

    def _bars(self, name: str, coordinates: Sequence[Coordinate]) -> str:
        most = max((abs(one.value) for one in coordinates), default=0.0)
        bars = "".join(
            self._bar(one.id, one.token, one.value, most, "warm" if one.value >= 0 else "cold") for one in coordinates
        )
        return f'<div><h3>{name}</h3><ul class="bars">{bars}</ul></div>'

    def _bar(self, token_id: int, token: str | None, value: float, most: float, kind: str) -> str:
        share = abs(value) / most if most else 0.0
        return (
            f'<li class="{kind}">{self._token(token_id, token)}<i style="--a:{share:.3f}"></i>'
            f"<span>{value:.4f}</span></li>"
        )


def _block(number: int | None, last: int, stages: Sequence[Stage]) -> str:
    rows = "".join(
        f'<div class="stage{" adds" if stage.stream_rms is not None else ""}"><b>{stage.stage}</b>'
        f'<span class="mono">{stage.shape}</span><span class="mono">RMS {stage.rms:.4f}</span>'
        f"<span>{stage.meaning}</span></div>"
        for stage in stages
    )
    if number is None:
        return f"<div>{rows}</div>"
    seen = " open" if number == 1 or number == last else ""
    return f"<details{seen}><summary>Decoder block {number}</summary>{rows}</details>"


def _number(value: int) -> str:
    return f'<span class="number">{value}</span>'


def _cell(value: float, bound: float) -> str:
    share = 0.6 * min(abs(value) / bound, 1.0) if bound else 0.0
    return f'<td class="{"warm" if value >= 0 else "cold"}" style="--a:{share:.2f}">{value:.4f}</td>'


def _bound(rows: Iterable[Sequence[float]]) -> float:
    """The magnitude of full colour: the largest value's, unless that would leave all the others pale."""
    values = [abs(value) for row in rows for value in row]
    return min(max(values), 2.5 * math.hypot(*values) / math.sqrt(len(values))) if values else 0.0


def _shape(names: str, shape: Sequence[int]) -> str:
    return f' <span class="shape">({names}) = {tuple(shape)}</span>'


def _visible(text: str, longest: int = _CHARACTERS) -> str:
    """Text for HTML, with every character that can't be seen written as Python writes it."""
    shown = "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in text[:longest])
    return escape(shown, quote=True) + ("…" if len(text) > longest else "")
