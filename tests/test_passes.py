"""How many images go through the model: what one condition's passes share is made once, and rows stay equal."""

from functools import partial

import pytest
import torch
from torch import nn

import statshift
from statshift import AdaptationOptions, load_data, load_model
from statshift.measuring import adapted

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
