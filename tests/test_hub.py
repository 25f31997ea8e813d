"""Image classifiers of transformers, saved to a folder by the test: the same logits, by their own preprocessing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from statshift import InputError, load_model, measure
from statshift._core.errors import CheckpointWarning
from statshift.models.hub import preprocessing_of

transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def photograph(side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write(folder, kind="vit", labels=7, **processor):
    """Write a tiny random classifier and its processor, and return both."""
    torch.manual_seed(0)
    if kind == "vit":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=labels, **sizes)
        network = transformers.ViTForImageClassification(config)
        reader = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, **processor)
    else:
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=labels
        )
        network = transformers.ResNetForImageClassification(config)
        reader = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875, **processor)
    network.eval().save_pretrained(folder)
    reader.save_pretrained(folder)
    return network, reader


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_folder_gives_the_logits_of_its_network_and_processor(kind, tmp_path):
    network, reader = write(tmp_path, kind, do_resize=kind == "vit")
    model = load_model(f"hf:{tmp_path}")
    pixels = photograph()
    with torch.no_grad():
        expected = network(**reader(Image.fromarray(pixels), return_tensors="pt")).logits
        found = model(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert model.num_classes == 7
    assert not model.training
    assert model.preprocessing.mean == tuple(reader.image_mean)


def test_efficientnet_s_processor_divides_by_the_deviation_twice(tmp_path):
    network, _ = write(tmp_path, "resnet")
    reader = transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}, image_std=[0.25, 0.5, 0.75])
    reader.save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    assert model.preprocessing.std == (0.0625, 0.25, 0.5625)
    with torch.no_grad():
        expected = network(**reader(Image.fromarray(photograph()), return_tensors="pt")).logits
        found = model(torch.from_numpy(photograph()).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mobilevit_s_blue_green_and_red_are_refused_and_its_pixels_are_not_normalised(tmp_path):
    write(tmp_path, "resnet")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.MobileViTImageProcessor(**sizes).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has do_flip_channel_order"):
        load_model(f"hf:{tmp_path}")
    transformers.MobileViTImageProcessor(**sizes, do_flip_channel_order=False).save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    assert (model.preprocessing.mean, model.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)


def test_how_photographs_are_resized():
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", None: "bilinear"}
    for number, name in names.items():
        assert preprocessing_of({"size": 8, "resample": number}, "hf:one").interpolation == name


def test_layers_that_have_no_place_are_told(tmp_path):
    network, _ = write(tmp_path)
    with pytest.raises(InputError, match=r"with \{'num_hidden_layers': 0\}; unexpected: vit\.\S+, "):
        load_model(f"hf:{tmp_path}", model_args={"num_hidden_layers": 0})
    network.config.num_hidden_layers = 0
    network.config.save_pretrained(tmp_path)
    with pytest.warns(CheckpointWarning, match=r"^Weights of hf:\S+ that have no place: vit\.\S+, "):
        load_model(f"hf:{tmp_path}")


def test_photographs_are_loaded_as_the_processor_does(tmp_path):
    _, reader = write(tmp_path, "resnet")
    model = load_model(f"hf:{tmp_path}")
    assert model.loading_options == {"interpolation": "bicubic", "resize": 36, "crop": 32}
    (tmp_path / "data" / "one").mkdir(parents=True)
    Image.fromarray(photograph(40)).resize((60, 48)).save(tmp_path / "data" / "one" / "a.png")
    with Image.open(tmp_path / "data" / "one" / "a.png") as image:
        theirs = reader(image, return_tensors="pt")["pixel_values"]
    from statshift import load_data

    images, _ = next(load_data(f"folder:{tmp_path / 'data'}", **model.loading_options).batches(1))
    assert (model.normalise(images.float() / 255) - theirs).abs().mean() < 0.02


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_batch_norms_are_rectified_like_any_others(tmp_path):
    write(tmp_path, "resnet", labels=10)
    found = measure(f"hf:{tmp_path}", "digits", shifts="clean", rectify=["replace"], data_options={"limit": 40})
    assert found.record["model"]["norms"] == {"BatchNorm2d, eps 1e-05": 6}
    assert {row["protocol"] for row in found.rows} == {"source", "replace"}


def test_weights_that_the_folder_lacks_are_told(tmp_path):
    network, _ = write(tmp_path)
    network.vit.save_pretrained(tmp_path)  # without its head, as most pretrained ones are published
    with pytest.raises(InputError, match=r"do not fit ViTForImageClassification; missing.*: classifier\.bias, "):
        load_model(f"hf:{tmp_path}")
    assert load_model(f"hf:{tmp_path}", pretrained=False).num_classes == 7


def test_other_labels_than_the_file_s_are_told(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match=r"missing, or of another shape: classifier\."):
        load_model(f"hf:{tmp_path}", model_args={"num_labels": 3})
    assert load_model(f"hf:{tmp_path}", model_args={"num_labels": 3}, pretrained=False).num_classes == 3


def test_what_is_no_model_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"^Cannot load hf:.* as an image classifier: "):
        load_model(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match=r"^Cannot load hf:.* as an image classifier: ") as caught:
        load_model(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_the_extra_is_named_where_transformers_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs transformers: pip install 'statshift\[hf\]'"):
        load_model("hf:google/vit-base-patch16-224")


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}, (8, 8, 8, 0.5, 0.25)),
        ({"size": 8, "do_normalize": False}, (8, 8, 8, 0.0, 1.0)),
        (
            {"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}, "do_center_crop": True},
            (8, 9, 8, 0, 1),
        ),
        ({"size": 8, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51] * 3}, (8, 8, 8, 0.5, 0.2)),
        ({"size": 8, "rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3}, (8, 8, 8, 0.5, 0.5)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384, 384, 0, 1)),
        ({"size": {"height": 8, "width": 9}, "do_resize": False, "do_normalize": None}, (None, None, None, 0, 1)),
        ({"size": 8, "crop_size": {"height": 5, "width": 6}, "do_center_crop": False}, (8, 8, 8, 0, 1)),
        ({"size": 224, "image_processor_type": "LevitImageProcessor"}, (224, 256, 224, 0, 1)),
    ],
)
def test_what_a_processor_wishes(wishes, expected):
    found = preprocessing_of(wishes, "hf:one")
    assert (found.input_size, found.resize, found.crop, found.mean[0], found.std[0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"size": {"height": 8, "width": 9}}, "square images"),
        ({"size": 8, "rescale_offset": True}, "wants them shifted"),
        ({"size": 8, "do_flip_channel_order": True, "do_pad": False}, "that of hf:one has do_flip_channel_order: give"),
    ],
)
def test_what_cannot_be_said_is_refused(wishes, told):
    with pytest.raises(InputError, match=told):
        preprocessing_of(wishes, "hf:one")
