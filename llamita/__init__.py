"""llamita: raw text to a LLaMA-style language model that its owner understands."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamita.config import ModelConfig as ModelConfig
    from llamita.config import RunConfig as RunConfig
    from llamita.generation.engine import generate as generate
    from llamita.insight.vectors import Vectors as Vectors
    from llamita.model.transformer import LLaMaTransformer as LLaMaTransformer
    from llamita.runs.folder import Run as Run
    from llamita.text.tokenizer import Tokenizer as Tokenizer
    from llamita.training.library import train as train

__version__ = "0.1.0"

_HOME = {
    "LLaMaTransformer": "llamita.model.transformer",
    "ModelConfig": "llamita.config",
    "Run": "llamita.runs.folder",
    "RunConfig": "llamita.config",
    "Tokenizer": "llamita.text.tokenizer",
    "Vectors": "llamita.insight.vectors",
    "generate": "llamita.generation.engine",
    "train": "llamita.training.library",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import llamita` doesn't wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'llamita' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
