"""Measurement: rows beside a plain loop in NumPy, the summary beside sums by hand, the model left as found."""

import base64
import hashlib
import json
import random
import re
import shutil
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import statshift
from statshift import corrupt, load_data, read_run
from statshift._core.errors import InputError, MemoryWarning
from statshift.making.corrupted import write_corrupted
from statshift.measuring.loading import find_device
from statshift.metrics.alexnet import ALEXNET
from statshift.models import PixelModel, Preprocessing
from statshift.shifts.conditions import Condition, CorruptionOptions, conditions, resolve
from statshift.shifts.corruptions import COMMON

MEAN = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
CPU = torch.device("cpu")

measure = partial(statshift.measure, device="cpu")

pytestmark = pytest.mark.filterwarnings("ignore:No frost photographs")


class Network(nn.Module):
    """Random features with batch norm, and on them the nearest mean of a class: right in 8 of 10 digits."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 16, 5, stride=4)
        self.norm = nn.BatchNorm2d(16, momentum=None)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(16 * 49, 10)
        train = load_data("digits:train")
        images = (torch.cat([batch for batch, _ in train.batches(1200)]).numpy() / 255 - MEAN) / STD
        with torch.no_grad():
            self.norm(self.conv(torch.from_numpy(images).float()))  # settles the running statistics
            features = self.eval().features(torch.from_numpy(images).float())
            means = torch.stack([features[torch.from_numpy(train.labels) == label].mean(0) for label in range(10)])
            self.linear.weight.copy_(means / 20)
            self.linear.bias.copy_(-means.pow(2).sum(1) / 40)

    def features(self, images):
        return self.norm(self.conv(images)).relu().flatten(1)

    def forward(self, images):
        return self.linear(self.drop(self.features(images)))


@pytest.fixture(scope="module")
def network():
    return Network().eval()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=60)


def pixels_of(data):
    return torch.cat([images for images, _ in data.batches(50)]).float() / 255


def logits_of(network, images):
    """Return logits in float64, for images in [0,1] normalised as ImageNet's."""
    network = network.eval()
    with torch.no_grad():
        return network(torch.from_numpy((images.numpy() - MEAN) / STD).float()).double().numpy()


def expected_row(logits, labels):
    """Return what a row says, image by image."""
    order = np.argsort(-logits, axis=1, kind="stable")
    correct = order[:, 0] == labels
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return {
        "images": len(labels),
        "correct": sum(correct),
        "correct_top5": sum(label in five for label, five in zip(labels, order[:, :5], strict=True)),
        "class_correct": [sum(correct[labels == label]) for label in range(10)],
        "bits": "".join("01"[int(right)] for right in correct),
        "cross_entropy_sum": pytest.approx(losses.sum(), rel=1e-5),
    }


def told(row):
    """Return the same of a row, its bits as text."""
    digits = "".join(f"{byte:08b}" for byte in base64.b64decode(row["bits"]))
    assert not digits[row["images"] :].strip("0")
    keys = ("images", "correct", "correct_top5", "class_correct", "cross_entropy_sum")
    return {key: row[key] for key in keys} | {"bits": digits[: row["images"]]}


def counts(rows):
    return [(row["shift"], row["severity"], row["correct"], row["correct_top5"], row["bits"]) for row in rows]


# Rows


@pytest.mark.parametrize(
    "options",
    [{}, {"seed": 3}, {"table": "imagenet"}, {"quantise": False}, {"reencode": True}],
    ids=lambda options: next(iter(options), "defaults"),
)
def test_rows_equal_a_plain_loop(network, digits, options):
    shifts = ["clean", "gaussian_noise", "glass_blur", "contrast", "jpeg_compression"]
    found = measure(network, digits, shifts=shifts, severities=[1, 4], options=CorruptionOptions(**options))
    wanted = [("clean", 0), *((name, severity) for name in shifts[1:] for severity in (1, 4))]
    assert [(row["shift"], row["severity"]) for row in found.rows] == wanted
    clean, indices = pixels_of(digits), torch.from_numpy(digits.indices)
    for row, (name, severity) in zip(found.rows, wanted, strict=True):
        images = corrupt(clean, name, severity, indices=indices, **options) if severity else clean
        assert told(row) == expected_row(logits_of(network, images), digits.labels)
    assert found.rows[0]["correct"] >= 48
    assert len({row["bits"] for row in found.rows}) > 4


def test_corruption_is_addressed_by_the_place_in_the_whole_data_set(network):
    """An image of a subset is corrupted as in the whole."""
    whole = measure(network, "digits", shifts="impulse_noise", severities=[3]).rows[0]
    some = measure(network, "digits", shifts="impulse_noise", severities=[3], data_options={"limit": 40}).rows[0]
    chosen = load_data("digits", limit=40).indices
    assert told(some)["bits"] == "".join(told(whole)["bits"][index] for index in chosen)


@pytest.mark.parametrize("batch_size", [1, 17, 59, 60])
def test_the_batch_size_is_not_part_of_the_result(network, digits, batch_size):
    measured = partial(measure, network, digits, shifts=["clean", "speckle_noise"], severities=[2, 5])
    assert counts(measured(batch_size=batch_size).rows) == counts(measured().rows)


@pytest.fixture
def photographs(tmp_path):
    """Twelve pictures of 240x260 px in ten classes, blobs of colour."""
    generator = np.random.default_rng(0)
    for number in range(12):
        picture = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8)).resize((240, 260))
        place = tmp_path / "photographs" / f"{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{number}.png")
    return f"folder:{tmp_path / 'photographs'}"


@pytest.fixture
def of_32_px(network):
    return PixelModel(network, Preprocessing(input_size=32, resize=40, crop=32, interpolation="bicubic"))


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_workers_are_not_part_of_the_result(of_32_px, photographs):
    measured = partial(measure, of_32_px, photographs, shifts=["clean", "fog"], severities=[3], batch_size=5)
    alone, helped = (measured(data_options={"workers": workers}) for workers in (0, 2))
    assert helped.rows == alone.rows
    assert helped.summary == alone.summary


@pytest.mark.parametrize(
    ("at", "size", "table"),
    [
        ("benchmark", {"resize": 256, "crop": 224}, "imagenet"),
        ("model", {"resize": 40, "crop": 32, "interpolation": "bicubic"}, "cifar"),
    ],
)
def test_where_photographs_are_corrupted(network, of_32_px, photographs, at, size, table):
    found = measure(of_32_px, photographs, shifts=["defocus_blur"], severities=[4], corrupt_at=at)
    data = load_data(photographs, **size)
    images = corrupt(pixels_of(data), "defocus_blur", 4)
    small = (
        nn.functional.interpolate(images, 32, mode="bicubic", antialias=True).clamp(0, 1)
        if at == "benchmark"
        else images
    )
    assert told(found.rows[0]) == expected_row(logits_of(network, small), data.labels)
    assert found.record["corruption"]["at"] == at
    assert found.record["corruption"]["table"] == table
    assert found.record["data"]["shape"] == [3, size["crop"], size["crop"]]


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_the_caller_may_choose_the_size_himself(of_32_px, photographs):
    found = measure(of_32_px, photographs, shifts="clean", corrupt_at="model", data_options={"resize": 64, "crop": 48})
    assert found.record["data"]["shape"] == [3, 48, 48]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: {"logits": logits, "features": logits * 0},
        lambda logits: {"out": logits},
        lambda logits: (logits, logits * 0),
        lambda logits: [{"out": (logits,)}],
        lambda logits: SimpleNamespace(logits=logits),
    ],
    ids=["dict", "segmentation", "tuple", "nested", "attribute"],
)
def test_models_answer_in_many_forms(network, digits, wrap):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, images):
            return wrap(self.inner(images))

    measured = partial(measure, data=digits, shifts=["clean", "fog"], severities=[5])
    assert measured(Wrapped()).rows == measured(network).rows


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_differs_little(network, digits, dtype):
    measured = partial(measure, network, digits, shifts=["clean", "shot_noise"], severities=[3])
    full, half = measured(), measured(dtype=dtype)
    assert half.record["dtype"] == dtype
    given = measured(dtype=getattr(torch, dtype))
    assert (given.record["dtype"], given.rows) == (dtype, half.rows)
    for a, b in zip(full.rows, half.rows, strict=True):
        assert b["cross_entropy_sum"] != a["cross_entropy_sum"]
        assert b["cross_entropy_sum"] == pytest.approx(a["cross_entropy_sum"], rel=0.1)
        assert abs(b["correct"] - a["correct"]) <= 2


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no compiler")
@pytest.mark.filterwarnings("default")
def test_a_compiled_model_gives_the_same_counts(network, digits):
    measured = partial(measure, network, digits, shifts=["clean", "fog"], severities=[2], batch_size=25)
    assert counts(measured(compiled=True).rows) == counts(measured().rows)


@pytest.mark.gpu
def test_a_gpu_gives_the_counts_of_the_cpu(network, digits):
    """All but an image at the border of two classes; the caller's model stays where it is."""
    measured = partial(measure, network, digits, shifts=["clean", "gaussian_noise", "glass_blur"], severities=[3])
    for a, b in zip(measured().rows, measured(device="cuda").rows, strict=True):
        assert abs(a["correct"] - b["correct"]) <= 1
        assert b["cross_entropy_sum"] == pytest.approx(a["cross_entropy_sum"], rel=0.01)
    assert next(network.parameters()).device == CPU


class Hungry(nn.Module):
    """Has memory for a few images only."""

    def __init__(self, inner, most):
        super().__init__()
        self.inner, self.most, self.seen = inner, most, []

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError
        self.seen.append(len(images))
        return self.inner(images)


def test_out_of_memory_the_batch_is_halved(network, digits):
    hungry = Hungry(network, most=10)
    with pytest.warns(MemoryWarning, match="Out of memory on cpu: going on with") as caught:
        found = measure(hungry, digits, shifts=["clean", "fog"], severities=[3])
    told = [str(warning.message) for warning in caught if warning.category is MemoryWarning]
    assert [re.search(r"with (\d+) ", message)[1] for message in told] == ["30", "15", "8"]
    assert counts(found.rows) == counts(measure(network, digits, shifts=["clean", "fog"], severities=[3]).rows)
    assert sum(hungry.seen) == 124  # four looks at one image before: for the number of classes, and at the probe
    assert max(hungry.seen) == 8


def test_out_of_memory_with_one_image_is_the_end(network, digits):
    with pytest.raises(InputError, match=r"Out of memory .* single image; use `device` cpu"):
        measure(Hungry(network, most=0), digits, shifts="clean", batch_size=1)


# Functions of the user's own


def invert(images):
    return 1 - images


def speckles(images, severity, seed, indices):
    dots = [
        torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(int(seed * 10_000 + i))) for i in indices
    ]
    return torch.where(torch.stack(dots) < severity / 20, 1.0, images)


@pytest.mark.parametrize("batch_size", [60, 17])
def test_own_shifts_are_treated_as_built_in_ones(network, digits, batch_size):
    found = measure(
        network,
        digits,
        shifts=["clean", {"invert": invert, "speckles": speckles}],
        severities=[2, 5],
        batch_size=batch_size,
        seed=9,
    )
    clean, indices = pixels_of(digits), torch.from_numpy(digits.indices)
    expected = [clean, 1 - clean, speckles(clean, 2, 9, indices), speckles(clean, 5, 9, indices)]
    assert [told(row) for row in found.rows] == [
        expected_row(logits_of(network, images), digits.labels) for images in expected
    ]
    shifts = found.summary["protocols"]["source"]["per_shift"]
    assert list(shifts) == ["invert", "speckles"]
    assert shifts["invert"]["by_severity"] == [found.rows[1]["correct"] / 60]
    assert shifts["speckles"]["by_severity"] == [
        None,
        found.rows[2]["correct"] / 60,
        None,
        None,
        found.rows[3]["correct"] / 60,
    ]
    assert found.summary["protocols"]["source"]["mean_accuracy"] is None


def test_a_mapping_alone_stands_for_clean_and_its_own(network, digits):
    assert [row["shift"] for row in measure(network, digits, shifts={"mine": invert}).rows] == ["clean", "mine"]


# Stored shifts


def test_stored_arrays_give_the_rows_of_shifts_made_on_the_fly(network, digits, tmp_path):
    shifts = ["clean", "gaussian_noise", "elastic_transform"]
    options = CorruptionOptions(seed=5)
    made = measure(network, digits, shifts=shifts, options=options)
    write_corrupted(
        digits, conditions(resolve(shifts), [1, 2, 3, 4, 5]), tmp_path, layout="arrays", options=options, device=CPU
    )
    stored = measure(network, f"cifar-c:{tmp_path}", shifts=shifts)
    assert stored.rows == made.rows
    assert stored.record["corruption"] == {"stored": True}
    assert measure(network, f"cifar-c:{tmp_path}").rows == [made.rows[0], *made.rows[1:]]
    (tmp_path / "clean.npy").unlink()
    assert measure(network, f"cifar-c:{tmp_path}").rows == made.rows[1:]
    with pytest.raises(InputError, match="Expected clean images"):
        measure(network, f"cifar-c:{tmp_path}", shifts=["clean"])
    with pytest.raises(InputError, match="Unknown shift 'fog'"):
        measure(network, f"cifar-c:{tmp_path}", shifts=["fog"])


@pytest.mark.parametrize("limit", [30, 4])
def test_a_stored_tree_gives_the_rows_of_reencoded_shifts(network, tmp_path, limit):
    """Its files are JPEGs of quality 85; the labels survive, even where a class has no image."""
    data = load_data("digits", limit=limit)
    shifts, severities = ["contrast", "shot_noise"], [2, 4]
    write_corrupted(
        data, conditions(resolve(shifts), severities), tmp_path, layout="jpeg", options=CorruptionOptions(), device=CPU
    )
    stored = measure(network, f"imagenet-c:{tmp_path}", shifts=shifts, severities=severities)
    clean, order = pixels_of(data), np.argsort(data.labels, kind="stable")
    for row, condition in zip(stored.rows, conditions(resolve(shifts), severities), strict=True):
        images = corrupt(clean, condition.shift, condition.severity, indices=torch.from_numpy(data.indices))
        read_again = torch.stack([jpeg(image, tmp_path / "one.jpg") for image in images])
        assert told(row) == expected_row(logits_of(network, read_again[order]), data.labels[order])


def jpeg(image, path):
    Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(path, quality=85)
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file)).permute(2, 0, 1) / 255


@pytest.mark.filterwarnings("ignore:.* has 2 classes")
def test_stored_labels_must_agree(network, digits, tmp_path):
    for severity, labels in ((1, [0, 1]), (2, [0, 0])):
        for number, label in enumerate(labels):
            place = tmp_path / "fog" / str(severity) / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(place / f"{number}.png")
        (tmp_path / "fog" / str(severity) / "1").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=r"The labels of .* at fog 2 differ"):
        measure(network, f"imagenet-c:{tmp_path}", shifts=["fog"], severities=[1, 2])


# The summary


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """The clean images and the 75 conditions."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return measure(network, "digits", out=out, data_options={"limit": 40}, alexnet="cifar10")


def test_the_summary_is_what_the_rows_add_up_to(whole):
    error = {(row["shift"], row["severity"]): 1 - row["correct"] / 40 for row in whole.rows}
    assert len(error) == 76
    means = {name: sum(error[name, severity] for severity in range(1, 6)) / 5 for name in COMMON}
    source = whole.summary["protocols"]["source"]
    assert whole.summary["images"] == 40
    assert source["clean_accuracy"] == pytest.approx(1 - error["clean", 0])
    assert source["mean_error"] == pytest.approx(sum(means.values()) / 15)
    assert source["mean_accuracy"] == pytest.approx(1 - sum(means.values()) / 15)
    assert source["mce"] == pytest.approx(sum(means[name] / ALEXNET["cifar10"][name] for name in COMMON) / 15)
    assert source["mce"] != pytest.approx(source["mean_error"], rel=0.01)
    assert list(source["per_shift"]) == list(COMMON)
    for name in COMMON:
        assert source["per_shift"][name]["accuracy"] == pytest.approx(1 - means[name])
        assert source["per_shift"][name]["by_severity"] == [
            pytest.approx(1 - error[name, severity]) for severity in range(1, 6)
        ]
    assert source["per_class_accuracy"] == [n / 4 for n in whole.rows[0]["class_correct"]]
    low, high = source["mean_interval"]
    assert low < source["mean_accuracy"] < high


def test_a_run_is_100_of_itself(network, whole):
    again = measure(network, "digits", data_options={"limit": 40}, baseline=whole.path)
    assert again.rows == whole.rows
    assert again.summary["relative_to"] == "baseline"
    assert again.summary["protocols"]["source"]["mce"] == pytest.approx(1)
    assert again.summary["protocols"]["source"]["per_shift"]["fog"]["ce"] == pytest.approx(1)


def test_the_directory_holds_what_is_returned(whole):
    assert json.loads((whole.path / "summary.json").read_text()) == whole.summary
    kept = read_run(whole.path)
    assert kept.rows == whole.rows
    assert kept.record == json.loads(json.dumps(whole.record))
    timings = [json.loads(line) for line in (whole.path / "timings.jsonl").read_text().splitlines()]
    assert [(one["shift"], one["severity"]) for one in timings] == [(r["shift"], r["severity"]) for r in whole.rows]
    assert all(one["seconds"] > 0 for one in timings)


def test_a_later_call_adds_to_the_directory(network, digits, tmp_path):
    measured = partial(measure, network, digits, out=tmp_path / "run")
    first = measured(shifts=["clean", "fog"], severities=[1])
    passes = []
    second = measured(shifts=["clean", "fog", "snow"], severities=[1, 3], progress=passes.append)
    assert second.rows[:2] == first.rows
    assert {str(one.condition) for one in passes} == {"fog 3", "snow 1", "snow 3"}
    assert second.record["shifts"] == ["clean", "fog", "snow"]
    assert second.record["severities"] == [1, 3]


@pytest.mark.parametrize(
    ("classes", "data", "model", "choice", "table"),
    [
        (10, "npz", "cifar:resnet20", "auto", "cifar10"),
        (100, "npz", "cifar:resnet20", "auto", "cifar100"),
        (10, "digits", "cifar:resnet20", "auto", None),
        (10, "npz", "mine", "auto", None),
        (12, "npz", "cifar:resnet20", "auto", None),
        (10, "digits", "mine", "imagenet", "imagenet"),
        (10, "npz", "cifar:resnet20", "none", None),
    ],
)
@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_which_alexnet_errors_are_divided_by(tmp_path, classes, data, model, choice, table):
    np.savez(tmp_path / "some.npz", images=np.zeros((8, 32, 32, 3), np.uint8), labels=np.arange(8))
    network = PixelModel(nn.Sequential(nn.Flatten(), nn.Linear(3072, classes)), spec=model, num_classes=classes)
    spec = f"npz:{tmp_path / 'some.npz'}" if data == "npz" else data
    found = measure(network, spec, shifts="clean", alexnet=choice, data_options={"limit": 8})
    assert found.record["alexnet"] == table
    assert found.summary["relative_to"] == (table and f"alexnet:{table}")


# The model and the world are left as found


def state_of(model):
    """Return all that must be left as it was, in plain types."""
    modules = [*model.modules()]
    return {
        "tensors": {name: value.tolist() for name, value in model.state_dict().items()},
        "gradients": [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
        "flags": [module.training for module in modules],
        "hooks": [[[*m._forward_hooks], [*m._forward_pre_hooks], [*m._backward_hooks]] for m in modules],
        "forward": [vars(module).get("forward") for module in modules],
    }


class Failing(nn.Module):
    """Fails at its n-th batch."""

    def __init__(self, inner, after):
        super().__init__()
        self.inner, self.batches = inner, after

    def forward(self, images):
        self.batches -= 1
        if self.batches < 0:
            raise RuntimeError("the model fails")
        return self.inner(images)


def fail(images):
    raise RuntimeError("the shift fails")


def negative(images):
    return -images


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize(
    ("wrap", "shifts", "error"),
    [
        (nn.Sequential, ["clean", "fog"], None),
        (partial(Failing, after=0), ["clean"], "the model fails"),
        (partial(Failing, after=3), ["clean", "fog"], "the model fails"),
        (nn.Sequential, {"fail": fail}, "the shift fails"),
        (nn.Sequential, {"negative": negative}, r"pixels in \[0,1\]"),
    ],
    ids=["success", "model fails", "model fails later", "shift fails", "shift is refused"],
)
def test_the_model_is_left_as_found(digits, wrap, shifts, error, mode):
    model = wrap(Network()).train(mode != "eval")
    if mode == "mixed":
        next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    model.register_forward_hook(lambda module, args, output: None)
    before = state_of(model)
    with nullcontext() if error is None else pytest.raises((RuntimeError, InputError), match=error):
        measure(model, digits, shifts=shifts, severities=[3], batch_size=30)
    assert state_of(model) == before
    assert len(set(before["flags"])) == (2 if mode == "mixed" else 1)


def test_a_training_model_is_measured_in_evaluation_mode(network, digits):
    assert measure(Network().train(), digits, shifts="clean").rows == measure(network, digits, shifts="clean").rows


def test_nobodys_random_numbers_are_drawn(network, digits):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    measure(network, digits, shifts=["clean", "frost", "glass_blur"], severities=[2], data_options={})
    assert states() == before


# Warnings and refusals


def test_near_chance_there_is_a_warning(digits):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.zeros_(constant[1].weight)
    with pytest.warns(UserWarning, match=r"Clean accuracy is 10.0% with 10 classes, near chance: .*labels.*mean"):
        measure(constant, digits, shifts="clean")


def test_without_clean_images_there_is_none(digits):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    assert len(measure(constant, digits, shifts="fog", severities=[1]).rows) == 1


def test_wrong_normalisation_is_pointed_at(network):
    model = PixelModel(network, Preprocessing(mean=(-40, 5, 6), std=(0.01, 0.02, 0.03)))
    with pytest.warns(UserWarning, match="`mean` and `std`"):
        measure(model, "digits", shifts="clean")


def test_labels_must_be_among_the_models_classes(network, digits, tmp_path):
    class Few(nn.Module):
        def forward(self, images):
            return network(images)[:, :7]

    with pytest.raises(
        InputError, match=r"the model's 7 classes, but the largest label in digits is 9; .* `class_map`"
    ):
        measure(Few(), digits, shifts="clean", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"shifts": "fogg"}, "Unknown shift 'fogg'. Did you mean 'fog'"),
        ({"severities": [0]}, "from 1 to 5, but got 0"),
        ({"severities": [6]}, "from 1 to 5, but got 6"),
        ({"severities": []}, "at least one severity"),
        ({"batch_size": 0}, "`batch_size` to be at least 1, but got 0"),
        ({"device": "tpu"}, "Unknown device 'tpu'"),
        ({"device": "cpu:0"}, None),
        ({"device": "cuda:-1"}, "Unknown device 'cuda:-1'"),
        ({"dtype": "float64"}, "Unknown dtype 'float64'"),
        ({"corrupt_at": "home"}, "Unknown place of corruption 'home'"),
        ({"alexnet": "vgg"}, "Unknown AlexNet 'vgg'"),
        ({"baseline": "nowhere"}, "nowhere is not a run directory"),
        ({"data": "digts"}, "Unknown data scheme 'digts'"),
        ({"model": "tmm:resnet50"}, "Unknown model scheme 'tmm'. Did you mean 'timm'"),
        ({"data": TensorDataset(torch.zeros(2, 3, 32, 32))}, "Expected labelled images .* has no labels"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)
def test_what_cannot_be_measured(network, digits, tmp_path, options, told):
    arguments = {"model": network, "data": digits, "shifts": "clean", "out": tmp_path / "run"} | options
    if told is None:
        assert measure(**arguments).rows
        return
    with pytest.raises(InputError, match=told):
        measure(**arguments)
    assert not (tmp_path / "run").exists()


def test_there_may_be_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == CPU
    for name in ("cuda", "cuda:1"):
        with pytest.raises(InputError, match=f"Device '{name}' .* no CUDA GPU; use `device` cpu"):
            find_device(name)


def test_outputs_that_are_not_finite_are_refused(network, digits, tmp_path):
    class Broken(nn.Module):
        def forward(self, images):
            return network(images) / 0

    with pytest.raises(InputError, match="not finite for 60 of 60 images"):
        measure(Broken(), digits, shifts="clean", out=tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()


# Subsets and the record


def test_a_limit_is_balanced_and_seeded(network):
    def measured(seed):
        options = {"limit": 30, "seed": seed}
        return measure(network, "digits", shifts="clean", data_options=options).record["data"]

    assert measured(0)["class_counts"] == [3] * 10
    assert measured(0) == measured(0)
    assert measured(1)["class_counts"] == [3] * 10
    assert measured(1)["indices_hash"] != measured(0)["indices_hash"]


def test_the_record_says_what_was_measured(network, digits):
    how = {"seed": 2, "options": CorruptionOptions(seed=5, quantise=False, frost=None)}  # the argument goes before
    found = measure(network, digits, shifts=["clean", "fog"], severities=[5, 1], batch_size=20, **how)
    record = json.loads(json.dumps(found.record))

    def hashed(values):
        return hashlib.sha256(b"".join(int(value).to_bytes(8, "little") for value in values)).hexdigest()[:16]

    assert record["model"]["spec"].endswith("Network")
    assert len(record["model"]["weights_hash"]) == 16
    assert record["model"]["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert (
        record["data"].items()
        >= {
            "spec": "digits",
            "images": 60,
            "shape": [3, 32, 32],
            "indices_hash": hashed(digits.indices),
            "labels_hash": hashed(digits.labels),
            "class_counts": [6] * 10,
            "preprocessing": {"resize": None, "crop": None, "interpolation": "bilinear"},
            "counts": {"converted_to_rgb": 0, "skipped": 0, "ignored": 0},
            "skipped": [],
        }.items()
    )
    assert record["corruption"]["table"] == "cifar"
    assert record["corruption"]["quantise"] is False
    assert record["corruption"]["reencode"] is False
    assert (record["shifts"], record["severities"]) == (["clean", "fog"], [1, 5])
    assert (record["protocols"], record["seed"], record["dtype"]) == ({"source": {}}, 2, "float32")
    assert record["environment"]["batch_size"] == 20
    assert record["environment"]["processes"] == 1
    assert torch.__version__.startswith(record["environment"]["versions"]["torch"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": CorruptionOptions(seed=1)}, "`seed`: 0 in the directory, 1 now"),
        ({"options": CorruptionOptions(reencode=True)}, "`corruption.reencode`: False in the directory, True now"),
        ({"dtype": "bfloat16"}, "`dtype`: 'float32' in the directory, 'bfloat16' now"),
        ({"data_options": {"limit": 20}}, "`data.images`: 30 in the directory, 20 now"),
        ({"model": Network(seed=1)}, "`model.weights_hash`: "),
        ({"alexnet": "imagenet"}, "`alexnet`: None in the directory, 'imagenet' now"),
        ({"batch_size": 3}, None),
    ],
    ids=["seed", "reencode", "dtype", "limit", "weights", "alexnet", "batch size"],
)
def test_a_directory_of_another_run_is_refused(network, tmp_path, change, named):
    arguments = {"model": network, "data": "digits", "shifts": "clean", "data_options": {"limit": 30}}
    measure(**arguments, out=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    if named is None:
        measure(**arguments | change, out=tmp_path)
    else:
        with pytest.raises(InputError) as error:
            measure(**arguments | change, out=tmp_path)
        assert f"{tmp_path} holds another run" in str(error.value)
        assert named in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


# Progress


def test_progress_counts_the_images_of_each_pass(network, digits):
    seen = []
    measure(network, digits, shifts=["clean", "fog"], severities=[2], batch_size=25, progress=seen.append)
    told = [(one.condition, one.number, one.passes, one.images, one.images_per_pass) for one in seen]
    assert told == [
        (condition, number, 2, images, 60)
        for number, condition in enumerate((Condition("clean", 0), Condition("fog", 2)))
        for images in (0, 25, 50, 60)
    ]
