"""The README tells the truth: its Python runs, its commands parse, and its two first commands are CI's."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import statshift
from statshift.cli import app
from statshift.models import load_model, save_weights
from statshift.statistics import channel_statistics

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


@pytest.mark.parametrize("block", PYTHON)
@pytest.mark.filterwarnings("ignore:No frost photographs", "ignore:Clean accuracy is")
def test_python_blocks_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_weights(load_model("cifar:resnet20").network, "statshift-demo/resnet20.safetensors")
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    if "found" in names:
        accuracies = names["found"].summary["protocols"]["source"]["per_shift"]["fog"]["by_severity"]
        assert capsys.readouterr().out == f"{accuracies}\n"
        assert len(accuracies) == 5
    elif "adapted" in names:
        expected = channel_statistics(names["model"].network.conv1(normalised(names["model"], names["target"])))
        torch.testing.assert_close(names["adapted"].network.bn1.running_mean, expected.mean / 3)  # 32 / (32 + 64)
        with statshift.rectified(names["model"], names["target"]), torch.no_grad():
            torch.testing.assert_close(names["logits"], names["model"](names["target"]))
        assert capsys.readouterr().out.strip() == statshift.diagnose(names["model"], names["target"]).sentence
    elif "hardened" in names:
        losses = names["hardened"].record["history"][-1]["losses"]
        assert capsys.readouterr().out == f"{losses}\n"
        assert losses["adv"] > losses["clean"] > 0
    elif "similarity" in names:
        similarity, images = names["similarity"], names["images"]
        assert capsys.readouterr().out == f"{similarity.mean} {similarity.interval} {similarity.left_out}\n"
        assert similarity.interval[0] < similarity.mean < similarity.interval[1]
        assert float((names["adversarial"] - images).abs().max()) == pytest.approx(4 / 255, abs=1e-6)
    else:
        assert names["foggy"].shape == names["images"].shape


def normalised(model, images):
    return (images - model.mean) / model.std


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_verbs_and_options_that_exist(command, capsys):
    program, verb, *arguments = shlex.split(command)
    assert program == "statshift"
    app([verb, "--help"], standalone_mode=False)
    text = capsys.readouterr().out
    assert all(argument in text for argument in arguments if argument.startswith("--"))


def test_ci_runs_the_test_command():
    commands = next(text for _, text in BLOCKS if "pytest" in text).strip().split(" && ")
    assert all(f"{command}\n" in (ROOT / ".ci" / "run").read_text().replace(" --quiet", "") for command in commands)
