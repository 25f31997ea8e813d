"""Adaptive instance normalization, against a loop and at its limits."""

import numpy as np
import pytest
import torch

import tiny_styles
from statshift import ChannelStatistics, InputError, load_data, load_model
from statshift._core.randomness import Draws
from statshift.decoding.adain_loss import stylised_terms
from statshift.decoding.codec import Codec, codec_of
from statshift.decoding.losses import DECODER_LOSSES
from statshift.making.decoder import train_decoder
from statshift.making.decoder_options import DecoderOptions
from statshift.norms.adain import adain
from statshift.norms.statistics import instance_statistics


def drawn(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_it_is_equation_8_image_by_image_and_channel_by_channel():
    features, style = drawn(0, 3, 4, 5, 6), instance_statistics(3 * drawn(1, 3, 4, 7, 2) + 1)
    found = adain(features, style).numpy()
    for image in range(3):
        for channel in range(4):
            x = features[image, channel].double().numpy()
            mean, deviation = float(style.mean[image, channel]), float(style.var[image, channel]) ** 0.5
            expected = deviation * (x - x.mean()) / x.std() + mean
            np.testing.assert_allclose(found[image, channel], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3])
def test_the_statistics_are_the_style_s_whatever_the_scale(scale):
    """Rectified features, of which some channels hardly vary: with an eps of 1e-5 they would miss by far."""
    features = drawn(0, 4, 8, 16, 16, scale=scale).relu_() + scale
    style = instance_statistics(drawn(1, 4, 8, 16, 16).relu_() * torch.logspace(-3, 1, 8)[:, None, None])
    found = instance_statistics(adain(features, style))
    torch.testing.assert_close(found.mean, style.mean, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.var.sqrt(), style.var.sqrt(), rtol=1e-4, atol=1e-7)


def test_one_style_for_all_images_is_the_same_for_each():
    features, one = drawn(0, 3, 4, 5, 5), instance_statistics(drawn(1, 1, 4, 5, 5))
    shared = ChannelStatistics(one.mean[0], one.var[0], one.count)
    each = ChannelStatistics(one.mean.expand(3, 4), one.var.expand(3, 4), one.count)
    assert torch.equal(adain(features, shared), adain(features, each))


def test_alpha_goes_from_the_features_to_the_style():
    features, style = drawn(0, 2, 4, 6, 6), instance_statistics(5 + drawn(1, 2, 4, 6, 6))
    torch.testing.assert_close(adain(features, style, 0.0), features, rtol=0, atol=1e-6)
    half = (features + adain(features, style)) / 2
    torch.testing.assert_close(adain(features, style, 0.5), half)
    own = instance_statistics(features)
    torch.testing.assert_close(adain(features, own), features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 5.0, -1 / 3])
def test_a_constant_channel_stays_constant_at_the_style_s_mean(value):
    features = drawn(0, 2, 3, 8, 8)
    features[:, 1] = value
    found = adain(features, instance_statistics(2 + drawn(1, 2, 3, 8, 8)))
    style = instance_statistics(2 + drawn(1, 2, 3, 8, 8))
    torch.testing.assert_close(found[:, 1], style.mean[:, 1, None, None].expand(2, 8, 8), rtol=1e-6, atol=0)
    assert float(found[:, 1].var((1, 2)).max()) == 0


def test_gradients_are_those_of_finite_differences():
    features = drawn(0, 2, 2, 3, 3).double().requires_grad_()
    mean, var = drawn(1, 2, 2).double(), drawn(2, 2, 2).double().exp()
    weights = drawn(3, 2, 2, 3, 3).double()

    def total(x):
        return (adain(x, ChannelStatistics(mean, var, 9)) * weights).sum()

    (gradient,) = torch.autograd.grad(total(features), features)
    step = 1e-6
    for place in ((0, 0, 0, 0), (0, 1, 2, 1), (1, 1, 1, 2)):
        moved = torch.zeros_like(features)
        moved[place] = step
        with torch.no_grad():
            expected = float(total(features + moved) - total(features - moved)) / (2 * step)
        assert float(gradient[place]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("features", "style", "alpha", "told"),
    [
        ((2, 3, 4, 4), (2, 3), 1.5, r"Expected `alpha` in \[0,1\], but got 1.5"),
        ((2, 3, 4, 4), (2, 3), float("nan"), r"Expected `alpha` in \[0,1\], but got nan"),
        ((2, 3, 4), (3,), 1.0, r"Expected features \(B,C,h,w\), but got shape \(2, 3, 4\)"),
        ((2, 3, 4, 4), (4,), 1.0, r"the style's `mean` to be of shape \(3,\) or \(2, 3\), .* got \(4,\)"),
    ],
)
def test_what_cannot_be_is_refused(features, style, alpha, told):
    with pytest.raises(InputError, match=told):
        adain(torch.rand(features), ChannelStatistics(torch.rand(style), torch.rand(style), 1), alpha)


# The loss by which a decoder learns


class Recorder(torch.nn.Module):
    def __init__(self, image):
        super().__init__()
        self.image = image

    def forward(self, features, size):
        return self.image[:, :, : size[0], : size[1]]


def test_the_loss_is_equations_12_and_13_by_hand():
    """The decoder answers a fixed image, and the encoder squares and halves: all moments by NumPy."""
    images, decoded = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)

    def stages(x):
        found = {f"s{k}": (k + 1) * x**2 for k in range(5)}
        return found | {"cut": x[..., ::2, ::2] ** 3}

    codec = Codec("cut", lambda x: stages(x)["cut"], Recorder(decoded), False, None, stages, {})
    terms = stylised_terms(codec, images, Draws(0, torch.arange(3), "test"))
    x, y, ours = (one.double().numpy() for one in (images, images.roll(1, 0), decoded))

    def moments(z):
        return z.mean((2, 3)), np.sqrt(z.var((2, 3)) + 1e-5)

    content, style_of = x[..., ::2, ::2] ** 3, y[..., ::2, ::2] ** 3
    mean, sd = content.mean((2, 3), keepdims=True), content.std((2, 3), keepdims=True)
    target = style_of.std((2, 3), keepdims=True) * (content - mean) / sd + style_of.mean((2, 3), keepdims=True)
    assert float(terms["content"]) == pytest.approx(((ours[..., ::2, ::2] ** 3 - target) ** 2).mean(), rel=1e-4)
    error = 0.0
    for k in range(4):  # the fifth stage is not asked
        pairs = zip(moments((k + 1) * ours**2), moments((k + 1) * y**2), strict=True)
        error += sum(((a - b) ** 2).mean() for a, b in pairs)
    assert float(terms["style"]) == pytest.approx(10 * error, rel=1e-4)
    assert set(terms) == {"content", "style"}


def test_its_gradient_reaches_the_decoder_alone():
    images, decoded = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4).requires_grad_()
    weight = torch.nn.Parameter(torch.rand(5, 3, 1, 1))

    def stages(x):
        return {"cut": torch.nn.functional.conv2d(x, weight.detach()).relu()}

    codec = Codec("cut", lambda x: stages(x)["cut"], Recorder(decoded), True, None, stages, {})
    sum(stylised_terms(codec, images, Draws(0, torch.arange(2), "test")).values()).backward()
    assert float(decoded.grad.abs().sum()) > 0
    assert bool(decoded.grad.isfinite().all())
    assert weight.grad is None


@pytest.mark.usefixtures("one_thread")
def test_a_decoder_learns_by_it_under_its_name(tmp_path):
    """`train_decoder` takes it, and stylised images then show their styles better than before."""
    options = DecoderOptions(width=4, depth=1, epochs=8, batch_size=16, learning_rate=0.01)
    data, model = load_data("digits:train", limit=64), load_model(tiny_styles.MODEL)
    record = train_decoder(model, tiny_styles.AT, data, out=tmp_path / "d.safetensors", loss="adain", options=options)
    assert DECODER_LOSSES["adain"].meaning in str(record)
    learned = codec_of(model, tmp_path / "d.safetensors", tiny_styles.probe())
    tiny_styles.write_decoder(tmp_path / "drawn.safetensors")
    drawn = codec_of(model, tmp_path / "drawn.safetensors", tiny_styles.probe())
    images = load_data("digits", limit=32).tensors()[0]
    with torch.no_grad():
        after, before = (stylised_terms(one, images, None) for one in (learned, drawn))
    assert float(after["content"]) < float(before["content"])
    assert float(after["style"]) < 0.5 * float(before["style"])
