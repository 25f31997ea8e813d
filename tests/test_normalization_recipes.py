"""Recipes that train from random weights: the papers' numbers and figures, and runs that are what they recorded."""

import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import training_jobs
from statshift import load_data, load_model
from statshift._core.errors import InputError
from statshift.cli.published import result_text
from statshift.hardening.from_scratch import FEATURES, IMAGENET, ONE_CYCLE, TARGETS, build
from statshift.hardening.methods.corrupted import Corrupted
from statshift.hardening.methods.standard import Standard
from statshift.hardening.training import TrainingOptions
from statshift.measuring.ligs import LigsOptions, ligs
from statshift.models import weights_hash
from statshift.recipes import NORMALIZATION, Network, recipe
from statshift.recipes import training as experiments
from statshift.recipes.running import run_recipe
from statshift.shifts.attacks import PixelAttack, attack_images
from statshift.shifts.corruptions import corrupt

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy is"),  # it has hardly been trained
]

TINY = f"py:{training_jobs.__file__}:build"
NORMS = ("none", "batch", "instance", "layer", "group")
TABLE_4 = (300, 128, 0.01, (200,), 5e-4)
RESNET50 = (350, 128, 0.1, (150, 250), 5e-4)
TABLE_5 = (150, 128, 0.01, (100,), 5e-4)
PRINTED = {  # Table 8's heads, in order
    "Gaussian Noise": "gaussian_noise",
    "Shot": "shot_noise",
    "Impulse": "impulse_noise",
    "Defocus": "defocus_blur",
    "Glass": "glass_blur",
    "Motion": "motion_blur",
    "Zoom": "zoom_blur",
    "Snow": "snow",
    "Brightness": "brightness",
    "Contrast": "contrast",
    "Pixelate": "pixelate",
    "Jpeg": "jpeg_compression",
}


@pytest.fixture(scope="module")
def paper(shared):
    return (shared / "papers" / "bn-ligs-iclr2021.txt").read_text()


@pytest.fixture(scope="module")
def wacv(shared):
    return (shared / "papers" / "bn-rectification-wacv2021.txt").read_text()


def numbers(training):
    assert (training.optimizer, training.momentum, training.nesterov) == ("sgd", 0.9, False)
    assert training.decay_factor == 0.1
    return (
        training.epochs,
        training.batch_size,
        training.learning_rate,
        training.decay_epochs,
        training.weight_decay,
    )


# The papers' numbers


@pytest.mark.parametrize("name", ["norms", "norms-svhn", "upper-bound", "norms-corruption"])
def test_the_tables_train_by_table_4_and_resnet50_by_its_exception(name):
    for label, options in recipe(name).options.items():
        assert numbers(options.training) == (RESNET50 if "resnet50" in label else TABLE_4)
        assert options.training.schedule == "step"
        assert options.training.augment == ("crop" if name == "norms-svhn" else "standard")
        assert options.at == "input"


@pytest.mark.parametrize("name", ["trend", "regulariser", "shortcut", "fixup"])
def test_the_figures_train_by_table_5(name):
    for label, options in recipe(name).options.items():
        assert numbers(options.training) == TABLE_5
        assert options.method.name == (label.rpartition("-")[2] if name in ("trend", "regulariser") else "standard")
    adversarial = {label: one for label, one in recipe("trend").options.items() if label.endswith("-adversarial")}
    assert len(adversarial) == len(NORMS)
    for one in adversarial.values():
        assert one.method.name == "adversarial"
        assert one.method.attack == PixelAttack(epsilon=0.5, step_size=0.1, steps=7, norm="l2")


@pytest.mark.parametrize(("table", "expected"), [(4, TABLE_4), (5, TABLE_5)])
def test_those_numbers_are_printed(paper, table, expected):
    text = paper.partition(f"\nTable {table}: ")[2]
    rows = re.findall(r"^(Learning rate|Batch size|Epochs|Learning rate decay epochs)\t([\d.]+)$", text, re.MULTILINE)
    found = {}
    for name, value in rows:
        found.setdefault(name, float(value))
    epochs, batch, rate, decays, _ = expected
    assert found == {
        "Learning rate": rate,
        "Batch size": batch,
        "Epochs": epochs,
        "Learning rate decay epochs": decays[0],
    }


def test_what_scratch_has_for_features_and_imagenet_is_table_6_and_appendix_b():
    assert numbers(FEATURES) == (150, 128, 0.01, (50, 100), 5e-4)
    assert numbers(TARGETS) == (150, 128, 0.1, (50, 100), 5e-4)
    assert (FEATURES.augment, TARGETS.augment) == ("standard", "none")
    assert numbers(IMAGENET) == (90, 256, 0.1, (30, 60), 1e-4)


def test_the_landscape_begins_as_table_4_as_far_as_the_figure_goes():
    landscape, whole = recipe("landscape"), recipe("norms").options["vgg16-none"].training
    per_epoch = 50_000 // 128
    for one in landscape.options.values():
        assert (one.training.epochs - 1) * per_epoch < 5000 < (one.training.epochs + 1) * per_epoch
        rates = {one.training.rate(step, per_epoch) for step in range(0, one.training.epochs * per_epoch, 97)}
        assert rates == {whole.rate(0, per_epoch), whole.rate(13 * per_epoch - 1, per_epoch)} == {0.01}
    assert [name for name in NORMALIZATION if recipe(name).walk] == ["shortcut", "fixup", "landscape"]


def test_each_factor_changes_nothing_else():
    chosen = recipe("factors")
    base = chosen.options["baseline"].training
    assert numbers(base) == TABLE_5
    varied = {}
    for label, one in chosen.options.items():
        name, _, value = label.partition("=")
        changed = {key: new for key, new in vars(one.training).items() if new != getattr(base, key)}
        network = chosen.networks[label]
        if name in ("width", "activation"):
            assert {key: str(given) for key, given in network.arguments.items()} in (
                {name: value},
                {name: f"{value}.0"},
            )
            assert not changed
        elif name == "depth":
            assert (network.spec, network.arguments, changed) == (f"cifar:resnet{value}", {}, {})
        elif name == "optimizer":
            assert changed.pop("optimizer") == value
            assert changed in ({}, {"learning_rate": 1e-3})
        elif name != "baseline":
            assert changed == {name: float(value)}
        varied.setdefault(name, []).append(value)
    assert {name: len(values) for name, values in varied.items()} == {
        "baseline": 1,
        "width": 2,
        "activation": 2,
        "depth": 3,
        "weight_decay": 3,
        "learning_rate": 2,
        "optimizer": 2,
    }


def test_what_is_measured():
    assert recipe("norms").data == "cifar10"
    assert recipe("norms-svhn").data == "svhn"
    for name in NORMALIZATION:
        chosen = recipe(name)
        if name in ("upper-bound", "norms-corruption"):
            assert (tuple(chosen.trend), tuple(chosen.ligs)) == ((), ())
        else:
            assert tuple(chosen.trend) == ("clean", "pgd-l2:0.25:10")
            assert set(chosen.shifts.values()) == {("clean", "pgd-l2:0.25")}
            every = ("gaussian", "uniform", "fgsm", "pgd")
            assert tuple(chosen.ligs) == (every if name == "perturbations" else ("gaussian",))
    bound = recipe("upper-bound")
    assert tuple(bound.severities) == (3,)
    for label, one in bound.options.items():
        expected = tuple(PRINTED.values()) if label == "standard" else (label,)
        assert tuple(bound.shifts[label]) == ("clean", *expected)
        assert one.method == (Standard() if label == "standard" else Corrupted(label, 3))


# Figures


def test_the_figures_of_tables_1_and_2_are_those_printed(paper):
    text = paper.partition("\nTable 2: ")[2]
    assert re.search(r"None\s+BN\s+IN\s+LN\s+GN", text)
    rows = [re.findall(r"(\d+\.\d+)/(\d+\.\d+)", line) for line in text.splitlines()]
    svhn11, svhn16, vgg11, vgg16, resnet50 = [row for row in rows if len(row) == 5][:5]
    order = ("none", "batch", "instance", "layer", "group")
    lines = [re.findall(r"\d+\.\d+", line) for line in paper.partition("\nTable 1: ")[2].splitlines()]
    attacked = [[round(float(cell) / 100, 6) for cell in line] for line in lines if len(line) == 5][8:18]
    assert len(attacked) == 10
    columns = ("clean", "pgd-l2:0.25", "pgd-linf:1/255", "cw-l2:0.25", "cw-linf:1/255")
    for name, networks, few in (
        ("norms-svhn", {"vgg11": svhn11, "vgg16": svhn16}, attacked[:4]),
        ("norms", {"vgg11": vgg11, "vgg16": vgg16, "resnet50": resnet50}, attacked[4:]),
    ):
        published = recipe(name).published
        assert published.keys() == recipe(name).options.keys()
        for network, row in networks.items():
            for norm, (clean, robust) in zip(order, row, strict=True):
                figures = published[f"{network}-{norm}"]
                assert figures["clean"] == pytest.approx(float(clean) / 100)
                assert figures["pgd-l2:0.25"] == pytest.approx(float(robust) / 100)
                assert len(figures) == (5 if norm in ("none", "batch") else 2)
        labels = [f"{network}-{norm}" for network in networks for norm in ("none", "batch")]
        for label, figures in zip(labels, few, strict=True):
            assert [published[label][column] for column in columns] == pytest.approx(
                figures, abs=1.1e-4
            )  # 34.01, 34.02


def test_some_figures_by_hand():
    figures = recipe("norms").published
    assert figures["resnet50-layer"] == pytest.approx({"clean": 0.9037, "pgd-l2:0.25": 0.0724})
    assert figures["vgg16-instance"] == pytest.approx({"clean": 0.9073, "pgd-l2:0.25": 0.1344})
    assert figures["vgg11-batch"]["cw-linf:1/255"] == pytest.approx(0.6385)
    assert recipe("norms-svhn").published["vgg16-group"] == pytest.approx({"clean": 0.9621, "pgd-l2:0.25": 0.595})
    for name in ("trend", "regulariser", "factors", "shortcut", "fixup", "landscape"):
        chosen = recipe(name)
        assert dict(chosen.published) == dict.fromkeys(chosen.options)


def test_the_figures_of_tables_8_and_9_are_those_printed(wacv):
    lines = wacv.partition("\nTable 8. ")[2].partition("\n\n")[2].splitlines()
    assert lines[0].split("\t")[1:] == list(PRINTED)
    accuracies = [float(cell) / 100 for cell in lines[1].split("\t")[1:]]
    published = recipe("upper-bound").published
    assert list(published) == list(PRINTED.values())
    assert [published[label]["corrupted"] for label in published] == pytest.approx(accuracies)
    rows = dict(line.split("\t", 1) for line in wacv.partition("\nTable 9. ")[2].splitlines()[3:7] if "\t" in line)
    published = recipe("norms-corruption").published
    for network in ("ResNet-18", "ResNet-50"):
        group, instance = (
            [float(a) / 100, float(b) / 100] for a, b in re.findall(r"([\d.]+)\t([\d.]+)", rows[network])
        )
        for norm, (accuracy, mce) in (("group", group), ("instance", instance)):
            figures = published[f"{network.lower().replace('-', '')}-{norm}"]
            assert figures == pytest.approx({"corrupted": accuracy, "mce": mce})


# Networks

KINDS = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "layer": nn.GroupNorm, "group": nn.GroupNorm}


def groups_of(network):
    return {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)}


@cache
def built(spec, arguments, side):
    """Return a network of no weights, and the shape of its logits."""
    with torch.device("meta"):
        network = load_model(spec, model_args=dict(arguments)).network
        return network, network(torch.empty(2, 3, side, side)).shape


@pytest.mark.parametrize("name", NORMALIZATION)
def test_every_label_builds_its_network(name):
    chosen = recipe(name)
    assert chosen.networks
    assert chosen.networks.keys() == chosen.options.keys()
    for label, one in chosen.networks.items():
        side = 64 if name == "norms-imagenet" else 32
        network, shape = built(one.spec, tuple(one.arguments.items()), side)
        assert shape == (2, 1000 if name == "norms-imagenet" else 10)
        norm = one.arguments.get("norm", "batch")
        plain = "none" if label.endswith("fixup") else "batch"  # where the label names no norm
        assert norm == next((part for part in re.split("[-=]", label) if part in NORMS), plain)
        kinds = {type(module) for module in network.modules() if isinstance(module, tuple(KINDS.values()))}
        assert kinds == ({KINDS[norm]} if norm != "none" else set())
        if norm in ("layer", "group"):
            assert (groups_of(network) == {1}) == (norm == "layer")
        spec = one.spec.partition(":")[2].partition("@")[0]
        assert spec in label or spec == "resnet18" or name in ("factors", "upper-bound")


# A user's numbers


@pytest.mark.parametrize("name", NORMALIZATION)
def test_one_cycle_keeps_what_the_recipe_compares(name):
    theirs, short = recipe(name), recipe(name, one_cycle=True)
    assert list(short.options) == list(theirs.options)
    for label, one in short.options.items():
        expected = replace(ONE_CYCLE, epochs=20 if one.method.name == "adversarial" else 30)
        assert one.training.schedule == "one-cycle"
        assert one.training.epochs == expected.epochs
        other = name in ("norms-svhn", "conflict")
        allowed = {"augment"} if other else set()
        if name == "factors" and "=" in label:
            allowed = {label.partition("=")[0], "learning_rate", "nesterov"}
        changed = {key for key, new in vars(one.training).items() if new != getattr(expected, key)}
        assert changed <= allowed
        assert bool(changed) == (label.startswith(("weight", "learning", "optimizer")) or other)
        assert one.method == theirs.options[label].method


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (35, ("step", (15, 25))),
        (70, ("step", (30, 50))),
        (3, ("step", (1, 2))),
        (2, ("step", (1,))),
        (1, ("constant", None)),
    ],
)
def test_decays_keep_their_place(epochs, expected):
    training = recipe("norms", epochs=epochs, seed=7).options["resnet50-batch"].training
    assert (training.schedule, training.decay_epochs) == expected
    assert (training.epochs, training.seed, training.learning_rate) == (epochs, 7, 0.1)


def test_a_users_options_take_the_papers_place():
    training = TrainingOptions(epochs=2, batch_size=64, schedule="cosine", seed=3)
    for label, one in recipe("factors", training).options.items():
        name, _, value = label.partition("=")
        expected = {"weight_decay": {"weight_decay": value}, "learning_rate": {"learning_rate": value}}.get(name, {})
        if name != "optimizer":
            assert one.training == replace(training, **{key: float(given) for key, given in expected.items()})
    some = recipe("norms", labels=["vgg11-none", "resnet50-group"])
    assert list(some.options) == list(some.published) == ["vgg11-none", "resnet50-group"]


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("norms", {"at": ["layer1"]}, "Expected no layer for the recipe norms"),
        (
            "norms",
            {"labels": ["vgg11-batc"]},
            "Unknown label of the recipe norms 'vgg11-batc'. Did you mean 'vgg11-batch'",
        ),
        ("norms", {"labels": []}, "Expected a label of the recipe norms; choose from: vgg11-none"),
        ("norms", {"training": TrainingOptions(), "one_cycle": True}, "but got both"),
        ("gamma", {"one_cycle": True}, "no one-cycle training for the recipe gamma"),
        ("norms", {"epochs": 0}, "`epochs` to be an integer of at least 1"),
    ],
)
def test_recipes_that_cannot_be(name, more, told):
    with pytest.raises(InputError, match=told):
        recipe(name, **more)


# A run

SMALL = {"width": 0.1}
LEARNS = TrainingOptions(epochs=10, batch_size=10, learning_rate=0.05, schedule="one-cycle", augment="none")


@pytest.fixture(scope="module")
def digits():
    return load_data("digits:train", limit=300), load_data("digits:test", limit=50)


def run_on(digits, chosen, out, **more):
    train, test = digits
    return run_recipe(chosen, None, train, out, validation=test, device="cpu", **more)


@pytest.fixture(scope="module")
def done(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("norms")
    chosen = recipe("norms", LEARNS, labels=["vgg11-none", "vgg11-group"])
    quick = {"vgg11-none": Network(TINY), "vgg11-group": Network(TINY, {"dropout": 0.1})}
    chosen = replace(chosen, networks=quick)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(experiments, "TREND_IMAGES", 20)
        return chosen, out, run_on(digits, chosen, out)


def test_a_run_is_what_its_weights_and_records_say(done, digits):
    _, out, found = done
    assert list(found) == ["vgg11-none", "vgg11-group"]
    images, labels = digits[1].tensors()
    indices = torch.from_numpy(digits[1].indices)
    pgd = PixelAttack(0.25, steps=20, norm="l2", step_size=0.25 / 8)
    for label, by_branch in found.items():
        model = load_model(TINY, weights=out / label / "clean.safetensors")
        attacked = attack_images(model, images, labels, pgd, indices=indices)
        with torch.no_grad():
            clean, robust = (float((model(x).argmax(1) == labels).double().mean()) for x in (images, attacked))
        assert robust + 0.05 < clean > 0.4
        (figures,) = by_branch.values()
        assert figures["clean_accuracy"] == clean
        assert figures["shifts"] == {"pgd-l2:0.25": pytest.approx(robust, abs=0.021)}  # one image, by rounding
        similar = ligs(model, images, labels, LigsOptions("gaussian", 0.01), indices=indices).mean
        assert figures["ligs"] == {"gaussian": pytest.approx(similar, abs=1e-4)}
        assert figures["images"] == 50
        record = json.loads((out / label / "record.json").read_text())
        data = record["validation"]["data"]
        assert (data["images"], set(data["class_counts"])) == (20, {2})
        assert [one["epoch"] for one in record["history"]] == list(range(1, 11))
        for one in record["history"]:
            assert set(one["validation"]["clean"]) == {"clean", "pgd-l2:0.25:10", "LIGS gaussian"}
        rows = [json.loads(line) for line in (out / label / "measured-clean" / "rows.jsonl").read_text().splitlines()]
        assert [row["correct"] / 50 for row in rows] == [figures["clean_accuracy"], *figures["shifts"].values()]


def test_the_table_shows_what_was_found_beside_the_published(done):
    chosen, _, found = done
    lines = result_text(chosen, found).splitlines()
    assert lines[1] == "Ours are over 50 images under clean, pgd-l2:0.25."
    rows = [re.split("  +", line) for line in lines[lines.index("") + 1 :]]
    assert rows[0] == ["label", "clean", "pgd-l2:0.25", "LIGS gaussian", "their clean", "their pgd-l2:0.25"]
    for row, (label, theirs) in zip(
        rows[2:], {"vgg11-none": ["90.1", "51.3"], "vgg11-group": ["90.7", "39.4"]}.items(), strict=True
    ):
        one = found[label]["clean"]
        accuracies = [f"{100 * value:.1f}" for value in (one["clean_accuracy"], one["shifts"]["pgd-l2:0.25"])]
        assert row == [label, *accuracies, f"{one['ligs']['gaussian']:.3f}", *theirs]


def test_a_run_goes_on_without_training_or_measuring_again(done, digits, monkeypatch):
    chosen, out, found = done
    monkeypatch.setattr(experiments, "TREND_IMAGES", 20)

    def fail(label):
        return pytest.fail

    assert run_on(digits, chosen, out, training_progress=fail, measuring_progress=fail) == found


def test_corrupted_training_is_measured_under_its_own_corruption(digits, tmp_path):
    chosen = recipe("upper-bound", labels=["standard", "contrast"], epochs=1, batch_size=100)
    found = run_on(digits, chosen, tmp_path, model_args=SMALL)
    images, labels = digits[1].tensors()
    indices = torch.from_numpy(digits[1].indices)
    assert set(found["standard"]["clean"]["shifts"]) == set(PRINTED.values())
    for label in chosen.options:
        model = load_model("cifar:resnet20", model_args=SMALL, weights=tmp_path / label / "clean.safetensors")
        with torch.no_grad():
            logits = model(corrupt(images, "contrast", 3, indices=indices))
        expected = float((logits.argmax(1) == labels).double().mean())
        assert found[label]["clean"]["shifts"]["contrast"] == expected
    record = json.loads((tmp_path / "contrast" / "record.json").read_text())
    assert record["model"]["weights_hash"] == weights_hash(build("cifar:resnet20", SMALL, seed=0).network)
    training = record["hardening"]["training"]
    assert (training["learning_rate"], training["schedule"], training["batch_size"]) == (0.01, "constant", 100)
    assert record["hardening"]["corruption"] == {"name": "contrast", "severity": 3}
    assert "validation" not in record
    text = result_text(chosen, found)
    cells = {row.split()[0]: row.split()[1:] for row in text[text.index("\nlabel ") :].splitlines()[3:]}
    mean = np.mean(list(found["standard"]["clean"]["shifts"].values()))
    assert cells["standard"][1:] == [f"{100 * mean:.1f}", "-"]
    assert cells["contrast"][1:] == [f"{100 * found['contrast']['clean']['shifts']['contrast']:.1f}", "91.6"]


def test_a_walked_landscape_is_in_the_table(digits, tmp_path):
    chosen = recipe("fixup", labels=["resnet20-fixup"], epochs=2, batch_size=100)
    found = run_on(digits, chosen, tmp_path, model_args=SMALL)
    first, last = json.loads((tmp_path / "resnet20-fixup" / "record.json").read_text())["history"]
    walked = last["validation"]["landscape"]
    assert walked != first["validation"]["landscape"]
    assert walked["step_sizes"][0] == pytest.approx(0.005)
    assert found["resnet20-fixup"]["clean"]["smoothness"] == walked["smoothness"] > 0
    row = result_text(chosen, found).splitlines()[-1]
    assert row.endswith(f"{walked['smoothness']:.3g}  not in our copy")


@pytest.mark.parametrize(
    ("name", "model", "data", "validation", "told"),
    [
        ("norms", "cifar:vgg11", "digits", "digits", "Expected no `model` for the recipe norms"),
        ("norms", None, "digits:train", None, "Expected `validation` for the recipe norms"),
        ("position", "cifar:vgg11", None, None, "Expected `data`, `validation` for the recipe position"),
    ],
)
def test_runs_that_cannot_be(name, model, data, validation, told, tmp_path):
    with pytest.raises(InputError, match=told):
        run_recipe(name, model, data, tmp_path / "out", validation=validation)
    assert not list(tmp_path.iterdir())


# Command line


def test_the_command_runs_a_recipe_and_goes_on(run, tmp_path):
    words = ["run", "regulariser", "--labels", "ligs", "--data", "digits:train", "--validation", "digits:test"]
    words += ["--out", tmp_path, "--one-cycle", "--epochs", 1, "--batch-size", 20, "--limit", 40, "--device", "cpu"]
    words += ["--model-args", "width=0.1", "--shifts", "clean,brightness", "--severities", 3, "--learning-rate", 0.02]
    first = run(*words)
    assert first.code == 0, first.err
    assert "Ours are over 40 images of digits:test under clean; brightness at severity 3." in first.out
    assert re.search(r"^label +clean +corrupted +LIGS gaussian +published$", first.out, re.MULTILINE)
    figures = json.loads((tmp_path / "ligs" / "measured-clean" / "ligs.json").read_text())["gaussian"]
    row = rf"^ligs +[\d.]+ +[\d.]+ +{figures['mean']:.3f} +not in our copy$"
    assert re.search(row, first.out, re.MULTILINE)
    training = json.loads((tmp_path / "ligs" / "record.json").read_text())["hardening"]["training"]
    assert [training[name] for name in ("schedule", "epochs", "batch_size", "learning_rate")] == [
        "one-cycle",
        1,
        20,
        0.02,
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["ligs"]
    again = run(*words)
    assert again.out == first.out
    assert "steps." not in again.err
    assert "passes" not in again.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["norms"], "Expected --out for the recipe norms."),
        (["norms", "--data", "digits"], "Expected --out for the recipe norms."),
        (["norms", "--data", "digits:train"], "Expected --validation, --out for the recipe norms."),
        (["norms", "--validation", "digits", "--out", "x"], "Expected --data for the recipe norms."),
        (["norms", "--model", "cifar:vgg11", "--mean", "0,0,0"], "Expected no --model, --mean for the recipe norms"),
        (["norms", "--at", "layer1"], "Expected no layer for the recipe norms"),
        (["norms", "--labels", "vgg13-none"], "Unknown label of the recipe norms 'vgg13-none'."),
        (["gamma", "--one-cycle"], "Expected no one-cycle training for the recipe gamma"),
        (["norm"], "Did you mean 'norms'?"),
    ],
)
def test_bad_input_is_told_in_one_line(run, words, named):
    told = run("run", *words)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("statshift: error: ")
    assert told.err.count("\n") == 1
    assert named in told.err
