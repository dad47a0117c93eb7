"""A run to be damaged; and bad input must not take the machine's memory, either."""

import json
import resource
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from llamita.runs.folder import Run
from llamita.text.shards import write_shards
from llamita.text.sources import find, read
from llamita.training.recovery import Recovery
from tests.fuzz.edits import VOCAB_SIZE
from tests.signed import write_meta
from tests.training.tiny_runs import small_run, trained

_MORE = 6 << 30  # bytes of address space beyond what the process has when a test begins
_TINY = {
    **{"model.n_embd": 16, "tokenizer.vocab_size": VOCAB_SIZE, "training.sample_tokens": 4},
    **{"training.steps": 8, "training.save_every": 4, "training.eval_every": 4},
}


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Have whoever asks for too much memory fail rather than the machine."""
    status = Path("/proc/self/statm")
    if not status.exists():
        yield
        return
    size = int(status.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + _MORE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="session")
def many_parts(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 8 steps with all that a run can have: documents, several shards, and a rewind behind it."""
    folder = tmp_path_factory.mktemp("shared")
    text = folder / "text.jsonl"
    lines = filter(None, tiny_text.read_text(encoding="utf-8").splitlines())
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    run = small_run(folder / "run", text, _TINY)
    config, tokenizer = run.config(), run.tokenizer()
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    held_out = {"validation_fraction": config.data.validation_fraction, "seed": config.training.seed}
    write_shards(read(find([str(text)])), tokenizer, run.data_folder, shard_tokens=600, **held_out)
    trained(run)
    for item in run.checkpoints():
        meta = {**item.meta, "recovery": asdict(Recovery(rewinds=1, furthest=12, returned_to=4))}
        write_meta(item.path, meta)
    run.append_incident({"kind": "rewound", "from_step": 12, "to_step": 4, "streak": 2})
    return run


@pytest.fixture
def places_of(tiny_text: Path, tmp_path: Path) -> dict[str, str]:
    """What the capitals in commands stand for; the run's folder isn't there yet."""
    (tmp_path / "list.txt").write_text("the\na\nand\nin\nher\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text("river\nman\nboat\nwater\nrope\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text(tiny_text.read_text(encoding="utf-8")[:400], encoding="utf-8")
    (tmp_path / "runs").mkdir()
    names = {"TEXT": "text.txt", "LIST": "list.txt", "OTHER": "other.txt", "OUT": "o.vec", "MAP": "o.svg"}
    return {
        **{"RUN": str(tmp_path / "runs" / "it"), "PARENT": str(tmp_path / "runs")},
        **{name: str(tmp_path / file) for name, file in names.items()},
    }
