"""The house: every module has its room, and imports from the floors below it only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import statshift

PACKAGE = Path(statshift.__file__).parent

FLOORS = (
    (
        *("ascent", "errors", "files", "folding", "memory", "metrics", "optimisation", "processes", "statistics"),
        *("streams", "uncertainty"),
    ),
    ("corruptions", "data", "layers", "models", "results", "resumption", "synchronisation"),
    ("attacks", "augmentation", "baselines", "cuts", "evidence", "frequencies", "landscape", "parts", "selection"),
    ("shifts", "similarity"),
    ("comparison", "evaluation", "provenance", "rectification", "splitting", "sweeps"),
    ("branches", "diagnosis", "divergence", "looks", "streaming", "writing"),
    ("adapters", "adversaries", "extraction", "objectives", "plots", "protocols"),
    ("adaptation", "batches", "readouts"),
    ("export", "measurement", "training"),
    ("analyses", "hardening"),
    ("scratch", "studies"),
    ("recipes",),
    ("costs", "experiments", "report"),
    ("__init__", "__main__", "cli"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Beside a package's own files, and errors, which all may raise.
SAME_FLOOR = {
    ("__main__", "cli"),
}

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(module):
    return Path(module.parts[0]).stem


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
                yield room if room in FLOOR_OF else "__init__"


def allowed(importer, imported):
    lower = FLOOR_OF[imported] < FLOOR_OF[importer]
    return lower or imported in (importer, "errors") or (importer, imported) in SAME_FLOOR


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_modules_import_from_lower_floors_only(module):
    room = room_of(module)
    assert room in FLOOR_OF, f"{module} has no room: say on which floor it is"
    wrong = [other for other in imported_rooms((PACKAGE / module).read_text()) if not allowed(room, other)]
    assert not wrong


def test_every_room_exists():
    assert {room_of(module) for module in MODULES} == FLOOR_OF.keys()


@pytest.mark.parametrize(
    ("importer", "statement", "fits"),
    [
        ("data", "from statshift.streams import Draws", True),
        ("data", "from statshift.models import load_model", False),
        ("data", "def f():\n    from statshift import measurement", False),
        ("shifts", "from statshift import processes", True),
        ("shifts", "import statshift.cli.output", False),
        ("comparison", "from statshift.measurement import measure", False),
        ("measurement", "from statshift.evaluation import Evaluator", True),
        ("evaluation", "from statshift.measurement import measure", False),
        ("writing", "from statshift import measure", False),
        ("metrics", "from statshift.errors import InputError", True),
        ("metrics", "from statshift.streams import Draws", False),
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
assert state() == before
assert not torch.cuda.is_initialized() and not torch.distributed.is_initialized()
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert not list(tmp_path.iterdir())


def test_public_names_are_there():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    names = [alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert None not in names
    assert {"compare", "corrupt", "load_data", "load_model", "measure", "read_run"} <= set(names)
    assert all(getattr(statshift, name).__doc__ for name in names)
