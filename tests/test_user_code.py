"""A user's own model file: what is wrong in it is told by its own lines, and by no others."""

import pytest

from statshift._core.errors import InputError
from statshift.models import load_model, usercode
from statshift.models.usercode import error_text

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Clean accuracy")]

MINE = """import sys
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

def needs(width, depth=2):
    return build()

def fails():
    raise KeyError("no such thing")

def leaves():
    sys.exit()

def nothing():
    return None

class Wrong(nn.Module):
    def forward(self, images):
        return self.deeper(images)

    def deeper(self, images):
        return images.nothing

class Unfit(nn.Module):
    def forward(self, images):
        return images @ images[:, :, :3]
"""
FILES = {
    "mine.py": MINE,
    "lacking.py": "import no_such_package\n",
    "unread.py": "x = 1\ndef build(:\n    pass\n",
    "leaving.py": "import sys\nsys.exit(0)\n",
    "beside.py": "import helping_out\n",
    "helping_out.py": "1 / 0\n",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def line_of(text):
    return next(number for number, line in enumerate(MINE.splitlines(), start=1) if text in line)


@pytest.mark.parametrize(
    ("target", "headline", "places"),
    [
        ("mine.py:fails", "KeyError: 'no such thing'", [("mine.py", "raise KeyError", "fails")]),
        ("mine.py:leaves", "it ends the process, by SystemExit()", [("mine.py", "sys.exit()", "leaves")]),
        (
            "mine.py:Wrong",
            "AttributeError: 'Tensor' object has no attribute 'nothing'",
            [("mine.py", "self.deeper(images)", "forward"), ("mine.py", "images.nothing", "deeper")],
        ),
        (
            "./mine.py:Unfit",
            "The model fails on images of shape (1, 3, 32, 32): ",
            [("./mine.py", "images @ images", "forward")],
        ),
        ("lacking.py:build", "ModuleNotFoundError: No module named 'no_such_package'", [("lacking.py", 1, "<module>")]),
        ("leaving.py:build", "it ends the process, by SystemExit(0)", [("leaving.py", 2, "<module>")]),
        ("unread.py:build", "SyntaxError: ", [("unread.py", 2, "")]),
        (
            "beside.py:build",
            "ZeroDivisionError: division by zero",
            [("beside.py", 1, "<module>"), ("helping_out.py", 1, "<module>")],
        ),
    ],
)
def test_an_error_is_told_by_the_lines_of_the_users_files_alone(run, here, target, headline, places):
    words = ["--data", "digits", "--limit", 8, "--shifts", "clean", "--device", "cpu", "--out", "run"]
    done = run("measure", "--model", f"py:{target}", *words)
    assert (done.code, done.out) == (1, "")
    first, *rest = done.err[done.err.index("statshift: error") :].splitlines()
    assert first.startswith(f"statshift: error in {places[-1][0]}: {headline}")
    told = [line for line in rest if line.startswith("  File ")]
    expected = [
        f'  File "{name}", line {at if isinstance(at, int) else line_of(at)}{f", in {inside}" if inside else ""}'
        for name, at, inside in places
    ]
    assert told == expected
    assert all(line.startswith("  ") for line in rest)
    assert not any(hidden in done.err for hidden in ("Traceback", "typer", "torch/nn", "statshift_user", "usercode"))


def test_an_error_in_one_s_own_shift_is_told_alike(run, here):
    words = ["--data", "digits", "--limit", 8, "--device", "cpu", "--out", "run"]
    done = run("measure", "--model", "py:mine.py:build", *words, "--shifts", "py:lacking.py:dim")
    assert done.code == 1
    assert "statshift: error in lacking.py: ModuleNotFoundError" in done.err


@pytest.mark.parametrize(
    ("target", "arguments", "told"),
    [
        (
            "needs",
            {},
            "mine.py:needs cannot be called: missing a required argument: 'width'. Its arguments are",
        ),
        ("build", {"width": 2}, r"does not take the model arguments {'width': 2}: got an unexpected keyword argument"),
        ("nothing", {}, "Expected py:.*mine.py:nothing to return a torch.nn.Module, but got None"),
    ],
)
def test_functions_that_give_no_model_are_told_by_their_spec(here, target, arguments, told):
    with pytest.raises(InputError, match=told) as error:
        load_model(f"py:{here / 'mine.py'}:{target}", model_args=arguments)
    assert "statshift_user" not in str(error.value)


def test_an_error_elsewhere_is_not_the_users(here, monkeypatch):
    monkeypatch.setattr(usercode, "NAMED_FILES", {})  # other tests' files may lie beside this one
    load_model(f"py:{here / 'mine.py'}:build")
    for wrong in (ValueError("ours"), SystemExit(3), InputError("ours")):
        with pytest.raises(BaseException, match=r"ours|3") as caught:
            raise wrong
        assert error_text(caught.value) is None
