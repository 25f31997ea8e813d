"""Shifts by name: groups, refusals, conditions, and a user's own functions."""

import functools

import pytest
import torch
from torch import nn

from statshift._core.errors import InputError
from statshift.shifts.conditions import Condition, CorruptionOptions, conditions, resolve
from statshift.shifts.corruptions import COMMON, HOLDOUT, corrupt
from statshift.shifts.shift import under
from statshift.shifts.stored import StoredShift

IMAGES = torch.randint(0, 251, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
INDICES = torch.tensor([5, 0, 902])
OPTIONS = CorruptionOptions(seed=4)


def flip(images):
    return images.flip(-1)


def darken(images, severity):
    return images * (1 - severity / 10)


def apply(images, condition, indices, options, functions):
    """Return images under a condition of a shift that ships or of one of these functions."""
    (shift,) = resolve([functions or condition.shift], options)
    return under(shift, images, condition.severity, seed=options.seed, indices=indices)


# Names


@pytest.mark.parametrize(
    ("shifts", "names"),
    [
        ("common", [*COMMON]),
        (("holdout",), [*HOLDOUT]),
        (["clean", "common", "holdout"], ["clean", *COMMON, *HOLDOUT]),
        (["fog", "clean", "fog"], ["fog", "clean"]),
        (["fog", "common"], ["fog", *(name for name in COMMON if name != "fog")]),
        ({"flip": flip}, ["clean", "flip"]),
        ([{"flip": flip}], ["flip"]),
        (["snow", {"flip": flip, "darken": darken}], ["snow", "flip", "darken"]),
    ],
)
def test_names_come_in_order_and_once(shifts, names):
    found = resolve(shifts)
    assert [one.name for one in found] == names
    own = {one.name: one.code() for one in found if one.code() is not None}
    assert own == {name: globals()[name] for name in names if name in ("flip", "darken")}


def test_the_groups_are_the_benchmarks():
    assert (len(COMMON), len(HOLDOUT)) == (15, 4)
    assert (COMMON[0], COMMON[-1]) == ("gaussian_noise", "jpeg_compression")
    assert set(HOLDOUT) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}


def test_stored_shifts_take_the_place_of_those_that_are_made():
    stored = {name: StoredShift(name, "cifar-c:somewhere", (1, 2)) for name in ("snow", "rain", "fog")}
    assert resolve("common", offered=stored) == [stored["snow"], stored["fog"]]
    assert resolve(["rain", "snow"], offered=stored) == [stored["rain"], stored["snow"]]
    with pytest.raises(
        InputError, match=r"Unknown shift 'frost'.*Choose from: clean, common, holdout, .*snow, rain, fog"
    ):
        resolve("frost", offered=stored)


@pytest.mark.parametrize(
    ("shifts", "told"),
    [
        ("gausian_noise", "Unknown shift 'gausian_noise'. Did you mean 'gaussian_noise'?"),
        (["clean", "Fog"], "Unknown shift 'Fog'. Did you mean 'fog'?"),
        ("qqq", "Unknown shift 'qqq'. Choose from: clean, common, holdout, "),
        ([], "Expected at least one shift"),
        ([{}], "Expected at least one shift"),
        ({"fog": flip}, "The shift name 'fog' is taken"),
        ({"clean": flip}, "The shift name 'clean' is taken"),
        ([{"mine": flip}, {"mine": darken}], "The shift name 'mine' is taken"),
    ],
)
def test_names_that_cannot_be_are_refused(shifts, told):
    with pytest.raises(InputError) as error:
        resolve(shifts)
    assert told in str(error.value)


# Conditions


def test_every_shift_comes_at_every_severity_it_has():
    shifts = resolve(["clean", "fog", {"flip": flip, "darken": darken}])
    found = [str(condition) for condition in conditions(shifts, [4, 2, 2])]
    assert found == ["clean", "fog 2", "fog 4", "flip", "darken 2", "darken 4"]


@pytest.mark.parametrize("severity", [0, 6, -1, 2.0, "3", True, None])
def test_a_severity_is_an_integer_from_1_to_5(severity):
    with pytest.raises(InputError, match=f"an integer from 1 to 5, but got {severity!r}"):
        conditions(resolve("fog"), [1, severity])


def test_there_is_a_severity():
    with pytest.raises(InputError, match="at least one severity"):
        conditions(resolve("clean"), [])


# Images


def test_clean_images_stay_as_they_are():
    assert torch.equal(apply(IMAGES, Condition("clean", 0), INDICES, OPTIONS, {}), IMAGES)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("gaussian_noise", {}),
        ("gaussian_noise", {"seed": 7}),
        ("gaussian_noise", {"table": "imagenet"}),
        ("speckle_noise", {"quantise": False}),
        ("contrast", {"reencode": True}),
    ],
)
def test_a_corruption_is_made_by_the_options(name, how):
    found = apply(IMAGES, Condition(name, 3), INDICES, CorruptionOptions(**how), {})
    assert torch.equal(found, corrupt(IMAGES, name, 3, indices=INDICES, **how))
    assert bool(how) != torch.equal(found, corrupt(IMAGES, name, 3, indices=INDICES))


def test_a_function_gets_what_it_names():
    def spy(images, *, indices, seed, severity):
        seen.update(indices=indices.tolist(), seed=seed, severity=severity)
        return images

    seen = {}
    apply(IMAGES, Condition("spy", 3), INDICES, OPTIONS, {"spy": spy})
    assert seen == {"indices": [5, 0, 902], "seed": 4, "severity": 3}


@pytest.mark.parametrize(
    "function",
    [
        flip,
        lambda images, **rest: images.flip(3),
        functools.partial(torch.flip, dims=[-1]),
        torch.fliplr,
        nn.Identity(),
    ],
    ids=["function", "lambda", "partial", "built-in", "module"],
)
def test_anything_callable_is_a_function(function):
    (condition,) = conditions(resolve([{"mine": function}]), [1, 2])
    assert condition == Condition("mine", 0)
    assert torch.equal(apply(IMAGES, condition, INDICES, OPTIONS, {"mine": function}), function(IMAGES))


@pytest.mark.parametrize(("levels", "kept"), [(0.3, 0), (0.9, 0), (1.2, 1), (4.9, 4)])
def test_a_function_is_truncated_to_8_bits_as_a_corruption(levels, kept):
    functions = {"brighter": lambda images: images + levels / 255}
    brighter = apply(IMAGES, Condition("brighter", 0), INDICES, OPTIONS, functions)
    assert torch.equal(brighter, (IMAGES * 255 + kept) / 255)
    exact = apply(IMAGES, Condition("brighter", 0), INDICES, CorruptionOptions(quantise=False), functions)
    assert torch.equal(exact, IMAGES + levels / 255)


def test_a_function_may_work_in_place_and_in_another_type():
    before = IMAGES.clone()
    halved = {"half": lambda images: images.mul_(0.5).double()}
    found = apply(IMAGES, Condition("half", 0), INDICES, OPTIONS, halved)
    assert found.dtype == torch.float32
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (lambda images: images[:, :1], r"to return \(3, 3, 32, 32\), but got \(3, 1, 32, 32\)"),
        (lambda images: images[:2], r"but got \(2, 3, 32, 32\)"),
        (lambda images: None, "but got NoneType"),
        (lambda images: images.numpy(), "but got ndarray"),
        (lambda images: images * 255, r"pixels in \[0,1\], but got values from .* to 25"),
        (lambda images: images - 2, r"but got values from -2 to -1\.0"),
        (lambda images: images / 0 * 0, r"but got .*nan"),
    ],
)
def test_what_a_function_may_not_return(result, told):
    with pytest.raises(InputError, match=f"Expected the shift 'mine' .*{told}"):
        apply(IMAGES, Condition("mine", 0), INDICES, OPTIONS, {"mine": result})
