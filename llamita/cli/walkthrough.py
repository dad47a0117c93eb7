"""`llamita walkthrough`."""

import os
import textwrap
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from llamita.cli.console import escaped, narrator, out, padded, print_json
from llamita.errors import UsageError, UserError
from llamita.files import write_text
from llamita.insight.dimensions import Coordinate
from llamita.insight.stages import Stage
from llamita.insight.walkthrough import Walkthrough, toy, walk_through
from llamita.observatory.walkthrough_page import walkthrough_page
from llamita.runs.folder import Run

_COORDINATES = 8
_CHARACTERS = 32
_TEXT_CHARACTERS = 200
_TOKEN_LINES = 12
_LINE = 100
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


def walkthrough(
    text: str = "I love dogs",
    *,
    run: Path | None = None,
    checkpoint: str = "best",
    dimension: int | None = None,
    html: Path | None = None,
    json: bool = False,
) -> None:
    """Follow a text from tokens to vectors to the next token, with every number on the way.

    Parameters
    ----------
    text
        The text to follow.
    run
        The run whose model it goes through; without one, a small model of random weights.
    checkpoint
        best, latest, initial or a step.
    dimension
        The dimension to look at closely; otherwise the one on which the text stands out most.
    html
        Also write the walkthrough to this file, as a page that needs nothing else.
    json
        Print one JSON object.
    """
    if run is None:
        if checkpoint != "best":
            raise UsageError(f"--checkpoint {checkpoint}: without a run there are none; add --run")
        walk = walk_through(*toy(text), text, step=0, dimension=dimension)
    else:
        opened = Run.open(run)
        step = 0 if checkpoint == "initial" else opened.checkpoint(checkpoint).step
        model, tokenizer = opened.model(checkpoint), opened.tokenizer()
        walk = walk_through(model, tokenizer, text, run=str(run), step=step, dimension=dimension)
    if html is not None:
        _write(html, walkthrough_page(walk))
    if json:
        print_json(walk)
    else:
        print_walkthrough(walk, out)
    if html is not None:
        _say(narrator(json), f"{html}: the same as a page; open it in a browser")


def print_walkthrough(walk: Walkthrough, console: Console, steps: Collection[int] = range(1, 7)) -> None:
    """Print steps of a walkthrough, by default all six, with numbers to four decimals."""
    colours = {known.id: _COLOURS[i % len(_COLOURS)] for i, known in enumerate(walk.lookup)}
    printers: tuple[tuple[str, Callable[[Walkthrough, Console], None]], ...] = (
        ("Tokenization", partial(_tokens, colours=colours)),
        ("Embedding matrix", partial(_matrix, colours=colours)),
        ("Lookup", partial(_lookup, colours=colours)),
        ("Output tensor", partial(_output, colours=colours)),
        ("What each value is", _dimension),
        ("On into the decoder blocks", _blocks),
    )
    _say_what_it_is(walk, console)
    for number, (name, show) in enumerate(printers, 1):
        if number in steps:
            _say(console, "")
            _say(console, f"Step {number}. {name}", "bold")
            show(walk, console)


def _write(file: Path, page: str) -> None:
    if os.path.isdir(file):
        raise UserError(f"--html {file}: that is a folder; give a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, page)
    except OSError as error:
        raise UserError(f"--html {file}: can't be written ({error.strerror}); choose another file") from error


def _say(console: Console, line: str, style: str = "") -> None:
    # A Text is printed as it is: no markup, no :emoji: codes, no line breaks.
    console.print(Text(line, style=style), soft_wrap=True)


def _explain(console: Console, text: str) -> None:
    for line in textwrap.wrap(text, _LINE, break_long_words=False, break_on_hyphens=False):
        _say(console, line)


def _quoted(text: str | None, longest: int = _CHARACTERS) -> str:
    """A token in quotes, with what would break a line or a terminal escaped."""
    if text is None:
        return "(a row without a token)"
    return repr(text) if len(text) <= longest else f"{text[:longest]!r}..."


def _vectors(rows: Sequence[Sequence[float]]) -> list[str]:
    """The first coordinates of each vector, one below the other."""
    numbers = [[f"{value:.4f}" for value in row[:_COORDINATES]] for row in rows]
    more = [", ..." if len(row) > _COORDINATES else "" for row in rows]
    width = max((len(number) for row in numbers for number in row), default=0)
    aligned = (", ".join(number.rjust(width) for number in row) for row in numbers)
    return [f"[{row}{rest}]" for row, rest in zip(aligned, more, strict=True)]


def _say_what_it_is(walk: Walkthrough, console: Console) -> None:
    through = "a small model" if walk.run is None else escaped(walk.run)
    step = "" if not walk.step else f", step {walk.step}"
    _say(console, f"{_quoted(walk.text, _TEXT_CHARACTERS)} through {through}{step}")
    if walk.step == 0:
        _say(console, "Its weights are random: nothing has been learnt yet.")
    if walk.toy:
        _say(console, "With --run runs/demo a trained model shows the same; `llamita demo` makes it.")


def _tokens(walk: Walkthrough, console: Console, colours: dict[int, str]) -> None:
    if not walk.seq_len:
        _say(console, "The text is empty: there is nothing to look up.")
    shown = walk.tokens[:_TOKEN_LINES]
    width = max((cell_len(_quoted(known.token)) for known in shown), default=0)
    for known in shown:
        _say(console, f"  {padded(_quoted(known.token), width)} -> {known.id}", colours.get(known.id, ""))
    left_out = walk.seq_len - len(shown)
    if left_out:
        _say(console, f"  ... {left_out:,} more")
    ids = ", ".join(str(known.id) for known in shown)
    _say(console, f"The text as ids: [{ids}{', ...' if left_out else ''}], {walk.seq_len:,} in all")
    if walk.unknown:
        more = f" and {walk.left_out.unknown:,} more" if walk.left_out.unknown else ""
        _say(console, f"Not in the vocabulary: {' '.join(_quoted(word) for word in walk.unknown)}{more}")


def _matrix(walk: Walkthrough, console: Console, colours: dict[int, str]) -> None:
    _explain(
        console,
        f"A table of shape (vocab_size, n_embd) = ({walk.vocab_size}, {walk.n_embd}): a row for each id, of n_embd "
        "numbers that training adjusts. A part of it, the rows of the text marked with >:",
    )
    width, following = len(str(walk.vocab_size)), 0
    for row, values in zip(walk.matrix, _vectors([row.values for row in walk.matrix]), strict=True):
        if row.id != following:
            _say(console, "  ...")
        line = f"{'>' if row.chosen else ' '} {row.id:>{width}}: {values}  {_quoted(row.token)}"
        _say(console, line, colours[row.id] if row.chosen else "")
        following = row.id + 1
    if following != walk.vocab_size:
        _say(console, "  ...")


def _lookup(walk: Walkthrough, console: Console, colours: dict[int, str]) -> None:
    scaled = walk.scale != 1
    way = f"; this model multiplies it by {walk.scale:g} on the way in:" if scaled else ", as it stands:"
    _say(console, f"Each id selects its row{way}" if walk.lookup else "No id, no row.")
    words = max((cell_len(_quoted(found.token)) for found in walk.lookup), default=0)
    digits, times = len(str(walk.vocab_size)), f"times {walk.scale:g}: "
    shown = _vectors([*(found.row for found in walk.lookup), *(found.vector for found in walk.lookup)])
    for i, found in enumerate(walk.lookup):
        start = f"  {padded(_quoted(found.token), words)} -> {found.id:>{digits}} -> "
        _say(console, f"{start}{shown[i]}", colours[found.id])
        if scaled:
            _say(console, f"{times.rjust(cell_len(start))}{shown[len(walk.lookup) + i]}")
    if walk.left_out.lookup:
        _say(console, f"  ... and so for {walk.left_out.lookup:,} more ids")


def _output(walk: Walkthrough, console: Console, colours: dict[int, str]) -> None:
    output, following = walk.output, 0
    _say(console, "The vectors one below the other, in the order of the text:")
    _say(console, "[")
    for position, known, row in zip(output.positions, output.tokens, _vectors(output.rows), strict=True):
        if position != following:
            _say(console, f"  ... {walk.left_out.output:,} rows")
        _say(console, f"  {row},  # {_quoted(known.token)}", colours.get(known.id, ""))
        following = position + 1
    _say(console, "]")
    _say(console, f"Shape (seq_len, n_embd) = {output.shape}")
    _say(console, f"With a batch dimension in front, here of one text: (batch, seq_len, n_embd) = {output.batch_shape}")


def _dimension(walk: Walkthrough, console: Console) -> None:
    study, n = walk.dimension, walk.n_embd
    _explain(
        console,
        f"A vector has n_embd = {n} values, each its coordinate on one dimension: a token is a point in "
        f"{n}-dimensional space, and training moves the points. Here is dimension {study.dimension} "
        "(--dimension takes another):",
    )
    if walk.lookup:
        own = ", ".join(f"{_quoted(found.token)} {found.row[study.dimension]:.4f}" for found in walk.lookup)
        _say(console, f"  this text: {own}")
    for end, coordinates in (("highest", study.highest), ("lowest", study.lowest)):
        _ends(console, end, coordinates)
    _say(console, "Beside it, a direction drawn at random:")
    for end, coordinates in (("highest", study.random_highest), ("lowest", study.random_lowest)):
        _ends(console, end, coordinates)
    _explain(
        console,
        f"An axis isn't a concept. Are the {study.ends} tokens at an end alike in anything else? The mean cosine "
        "between them tells, without this dimension's own part and averaged over both ends; directions drawn at "
        "random say what chance gives:",
    )
    figures = (
        (f"{study.directions} random directions", study.random_mean, f"standard deviation {study.random_std:.4f}"),
        (f"dimension {study.dimension}", study.coherence, f"percentile {study.percentile:.1f} among these"),
    )
    for name, coherence, place in figures:
        _say(console, f"  {name:27} {coherence:7.4f}  {place}")
    _say(console, f"  {f'{study.measured} dimensions':35}  mean percentile {study.mean_percentile:.1f}, by chance 50")
    _explain(console, f"{study.verdict} (Measured on {study.rows:,} tokens.)")


def _ends(console: Console, end: str, coordinates: Sequence[Coordinate]) -> None:
    values = ", ".join(f"{_quoted(one.token)} {one.value:.4f}" for one in coordinates)
    _say(console, f"  {padded(end + ':', 10)} {values}")


def _blocks(walk: Walkthrough, console: Console) -> None:
    if not walk.read:
        _say(console, "There is nothing to go on with: the text is empty, and this tokenizer has no BOS to start from.")
        return
    said = "The text alone goes through the blocks, without a BOS in front."
    if not walk.seq_len:
        said = "The text is empty, so the blocks read BOS, which begins the texts of a corpus."
    elif walk.read < walk.seq_len:
        said = f"The blocks read the last {walk.read:,} of {walk.seq_len:,} tokens: max_seq_len is {walk.read}."
    if walk.toy:
        said += " Training starts each block's last projections at zero; here they are random like the rest."
    _explain(console, said)
    _stages(walk.blocks, console)
    table = "the same table (tied)" if walk.tied else "lm_head, a table of its own"
    _say(console, f"The logits are read out by {table}; softmax makes probabilities of them. What may come next:")
    for guess in walk.next_tokens:
        _say(console, f"  {guess.probability:.4f}  {_quoted(guess.token)}")


def _stages(stages: Sequence[Stage], console: Console) -> None:
    """A line a stage; of the blocks between the first and the last, a line a block."""
    last = max(stage.block or 0 for stage in stages)
    width = max(len(str(stage.shape)) for stage in stages)
    for stage in stages:
        name, rms, said = stage.stage, stage.rms, stage.meaning
        if stage.block is not None:
            name = f"block {stage.block} {stage.stage}"
            if 1 < stage.block < last:
                if stage.stage != "feed_forward":
                    continue
                name, rms, said = f"block {stage.block}", stage.stream_rms or 0.0, "the stream after it"
        _say(console, f"  {name:25} {stage.shape!s:{width}}  RMS {rms:7.4f}  {said}")
