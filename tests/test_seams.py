"""The seams: a shift, protocol, method and task of one's own run everywhere, and ship, without a change to the package.

Each is defined here as a user would, in under 40 lines, and the command reads it from this file as py:FILE:NAME.
"""

import inspect
import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import statshift
import training_jobs
from statshift import HardenOptions, InputError, Method, Rule, TrainingOptions, compare, load_data, load_model
from statshift._core.registry import Entry
from statshift.adapting.protocol import Number
from statshift.adapting.registry import PROTOCOLS
from statshift.hardening.registry import METHODS
from statshift.norms.statistics import mix
from statshift.results import read_run
from statshift.shifts.attacks import Attack, Ball, PixelAttack
from statshift.shifts.corruptions import Corruption
from statshift.shifts.registry import SHIFTS
from statshift.shifts.stored import SetShift
from statshift.tasks.mean import MeanTask
from statshift.tasks.registry import TASKS

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:Clean accuracy", "ignore:The images to rectify to are alike"
    ),  # to drawn weights
]

ROOT = Path(__file__).parents[1]
TWO_STEPS = TrainingOptions(epochs=1, batch_size=16, learning_rate=0.01)


# A corruption: every n-th pixel is black, by severity


def dots(images, draws, *, step):
    images = images.clone()
    images[..., ::step, ::step] = 0
    return images


ROWS = [{"step": step} for step in (16, 8, 4, 2, 1)]
DOTS = Corruption("dots", dots, {"cifar": ROWS, "imagenet": ROWS})


# A norm ball: pixels that may only become brighter


class Brighter(Ball):
    name, title, bound = "brighter", "upward", 1.0

    def project(self, centre, epsilon, low=-float("inf"), high=float("inf")):
        return lambda point: point.clamp(centre, (centre + epsilon).clamp(low, high))

    def steepest(self, gradient):
        return gradient.sign().nan_to_num()

    def offset(self, shape, epsilon, draws):
        return draws.uniform("start", *shape, low=0.0, high=epsilon)


BRIGHTEN = Attack("pgd-brighter:8/255", PixelAttack(8 / 255, steps=3, norm=Brighter()))


# A set of images with labels of its own: other digits than those of the run, mirrored


class Mirrored(torch.utils.data.Dataset):
    def __init__(self):
        self.images, self.labels = load_data("digits:train", limit=25).tensors()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return (self.images[place].flip(-1) * 255).round().byte(), int(self.labels[place])


MIRRORED = SetShift("mirrored", Mirrored(), title="in the mirror")


# A protocol


@dataclass(frozen=True)
class Cautious(Rule):
    """Go a part of the way that `auto` would at most, where a shift persists."""

    name = "cautious"
    summary = "a test"
    number = Number("part", 0, 1)

    part: float = 0.5

    def target(self, stored, observed, images, *, eps, persisting):
        assert eps > 0
        return mix(stored, observed, 1 - self.part * persisting)


# A method


@dataclass(frozen=True)
class NoisyFeatures(Method):
    """Train on features with noise of a share of their deviation."""

    name = "noisy-features"
    summary = "a test"
    needs_cut = True

    sigma: float = 0.1

    def losses(self, branches, batch):
        features = branches.prefix(batch.images)
        noise = batch.draws_on_device.normal("noise", *features.shape[1:]).to(features.dtype)
        return {"clean": batch.targets.loss(branches.suffix(features + self.sigma * features.std() * noise, "clean"))}


# A task with two labels an image, which the documents show, too


class Right(NamedTuple):
    both: torch.Tensor  # the first is what the score is the mean of
    parity: torch.Tensor


class DigitAndParity(MeanTask):
    name = "digit-and-parity"
    headline = "both_right"

    def per_image(self, logits, labels):
        digit = logits[:, :10].argmax(1) == labels[:, 0]
        parity = logits[:, 10:].argmax(1) == labels[:, 1]
        return Right(digit & parity, parity)

    def losses(self, logits, labels):
        digit = cross_entropy(logits[:, :10], labels[:, 0], reduction="none")
        return digit + cross_entropy(logits[:, 10:], labels[:, 1], reduction="none")


def build_pairs():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 12))


DEFINITIONS = {
    "corruption": (dots,),
    "norm ball": (Brighter,),
    "set of images": (Mirrored,),
    "protocol": (Cautious,),
    "method": (NoisyFeatures,),
    "task": (Right, DigitAndParity),
}
"""By what CONTRIBUTING.md calls them."""


def spec(name):
    return f"py:{__file__}:{name}"


MODEL = f"py:{training_jobs.__file__}:build"


def measured(model, shifts, rectify=(), data=None, **more):
    """Measure few images in Python."""
    return statshift.measure(
        model,
        data or load_data("digits", limit=40),
        shifts=shifts,
        severities=[3],
        rectify=rectify,
        adaptation=statshift.AdaptationOptions(8),
        device="cpu",
        **more,
    )


@pytest.fixture
def pairs(tmp_path):
    """Handwritten digits, each with its class and the class's parity."""
    images, digits = load_data("digits", limit=40).tensors()
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "pairs.npz", images=pixels, labels=torch.stack([digits, digits % 2], 1).numpy())
    return f"npz:{tmp_path / 'pairs.npz'}"


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_a_definition_is_short(kind):
    assert sum(len(inspect.getsourcelines(one)[0]) for one in DEFINITIONS[kind]) < 40


def test_the_documents_show_the_task():
    page = (ROOT / "docs" / "tasks.md").read_text()
    assert all(inspect.getsource(one) in page for one in DEFINITIONS["task"])


# In Python and by the command


def test_shifts_a_protocol_and_a_method_of_one_s_own_run_everywhere(run, tmp_path):
    """Hardened with the method, measured under the shifts beside the protocol, and reported."""
    common = ["--model", MODEL, "--device", "cpu"]
    training = ["--data", "digits:train", "--limit", 32, "--epochs", 1, "--batch-size", 16, "--learning-rate", 0.01]
    method = ["--at", "act1", "--method", spec("NoisyFeatures"), "--method-args", "sigma=0.5"]
    looking = ["--validation", "digits", "--shifts", f"clean,{spec('DOTS')}", "--severities", 3]
    done = run("harden", *common, *training, *method, *looking, "--out", tmp_path / "hardened")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "hardened" / "record.json").read_text())
    hardened = statshift.harden(
        MODEL, "digits:train", HardenOptions(NoisyFeatures(0.5), "act1", TWO_STEPS),
        validation="digits", shifts=["clean", DOTS], severities=[3], device="cpu", data_options={"limit": 32},
    )  # fmt: skip
    assert (told["hardening"]["method"], told["hardening"]["sigma"]) == ("noisy-features", 0.5)
    assert told["weights_hash"] == hardened.record["weights_hash"]
    (epoch,) = told["history"]
    assert epoch["validation"] == json.loads(json.dumps(hardened.record["history"][0]["validation"]))
    assert "dots" in json.dumps(epoch["validation"])

    weights = ["--weights", tmp_path / "hardened" / "clean.safetensors", "--data", "digits", "--limit", 40]
    shifts = ",".join(["clean", *map(spec, ("DOTS", "BRIGHTEN", "MIRRORED"))])
    rectify = ["--rectify", spec("Cautious"), "--samples", 8]
    out = tmp_path / "run"
    done = run("measure", *common, *weights, "--shifts", shifts, "--severities", 3, *rectify, "--out", out)
    assert done.code == 0, done.err
    model = load_model(MODEL, weights=tmp_path / "hardened" / "clean.safetensors")
    expected = measured(model, ["clean", DOTS, BRIGHTEN, MIRRORED], {"Cautious": Cautious()}, out=tmp_path / "own")
    found = read_run(out)
    assert found.rows == read_run(tmp_path / "own").rows
    assert len(expected.rows) == 8
    assert found.record["families"] == {
        "clean": "clean",
        "dots": "corruption",
        "pgd-brighter:8/255": "attack",
        "mirrored": "natural",
    }

    done = run("report", out, "--format", "markdown")
    assert done.code == 0, done.err
    for name in ("dots", "pgd-brighter:8/255", "in the mirror", "Cautious", "noisy-features"):
        assert name in done.out, name


def test_a_task_of_one_s_own_runs_everywhere(run, pairs, tmp_path):
    words = ["--model", spec("build_pairs"), "--data", pairs, "--device", "cpu", "--mean", "0,0,0", "--std", "1,1,1"]
    task = ["--task", spec("DigitAndParity")]
    training = ["--method", "standard", "--augment", "none", "--epochs", 1, "--batch-size", 20, "--learning-rate", 0.01]
    done = run("harden", *words, *task, *training, "--out", tmp_path / "hardened")
    assert (done.code, "clean.safetensors" in done.out) == (0, True), done.err
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    options = HardenOptions("standard", training=TrainingOptions(1, 20, 0.01, augment="none"))
    network = load_model(spec("build_pairs"), **plain)
    hardened = statshift.harden(network, pairs, options, task=DigitAndParity(), device="cpu")
    told = json.loads((tmp_path / "hardened" / "record.json").read_text())
    assert told["weights_hash"] == hardened.record["weights_hash"]

    weights, out = ["--weights", tmp_path / "hardened" / "clean.safetensors"], tmp_path / "run"
    shifts = ["--shifts", "clean,fog", "--severities", 3]
    done = run("measure", *words, *weights, *task, *shifts, "--rectify", "auto", "--samples", 8, "--out", out)
    assert done.code == 0, done.err
    assert "Both right in % over 40 images" in done.out
    model = load_model(spec("build_pairs"), weights=tmp_path / "hardened" / "clean.safetensors", **plain)
    measured(model, ["clean", "fog"], "auto", pairs, task=DigitAndParity(), out=tmp_path / "own")
    assert read_run(out).rows == read_run(tmp_path / "own").rows

    done = run("report", out)
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1), done.err
    assert f"Expected --task for a run of a task of your own, digit-and-parity: {spec('DigitAndParity')}." in done.err
    done = run("report", out, *task, "--out", tmp_path / "page.html")
    assert done.code == 0, done.err
    assert "both right" in (tmp_path / "page.html").read_text()
    done = run("compare", out, "--protocols", "source,auto", *task)
    assert done.code == 0, done.err
    assert done.out.startswith("Both right in % over the same 32 images")


# To ship one


def shipped():
    """Return the table of CONTRIBUTING.md: the files below src/statshift that each kind touches."""
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {cell[0]: re.findall(r"`([\w/.]+)`", cell[1]) for cell in cells if "`" in cell[1]}


def test_to_ship_one_touches_two_files_at_most():
    table = shipped()
    assert table.keys() == DEFINITIONS.keys()
    for kind, (own, registry) in table.items():
        place = ROOT / "src" / "statshift"
        assert Path(own).stem == "NAME", kind
        assert (place / own).parent.is_dir(), own
        assert (place / registry).is_file(), registry


def entry(name, family, value, **more):
    return Entry(name, family, "a test", f"{__name__}:{value}", **more)


PGD_BRIGHTER = Attack("pgd-brighter", build=partial(PixelAttack, norm=Brighter()), options=("epsilon", "steps"))
ENTRIES = {
    "corruption": (SHIFTS, entry("dots", "corruption", "DOTS")),
    "norm ball": (SHIFTS, entry("pgd-brighter", "attack", "PGD_BRIGHTER", options=PGD_BRIGHTER.options)),
    "set of images": (SHIFTS, entry("mirrored", "natural", "MIRRORED")),
    "protocol": (PROTOCOLS, entry("cautious", Cautious.family, "Cautious", options=("part",))),
    "method": (METHODS, entry("noisy-features", Method.family, "NoisyFeatures", options=("sigma",))),
    "task": (TASKS, entry("digit-and-parity", "own", "DigitAndParity")),
}
"""What its registry, the second file, then has."""


@pytest.fixture
def ship(monkeypatch):
    def ship(kind):
        registry, one = ENTRIES[kind]
        monkeypatch.setitem(registry, one.name, one)

    return ship


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_the_registry_beside_its_file_is_the_other(kind):
    registry, _ = ENTRIES[kind]
    text = (ROOT / "src" / "statshift" / shipped()[kind][1]).read_text()
    (name,) = re.findall(r"^([A-Z]+) = registry\(", text, re.MULTILINE)
    assert registry is {"SHIFTS": SHIFTS, "PROTOCOLS": PROTOCOLS, "METHODS": METHODS, "TASKS": TASKS}[name]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("corruption", "dots", DOTS),
        ("norm ball", "pgd-brighter:8/255:3", BRIGHTEN),
        ("set of images", "mirrored", MIRRORED),
    ],
)
def test_a_shift_that_ships_is_asked_for_by_its_name(ship, kind, name, value):
    own = measured(MODEL, ["clean", value]).rows
    ship(kind)
    assert measured(MODEL, ["clean", name]).rows == [own[0], own[1] | {"shift": name}]


def test_a_protocol_that_ships_is_like_any_other(ship):
    """Its record says no longer where its code is, and `rectify` knows it."""
    mine = measured(MODEL, ["clean", "contrast"], Cautious(0.25))
    ship("protocol")
    found = measured(MODEL, ["clean", "contrast"], "cautious:0.25")
    assert found.rows == mine.rows
    described = [one.record["protocols"]["cautious:0.25"] for one in (mine, found)]
    assert described[0].pop("function").endswith(":Cautious")
    assert described[0] == described[1]
    model, images = load_model(MODEL), load_data("digits", limit=8).tensors()[0]
    named, valued = (statshift.rectify(model, images, one) for one in ("cautious:0.25", Cautious(0.25)))
    assert all(map(torch.equal, named.buffers(), valued.buffers()))
    with pytest.raises(InputError, match="Expected cautious:NUMBER, its `part` from 0 to 1, but got 'cautious:2'"):
        statshift.rectify(model, images, "cautious:2")


def test_a_method_that_ships_is_asked_for_by_its_name(ship):
    training = {"device": "cpu", "data_options": {"limit": 32}}
    own = statshift.harden(MODEL, "digits:train", HardenOptions(NoisyFeatures(), "act1", TWO_STEPS), **training)
    ship("method")
    found = statshift.harden(MODEL, "digits:train", HardenOptions("noisy-features", "act1", TWO_STEPS), **training)
    assert found.record["weights_hash"] == own.record["weights_hash"]


def test_a_task_that_ships_is_read_without_being_named(ship, pairs, tmp_path):
    network = load_model(spec("build_pairs"), mean=(0, 0, 0), std=(1, 1, 1))
    own = measured(network, "clean", data=pairs, task=DigitAndParity())
    ship("task")
    found = measured(network, "clean", data=pairs, task="digit-and-parity", out=tmp_path / "run")
    assert found.rows == own.rows
    assert (
        compare(tmp_path / "run", tmp_path / "run").conditions[0].accuracy.first
        == found.summary["protocols"]["source"]["clean_both_right"]
    )


# What holds whatever one's own is


class Dark(statshift.Shift):
    """The run's images, stored dark elsewhere."""

    name, reads = "dark", True

    def data(self, severity, load):
        images, labels = load_data("digits", limit=20).tensors()
        return load(torch.utils.data.TensorDataset(images / 4, labels))


def test_the_runs_images_are_those_given_whatever_shift_stands_first():
    runs = [measured(training_jobs.build(), shifts, data=load_data("digits", limit=20)) for shifts in ORDERS]
    rows = [{row["shift"]: row["cross_entropy_sum"] for row in run.rows} for run in runs]
    assert rows[0] == rows[1]
    assert rows[0]["clean"] != rows[0]["dark"]


ORDERS = (["clean", Dark()], [Dark(), "clean"])


def test_a_run_with_other_constants_is_another(tmp_path):
    coarse, fine = ({"cifar": [{"step": step}] * 5, "imagenet": [{"step": step}] * 5} for step in (16, 1))
    go = partial(measured, training_jobs.build(), data=load_data("digits", limit=10), out=tmp_path)
    go([Corruption("dots", dots, coarse)])
    with pytest.raises(InputError, match="holds another run"):
        go([Corruption("dots", dots, fine)])


@dataclass(frozen=True)
class Overwriting(Method):
    name = "overwriting"
    branch: str = "x"


def test_an_option_of_ones_own_does_not_overwrite_a_record():
    with pytest.raises(InputError, match="Expected Overwriting to have no option 'branch'"):
        HardenOptions(Overwriting())


def test_a_set_of_images_goes_with_a_task_of_several_labels(pairs):
    run = measured(build_pairs(), ["clean", SetShift("in the mirror", pairs)], data=pairs, task=DigitAndParity())
    clean, mirrored = run.rows
    assert (mirrored["images"], mirrored["statistics"]) == (40, clean["statistics"])  # the same images, as a set
    assert "set" in mirrored
