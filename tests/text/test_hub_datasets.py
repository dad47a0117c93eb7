"""Datasets of the hub are documents like any others, as the very code reads them that users run, from a stand-in."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llamita.errors import UsageError, UserError
from llamita.text.hub_address import Address, parse
from llamita.text.sources import ReadReport, Stamp, find, pin, read, read_from, stamp
from tests.text.hub_stand_in import TOKEN, Dataset, Hub, User, naps, running_hub, told

CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: [main/part-*.parquet, main/extra.jsonl]
  - split: test
    path: main/held.jsonl
- config_name: small
  data_dir: little
- config_name: listed
  data_files: main/*.jsonl
---
# A dataset
"""


@pytest.fixture(scope="module")
def shared_hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(shared_hub: Hub) -> Hub:
    """A hub with nothing on it."""
    for kept in (shared_hub.datasets, shared_hub.reads, shared_hub.troubles):
        kept.clear()
    shared_hub.retry_after, shared_hub.unheard = "0", ""
    return shared_hub


@pytest.fixture(scope="module")
def user(shared_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    user = User(HF_ENDPOINT=shared_hub.address, HF_HOME=str(tmp_path_factory.mktemp("home")))
    yield user
    user.leaves()


@dataclass(frozen=True)
class Found:
    """What reading gave."""

    names: list[str]
    texts: list[str]
    stamps: list[Stamp]
    report: ReadReport
    told: list[str]
    naps: list[float]


def reading(paths: Sequence[str], folder: str = ".", **options: Any) -> Found:
    """Read sources, in the process of the user."""
    os.chdir(folder)
    naps.clear()
    report, token = ReadReport(), options.pop("token", None)
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    with told() as lines:
        sources = find(paths, report=report)
        texts = [document.text for document in read(sources, report=report, **options)]
    names = [source.name for source in sources]
    return Found(names, texts, [stamp(source) for source in sources], report, lines, list(naps))


def rows(texts: Sequence[str], **more: Sequence[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": list(texts), **more}), sink, row_group_size=2)
    return bytes(sink.getvalue())


def lines(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def paths_of(found: Found) -> list[str]:
    return [name.partition("@")[2].partition("/")[2] for name in found.names]


def test_every_format_that_local_files_have_is_read_alike_from_the_hub(hub: Hub, user: User, tmp_path: Path) -> None:
    texts = ["Ein Bär, zwei Bären.", "two\nlines", "noise " + os.urandom(9000).hex(), "犬"]
    packed = subprocess.run([shutil.which("zstd") or "zstd", "-q", "-c"], input=lines(texts), capture_output=True)
    files = {
        "a.parquet": rows(texts, other=["x" * 5000] * 4),
        "b.jsonl": lines(texts),
        "c.jsonl.gz": gzip.compress(lines(texts)),
        "d.json.gz": gzip.compress(lines(texts)),
        "e.jsonl.zst": packed.stdout,
        "f.parquet.gz": gzip.compress(rows(texts)),
        "g/h.txt": texts[0].encode(),
        "odd name+é.txt.gz": gzip.compress(texts[1].encode()),
    }
    hub.datasets["some/thing"] = Dataset(files)
    for path, data in files.items():
        found = user.does(reading, [f"hf://datasets/some/thing/{path}"])
        local = tmp_path / path.replace(".json.", ".jsonl.")
        local.parent.mkdir(exist_ok=True)
        local.write_bytes(data)
        assert found.texts == [document.text for document in read(find([str(local)]))]
        assert found.report.file_bytes == len(data)
        assert found.names == [f"hf://datasets/some/thing@{hub.datasets['some/thing'].commit}/{path}"]
    assert max(stop - start for _, start, stop in hub.reads) <= 1 << 12


def test_only_the_columns_and_blocks_that_are_read_are_asked_for(hub: Hub, user: User) -> None:
    data = rows([f"text {number}" for number in range(20)], other=[os.urandom(4000).hex()] * 20)
    wide = rows([f"text {number}" for number in range(20)], other=[os.urandom(4000).hex() for _ in range(20)])
    hub.datasets["some/thing"] = Dataset({"a.parquet": wide, "b.parquet": data})
    assert len(user.does(reading, ["hf://datasets/some/thing/a.parquet"]).texts) == 20
    assert sum(stop - start for _, start, stop in hub.reads) < 0.8 * len(wide)


@pytest.mark.parametrize(
    ("asked", "paths"),
    [
        ("", ["main/part-0.parquet", "main/part-1.parquet", "main/extra.jsonl"]),
        ("?split=test", ["main/held.jsonl"]),
        ("?config=small", ["little/train.jsonl"]),
        ("?config=small&split=validation", ["little/dev.jsonl"]),
        ("?config=listed", ["main/extra.jsonl", "main/held.jsonl"]),
        ("/main/part-?.parquet", ["main/part-0.parquet", "main/part-1.parquet"]),
        ("/main/part-[1-9].*", ["main/part-1.parquet"]),
        ("/**/*.jsonl", ["little/dev.jsonl", "little/train.jsonl", "main/extra.jsonl", "main/held.jsonl"]),
        ("/*/*train*", ["little/train.jsonl"]),
        ("/little", ["little/dev.jsonl", "little/train.jsonl"]),
        ("/little/", ["little/dev.jsonl", "little/train.jsonl"]),
        ("/l*", ["little/dev.jsonl", "little/train.jsonl"]),
        ("@v1/main/extra.jsonl", ["main/extra.jsonl"]),
        ("@refs/convert/parquet/main/extra.jsonl", ["main/extra.jsonl"]),
        ("@refs%2Fconvert%2Fparquet", ["main/part-0.parquet", "main/part-1.parquet", "main/extra.jsonl"]),
    ],
)
def test_an_address_names_files_by_path_by_glob_or_by_config_and_split(
    asked: str, paths: list[str], hub: Hub, user: User
) -> None:
    hub.datasets["some/thing.v2"] = Dataset(
        {
            "README.md": CARD.encode(),
            "main/part-1.parquet": rows(["d"]),
            "main/part-0.parquet": rows(["c"]),
            "main/extra.jsonl": lines(["e"]),
            "main/held.jsonl": lines(["f"]),
            "main/picture.png": b"\x89PNG",
            "little/train.jsonl": lines(["a"]),
            "little/dev.jsonl": lines(["b"]),
            "little/.hidden/train.jsonl": lines(["hidden"]),
            "train.jsonl": lines(["x"]),
        }
        if not asked.startswith("/**")
        else {path: lines(["a"]) for path in (*paths, "a.txt")},
        revisions=("main", "v1", "refs/convert/parquet"),
    )
    assert paths_of(user.does(reading, [f"hf://datasets/some/thing.v2{asked}"])) == paths


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["a.jsonl", "b/c.jsonl"], {"train": ["a.jsonl", "b/c.jsonl"]}),
        (["train.jsonl", "test.jsonl", "extra.jsonl"], {"train": ["train.jsonl"], "test": ["test.jsonl"]}),
        (["en/x-train.00.json.gz", "en/x-validation.00.json.gz"], {"train": ["en/x-train.00.json.gz"]}),
        (
            ["training/1.txt", "valid/1.txt", "more.txt"],
            {"train": ["training/1.txt"], "validation": ["valid/1.txt"]},
        ),
        (
            ["a.txt", "LICENSE.txt", "x/licence.txt", "readme.txt", "Notice.txt", "requirements.txt", "a.md"],
            {None: ["a.txt"]},
        ),
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002-1a2b.parquet", "train-old.txt"],
            {"train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002-1a2b.parquet"]},
        ),
        (["data/test-00000-of-00001.parquet"], {None: ["data/test-00000-of-00001.parquet"]}),
        (["data/my_split-00000-of-00001.parquet", "train.csv"], {"my_split": ["data/my_split-00000-of-00001.parquet"]}),
        (["a.parquet", "b.parquet", "notes.jsonl", "README.md"], {None: ["a.parquet", "b.parquet"]}),
    ],
)
def test_without_configs_in_the_card_the_layout_tells_the_splits(
    files: list[str], splits: dict[str | None, list[str]], hub: Hub, user: User
) -> None:
    content = {".parquet": rows(["a"]), ".jsonl": lines(["a"]), ".gz": gzip.compress(lines(["a"])), ".txt": b"a"}
    hub.datasets["a/b"] = Dataset({path: content.get(os.path.splitext(path)[1], b"-") for path in files})
    for split, paths in splits.items():
        query = f"?split={split}" if split else ""
        assert paths_of(user.does(reading, [f"hf://datasets/a/b{query}"])) == paths


def test_a_name_is_a_dataset_only_where_nothing_of_that_name_is_here(hub: Hub, user: User, tmp_path: Path) -> None:
    hub.datasets["owner/name"] = Dataset({"train.jsonl": lines(["from the hub"])})
    hub.datasets["owner/name.txt"] = Dataset({"train.jsonl": lines(["never"])})
    assert user.does(reading, ["owner/name"], str(tmp_path)).texts == ["from the hub"]
    assert user.does(reading, ["owner/name@main?split=train"], str(tmp_path)).texts == ["from the hub"]
    for missing in ("owner/name.txt", "owner/name/sub"):
        with pytest.raises(UserError, match=f"^{missing}: no such file or folder: check the path$"):
            user.does(reading, [missing], str(tmp_path))
    with pytest.raises(UserError, match="^owner/other: no such file or folder here; as a dataset, .*no such dataset"):
        user.does(reading, ["owner/other"], str(tmp_path))
    (tmp_path / "owner").mkdir()
    with pytest.raises(UserError, match="^owner/name: no such file or folder: check the path$"):
        user.does(reading, ["owner/name"], str(tmp_path))
    (tmp_path / "owner" / "name").write_text("from here")
    assert user.does(reading, ["owner/name"], str(tmp_path)).texts == ["from here"]


def test_a_source_is_told_by_commit_size_and_hash(hub: Hub, user: User) -> None:
    small, large = lines(["a"]), lines(["b" * 300])
    hub.datasets["a/b"] = dataset = Dataset({"1.jsonl": small, "2.jsonl": large})
    one, two = user.does(reading, ["hf://datasets/a/b"]).stamps
    assert (one.path, one.bytes, one.sha256) == (f"hf://datasets/a/b@{dataset.commit}/1.jsonl", len(small), None)
    assert two.sha256 is not None and two.mtime_ns is None
    pinned = user.does(pin, "hf://datasets/a/b?split=train")
    assert pinned == f"hf://datasets/a/b@{dataset.commit}?split=train"
    assert user.does(pin, pinned) == pinned
    dataset.files["3.txt"] = b"new"
    assert user.does(reading, ["hf://datasets/a/b"]).stamps[0].path != one.path
    with pytest.raises(UserError, match="no such revision"):
        user.does(reading, [pinned])


@pytest.mark.parametrize("limit", [1, 9, 10, 19, 20, 25, 30, 31, 60, 1000])
def test_no_more_is_read_than_is_asked_for(limit: int, hub: Hub, user: User) -> None:
    texts = [f"{number:010}" for number in range(6)]
    parts = {f"{number}.jsonl": lines(texts[2 * number : 2 * number + 2]) for number in range(3)}
    hub.datasets["a/b"] = Dataset(parts)
    found = user.does(reading, ["hf://datasets/a/b"], max_bytes=limit)
    assert found.texts == (texts[: limit // 10] or [texts[0][:limit]])
    assert found.report.bytes == sum(map(len, found.texts)) <= limit
    # The document that doesn't fit any more has to be seen.
    needed = min(limit // 20 + 1, 3) if limit % 20 else min(limit // 20, 3)
    assert hub.read_paths() == list(parts)[:needed]


def test_of_a_huge_text_only_the_beginning_is_asked_for(hub: Hub, user: User) -> None:
    hub.datasets["a/b"] = Dataset({"big.txt": "é".encode() * 2_000_000})
    found = user.does(reading, ["hf://datasets/a/b/big.txt"], max_bytes=20_001)
    assert found.texts == ["é" * 10_000]
    assert found.report.replaced == 0
    assert max(stop for _, _, stop in hub.reads) < 1_100_000


def resumed(path: str, numbers: Sequence[int], max_bytes: int | None) -> list[list[str]]:
    sources, counts = find([path]), list[int]()
    list(read(sources, counts=counts, max_bytes=max_bytes))
    found = [read_from(number, sources, counts, field="text", max_bytes=max_bytes) for number in numbers]
    return [[document.text for document in documents] for documents in found]


@pytest.mark.parametrize("limit", [None, 45])
def test_reading_goes_on_from_any_document_without_opening_what_is_over(
    limit: int | None, hub: Hub, user: User
) -> None:
    texts = [f"{number:010}" for number in range(6)]
    hub.datasets["a/b"] = Dataset({f"{at}.jsonl": lines(texts[2 * at : 2 * at + 2]) for at in range(3)})
    expected = texts if limit is None else texts[:4]
    for number, found in enumerate(user.does(resumed, "hf://datasets/a/b", range(7), limit)):
        assert found == expected[number:]
    hub.reads.clear()
    user.does(resumed, "hf://datasets/a/b", [5], None)
    assert hub.read_paths() == ["0.jsonl", "1.jsonl", "2.jsonl"]  # counting, and the last once more


@pytest.mark.parametrize("trouble", [[503], ["cut"], [429, 500, "cut", 504]])
def test_trouble_that_passes_is_told_once_and_waited_for(trouble: list[int | str | None], hub: Hub, user: User) -> None:
    texts = [os.urandom(3000).hex() for _ in range(4)]
    hub.datasets["a/b"] = Dataset({"a.jsonl": lines(texts)})
    hub.troubles += [None, *trouble]
    found = user.does(reading, ["hf://datasets/a/b/a.jsonl"])
    assert found.texts == texts
    assert found.naps == [0.5, 1.0, 2.0, 4.0][: len(trouble)]
    assert len(found.told) == 1 and found.told[0].endswith("; trying again in 0.5 s")
    assert found.told[0].startswith("hf://datasets/a/b@")


@pytest.mark.parametrize(
    ("asked", "slept", "told"),
    [
        ("7", [7.0, 7.0], ["7 s", "7 s"]),
        ("0.8", [0.8, 1.0], ["0.8 s"]),
        ("9999", [300.0, 300.0], ["300 s", "300 s"]),
        ("Fri, 1 Jan 2100 00:00:00 GMT", [0.5, 1.0], ["0.5 s"]),
    ],
)
def test_a_hub_that_asks_for_time_gets_it_and_the_seconds_are_told(
    asked: str, slept: list[float], told: list[str], hub: Hub, user: User
) -> None:
    hub.datasets["a/b"] = Dataset({"a.txt": b"text"})
    hub.retry_after = asked
    hub.troubles += [429, 503]
    found = user.does(reading, ["hf://datasets/a/b/a.txt"])
    assert found.texts == ["text"] and found.naps == slept
    assert [line.rpartition("; trying again in ")[2] for line in found.told] == told


def hurried(paths: Sequence[str]) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
        return reading(paths)


@pytest.mark.parametrize("unheard", ["/api/datasets/a/b", "/api/datasets/a/b/tree", "/datasets/a/b/resolve"])
def test_what_the_hub_does_not_hear_is_asked_again(unheard: str, hub: Hub, user: User) -> None:
    hub.datasets["a/b"] = Dataset({"a.txt": b"text"})
    hub.unheard = unheard
    found = user.does(hurried, ["hf://datasets/a/b"])
    assert found.texts == ["text"]
    assert any(line.endswith("timed out; trying again in 0.5 s") for line in found.told)


def test_trouble_that_stays_is_an_error_that_says_how_to_go_on(hub: Hub, user: User) -> None:
    hub.datasets["a/b"] = Dataset({"a.parquet": rows(["x" * 9000, "y"])})
    hub.troubles += [None] + [503] * 5
    with pytest.raises(
        UserError, match=r"a\.parquet: the hub doesn't answer \(.*503.*\): check the network .*try again"
    ):
        user.does(reading, ["hf://datasets/a/b/a.parquet"])
    assert not hub.troubles


def test_gated_and_private_datasets_open_with_a_token(hub: Hub, user: User) -> None:
    hub.datasets["a/gated"] = Dataset({"a.jsonl": lines(["x"])}, gated=True)
    hub.datasets["a/private"] = Dataset({"a.jsonl": lines(["x"])}, private=True)
    with pytest.raises(
        UserError, match=r"gated: accept its terms at http://.*/datasets/a/gated, and log in with `hf auth"
    ):
        user.does(reading, ["hf://datasets/a/gated"])
    with pytest.raises(UserError, match=r"no such dataset, or a private one: .*`hf auth login` or set HF_TOKEN"):
        user.does(reading, ["hf://datasets/a/private"])
    for name in ("gated", "private"):
        assert user.does(reading, [f"hf://datasets/a/{name}"], token=TOKEN).texts == ["x"]


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        ("hf://datasets/a/none", UserError, "no such dataset"),
        ("hf://datasets/a/b@v9", UserError, "no such revision: name a branch, tag or commit"),
        ("hf://datasets/a/b/none/*.txt", UserError, "no such file or folder in the dataset"),
        ("hf://datasets/a/b/none.txt", UserError, "no file there; needed are .txt"),
        ("hf://datasets/a/b/x.csv", UserError, r"x\.csv cannot be|x\.csv.*binary|no text"),
        ("hf://datasets/a/b", UsageError, r"several configs: one, two; choose one: 'hf://datasets/a/b\?config=one'"),
        ("hf://datasets/a/b?config=three", UsageError, "no config 'three'; it has one, two"),
        (
            "hf://datasets/a/b?config=one&split=dev",
            UsageError,
            r"no split 'dev'; it has train, test; choose one: '.*train'",
        ),
        ("hf://datasets/a/c?config=one", UsageError, "no config 'one'; its card has no configs"),
        ("hf://datasets/a/d", UserError, "its card can't be read"),
        ("hf://datasets/a/e", UserError, "its card names its files in no known way"),
        ("hf://datasets/a/f", UserError, r"only \.py there; needed are \.txt"),
        ("hf://datasets/a", UsageError, "give hf://datasets/OWNER/NAME"),
        ("hf://a/b", UsageError, "give hf://datasets/OWNER/NAME"),
        ("hf://datasets/a/b?splits=train", UsageError, "splits: only config and split can be asked for"),
        ("hf://datasets/a/b/x.csv?split=train", UsageError, "a path names files by itself"),
        ("hf://datasets/a/b?split=train[:10%]", UsageError, "name one split; --data.max-bytes takes a part of it"),
        ("hf://datasets/a/..", UsageError, "give hf://datasets/OWNER/NAME"),
    ],
)
def test_what_cannot_be_found_is_told_with_what_there_is(
    asked: str, kind: type[UserError], message: str, hub: Hub, user: User
) -> None:
    several = """---
configs:
- config_name: one
  data_files: [{split: train, path: a.txt}, {split: test, path: b.txt}]
- config_name: two
  data_files: b.txt
---
"""
    hub.datasets["a/b"] = Dataset({"README.md": several.encode(), "x.csv": b"\0\0"})
    hub.datasets["a/c"] = Dataset({"a.txt": b"a"})
    hub.datasets["a/d"] = Dataset({"README.md": b"---\nconfigs: [\n---\n"})
    hub.datasets["a/e"] = Dataset(
        {"README.md": b"---\nconfigs:\n- config_name: x\n  data_files: [{files: a.txt}]\n---\n"}
    )
    hub.datasets["a/f"] = Dataset({"a.py": b"", "README.md": b"# Text\n"})
    with pytest.raises(UserError, match=message) as refused:
        user.does(reading, [asked])
    assert type(refused.value) is kind


TABLES = b"---\nconfigs:\n- config_name: en\n  data_files: [{split: dev, path: '*.csv'}]\n---\n"


@pytest.mark.parametrize(
    ("files", "asked", "message", "place"),
    [
        ({"a.csv": b"a", "b.csv.gz": b"b", "DATA": b""}, "", r"only \.csv, \.csv\.gz, DATA there", "default/train"),
        ({"a.csv": b"a", "README.md": b"# Tables"}, "?split=dev", r"only \.csv there", "default/dev"),
        ({"a.csv": b"a"}, "/*.csv", r"only \.csv there", "default/train"),
        ({"a.csv": b"a", "README.md": TABLES}, "", r"only \.csv there", "en/dev"),
        ({"a.json": b'[\n {"text": "a"}\n]'}, "", r"a\.json:1 is not JSON .*one JSON object;", "default/train"),
        ({"a.json": b'[{"text": "a"}]'}, "", r"a\.json:1 is of type list, not an object:.*;", "default/train"),
    ],
)
def test_of_files_that_are_not_read_the_error_says_where_the_hub_keeps_them_as_parquet(
    files: dict[str, bytes], asked: str, message: str, place: str, hub: Hub, user: User
) -> None:
    hub.datasets["a/b"] = Dataset(files)
    with pytest.raises(UserError, match=f"{message}.*: hf://datasets/a/b@refs/convert/parquet/{place}$") as refused:
        user.does(reading, [f"hf://datasets/a/b{asked}"])
    converted = {f"{place}/0000.parquet": rows(["a"]), "other/train/0000.parquet": rows(["b"])}
    hub.datasets["a/b"] = Dataset(converted, revisions=("refs/convert/parquet",))
    assert user.does(reading, [str(refused.value).rpartition(": ")[2]]).texts == ["a"]


@pytest.mark.parametrize("begin", ["./", "/", ".//./"])
def test_a_cards_paths_may_begin_where_the_dataset_does(begin: str, hub: Hub, user: User) -> None:
    card = CARD.replace("main/", f"{begin}main/").replace("little", f"{begin}little/")
    hub.datasets["a/b"] = Dataset(
        {
            "README.md": card.encode(),
            "main/part-0.parquet": rows(["a"]),
            "main/extra.jsonl": lines(["b"]),
            "little/c.txt": b"c",
        }
    )
    assert card.count(begin) > 4
    assert user.does(reading, ["hf://datasets/a/b"]).texts == ["a", "b"]
    assert user.does(reading, ["hf://datasets/a/b?config=small"]).texts == ["c"]


def test_a_card_that_means_harm_is_an_error_soon(hub: Hub, user: User) -> None:
    layers = [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 30)]
    bomb = "\n".join(["---", "a0: &a0 x", *layers, "configs:", "- config_name: {}", "  data_files: {}", "---", ""])
    for name, files in (("*a29", "a.txt"), ("x", "*a29"), ("x", "[{split: *a29, path: a.txt}]")):
        hub.datasets["a/b"] = Dataset({"README.md": bomb.format(name, files).encode(), "a.txt": b"a"})
        with pytest.raises(UserError, match="its card (can't be read|names its files in no known way)"):
            user.does(reading, ["hf://datasets/a/b"])


@pytest.mark.parametrize("pattern", ["**/" * 16 + "x.txt", "**/*/" * 16 + "x.txt", "**/" * 3000 + "x.txt"])
def test_a_card_full_of_stars_is_read_soon(pattern: str, hub: Hub, user: User) -> None:
    card = f"---\nconfigs:\n- config_name: default\n  data_files: '{pattern}'\n---\n".encode()
    hub.datasets["a/b"] = Dataset({"README.md": card, "d/" * 18 + "a.txt": b"a"})
    began = time.monotonic()
    with pytest.raises(UserError):
        user.does(reading, ["hf://datasets/a/b"])
    assert time.monotonic() - began < 5


def test_a_cards_globs_are_of_files_and_of_none_that_hides(hub: Hub, user: User) -> None:
    card = b"---\nconfigs:\n- config_name: default\n  data_files: 'en/*'\n---\n"
    texts = {"en/a.txt": b"a", "en/.hid.txt": b"h", "en/sub/b.txt": b"b"}
    hub.datasets["a/b"] = Dataset({"README.md": card, **texts})
    assert user.does(reading, ["hf://datasets/a/b"]).texts == ["a"]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'llamita\[hub\]'"):
        find(["hf://datasets/a/b"])


def test_an_address_is_written_as_it_is_read() -> None:
    for text in (
        "hf://datasets/a/b",
        "hf://datasets/a/b@main",
        "hf://datasets/a/b@refs/convert/parquet/default/train/*.parquet",
        "hf://datasets/a/b@v1/data/train-?.parquet",
        "hf://datasets/a/b?config=sample-10BT&split=train",
    ):
        assert str(parse(text)) == text
    assert parse("hf://datasets/a/b@refs/pr/1/x?.txt") == Address("a/b", "refs/pr/1", "x?.txt")


def test_offline_and_unreachable_hubs_are_told(tmp_path: Path) -> None:
    for more, message in (
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, r"the hub doesn't answer \(.*\): check the network and HF_ENDPOINT"),
    ):
        user = User(HF_HOME=str(tmp_path), **more)
        with pytest.raises(UserError, match=message):
            user.does(reading, ["hf://datasets/a/b"])
        user.leaves()
