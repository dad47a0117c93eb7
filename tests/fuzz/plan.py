"""How many cases of each kind are tried: some in every run of the tests, many in a slow one."""

import pytest

SOME = {
    **{"config": 50, "jsonl": 40, "parquet": 30, "text": 20, "tokenizer": 40, "checkpoint": 30},
    **{"run": 40, "resume": 60, "place": 20, "command line": 40, "prompt": 25},
}
MANY = {
    **{"config": 2500, "jsonl": 1500, "parquet": 1000, "text": 500, "tokenizer": 1500, "checkpoint": 1500},
    **{"run": 1000, "resume": 1000, "place": 400, "command line": 1000, "prompt": 700},
}
_PARTS = 4  # of the many, so that they can be tried side by side


def rounds(kind: str) -> pytest.MarkDecorator:
    """Parametrize a test with `number` and `seed`: once with some cases, and slowly with many."""
    some = pytest.param(SOME[kind], 0, id="some")
    share = -(-MANY[kind] // _PARTS)
    many = [pytest.param(share, part, marks=pytest.mark.slow, id=f"many-{part}") for part in range(1, _PARTS + 1)]
    return pytest.mark.parametrize(("number", "seed"), [some, *many])
