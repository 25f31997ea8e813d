"""Networks that answer for each pixel: of any size, padded where one needs multiples; by every name; cut in two."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift._core.errors import BackboneWarning, InputError
from statshift.adapting.diagnose import diagnose
from statshift.adapting.rectify import rectify
from statshift.models import PixelModel, Preprocessing, extract_logits, load_model, save_weights
from statshift.models.pixel import IMAGENET_MEAN, IMAGENET_STD
from statshift.norms.sizes import fit_size
from statshift.results.provenance import describe_model
from statshift.splitting.branches import Branches
from statshift.splitting.cuts import find_cut, find_cuts
from statshift.splitting.split import split

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


def test_a_multiple_that_fits_one_size_by_chance_is_none():
    """Images of 60 px become 64 px by multiples of 8 and 16 too, but those of 72 px would stay so."""
    model = in_pixels(Hourglass(5))
    assert fit_size(model, [(60, 60), (72, 72)]) == 32
    assert model(torch.rand(1, 3, 72, 72)).shape[2:] == (72, 72)


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


# torchvision's


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deeplabv3_mobilenet_v3_large", {"aux_loss": True, "num_classes": 4}),
        ("lraspp_mobilenet_v3_large", {}),
    ],
)
def test_segmentation_models_of_torchvision_equal_the_plain_ones(name, arguments, tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(0)
    plain = settled(get_model(name, weights=None, weights_backbone=None, **arguments))
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    model = load_model(f"torchvision:{name}@none", weights=tmp_path / "plain.pt", model_args=arguments)
    expected = plain((ODD - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1))[
        "out"
    ]
    assert torch.equal(model(ODD), expected)
    assert model(ODD).shape == (2, arguments.get("num_classes", 21), 45, 67)
    assert model.num_classes == arguments.get("num_classes", 21)
    assert fit_size(model, [(45, 67)]) is None


def test_published_weights_tell_the_preprocessing_and_have_an_auxiliary_head(tmp_path):
    from torchvision.models import get_model

    name = "deeplabv3_mobilenet_v3_large"
    torch.save(get_model(name, weights=None, weights_backbone=None, aux_loss=True).state_dict(), tmp_path / "it.pt")
    model = load_model(f"torchvision:{name}@COCO_WITH_VOC_LABELS_V1", weights=tmp_path / "it.pt")
    assert model.preprocessing == Preprocessing(IMAGENET_MEAN, IMAGENET_STD, resize=520)
    assert model.loading_options == {}
    assert model.num_classes == 21
    assert model.network.aux_classifier is not None
    with pytest.raises(InputError, match=f"name its pretrained weights, as torchvision:{name}@TAG; choose from: COCO_"):
        load_model(f"torchvision:{name}")
    with pytest.raises(InputError, match=r"Did you mean 'aux_loss'\? Choose from: aux_loss, num_classes, weights_back"):
        load_model(f"torchvision:{name}@none", model_args={"aux_los": True})  # which torchvision would pass by
    with pytest.raises(InputError, match="Did you mean 'deeplabv3_resnet50'"):
        load_model("torchvision:deeplab_resnet50")


# the zoo


def features_of(network, images):
    """Return what comes into the head."""
    for name in ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        images = getattr(network, name)(images)
    return images


@torch.no_grad()
def test_the_zoos_resnets_are_dilated_as_those_of_torchvision_and_timm(tmp_path):
    """From ImageNet checkpoints, which have no head: it is drawn by a seed, whatever was drawn before."""
    import timm
    from torchvision.models import resnet50

    torch.manual_seed(0)
    theirs = {
        "resnet50": settled(resnet50(replace_stride_with_dilation=[False, True, True])),
        "resnet18": settled(timm.create_model("resnet18", output_stride=8)),
    }
    for name, plain in theirs.items():
        path = tmp_path / f"{name}.pt"
        torch.save({"state_dict": plain.state_dict()}, path)
        with pytest.warns(
            BackboneWarning, match=r"a backbone alone: the head, classifier, stays random and wants train"
        ):
            model = load_model(f"seg:{name}", weights=path, model_args={"num_classes": 12})
        plain.act = torch.relu
        theirs_then = features_of(plain, normalised(ODD))
        assert theirs_then.shape[2:] == (6, 9)  # an eighth
        ours_then = features_of(model.network, normalised(ODD))
        torch.testing.assert_close(ours_then, theirs_then, rtol=1e-4, atol=1e-5 * float(theirs_then.abs().max()))
        assert model(ODD).shape == (2, 12, 45, 67)
        with pytest.warns(BackboneWarning):
            again = load_model(f"seg:{name}", weights=path, model_args={"num_classes": 12})
        assert torch.equal(again(ODD), model(ODD))


@torch.no_grad()
def test_the_zoo_upsamples_bilinearly():
    network = load_model("seg:resnet18", model_args={"width": 0.125, "num_classes": 3}).network
    small = network.classifier(features_of(network, ODD))
    rows = [(torch.arange(size) + 0.5) * count / size - 0.5 for size, count in ((45, 6), (67, 9))]
    whole = small.double()
    for side, at in zip((2, 3), rows, strict=True):
        low = at.clamp(min=0).floor().long().clamp(max=whole.shape[side] - 1)
        high = (low + 1).clamp(max=whole.shape[side] - 1)
        share = (at.clamp(min=0) - low).double().reshape(-1, *[1] * (3 - side))
        whole = whole.index_select(side, low) * (1 - share) + whole.index_select(side, high) * share
    torch.testing.assert_close(network(ODD).double(), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("resnet18", {}, 11_176_512 + 19 * 513),
        ("resnet50", {"num_classes": 12}, 23_508_032 + 12 * 2049),
        ("resnet18", {"width": 0.25, "num_classes": 12}, 703_644),
    ],
)
def test_the_zoo_has_the_sizes_of_its_backbones(name, arguments, parameters):
    """Torchvision's ResNet-18 and 50 have 11,689,512 and 25,557,032 weights, 1000 x 513 and 1000 x 2049 in the head."""
    model = load_model(f"seg:{name}", model_args=arguments)
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert model.num_classes == arguments.get("num_classes", 19)
    assert model.preprocessing == Preprocessing(IMAGENET_MEAN, IMAGENET_STD)


def test_what_the_zoo_cannot_build_or_load_is_told(tmp_path):
    with pytest.raises(InputError, match="Unknown segmentation model 'resnet34'"):
        load_model("seg:resnet34")
    with pytest.raises(InputError, match="'classes'"):
        load_model("seg:resnet18", model_args={"classes": 3})
    network = load_model("seg:resnet18", model_args={"width": 0.125}).network
    state = network.state_dict()
    for wrong, told in (
        ({name: value for name, value in state.items() if name != "classifier.bias"}, "missing: classifier.bias"),
        ({name: value for name, value in state.items() if name[:6] not in ("classi", "layer4")}, "missing: layer4"),
        (state | {"fc.weight": torch.zeros(2, 2)}, "unexpected: fc.weight"),
    ):
        torch.save(wrong, tmp_path / "wrong.pt")
        with pytest.raises(InputError, match=told):
            load_model("seg:resnet18", weights=tmp_path / "wrong.pt", model_args={"width": 0.125})
    torch.save({name: value for name, value in state.items() if name != "conv1.weight"}, tmp_path / "wrong.pt")
    with pytest.raises(InputError, match=r"missing: conv1\.weight"):  # another network's head may not be missing
        load_model("seg:resnet18", weights=tmp_path / "wrong.pt", model_args={"width": 0.125})


@torch.no_grad()
@pytest.mark.parametrize("spec", ["seg:resnet18", "torchvision:lraspp_mobilenet_v3_large@none"])
def test_weights_come_back_as_they_were_saved(spec, tmp_path):
    arguments = {"width": 0.125} if spec.startswith("seg") else {}
    model = load_model(spec, model_args=arguments)
    settled(model)
    save_weights(model.network, tmp_path / "it.safetensors")
    again = load_model(spec, weights=tmp_path / "it.safetensors", model_args=arguments)
    assert torch.equal(again(ODD), model(ODD))


# cut in two


def espnet(shared):
    return load_model(
        f"py:{shared / 'data/espnet_camvid.py'}:espnet_camvid",
        weights=shared / "data/espnet_camvid.pth",
        mean=(0.41190, 0.42513, 0.43267),
        std=(0.27413, 0.28505, 0.28284),
    )


def dense_model(name, shared):
    torch.manual_seed(0)
    if name == "espnet":
        return espnet(shared)
    if name == "hourglass":
        return in_pixels(Hourglass())
    arguments = {"width": 0.125} if name.startswith("seg") else {"aux_loss": True} if "deeplab" in name else {}
    return in_pixels(load_model(name, model_args=arguments).network)


CUTS = [
    ("espnet", "conv.conv", 1),
    ("hourglass", "norm", 1),
    ("seg:resnet50", "conv2_3", 18),
    ("seg:resnet18", "layer3.0", 10),
    ("torchvision:deeplabv3_mobilenet_v3_large@none", "classifier.0", 62),
    ("torchvision:lraspp_mobilenet_v3_large@none", "backbone.4", 21),
    ("hourglass", "input", 1),
]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "at", "cuts", "trace"),
    [(*one, trace) for one in CUTS for trace in (True, False)]
    + [("torchvision:deeplabv3_resnet50@none", "conv2_3", 23, True)],
)
def test_prefix_and_suffix_are_the_whole_at_any_size(name, at, cuts, trace, shared):
    model = dense_model(name, shared)
    assert len(find_cuts(model, ODD)) == cuts
    parts = split(model, at, ODD, trace=trace)
    assert (parts.graph is not None) is trace  # though they read the image's size behind the cut
    for images in (ODD, TINY, ODD[:1]):
        logits = model(images)
        assert logits.shape[2:] == images.shape[2:]
        found = parts.suffix(parts.prefix(images))
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-6 * float(logits.abs().max()))


@pytest.mark.parametrize(("name", "at", "cuts"), CUTS[1:5])
def test_branches_answer_at_the_images_size(name, at, cuts, shared):
    model = dense_model(name, shared)
    branches = Branches(model, at, ODD).eval()
    with torch.no_grad():
        expected = model(ODD)
        features = branches.prefix(ODD)
        for branch in ("clean", "adv"):
            torch.testing.assert_close(branches.suffix(features, branch), expected)
        assert branches._folded is not None
        assert len(branches._folded.pairs) == len(find_cut(model, at, ODD).norms_after)
        with branches.attacked() as suffix:
            torch.testing.assert_close(suffix(features), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_auxiliary_head_is_not_trained_by_what_the_main_one_answers(shared):
    branches = Branches(dense_model("torchvision:deeplabv3_mobilenet_v3_large@none", shared), "classifier.0", ODD)
    trained = {name for name, weight in branches.clean.network.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"classifier"}
    assert "classifier.4.weight" in trained


@torch.no_grad()
def test_a_model_of_hugging_face_answers_through_its_logits(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=5
    )
    network = transformers.SegformerForSemanticSegmentation(config).eval()
    model = load_model(network, mean=MEAN, std=STD)
    assert torch.equal(model(ODD), network(normalised(ODD)).logits)
    assert model(ODD).shape == (2, 5, 12, 17)
