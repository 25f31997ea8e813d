"""Data sets of worst-case images: factors and pixels, the control, sittings and processes, gradients, bad input."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import warm
from statshift import InputError, load_data
from statshift.making import advbn
from statshift.making.worst import Adversary, find_adversary
from statshift.models import PixelModel
from statshift.recipes import recipe
from statshift.recipes.networks import Network
from statshift.recipes.running import run_recipe
from statshift.recipes.sources import places
from statshift.shifts.attacks import (
    FeatureAttack,
    attack_features,
    batch_moments,
    gradient_of,
    initial_factors,
    perturb,
)
from tiny_codecs import ATTACK, BATCH, COUNT, decoder_file, digits, small_codec, small_model, write

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = Path(__file__).with_name("tiny_codecs.py")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def codec(model):
    return small_codec(model)


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "out")


def batches_of(data):
    for pixels, positions in data.batches(BATCH):
        yield pixels.float() / 255, torch.from_numpy(data.labels[positions]), positions


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures(folder):
    """Return the bytes of what must be equal, whoever made it and in how many sittings."""
    return {name: one for name, one in content(folder).items() if name not in (".lock", "record.json")}


def read(folder, data, position):
    place = folder / f"{data.labels[position]}" / f"{data.indices[position]:08d}.png"
    return np.asarray(Image.open(place))


# What is made


def test_factors_are_those_of_the_attack_on_the_same_batch(whole, codec, data):
    kept = np.load(whole.path / "batches.npz")
    assert kept["factors"].shape == (3, 2, 6)
    for number, (images, labels, _) in enumerate(batches_of(data)):
        with torch.no_grad():
            features = codec.split.prefix(images)

        def loss(worst, labels=labels):
            return F.cross_entropy(codec.split.suffix(worst), labels)

        expected = attack_features(features, loss, replace(ATTACK, perturbation="local"), relu=True)
        assert np.array_equal(kept["factors"][number], expected.numpy())
    assert (kept["factors"].min(), kept["factors"].max()) == (0.5, 1.5)
    assert kept["batch"].tolist() == [0] * 8 + [1] * 8 + [2] * 6
    assert kept["indices"].tolist() == data.indices.tolist()


@torch.no_grad()
def test_pixels_are_those_of_the_formula(whole, codec, data):
    factors = np.load(whole.path / "batches.npz")["factors"]
    for number, (images, _, positions) in enumerate(batches_of(data)):
        features = codec.split.prefix(images).double().numpy()
        worst = np.empty_like(features)
        for channel in range(features.shape[1]):
            d_mu, d_sigma = factors[number][:, channel]
            mean = features[:, channel].mean()
            worst[:, channel] = np.maximum(0, d_sigma * (features[:, channel] - mean) + d_mu * mean)
        for tree, some in (("advbn", worst), ("reconstructed", features)):
            decoded = codec.decoder(torch.from_numpy(some).float(), (32, 32)).clamp(0, 1).numpy()
            written = np.stack([read(whole.path / tree, data, position) for position in positions])
            assert np.abs(written / 255 - decoded.transpose(0, 2, 3, 1)).max() <= 0.5 / 255 + 1e-5


def test_with_factors_of_one_it_is_the_control_to_the_byte(tmp_path):
    still = write(tmp_path / "out", attack=FeatureAttack(3, 0.2, 0.0))
    assert np.array_equal(np.load(still.path / "batches.npz")["factors"], np.ones((3, 2, 6)))
    assert content(still.path / "advbn") == content(still.path / "reconstructed")
    assert len(content(still.path / "advbn")) == COUNT


def test_the_record_tells_what_an_image_depends_on(whole, data):
    record = json.loads((whole.path / "record.json").read_text())
    assert record == whole.record
    assert record["batches"]["size"] == BATCH
    assert record["batches"]["meaning"] == "The statistics are those of a batch of 8: an image depends on its batch."
    assert record["attack"] == {
        "steps": 3,
        "step_size": 0.2,
        "epsilon": 0.5,
        "form": "multiplicative",
        "part": "both",
        "clamp": True,
        "perturbation": "local",
        "loss": "rest",
    }
    assert record["decoder"]["at"] == record["decoder"]["encoder"]["at"] == "act1"
    assert {len(record["decoder"]["hash"]), len(record["decoder"]["encoder"]["hash"])} == {16}
    assert record["found"]["images"] == COUNT
    for tree in ("advbn", "reconstructed"):
        pixels = np.stack([read(whole.path / tree, data, position) for position in range(COUNT)]) / 255
        clean = torch.cat([images for images, *_ in batches_of(data)]).permute(0, 2, 3, 1).numpy()
        expected = -10 * np.log10(((pixels - clean) ** 2).mean((1, 2, 3)))
        assert np.load(whole.path / "batches.npz")[f"psnr_{tree}"] == pytest.approx(expected, abs=1e-3)
        assert record["found"][f"psnr_{tree}"] == pytest.approx(expected.mean(), abs=1e-3)


def test_it_is_read_back_as_a_folder_of_classes(whole, data):
    back = load_data(f"folder:{whole.path / 'advbn'}")
    order = np.lexsort((data.indices, data.labels))
    assert back.labels.tolist() == data.labels[order].tolist()
    images, _ = next(back.batches(COUNT))
    assert np.array_equal(
        images.permute(0, 2, 3, 1).numpy(), np.stack([read(whole.path / "advbn", data, position) for position in order])
    )


def test_classes_without_images_keep_their_place(tmp_path):
    some = digits().subset(np.flatnonzero(digits().labels > 6))
    model = small_model()
    made = advbn.write_advbn(model, small_codec(model), some, out=tmp_path / "out", attack=ATTACK, device="cpu")
    back = load_data(f"folder:{made.path / 'reconstructed'}")
    assert set(back.labels.tolist()) == {7, 8, 9}


def test_an_image_depends_on_its_batch(whole, tmp_path):
    other = write(tmp_path / "out", batch_size=COUNT)
    assert content(other.path / "reconstructed").keys() == content(whole.path / "reconstructed").keys()
    assert content(other.path / "advbn") != content(whole.path / "advbn")


def test_sizes_that_are_no_multiples_of_the_stride(model, tmp_path):
    images = torch.rand(5, 3, 33, 41, generator=torch.Generator().manual_seed(0))
    made = advbn.write_advbn(
        model,
        small_codec(model),
        TensorDataset(images, torch.arange(5)),
        out=tmp_path / "out",
        attack=ATTACK,
        device="cpu",
    )
    assert {np.asarray(Image.open(path)).shape for path in made.path.rglob("*.png")} == {(33, 41, 3)}


def test_without_the_control(tmp_path):
    made = write(tmp_path / "out", control=False)
    assert not (made.path / "reconstructed").exists()
    assert made.record["trees"] == ["advbn"]
    assert "psnr_reconstructed" not in made.record["found"]


@pytest.mark.filterwarnings("ignore:Clean accuracy is")  # it has not been trained
def test_the_recipe_measures_both_trees_beside_theirs(whole, model, tmp_path):
    chosen = recipe("imagenet-advbn")
    assert places(chosen.source["submission"]) == ["Table 7"]
    networks = {"base": Network(f"py:{SCRIPT}:small_network")}
    chosen = replace(chosen, networks=networks, files={}, published={"base": None})
    told = run_recipe(chosen, None, f"folder:{whole.path}", tmp_path / "out", device="cpu")
    figures = told["base"]["analysis"]["figures"]
    assert list(figures) == ["advbn, act1", "reconstructed, act1"]
    for tree in ("advbn", "reconstructed"):
        images, labels = load_data(f"folder:{whole.path / tree}").tensors()
        with torch.no_grad():
            right = (model(images).argmax(1) == labels).float().mean()
        assert figures[f"{tree}, act1"] == pytest.approx(float(right))
    (rows,) = chosen.tables(told)
    assert rows[0] == ["label", "advbn, act1", "reconstructed, act1", "published"]
    assert rows[1][-1] == "not in our copy"
    with pytest.raises(InputError, match="Expected the data as folder:DIR that `write_advbn` wrote"):
        run_recipe(chosen, None, f"folder:{whole.path / 'advbn'}", tmp_path / "out", device="cpu")


# What it costs


class Counted:
    """A codec whose parts count their calls."""

    def __init__(self, codec):
        self.calls = []
        counted = replace(codec.split, _suffix=self.counting("rest", codec.split._suffix))
        self.codec = replace(codec, encode=self.counting("encoder", codec.encode), split=counted)
        codec.decoder.forward = self.counting("decoder", type(codec.decoder).forward.__get__(codec.decoder))

    def counting(self, name, function):
        def call(*arguments):
            self.calls.append(name)
            return function(*arguments)

        return call


@pytest.mark.parametrize(("loss", "inside"), [("rest", ["rest"]), ("decoded", ["decoder"])])
def test_encoder_attack_and_decoder_run_once_a_batch(tmp_path, model, loss, inside):
    counted = Counted(small_codec(model))
    advbn.write_advbn(
        model,
        counted.codec,
        digits(),
        out=tmp_path / "out",
        attack=ATTACK,
        batch_size=BATCH,
        loss=loss,
        device="cpu",
    )
    of_a_batch = ["encoder", *(inside * ATTACK.steps), "decoder", "decoder"]  # once for each of the two trees
    assert counted.calls == of_a_batch * 3


def test_the_model_is_left_as_it_was(tmp_path):
    model = small_model().train()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    write(tmp_path / "out", model=model)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


# Sittings and processes


def test_what_was_interrupted_goes_on(whole, tmp_path):
    def stop(done, total):
        if done >= 8:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write(tmp_path / "out", progress=stop)
    told = []
    made = write(tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert told == [(8, 22), (16, 22), (22, 22)]
    assert pictures(made.path) == pictures(whole.path)
    assert made.record == whole.record
    made = write(tmp_path / "out", progress=lambda *at: pytest.fail("all was finished"))
    assert made.record == whole.record


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_killed_it_ends_with_the_bytes_of_one_that_was_not(whole, tmp_path):
    out = tmp_path / "out"
    process = warm.start(out, "0.4", file=SCRIPT)
    end = time.monotonic() + 120
    while not (out / ".batches" / "000000.npz").exists():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    assert warm.end(process).returncode == -9
    assert not (out / "batches.npz").exists()
    assert pictures(write(out).path) == pictures(whole.path)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_together_they_give_the_bytes_of_one(whole, tmp_path, count):
    done = warm.run(tmp_path / "out", file=SCRIPT, count=count)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["environment"]["processes"] == count
    assert {**record, "environment": whole.record["environment"]} == whole.record
    assert pictures(tmp_path / "out") == pictures(whole.path)


# Gradients


@pytest.mark.parametrize("loss", ["rest", "decoded", "another"])
def test_gradients_are_those_of_finite_differences(data, loss):
    model = small_model().double()
    judge = {"rest": None, "decoded": model, "another": small_model(3).double()}[loss]
    adversary = Adversary(small_codec(model), judge)
    images, labels, _ = next(batches_of(data))
    attack = FeatureAttack(6, 0.2, 1.1, perturbation="local")
    with adversary.ready():
        features = adversary.features(images.double())
        moments = batch_moments(features, attack)

        def at(factors):
            worst = perturb(features, factors, moments, attack, relu=True)
            return F.cross_entropy(adversary.logits(worst, (32, 32)), labels)

        point = initial_factors(features, attack) + 0.2 * torch.linspace(-1, 1, 12).view(2, 6)
        gradient = gradient_of(at, 1.0)(point)
        step, differences = 1e-6, torch.empty_like(point)
        for place in np.ndindex(2, 6):
            moved = torch.zeros_like(point)
            moved[place] = step
            with torch.no_grad():
                differences[place] = (at(point + moved) - at(point - moved)) / (2 * step)
    assert gradient.dtype == torch.float64
    assert gradient.abs().max() > 1e-3
    assert torch.allclose(gradient, differences, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", ["rest", "decoded", "another"])
def test_the_loss_that_is_asked_for_rises(data, model, codec, loss):
    adversary = find_adversary(model, codec, small_model(3) if loss == "another" else loss, torch.rand(1, 3, 32, 32))
    images, labels, _ = next(batches_of(data))
    with adversary.ready(), torch.no_grad():
        features = adversary.features(images)
        factors = adversary.factors(features, labels, ATTACK, (32, 32))
        worst = perturb(features, factors, batch_moments(features, ATTACK), ATTACK, relu=True)
        before, after = (F.cross_entropy(adversary.logits(one, (32, 32)), labels) for one in (features, worst))
    assert after > before + 0.01


# Bad input


def test_what_cannot_be_is_told(model, codec, data, tmp_path):
    def make(**changes):
        given = {"model": model, "decoder": codec, "data": data, "out": tmp_path / "out", "device": "cpu", **changes}
        return advbn.write_advbn(given.pop("model"), given.pop("decoder"), given.pop("data"), **given)

    with pytest.raises(InputError, match="Expected `loss` to be rest, decoded or a model's spec, but got 'image'"):
        make(loss="image")
    with pytest.raises(InputError, match="Expected the encoder of the model itself"):
        make(model=small_model(1))
    with pytest.raises(InputError, match="has no labels"):
        make(data=replace(data, labels=None))
    with pytest.raises(InputError, match="10 classes"):
        make(data=replace(data, labels=data.labels + 1))
    with pytest.raises(InputError, match="at least 1"):
        make(batch_size=0)
    with pytest.raises(InputError, match="is a decoder of another encoder"):
        make(decoder=decoder_file(tmp_path / "other.safetensors", small_model(1)))
    with pytest.raises(InputError, match="which this model has not"):
        make(decoder=decoder_file(tmp_path / "own.safetensors", model), model=narrow())
    with pytest.raises(InputError, match="is not a file"):
        make(decoder=tmp_path / "none.safetensors")
    alone = replace(codec, split=None, at="relu4_1")
    with pytest.raises(InputError, match="Expected `loss` decoded or another model with an encoder to relu4_1 alone"):
        make(decoder=alone)


def narrow():
    """Return a model without the layer that the decoder is of."""
    return PixelModel(nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.Flatten(2), Mean()), num_classes=10)


class Mean(nn.Module):
    def forward(self, features):
        return features.mean(2)


def test_a_folder_of_something_else_is_refused(whole, tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write(tmp_path / "held")
    with pytest.raises(InputError, match=r"attack\.steps"):
        write(whole.path, attack=FeatureAttack(4, 0.2, 0.5))


# The command


def test_the_command_makes_the_same(whole, run, tmp_path):
    decoder = decoder_file(tmp_path / "decoder.safetensors", small_model())
    words = ["make", "advbn", "--model", f"py:{SCRIPT}:small_network", "--decoder", decoder, "--data", "digits"]
    words += ["--limit", COUNT, "--seed", 1, "--batch-size", BATCH, "--steps", 3, "--device", "cpu"]
    done = run(*words, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "22 images in batches of 8: 3 steps of 0.2 within 0.5, after act1." in done.out
    assert f"--data folder:{tmp_path / 'out' / 'advbn'} --resize 32 --crop 32" in done.out
    assert pictures(tmp_path / "out") == pictures(whole.path)
    again = run(*words, "--out", tmp_path / "out", "--json")
    assert "nothing was made again" in again.err
    assert json.loads(again.out) == json.loads((tmp_path / "out" / "record.json").read_text())
    wrong = run(*words, "--out", tmp_path / "out", "--loss", "image")
    assert (wrong.code, wrong.out) == (2, "")
    assert "Expected --loss to be rest, decoded or a model's spec" in wrong.err


def test_the_papers_numbers_are_the_commands(run, tmp_path):
    decoder = decoder_file(tmp_path / "decoder.safetensors", small_model())
    words = ["make", "advbn", "--model", f"py:{SCRIPT}:small_network", "--decoder", decoder, "--data", "digits"]
    done = run(*words, "--limit", 10, "--device", "cpu", "--no-control", "--out", tmp_path / "out", "--json")
    record = json.loads(done.out)
    assert [record["attack"][name] for name in ("steps", "step_size", "epsilon")] == [6, 0.2, 1.1]
    assert (record["batches"]["size"], record["trees"]) == (32, ["advbn"])
