"""Which files of a hub's dataset hold the text that is asked for: by path, by its card, or by its layout."""

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from llamita.errors import UsageError, UserError
from llamita.text.formats import SUPPORTED, Source
from llamita.text.hub_address import Address
from llamita.text.hub_files import HubFile, listed, package, parquet_of

_MAGIC: Final = re.compile(r"[*?\[]")
_SHARD: Final = re.compile(r"(?:.*/)?data/(?P<split>\w[\w.-]*?)-\d{5}-of-\d{5}[^/]*", re.ASCII)
# Words in paths that name a split, as users of `datasets` know them.
_SPLITS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_ENDING: Final = re.compile(r"(?:\.\w+)?\.(?:gz|zst)$|\.\w+$")
_PROSE: Final = re.compile(r"\.md|(?:^|/)(?:licen[sc]e|readme|notice|requirements)\b", re.IGNORECASE)
_CARD: Final = "README.md"
_CARD_BYTES: Final = 1 << 24
_NAMES_TOLD: Final = 12


def sources_of(address: Address) -> tuple[list[Source], int]:
    """The sources that an address with a commit asks for, and how many files of other kinds were met beside them.

    Without a path these are of one config and one split: those asked for, else the default config, or the only one,
    and train, or the only split. A card with `configs` says which files are theirs, else the layout does. UsageError
    lists what there is where that leaves a choice; UserError if nothing that can be read is left.
    """
    assert address.revision is not None
    tree = _Tree(address.repository, address.revision)
    files, address = (tree.matching(address.path), address) if address.path else _of_split(tree, address)
    sources = {file: Source.on_hub(file) for file in files}
    known = [source for file, source in sources.items() if not source.is_guess or file.path == address.path]
    if not known:
        kinds = sorted({found[0] if (found := _ENDING.search(file.path)) else file.path for file in files})
        there = f"only {_told(kinds)} there" if kinds else "no file there"
        raise UserError(
            f"{address}: {there}; needed are {SUPPORTED}, or .json with a document a line: name others by a path, or "
            f"take what the hub may have made of them: {parquet_of(address.repository, address.config, address.split)}"
        )
    return known, len(sources) - len(known)


@dataclass(frozen=True, slots=True)
class _Tree:
    """The files of a dataset at a commit, looked up a folder at a time: there may be a million."""

    repository: str
    commit: str

    def matching(self, pattern: str) -> list[HubFile]:
        """Files whose path fits a glob, and those in folders that do."""
        parts = pattern.split("/")
        literal = next((at for at, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
        above = min(literal, len(parts) - 1)
        is_deep = "**" in parts or above < len(parts) - 1
        files, folders = listed(self.repository, self.commit, "/".join(parts[:above]), recursive=is_deep)
        if not is_deep:
            files += [file for folder in folders if _fits(folder.split("/"), parts) for file in self.below(folder)]
        return [file for file in files if _fits_within(file.path, parts)]

    def named(self, pattern: str) -> list[HubFile]:
        """Files whose whole path fits a glob, without hidden ones unless it asks for them, as cards mean it."""
        parts, is_hidden = pattern.split("/"), "/." in f"/{pattern}"
        whole = [file for file in self.matching(pattern) if _fits(file.path.split("/"), parts)]
        return [file for file in whole if is_hidden or "/." not in f"/{file.path}"]

    def below(self, folder: str) -> list[HubFile]:
        """All files in a folder, without hidden ones."""
        files, _ = listed(self.repository, self.commit, folder, recursive=True)
        return [file for file in files if "/." not in f"/{file.path[len(folder) :]}"]

    def card(self) -> str:
        """The dataset's card; empty if it has none."""
        files, _ = listed(self.repository, self.commit, "", recursive=False)
        for file in files:
            if file.path == _CARD:
                with file.open() as stream:
                    return stream.read(_CARD_BYTES).decode(errors="replace")
        return ""


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern fits all of a path; in a time that grows with both, whatever a stranger's card asks for."""
    reached = _past_stars({0}, pattern)
    for part in path:
        fitting = [at for at in reached if at < len(pattern) and _is(part, pattern[at])]
        reached = _past_stars({at if pattern[at] == "**" else at + 1 for at in fitting}, pattern)
    return len(pattern) in reached


def _is(part: str, pattern: str) -> bool:
    return pattern == "**" or fnmatchcase(part, pattern)


def _past_stars(reached: set[int], pattern: Sequence[str]) -> set[int]:
    """Places in a pattern, and those behind `**`, which stands for no folder, too."""
    found = set(reached)
    for at in range(len(pattern)):
        if at in found and pattern[at] == "**":
            found.add(at + 1)
    return found


def _fits_within(path: str, pattern: Sequence[str]) -> bool:
    parts = path.split("/")
    return any(_fits(parts[:end], pattern) for end in range(len(parts), 0, -1))


def _of_split(tree: _Tree, address: Address) -> tuple[list[HubFile], Address]:
    """The files of the config and split that are asked for, and the address with the names of these."""
    entry = _chosen_config(_configs(tree.card(), address), address)
    address = replace(address, config=entry.get("config_name"))
    folder = _path(entry.get("data_dir", ""))
    if not entry.get("data_files"):
        files = [file for file in tree.below(folder) if not _PROSE.search(file.path)]
        by_split = _by_layout(files) or {address.split or "train": files}
        split = _chosen_split(by_split, address)
        return by_split[split], replace(address, split=split)
    patterns = _patterns(entry["data_files"], address)
    split = _chosen_split(patterns, address)
    files = [file for pattern in patterns[split] for file in tree.named(_path(f"{folder}/{pattern}"))]
    return files, replace(address, split=split)


def _path(told: str) -> str:
    """A path as the hub has it, of one in a card, which may begin with ./ or a slash."""
    return posixpath.normpath(f"/{told}").lstrip("/")


def _configs(card: str, address: Address) -> dict[str, dict[str, Any]]:
    """What a card says of each config."""
    if not card.lstrip("\ufeff \r\n").startswith("---"):
        return {}
    try:
        found = package().DatasetCard(card, ignore_metadata_errors=True).data.get("configs") or []
        named = {_string(entry.get("config_name", "default")): entry for entry in found}
        return {
            name: {**entry, "config_name": name, "data_dir": _string(entry.get("data_dir") or "")}
            for name, entry in named.items()
        }
    except Exception as error:  # of whatever reads YAML there
        reason = " ".join(str(error).split())
        raise UserError(f"{address}: its card can't be read ({reason}): name files by a path") from error


def _chosen_config(configs: Mapping[str, dict[str, Any]], address: Address) -> dict[str, Any]:
    if address.config is not None and address.config not in (configs or {"default"}):
        there = f"it has {_told(configs)}" if configs else "its card has no configs; leave config out, or give a path"
        raise UsageError(f"{address}: no config {address.config!r}; {there}")
    default = [name for name, entry in configs.items() if name == "default" or entry.get("default") is True]
    if len(configs) > 1 and not default and address.config is None:
        example = replace(address, config=next(iter(configs)), revision=None)
        raise UsageError(f"{address}: it has several configs: {_told(configs)}; choose one: '{example}'")
    return configs[address.config or (default or list(configs))[0]] if configs else {}


def _chosen_split(splits: Collection[str], address: Address) -> str:
    wanted = address.split or "train"
    if wanted in splits:
        return wanted
    if address.split is None and len(splits) == 1:
        return next(iter(splits))
    example = replace(address, split=next(iter(splits)), revision=None)
    raise UsageError(f"{address}: no split {wanted!r}; it has {_told(splits)}; choose one: '{example}'")


def _patterns(data_files: Any, address: Address) -> dict[str, list[str]]:
    """The globs of each split, from any of the forms in which cards have them."""
    try:
        if isinstance(data_files, dict):
            return {_string(split): _strings(paths) for split, paths in data_files.items()}
        if isinstance(data_files, list) and isinstance(data_files[0], dict):
            return {_string(part.get("split", "train")): _strings(part["path"]) for part in data_files}
        return {"train": _strings(data_files)}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{address}: its card names its files in no known way: name them by a path") from error


def _strings(value: Any) -> list[str]:
    return [_string(one) for one in (value if isinstance(value, list) else [value])]


def _string(value: Any) -> str:
    """A name or a pattern, which the card may leave unquoted; TypeError for what is none."""
    if not isinstance(value, str | int | float):
        raise TypeError(f"{type(value).__name__} in place of a name")
    return str(value)


def _by_layout(files: Sequence[HubFile]) -> dict[str, list[HubFile]]:
    """Files of the most frequent kind by their splits: data/SPLIT-00000-of-00009.*, else words in their paths.

    All are train where no path names a split.
    """
    kinds = {file: Source.on_hub(file) for file in files}
    counted = Counter(source.format for source in kinds.values() if not source.is_guess)
    if not counted:
        return {}
    ((kind, _),) = counted.most_common(1)
    data = [file for file, source in kinds.items() if source.format == kind and not source.is_guess]
    shards = [(found["split"], file) for file in data if (found := _SHARD.fullmatch(file.path))]
    named = shards or [(split, file) for file in data if (split := _split_of(file.path))]
    by_split: dict[str, list[HubFile]] = {}
    for split, file in named or [("train", file) for file in data]:
        by_split.setdefault(split, []).append(file)
    return by_split


def _split_of(path: str) -> str | None:
    words = re.split(r"[^a-z]+", path.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _told(names: Collection[str]) -> str:
    more = len(names) - _NAMES_TOLD
    return ", ".join(list(names)[:_NAMES_TOLD]) + (f" and {more} more" if more > 0 else "")
