"""What the tests import when they are collected comes with `pip install '.[test]'`."""

import ast
import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
OWN = {"statshift", *(path.stem for path in TESTS.glob("*.py"))}


@cache
def installed():
    """Return the names of the distributions that the package and its `test` extra name, as packaging spells them."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    return {normal(re.match(r"[\w.-]+", one)[0]) for one in wanted}


@cache
def distributions():
    return importlib.metadata.packages_distributions()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(node):
    """Yield the packages that are imported when a module is, but not those that its functions import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield child.module.partition(".")[0]
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported(child)


def foreign(text):
    """Return the packages that a module imports on its own import and that the test line does not bring."""
    known, bringing = installed(), distributions()
    names = set(imported(ast.parse(text))) - OWN - sys.stdlib_module_names
    return {name for name in names if not known & {normal(one) for one in bringing.get(name, ())}}


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.py")), ids=lambda path: path.name)
def test_no_test_module_needs_what_the_test_line_does_not_bring(path):
    assert foreign(path.read_text()) == set()


def test_what_it_does_not_bring_is_told_from_what_it_does():
    assert foreign("import yaml, os.path\nfrom PIL import Image\nimport statshift.data\nimport conftest") == set()
    assert foreign("def f():\n    import mkdocs\n    from absent import x") == set()
    assert foreign("try:\n    import mkdocs.config\nexcept ImportError:\n    from absent.x import y") == {
        "mkdocs",
        "absent",
    }
