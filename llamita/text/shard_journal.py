"""Text on its way into shards, and the journal that tells how far it is: after an interruption that much stands."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from llamita.files import make_folder, remove_asides, sync_folder, write_text
from llamita.text.holdout import Part, Split, byte_length
from llamita.text.shard_writer import Encoder, ShardWriter, UnfitError, remove_shards

INDEX, JOURNAL = "index.json", "journal.json"
_PARTS: tuple[Part, ...] = get_args(Part)


class ShardJournal:
    """Writes documents into the shards of both parts, and with `note` how far it is into a journal.

    terms: all that the result depends on, "shard_tokens", "validation_fraction" and "seed" among it, in values of
    JSON; a journal of other terms is none. Before documents are added, `restore` goes on from the journal, or `begin`
    begins anew.
    """

    def __init__(self, folder: Path, encoder: Encoder, terms: dict[str, Any]) -> None:
        self._folder, self._encoder, self._terms = folder, encoder, terms
        self._writers = self._new_writers()
        self.split = Split("none", 0.0, 0)
        self._noted_bytes = 0
        self.documents = self.text_bytes = 0

    def begin(self, split: Split) -> None:
        """Remove what was prepared before, the index before the shards: an old one must never stand over new ones."""
        self.close()
        make_folder(self._folder)
        for name in (JOURNAL, INDEX):
            (self._folder / name).unlink(missing_ok=True)
        sync_folder(self._folder)
        remove_asides(self._folder, JOURNAL, INDEX)
        for part in _PARTS:
            remove_shards(self._folder / part)
        self._writers, self.split = self._new_writers(), split
        self.documents = self.text_bytes = self._noted_bytes = 0

    def restore(self) -> bool:
        """Go on from where the journal says; False if there is none of these terms, or files don't fit it."""
        try:
            found = json.loads((self._folder / JOURNAL).read_bytes())
            if found["terms"] != self._terms:
                return False
            self.split = Split(found["split"], self._terms["validation_fraction"], self._terms["seed"])
            self.documents, self.text_bytes = found["documents"], found["text_bytes"]
            for part, writer in self._writers.items():
                writer.restore(found["parts"][part])
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError, UnfitError):
            return False
        self._noted_bytes = self.text_bytes
        remove_asides(self._folder, JOURNAL, INDEX)
        return True

    def add(self, texts: Sequence[str]) -> None:
        """Encode the next documents."""
        pieces = [piece for at, text in enumerate(texts, self.documents) for piece in self.split.pieces(at, text)]
        encoded = self._encoder.encode_batch([text for _, text in pieces])
        for (part, text), ids in zip(pieces, encoded, strict=True):
            self._writers[part].add(ids, byte_length(text))
            self.text_bytes += byte_length(text)
        self.documents += len(texts)
        for writer in self._writers.values():
            writer.flush()

    def note(self, every_bytes: int = 0) -> None:
        """Put all that was added on the disk, and then say so; only after so much text, or when a shard is full."""
        writers = self._writers.values()
        if self.text_bytes - self._noted_bytes < every_bytes and not any(writer.has_full_shards for writer in writers):
            return
        for writer in writers:
            writer.sync()
        journal = {
            "terms": self._terms,
            "split": self.split.kind,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "parts": {part: writer.record for part, writer in self._writers.items()},
        }
        write_text(self._folder / JOURNAL, json.dumps(journal, indent=1))
        for writer in writers:
            writer.settle()
        self._noted_bytes = self.text_bytes

    def finish(self) -> dict[str, dict[str, Any]]:
        """End the last shards; what an index says of each part."""
        for writer in self._writers.values():
            writer.finish()
        self.note()
        return {part: self._totals(writer) for part, writer in self._writers.items()}

    def close(self) -> None:
        """Close the files of shards as they are."""
        for writer in self._writers.values():
            writer.close()

    def _new_writers(self) -> dict[Part, ShardWriter]:
        return {part: ShardWriter(self._folder / part, self._encoder, self._terms["shard_tokens"]) for part in _PARTS}

    def _totals(self, writer: ShardWriter) -> dict[str, Any]:
        shards, token_hash = writer.record["shards"], writer.record["token_hash"]
        return {
            "documents": sum(shard["documents"] for shard in shards),
            "tokens": sum(shard["tokens"] for shard in shards),
            "text_bytes": sum(shard["text_bytes"] for shard in shards),
            "token_hash": token_hash,
            "shards": shards,
        }
