"""The items as lm-evaluation-harness takes them: its YAML files here ask this file, all that its versions can find."""

import importlib
from dataclasses import asdict
from typing import Any

from llamita.tasks.scoring import TASKS


def dataset(task: str, **_: Any) -> dict[str, Any]:
    """The items of a task of ours, as its only split."""
    items = [{**asdict(item), "choices": list(item.choices)} for item in TASKS[task]()]
    return {"test": importlib.import_module("datasets").Dataset.from_list(items)}
