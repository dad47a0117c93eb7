"""The house stands as it was drawn: what imports what, how fast help comes, how long files are."""

import ast
import importlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

import llamita
from llamita import checks
from llamita.model.embedding import TokenEmbedding
from tests.annotations import PLAIN, SHAPED

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "llamita").rglob("*.py"))
MODULES = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in FILES]
# Importing it runs the command line.
IMPORTABLE = [module for module in MODULES if module != "llamita.__main__"]
LIBRARY = [module for module in IMPORTABLE if not module.startswith("llamita.cli")]

FORBIDDEN_MODULES = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "runpy", "code"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "torch.load", "torch.save", "torch.jit.load", "torch.hub.load"),
    *("torch.package.PackageImporter", "pd.read_pickle", "pandas.read_pickle"),
}
HELP_CPU_SECONDS = 0.4
MAX_LINES = 300

BLOCKER = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)
sys.meta_path.insert(0, Blocker())
for module in {modules!r}:
    importlib.import_module(module)
import llamita
for name in llamita.__all__:
    getattr(llamita, name)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, cwd=ROOT)


@pytest.mark.parametrize("module", IMPORTABLE)
def test_every_module_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__doc__


def test_every_public_name_is_there_and_an_unknown_one_is_not() -> None:
    assert all(getattr(llamita, name) for name in llamita.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = llamita.nonsense


@pytest.mark.parametrize(
    "code",
    [
        "import llamita, llamita.config, llamita.layers",
        "from llamita.cli.app import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from llamita.cli.app import main\ntry: main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_what_needs_no_tensors_does_not_wait_for_torch(code: str) -> None:
    heavy = "[name for name in ('torch', 'numpy', 'matplotlib', 'pyarrow', 'tokenizers') if name in sys.modules]"
    shown = python(f"import sys\n{code}\nsys.exit(str({heavy}) if {heavy} else 0)")
    assert shown.returncode == 0, shown.stderr


def test_help_comes_quickly() -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "llamita", "--help"], stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        if seconds[-1] < HELP_CPU_SECONDS:
            break
    assert min(seconds) < HELP_CPU_SECONDS


def test_the_library_works_without_what_only_the_command_line_needs() -> None:
    shown = python(BLOCKER.format(blocked={"cyclopts", "rich"}, modules=LIBRARY))
    assert shown.returncode == 0, shown.stderr


def test_without_its_parser_the_command_line_says_what_is_missing() -> None:
    shown = python(BLOCKER.format(blocked={"cyclopts"}, modules=["llamita.cli.app"]))
    assert shown.returncode == 1
    assert "cyclopts is not installed" in shown.stderr


def test_every_annotation_is_checked_and_those_of_tensors_with_their_shapes() -> None:
    tops = {file.relative_to(ROOT / "llamita").parts[0].removesuffix(".py") for file in FILES}
    assert tops - {"__init__", "__main__"} == {*SHAPED, *PLAIN}
    shapes = {file.relative_to(ROOT / "llamita").parts[0] for file in FILES if "jaxtyping" in file.read_text("utf-8")}
    assert shapes and shapes <= set(SHAPED)


@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is checked where Triton compiles")
def test_wrong_shapes_and_types_are_noticed() -> None:
    with pytest.raises(TypeCheckError, match="input"):
        TokenEmbedding(4, 2)(torch.zeros(1, 3))
    with pytest.raises(BeartypeCallHintParamViolation, match="holds"):
        checks.require(1, "")  # type: ignore[arg-type]


@pytest.mark.parametrize("file", FILES, ids=MODULES)
def test_a_long_file_gives_its_reason(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    lines, gives_reason = len(text.splitlines()), "Longer than" in text
    assert lines <= MAX_LINES or gives_reason


@pytest.mark.parametrize("file", FILES, ids=MODULES)
def test_no_module_has_a_name_that_says_nothing(file: Path) -> None:
    assert file.stem not in {"utils", "common", "base", "registry", "factory", "helpers", "misc"}


def runs_code_of_files(source: str) -> list[str]:
    """What in a source may run code that is in a file: modules, functions, and arguments that allow it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in FORBIDDEN_CALLS else []
            # The third argument of np.load is allow_pickle.
            found += [called] if called in ("np.load", "numpy.load") and len(node.args) > 2 else []
            allowed = [word for word in node.keywords if word.arg in ("allow_pickle", "weights_only")]
            found += [f"{called}({word.arg})" for word in allowed if ast.unparse(word.value) != "False"]
    return found


@pytest.mark.parametrize("file", FILES, ids=MODULES)
def test_no_module_runs_code_of_files(file: Path) -> None:
    assert not runs_code_of_files(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        *(
            "import pickle",
            "import os, shelve",
            "from pickle import loads",
            "from yaml import load",
            "import dill as d",
        ),
        *("import marshal", "from joblib.numpy_pickle import load", "torch.load(path)", "torch.save(model, path)"),
        *("eval('1')", "exec(text)", "def f():\n    exec(text)", "np.load(path, None, True)", "__import__(name)"),
        *("np.load(path, allow_pickle=True)", "numpy.load(path, allow_pickle=trust)", "torch.jit.load(path)"),
    ],
)
def test_what_runs_code_of_files_is_found(source: str) -> None:
    assert runs_code_of_files(source)


def test_what_runs_no_code_is_left_alone() -> None:
    assert not runs_code_of_files("model.eval()\nnp.load(path, mmap_mode='r')\nnp.load(path, allow_pickle=False)")


def test_the_readme_names_every_folder() -> None:
    folders = {file.parent.relative_to(ROOT / "llamita").parts[0] for file in FILES if file.parent.name != "llamita"}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [folder for folder in sorted(folders) if f"{folder}/" not in text]
