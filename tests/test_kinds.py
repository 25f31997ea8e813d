"""Kinds of model that users have."""

import copy
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.ao.quantization import DeQuantStub, QuantStub, convert, get_default_qconfig, prepare
from torch.nn.utils import prune

from statshift import (
    AdaptationOptions,
    InputError,
    PixelAttack,
    attack_images,
    load_data,
    load_model,
    measure,
    rectified,
    rectify,
)
from statshift._core.errors import (
    DefaultPreprocessingWarning,
    ProbabilitiesWarning,
    RandomAnswersWarning,
    SkippedLayerWarning,
)
from statshift.models import weights_hash
from statshift.results.answering import are_probabilities

NUMBERS = torch.Generator().manual_seed(0)
IMAGES = torch.rand(8, 3, 32, 32, generator=NUMBERS)
UNLIKE = IMAGES * torch.rand(8, 3, 1, 1, generator=NUMBERS)


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


def frozen_batch_norm(model):
    norm = torchvision.ops.FrozenBatchNorm2d(4)
    norm.load_state_dict(model[1].state_dict(), strict=False)
    model[1] = norm
    return model


class InPlaceABN(nn.Module):
    """As the package inplace-abn has it: it holds the statistics of a batch norm, and writes over its input."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x):
        shape = (1, -1, 1, 1)
        scale = self.weight / (self.running_var + self.eps).sqrt()
        x.sub_(self.running_mean.view(shape)).mul_(scale.view(shape)).add_(self.bias.view(shape))
        return x


def in_place_abn(model):
    model[1] = InPlaceABN(model[1])
    return model


class Calling(nn.Module):
    """Calls its norm otherwise than a module is called."""

    def __init__(self, body, how):
        super().__init__()
        self.body, self.how = body, how

    def forward(self, images):
        features = self.body[0](images)
        norm = self.body[1]
        return self.body[2:](norm(input=features) if self.how == "keyword" else norm.forward(features))


def pruned(model):
    prune.custom_from_mask(model[0], "weight", torch.ones_like(model[0].weight))
    model(IMAGES)
    return model


def weight_normed(model):
    nn.utils.weight_norm(model[0])
    model(IMAGES)
    return model


SAME = {
    "FrozenBatchNorm2d": frozen_batch_norm,
    "in-place ABN": in_place_abn,
    "keyword": lambda model: Calling(model, "keyword"),
    "forward": lambda model: Calling(model, "forward"),
    "pruned": pruned,
    "weight norm": weight_normed,
    "compiled": lambda model: torch.compile(model, backend="eager"),
}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("protocol", ["auto", "replace"])
def test_every_way_to_hold_a_batch_norm_is_rectified_alike(kind, protocol):
    plain, other = load_model(network()), load_model(SAME[kind](network()))
    before = weights_hash(other)
    wanted = rectify(plain, UNLIKE, protocol)(UNLIKE)
    assert float((wanted - plain(UNLIKE)).abs().max()) > 1e-3
    torch.testing.assert_close(rectify(other, UNLIKE, protocol)(UNLIKE), wanted, rtol=0, atol=1e-5)
    with rectified(other, UNLIKE, protocol):
        torch.testing.assert_close(other(UNLIKE), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(other(UNLIKE), plain(UNLIKE), rtol=0, atol=1e-5)
    assert weights_hash(other) == before
    assert all("forward" not in vars(module) for name, module in other.named_modules() if name.endswith("1"))


@pytest.mark.filterwarnings("ignore:Clean accuracy", "ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own
@pytest.mark.parametrize("kind", SAME)
def test_every_way_to_hold_a_batch_norm_is_measured_alike(kind):
    data = load_data("digits", limit=20)
    asked = {"shifts": ["clean", "pgd-linf:1/255:1"], "rectify": "replace", "device": "cpu"}
    asked |= {"adaptation": AdaptationOptions(8, draws=1)}
    wanted, found = (measure(one, data, **asked).rows for one in (network(), SAME[kind](network())))
    assert [row["bits"] for row in found] == [row["bits"] for row in wanted]
    assert len(found) == 4


def test_a_norm_of_single_images_is_no_batch_norm():
    model = network()
    model[1] = nn.InstanceNorm2d(4, track_running_stats=True)
    with pytest.raises(InputError, match=r"its norms are: InstanceNorm2d\. `measure` without protocols works"):
        rectify(model, IMAGES)


def test_a_norm_without_statistics_beside_others_is_told_by_name():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), *network()).eval()
    with pytest.warns(SkippedLayerWarning, match="^network.0: no running statistics are kept there"):
        rectify(load_model(model), IMAGES, "replace")


class Quantised(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.body, self.out = QuantStub(), network(), DeQuantStub()

    def forward(self, images):
        return self.out(self.body(self.into(images)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_models_are_measured_and_rectified():
    model = Quantised().eval()
    model.qconfig = get_default_qconfig(torch.backends.quantized.engine)
    prepare(model, inplace=True)
    model(IMAGES)
    convert(model, inplace=True)
    plain, data = load_model(network(), mean=(0, 0, 0), std=(1, 1, 1)), load_data("digits", limit=20)
    given = load_model(model, mean=(0, 0, 0), std=(1, 1, 1))
    wanted, found = (rectify(one, IMAGES, "prior")(IMAGES) for one in (plain, given))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.05)
    assert len(measure(given, data, shifts="clean", rectify="replace", device="cpu",
                       adaptation=AdaptationOptions(8, draws=1)).rows) == 2  # fmt: skip


@pytest.mark.filterwarnings("ignore:Clean accuracy", "ignore:`torch.jit", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["scripted", "traced", "exported"])
def test_models_without_reachable_norms_are_measured_and_told_the_next_step(how):
    dynamic = {"dynamic_shapes": ({0: torch.export.Dim("images")},)}
    made = {
        "scripted": lambda: torch.jit.script(network()),
        "traced": lambda: torch.jit.trace(network(), IMAGES),
        "exported": lambda: torch.export.export(network(), (IMAGES,), **dynamic).module(),
    }[how]()
    model, plain, data = load_model(lambda: made), load_model(network()), load_data("digits", limit=20)
    torch.testing.assert_close(model(IMAGES), plain(IMAGES))
    asked = {"shifts": ["clean", "pgd-linf:1/255:1"], "device": "cpu"}
    wanted, found = (measure(one, data, **asked).rows for one in (plain, model))
    assert [row["bits"] for row in found] == [row["bits"] for row in wanted]
    with pytest.raises(
        InputError, match=f"it is {how if how == 'exported' else 'scripted or traced'}.*give the module"
    ):
        rectify(model, IMAGES)


def test_lazy_modules_are_told_of_in_one_line():
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))
    for call in (load_model, lambda model: rectify(model, IMAGES), lambda model: measure(model, "digits")):
        with pytest.raises(InputError, match=r"0\.weight gets its shape .*: run one batch through it first"):
            call(lazy)
    lazy(IMAGES)
    assert load_model(lazy)(IMAGES).shape == (8, 10)


def test_what_is_no_classifier_is_told_so():
    data, body = load_data("digits", limit=20), network()[:3]
    for model in (body, Named(body)):
        with pytest.raises(InputError, match=r"return logits.*: (give images with label maps|return a tensor)"):
            measure(model, data, device="cpu")
    one_logit = nn.Sequential(*network()[:5], nn.Linear(4, 1))
    for model in (one_logit, nn.Sequential(one_logit, nn.Flatten(0))):
        with pytest.raises(InputError, match=r"give (two|two logits an image), such as torch\."):
            measure(model, data, device="cpu")


class Named(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, images):
        return {"masks": self.body(images), "boxes": images}


def test_probabilities_are_told_from_logits():
    logits = load_model(network())(IMAGES)
    assert are_probabilities(logits.softmax(1))
    assert not are_probabilities(logits)
    assert not are_probabilities(logits.sigmoid())
    assert not are_probabilities(torch.ones(8, 1))
    assert not are_probabilities(torch.stack([torch.full((8,), 1.5), torch.full((8,), -0.5)], 1))


class Dropping(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, images):
        return nn.functional.dropout(self.body(images), 0.5)


@pytest.mark.filterwarnings("ignore:Clean accuracy")
@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (lambda model: nn.Sequential(model, nn.Softmax(1)), ProbabilitiesWarning, "Remove the softmax"),
        (Dropping, RandomAnswersWarning, "twice the same image differently"),
    ],
)
def test_models_that_answer_otherwise_are_told_of_once(change, kind, told):
    data = load_data("digits", limit=20)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        measure(change(network()), data, shifts="clean", device="cpu")
    assert [told in str(one.message) for one in found if one.category is kind] == [True]
    measure(network(), data, shifts="clean", device="cpu")  # where a warning would be an error


def test_imagenets_normalisation_of_ones_own_model_is_told():
    with pytest.warns(DefaultPreprocessingWarning, match="^Without `mean` and `std`, .*Sequential is taken"):
        first = load_model(network())
    with pytest.warns(DefaultPreprocessingWarning, match="^Without `std`, "):
        load_model(network, mean=(0, 0, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (first, "cifar:resnet20"):
            load_model(given)
        load_model(network(), mean=(0, 0, 0), std=(1, 1, 1))


def test_timm_and_torchvision_take_pretrained_as_an_argument():
    model = load_model("timm:resnet18", model_args={"pretrained": False, "num_classes": 7})
    assert (model.num_classes, model.arguments) == (7, {"pretrained": False, "num_classes": 7})
    assert load_model("torchvision:resnet18", model_args={"pretrained": False}).num_classes == 1000
    with pytest.raises(InputError, match="Expected `pretrained` to be True or False, but got 'no'"):
        load_model("timm:resnet18", model_args={"pretrained": "no"})
