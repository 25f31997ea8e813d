"""Recipes of segmentation: the papers' numbers and figures, parts of data, and runs that are what `measure` says."""

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image

from statshift import diagnose, find_cuts, load_model, measure
from statshift._core.errors import BackboneWarning, InputError
from statshift.cli.published import result_text
from statshift.data import scenes
from statshift.data.scene_labels import CITYSCAPES, SYNTHIA
from statshift.metrics.segmentation import mean_iou
from statshift.models import save_weights
from statshift.recipes import SEGMENTATION, DataPart, Network, changed, describe, recipe
from statshift.recipes.files import parse_recipe
from statshift.recipes.running import run_recipe
from statshift.tasks.segmentation import Segmentation

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean pixel accuracy is"),  # it has hardly been trained
    pytest.mark.filterwarnings("ignore:.*images. 4 are taken", "ignore:.*images. 3 are taken"),
    pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning"),
]

LABEL = {
    "baseline": "baseline",
    "+ Adv. Training": "pixel-at",
    "AdvProp": "advprop",
    "MoEx": "moex",
    "+ AdvBN": "advbn",
}
CONDITIONS = ["dawn", "fog", "night", "spring", "winter"]
DOMAINS = [f"{scene}-{condition}" for scene in ("new-york", "highway") for condition in CONDITIONS]
ROOT = Path(__file__).parents[1]
SMALL = {"num_classes": 13, "width": 0.125}


@pytest.fixture(scope="module")
def papers(shared):
    return {
        name: (shared / "papers" / f"advbn-{name}.txt").read_text() for name in ("neurips2021", "iclr2021-submission")
    }


# The papers' numbers


def test_table_3_is_that_printed(papers):
    text = papers["neurips2021"].partition("\nTable 3: ")[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = [re.sub("<.*?>", "", line).split("\t") for line in text.splitlines()]
    assert [cell for cell in rows[0] if cell] == ["New York-like City", "Highway"]
    assert rows[1][2:] == [condition.capitalize() for condition in CONDITIONS] * 2
    printed = [(LABEL[method], [round(float(cell) / 100, 6) for cell in cells]) for _, method, *cells in rows[2:]]
    assert len(printed) == 10
    both = {"synthia-new-york": printed[:5], "synthia-highway": printed[5:]}  # the city's rows are best on the city
    for name, expected in both.items():
        published = recipe(name).published
        assert [(label, [one[domain] for domain in DOMAINS]) for label, one in published.items()] == expected
        own = recipe(name).trained_on.below
        assert all(max(one, key=one.get).startswith(own.rpartition("-")[0]) for one in published.values())
    assert recipe("synthia-new-york").published["advbn"]["highway-night"] == 0.259
    assert recipe("synthia-highway").published["baseline"]["highway-dawn"] == 0.642


def test_trainings_are_those_of_table_3(papers):
    told = papers["neurips2021"].partition("### 5.4")[2]
    for text in ("80 epochs", "30 epochs", "110 epochs", r"$\tau = 0.2$ ,  $\epsilon = 0.5$ , and 3 repeats"):
        assert text in told
    for name in ("synthia-new-york", "synthia-highway"):
        chosen = recipe(name)
        epochs = {label: one.training.epochs for label, one in chosen.options.items()}
        assert epochs == {"baseline": 80, "pixel-at": 30, "advprop": 110, "moex": 110, "advbn": 30}
        assert dict(chosen.begins_with) == {"pixel-at": "baseline", "advbn": "baseline"}
        advbn, pixels = chosen.options["advbn"], chosen.options["pixel-at"].method.attack
        attack = advbn.method.attack
        assert (attack.steps, attack.step_size, attack.bound, advbn.at) == (3, 0.2, 0.5, "conv2_3")
        assert (pixels.epsilon, pixels.length) == (1 / 255, 1 / 255)
        for one in chosen.options.values():
            training = one.training
            assert (training.schedule, training.batch_size, one.branch) == ("poly", 16, "clean")
        assert list(chosen.domains) == DOMAINS
        assert chosen.domains["highway-fog"] == DataPart(below="highway-fog", split="test")
    assert recipe("synthia-new-york").trained_on == DataPart(below="new-york-spring", split="train")
    assert recipe("synthia-highway").trained_on == DataPart(below="highway-dawn", split="train")


def test_the_submission_prints_gains_and_no_table(papers):
    told = papers["iclr2021-submission"]
    assert "τ = 0.15, = 0.4, and 4 repeats" in told
    assert "fine-tuned on Cityscapes for 20 epochs" in told
    assert "gain of 8.2% in mean IoU on the GTA5 dataset" in told
    assert "improves by 11.3%" in told
    assert not re.search(r"\t\d+\.\d", told)  # no table at all
    for name in ("cityscapes-gta5", "synthia-new-york-opposite", "synthia-highway-opposite"):
        chosen = recipe(name)
        assert dict(chosen.published) == {"baseline": None, "advbn": None}
        attack = chosen.options["advbn"].method.attack
        assert (attack.steps, attack.step_size, attack.bound) == (4, 0.15, 0.4)
        assert [one.training.epochs for one in chosen.options.values()] == [80, 20]
        assert describe(chosen)["expected"] == "not in our copy"
    assert "8.2 points of mIoU and 11.3 of pixel accuracy" in recipe("cityscapes-gta5").note
    assert list(recipe("synthia-new-york-opposite").domains) == DOMAINS[5:]
    assert list(recipe("synthia-highway-opposite").domains) == DOMAINS[:5]


@pytest.mark.parametrize("spec", ["seg:resnet50", "seg:resnet18"])
def test_every_network_has_its_cuts_and_the_classes_of_its_data(spec):
    model = load_model(spec, model_args={"width": 0.0625})
    known = {one for cut in find_cuts(model, torch.rand(2, 3, 32, 32)) for one in (cut.name, *cut.aliases)}
    own = [one for one in map(recipe, SEGMENTATION) if {network.spec for network in one.networks.values()} == {spec}]
    assert len(own) == (1 if spec == "seg:resnet18" else 5)
    for chosen in own:
        assert {one.at for one in chosen.options.values()} <= known | {"input"}
        classes = {"cityscapes-gta5": len(CITYSCAPES), "camvid": 11}.get(chosen.name, len(SYNTHIA))
        assert {one.arguments["num_classes"] for one in chosen.networks.values()} == {classes}


def test_figure_and_cost_are_derived():
    one = describe(recipe("synthia-new-york"))
    assert one["expected"] == "advbn: 52.7 (baseline) -> 57.5 on new-york-dawn"
    some = describe(recipe("synthia-highway", labels=["moex"]))
    assert some["expected"] == "moex: 32.0 on new-york-dawn"
    assert one["cost"] == "5 trainings of 30 to 110 epochs, then 50 measurements"
    assert one["needs"] == "SYNTHIA's video sequences as synthia:DIR; files: backbone"


# Faults


def test_what_does_not_fit_together_is_told():
    text = """
name: mine
title: dusk
model: seg:resnet18
options: {a: {method: standard}}
domains: {dusk: {of: dat, splitt: dusk}}
published: {a: {dawn: 0.5}}
"""
    with pytest.raises(InputError) as told:
        parse_recipe(text)
    lines = told.value.faults
    assert any(line.startswith("domains.dusk.splitt: Unknown key 'splitt'. Did you mean 'split'?") for line in lines)
    with pytest.raises(InputError, match=r"published.a: Unknown domain 'dawn'.*domains.dusk.of: Unknown data 'dat'"):
        parse_recipe(text.replace(", splitt: dusk", ""))
    with pytest.raises(InputError, match="Expected none in a recipe that trains nothing"):
        parse_recipe("name: x\ntitle: y\nnetworks: {a: {spec: 'seg:resnet18'}}\ndomains: {dusk: {split: dusk}}\n")


def test_data_are_given_as_specs_and_what_lacks_is_told(tmp_path):
    with pytest.raises(
        InputError, match=r"Expected `data`, `validation`, `files\[backbone\]` for the recipe cityscapes"
    ):
        run_recipe("cityscapes-gta5", None, None, tmp_path)
    with pytest.raises(InputError, match="needs what is not there: /none"):
        run_recipe("camvid", None, "seg:/none", tmp_path)
    with pytest.raises(InputError, match=r"Expected `data` to be a spec for the recipe camvid, .* but got list"):
        run_recipe("camvid", None, [], tmp_path)


# Runs


def paint(place, labels, rng, *, index=True):
    """Write a frame whose first channel says the class of each pixel, and its label map below `place`."""
    pixels = np.stack([labels * 18, *rng.integers(0, 256, (2, *labels.shape), np.uint8)], axis=2)
    stored = labels if index else np.stack([labels, labels * 0, labels * 0], axis=2)  # SYNTHIA's: the first channel
    for path, values in zip(place, (pixels, stored), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Forty frames of each of CamVid's splits, six classes and void."""
    root, rng = tmp_path_factory.mktemp("drive"), np.random.default_rng(0)
    for split in ("train-day", "val-day", "test-day", "train-dusk"):
        for number in range(40):
            labels = rng.choice(np.array([0, 1, 2, 3, 4, 5, 11], np.uint8), (4, 6)).repeat(8, 0).repeat(8, 1)
            name = f"{split}/{number:02}.png"
            paint((root / "images" / name, root / "labels" / name), labels, rng)
    return root


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Seven frames of two sequences as SYNTHIA has them."""
    root, rng = tmp_path_factory.mktemp("synthia"), np.random.default_rng(1)
    for name in ("SYNTHIA-SEQS-02-SPRING", "SYNTHIA-SEQS-01-FOG"):
        for number in range(7):
            labels = rng.integers(1, 8, (4, 6), np.uint8).repeat(8, 0).repeat(8, 1)
            below = ("Stereo_Left", "Omni_F", f"{number:06}.png")
            places = (root / name / "RGB" / "/".join(below), root / name / "GT" / "LABELS" / "/".join(below))
            paint(places, labels, rng, index=False)
    return root


def small(name, domains, labels, window=(32, 32)):
    """Return a recipe at a toy's scale: one epoch, an eighth of the width, some domains."""
    chosen = recipe(name, labels=labels)
    of_paper = {label: {d: f for d, f in one.items() if d in domains} for label, one in chosen.published.items() if one}
    chosen = replace(chosen, domains={one: chosen.domains[one] for one in domains}, published=of_paper)
    networks = {label: replace(one, spec="seg:resnet18", arguments=SMALL) for label, one in chosen.networks.items()}
    options = {
        label: replace(one, at={"conv2_3": "layer1"}.get(one.at, one.at)) for label, one in chosen.options.items()
    }
    return changed(replace(chosen, networks=networks, options=options), epochs=1, batch_size=2, window=window)


def test_a_run_on_sequences_is_what_measure_says(sequences, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "TEST_FRAMES", 3)
    monkeypatch.setattr(scenes, "TRAIN_FRAMES", 4)
    save_weights(load_model("seg:resnet18", model_args=SMALL).network, tmp_path / "start.safetensors")
    chosen = small("synthia-new-york", ("new-york-spring", "highway-fog"), ["baseline", "advbn"])

    def run():
        return run_recipe(
            chosen,
            None,
            f"synthia:{sequences}",
            tmp_path / "out",
            files={"backbone": tmp_path / "start.safetensors"},
            device="cpu",
        )

    found = run()
    assert {label: list(one) for label, one in found.items()} == {
        label: ["new-york-spring", "highway-fog"] for label in ("baseline", "advbn")
    }
    for label, by_domain in found.items():
        record = json.loads((tmp_path / "out" / label / "record.json").read_text())
        assert record["data"]["images"] == 4
        model = load_model("seg:resnet18", model_args=SMALL, weights=tmp_path / "out" / label / "clean.safetensors")
        for domain, folder in (("new-york-spring", "02-SPRING"), ("highway-fog", "01-FOG")):
            one = measure(model, f"synthia:{sequences}/SYNTHIA-SEQS-{folder}", shifts=["clean"], device="cpu").summary
            assert by_domain[domain]["clean_miou"] == one["protocols"]["source"]["clean_miou"]
            assert by_domain[domain]["pixel_accuracy"] == one["protocols"]["source"]["pixel_accuracy"]
            assert (by_domain[domain]["images"], by_domain[domain]["headline"]) == (3, "miou")
    records = [json.loads((tmp_path / "out" / label / "record.json").read_text()) for label in ("baseline", "advbn")]
    assert records[1]["model"]["weights_hash"] == records[0]["weights_hash"]["clean"]
    assert run() == found
    lines = result_text(chosen, found, f"synthia:{sequences}").splitlines()
    assert "Ours are over images as they are: 3 of new-york-spring, 3 of highway-fog." in lines
    assert "Ours are trained for 1 epoch, theirs for 30, 80." in lines
    rows = [re.split("  +", line) for line in lines]
    assert ["miou", "baseline", "their baseline", "advbn", "their advbn"] in rows
    ours = [f"{100 * found[label]['highway-fog']['clean_miou']:.1f}" for label in found]
    assert ["highway-fog", ours[0], "21.0", ours[1], "26.6"] in rows
    assert sum(row[0] == "pixel accuracy" for row in rows) == 1


def test_the_command_runs_camvid_from_day_to_dusk(run, splits, tmp_path):
    words = ["run", "camvid", "--data", f"seg:{splits}", "--out", tmp_path, "--labels", "start", "--epochs", 1]
    words += ["--batch-size", 20, "--limit", 36, "--model-args", "width=0.125", "--device", "cpu"]
    first = run(*words)
    assert first.code == 0, first.err
    rows = [re.split("  +", line) for line in first.out.splitlines()]
    assert ["miou", "start"] in rows
    domains = ["val-day", "test-day", "train-dusk"]
    table = rows[rows.index(["miou", "start"]) + 2 :]
    assert [row[0] for row in table[:6]] == [f"{one}{behind}" for one in domains for behind in ("", ", auto")]
    record = json.loads((tmp_path / "start" / "record.json").read_text())
    assert record["data"]["images"] == 36
    dusk = json.loads((tmp_path / "start" / "measured-train-dusk" / "summary.json").read_text())["protocols"]
    shown = {row[0]: row[1] for row in table[:6]}
    assert shown["train-dusk"] == f"{100 * dusk['source']['clean_miou']:.1f}"
    assert shown["train-dusk, auto"] == f"{100 * dusk['auto']['clean_miou']:.1f}"
    again = run(*words)
    assert again.out == first.out
    assert "steps." not in again.err


def test_a_backbone_of_imagenet_begins_the_start(tmp_path):
    weights = load_model("torchvision:resnet18@none").network
    save_weights(weights, tmp_path / "resnet18.safetensors")
    network = Network("seg:resnet18", {"num_classes": 5}, "backbone")
    with pytest.warns(BackboneWarning):
        made = network.make({"backbone": str(tmp_path / "resnet18.safetensors")}, {}, 0, fresh=True)
    assert (made.network.layer4[1].conv2.weight == weights.layer4[1].conv2.weight).all()
    assert made.network.classifier.out_channels == 5


# The how-to and the example

DRIVING = """
from statshift import load_model


def build():
    return load_model("seg:resnet18", model_args={"num_classes": 11, "width": 0.125}).network
"""


def test_the_how_to_s_ten_lines_do_what_they_say(splits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "labels"):
        (tmp_path / "drive" / kind).mkdir(parents=True)
        (tmp_path / "drive" / kind / "dusk").symlink_to(splits / kind / "train-dusk")
    (tmp_path / "driving.py").write_text(DRIVING)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_weights(load_model("py:driving.py:build").network, "driving.safetensors")
    page = (ROOT / "docs" / "howto/segmentation.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(block.strip().splitlines()) <= 12
    names = {}
    exec(compile(block.replace("driving.pth", "driving.safetensors"), "segmentation.md", "exec"), names)
    sentence, scores = capsys.readouterr().out.strip().splitlines()
    model, frames, where = names["model"], names["frames"], names["where"]
    assert sentence == diagnose(model, frames).sentence
    assert frames.shape == (32, 3, 32, 48)
    rows = {row["protocol"]: row for row in names["found"].rows}
    assert (rows["source"]["images"], rows["auto"]["images"]) == (40, 8)
    source = measure(model, "seg:drive", shifts="clean", data_options=where).summary["protocols"]["source"]
    assert source == names["found"].summary["protocols"]["source"]
    assert scores == f"{names['auto']['paired_source']['clean_miou']} {names['auto']['clean_miou']}"
    assert names["adapted"] is not model
    assert names["adapted"](frames[:1]).argmax(1).shape == (1, 32, 48)


@pytest.mark.slow
def test_the_example_says_what_is_absent_and_measures_what_is_there(shared, tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "examples" / "driving.py"))["main"]
    assert main(tmp_path) == {}
    assert capsys.readouterr().out.startswith(f"There is no {tmp_path / 'data' / 'camvid'}: name the folder")
    found = main(shared, [("train-dusk", "contrast")], samples=2, limit=4)
    line = capsys.readouterr().out.splitlines()[1]
    ((frames, scores),) = found.items()
    assert line.split() == [*", ".join(frames).split(), *(f"{one:.1%}" for one in scores.values())]
    assert scores["replace"] > 2 * scores["source"]


def test_the_page_tells_what_each_program_makes_of_two_frames():
    labels, predicted = np.array([[0, 1, 1, 1], [0, 0, 0, 0]]), np.array([[0, 0, 1, 1], [0, 0, 0, 0]])
    matrices = [
        np.bincount(3 * own + answer, minlength=9).reshape(3, 3) for own, answer in zip(labels, predicted, strict=True)
    ]

    def iou(matrix):
        hits = matrix.diagonal()
        unions = matrix.sum(0) + matrix.sum(1) - hits
        return [hit / union if union else None for hit, union in zip(hits, unions, strict=True)]

    def zeroed(values):
        return fmean(value or 0 for value in values)

    by_image = [iou(matrix) for matrix in matrices]
    one = fmean(value for value in iou(sum(matrices)) if value is not None)
    pairs = fmean(value for values in by_image for value in values if value is not None)  # torchmetrics 1.9
    per_image = fmean(map(zeroed, by_image))  # torchmetrics 1.6
    espnet = sum(map(zeroed, by_image)) / (len(by_image) + 1)
    page = (ROOT / "docs" / "segmentation.md").read_text()
    told = re.findall(r"\| ([\d.]+) % \|$", page, re.MULTILINE)
    assert told == [f"{100 * value:.1f}" for value in (one, pairs, per_image, espnet)]
    logits = torch.nn.functional.one_hot(torch.from_numpy(predicted), 3).permute(0, 2, 1)[:, :, None].float()
    counts = Segmentation().per_image(logits, torch.from_numpy(labels)[:, None])
    assert mean_iou(*(count.sum(0).double().numpy() for count in counts[:3])) == pytest.approx(one)


def test_the_page_s_figures_are_those_of_the_files(shared):
    conditions = json.loads((shared / "reference" / "camvid_espnet.json").read_text())["conditions"]
    ours = json.loads((ROOT / "benchmarks" / "results" / "segmentation.json").read_text())["reference"]
    page = (ROOT / "docs" / "segmentation.md").read_text()
    cells = re.findall(r"^\| [\w ]+" + 4 * r" \| ([\d.]+)" + r" \|$", page, re.MULTILINE)
    assert len(cells) == len(conditions)
    for told, (name, one) in zip(cells, conditions.items(), strict=True):
        figures = (one["source"]["miou"], ours[name]["source"], one["replaced32"]["miou"], ours[name]["replace"])
        assert told == tuple(f"{figure:.2f}" for figure in figures)
