"""Models by spec: the pixel-space wrapper, each scheme beside the plain network, and refusals."""

import subprocess
import sys
import warnings
from collections import OrderedDict
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift.adapting.online import RectifiedStream
from statshift.adapting.rectify import rectify
from statshift.models import PixelModel, Preprocessing, load_model
from statshift.models.cifar import ZOO
from statshift.models.pixel import IMAGENET_MEAN, IMAGENET_STD, class_logits, extract_logits

pytestmark = pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # images of noise are alike

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def normalised(images, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def accuracy(model, images, labels):
    with torch.inference_mode():
        parts = [model(chunk.float() / 255).argmax(1) for chunk in torch.from_numpy(images).split(100)]
    return (torch.cat(parts).numpy() == labels).mean()


class Means(nn.Module):
    """Its logits are the channel means: what reaches the network can be read off."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images):
        return images.mean(dim=(2, 3))


def test_resnet20_of_the_common_layout_reaches_its_accuracy(shared):
    data = np.load(shared / "data/cifar10_test_1000.npz")
    model = load_model("cifar:resnet20", weights=shared / "data/cifar10_resnet20.th")
    assert not model.training
    assert accuracy(model, data["images"].transpose(0, 3, 1, 2), data["labels"]) == 0.915


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet18", 11_173_962),
        ("resnet50", 23_520_842),
    ],
)
def test_cifar_zoo_has_the_published_sizes(name, parameters):
    model = load_model(f"cifar:{name}")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.num_classes == 10
    assert model.preprocessing.input_size == 32


def test_cifar_resnet18_keeps_the_resolution_up_to_the_second_stage():
    network = ZOO["resnet18"](num_classes=100).eval()
    shapes = []
    network.layer1.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    logits = network(IMAGES[..., :32, :32])
    assert shapes == [(2, 64, 32, 32)]
    assert logits.shape == (2, 100)
    assert {"conv1.weight", "bn1.weight", "layer2.0.downsample.0.weight", "fc.weight"} <= set(network.state_dict())


def test_timm_model_equals_the_plain_one():
    import timm

    model = load_model("timm:resnet18", pretrained=False, model_args={"num_classes": 7})
    plain = timm.create_model("resnet18", num_classes=7).eval()
    plain.load_state_dict(model.network.state_dict())
    enlarged = F.interpolate(IMAGES, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(model(IMAGES), plain(normalised(enlarged)))
    assert model.preprocessing == Preprocessing(
        IMAGENET_MEAN, IMAGENET_STD, input_size=224, resize=235, crop=224, interpolation="bicubic"
    )
    assert model.num_classes == 7
    assert model.spec == "timm:resnet18"


def test_timm_model_with_a_mean_of_its_own():
    model = load_model("timm:vit_tiny_patch16_224", pretrained=False)
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    assert torch.equal(model.mean.flatten(), torch.full((3,), 0.5))


@pytest.mark.parametrize("spec", ["torchvision:resnet18@none", "torchvision:resnet18@IMAGENET1K_V1"])
def test_torchvision_model_equals_the_plain_one(spec, tmp_path):
    from torchvision.models import resnet18

    plain = resnet18(num_classes=5).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    model = load_model(spec, weights=tmp_path / "plain.pt", model_args={"num_classes": 5}, resize_input=False)
    assert torch.equal(model(IMAGES), plain(normalised(IMAGES)))
    assert model.num_classes == 5


def test_torchvision_tag_tells_the_preprocessing(tmp_path):
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), tmp_path / "plain.pt")
    told = load_model("torchvision:resnet18@IMAGENET1K_V1", weights=tmp_path / "plain.pt").preprocessing
    assert told == Preprocessing(IMAGENET_MEAN, IMAGENET_STD, 224, 256, 224, "bilinear")
    untold = load_model("torchvision:resnet18", weights=tmp_path / "plain.pt").preprocessing
    assert untold == Preprocessing(IMAGENET_MEAN, IMAGENET_STD)


def test_torchvision_model_must_name_its_weights():
    with pytest.raises(InputError, match=r"resnet50@TAG; choose from: IMAGENET1K_V1, IMAGENET1K_V2, none"):
        load_model("torchvision:resnet50")
    with pytest.raises(InputError, match=r"'DEFAULT'.* Choose from: IMAGENET1K_V1, IMAGENET1K_V2, none"):
        load_model("torchvision:resnet50@DEFAULT")


def test_user_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("CLASSES = 4\n")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nfrom neighbour_of_mine import CLASSES\n"
        "def build(width=2):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES * width))\n"
    )
    path = list(sys.path)
    model = load_model(f"py:{tmp_path / 'mine.py'}:build", model_args={"width": 3})
    assert model(torch.rand(5, 3, 2, 2)).shape == (5, 12)
    assert sys.path == path
    sys.modules.pop("neighbour_of_mine")


def test_module_of_the_path_and_function_and_module_as_specs():
    by_name = load_model("py:statshift.models.cifar:CifarResNet", model_args={"depth": 20, "num_classes": 3})
    assert by_name.num_classes == 3
    by_function = load_model(ZOO["resnet20"])
    assert by_function(IMAGES[..., :32, :32]).shape == (2, 10)
    network = Means()
    model = load_model(network, mean=(0, 0, 0), std=(0.5, 0.5, 0.5))
    assert model.network is network
    assert model.spec.endswith("test_models.Means")
    torch.testing.assert_close(model(IMAGES), 2 * IMAGES.mean(dim=(2, 3)))
    again = load_model(model)
    assert again.network is network
    assert (again.preprocessing, again.num_classes, again.spec) == (model.preprocessing, 3, model.spec)


def test_constant_image_of_another_size_stays_constant():
    pixels = torch.tensor([0.1, 0.5, 0.9])
    images = pixels.view(1, 3, 1, 1).expand(1, 3, 48, 64)
    for interpolation in ("bilinear", "bicubic"):
        expects = Preprocessing((0, 0, 0), (1, 1, 1), input_size=32, interpolation=interpolation)
        torch.testing.assert_close(PixelModel(Means(), expects)(images), pixels[None])


def test_state_dict_is_the_networks():
    model = load_model(nn.Sequential(nn.Linear(3, 2)))
    assert list(model.state_dict()) == ["network.0.weight", "network.0.bias"]
    assert list(model.network.state_dict()) == ["0.weight", "0.bias"]
    assert [name for name, _ in model.named_buffers()] == ["mean", "std"]


LOGITS = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, torch.zeros(1)),
        [LOGITS],
        {"logits": LOGITS, "features": torch.zeros(1)},
        OrderedDict(out=LOGITS, aux=torch.zeros(1)),
        {"anything": LOGITS},
        SimpleNamespace(loss=None, logits=LOGITS),
        ({"out": LOGITS},),
    ],
)
def test_logits_are_found_in(output):
    assert extract_logits(output) is LOGITS


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (None, "type NoneType"),
        ("logits", "type str"),
        ((), "type tuple"),
        ({"a": LOGITS, "b": LOGITS}, "type dict with the keys a, b"),
        (torch.zeros(2, 3, 4, 4), r"shape \(2, 3, 4, 4\)"),
    ],
)
def test_output_without_logits_is_refused(output, told):
    with pytest.raises(InputError, match=told):
        class_logits(output)


def test_logits_of_several_answers_an_image_are_logits():
    maps = torch.zeros(2, 3, 4, 4)
    assert extract_logits({"out": maps}) is maps
    with pytest.raises(InputError, match=r"shape \(4,\)"):
        extract_logits(torch.zeros(4))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("tmm:resnet50", "Unknown model scheme 'tmm'. Did you mean 'timm'"),
        ("resnet50", "Choose from: timm, torchvision, hf, ibn, cifar, seg, py"),
        ("timm:resnet500", "Unknown timm model 'resnet500'. Did you mean 'resnet50"),
        ("timm:resnet18.no_such_tag", "Invalid pretrained tag (no_such_tag)"),
        ("torchvision:resnt18", "Did you mean 'resnet18'?"),
        ("cifar:resnet21", "Choose from: resnet20, resnet32"),
        (r"py:C:\nowhere\mine.py:build", r"C:\nowhere\mine.py is not a file"),
        ("py:mine.py", "Expected py:FILE_OR_MODULE:FUNCTION, but got 'py:mine.py'"),
        ("py:no_such_package.models:build", "No file or module 'no_such_package.models'"),
        ("py:statshift.models.loading:load_modl", "Did you mean 'load_model'?"),
        ("py:builtins:dict", "to return a torch.nn.Module, but got {}"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(spec, told):
    with pytest.raises(InputError) as caught:
        load_model(spec)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistyped_scheme_imports_nothing():
    script = (
        "import sys\n"
        "from statshift.models import load_model\n"
        "before = set(sys.modules)\n"
        "try:\n    load_model('tmm:resnet50')\n"
        "except ValueError:\n    print(set(sys.modules) - before, 'timm' in before, 'torchvision.models' in before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set() False False\n"


@pytest.mark.parametrize(
    ("spec", "args", "told"),
    [
        ("cifar:resnet20", {"classes": 3}, "'classes'"),
        ("timm:resnet18", {"no_such": 3}, "'no_such'"),
        ("torchvision:resnet18@none", {"no_such": 3}, "'no_such'"),
    ],
)
def test_argument_that_the_model_does_not_take(spec, args, told):
    with pytest.raises(InputError, match=f"{spec} does not take the model arguments .*{told}"):
        load_model(spec, model_args=args, pretrained=False)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"std": (0.2, 0, 0.2)}, r"`std` to be three positive numbers, but got \(0.2, 0.0, 0.2\)"),
        ({"mean": (0.5,)}, r"`mean` to be three numbers, but got \(0.5,\)"),
    ],
)
def test_mean_and_deviation_are_checked(option, told):
    with pytest.raises(InputError, match=told):
        load_model(Means(), **option)


def test_one_number_is_of_all_three_channels():
    chosen = load_model(Means(), mean=0.5, std=1).preprocessing
    assert (chosen.mean, chosen.std) == ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("spec", "builder", "place"),
    [
        ("timm:resnet18.a1_in1k", "timm.create_model", "https://huggingface.co/timm/resnet18.a1_in1k"),
        ("timm:hf_hub:some/model", "timm.create_model", "https://huggingface.co/some/model"),
        (
            "torchvision:resnet18@IMAGENET1K_V1",
            "torchvision.models.get_model",
            "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        ),
    ],
)
def test_failed_download_says_what_to_get_by_hand(spec, builder, place, monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(builder, fail)
    with pytest.raises(InputError, match=f"weights of {spec}; get {place} by hand and give the file as `weights`"):
        load_model(spec)


def small(training):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network.train(training)


@pytest.mark.parametrize("training", [True, False])
def test_a_wrapper_has_the_mode_of_its_network(training):
    network = small(training)
    model = load_model(network)
    for wrapper in (model, rectify(model, IMAGES)):
        was = wrapper.training
        wrapper.eval()
        wrapper.train(was)
        assert {module.training for module in wrapper.modules()} == {training}
    network.load_state_dict(rectify(model, IMAGES).network.state_dict())
    assert not any(module.training for module in RectifiedStream(model).modules())


def test_an_export_leaves_a_wrapper_as_it_was(tmp_path):
    pytest.importorskip("onnx")
    adapted = rectify(load_model(small(False)), IMAGES)
    before = adapted(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(adapted, (IMAGES,), str(tmp_path / "adapted.onnx"), dynamo=False)
    assert not any(module.training for module in adapted.modules())
    assert torch.equal(adapted(IMAGES), before)
