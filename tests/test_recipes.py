"""Recipes: the papers' numbers, figures where they are printed, and runs that go on and are what `measure` says."""

import json
import re
from statistics import fmean

import pytest
import torch

import training_jobs
from statshift import load_data, load_model, measure
from statshift._core.errors import InputError
from statshift.cli.published import result_text
from statshift.hardening.costs import step_costs
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.models import PixelModel, weights_hash
from statshift.recipes import (
    AUTHORS_BRANCH,
    BASE,
    COLUMNS,
    HARDENING,
    RECIPES,
    TrainingRecipe,
    authors_branch,
    recipe,
)
from statshift.recipes.running import run_recipe
from training_jobs import build

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy is"),  # it has hardly been trained
]

SPEC = f"py:{training_jobs.__file__}:build"
TRAINING = TrainingOptions(epochs=1, batch_size=32, learning_rate=0.01)
LABEL = {  # of recipes "position", "augmentation" and "methods", by the name in the papers' tables
    "Base model": BASE,
    r"$l = \text{conv2\_3}$": "conv2_3",
    r"$l = \text{conv3\_4}$": "conv3_4",
    r"$l = \text{conv4\_6}$": "conv4_6",
    "Standard Training": BASE,
    "Adv. Training": "pixel-at",
    "MoEx (w/ Cutmix)": "moex",
    "AdvBN": "advbn",
    "AdvProp": "advprop",
    "Cutmix": "cutmix",
    "AutoAugment*(AA)": "autoaugment",
    "AA + AdvBN": "advbn-autoaugment",
    "SIN": "sin",
    "Fast AA": "fast-autoaugment",
    "Fast AA + AdvBN": "fast-autoaugment-advbn",
    "Augmix": "augmix",
    "AdvProp + AdvBN": "advprop-advbn",
    "Cutmix + AdvBN": "cutmix-advbn",
    "Augmix + AdvBN": "augmix-advbn",
}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits:train", limit=64)


@pytest.fixture(scope="module")
def papers(shared):
    return {
        name: (shared / "papers" / f"advbn-{name}.txt").read_text() for name in ("neurips2021", "iclr2021-submission")
    }


# The papers' numbers


@pytest.mark.parametrize("name", sorted(HARDENING.keys() - {"branches", "cost"}))
def test_every_training_is_the_papers(name):
    chosen = recipe(name)
    assert chosen.name == name
    for label, options in chosen.options.items():
        training = options.training
        assert (training.epochs, training.batch_size, training.learning_rate) == (20, 256, 1e-3)
        assert (training.schedule, training.momentum, training.weight_decay) == ("step", 0.9, 1e-4)
        assert training.gamma == (float(label.removeprefix("gamma=")) if name == "gamma" else 1.0)
        assert options.branch == "clean"
        if options.method.name == "advbn":
            steps = int(label.removeprefix("m=")) if name == "strength" else 6
            assert (options.method.attack.steps, options.method.attack.step_size) == (steps, 0.2)
            assert options.method.attack.bound == pytest.approx(0.2 * steps - 0.1)
            assert options.method.attack.form == (label if name == "additive" else "multiplicative")
            assert options.at == (label if name == "position" else "conv2_3")


def augments(name):
    return {label: (one.method.name, one.at, one.training.augment) for label, one in recipe(name).options.items()}


def test_what_each_recipe_varies():
    assert augments("position") == {at: ("advbn", at, "autoaugment") for at in ("conv2_3", "conv3_4", "conv4_6")}
    assert augments("augmentation") == {
        "advbn": ("advbn", "conv2_3", "standard"),
        "autoaugment": ("standard", "conv2_3", "autoaugment"),
        "advbn-autoaugment": ("advbn", "conv2_3", "autoaugment"),
    }
    for name, labels in (
        ("strength", ["m=1", "m=2", "m=4", "m=6", "m=8"]),
        ("additive", ["multiplicative", "additive"]),
        ("gamma", ["gamma=0.5", "gamma=1", "gamma=1.5", "gamma=2"]),
    ):
        assert augments(name) == dict.fromkeys(labels, ("advbn", "conv2_3", "autoaugment"))
    assert augments("methods") == {
        "standard": ("standard", "conv2_3", "standard"),
        "pixel-at": ("pixel-at", "input", "standard"),
        "moex": ("moex", "conv2_3", "standard"),
        "advbn": ("advbn", "conv2_3", "standard"),
        "advprop": ("advprop", "input", "standard"),
        "cutmix": ("cutmix", "input", "cutmix"),
        "autoaugment": ("standard", "conv2_3", "autoaugment"),
        "advbn-autoaugment": ("advbn", "conv2_3", "autoaugment"),
        "fast-autoaugment": ("standard", "input", "fast-autoaugment"),
        "augmix": ("standard", "input", "augmix"),
        "advprop-advbn": ("advbn", "conv2_3", "standard"),
        "cutmix-advbn": ("advbn", "conv2_3", "standard"),
        "fast-autoaugment-advbn": ("advbn", "conv2_3", "standard"),
        "augmix-advbn": ("advbn", "conv2_3", "standard"),
    }


@pytest.mark.parametrize("name", sorted(HARDENING.keys() - {"branches", "cost"}))
def test_a_users_scale_and_layer_change_nothing_else(name):
    training = TrainingOptions(epochs=2, batch_size=64, seed=3, gamma=1.0)
    theirs, ours = recipe(name), recipe(name, training, ["layer1"])
    if name == "position":
        assert list(ours.options) == ["layer1"]
        return
    assert list(ours.options) == list(theirs.options)
    for label, options in ours.options.items():
        expected = theirs.options[label].describe()
        expected["training"] |= {"epochs": 2, "batch_size": 64, "seed": 3}
        expected["at"] = {"conv2_3": "layer1", "input": "input"}[expected["at"]]
        assert options.describe() == expected


@pytest.mark.parametrize("table", [1, 2])
def test_published_figures_are_those_printed(papers, table):
    text = papers["neurips2021"].partition(f"\nTable {table}: ")[2].partition("\n\n")[2].partition("\n\n")[0]
    columns = list(COLUMNS)[2 - table : 5]  # Table 1 has no column of clean accuracy
    printed = {}
    for line in text.splitlines()[1:]:
        method, *cells = line.split("\t")
        if method in LABEL:
            figures = [round(float(re.sub("<.*?>", "", cell)) / 100, 6) for cell in cells]
            printed[LABEL[method]] = dict(zip(columns, figures, strict=True))
    if table == 2:
        assert len(printed) == 4
        assert dict(recipe("position").published) == printed
    else:
        assert len(printed) == 15
        assert list(recipe("variants").published.items()) == list(printed.items())  # in its order too
        assert list(recipe("variants").networks) == list(printed)
        assert dict(recipe("methods").published) == printed
        assert dict(recipe("sin").published) == {label: printed[label] for label in (BASE, "sin")}
        assert recipe("methods").labels == ("standard", *(one for one in recipe("methods").labels if one in printed))
        assert {*recipe("methods").labels, *recipe("sin").labels, BASE} == {*printed, "standard"}
        assert dict(recipe("augmentation").published) == {
            label: printed[label] for label in (BASE, "advbn", "autoaugment", "advbn-autoaugment")
        }


def test_a_combined_row_begins_with_the_other_methods_weights(digits, tmp_path, monkeypatch):
    def two(training, at):
        both = {"first": HardenOptions("standard", at[0], training), "then": HardenOptions("advbn", at[0], training)}
        return TrainingRecipe("two", "", options=both, begins_with={"then": "first"})

    monkeypatch.setitem(RECIPES, "two", two)
    run_recipe("two", SPEC, digits, tmp_path, validation=digits, training=TRAINING, at=["act1"], shifts=("clean",))
    first, then = (json.loads((tmp_path / label / "record.json").read_bytes()) for label in ("first", "then"))
    assert then["model"]["weights_hash"] == first["weights_hash"]["clean"] != first["model"]["weights_hash"]
    made_by = then["model"]["made_by"]
    assert (made_by["method"], made_by["from"]) == ("standard", first["model"]["weights_hash"])
    assert first["model"]["made_by"] is None


def test_what_our_copies_do_not_print_is_not_given(papers):
    for name in ("strength", "additive", "gamma", "cost"):
        assert set(recipe(name).published.values()) == {None}
    submission = papers["iclr2021-submission"]
    assert "Table 10" in submission
    assert "Table 8" in submission.replace("Table8", "Table 8")
    assert not re.search(r"\t\d+\.\d", submission)  # no table at all


# The authors' choice of branch


def test_the_authors_branch():
    assert {name: authors_branch(name) for name in AUTHORS_BRANCH} == {
        "imagenet": "clean",
        "imagenet-c": "clean",
        "imagenet-instagram": "clean",
        "imagenet-stylized": "adv",
        "imagenet-advbn": "adv",
        "imagenet-reconstructed": "adv",
    }
    with pytest.raises(InputError, match="Unknown data set 'imagenet-sketch'"):
        authors_branch("imagenet-sketch")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gama",), "Did you mean 'gamma'"),
        (("gamma", None, ["layer1", "layer2"]), "one layer for the recipe gamma, but got layer1, layer2"),
        (("gamma", None, []), "Expected a layer for the recipe gamma"),
    ],
)
def test_recipes_that_cannot_be(arguments, told):
    with pytest.raises(InputError, match=told):
        recipe(*arguments)


@pytest.mark.parametrize("name", ["branches", "cost"])
def test_what_writes_nothing_takes_no_folder(name, digits, tmp_path):
    with pytest.raises(InputError, match=f"Expected no `out`.* for the recipe {name}, which writes nothing"):
        run_recipe(name, SPEC, digits, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_writes_nothing_returns_what_it_finds(digits):
    assert run_recipe("branches", None, None, None) == AUTHORS_BRANCH
    found = run_recipe("cost", SPEC, digits, None, training=TRAINING, at=["act1"], device="cpu")
    assert list(found) == ["standard", "moex", "advbn", "pixel-at", "advprop"]
    assert found["standard"]["ratio"] == 1
    assert {one["images"] for one in found.values()} == {32}


# A run


def run_additive(out, digits, **more):
    return run_recipe(
        "additive",
        SPEC,
        digits,
        out,
        validation=digits,
        training=TRAINING,
        at=["act1"],
        shifts=("clean", "brightness", "contrast"),
        severities=(1, 5),
        device="cpu",
        **more,
    )


@pytest.fixture(scope="module")
def done(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, run_additive(out, digits)


def test_a_run_is_what_measure_says_of_the_weights(done, digits):
    out, found = done
    assert {label: list(one) for label, one in found.items()} == {
        BASE: ["clean"],
        "multiplicative": ["clean", "adv"],
        "additive": ["clean", "adv"],
    }
    seen = set()
    for label, by_branch in found.items():
        for branch, figures in by_branch.items():
            weights = None if label == BASE else out / label / f"{branch}.safetensors"
            model = load_model(SPEC, weights=weights)
            expected = measure(
                model, digits, shifts=("clean", "brightness", "contrast"), severities=(1, 5), device="cpu"
            ).rows
            lines = (out / label / f"measured-{branch}" / "rows.jsonl").read_text().splitlines()
            assert [json.loads(line)["correct"] for line in lines] == [row["correct"] for row in expected]
            by_condition = {(row["shift"], row["severity"]): row["correct"] / 64 for row in expected}
            assert figures["conditions"] == list(by_condition)
            assert figures["clean_accuracy"] == by_condition.pop(("clean", 0))
            assert figures["mean_of_shifts"] == pytest.approx(fmean(by_condition.values()))
            assert (figures["mce"], figures["images"]) == (None, 64)
            record = json.loads((out / label / f"measured-{branch}" / "record.json").read_text())
            assert record["model"]["weights_hash"] == weights_hash(model.network)
            seen.add(record["model"]["weights_hash"])
    assert len(seen) == 5
    kinds = [
        json.loads((out / kind / "record.json").read_text())["hardening"]["attack"]["kind"]
        for kind in found
        if kind != BASE
    ]
    assert kinds == ["multiplicative", "additive"]


def test_a_run_goes_on_without_training_or_measuring_again(done, digits):
    out, found = done
    begun = []

    def fail(label):
        begun.append(label)
        return pytest.fail

    assert run_additive(out, digits, training_progress=fail, measuring_progress=fail) == found
    branches = [f"{kind}, {branch}" for kind in ("multiplicative", "additive") for branch in ("clean", "adv")]
    assert begun == ["base, clean", "multiplicative", *branches[:2], "additive", *branches[2:]]


def test_the_text_says_what_ours_are_over_and_what_our_copy_lacks(done):
    lines = result_text(recipe("additive"), done[1]).splitlines()
    assert lines[1] == "Ours are over 64 images under clean; brightness, contrast at severity 1, 5."
    rows = [re.split("  +", line) for line in lines[lines.index("") + 1 :]]
    assert rows[0] == ["label", "branch", "clean", "mean of shifts", "mCE", "published"]
    one = done[1]["additive"]["clean"]
    accuracies = [f"{100 * one[column]:.1f}" for column in ("clean_accuracy", "mean_of_shifts")]
    assert ["additive", "clean", *accuracies, "-", "not in our copy"] in rows
    assert sum(row[-1] == "not in our copy" for row in rows) == 3


def test_the_text_sets_published_figures_beside_ours():
    figures = {"clean_accuracy": 0.5, "mean_of_shifts": 0.25, "mce": 0.8, "images": 1000}
    figures["conditions"] = [("clean", 0), ("fog", 3)]
    found = {"conv2_3": {"clean": figures, "adv": {**figures, "mce": None}}, "layer9": {"clean": figures}}
    lines = result_text(recipe("position"), found).splitlines()
    assert "Ours are over 1,000 images under clean; fog at severity 3." in lines
    assert "Theirs are over all 50,000 images of ImageNet and of its variants: not the same data." in lines
    rows = [re.split("  +", line) for line in lines[lines.index("") + 1 :]]
    heads = ["their clean", "their mCE", "their Instagram", "their Sketch", "their Stylized"]
    assert rows[0] == ["label", "branch", "clean", "mean of shifts", "mCE", *heads]
    assert rows[2:] == [
        ["base", "-", "-", "-", "-", "76.1", "76.7", "67.2", "24.1", "7.4"],
        ["conv2_3", "clean", "50.0", "25.0", "80.0", "76.5", "68.6", "71.1", "30.3", "14.1"],
        ["conv2_3", "adv", "50.0", "25.0", "-"],
        ["layer9", "clean", "50.0", "25.0", "80.0", "-", "-", "-", "-", "-"],
        ["conv3_4", "-", "-", "-", "-", "76.2", "70.0", "70.2", "33.2", "19.5"],
        ["conv4_6", "-", "-", "-", "-", "75.3", "75.0", "68.5", "26.1", "11.0"],
    ]
    methods = result_text(recipe("methods"), {}).splitlines()
    assert not any("their clean" in line for line in methods)  # Table 1 has no such column


# Costs


@pytest.mark.parametrize(
    ("method", "expected"), [("standard", 1), ("moex", 1), ("advbn", 6 + 2), ("pixel-at", 3 + 2), ("advprop", 5 + 2)]
)
def test_a_step_runs_the_suffix_as_often_as_its_method_needs(method, expected, digits):
    counted = []

    def make():
        network = build()
        network.fc.register_forward_hook(lambda *_: counted.append(1))
        return PixelModel(network, num_classes=10)

    def passes(repeats):
        counted.clear()
        options = {method: recipe("cost", TRAINING, ["act1"]).options[method]}
        costs = step_costs(make, digits, options, repeats=repeats, device="cpu", trace=False)
        assert costs[method]["ratio"] == 1
        return len(counted)

    assert passes(3) - passes(2) == expected


def test_costs_are_ratios_to_the_first_method(digits):
    options = recipe("cost", TRAINING, ["act1"]).options
    before = torch.get_rng_state()
    costs = step_costs(SPEC, digits, options, repeats=1, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert list(costs) == ["standard", "moex", "advbn", "pixel-at", "advprop"]
    for one in costs.values():
        assert one["images"] == 32
        assert one["ratio"] == pytest.approx(one["seconds"] / costs["standard"]["seconds"])
        assert one["seconds"] > 0
    with pytest.raises(InputError, match="one method and one repeat, but got 1 and 0"):
        step_costs(SPEC, digits, {"standard": HardenOptions("standard")}, repeats=0)


# Command line


def test_branches_are_printed(run):
    branches = run("run", "branches").out
    for name, branch in AUTHORS_BRANCH.items():
        assert re.search(rf"^{name} +{branch}$", branches, re.MULTILINE)


def test_the_command_runs_a_recipe_and_goes_on(run, tmp_path):
    words = ["run", "position", "--model", SPEC, "--data", "digits:train", "--validation", "digits:test"]
    words += ["--out", tmp_path, "--at", "act1", "--epochs", 1, "--batch-size", 32, "--limit", 64]
    words += ["--shifts", "clean,brightness", "--severities", 3, "--device", "cpu"]
    first = run(*words)
    assert first.code == 0, first.err
    assert "Ours are over 64 images of digits:test under clean; brightness at severity 3." in first.out
    assert re.search(r"^act1 +clean +[\d.]+ +[\d.]+ +- +- ", first.out, re.MULTILINE)
    assert re.search(r"^conv2_3 +- +- +- +- +76\.5 +68\.6 ", first.out, re.MULTILINE)
    assert "1 epoch, 2 steps." in first.err
    record = json.loads((tmp_path / "act1" / "record.json").read_text())
    assert record["hardening"]["training"]["augment"] == "autoaugment"
    again = run(*words)
    assert again.out == first.out
    assert "steps." not in again.err
    assert "passes" not in again.err


def test_the_command_times_steps(run):
    words = ["--model", SPEC, "--data", "digits:train", "--at", "act1", "--batch-size", 16, "--limit", 32]
    told = run("run", "cost", *words, "--device", "cpu")
    assert told.code == 0, told.err
    assert "on 16 images" in told.out
    assert re.search(r"^standard +[\d.]+ +1\.00 +not in our copy$", told.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["positoin"], "Did you mean 'position'?"),
        (["position"], "Expected --data, --validation, --out for the recipe position."),
        (["cost"], "Expected --data for the recipe cost."),
        (["gamma", "--at", "layer1,layer2"], "one layer for the recipe gamma"),
        (["gamma", "--epochs", "0"], "--epochs to be an integer of at least 1"),
    ],
)
def test_bad_input_is_told_in_one_line(run, words, named):
    done = run("run", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("statshift: error: ")
    assert done.err.count("\n") == 1
    assert named in done.err


@pytest.mark.parametrize("width", [80, 110])
def test_help_fits_and_shows_an_example(run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    told = run("run", "--help")
    assert told.code == 0
    assert max(map(len, told.out.splitlines())) <= width
    example = " ".join(re.search(r"Example: (.*?)\n\n", told.out, re.DOTALL)[1].split())
    assert example.startswith("statshift run rectify-imagenet")
    assert set(re.findall(r"--[a-z-]+", example)) <= set(re.findall(r"^ +(--[a-z-]+)", told.out, re.MULTILINE))
