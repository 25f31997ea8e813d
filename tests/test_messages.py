"""What the library says: arguments by their names, warnings by classes; and what the command makes of it."""

import ast
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import statshift
from statshift._core import errors
from statshift.cli import main
from statshift.cli.flags import in_flags

PACKAGE = Path(statshift.__file__).parent
LIBRARY = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "cli"]
CLASSES = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Warning)}


def calls(path, names):
    """Yield the calls of functions of these names in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", None)) in names:
            yield node


def text_of(node):
    return "".join(
        part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


def test_library_messages_name_arguments_not_flags():
    checked = 0
    for path in LIBRARY:
        for call in calls(path, {"InputError", "warn"}):
            checked += 1
            assert not re.search(r"(?<![\w-])--[a-z]", text_of(call)), f"{path}:{call.lineno}"
    assert checked > 300


def test_every_warning_has_a_class_of_the_librarys_own():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for call in calls(path, {"warn"}):
            if len(call.args) == 1 and not call.keywords:  # a method of that name
                continue
            assert len(call.args) > 1, f"{path}:{call.lineno}"
            found.add(call.args[1].id)
    assert found == CLASSES - {"StatshiftWarning"}
    assert all(issubclass(getattr(errors, name), errors.StatshiftWarning) for name in CLASSES)
    assert issubclass(errors.StatshiftWarning, UserWarning)


def param(name, *opts):
    return SimpleNamespace(name=name, opts=opts)


COMMAND = SimpleNamespace(params=[param("batch_size", "-b", "--batch-size"), param("corrupt_at", "--corrupt-at")])


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("Expected `batch_size` to be 1.", "Expected --batch-size to be 1."),
        ("Give `corrupt_at` as benchmark.", "Give --corrupt-at as benchmark."),
        ("Expected `momentum` in [0,1].", "Expected `momentum` in [0,1]."),
        ("`statshift data frost` gets them.", "`statshift data frost` gets them."),
    ],
)
def test_arguments_become_the_flags_of_the_command(message, wanted):
    assert in_flags(lambda: COMMAND, message) == wanted
    assert in_flags(lambda: None, message) == message


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["statshift", *map(str, words)])
    monkeypatch.setattr("warnings.showwarning", None)
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_says_its_flags(monkeypatch, capsys):
    words = ["measure", "--model", "cifar:resnet20", "--data", "digits", "--out", "nowhere"]
    assert run(monkeypatch, *words, "--batch-size", 0) == 2
    assert "statshift: error: Expected --batch-size to be at least 1, but got 0." in capsys.readouterr().err
    assert run(monkeypatch, *words, "--corrupt-at", "elsewhere") == 2


def test_the_command_notes_imagenets_normalisation_of_ones_own_model(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine.py").write_text("from torch import nn\n\ndef build():\n    return nn.BatchNorm2d(3)\n")
    words = ["layers", "--model", f"py:{tmp_path / 'mine.py'}:build"]
    for given, told in (([], True), (["--mean", "0,0,0", "--std", "1,1,1"], False)):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert run(monkeypatch, *words, *given) == 2
        said = capsys.readouterr().err
        assert ("statshift: warning: Without --mean and --std, py:" in said) is told
        assert "statshift: error: Expected a model that can be cut between two batch norms, but py:" in said
