"""Decoders and codecs: shapes, files, refusals by name, stages, pytorch-AdaIN's layout; PSNR and SSIM against loops."""

import numpy as np
import pytest
import torch
import torchvision
from scipy.ndimage import gaussian_filter
from torch import nn

from statshift import InputError, PixelModel, adain_codec, codec_of, find_cuts, load_model
from statshift.decoding.adain_files import vgg_decoder, vgg_encoder
from statshift.decoding.choices import LOSSES
from statshift.decoding.codec import codec_from, describe_encoder, encoder_of, save_decoder, stride_of
from statshift.decoding.decoder import Decoder, fitted
from statshift.decoding.losses import DECODER_LOSSES, relative_error, total_variation
from statshift.metrics.pictures import psnr, ssim
from statshift.splitting.sides import prefix_hash, sides
from statshift.splitting.split import split

pytestmark = pytest.mark.usefixtures("one_thread")


def pictures(count=2, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def network(seed=0, wide=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, wide, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * wide, 5),
    ).eval()


def decoder_file(path, model, at, image, **more):
    found = encoder_of(model, at, image)
    torch.manual_seed(1)
    decoder = Decoder(found.cut.shape[0], stride_of(found, image), **{"width": 4, "depth": 1, **more})
    save_decoder(path, decoder, {"encoder": describe_encoder(found, at, image)})
    return decoder


# metrics


def ssim_of_a_plane(first, second):
    """Return SSIM as Wang et al. write it, with SciPy's Gaussian of 11 px, where the window lies within the image."""

    def blurred(values):
        return gaussian_filter(values, 1.5, radius=5)[5:-5, 5:-5]

    mean, other = blurred(first), blurred(second)
    variance, other_variance = blurred(first**2) - mean**2, blurred(second**2) - other**2
    covariance = blurred(first * second) - mean * other
    found = (2 * mean * other + 1e-4) * (2 * covariance + 9e-4)
    return (found / ((mean**2 + other**2 + 1e-4) * (variance + other_variance + 9e-4))).mean()


def test_psnr_and_ssim_are_those_of_numpy_and_scipy():
    images = pictures(3, 24)
    noisy = (images + 0.1 * (pictures(3, 24, seed=1) - 0.5)).clamp(0, 1)
    first, second = noisy.double().numpy(), images.double().numpy()
    expected = [10 * np.log10(1 / ((a - b) ** 2).mean()) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(psnr(noisy, images).numpy(), expected, rtol=1e-6)
    planes = [
        np.mean([ssim_of_a_plane(a, b) for a, b in zip(*pair, strict=True)]) for pair in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(ssim(noisy, images).numpy(), planes, rtol=1e-5)


def test_an_image_is_its_own_best_reconstruction():
    images = pictures()
    assert torch.isinf(psnr(images, images)).all()
    assert ssim(images, images).tolist() == pytest.approx([1, 1], abs=1e-6)
    assert psnr(images, images + 0.1).tolist() == pytest.approx([20, 20], abs=1e-4)


def test_pictures_that_cannot_be_compared():
    with pytest.raises(InputError, match=r"of one shape, but got \(2, 3, 32, 32\) and \(1, 3, 32, 32\)"):
        psnr(pictures(), pictures(1))
    with pytest.raises(InputError, match=r"at least 11 px for SSIM, but got \(8, 8\)"):
        ssim(pictures(2, 8), pictures(2, 8))


# the decoder


@pytest.mark.parametrize(("stride", "widths"), [(1, []), (2, [8]), (4, [16, 8]), (32, [32, 32, 32, 16, 8])])
def test_a_decoder_mirrors_the_strides(stride, widths):
    decoder = Decoder(5, stride, 4, 2)
    convolutions = [layer for layer in decoder.layers if isinstance(layer, nn.Conv2d)]
    outputs = [layer.out_channels for layer in convolutions]
    below = [wide for pair in zip(widths, [*widths[1:], 4], strict=True) for wide in pair] if widths else []
    assert outputs == [*below, 4, 3]
    assert all(layer.kernel_size == (3, 3) for layer in convolutions)
    images = decoder(torch.rand(2, 5, 3, 2), (3 * stride, 2 * stride))
    assert images.shape == (2, 3, 3 * stride, 2 * stride)


def test_a_decoder_pads_by_reflection():
    torch.manual_seed(0)
    decoder = Decoder(2, 1, 3)
    first, _, last = decoder.layers
    features = torch.rand(1, 2, 6, 5)

    def convolved(layer, values):
        return nn.functional.conv2d(nn.ReflectionPad2d(1)(values), layer.weight, layer.bias)

    expected = convolved(last, convolved(first, features).relu())
    torch.testing.assert_close(decoder(features, (6, 5)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(decoder(features, (6, 5)).float(), expected, rtol=0.05, atol=0.05)


def test_features_are_standardised_by_what_the_decoder_is_given():
    decoder = Decoder(2, 1, 3)
    features = torch.rand(1, 2, 4, 4)
    plain = decoder(features, (4, 4))
    decoder.mean.fill_(3.0)
    decoder.std.fill_(2.0)
    torch.testing.assert_close(decoder(2 * features + 3, (4, 4)), plain)


def test_sizes_that_are_no_multiples_are_cropped_extended_or_resized():
    images = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(fitted(images, (7, 5), 4), images[..., :7, :5])
    extended = fitted(images, (10, 8), 4)
    assert torch.equal(extended[..., :8, :], images)
    assert torch.equal(extended[..., 9, :], images[..., 7, :])
    assert fitted(images, (12, 4), 4).shape == (1, 1, 12, 4)
    torch.testing.assert_close(fitted(images, (16, 16), 4).mean(), images.mean())


def test_a_decoder_of_nothing():
    with pytest.raises(InputError, match="Expected `width` to be an integer of at least 1, but got 0"):
        Decoder(3, 2, 0)


# codecs


def test_a_codec_is_the_model_s_first_part_and_the_decoder_in_the_file(tmp_path):
    model, images = network(), pictures()
    decoder = decoder_file(tmp_path / "d.safetensors", model, "3", images)
    codec = codec_of(model, tmp_path / "d.safetensors", images)
    assert (codec.at, codec.rectified, codec.split.model) == ("3", True, model)
    assert decoder.config == {"channels": 8, "stride": 4, "width": 4, "depth": 1}
    with torch.no_grad():
        features = codec.encode(images)
        assert torch.equal(features, model[:4](images))
        assert torch.equal(codec.decode(features, (32, 32)), decoder(features, (32, 32)).clamp(0, 1))
        assert codec.decode(codec.encode(images[..., :30, :17]), (30, 17)).shape == (2, 3, 30, 17)
    assert not any(parameter.requires_grad for parameter in codec.decoder.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_gradients_pass_a_codec():
    torch.manual_seed(0)
    model, images = network().double(), pictures(1, 16).double()
    found = encoder_of(model, "3", images)
    codec = codec_from(found, "3", Decoder(8, 4, 4, 1).double(), images, {})

    def loss(features):
        return codec.encode(codec.decoder(features, (16, 16))).square().sum()

    features = codec.encode(images).detach()
    assert torch.autograd.gradcheck(loss, (features.requires_grad_(),), eps=1e-7, atol=1e-4)


def test_a_decoder_of_another_cut_or_encoder_is_refused_by_name(tmp_path):
    model, images, path = network(), pictures(), tmp_path / "d.safetensors"
    decoder_file(path, model, "3", images)
    with pytest.raises(InputError, match=r"d.safetensors is a decoder of 3, not of 1: train one for 1"):
        codec_of(model, path, images, at="1")
    with pytest.raises(
        InputError, match=r"is a decoder of another encoder: Sequential, whose weights up to 3 have the"
    ):
        codec_of(network(seed=1), path, images)
    with pytest.raises(
        InputError, match=r"is a decoder of 3 of Sequential, which this model has not. Unknown layer '3'"
    ):
        codec_of(load_model("cifar:resnet20").eval(), path, images)
    other = PixelModel(network())
    with pytest.raises(InputError, match="is a decoder of another encoder"):  # the same weights, other colours
        codec_of(other, path, images)


def test_what_lies_behind_the_cut_does_not_matter(tmp_path):
    model, images, path = network(), pictures(), tmp_path / "d.safetensors"
    decoder_file(path, model, "1", images)
    with torch.no_grad():
        model[2].weight.add_(1)
        codec_of(model, path, images)
        model[0].weight.add_(1)
    with pytest.raises(InputError, match="is a decoder of another encoder"):
        codec_of(model, path, images)


def test_the_hash_of_a_prefix_follows_its_statistics_too():
    model = load_model("cifar:resnet20").eval()
    images = pictures()
    found = split(model, "layer1", images)
    before = prefix_hash(found, images)
    assert before == prefix_hash(split(model, "layer1", pictures(1, 48)), pictures(1, 48))
    assert before != prefix_hash(split(model, "layer2", images), images)
    model.network.layer3[0].bn1.running_mean.add_(1)
    assert prefix_hash(found, images) == before
    model.network.bn1.running_mean.add_(1)
    assert prefix_hash(found, images) != before


def test_the_sides_of_a_cut_are_all_modules():
    model, images = network(), pictures()
    before, behind = sides(split(model, "1", images), images)
    assert (before, behind) == ({model[0], model[1]}, {*model[2:], model})


def test_files_that_are_no_decoders(tmp_path):
    model, images = network(), pictures()
    with pytest.raises(InputError, match=r"a file of `train_decoder`, but .*none.safetensors is not a file"):
        codec_of(model, tmp_path / "none.safetensors", images)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model.pt to be a decoder that `train_decoder` wrote, but it is not"):
        codec_of(model, tmp_path / "model.pt", images)


def test_features_that_cannot_be_decoded():
    with pytest.raises(InputError, match="whose features are decoded, but got 'input'"):
        encoder_of(network(), "input", pictures())
    with pytest.raises(InputError, match="at least 2 x 2 px to decode, but those of 4 are 1 x 1 px: choose an earlier"):
        encoder_of(network(), "4", pictures())


# stages


def test_stages_are_the_features_on_the_way_in_one_pass():
    model, images = network(), pictures()
    passes = []
    model[0].register_forward_hook(lambda *_: passes.append(1))
    codec = codec_from(encoder_of(model, "3", images), "3", Decoder(8, 4, 4, 1), images, {})
    passes.clear()
    with torch.no_grad():
        found = codec.stages(images)
    assert passes == [1]
    assert list(found) == ["1", "3"]
    assert torch.equal(found["1"], model[:2](images))
    assert torch.equal(found["3"], codec.encode(images))
    assert all(len(module._forward_hooks) == (module is model[0]) for module in model.modules())


def test_stages_of_a_vgg_go_by_the_papers_names_and_of_a_resnet_end_its_own():
    images = pictures(1)
    vgg = torchvision.models.vgg19(num_classes=3).eval()
    codec = codec_from(encoder_of(vgg, "relu4_1", images), "relu4_1", nn.Identity(), images, {})
    with torch.no_grad():
        found = codec.stages(images)
        places = {"relu1_1": 1, "relu2_1": 6, "relu3_1": 11, "relu4_1": 20}
        assert list(found) == list(places)
        for name, place in places.items():
            assert torch.equal(found[name], vgg.features[: place + 1](images))
    resnet = load_model("cifar:resnet20").eval()
    codec = codec_from(encoder_of(resnet, "layer2", images), "layer2", nn.Identity(), images, {})
    assert list(codec.stages(images)) == ["layer1", "layer2"]


# losses


def test_the_losses_are_their_formulas():
    images = pictures(2, 16)
    model = network()
    decoder = Decoder(8, 4, 4, 1).requires_grad_(False)
    codec = codec_from(encoder_of(model.requires_grad_(False), "3", images), "3", decoder, images, {})
    with torch.no_grad():
        wanted = {"1": model[:2](images), "3": model[:4](images)}
        decoded = decoder(wanted["3"], (16, 16))
        found = {"1": model[:2](decoded), "3": model[:4](decoded)}
    pixels = DECODER_LOSSES["pixels"].terms(codec, images, None)
    assert float(pixels["pixels"]) == pytest.approx(float(((decoded - images) ** 2).mean()))
    values = decoded.numpy().astype(np.float64)
    variation = sum(np.abs(np.diff(values, axis=axis)).sum() for axis in (2, 3)) / 2
    assert float(pixels["variation"]) == pytest.approx(1e-8 * variation, rel=1e-4)
    assert total_variation(decoded).mean() == pytest.approx(variation, rel=1e-4)
    features = DECODER_LOSSES["features"].terms(codec, images, None)

    def relative(one, other):
        one, other = one.double().numpy(), other.double().numpy()
        return np.abs(one - other).mean() / np.abs(other - other.mean((0, 2, 3), keepdims=True)).mean()

    assert float(features["pixels"]) == pytest.approx(relative(decoded, images), rel=1e-4)
    expected = np.mean([relative(found[name], wanted[name]) for name in wanted])
    assert float(features["features"]) == pytest.approx(expected, rel=1e-4)
    assert float(relative_error(7 * found["3"], 7 * wanted["3"])) == pytest.approx(relative(found["3"], wanted["3"]))
    assert tuple(DECODER_LOSSES)[: len(LOSSES)] == LOSSES


# pytorch-AdaIN's files


@pytest.fixture(scope="module")
def adain_files(tmp_path_factory):
    """Files of the layout that pytorch-AdaIN's have, written down by position and shape."""
    folder = tmp_path_factory.mktemp("adain")
    generator = torch.Generator().manual_seed(0)

    def weights(shapes):
        state = {}
        for place, (outputs, inputs, side) in shapes.items():
            scale = (2 / (inputs * side * side)) ** 0.5
            state[f"{place}.weight"] = scale * torch.randn(outputs, inputs, side, side, generator=generator)
            state[f"{place}.bias"] = 0.1 * torch.rand(outputs, generator=generator)
        return state

    encoder = {0: (3, 3, 1), 2: (64, 3, 3), 5: (64, 64, 3), 9: (128, 64, 3), 12: (128, 128, 3), 16: (256, 128, 3)}
    encoder |= dict.fromkeys((19, 22, 25), (256, 256, 3)) | {29: (512, 256, 3), 32: (512, 512, 3)}
    decoder = {1: (256, 512, 3), 5: (256, 256, 3), 8: (256, 256, 3), 11: (256, 256, 3), 14: (128, 256, 3)}
    decoder |= {18: (128, 128, 3), 21: (64, 128, 3), 25: (64, 64, 3), 28: (3, 64, 3)}
    torch.save(weights(encoder), folder / "vgg_normalised.pth")
    torch.save(weights(decoder), folder / "decoder.pth")
    return folder


def test_pytorch_adain_s_files_are_read_by_position(adain_files):
    codec = adain_codec(adain_files / "vgg_normalised.pth", adain_files / "decoder.pth")
    assert (codec.at, codec.rectified, codec.split) == ("relu4_1", True, None)
    assert (len(vgg_encoder()), sum(parameter.numel() for parameter in vgg_decoder().parameters())) == (31, 3_505_219)
    images = pictures(1, 20)
    state = torch.load(adain_files / "vgg_normalised.pth", weights_only=True)

    def convolved(values, place, side=1):
        padded = nn.functional.pad(values, (side,) * 4, mode="reflect") if side else values
        return nn.functional.conv2d(padded, state[f"{place}.weight"], state[f"{place}.bias"])

    with torch.no_grad():
        first = convolved(convolved(images, 0, side=0), 2).relu()
        pooled = nn.functional.max_pool2d(convolved(first, 5).relu(), 2, ceil_mode=True)
        stages = codec.stages(images)
        torch.testing.assert_close(stages["relu1_1"], first)
        torch.testing.assert_close(stages["relu2_1"], convolved(pooled, 9).relu())
        assert {name: value.shape[1:] for name, value in stages.items()} == {
            "relu1_1": (64, 20, 20),
            "relu2_1": (128, 10, 10),
            "relu3_1": (256, 5, 5),
            "relu4_1": (512, 3, 3),
        }
        assert torch.equal(stages["relu4_1"], codec.encode(images))
        assert codec.decode(stages["relu4_1"], (20, 20)).shape == (1, 3, 20, 20)


def test_another_layout_than_pytorch_adain_s_is_refused_by_name(adain_files, tmp_path):
    encoder, decoder = adain_files / "vgg_normalised.pth", adain_files / "decoder.pth"
    with pytest.raises(
        InputError, match=r"decoder.pth to be laid out as pytorch-AdaIN's vgg_normalised.pth, with \(3,"
    ):
        adain_codec(decoder, decoder)
    vgg = torchvision.models.vgg11(num_classes=2).features.state_dict()
    torch.save(vgg, tmp_path / "vgg.pth")
    with pytest.raises(
        InputError,
        match=r"vgg.pth to be laid out as pytorch-AdaIN's vgg_normalised.pth, with \(3, 3, 1, 1\) under 0.weight, but "
        r"got \(64, 3, 3, 3\)",
    ):
        adain_codec(tmp_path / "vgg.pth", decoder)
    state = torch.load(decoder, weights_only=True) | {"30.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "longer.pth")
    with pytest.raises(InputError, match=r"with nothing under 30.weight, but got \(1,\)"):
        adain_codec(encoder, tmp_path / "longer.pth")


def test_cuts_of_a_pixel_model_and_its_network_are_decoded_alike():
    model = PixelModel(network())
    assert [cut.name for cut in find_cuts(model, pictures())] == [cut.name for cut in find_cuts(network(), pictures())]
