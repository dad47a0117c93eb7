"""What whoever makes a run to harm sees to: that its checksums are right."""

import json
from pathlib import Path
from typing import Any

from llamita.runs.checkpoint import META, meta_text


def write_meta(checkpoint: Path, meta: dict[str, Any]) -> None:
    """Write a checkpoint's meta.json, with a right checksum of its own if it can have one."""
    sums, rest = meta.get("sha256"), {name: value for name, value in meta.items() if name != "sha256"}
    others = {name: value for name, value in sums.items() if name != META} if isinstance(sums, dict) else None
    text = json.dumps(meta) if others is None else meta_text(rest, others)
    (checkpoint / META).write_text(text, encoding="utf-8")
