"""The command `llamita`: names of commands; the code behind each is imported when it's called."""

import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App

from llamita import __version__
from llamita.errors import UsageError, UserError

app = App(
    name="llamita",
    help="Raw text to a LLaMA that you understand: tokens, vectors, decoder blocks, a model that writes.",
    version=__version__,
)
_COMMANDS = {
    "demo": "Train on the built-in corpus and see text become tokens, vectors and stories.",
    "train": "Train a model on your own text, from tokenizer to checkpoints.",
    "resume": "Go on with a run from its newest checkpoint, or an older one.",
    "generate": "Let a run's model go on from a prompt.",
    "eval": "Measure a run's model on any text, and what it answers in tasks.",
    "walkthrough": "Follow a text from tokens through the embedding table into the decoder blocks.",
    "probe": "Measure what a run's vectors know, with every control.",
    "runs": "List runs.",
    "info": "Tell what a run is and how far it came.",
    "preflight": "Put one batch through a model before its first step.",
    "plan": "Parameters, memory and time of a configuration, without building it.",
    "bench": "Train on random tokens for a few seconds: speed, memory, where the time goes.",
    "doctor": "Versions, devices and what this machine can do.",
}
_MODULES = {
    "demo": "demo",
    "train": "train",
    "resume": "resume",
    "generate": "use",
    "eval": "evaluate",
    "walkthrough": "walkthrough",
    "probe": "probe",
    "runs": "show",
    "info": "show",
    "preflight": "preflight",
    "plan": "show",
    "bench": "bench",
    "doctor": "show",
}
for _name, _help in _COMMANDS.items():
    app.command(f"llamita.cli.{_MODULES[_name]}:{_name}", name=_name, help=_help)

_config = App(name="config", help="Show configurations.")
_config.command("llamita.cli.show:config_show", name="show", help="Print every setting and where it comes from.")
app.command(_config)

_tokenizer = App(name="tokenizer", help="Train tokenizers and look at what they do.")
_tokenizer.command("llamita.cli.tokenizer:train", name="train", help="Train a tokenizer on text.")
_tokenizer.command("llamita.cli.tokenizer:encode", name="encode", help="Show a text's tokens and ids.")
app.command(_tokenizer)

_embeddings = App(name="embeddings", help="Ask the vectors of a run: neighbors, analogies, directions.")
for _name, (_function, _help) in {
    "neighbors": ("neighbors", "The tokens whose vectors lie nearest to a word's."),
    "analogy": ("analogy", "What is to C as B is to A."),
    "similarity": ("similarity", "The cosine of two words."),
    "odd-one-out": ("odd_one_out", "The word that doesn't match the others."),
    "direction": ("direction", "A direction from pairs of words or two lists, and what lies along it."),
    "export": ("export", "Write the vectors in word2vec's format."),
    "map": ("draw_map", "Draw vectors before and after training."),
}.items():
    _embeddings.command(f"llamita.cli.embeddings:{_function}", name=_name, help=_help)
app.command(_embeddings)

_export = App(name="export", help="Take a run's model to other software.")
_export.command("llamita.cli.export:hf", name="hf", help="A folder that transformers, vLLM and others load.")
_export.command("llamita.cli.export:gguf", name="gguf", help="One file that llama.cpp, Ollama and LM Studio load.")
app.command(_export)

_import = App(name="import", help="Make a run of somebody else's model.")
_import.command("llamita.cli.export:import_hf", name="hf", help="From a folder that transformers wrote.")
app.command(_import)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line; exit code 2 for usage, 1 for failure, no traceback without --debug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # GNU OpenMP spins at barriers for so long that one other busy program starves training (docs/log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    tokens = [token for token in given if token != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files may hold bytes that are no text, and a terminal may lack a character.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(tokens)
    except BrokenPipeError:
        # The reader of a pipe, `head` say, has left; keep Python from saying so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        if debug:
            raise
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        _explain(error)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _explain(error: Exception) -> None:
    if isinstance(error, UserError):
        sys.stderr.write(f"llamita: {error}\n")
    else:
        sys.stderr.write(f"llamita: {type(error).__name__}: {error}\n(--debug shows where)\n")
