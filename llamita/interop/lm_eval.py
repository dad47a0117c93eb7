"""Runs as models of lm-evaluation-harness, by the name of llamita.

lm_eval finds no models of other packages by itself, so its command line is begun from here, with all its options:
python -m llamita.interop.lm_eval --model llamita --model_args run=runs/NAME --tasks cloze
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from llamita import tasks
from llamita.config import DeviceName, Precision
from llamita.errors import UsageError, UserError
from llamita.generation.engine import generate
from llamita.generation.likelihood import encode_pair, log_likelihoods, windows
from llamita.generation.sampling import Sampling
from llamita.runs.folder import Run
from llamita.training.hardware import autocast, choose_hardware, scoring_precision

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import model_registry
except ImportError:
    TemplateLM, model_registry = object, None

TASK_FOLDER = Path(tasks.__file__).parent  # for lm_eval's --include_path

_NEW_TOKENS = 256  # lm_eval's own default
_BATCH_SIZE = 32
_ASSUMED_DEVICE = "cuda:0"  # by lm_eval's command line, whatever the machine has
_NAMES_OF_MOST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class LlamitaLM(TemplateLM):
    """A run's model to be asked by lm_eval: log-likelihoods in batches, texts one by one.

    A text begins with BOS where the tokenizer adds it; special tokens' names in a text are text. `precision` is fp32
    on a CPU unless asked for. UserError without lm_eval.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        checkpoint: str | int = "best",
        batch_size: str | int = _BATCH_SIZE,
        max_batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        _require_lm_eval()
        super().__init__()
        if device == _ASSUMED_DEVICE and not torch.cuda.is_available():
            device = "auto"
        if precision not in get_args(Precision):
            raise UserError(f"precision={precision}: give one of {', '.join(get_args(Precision))}")
        kind, _, _ = device.partition(":")
        known: dict[str, DeviceName] = {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}
        if kind not in known:
            raise UserError(f"device={device}: give one of {', '.join(known)}")
        hardware = choose_hardware(known[kind], precision)
        opened = Run.open(run)
        torch.set_num_threads(hardware.threads)
        self._device = torch.device(hardware.device if kind == "auto" else device)
        self._precision = scoring_precision(hardware, precision)
        self._model, self._tokenizer = opened.model(str(checkpoint), str(self._device)), opened.tokenizer()
        self.max_length = self._model.config.max_seq_len
        self.batch_size = _batch_size(batch_size, max_batch_size)

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer from others in caches."""
        return self._tokenizer.fingerprint

    @property
    def eot_token_id(self) -> int:
        """What ends a text: EOS, or the BOS of the next one."""
        ends = (self._tokenizer.eos_id, self._tokenizer.bos_id)
        found = next((number for number in ends if number is not None), None)
        if found is None:
            raise UserError("this tokenizer has neither BOS nor EOS to start from: give a context")
        return found

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        return self.eot_token_id if self._tokenizer.bos_id is None else self._tokenizer.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, behind BOS where the tokenizer adds it, unless that is declined."""
        ids = self._tokenizer.encode(string)
        return ids if add_special_tokens is False else self._tokenizer.opening(ids) + ids

    def tok_decode(self, tokens: Sequence[int], **_: Any) -> str:
        """The text of ids."""
        return self._tokenizer.decode(tokens)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return encode_pair(self._tokenizer, context, continuation)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        found = self._scored([(before, after) for _, before, after in requests])
        for (texts, _before, _after), result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, result)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """The log-probability of whole texts of any length, each token after as many as fit.

        lm_eval's own `hf` model counts a second BOS, too, unless it is given add_bos_token=False.
        """
        texts = [request.args[0] for request in requests]
        each = [list(windows(self._tokenizer.encode(text), self.prefix_token_id, self.max_length)) for text in texts]
        found = iter(self._scored([pair for pairs in each for pair in pairs]))
        totals = [sum(next(found)[0] for _ in pairs) for pairs in each]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Texts that go on from a context until a stop string, the likeliest tokens unless a temperature is given."""
        return [self._continued(*request.args) for request in requests]

    def _continued(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or ()
        sampled = settings.get("do_sample", True)
        limits = (settings.get(name) for name in _NAMES_OF_MOST)
        top_k = settings.get("top_k") or 0
        with autocast(self._device.type, self._precision):
            made = generate(
                self._model,
                self._tokenizer,
                context,
                max_new_tokens=int(next((limit for limit in limits if limit is not None), _NEW_TOKENS)),
                sampling=Sampling(
                    temperature=float(settings.get("temperature", 0.0)) if sampled else 0.0,
                    top_k=top_k if top_k > 0 else None,  # others mean "off" by 0 and -1
                    top_p=settings.get("top_p"),
                    min_p=settings.get("min_p"),
                    repetition_penalty=settings.get("repetition_penalty"),
                ),
                stop=[until] if isinstance(until, str) else [stop for stop in until if stop],
            )
        self.cache_hook.add_partial("generate_until", (context, settings), made[0].text)
        return made[0].text

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        with autocast(self._device.type, self._precision):
            return log_likelihoods(self._model, pairs, batch_size=self.batch_size)


def _batch_size(asked: str | int, most: int | None) -> int:
    """A batch size in numbers; "auto" is no more than the largest one that is allowed."""
    if str(asked).startswith("auto"):
        return min(_BATCH_SIZE, most or _BATCH_SIZE)
    if not str(asked).isdecimal() or int(asked) < 1:
        raise UserError(f"batch_size={asked}: give a number of at least 1, or auto")
    return int(asked)


def _require_lm_eval() -> None:
    if model_registry is None:
        raise UserError("lm-evaluation-harness is not installed: pip install 'llamita[eval]'")


def evaluate_tasks(model: LlamitaLM, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Metrics that lm_eval computes of tasks; a name is one of its own, a YAML file or a folder of such files.

    UserError for a task that isn't there, or that lm_eval can't load or evaluate.
    """
    _require_lm_eval()
    harness, found = importlib.import_module("lm_eval"), [part for name in names for part in _files(name)]
    manager = importlib.import_module("lm_eval.tasks").TaskManager(
        include_path=TASK_FOLDER, include_defaults=any(not part.endswith((".yaml", ".yml")) for part in found)
    )
    try:
        results = harness.simple_evaluate(model=model, tasks=found, task_manager=manager, log_samples=False)["results"]
    except Exception as error:  # of lm_eval, of datasets, or of the network
        told = str(error).strip().splitlines()
        raise UserError(
            f"--tasks {','.join(names)}: lm_eval can't evaluate that ({told[0] if told else type(error).__name__}); "
            "give ours (all of them: --tasks all), a YAML file, or a name that `lm_eval ls tasks` lists"
        ) from error
    return {
        task: {
            name.removesuffix(",none"): figure
            for name, figure in row.items()
            if isinstance(figure, int | float) and name != "sample_len"
        }
        for task, row in results.items()
    }


def _files(name: str) -> list[str]:
    """The YAML files of a folder; a file, or a name, itself."""
    if not Path(name).is_dir():
        return [name]
    found = [str(file) for file in sorted(Path(name).glob("*.yaml"))]
    if not found:
        raise UserError(f"--tasks {name}: no YAML file there that could describe a task of lm_eval")
    return found


def main() -> None:
    """lm_eval's command line, which knows runs and our tasks from here on."""
    asked = {word.partition("=")[0] for word in sys.argv}
    if asked & {"--tasks", "-t"} and "--include_path" not in asked:
        sys.argv += ["--include_path", str(TASK_FOLDER)]
    try:
        _require_lm_eval()
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except UserError as error:
        sys.stderr.write(f"llamita: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)


if model_registry is not None:
    # Registers its own, which it does by itself only where there is none.
    importlib.import_module("lm_eval.models")
    if "llamita" not in model_registry:
        # By its name, since this module may be run as a program and imported, too.
        model_registry.register("llamita", target="llamita.interop.lm_eval:LlamitaLM")

if __name__ == "__main__":
    main()
