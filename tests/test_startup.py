"""What is read before anything is done, such as a help text, comes without torch; so do the names of what ships."""

import ast
import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import statshift
from statshift.hardening import from_scratch, optimisation
from statshift.hardening.choices import ONE_CYCLE, OPTIMIZERS
from statshift.making import extraction
from statshift.making.choices import KINDS
from statshift.shifts.attacks import catalogue
from statshift.shifts.registry import ATTACKS

PACKAGE = Path(statshift.__file__).parent
HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "sklearn", "matplotlib", "transformers", "jinja2", "yaml")
LAZY = sorted(path for path in PACKAGE.rglob("__init__.py") if "lazy(" in path.read_text())
LIGHT = sorted(path for pattern in ("*/registry.py", "*/choices.py") for path in PACKAGE.glob(pattern))

PUBLIC = {
    *("AdaptationOptions", "Adapter", "AdvBN", "AdvProp", "Adversarial", "AutoAttack", "Branches", "COMMON"),
    *("CORRUPTIONS", "ChannelStatistics", "ClassSubset", "Classification", "Comparison", "Corrupted"),
    *("CorruptionOptions", "Cut", "Diagnosis", "ExtractionOptions", "FeatureAttack", "FewImagesWarning", "HOLDOUT"),
    *("HardenOptions", "Hardened", "ImageData", "InputError", "Landscape", "Ligs", "LigsOptions"),
    *("LigsRegularised", "Measurement", "Method", "PixelAT", "PixelAttack", "PixelModel", "Progress", "Protocol"),
    *(
        "RectifiedStream",
        "Rule",
        "Segmentation",
        "Shift",
        "Split",
        "StatshiftWarning",
        "Stream",
        "Task",
        "TrainingOptions",
    ),
    *("advbn_losses", "attack_images", "compare", "corrupt", "diagnose", "exchange_norm", "extract", "find_cuts"),
    *("foolbox_model", "frozen", "harden", "ligs", "load_data", "load_model", "measure", "read_run", "rectified"),
    *("rectify", "run_recipe", "split", "sweep", "train_from_scratch", "write_adversarial", "write_rectified"),
    *("Codec", "DecoderOptions", "Visualisation", "adain_codec", "codec_of", "train_decoder", "visualise"),
    *("write_advbn", "write_report"),
}
"""What users import from statshift: whoever takes one away breaks their code."""


def module_of(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def python(program, *arguments):
    """Run a program in a Python of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )


def test_help_version_and_mistyped_words_come_without_torch():
    program = f"""
import contextlib, io, json, sys
from statshift import cli
verbs = [[name] for verbs in cli.STORY.values() for name, *_ in verbs]
verbs += [["recipes", "copy"], ["data", "frost"], ["make", "advbn"]]
cases = [(["--help"], 0), (["--version"], 0), ([], 0), (["mesure"], 2), (["--hlep"], 2), (["data", "forst"], 2)]
cases += [([*verb, "--help"], 0) for verb in verbs] + [([*verb, "--no-such-option"], 2) for verb in verbs]
for words, code in cases:
    sys.argv = ["statshift", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main()
        except SystemExit as end:
            ended = end.code
    heavy = [name for name in {HEAVY} if name in sys.modules]
    assert (ended, heavy) == (code, []), (words, ended, heavy)
print(len(cases))
"""
    done = python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "50\n", "")


def test_names_of_what_ships_come_without_torch():
    names = [module_of(path) for path in LIGHT]
    assert "statshift.shifts.registry" in names
    done = python(
        f"import statshift, importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_names_are_those_of_the_values():
    assert tuple(catalogue.ATTACKS) == ATTACKS
    assert tuple(extraction.KINDS) == KINDS
    assert tuple(optimisation.OPTIMIZERS) == OPTIMIZERS
    assert {name: getattr(from_scratch.ONE_CYCLE, name) for name in ONE_CYCLE} == ONE_CYCLE


@pytest.mark.parametrize("path", LAZY, ids=module_of)
def test_type_checkers_see_the_names_that_are_there(path):
    """Names under TYPE_CHECKING and those that are imported when they are asked for are one list, from one place."""
    (block,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    typed = {alias.asname: (node.module, alias.name) for node in block.body for alias in node.names}
    module = importlib.import_module(module_of(path))
    (places,) = (ast.literal_eval(node) for node in ast.walk(block) if isinstance(node, ast.Dict))
    assert typed == {one: (place, one) for place, names in places.items() for one in names}
    assert sorted(module.__all__) == sorted(typed)
    assert set(typed) <= set(dir(module))
    for one, (place, _) in typed.items():
        assert getattr(module, one) is getattr(importlib.import_module(place), one)
    assert not {beside.stem for beside in path.parent.iterdir()} & set(typed)  # a module would stand in its place


def test_public_names_stay():
    assert set(statshift.__all__) == PUBLIC
    with pytest.raises(AttributeError, match="module 'statshift' has no attribute 'mesure'"):
        _ = statshift.mesure
    with pytest.raises(ImportError, match="cannot import name 'mesure' from 'statshift'"):
        exec("from statshift import mesure")


INTERRUPTED_AT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started by
module, number, *words = sys.argv[1:]
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Interrupting())
sys.argv = ["statshift", *words]
from statshift.__main__ import main
main()
"""
"""The command, sent a signal as it imports a module."""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("number", [int(signal.SIGINT), int(signal.SIGTERM)])
@pytest.mark.parametrize("module", ["torch", "torch.nn"])
def test_an_interruption_while_torch_is_imported_is_told_in_one_line(module, number, tmp_path):
    words = ["measure", "--model", "cifar:resnet20", "--data", "digits", "--out", str(tmp_path / "run")]
    done = python(INTERRUPTED_AT, module, number, *words)
    told = f"statshift: interrupted; what is finished is kept. To go on: statshift {' '.join(words)}\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", told)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_so_is_one_before_the_command_is_there():
    done = python(INTERRUPTED_AT, "typer", int(signal.SIGINT), "measure")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "statshift: interrupted.\n")
