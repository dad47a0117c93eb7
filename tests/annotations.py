"""Arguments and results are checked against their annotations while tests run."""

import jaxtyping
from beartype import BeartypeConf
from beartype.claw import beartype_packages

# With the shapes of tensors by jaxtyping, which takes many times as long, or by beartype alone.
SHAPED = ("generation", "insight", "kernels", "model", "observatory", "training")
PLAIN = ("checks", "cli", "config", "errors", "files", "interop", "layers", "runs", "tasks", "text", "tracking")


def check_annotations() -> None:
    """Have all of llamita checked that is imported from now on."""
    jaxtyping.install_import_hook(
        [f"llamita.{name}" for name in SHAPED], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    )
    conf = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False)
    beartype_packages([f"llamita.{name}" for name in PLAIN], conf=conf)
