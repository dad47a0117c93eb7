"""`llamita export` and `llamita import`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llamita.cli.console import count, narrator, print_json
from llamita.errors import UsageError, command_line
from llamita.interop.gguf_export import GgufType, export_gguf
from llamita.interop.hf_export import DtypeName, export_hf
from llamita.interop.hf_import import import_hf as make_run
from llamita.interop.hub import push as push_folder
from llamita.runs.folder import Run
from llamita.training.plan import count_parameters


def hf(
    run: Path,
    out: Path,
    *,
    checkpoint: str = "best",
    dtype: DtypeName = "fp32",
    license: Annotated[str | None, Parameter(name="--license")] = None,
    push: str | None = None,
    public: Annotated[bool, Parameter(negative="")] = False,
    json: bool = False,
) -> None:
    """Write a run's model as a folder that transformers, vLLM and others load.

    Parameters
    ----------
    run
        The run's folder.
    out
        A folder that isn't there yet.
    checkpoint
        best, latest, initial or a step.
    dtype
        What weights are stored in.
    license
        The model's licence, as the hub spells it (apache-2.0, cc-by-4.0): it depends on the text, too.
    push
        A repository of huggingface.co, OWNER/NAME, to upload the folder to; private unless --public.
    public
        Whether everybody may see what is uploaded.
    json
        Print one JSON object.
    """
    if public and push is None:
        raise UsageError("--public: says who may see what --push uploads; give both")
    console = narrator(json)
    written = export_hf(Run.open(run), out, checkpoint=checkpoint, dtype=dtype, license_name=license)
    console.print(f"{written}: config, weights in {dtype}, tokenizer, generation settings and model card", markup=False)
    address = None
    if push is not None:
        address = push_folder(written, push, private=not public)
        console.print(f"uploaded to {address}", markup=False)
    if json:
        print_json({"folder": str(written), "address": address, "bytes": sum(f.stat().st_size for f in out.iterdir())})


def gguf(
    run: Path,
    out: Path,
    *,
    type: Annotated[GgufType, Parameter(name="--type")] = "f16",
    checkpoint: str = "best",
    license: Annotated[str | None, Parameter(name="--license")] = None,
    json: bool = False,
) -> None:
    """Write a run's model and tokenizer as one file that llama.cpp, Ollama and LM Studio load.

    Parameters
    ----------
    run
        The run's folder.
    out
        A file that isn't there yet, NAME.gguf.
    type
        What matrices are stored in; q8_0 and q4_0 in blocks of 32 values with a scale each.
    checkpoint
        best, latest, initial or a step.
    license
        The model's licence.
    json
        Print one JSON object.
    """
    written = export_gguf(Run.open(run), out, kind=type, checkpoint=checkpoint, license_name=license)
    size = written.stat().st_size
    if json:
        print_json({"file": str(written), "bytes": size, "type": type})
        return
    narrator(False).print(f"{written}: {count(size)}B in {type}; llama-cli -m {written} -p 'Once upon'", markup=False)


def import_hf(folder: Path, target: Path, *, json: bool = False) -> None:
    """Make a run of a model in Hugging Face's format: to generate, ask its vectors, measure and export it.

    Llama 1 to 3.2, TinyLlama, SmolLM, Mistral without a window, dense Qwen3; weights in safetensors.

    Parameters
    ----------
    folder
        What transformers or the hub wrote: config.json, model.safetensors, and tokenizer.json or tokenizer.model.
    target
        The run's folder, which isn't there yet.
    json
        Print one JSON object.
    """
    run = make_run(folder, target)
    config = run.config()
    parameters = sum(count_parameters(config.model).values())
    if json:
        print_json({"run": str(run.path), "parameters": parameters, "vocab_size": config.model.vocab_size})
        return
    narrator(False).print(
        f"{run.path}: {parameters:,} parameters, {config.tokenizer.vocab_size:,} tokens; "
        f"next: {command_line('generate', run.path, 'Once upon')}",
        markup=False,
    )
