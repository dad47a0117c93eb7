"""What a user writes for a dataset of the hub: hf://datasets/OWNER/NAME@REVISION, then a path, or config and split."""

import os
import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

from llamita.errors import UsageError, UserError
from llamita.text.formats import Source
from llamita.text.hub_files import ask, package, patience

SCHEME: Final = "hf://"
PREFIX: Final = f"{SCHEME}datasets/"
_ADDRESS: Final = re.compile(
    r"(?P<repository>(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<name>\w[\w.-]*))"
    r"(?:@(?P<revision>refs(?:/|%2F)\w+(?:/|%2F)[^/?]+|[^/?]+))?"
    r"(?:/(?P<path>.*?))?"
    r"(?:\?(?P<query>\w+=[^?&]*(?:&\w+=[^?&]*)*))?",
    re.ASCII,
)
_COMMIT: Final = re.compile("[0-9a-f]{40}")
_NAME: Final = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True)
class Address:
    """What of a dataset is asked for: files by a path or a glob, or a config and a split of it."""

    repository: str
    revision: str | None = None
    path: str = ""
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        path = f"/{self.path}" if self.path else ""
        asked = {"config": self.config, "split": self.split}
        query = urlencode({key: value for key, value in asked.items() if value is not None})
        return f"{PREFIX}{self.repository}{revision}{path}" + (f"?{query}" if query else "")


def parse(text: str) -> Address:
    """The parts of an address; UsageError if it is none."""
    found = _ADDRESS.fullmatch(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
    if found is None:
        raise UsageError(f"{text}: give {PREFIX}OWNER/NAME, with @REVISION and /PATH behind it if need be")
    pairs = parse_qsl(found["query"] or "", keep_blank_values=True)
    asked = dict(pairs)
    if len(asked) < len(pairs):
        raise UsageError(f"{text}: config and split can be given once each")
    if unknown := asked.keys() - {"config", "split"}:
        raise UsageError(f"{text}: {', '.join(sorted(unknown))}: only config and split can be asked for")
    path = (found["path"] or "").strip("/")
    if path and asked:
        raise UsageError(f"{text}: a path names files by itself; leave the path out, or {' and '.join(asked)}")
    if "split" in asked and not _NAME.fullmatch(asked["split"]):
        raise UsageError(f"{text}: split {asked['split']!r}: name one split; --data.max-bytes takes a part of it")
    return Address(found["repository"], found["revision"], path, asked.get("config"), asked.get("split"))


def dataset_name(text: str) -> str | None:
    """The name of the dataset that an address or an OWNER/NAME means; None for what names no dataset."""
    found = _ADDRESS.fullmatch(text.removeprefix(PREFIX))
    return found["name"] if found and (text.startswith(PREFIX) or _may_be_id(text)) else None


def pinned(text: str) -> Address | None:
    """What of which dataset is meant, at the commit that its revision is now; None for what names no dataset.

    Takes addresses, and OWNER/NAME where nothing of that name is here. UsageError for an address that is none,
    UserError if the hub doesn't know it.
    """
    is_address = text.startswith(SCHEME)
    if not is_address and not _may_be_id(text):
        return None
    address = parse(text if is_address else PREFIX + text)
    if address.revision and _COMMIT.fullmatch(address.revision):
        return address
    revision = None if address.revision is None else unquote(address.revision)
    try:
        info = ask(
            address.repository,
            str(address),
            lambda: package().HfApi().dataset_info(address.repository, revision=revision, timeout=patience()),
            tries_again=is_address,  # who mistyped a path shouldn't wait
        )
    except UserError as error:
        if is_address:
            raise
        raise UserError(f"{text}: no such file or folder here; as a dataset, {error}") from error
    return replace(address, revision=info.sha)


def _may_be_id(text: str) -> bool:
    """Whether a source is more likely a dataset's id than a path that is mistyped: its folder isn't here either."""
    found = _ADDRESS.fullmatch(text)
    if found is None or found["path"] is not None:
        return False
    return Source.of(found["name"]).is_guess and not os.path.lexists(found["owner"])
