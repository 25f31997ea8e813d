"""How many images go through the model, and how often the host reads from the device: rows stay equal."""

import threading
from functools import partial
from itertools import count, islice

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import statshift
from statshift import AdaptationOptions, load_data, load_model
from statshift._core.errors import InputError
from statshift.measuring import adapted
from statshift.measuring.ahead import ahead
from statshift.measuring.evaluate import Evaluator
from statshift.shifts.conditions import Condition, CorruptionOptions, resolve
from statshift.shifts.corruptions import COMMON, corruption

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:Clean accuracy is", "ignore:The protocol auto leaves the model alone", "ignore:The images to rectify"
    ),
]

IMAGES, FEW, CONDITIONS = 60, 32, 2
measure = partial(statshift.measure, device="cpu", shifts=["clean", "fog"], severities=[3], batch_size=16, examples=0)
ADAPTATION = AdaptationOptions(samples=FEW)


def network(norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), norm, nn.ReLU(), nn.Flatten(), nn.Linear(392, 10)).eval()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=IMAGES)


def counted(norm, data, rectify, **more):
    """Return the rows, and how many images the model was given in batches of more than one."""
    model, seen = load_model(network(norm)), []
    model.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    rows = measure(model, data, rectify=rectify, adaptation=ADAPTATION, **more).rows
    return rows, sum(images for images in seen if images > 1)


def in_full(monkeypatch):
    """Let every answer be made, also where it is known."""
    evaluate = adapted.evaluate_adapted

    def made(*given, source):
        return evaluate(*given)

    monkeypatch.setattr(adapted, "evaluate_adapted", made)


@pytest.mark.parametrize(
    ("norm", "rectify", "few", "saved"),
    [
        (nn.BatchNorm2d(8), (), 0, 0),
        (nn.BatchNorm2d(8), ["replace", "prior"], 2 * FEW, 0),
        (nn.BatchNorm2d(8), ["auto"], 2 * FEW, 1),  # a survey before; it shows a shift of one of the two conditions
        (nn.GroupNorm(2, 8), ["auto"], 0, 2),
        (nn.BatchNorm2d(8), {"stays": lambda stored, observed, images: stored}, FEW, 2),
    ],
    ids=["source", "rules", "auto", "without batch norm", "a rule that stays"],
)
def test_what_the_source_has_answered_stands(norm, rectify, few, saved, digits, monkeypatch):
    rows, images = counted(norm, digits, rectify)
    in_full(monkeypatch)
    expected, before = counted(norm, digits, rectify)
    assert rows == expected
    assert before == CONDITIONS * ((1 + len(rectify)) * IMAGES + few)
    assert before - images == saved * IMAGES


class Reads(TorchDispatchMode):
    """Count what would wait for a device: a value that the host looks at, or a shape that depends on values."""

    READING = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "unique", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.met = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        if name.lstrip("_") in {one.lstrip("_") for one in self.READING}:
            self.met.append(name)
        return function(*args, **kwargs or {})


@pytest.mark.filterwarnings("ignore:No frost photographs")
@pytest.mark.parametrize("shift", ["clean", *COMMON])
def test_no_batch_is_waited_for(shift, digits, monkeypatch):
    """On the CPU the same operations run as on a GPU, but for the check of the pixels' range, which there is none."""
    monkeypatch.setattr(corruption, "check_images", lambda images, **how: None)
    (made,) = resolve([shift], CorruptionOptions(), {})
    evaluate = Evaluator(
        load_model(network(nn.BatchNorm2d(8))),
        torch.device("cpu"),
        dtype="float32",
        compiled=False,
        shifts={shift: made},
        batch_size=4,
    )
    condition = Condition(shift, 3 if made.severities else 0)
    evaluate(digits, condition, lambda images: None)  # constants are made
    with Reads() as reads:
        evaluate(digits, condition, lambda images: None)
    assert reads.met == []


def test_a_read_is_counted():
    with Reads() as reads:
        assert float(torch.ones(())) == 1
        assert bool(torch.ones(3).all())
    assert reads.met == ["_local_scalar_dense", "_local_scalar_dense"]


# Batches ahead


def test_values_come_in_order_and_the_thread_ends():
    threads = threading.active_count()
    assert list(ahead(range(9))) == list(range(9))
    endless = ahead(count())
    assert list(islice(endless, 5)) == [0, 1, 2, 3, 4]
    endless.close()
    assert threading.active_count() == threads


def test_what_is_raised_ahead_is_raised_in_its_turn():
    def damaged():
        yield 1
        raise InputError("Cannot read the second.")

    values = ahead(damaged())
    assert next(values) == 1
    with pytest.raises(InputError, match="Cannot read the second"):
        next(values)


def test_rows_of_batches_ahead_are_equal(digits, monkeypatch):
    rows, _ = counted(nn.BatchNorm2d(8), digits, ["replace"])
    monkeypatch.setattr(digits, "workers", 2)
    assert counted(nn.BatchNorm2d(8), digits, ["replace"])[0] == rows
