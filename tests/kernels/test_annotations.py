"""What kernels look like, which can be told without Triton."""

import ast
from pathlib import Path

import llamita.kernels

FOLDER = Path(llamita.kernels.__file__).parent


def test_triton_is_given_no_annotation_that_it_does_not_know() -> None:
    """Its compiler refuses any other, and its interpreter doesn't: it would never run, and nobody would know."""
    kernels = [
        one
        for path in sorted(FOLDER.glob("*.py"))
        for one in ast.walk(ast.parse(path.read_text()))
        if isinstance(one, ast.FunctionDef) and "triton.jit" in map(ast.unparse, one.decorator_list)
    ]
    assert len(kernels) >= 6
    for kernel in kernels:
        told = {ast.unparse(one.annotation) for one in kernel.args.args if one.annotation}
        assert told <= {"tl.constexpr"} and kernel.returns is None, kernel.name
