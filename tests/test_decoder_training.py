"""`train_decoder` and `statshift decoder`: learning, resumption to the bit, what is judged, and bad input."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from statshift import DecoderOptions, InputError, PixelModel, codec_of, load_data, load_model, train_decoder
from statshift._core.randomness import Draws
from statshift.data import ImageData
from statshift.decoding import choices
from statshift.decoding.opening import open_codec
from statshift.making.reconstruction import feature_moments, judge, random_crops
from statshift.metrics.pictures import psnr, ssim
from statshift.models import Preprocessing, weights_hash

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = DecoderOptions(width=4, depth=1, crop=16, epochs=2, batch_size=8)


def network(input_size=None):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return PixelModel(layers.eval(), Preprocessing((0.5,) * 3, (0.5,) * 3, input_size))


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", split="train").subset(np.arange(40))


def test_a_decoder_learns_and_the_model_stays_as_it_is(digits, tmp_path):
    model = network()
    model.network[0].weight.requires_grad_(False)
    model.network[3].train()
    before = weights_hash(model.network)
    steps = []
    options = DecoderOptions(width=8, depth=1, crop=16, epochs=30, batch_size=12, learning_rate=3e-3)
    for loss in choices.LOSSES:
        path = tmp_path / f"{loss}.safetensors"
        record = train_decoder(
            model, "1", digits, out=path, loss=loss, options=options, device="cpu", progress=steps.append
        )
        history = [sum(one["losses"].values()) for one in record["history"]]
        assert history[-1] < 0.5 * history[0]
        assert record["found"]["psnr"] > 14
        assert record["decoder"] == {"channels": 8, "stride": 2, "width": 8, "depth": 1}
    assert (len(steps), steps[0].steps, record["training"]["crop"]) == (90 * len(choices.LOSSES), 90, [16, 16])
    assert not list(tmp_path.glob("*.checkpoint.pt"))
    assert weights_hash(model.network) == before
    assert [one.requires_grad for one in model.parameters()] == [False, *[True] * 5]
    assert [one.training for one in model.network] == [False, False, False, True, False, False, False]
    assert not any(one._forward_hooks for one in model.modules())


class StoppedError(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stopped_training_ends_with_the_same_weights(dtype, digits, tmp_path):
    options = DecoderOptions(width=4, depth=1, crop=16, epochs=3, batch_size=8, dtype=dtype, checkpoint_every=0)

    def stop(step):
        if step.step == 6:
            raise StoppedError

    whole = train_decoder(network(), "3", digits, out=tmp_path / "whole.safetensors", options=options, device="cpu")
    path, rest = tmp_path / "d.safetensors", []
    with pytest.raises(StoppedError):
        train_decoder(network(), "3", digits, out=path, options=options, device="cpu", progress=stop)
    assert (path.exists(), (tmp_path / "d.checkpoint.pt").exists()) == (False, True)
    record = train_decoder(network(), "3", digits, out=path, options=options, device="cpu", progress=rest.append)
    assert rest[0].step in (6, 7)
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert (record["history"], record["found"]) == (whole["history"], whole["found"])


def test_a_finished_decoder_is_not_trained_again_and_another_s_file_is_refused(digits, tmp_path):
    path, steps = tmp_path / "d.safetensors", []
    first = train_decoder(network(), "3", digits, out=path, options=SMALL, device="cpu")
    again = train_decoder(network(), "3", digits, out=path, options=SMALL, device="cpu", progress=steps.append)
    assert (steps, again["found"], again["history"]) == ([], first["found"], first["history"])
    with pytest.raises(InputError, match=r"d.safetensors is another decoder: it differs in training.loss"):
        train_decoder(network(), "3", digits, out=path, options=SMALL, loss="pixels", device="cpu")
    with pytest.raises(InputError, match=r"d.safetensors is another decoder: it differs in encoder.at"):
        train_decoder(network(), "1", digits, out=path, options=SMALL, device="cpu")


def test_what_is_found_is_of_images_that_it_was_not_trained_on(digits, tmp_path):
    model, path = network(), tmp_path / "d.safetensors"
    record = train_decoder(model, "3", digits, out=path, options=SMALL, device="cpu")
    assert (record["data"]["images"], record["judged_on"]["images"]) == (36, 4)
    order = Draws(0, torch.from_numpy(digits.indices), "held out").uniform("order").argsort(stable=True)
    images, labels = digits.tensors()
    images, labels = images[order[:4]], labels[order[:4]]
    codec = codec_of(model, path, images)
    with torch.no_grad():
        decoded = codec.decode(codec.encode(images), (32, 32))
        clean, again = model(images).argmax(1), model(decoded).argmax(1)
    found = record["found"]
    assert found["psnr"] == pytest.approx(float(psnr(decoded, images).mean()), rel=1e-5)
    assert found["ssim"] == pytest.approx(float(ssim(decoded, images).mean()), rel=1e-4)
    assert found["agreement"] == (clean == again).float().mean()
    assert found["accuracy"] == (clean == labels).float().mean()
    assert found["accuracy_reconstructed"] == (again == labels).float().mean()


def test_images_to_judge_by_need_no_labels_and_may_be_given(digits, tmp_path):
    unlabelled = ImageData(**{**vars_of(digits), "labels": None})
    given = train_decoder(
        network(), "3", digits, out=tmp_path / "d.safetensors", options=SMALL, device="cpu", validation=unlabelled
    )
    assert (given["data"]["images"], given["found"]["images"]) == (40, 40)
    assert set(given["found"]) == {"images", "psnr", "ssim", "agreement"}


def vars_of(data):
    return {name: getattr(data, name) for name in data.__dataclass_fields__}


def test_what_is_equal_is_kept_whole(digits):
    model = network()

    class Same:
        """A codec that gives back what it is given."""

        encode = staticmethod(lambda images: images)
        decode = staticmethod(lambda features, size: features)

    found = judge(Same(), model, digits, 16)
    assert (found["psnr"], found["agreement"]) == (100, 1)
    assert found["ssim"] == pytest.approx(1)
    assert found["accuracy"] == found["accuracy_reconstructed"]


def test_a_network_of_a_size_of_its_own_is_decoded_at_that_size(digits, tmp_path):
    model, path = network(input_size=64), tmp_path / "d.safetensors"
    record = train_decoder(model, "3", digits, out=path, options=SMALL, device="cpu", data_options=None)
    assert (record["decoder"]["stride"], record["training"]["crop"]) == (2, [16, 16])
    images = digits.tensors()[0][:2]
    codec = codec_of(model, path, images)
    assert codec.encode(images).shape == (2, 8, 32, 32)
    assert codec.decode(codec.encode(images), (32, 32)).shape == (2, 3, 32, 32)


def test_crops_are_windows_of_their_images_whatever_the_batch():
    images = torch.arange(2 * 3 * 6 * 8.0).view(2, 3, 6, 8)
    draws = Draws(0, torch.tensor([3, 5]), "test")
    crops = random_crops(images, (4, 4), draws)
    for image, crop, (top, left, side) in zip(images, crops, draws.uniform("crop", 3).tolist(), strict=True):
        window = image[:, int(3 * top) :, int(5 * left) :][:, :4, :4]
        assert torch.equal(crop, window.flip(2) if side < 0.5 else window)
    alone = random_crops(images[1:], (4, 4), Draws(0, torch.tensor([5]), "test"))
    assert torch.equal(alone[0], crops[1])


def test_moments_are_those_of_all_features_together():
    features = torch.rand(10, 3, 4, 4)
    features[:, 2] = 0.25
    mean, std = feature_moments(lambda images: images, iter(features.split(4)))
    values = features.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(mean.flatten(), values.mean(1).float())
    torch.testing.assert_close(std.flatten(), torch.tensor([*values.std(1, correction=0)[:2].float(), 1.0]))


def test_bad_input_is_told_in_one_line(digits, tmp_path):
    def decode(at="3", options=SMALL, data=digits, out="d.safetensors", **more):
        return train_decoder(network(), at, data, out=tmp_path / out, options=options, device="cpu", **more)

    with pytest.raises(InputError, match="Unknown loss 'feature'"):
        decode(loss="feature")
    with pytest.raises(InputError, match="Unknown layer '9'"):
        decode("9")
    with pytest.raises(InputError, match=r"Expected a .safetensors file to write, but got .*d.pt"):
        decode(out="d.pt")
    with pytest.raises(InputError, match=r"at least 3 images, of which one is held out, but .* has 2"):
        decode(data=digits.subset(np.arange(2)))
    with pytest.raises(InputError, match="Expected `crop` to be an integer of at least 1, but got 0"):
        DecoderOptions(crop=0)
    with pytest.raises(InputError, match="Expected `epochs` to be an integer of at least 1, but got 0"):
        DecoderOptions(epochs=0)
    assert not list(tmp_path.glob("*.safetensors"))


# the command

MODEL_FILE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
    )
"""


@pytest.fixture
def decode(run, tmp_path):
    path = tmp_path / "models.py"
    path.write_text(MODEL_FILE)
    base = ["--model", f"py:{path}:build", "--data", "digits", "--limit", 30, "--device", "cpu", "--mean", 0.5]
    base += ["--std", 0.5, "--width", 4, "--depth", 1, "--epochs", 1, "--out", tmp_path / "d.safetensors"]
    return lambda *words: run("decoder", *base, *words)


def test_the_command_says_what_it_found_and_gives_its_record(decode, tmp_path):
    done = decode("--at", 1)
    assert done.code == 0, done.err
    assert "1 epoch, 1 step." in done.err
    assert done.out.endswith(f"a decoder of 1. Use it as --decoder {tmp_path / 'd.safetensors'}\n")
    again = decode("--at", 1, "--json")
    assert "The decoder was finished before; nothing was trained again." in again.err
    found = json.loads(again.out)["found"]
    assert done.out.startswith(
        f"3 images that it has not seen: PSNR {found['psnr']:.2f} dB, SSIM {found['ssim']:.3f}.\n"
    )


def test_an_encoder_is_loaded_as_its_decoder_was_trained(decode, tmp_path):
    """With the mean and deviation that were given then, which its file has."""
    assert decode("--at", 1).code == 0
    spec, images = f"py:{tmp_path / 'models.py'}:build", torch.rand(2, 3, 32, 32)
    codec = open_codec(spec, tmp_path / "d.safetensors", torch.device("cpu"), 32)
    network = load_model(spec, mean=0, std=1).network
    torch.testing.assert_close(codec.encode(images), network[:2](2 * images - 1))


def test_the_command_tells_bad_input_in_one_line(decode):
    done = decode("--at", "nowhere")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("statshift: error: Unknown layer 'nowhere'. Choose from: 0, 1")
    done = decode("--at", 1, "--loss", "l3")
    assert (done.code, done.err) == (2, "statshift: error: Unknown loss 'l3'. Choose from: features, pixels, adain.\n")
