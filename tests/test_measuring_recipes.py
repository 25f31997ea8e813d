"""Recipes that measure: the papers' figures, a list that is whole, and runs that are what `measure` says."""

import json
import re
import signal
from dataclasses import replace
from functools import cache
from statistics import fmean

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

import training_jobs
import warm
from statshift import load_data, load_model, measure
from statshift._core.errors import InputError
from statshift.adapting.drawing import adaptation_positions
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.plots import plot_distances
from statshift.adapting.rectify import rectified
from statshift.cli.published import over_lines, result_document, result_text
from statshift.cli.recipes import listing
from statshift.hardening.from_scratch import build
from statshift.making.extraction import KINDS, ExtractionOptions
from statshift.measuring.analyses import cosine_similarities, extract_features, statistic_distances
from statshift.models import save_weights
from statshift.norms.divergence import divergence
from statshift.recipes import (
    MEASURING,
    NOT_HERE,
    PAPERS,
    RECIPES,
    RECTIFICATION,
    AnalysisRecipe,
    MeasuringRecipe,
    Network,
    as_yaml,
    changed,
    describe,
    places,
    read_recipe,
    recipe,
)
from statshift.recipes.running import run_recipe
from statshift.results.means import BENCHMARK
from statshift.shifts.conditions import CorruptionOptions
from statshift.shifts.corruptions import corrupt

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy is"),  # it has never been trained
]

FILES = {
    "rectification": "bn-rectification-wacv2021",
    "ligs": "bn-ligs-iclr2021",
    "advbn": "advbn-neurips2021",
    "submission": "advbn-iclr2021-submission",
}
AFTER = ["corrupted, rectified", "mce, rectified"]
COLUMNS = ["corrupted", "corrupted, rectified", "mce", "mce, rectified"]
NAMES = {  # by the name in the paper's tables
    "ResNet-20": "resnet20",
    "ResNet-56": "resnet56",
    "ResNet-18": "resnet18",
    "ResNet-50": "resnet50",
    "VGG-19": "vgg19",
    "WRN-28-10": "wrn28_10",
    "ResNeXt-29": "resnext29",
    "DenseNet": "densenet",
    "VGG-19 (BN)": "vgg19_bn",
    "ResNet 18": "resnet18",
    "ResNet 50": "resnet50",
    "Wide ResNet 101": "wide_resnet101_2",
    "ResNeXt 101": "resnext101_32x8d",
    "DenseNet 161": "densenet161",
    "Baseline": "baseline",
    "Augmix": "augmix",
    "DeepAugment + Augmix": "deepaugment-augmix",
}


@pytest.fixture(scope="module")
def papers(shared):
    return {paper: (shared / "papers" / f"{file}.txt").read_text() for paper, file in FILES.items()}


@pytest.fixture(scope="module")
def wacv(papers):
    return papers["rectification"]


def rows_of(text, table):
    """Return the lines of a table of the rectification paper: a name and its figures as fractions."""
    lines = text.partition(f"\nTable {table}. ")[2].partition("\n#")[0].splitlines()
    rows = []
    for line in lines[1:]:
        name, *cells = line.rstrip("\t").split("\t")
        if cells and all(re.fullmatch(r"[\d.]+", cell) for cell in cells):
            rows.append((name, [round(float(cell) / 100, 6) for cell in cells]))
        elif rows and line.strip() and not cells:
            break  # the text behind the table
    return rows


# Published figures


@pytest.mark.parametrize(
    ("table", "name", "count"),
    [(1, "rectify-cifar10", 8), (2, "rectify-cifar100", 6), (3, "rectify-imagenet", 6), (4, "rectify-augmix", 3)],
)
def test_tables_1_to_4_are_those_printed(wacv, table, name, count):
    printed = {NAMES[model]: dict(zip(COLUMNS, cells, strict=True)) for model, cells in rows_of(wacv, table)}
    assert len(printed) == count
    assert dict(recipe(name).published) == printed


def test_table_5_is_that_printed(wacv):
    rows = [dict(zip(COLUMNS, cells, strict=True)) for _, cells in rows_of(wacv, 5)]
    both = [*recipe("rectify-robust-cifar10").published.items(), *recipe("rectify-robust-imagenet").published.items()]
    assert [label for label, _ in both] == ["l2-0.5", "linf-8", "l2-3.0", "linf-8"]
    assert [figures for _, figures in both] == rows


def test_table_6_is_that_printed(wacv):
    lines = wacv.partition("\nTable 6. ")[2].splitlines()
    rows = [line.split("\t") for line in lines if re.match(r"(CIFAR|ImageNet|\t)", line) and "ResNet" in line][:6]
    printed = [(row[1], [round(float(cell) / 100, 6) for cell in row[2:]]) for row in rows]
    found = [recipe(f"parts-{data}").published for data in ("cifar10", "cifar100", "imagenet")]
    assert sum(map(len, found)) == 12
    for number, (model, (accuracy_var, accuracy_mean, mce_var, mce_mean)) in enumerate(printed):
        published = found[number // 2]
        assert published[f"{NAMES[model]}-var"] == dict(zip(AFTER, (accuracy_var, mce_var), strict=True))
        assert published[f"{NAMES[model]}-mean"] == dict(zip(AFTER, (accuracy_mean, mce_mean), strict=True))


def test_table_7_is_that_printed(wacv):
    printed = {}
    for model, cells in rows_of(wacv, 7):
        for number, third in enumerate(("front", "middle", "end")):
            both = cells[2 * number : 2 * number + 2]
            printed[f"{NAMES[model]}-{third}"] = dict(zip(AFTER, both, strict=True))
    assert len(printed) == 24
    assert dict(recipe("thirds").published) == printed


def test_table_8_is_that_printed(wacv):
    lines = wacv.partition("\nTable 8. ")[2].partition("\n\n")[2].splitlines()
    rows = {line.split("\t")[0]: [round(float(cell) / 100, 6) for cell in line.split("\t")[1:]] for line in lines[1:4]}
    published = recipe("rectify-by-corruption").published
    assert list(published) == list(recipe("upper-bound").published)  # whose order the other test checks
    assert [one["corrupted, rectified"] for one in published.values()] == rows["Acc*"]
    assert [one["corrupted"] for one in published.values()] == rows["Acc"]


def test_table_10_is_that_printed(wacv):
    published = recipe("norms-corruption-imagenet").published
    rows = dict(rows_of(wacv, 10))
    for model in ("ResNet-18", "ResNet-50"):
        group, instance = rows[model][:2], rows[model][2:]
        assert list(published[f"{NAMES[model]}-group"].values()) == group
        assert list(published[f"{NAMES[model]}-instance"].values()) == instance
    assert len(published) == 4


def test_the_tables_on_ligs_are_those_printed(papers):
    text = papers["ligs"]
    vggs = {"VGG16 (None)": "vgg16", "VGG16 (BN)": "vgg16_bn", "VGG19 (None)": "vgg19", "VGG19 (BN)": "vgg19_bn"}
    lines = [line.split("\t") for line in text.partition("\nTable 1: ")[2].splitlines()]
    printed = {}
    for line in lines:
        if len(line) == 7 and line[1] in vggs and vggs[line[1]] not in printed:
            printed[vggs[line[1]]] = [round(float(cell) / 100, 6) for cell in line[2:]]
    found = recipe("attacks-imagenet").published
    columns = ["clean", "pgd-l2:0.25", "pgd-linf:1/255", "cw-l2:0.25", "cw-linf:1/255"]
    assert {label: [one[column] for column in columns] for label, one in found.items()} == printed
    blocks = [line.split() for line in text.splitlines() if re.fullmatch(r"(None|BN|IN|LN|GN)( ([\d.]+|-)){5}", line)]
    order = ["none", "batch", "instance", "layer", "group"]
    for name, block in (("transfer", blocks[:5]), ("transfer-robust", blocks[5:])):
        matrix = {
            f"vgg16-{source}": {
                f"vgg16-{norm}": round(float(cell) / 100, 6)
                for norm, cell in zip(order, row[1:], strict=True)
                if cell != "-"
            }
            for source, row in zip(order, block, strict=True)
        }
        assert dict(recipe(name).published) == matrix
    both = re.findall(r"^(VGG-16|ResNet-18)\t([\d.]+)\t([\d.]+)$", text, re.MULTILINE)
    assert dict(recipe("rectify-ligs").published) == {
        model.lower().replace("-", ""): {
            "corrupted": round(float(before) / 100, 6),
            "corrupted, rectified": round(float(after) / 100, 6),
        }
        for model, before, after in both
    }
    fgsm = re.findall(r"^(VGG11|VGG16|ResNet50) \((None|BN)\)\t([\d.]+)\t([\d.]+)$", text, re.MULTILINE)
    assert dict(recipe("fgsm").published) == {
        f"{model.lower()}-{'none' if norm == 'None' else 'batch'}": {
            "clean": round(float(clean) / 100, 6),
            "fgsm:4/255": round(float(robust) / 100, 6),
        }
        for model, norm, clean, robust in fgsm
    }


def test_what_is_measured_is_what_the_paper_says():
    for name in RECTIFICATION:
        chosen = recipe(name)
        for label, one in chosen.adaptation.items():
            where = label.rpartition("-")[2] if name == "thirds" else "all"
            part = label.rpartition("-")[2] if name.startswith("parts") else "both"
            count = int(label.removeprefix("n=")) if name == "samples" else 32
            expected = AdaptationOptions(count, 1, include_adaptation=True, statistics=part, where=where)
            assert one == expected
        if chosen.adaptation:
            assert chosen.protocols == ("replace",)
            assert chosen.adaptation.keys() == chosen.networks.keys()
        for network in chosen.networks.values():
            assert ("@IMAGENET1K_V1" in network.spec) != bool(network.weights)  # pinned, or a file
    for label, network in recipe("rectify-cifar100").networks.items():
        assert (network.spec, network.arguments) == (f"cifar:{label}", {"num_classes": 100})
    assert [one.arguments["norm"] for one in recipe("norms-corruption-imagenet").networks.values()] == [
        "group",
        "instance",
    ] * 2


@cache
def logits_shape(spec, arguments, classes):
    side = 224 if "vgg" in spec and classes == 1000 else 64 if classes == 1000 else 32
    with torch.device("meta"):
        network = load_model(spec, model_args=dict(arguments), pretrained=False).network
        return network(torch.empty(2, 3, side, side)).shape


@pytest.mark.parametrize("name", [*RECTIFICATION, *MEASURING])
def test_every_label_builds_its_network(name):
    chosen = recipe(name)
    classes = 1000 if chosen.data_set == "ImageNet" else 100 if chosen.data_set == "CIFAR-100" else 10
    for one in chosen.networks.values():
        assert logits_shape(one.spec, tuple(one.arguments.items()), classes) == (2, classes)


# The list


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_and_figure_is_a_recipe_or_has_a_reason(papers, paper):
    text = re.sub(r"Fig\. ?", "Figure ", papers[paper])
    found = re.findall(r"\b(Table|Figure)\.? ?(\d+)", text, re.IGNORECASE)
    named = {f"{kind.capitalize()} {number}" for kind, number in found}
    assert {"Table 1", "Figure 1"} <= named
    made = {place for name in RECIPES for place in places(recipe(name).source.get(paper, ""))}
    assert made | NOT_HERE[paper].keys() == named
    assert not made & NOT_HERE[paper].keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tables 1 and 2, appendix D, Figure 11", ["Table 1", "Table 2", "Figure 11"]),
        ("section 4.4, Figure 9, and appendix H, Figure 16", ["Figure 9", "Figure 16"]),
        ("Tables 1, 2 and 4 to 6", ["Table 1", "Table 2", "Table 4", "Table 5", "Table 6"]),
        ("appendix C", []),
    ],
)
def test_places(text, expected):
    assert places(text) == expected


def test_the_list_says_all_of_every_recipe(run):
    told = run("recipes")
    assert (told.code, told.err) == (0, "")
    assert told.out == f"{listing()}\n"
    assert max(map(len, told.out.splitlines())) <= 100
    words = " ".join(told.out.split())
    for name in RECIPES:
        one = describe(recipe(name))
        (start,) = re.findall(rf"^{name} +{re.escape(one['title'].split()[0])}", told.out, re.MULTILINE)
        said = words.partition(" ".join(start.split()))[2]
        for fact in ("expected", "cost", "needs"):
            assert f" {fact} {' '.join(one[fact].split())}" in said
    for paper, reasons in NOT_HERE.items():
        behind = words.partition("Not here ==")[2].partition(PAPERS[paper])[2]
        for name, reason in reasons.items():
            assert name in behind.partition(reason)[0]


def test_the_list_as_json(run):
    told = json.loads(run("recipes", "--json").out)
    assert [one["name"] for one in told["recipes"]] == list(RECIPES)
    assert told["not_here"] == NOT_HERE
    assert set(told["recipes"][0]) == {"name", "title", "source", "labels", "expected", "cost", "needs"}


@pytest.mark.parametrize(
    ("name", "expected", "cost"),
    [
        (
            "rectify-imagenet",
            "resnet50: 76.7 -> 64.9 mCE",
            "6 models x 76 conditions x 2 protocols, 50,000 images each",
        ),
        ("position", "conv2_3: 76.7 -> 68.6 mCE", "3 trainings of 20 epochs, then 228 conditions"),
        ("methods", "advbn-autoaugment: 76.7 -> 68.6 mCE", "14 trainings of 20 epochs, then 1,064 conditions"),
        ("thirds", None, "8 models x 3 variants x 76 conditions x 2 protocols, 10,000 images each"),
        ("samples", "not in our copy", "1 model x 9 variants x 5 conditions x 2 protocols, 10,000 images each"),
        ("rectify-by-corruption", None, "1 model x 12 conditions x 2 protocols, 10,000 images each"),
        ("attacks-imagenet", None, "4 models x 5 conditions, 50,000 images each"),
        ("norms", None, "15 trainings of 300 to 350 epochs, then 30 conditions"),
        ("transfer", None, "5 extractions of 1,000 steps an image, 20 measurements"),
        ("branches", None, "nothing"),
    ],
)
def test_figure_and_cost_are_derived(name, expected, cost):
    one = describe(recipe(name))
    assert one["cost"] == cost
    assert expected in (None, one["expected"])


# A run

TINY = {"width": 0.1}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits:test", limit=60)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    save_weights(build("cifar:resnet20", TINY, seed=5).network, path)
    return path


@pytest.fixture(scope="module")
def chosen(file):
    """The recipe of thirds, with a small network and few conditions."""
    some = recipe("thirds", labels=["resnet20-front", "resnet20-end"])
    network = Network("cifar:resnet20", TINY, "resnet20")
    shifts = dict.fromkeys(some.networks, ("clean", "contrast", "fog"))
    return replace(some, networks=dict.fromkeys(some.networks, network), shifts=shifts, severities=(1, 5))


@pytest.fixture(scope="module")
def done(chosen, digits, file, tmp_path_factory):
    out = tmp_path_factory.mktemp("thirds")
    return out, run_recipe(chosen, None, digits, out, files={"resnet20": file}, device="cpu", seed=3)


def test_a_run_is_what_measure_says(chosen, done, digits, file):
    out, found = done
    assert list(found) == ["resnet20-front", "resnet20-end"]
    model = load_model("cifar:resnet20", model_args=TINY, weights=file)
    images, labels = digits.tensors()
    indices = torch.from_numpy(digits.indices)
    few = torch.from_numpy(adaptation_positions(digits.indices, 32, 3, 0))
    accuracies = {}
    for label, by_protocol in found.items():
        assert list(by_protocol) == ["source", "replace"]
        for name in ("clean", "contrast", "fog"):
            right = []
            for severity in (1,) if name == "clean" else (1, 5):
                shifted = images if name == "clean" else corrupt(images, name, severity, seed=3, indices=indices)
                with torch.no_grad(), rectified(model, shifted[few], "replace", where=label.rpartition("-")[2]):
                    right.append(float((model(shifted).argmax(1) == labels).double().mean()))
            one = by_protocol["replace"]
            got = one["clean_accuracy"] if name == "clean" else one["shifts"][name]
            assert got == pytest.approx(fmean(right))
            accuracies[label, name] = got
        assert by_protocol["source"]["images"] == by_protocol["replace"]["images"] == 60
        assert by_protocol["replace"]["mean_of_shifts"] == fmean(by_protocol["replace"]["shifts"].values())
        rows = [json.loads(line) for line in (out / label / "rows.jsonl").read_text().splitlines()]
        assert {(row["protocol"], row["shift"], row["severity"]) for row in rows} == {
            (protocol, *condition)
            for protocol in ("source", "replace")
            for condition in (("clean", 0), ("contrast", 1), ("contrast", 5), ("fog", 1), ("fog", 5))
        }
    assert len({value for (_, name), value in accuracies.items() if name != "clean"}) > 1
    assert found["resnet20-front"]["source"] == found["resnet20-end"]["source"]


def test_the_table_sets_published_figures_beside_ours(chosen, done):
    lines = result_text(chosen, done[1], "digits:test").splitlines()
    assert lines[:4] == [
        "thirds: each third of the layers alone (Benz et al., WACV 2021, Table 7)",
        "Ours are over 60 images of digits:test under clean; contrast, fog at severity 1, 5.",
        "Theirs are over all 10,000 images of CIFAR-10: not the same data.",
        "Theirs: the mean over the 15 corruptions at five severities; ours are under contrast, fog at severity 1, 5: "
        "not the same conditions.",
    ]
    rows = [re.split("  +", line) for line in lines[lines.index("") + 1 :]]
    heads = ["clean", "clean rectified", "corrupted", "corrupted rectified", "their corrupted rectified"]
    assert rows[0] == ["label", *heads]
    for row, label, theirs in zip(rows[2:], done[1], ("71.7", "67.2"), strict=True):
        source, after = done[1][label].values()
        ours = [source["clean_accuracy"], after["clean_accuracy"], source["mean_of_shifts"], after["mean_of_shifts"]]
        assert row == [label, *(f"{100 * value:.1f}" for value in ours), theirs]
    document = result_document(chosen, done[1], "digits:test")
    assert document["over"] == lines[1:4]
    fewer = result_text(changed(chosen, samples=8), done[1], "digits:test").splitlines()
    assert fewer[4] == "Ours are rectified on 8 images (1 draw), which are evaluated on too; not theirs."
    assert document["ours"] == done[1]
    assert document["published"]["resnet20-end"]["corrupted, rectified"] == 0.672


def test_a_run_goes_on_without_measuring_again(chosen, done, digits, file):
    def fail(label):
        return pytest.fail

    out, found = done
    again = run_recipe(
        chosen, None, digits, out, files={"resnet20": file}, device="cpu", seed=3, measuring_progress=fail
    )
    assert again == found


def test_a_killed_run_goes_on_to_the_same_figures(chosen, done, file, tmp_path):
    """Another process is killed within the second label; what it finished is kept, byte for byte."""
    recipe_file, out = tmp_path / "mine.yaml", tmp_path / "out"
    recipe_file.write_text(as_yaml(replace(chosen, files={"resnet20": str(file)}, data="digits:test")))
    program = f"""
import os, signal, sys
from statshift.recipes.running import run_recipe
from statshift.recipes import read_recipe
seen = []
def follow(label):
    def progress(at):
        if label == "resnet20-end" and at.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return progress
run_recipe(read_recipe({str(recipe_file)!r}), None, None, {str(out)!r}, device="cpu", seed=3,
           data_options={{"limit": 60}}, measuring_progress=follow)
"""
    (tmp_path / "program.py").write_text(program)
    ended = warm.run(file=tmp_path / "program.py")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    kept = (out / "resnet20-end" / "rows.jsonl").read_text()
    assert 0 < len(kept.splitlines()) < 10
    assert len((out / "resnet20-front" / "rows.jsonl").read_text().splitlines()) == 10
    found = run_recipe(read_recipe(recipe_file), None, None, out, device="cpu", seed=3, data_options={"limit": 60})
    assert found == done[1]
    assert (out / "resnet20-end" / "rows.jsonl").read_text().startswith(kept)


OTHERWISE = (
    "Theirs: the mean over contrast, fog at severity 1, 5; ours are under contrast, fog at severity 1, 2: not the same "
    "conditions."
)


@pytest.mark.parametrize(
    ("data", "images", "severities", "told"),
    [
        ("digits", 10_000, (1, 5), "Theirs are over all 10,000 images of CIFAR-10: not the same data."),
        ("cifar10", 9_000, (1, 5), "Theirs are over all 10,000 images of CIFAR-10: not the same data."),
        ("cifar10", 10_000, (1, 2), OTHERWISE),
        (
            "cifar10",
            10_000,
            (1, 5),
            "Theirs are over all 10,000 images of CIFAR-10, corrupted beforehand and stored; ours are corrupted here.",
        ),
        ("cifar-c:C", 10_000, (1, 5), "Theirs are over all 10,000 images of CIFAR-10."),
    ],
)
def test_it_is_said_whether_theirs_are_over_the_same(chosen, data, images, severities, told):
    under = [("clean", 0), *((name, severity) for name in ("contrast", "fog") for severity in severities)]
    one = {"images": images, "conditions": under}
    found = {label: {"source": one, "replace": one} for label in chosen.labels}
    assert over_lines(replace(chosen, name="mine"), found, data)[-1] == told


@pytest.mark.parametrize(
    ("name", "under", "told"),
    [
        (
            "rectify-cifar10",
            [("clean", 0), ("fog", 3)],
            "Theirs: the mean over the 15 corruptions at five severities; ours are under fog at severity 3: not the "
            "same conditions.",
        ),
        (
            "rectify-cifar10",
            [("clean", 0)],
            "Theirs: the mean over the 15 corruptions at five severities; ours are of clean images alone: not the same "
            "conditions.",
        ),
        (
            "rectify-by-corruption",
            [("snow", 1)],
            "Theirs: the mean over snow at severity 3; ours are under snow at severity 1: not the same conditions.",
        ),
        ("rectify-by-corruption", [("snow", 3)], None),
        ("rectify-cifar10", [(name, level) for name in BENCHMARK for level in range(1, 6)], None),
        ("norms", [("clean", 0), ("fog", 3)], None),  # whose columns are of clean and attacked images
    ],
)
def test_it_is_said_where_their_means_are_of_other_conditions(name, under, told):
    chosen = recipe(name)
    label = "snow" if name == "rectify-by-corruption" else chosen.labels[0]
    found = {label: {"source": {"images": 10_000, "conditions": under}}}
    lines = [line for line in over_lines(chosen, found, "cifar-c:C") if "not the same conditions" in line]
    assert lines == ([] if told is None else [told])
    whole = {"clean_accuracy": None, "mean_of_shifts": None, "mce": None, "shifts": {}, "ligs": {}}
    document = result_document(chosen, {label: {"source": whole | found[label]["source"]}}, "cifar-c:C")
    assert (told in document["over"]) is (told is not None)
    assert "cost" not in document


def test_it_is_said_where_theirs_are_trained_for_longer():
    chosen = recipe("norms", labels=["vgg11-none", "resnet50-none"])
    theirs = sorted({one.training.epochs for one in chosen.options.values()})
    assert result_document(chosen, {}, None)["over"] == []
    (told,) = result_document(changed(chosen, epochs=1), {}, None)["over"]
    assert told == f"Ours are trained for 1 epoch, theirs for {', '.join(map(str, theirs))}."
    assert told in result_text(changed(chosen, epochs=1), {}).splitlines()


def test_shift_by_shift_a_shared_source_stands_once(chosen, done):
    text = result_text(replace(chosen, by_shift=True), done[1])
    lines = [re.split("  +", line) for line in text.splitlines()[-4:]]
    assert lines[0] == ["shift", "source", "resnet20-front", "resnet20-end"]
    front, end = (done[1][label] for label in chosen.labels)
    for line, name in zip(lines[2:], ("fog", "contrast"), strict=True):
        values = [front["source"]["shifts"][name], front["replace"]["shifts"][name], end["replace"]["shifts"][name]]
        assert line == [name, *(f"{100 * value:.1f}" for value in values)]


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("thirds", {}, "Expected `out`|Expected `files[resnet20]`, `files[resnet56]`"),
        (
            "thirds",
            {"data": "folder:/nowhere", "files": {"resnet20": "/no/file.pt"}},
            "The recipe thirds needs what is not there: /no/file.pt, /nowhere.",
        ),
        ("thirds", {"model": "cifar:vgg11"}, "Expected no `model` for the recipe thirds"),
        ("thirds", {"validation": "digits"}, "Expected no `validation` for the recipe thirds"),
        ("rectify-imagenet", {}, "Expected `data` for the recipe rectify-imagenet."),
        ("divergence", {}, "Expected `data`, `against`, `files[advbn]` for the recipe divergence; `labels`"),
    ],
)
def test_all_that_is_missing_is_told_before_anything_runs(name, more, told, tmp_path):
    given = {"model": None, "data": None} | more
    with pytest.raises(InputError) as error:
        run_recipe(name, given.pop("model"), given.pop("data"), tmp_path / "out", **given)
    assert any(one in str(error.value) for one in told.split("|"))
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit_are_told_before_anything_runs(chosen, digits, file, tmp_path):
    other = tmp_path / "other.safetensors"
    save_weights(training_jobs.build(), other)
    networks = {
        "fits": Network("cifar:resnet20", TINY, "a"),
        "wide": Network("cifar:resnet20", {}, "a"),
        "tiny": Network("cifar:resnet20", TINY, "b"),
    }
    wrong = MeasuringRecipe("x", "y", networks=networks, files={"a": str(file), "b": str(other)})
    with pytest.raises(InputError, match=r"^wide: The weights in .* do not fit .* tiny: The weights in ") as told:
        run_recipe(wrong, None, digits, tmp_path / "out", device="cpu")
    assert "fits:" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_all_that_is_missing(run):
    told = run("run", "rectify-augmix", "--file", "augmix=/no/file.pt")
    assert (told.code, told.err) == (
        2,
        "statshift: error: Expected --data, --out, --file deepaugment-augmix=PATH for the recipe rectify-augmix; "
        "--labels makes do with some of the files. The recipe rectify-augmix needs what is not there: /no/file.pt.\n",
    )
    some = run("run", "rectify-augmix", "--labels", "baseline")
    assert some.err == "statshift: error: Expected --data, --out for the recipe rectify-augmix.\n"


def test_the_command_runs_one_and_writes_json(run, file, tmp_path):
    """Draws, samples and seed are those of a `measure` of its own."""
    own = MeasuringRecipe(
        "mine",
        "a small network",
        networks={"tiny": Network("cifar:resnet20", TINY, "weights")},
        files={"weights": ""},
        published={"tiny": {"corrupted": 0.5}},
        protocols=("replace", "prior:4"),
        adaptation={"tiny": AdaptationOptions()},
    )
    (tmp_path / "mine.yaml").write_text(as_yaml(own))
    words = ["run", tmp_path / "mine.yaml", "--data", "digits:test", "--limit", 40, "--shifts", "clean,snow"]
    words += [
        "--severities",
        3,
        "--samples",
        8,
        "--draws",
        2,
        "--seed",
        4,
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    ]
    told = run(*words, "--file", f"weights={file}", "--json")
    assert told.code == 0, told.err
    document = json.loads(told.out)
    expected = measure(
        load_model("cifar:resnet20", model_args=TINY, weights=file),
        load_data("digits:test", limit=40, seed=4),
        shifts=("clean", "snow"),
        severities=[3],
        rectify=("replace", "prior:4"),
        adaptation=AdaptationOptions(8, 2),
        options=CorruptionOptions(4),
        device="cpu",
    ).summary["protocols"]
    for protocol in ("source", "replace", "prior:4"):
        ours = document["ours"]["tiny"][protocol]
        assert ours["clean_accuracy"] == expected[protocol]["clean_accuracy"]
        assert ours["shifts"]["snow"] == expected[protocol]["per_shift"]["snow"]["accuracy"]
    assert document["published"] == {"tiny": {"corrupted": 0.5}}
    text = run(*words, "--file", f"weights={file}").out
    heads = ["clean, replace", "clean, prior:4", "corrupted, replace", "corrupted, prior:4", "their corrupted"]
    (head,) = [line for line in text.splitlines() if line.startswith("label")]
    assert [one in head for one in (name.replace(",", "") for name in heads)] == [True] * 5


# Analyses


def study(name, file, data, out, **more):
    """Run a recipe's analysis on the small network."""
    theirs = recipe(name)
    (label,) = theirs.labels
    small = replace(theirs, networks={label: Network("cifar:resnet20", TINY, "w")}, files={"w": str(file)})
    return run_recipe(small, None, data, out, device="cpu", seed=2, **more)[label]["analysis"]


@pytest.fixture(scope="module")
def model(file):
    return load_model("cifar:resnet20", model_args=TINY, weights=file)


def shifted(digits, severity):
    images, labels = digits.tensors()
    return images, corrupt(images, "gaussian_noise", severity, seed=2, indices=torch.from_numpy(digits.indices)), labels


def test_distances_are_those_of_the_analysis(file, digits, model, tmp_path):
    found = study("distances", file, digits, tmp_path)
    clean, noisy, _ = shifted(digits, 3)
    detail = json.loads((tmp_path / "resnet50" / "figures.json").read_text())["detail"]
    assert detail["layer"] == "layer2.1.bn1"  # the tenth of 19, in execution order
    expected = statistic_distances(model, clean, noisy, "layer2.1.bn1", batch_size=30, seed=2)
    assert found["images"] == 60
    for pair, (mean, var) in expected.items():
        assert found["figures"][f"{pair}: mean"] == pytest.approx(mean)
        assert found["figures"][f"{pair}: variance"] == pytest.approx(var)
    plot_distances(expected, tmp_path / "again.png")
    assert (tmp_path / "resnet50.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_similarities_are_those_of_the_analysis_and_are_kept(file, digits, model, tmp_path):
    found = study("similarities", file, digits, tmp_path, severities=(1, 4))
    few = torch.from_numpy(adaptation_positions(np.arange(60), 32, 2, 0))
    for severity in (1, 4):
        clean, noisy, _ = shifted(digits, severity)
        before, after = cosine_similarities(model, clean, noisy, noisy[few])
        assert found["figures"][f"severity {severity}"] == pytest.approx(before)
        assert found["figures"][f"severity {severity}, rectified"] == pytest.approx(after)

    def fail(label):
        pytest.fail("it was looked at again")

    assert study("similarities", file, digits, tmp_path, severities=(1, 4), measuring_progress=fail) == found
    with pytest.raises(InputError, match="holds another run"):
        study("similarities", file, digits, tmp_path, severities=(1, 5))


def test_a_study_knows_ones_own_shift_by_its_file(file, digits, tmp_path):
    code = tmp_path / "own.py"
    shift = [f"py:{code}:dim"]
    code.write_text("def dim(images):\n    return images / 2\n")
    found = study("distances", file, digits, tmp_path / "out", shifts=shift)
    assert study("distances", file, digits, tmp_path / "out", shifts=shift) == found  # another function, the same file
    code.write_text("def dim(images):\n    return images / 3\n")
    with pytest.raises(InputError, match=r"holds another run \(`functions\.dim`"):
        study("distances", file, digits, tmp_path / "out", shifts=shift)


def test_a_study_takes_nothing_that_it_does_not_use(file, digits, tmp_path):
    with pytest.raises(InputError, match="Expected no `batch_size`, `dtype` for the recipe distances"):
        study("distances", file, digits, tmp_path, batch_size=8, dtype="bfloat16")
    with pytest.raises(InputError, match="Expected one severity, but got 1, 3"):
        study("distances", file, digits, tmp_path, severities=(1, 3))
    with pytest.raises(InputError, match="Expected one shift, but got fog, snow"):
        study("distances", file, digits, tmp_path, shifts=("fog", "snow"))


def test_silhouettes_are_scikit_learns(file, digits, model, tmp_path):
    found = study("embedding", file, digits, tmp_path)["figures"]
    _, noisy, labels = shifted(digits, 3)
    before = silhouette_score(extract_features(model, noisy).numpy(), labels.numpy())
    few = torch.from_numpy(adaptation_positions(np.arange(60), 32, 2, 0))
    with rectified(model, noisy[few], "replace"):
        after = silhouette_score(extract_features(model, noisy).numpy(), labels.numpy())
    assert found == {
        "silhouette": pytest.approx(before, abs=1e-6),
        "silhouette, rectified": pytest.approx(after, abs=1e-6),
    }
    points = json.loads((tmp_path / "resnet56" / "figures.json").read_text())["detail"]["points"]
    assert np.asarray(points["source"]).shape == np.asarray(points["rectified"]).shape == (60, 2)


def test_divergence_is_that_of_the_two_data_sets(file, digits, model, tmp_path):
    other = load_data("digits:train", limit=60)
    networks = {"base": Network("cifar:resnet20", TINY, "w"), "advbn": Network("cifar:resnet20", TINY)}
    chosen = replace(recipe("divergence"), networks=networks, files={"w": str(file)})
    found = run_recipe(chosen, None, digits, tmp_path, against=other, device="cpu")
    expected = divergence(model, [digits.tensors()[0]], [other.tensors()[0]])
    figures = found["base"]["analysis"]["figures"]
    assert figures["mean of layers"] == pytest.approx(float(expected.values.mean()), rel=1e-4)
    assert figures["last layer"] == pytest.approx(float(expected.values[-1]), rel=1e-4)
    assert found["advbn"]["analysis"]["figures"] != figures
    assert (tmp_path / "divergence.png").exists()


def test_features_are_answered_by_the_other_networks(file, tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "nonrobust", replace(KINDS["nonrobust"], steps=3))
    digits = load_data("digits:test", limit=20)
    networks = {"a": Network("cifar:resnet20", TINY, "w"), "b": Network(f"py:{training_jobs.__file__}:build")}
    chosen = AnalysisRecipe("mine", "two", networks=networks, files={"w": str(file)}, analysis="transfer")
    found = run_recipe(chosen, None, digits, tmp_path, device="cpu")
    made = load_data(f"npz:{tmp_path / 'a' / 'features' / 'images.npz'}")
    images, labels = made.tensors()
    with torch.no_grad():
        answers = load_model(networks["b"].spec)(images).argmax(1)
    assert found["a"]["analysis"]["figures"] == {"b": float((answers == labels).double().mean())}
    assert list(found["b"]["analysis"]["figures"]) == ["a"]
    steps = json.loads((tmp_path / "a" / "features" / "record.json").read_text())["extraction"]["steps"]
    assert steps == ExtractionOptions(steps=3).steps
    again = run_recipe(chosen, None, digits, tmp_path, device="cpu")
    assert again == found
