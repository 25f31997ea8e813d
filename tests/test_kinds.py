"""Kinds of model that users have."""

import copy

import pytest
import torch
from torch import nn

from statshift import PixelAttack, attack_images, load_data, load_model, measure, rectify
from statshift.models import weights_hash

IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(head=False):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, *([nn.Conv2d(4, 10, 1)] if head else [nn.Flatten(), nn.Linear(4, 10)])).eval()


@pytest.mark.parametrize(("kind", "near"), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_images_are_cast_to_the_models_type(kind, near):
    wanted, given = load_model(network()), load_model(network().to(kind))
    assert given(IMAGES).dtype == kind
    torch.testing.assert_close(given(IMAGES).float(), wanted(IMAGES), rtol=0, atol=near)
    rectified, reference = (rectify(one, IMAGES, "replace")(IMAGES).float() for one in (given, wanted))
    torch.testing.assert_close(rectified, reference, rtol=0, atol=5 * near)
    found = attack_images(given, IMAGES, torch.arange(8), PixelAttack(8 / 255, steps=1))
    assert float((found - IMAGES).abs().max()) == pytest.approx(8 / 255, rel=1e-5)


def test_logits_of_a_convolution_are_logits():
    flat, square = network(), network(head=True)
    square[4].weight.data, square[4].bias.data = flat[5].weight.data[:, :, None, None], flat[5].bias.data
    torch.testing.assert_close(load_model(square)(IMAGES), load_model(flat)(IMAGES))


class Extra(nn.Linear):
    extra = "one"

    def get_extra_state(self):
        return {"said": self.extra, "table": torch.arange(3)}

    def set_extra_state(self, state):
        self.extra = state["said"]


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_a_module_with_extra_state_is_measured_and_hashed():
    model = network()
    plain = weights_hash(model)
    model[5] = Extra(4, 10)
    first = weights_hash(model)
    assert first == weights_hash(copy.deepcopy(model)) != plain
    model[5].extra = "two"
    assert weights_hash(model) != first
    found = measure(model, load_data("digits", limit=20), shifts="clean", device="cpu")
    assert found.record["model"]["weights_hash"] == weights_hash(model)
