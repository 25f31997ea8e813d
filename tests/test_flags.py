"""A flag means the same in every command: one type, one text, or a short list of texts that begin alike."""

import re

import pytest
import typer

from statshift.cli import RESUMED, STORY, app

VERBS = [name for verbs in STORY.values() for name, _, _ in verbs]

FLAGS = {
    "--accumulate": "harden",
    "--against": "diagnose, run",
    "--alexnet": "measure",
    "--alpha": "measure, make stylised",
    "--aspect": "harden, train",
    "--at": "harden, decoder, run",
    "--attack": "train, attack",
    "--attack-dtype": "harden, train",
    "--augment": "harden, train",
    "--baseline": "measure",
    "--batch-size": "measure, harden, visualise, train, attack, extract, decoder, make advbn, make stylised, run",
    "--beside": "diagnose",
    "--branch": (
        "measure, diagnose, rectify, layers, harden, visualise, attack, extract, decoder, make advbn, make stylised"
    ),
    "--cache": "measure, train, harden, data clean",
    "--cache-size": "harden, measure, train",
    "--class-map": "measure, harden, visualise, attack, extract, corrupt, decoder, make advbn, make stylised",
    "--clean-data": "measure",
    "--colour": "harden, train",
    "--compile": "measure, harden, train",
    "--corrupt-at": "measure",
    "--corruption": "train",
    "--crop": (
        "measure, diagnose, rectify, harden, visualise, attack, extract, corrupt, decoder, make advbn, make stylised"
    ),
    "--data": (
        "measure, diagnose, rectify, harden, train, attack, extract, corrupt, decoder, make advbn, make stylised, run"
    ),
    "--decay-epochs": "train",
    "--decoder": "measure, visualise, make advbn, make stylised",
    "--depth": "decoder",
    "--device": (
        "measure, diagnose, rectify, harden, visualise, train, attack, extract, corrupt, decoder, make advbn, "
        "make stylised, run"
    ),
    "--draws": "measure, run",
    "--dtype": "measure, harden, train, decoder, run",
    "--dry-run": "measure",
    "--encoder": "measure, visualise, make advbn, make stylised",
    "--epochs": "harden, train, decoder, run",
    "--epsilon": "harden, visualise, attack, extract, make advbn",
    "--examples": "measure",
    "--fast": "measure",
    "--file": "run",
    "--form": "harden",
    "--format": "report",
    "--frost": "measure, corrupt",
    "--full-argmax": "measure",
    "--gamma": "harden",
    "--groups": "measure",
    "--ignore-index": "measure, harden, train, attack",
    "--image": "corrupt",
    "--images": "visualise",
    "--include-adaptation": "measure",
    "--interpolation": (
        "measure, diagnose, rectify, harden, visualise, attack, extract, corrupt, decoder, make advbn, make stylised"
    ),
    "--json": (
        "measure, diagnose, rectify, layers, harden, compare, visualise, train, attack, extract, corrupt, "
        "decoder, make advbn, make stylised, recipes, run, data frost, data clean, doctor"
    ),
    "--keep-best": "harden, train",
    "--kind": "extract",
    "--label-map": "measure, harden, train, attack",
    "--labels": "run",
    "--landscape": "train",
    "--layout": "corrupt",
    "--learning-rate": "harden, train, decoder, run",
    "--ligs": "measure, train",
    "--ligs-weight": "train",
    "--limit": "measure, harden, visualise, train, attack, extract, corrupt, decoder, make advbn, make stylised, run",
    "--loss": "visualise, decoder, make advbn",
    "--mean": (
        "measure, diagnose, rectify, layers, harden, visualise, train, attack, extract, decoder, make advbn, "
        "make stylised, run"
    ),
    "--method": "harden, train",
    "--method-args": "harden, train",
    "--model": (
        "measure, diagnose, rectify, layers, harden, visualise, train, attack, extract, decoder, make advbn, "
        "make stylised, run"
    ),
    "--model-args": (
        "measure, diagnose, rectify, layers, harden, visualise, train, attack, extract, decoder, make advbn, "
        "make stylised, run"
    ),
    "--no-channels-last": "harden",
    "--no-clamp": "harden",
    "--no-control": "make advbn",
    "--no-quantise": "measure",
    "--no-random-start": "attack",
    "--norm": "train",
    "--one-cycle": "run",
    "--optimizer": "train",
    "--out": (
        "demo, measure, rectify, harden, report, visualise, train, attack, extract, corrupt, decoder, "
        "make advbn, make stylised, recipes copy, run, data frost"
    ),
    "--overwrite": "recipes copy, rectify",
    "--part": "harden",
    "--patch": "decoder",
    "--perturbation": "harden",
    "--plot": "diagnose",
    "--profile": "measure",
    "--protocol": "rectify",
    "--protocols": "compare",
    "--recompute": "harden",
    "--rectify": "measure",
    "--reencode": "measure",
    "--reset-every": "measure",
    "--resize": (
        "measure, diagnose, rectify, harden, visualise, attack, extract, corrupt, decoder, make advbn, make stylised"
    ),
    "--samples": "measure, diagnose, rectify, run",
    "--scale": "harden, train",
    "--scale-constants": "measure, corrupt",
    "--schedule": "harden, train",
    "--seed": (
        "measure, diagnose, rectify, harden, visualise, train, attack, extract, corrupt, decoder, make advbn, "
        "make stylised, run"
    ),
    "--set": "run",
    "--severities": "measure, harden, train, corrupt, run",
    "--sheet": "corrupt",
    "--shifts": "measure, harden, train, corrupt, run",
    "--shown": "visualise",
    "--size": "layers",
    "--size-multiple": (
        "measure, diagnose, rectify, layers, harden, visualise, train, attack, extract, decoder, make advbn, "
        "make stylised, run"
    ),
    "--skip-bad": (
        "measure, diagnose, rectify, harden, visualise, attack, extract, corrupt, decoder, make advbn, make stylised"
    ),
    "--source": "data frost",
    "--split": (
        "measure, diagnose, rectify, harden, visualise, train, attack, extract, decoder, make advbn, make stylised"
    ),
    "--statistics": "measure, rectify",
    "--std": (
        "measure, diagnose, rectify, layers, harden, visualise, train, attack, extract, decoder, make advbn, "
        "make stylised, run"
    ),
    "--step-size": "harden, visualise, train, attack, extract, make advbn",
    "--steps": "harden, visualise, attack, extract, make advbn",
    "--stream": "measure",
    "--style-size": "measure, make stylised",
    "--styles": "measure, make stylised",
    "--table": "measure, corrupt",
    "--target": "attack",
    "--task": "measure, harden, compare, report, train",
    "--title": "report",
    "--unbiased": "measure, rectify",
    "--validation": "harden, train, decoder, run",
    "--validation-limit": "train",
    "--validation-split": "harden, train",
    "--weight-decay": "harden, train",
    "--weights": (
        "measure, diagnose, rectify, layers, harden, visualise, attack, extract, decoder, make advbn, "
        "make stylised, run"
    ),
    "--weights-branch": "harden",
    "--where": "measure, rectify",
    "--width": "decoder",
    "--window": "harden, train",
    "--workers": "measure, harden, visualise, train, attack, extract, corrupt, decoder, make advbn, make stylised",
}

MEANINGS = {
    "--at": ["Layer after which features "],
    "--attack": ["The attack, as NAME:EPSILON[:STEPS]"],
    "--batch-size": ["Images at once", "Images in a step, over all processes."],
    "--branch": ["Whose norms of --weights with two sets", "Whose weights are the result, "],
    "--cache": ["Folder of decoded images"],
    "--data": ["Images: digits, cifar10, ", "Images as the model now meets them, labels not needed: "],
    "--decoder": ["File that `statshift decoder` wrote"],
    "--encoder": ["pytorch-AdaIN's vgg_normalised.pth, where --decoder is its decoder.pth"],
    "--epsilon": ["Radius, such as 0.25 or 1/255"],
    "--learning-rate": ["The highest learning rate; "],
    "--loss": ["What is lowered: ", "Whose loss rises: "],
    "--method": ["How to train: "],
    "--out": ["Folder ", "File to write", "File or folder to write"],
    "--shifts": ["Shifts, with commas: clean, common (the 15), holdout (the 4), "],
    "--step-size": ["Length of each step, such as 0.1 or 1/255; default "],
    "--split": ["Which part of the data, ", "train or test, of data that have them; default train."],
    "--steps": ["Steps of the ascent; default ", "Steps of the ascent, one number a column"],
    "--task": ["What labels are of"],
    "--validation": ["Images to judge ", "Labelled images to measure on, as in --data."],
}
"""How the texts of a flag begin, where details (what is written, which default) differ between commands."""


def commands(command=None, words=()):
    """Yield (words, command) of every command, groups included, the root not."""
    command = command or typer.main.get_command(app)
    for name, one in getattr(command, "commands", {}).items():
        yield (*words, name), one
        yield from commands(one, (*words, name))


def options():
    """Yield (flag, words, type as the help shows it, text) of every option of every command."""
    for words, command in commands():
        context = command.make_context("statshift", [], resilient_parsing=True)
        for one in command.get_params(context):
            record = one.get_help_record(context)
            if one.param_type_name == "option" and record is not None and one.name != "help":
                shown = record[0].split()
                for flag in (*one.opts, *one.secondary_opts):
                    yield flag, " ".join(words), " ".join(word for word in shown if word[0] == "<"), one.help


OPTIONS = list(options())


def test_every_flag_is_in_the_table():
    """Whoever adds a flag, or takes one to another command, says so here."""
    found = {}
    for flag, verb, _, _ in OPTIONS:
        found.setdefault(flag, []).append(verb)
    told = {flag: verbs.split(", ") for flag, verbs in FLAGS.items()}
    assert {flag: sorted(verbs) for flag, verbs in found.items()} == {f: sorted(v) for f, v in told.items()}


@pytest.mark.parametrize("flag", sorted({flag for flag, *_ in OPTIONS}))
def test_a_flag_means_the_same_everywhere(flag):
    types = {kind for name, _, kind, _ in OPTIONS if name == flag}
    texts = {text for name, _, _, text in OPTIONS if name == flag}
    assert len(types) == 1
    if flag not in MEANINGS:
        assert len(texts) == 1, texts
        return
    beginnings = {text: [one for one in MEANINGS[flag] if text.startswith(one)] for text in texts}
    assert len(texts) > 1
    assert all(len(found) == 1 for found in beginnings.values()), beginnings
    assert {found[0] for found in beginnings.values()} == set(MEANINGS[flag])


def test_there_are_no_short_flags_but_that_of_the_help():
    assert [flag for flag, *_ in OPTIONS if not flag.startswith("--")] == []


@pytest.mark.parametrize("words", [" ".join(words) for words, _ in commands()])
def test_every_command_shows_an_example_of_itself(run, words):
    done = run(*words.split(), "--help")
    assert done.code == 0
    assert re.search(rf"Example: +statshift {words}\b", " ".join(done.out.split()))


def test_the_help_is_a_story_on_one_screen(run):
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) <= 24 - 1  # and the prompt
    assert max(map(len, lines)) <= 80
    told = [line[11:].split()[0] for line in lines if line.startswith("  ")]
    assert told == VERBS
    at = {verb: told.index(verb) for verb in told}
    assert at["measure"] < at["diagnose"] < at["rectify"] < at["harden"] < at["compare"] < at["report"]
    assert (
        at["compare"]
        < at["train"]
        < at["attack"]
        < at["extract"]
        < at["corrupt"]
        < at["recipes"]
        < at["run"]
        < at["data"]
    )
    assert at["data"] < at["doctor"] == len(told) - 1


def test_every_command_is_in_the_story():
    assert list(typer.main.get_command(app).commands.keys() - VERBS) == []
    assert set(VERBS) >= RESUMED


def test_every_verb_that_prints_a_result_has_json():
    without = {" ".join(words) for words, _ in commands()} - {verb for flag, verb, *_ in OPTIONS if flag == "--json"}
    assert without <= {"data", "demo", "make", "recipes copy", "report"}
