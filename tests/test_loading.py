"""Devices by name or as they are, models put on them, and models that cannot be used as they are."""

import copy

import pytest
import torch
from torch import nn

from statshift import (
    AdaptationOptions,
    InputError,
    PixelAttack,
    attack_images,
    diagnose,
    ligs,
    load_data,
    load_model,
    measure,
    rectified,
    rectify,
    write_adversarial,
)
from statshift.measuring.loading import find_device, load, place

CPU, META = torch.device("cpu"), torch.device("meta")
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    ).eval()


def device_of(model):
    return {str(one.device) for one in [*model.parameters(), *model.buffers()]}


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_a_device_is_taken_wherever_its_name_is(tmp_path):
    assert find_device(CPU) == find_device("cpu") == CPU
    with pytest.raises(InputError, match="Unknown device 'meta'"):
        find_device(META)
    for mps in ("mps", torch.device("mps"), "mps:0"):
        with pytest.raises(InputError, match=r"Device 'mps(:0)?' has no float64, .* use `device` cpu\.$"):
            find_device(mps)
    data = load_data("digits", limit=20)
    model = load_model(network())
    named, given = (measure(model, data, shifts="clean", device=one).rows for one in ("cpu", CPU))
    assert named == given
    written = write_adversarial(model, data, "fgsm:8/255", out=tmp_path, device=CPU)
    assert written.record["data"]["images"] == 20


@pytest.mark.parametrize("wrap", [load_model, lambda one: one], ids=["pixel", "bare"])
def test_a_callers_model_stays_where_it_is(wrap):
    data = load_data("digits", limit=20)
    model = wrap(network())
    placed, same = load(model, data, META, None)
    assert same is data
    assert device_of(model) == {"cpu"}
    assert device_of(placed) == {"meta"}
    here = place(model, CPU)
    assert getattr(here, "network", here) is getattr(model, "network", model)  # nothing is copied in its own place
    moved = place(model, META, in_place=True)
    assert device_of(model) == device_of(moved) == {"meta"}


def test_no_protocol_is_told_of_in_one_line():
    model = load_model(network())
    with pytest.raises(
        InputError, match="`protocol` to be a name, a function or a Protocol, but got None; choose from: "
    ):
        rectify(model, IMAGES, None)
    with pytest.raises(InputError, match=r"protocols as names or \{name: function\}, but got None; \(\) is the source"):
        measure(model, "digits", rectify=None, adaptation=AdaptationOptions())


def test_a_model_made_in_inference_mode_is_used_as_far_as_it_can_be():
    with torch.inference_mode():
        model = load_model(network())
    ordinary = load_model(network())
    wanted = rectify(ordinary, IMAGES, "replace")(IMAGES)
    torch.testing.assert_close(rectify(model, IMAGES, "replace")(IMAGES), wanted)
    assert diagnose(model, IMAGES).number == diagnose(ordinary, IMAGES).number

    def within():
        with rectified(model, IMAGES):
            pass

    takers = [lambda: attack_images(model, IMAGES, LABELS, PixelAttack()), lambda: ligs(model, IMAGES, LABELS)]
    for take in [within, *takers]:
        with pytest.raises(InputError, match=r"was made in torch\.inference_mode, .* build the model outside of it"):
            take()
    free = copy.deepcopy(model)
    with rectified(free, IMAGES, "replace"):
        torch.testing.assert_close(free(IMAGES), wanted)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("compiled", [torch.jit.script, lambda one: torch.jit.trace(one, IMAGES)])
def test_a_scripted_or_traced_model_is_attacked_and_told_that_its_norms_are_out_of_reach(compiled):
    model, attack = load_model(compiled(network())), PixelAttack(8 / 255, steps=2)
    found = attack_images(model, IMAGES, LABELS, attack)
    torch.testing.assert_close(found, attack_images(load_model(network()), IMAGES, LABELS, attack), rtol=0, atol=1e-6)
    for take in (rectify, diagnose):
        with pytest.raises(InputError, match=r"it is scripted or traced \(torch\.jit\): give the module"):
            take(model, IMAGES)
