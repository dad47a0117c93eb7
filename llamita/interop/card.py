"""The model card: what a model was trained on, how, and how well it does, from the run's own files."""

import json
import re
from pathlib import Path

from llamita import __version__
from llamita.runs.checkpoint import Checkpoint
from llamita.runs.folder import Run
from llamita.text.hub_address import SCHEME
from llamita.training.plan import count_parameters

IMPORTED = "imported:"  # before the name of a folder, in place of the sources of a text

_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("FOLDER"), AutoModelForCausalLM.from_pretrained("FOLDER")
ids = tokenizer("Once upon", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))
```"""


def model_card(run: Run, checkpoint: str, license_name: str | None) -> str:
    """README.md of an exported run: front matter that the hub reads, then what there is to know."""
    config, found = run.config(), None if checkpoint == "initial" else run.checkpoint(checkpoint)
    model = config.model
    kinds = {kind: number for kind, number in count_parameters(model).items() if number}
    front = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": "[llama, llamita]"}
    if license_name is not None:
        front["license"] = json.dumps(license_name)
    lines = ["---", *(f"{key}: {value}" for key, value in front.items()), "---", "", f"# {_line(run.name)}", ""]
    tied = "tied to the output" if model.tie_embeddings else "not tied to the output"
    imported = [source.removeprefix(IMPORTED) for source in config.data.sources if source.startswith(IMPORTED)]
    whence = f"imported from {_line(imported[0])} with" if imported else "trained from scratch with"
    if run.start is not None and not imported:
        whence = f"trained on from {_line(Path(str(run.start.meta.get('from'))).name)}, whose licence holds, too, with"
    lines += [
        f"A LLaMA-style language model of {sum(kinds.values()):,} parameters, {whence} llamita {__version__}.",
        "",
        _USE,
        "",
        "## Model",
        "",
        f"- {model.n_layers} layers, n_embd {model.n_embd}, {model.n_heads} heads ({model.n_kv_heads} of keys and "
        f"values), feed-forward {model.ffn_dim}, {model.max_seq_len} positions",
        f"- a vocabulary of {model.vocab_size:,} ({config.tokenizer.kind}); the table is {tied}",
        f"- parameters: {', '.join(f'{kind} {number:,}' for kind, number in kinds.items())}",
        "",
        "## Training",
        "",
        *(["Elsewhere; see the model it was imported from."] if imported else _training(run, found)),
        "",
        "## Evaluation",
        "",
    ]
    if found is None or found.val_loss is None:
        lines.append("Not measured.")
    else:
        lines.append(f"- held-out loss: {found.val_loss:.4f} nats a token")
        if found.bits_per_byte is not None:
            lines.append(f"- bits per byte: {found.bits_per_byte:.4f}")
    if model.unpredicted_rows:
        lines += ["", "## Limits", ""]
        lines.append(
            f"The logits of the last {model.unpredicted_rows} ids mean nothing: no text that was trained on has "
            "anything that they follow. generation_config.json suppresses them."
        )
    told = f"`{_line(license_name)}`" if license_name else "not given by who exported it; mind the licences of the text"
    return "\n".join([*lines, "", "## Licence", "", told[0].upper() + told[1:] + ".", ""])


def _training(run: Run, found: Checkpoint | None) -> list[str]:
    config = run.config()
    optimizer = config.optimizer
    return [
        f"- text: {_sources(config.data.sources)}; {config.data.validation_fraction:.0%} held out",
        f"- {0 if found is None else found.step:,} steps of {config.tokens_per_step:,} tokens, "
        f"{0 if found is None else found.tokens:,} in all; {config.training.precision}",
        f"- AdamW, rate {optimizer.lr:g} (tables {optimizer.table_lr_ratio:g} times that), {optimizer.schedule}, "
        f"decay {optimizer.weight_decay:g}",
    ]


def _sources(sources: tuple[str, ...]) -> str:
    """Addresses of datasets, and names of other sources without the folders of whoever trained."""
    names = [source if source.startswith(SCHEME) else source.rstrip("/").rpartition("/")[2] for source in sources]
    return ", ".join(map(_line, names)) or "not noted"


def _line(text: str) -> str:
    """Text as part of one line, which neither ends nor marks anything."""
    return re.sub(r"([\\`*_<>#|\[\]])", r"\\\1", " ".join(text.split()))
