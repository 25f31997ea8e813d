"""The house: every module lies in a room, and imports from its own and lower ones only."""

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import statshift

PACKAGE = Path(statshift.__file__).parent

LEVELS = (
    "_core",
    "metrics",
    "data",
    "models",
    "norms",
    "splitting",
    "decoding",
    "tasks",
    "shifts",
    "results",
    "adapting",
    "measuring",
    "hardening",
    "making",
    "recipes",
    "report",
    "cli",
    "",  # the package's own files: its public names, and `python -m statshift`
)
"""The rooms, which are the package's folders, from the ground up."""

SHARED_NAMES = {
    *("T", "section"),  # a type variable, and what each part of a report is
    *("Array", "Batch", "Condition", "Figure", "KINDS", "Loss", "PARTS", "PERTURBATIONS", "Source", "Step"),
    *("TARGETS", "Table", "USUAL", "alone", "bits", "find", "gaussian_blur", "join", "listed", "measure"),
    *("motion_blur", "option_names", "percent"),
}
"""Names that stand in several modules all the same."""

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(module):
    return module.parts[0] if len(module.parts) > 1 else ""


def imported_rooms(source, package="statshift"):
    """Yield the rooms that a module imports from, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if root == package:
                yield room if room in LEVELS else ""


def allowed(importer, imported):
    return LEVELS.index(imported) < LEVELS.index(importer) or imported == importer


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_modules_import_from_lower_levels_only(module):
    room = room_of(module)
    wrong = [other for other in imported_rooms((PACKAGE / module).read_text()) if not allowed(room, other)]
    assert not wrong


def test_every_folder_is_a_room_and_every_room_a_folder():
    assert {room_of(module) for module in MODULES} == set(LEVELS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def defined_names(source):
    """Return the names that a module gives to things at its top, but for private ones."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_no_two_things_have_one_name():
    """What `choices` and the command's `options` name are things of other modules."""
    places = {}
    for module in MODULES:
        if module.name not in ("__init__.py", "choices.py") and module != Path("cli/options.py"):
            for name in defined_names((PACKAGE / module).read_text()):
                places.setdefault(name, []).append(module)
    assert {name for name, modules in places.items() if len(modules) > 1} == SHARED_NAMES


@pytest.mark.parametrize(
    ("importer", "statement", "fits"),
    [
        ("data", "from statshift._core.randomness import Draws", True),
        ("data", "from statshift.models import load_model", False),
        ("data", "def f():\n    from statshift.measuring import measure", False),
        ("shifts", "from statshift._core import processes", True),
        ("shifts", "import statshift.cli.output", False),
        ("results", "from statshift.measuring.measure import measure", False),
        ("measuring", "from statshift.measuring.evaluate import Evaluator", True),
        ("making", "from statshift import measure", False),
        ("cli", "from statshift import measure", False),
        ("", "from statshift.cli import main", True),
    ],
)
def test_the_rule_tells_right_from_wrong(importer, statement, fits):
    assert all(allowed(importer, room) for room in imported_rooms(statement)) == fits


def test_importing_the_library_is_light_silent_and_without_effect(tmp_path):
    heavy = ("timm", "torchvision.models", "sklearn", "rich", "typer", "matplotlib")
    program = f"""
import logging, os, random, sys, warnings
import numpy, torch
def state():
    return (
        torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist(), dict(os.environ),
        list(warnings.filters), warnings.showwarning, torch.get_num_threads(), torch.get_default_dtype(),
        torch.is_grad_enabled(), logging.root.handlers[:], sys.path[:], os.getcwd(),
    )
before = state()
import statshift
for name in statshift.__all__:
    getattr(statshift, name)
assert state() == before
assert not torch.cuda.is_initialized() and not torch.distributed.is_initialized()
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert not list(tmp_path.iterdir())


def explained(source):
    """Return the names that a module explains: by a docstring of their own, or by a text below an assignment."""
    body = ast.parse(source).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)}
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_public_names_are_explained():
    everywhere = set.union(*(explained((PACKAGE / module).read_text()) for module in MODULES))
    for name in statshift.__all__:
        module = getattr(getattr(statshift, name), "__module__", None)  # a tuple tells none
        assert name in (explained(Path(sys.modules[module].__file__).read_text()) if module else everywhere)


def test_what_is_not_explained_is_told_from_what_is():
    constants = 'A = 1\n"""Text."""\nB: int = 1\n"""Text."""\nC = 1\nD = 2\n"""Text."""\n'
    definitions = '@dataclass\nclass E:\n    one: int\n\ndef f():\n    """Text."""\n\ndef g(): ...\n'
    assert explained(constants + definitions) == {"A", "B", "D", "f"}
