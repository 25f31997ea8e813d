"""The README tells the truth: its Python runs, its commands parse, and its two first commands are CI's."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import statshift
from statshift.cli import app
from statshift.models import load_model, save_weights

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line.rpartition("&& ")[2]
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if "statshift " in line
]


@pytest.mark.filterwarnings("ignore:No frost photographs", "ignore:Clean accuracy is")
@pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # of drawn weights, not of the demo's
def test_the_python_block_does_what_its_comments_say(tmp_path, monkeypatch, capsys):
    (block,) = PYTHON
    monkeypatch.chdir(tmp_path)
    save_weights(load_model("cifar:resnet20").network, "statshift-demo/resnet20.safetensors")
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    model, images, foggy, adapted = (names[name] for name in ("model", "images", "foggy", "adapted"))
    assert capsys.readouterr().out.strip() == statshift.diagnose(model, foggy).sentence
    torch.testing.assert_close(statshift.corrupt(images[5:6], "fog", severity=4, seed=0, indices=[5]), foggy[5:6])
    again = statshift.rectify(model, foggy, "auto")
    assert adapted is not model
    assert torch.equal(adapted(images), again(images))
    similarity = statshift.ligs(adapted, images, names["labels"])
    assert names["similarity"].mean == pytest.approx(similarity.mean)
    source = names["found"].summary["protocols"]["source"]
    rows = [row for row in names["found"].rows if (row["protocol"], row["shift"]) == ("source", "fog")]
    assert source["per_shift"]["fog"]["by_severity"] == [row["correct"] / row["images"] for row in rows]
    assert set(names["found"].summary["protocols"]) == {"source", "auto"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_verbs_and_options_that_exist(command, capsys):
    program, verb, *arguments = shlex.split(command)
    assert program == "statshift"
    app([verb, "--help"], standalone_mode=False)
    text = capsys.readouterr().out
    assert all(argument in text for argument in arguments if argument.startswith("--"))


def test_ci_runs_the_test_command_as_it_stands_before_it_installs_anything_else():
    command = next(text for _, text in BLOCKS if "pytest" in text).strip()
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    first = next(line for line in lines if "pip install" in line)
    assert first.partition("  #")[0] == f"({command})"
