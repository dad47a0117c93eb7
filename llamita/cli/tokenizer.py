"""`llamita tokenizer train` and `llamita tokenizer encode`."""

import os
from pathlib import Path

from llamita.cli.console import live_line, narrator, out, print_json
from llamita.cli.sources import SourceName, check_max_bytes
from llamita.cli.stopping import Stopping, same_command
from llamita.config import TokenizerConfig, TokenizerKind
from llamita.errors import UsageError
from llamita.runs.folder import Run
from llamita.text.tokenizer import Tokenizer
from llamita.training.prepare import make_tokenizer, read_text


def train(
    *sources: SourceName,
    out: Path,
    vocab_size: int = 4096,
    kind: TokenizerKind = "bpe",
    field: str = "text",
    max_bytes: int | None = None,
    json: bool = False,
) -> None:
    """Train a tokenizer on text and write it as a tokenizer.json.

    Parameters
    ----------
    sources
        Text files, folders, globs, datasets of the hub, or - for standard input.
    out
        The file to write.
    vocab_size
        Entries wanted; rounded up to a multiple of 64, fewer if the text doesn't give as many.
    kind
        bpe (byte-level subwords), word, char or byte.
    field
        Where the text is in jsonl and parquet.
    max_bytes
        Read no more text than this.
    json
        Print one JSON object.
    """
    console = narrator(json)
    if not sources:
        raise UsageError(f"no text to learn from; for example: llamita tokenizer train book.txt --out {out}")
    check_max_bytes(max_bytes)
    with Stopping(console, same_command()), live_line(console) as line:
        text = read_text(sources, field, max_bytes=max_bytes)
        tokenizer = make_tokenizer(
            text,
            TokenizerConfig(kind=kind, vocab_size=vocab_size),
            lambda doing, done, total: line.show(f"{doing}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", done, total),
        )
        tokenizer.save(out)
    facts = {
        "file": str(out),
        "kind": kind,
        "vocab_size": tokenizer.get_vocab_size(),
        "learned": tokenizer.get_vocab_size() - tokenizer.reserved,
        "reserved": tokenizer.reserved,
        "fingerprint": tokenizer.fingerprint,
    }
    if json:
        print_json(facts)
        return
    console.print(
        f"{out}: {kind}, {facts['vocab_size']} entries, of which {facts['reserved']} are reserved",
        markup=False,
    )


def encode(file: Path, text: str, *, json: bool = False) -> None:
    """Show a text's tokens and ids.

    Parameters
    ----------
    file
        A tokenizer.json, or a run's folder.
    text
        The text to encode.
    json
        Print one JSON object.
    """
    tokenizer = Run.open(file).tokenizer() if os.path.exists(file / "config.toml") else Tokenizer.load(file)
    ids = tokenizer.encode(text)
    tokens, unknown = tokenizer.tokens(ids), tokenizer.unknown(text)
    if json:
        print_json({"ids": ids, "tokens": tokens, "unknown": unknown})
        return
    for number, token in zip(ids, tokens, strict=True):
        out.print(f"{number:>7}  {token!r}", markup=False)
    if unknown:
        out.print(f"not in the vocabulary: {' '.join(unknown)}", markup=False)
