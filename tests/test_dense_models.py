"""Networks that answer for each pixel: of any size, padded where one needs multiples; by every name; cut in two."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift.adapting.diagnose import diagnose
from statshift.adapting.rectify import rectify
from statshift.models import PixelModel, Preprocessing, extract_logits, load_model
from statshift.norms.sizes import fit_size
from statshift.results.provenance import describe_model

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning"),  # images of noise are alike
]

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TINY = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
ODD = torch.rand(2, 3, 45, 67, generator=torch.Generator().manual_seed(1))


class Hourglass(nn.Module):
    """Halves the image `times` times and doubles it again; a shortcut at each size, so it takes 2^times alone."""

    def __init__(self, times=3, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.ModuleList(nn.Conv2d(4, 4, 2, 2) for _ in range(times))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(times))
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, images):
        features, kept = self.norm(self.stem(images)).relu(), []
        for conv, norm in zip(self.down, self.norms, strict=True):
            kept.append(features)
            features = norm(conv(features)).relu()
        for shortcut in reversed(kept):
            features = F.interpolate(features, scale_factor=2.0) + shortcut
        return self.head(features)


class Coarse(nn.Module):
    """Refuses other sizes than multiples of 16, and answers at an eighth of theirs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 8, 8)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, images):
        assert images.shape[2] % 16 == images.shape[3] % 16 == 0, "multiples of 16"
        return self.norm(self.conv(images))


def settled(network):
    """Return a network with statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def in_pixels(network, **more):
    return PixelModel(settled(network), Preprocessing(MEAN, STD, **more)).eval()


def normalised(images):
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def test_padded_and_cropped_is_the_network_on_images_padded_by_hand():
    model = in_pixels(Hourglass(), size_multiple=8)
    by_hand = model.network(F.pad(normalised(ODD), (0, 72 - 67, 0, 48 - 45), mode="replicate"))
    assert model(ODD).shape == (2, 5, 45, 67)
    assert torch.equal(model(ODD), by_hand[..., :45, :67])
    with pytest.raises(RuntimeError, match="size of tensor"):
        in_pixels(Hourglass())(ODD)


@torch.no_grad()
def test_smaller_logits_are_resized_to_the_padded_size_before_they_are_cropped():
    model = in_pixels(Coarse(), size_multiple=16)
    small = model.network(F.pad(normalised(ODD), (0, 80 - 67, 0, 48 - 45), mode="replicate"))
    assert small.shape == (2, 5, 6, 10)
    whole = F.interpolate(small, (48, 80), mode="bilinear", align_corners=False)
    assert torch.equal(model(ODD), whole[..., :45, :67])
    assert torch.equal(model(TINY), model.network(normalised(TINY)))  # which nothing was padded of


@torch.no_grad()
@pytest.mark.parametrize("multiple", [2, 8, 16])
def test_multiples_leave_the_bytes_as_they_are(multiple):
    model = in_pixels(Hourglass())
    assert torch.equal(load_model(model, size_multiple=multiple)(TINY), model(TINY))


def test_padding_passes_the_gradient_of_the_last_row_and_column_on():
    """Each pixel's gradient is the number of padded pixels that it stands for."""
    model = PixelModel(nn.Identity(), Preprocessing((0, 0, 0), (1, 1, 1), size_multiple=8))
    images = ODD.clone().requires_grad_()
    model.normalise(images).sum().backward()
    expected = torch.ones(45, 67)
    expected[:, -1] += 5
    expected[-1] *= 4
    assert torch.equal(images.grad, expected.expand(2, 3, 45, 67))


@pytest.mark.parametrize(
    ("network", "images", "multiple"),
    [
        (Hourglass(3), ODD, 8),
        (Hourglass(4), ODD, 16),
        (Hourglass(5), ODD, 32),
        (Hourglass(6), ODD, 64),
        (Hourglass(3), TINY, None),
        (Hourglass(5), TINY, 32),
        (Hourglass(0), ODD, None),
        (Coarse(), ODD, 16),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 64, 5)), ODD, None),
        (Hourglass(3), ODD[..., :47, :], 8),
    ],
)
def test_the_least_multiple_that_helps_is_found(network, images, multiple):
    model = in_pixels(network)
    assert fit_size(model, [images.shape[-2:]]) == multiple
    assert model.preprocessing == Preprocessing(MEAN, STD, size_multiple=multiple)
    if multiple is not None:
        assert model(images).shape == (2, 5, *images.shape[-2:])


def test_the_hardest_of_several_sizes_decides():
    model = in_pixels(Hourglass(4))
    assert fit_size(model, [(64, 64), (64, 48)]) is None
    assert fit_size(model, [(64, 64), (64, 56), (48, 80)]) == 16
    assert fit_size(in_pixels(Hourglass(4)), [(64, 64), (50, 64)]) == 16


def test_an_answer_larger_than_the_image_asks_for_a_multiple():
    """Strides that round up and doublings that fit by chance: 47 px would come back as 48."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 5, 2, 2))
    assert network(torch.zeros(1, 3, 47, 47)).shape == (1, 5, 48, 48)
    assert fit_size(in_pixels(network), [(47, 47)]) == 8
    doubling = nn.Sequential(nn.BatchNorm2d(3), nn.Upsample(scale_factor=2))  # meant to answer so
    assert fit_size(in_pixels(doubling), [(47, 47)]) is None


def test_what_is_given_is_not_tried_and_the_model_is_left_as_it_was():
    model = in_pixels(Hourglass(3), size_multiple=24)
    assert fit_size(model, [(45, 67)]) == 24
    assert fit_size(in_pixels(Hourglass(3), input_size=32), [(45, 67)]) is None
    assert fit_size(Hourglass(3), [(45, 67)]) is None
    noisy = nn.Sequential(Hourglass(3), nn.Dropout2d())
    model = load_model(noisy, mean=MEAN, std=STD).train()
    noisy[0].norm.eval()
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    buffers = {name: value.clone() for name, value in model.state_dict().items()}
    assert fit_size(model, [(45, 67)]) == 8
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())


def test_the_record_says_the_multiple_and_nothing_where_there_is_none():
    model = in_pixels(Hourglass(3))
    assert "size_multiple" not in describe_model(model)["preprocessing"]
    fit_size(model, [(45, 67)])
    assert describe_model(model)["preprocessing"]["size_multiple"] == 8
    again = load_model(model)
    assert again.preprocessing == model.preprocessing
    assert load_model(model, size_multiple=16).preprocessing.size_multiple == 16


@pytest.mark.parametrize("value", [0, -8, 8.0, True, "8"])
def test_a_multiple_that_cannot_be_is_refused(value):
    with pytest.raises(InputError, match="Expected `size_multiple` to be a positive integer, but got"):
        load_model(Hourglass(), mean=MEAN, std=STD, size_multiple=value)


def test_rectifying_and_diagnosing_find_the_multiple():
    for images in (ODD, TINY):
        model = in_pixels(Hourglass(3))
        padded = load_model(model, size_multiple=8)
        adapted = rectify(model, images, "replace")
        with torch.no_grad():
            assert torch.equal(adapted(images), rectify(padded, images, "replace")(images))
        assert diagnose(model, images).shift.tolist() == diagnose(padded, images).shift.tolist()


LOGITS = torch.rand(2, 5, 6, 7)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"out": LOGITS, "aux": LOGITS + 1},
        {"aux": LOGITS + 1, "out": LOGITS},
        SimpleNamespace(logits=LOGITS, loss=None),
        {"loss": torch.zeros(()), "logits": LOGITS},
        (LOGITS, LOGITS + 1),
    ],
)
def test_logits_of_each_pixel_are_found_in_what_networks_return(output):
    assert extract_logits(output) is LOGITS
