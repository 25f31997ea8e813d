"""Diagnosis: against the layer's own statistics in NumPy, what it says, and what is written to a file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from torch import nn

import statshift
from statshift import load_data, load_model, rectify
from statshift._core.errors import InputError
from statshift.adapting.diagnose import Diagnosis, diagnose
from statshift.adapting.drawing import adaptation_positions, draw_images
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.plots import plot_diagnosis
from statshift.adapting.rectify import rectified
from statshift.cli import app
from statshift.making.rectified import write_rectified
from statshift.measuring.ligs import ligs
from statshift.models import save_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def pictures(count, seed=0):
    """Return images that differ in brightness, and within from left to right."""
    generator = torch.Generator().manual_seed(seed)
    brightness, slope = torch.rand(2, count, 3, 1, 1, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(count, 3, 6, 6, generator=generator, dtype=torch.float64)
    return (0.25 + brightness / 2 + noise + (slope - 0.5) * torch.linspace(-1, 1, 6).double()).clamp(0, 1)


@pytest.fixture(scope="module")
def network():
    """A network that has stored the statistics of 2000 pictures."""
    torch.manual_seed(0)
    layers = [nn.BatchNorm2d(3), nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, eps=1e-3), nn.ReLU(), nn.Conv2d(16, 16, 3)]
    network = nn.Sequential(*layers, nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 10)).double().eval()
    return rectify(network, pictures(2000), "replace")


def test_shift_and_noise_are_those_of_the_layers_inputs(network):
    images = pictures(20, seed=1) * 0.5
    found = diagnose(network, images)
    assert found.layers == ["0", "2", "5"]
    assert found.images == 20
    features = network[:2](images).detach().numpy()
    layer = network[2]
    mean, var = layer.running_mean.numpy(), layer.running_var.numpy()
    scale = var + layer.eps
    target_mean, target_var = features.mean((0, 2, 3)), features.var((0, 2, 3))
    distance = ((target_mean - mean) ** 2 / scale + (target_var - var) ** 2 / scale**2 / 4).mean()
    squares = ((features - target_mean.reshape(1, -1, 1, 1)) ** 2).mean((2, 3))
    noise = features.mean((2, 3)).var(0, ddof=1) / scale + squares.var(0, ddof=1) / scale**2 / 4
    assert found.shift[1] == pytest.approx(np.sqrt(distance))
    assert 10 < found.effective <= 20
    apart = 0
    for power, values in ((1, features), (2, (features - target_mean.reshape(1, -1, 1, 1)) ** 2)):
        quarters = values.reshape(20, 16, 2, 2, 2, 2).mean((3, 5))
        apart += ((quarters[..., 0] - quarters[..., 1]) ** 2 / 2).mean((0, 2)) / scale**power / power**2
    noise = (noise * 19 / 20 + apart / found.effective) / (found.effective - 1 / 2)
    assert found.noise[1] == pytest.approx(np.sqrt(noise.mean()))
    assert found.ratios[1] == pytest.approx(found.shift[1] / found.noise[1])
    assert found.number == pytest.approx(found.ratios[2])


def test_the_sentence_says_whether_and_where(network):
    shifted = diagnose(network, pictures(64, seed=2) * 0.4)
    assert shifted.persisting > 0.5
    assert "rectifying will likely help" in shifted.sentence
    assert f"{shifted.number:.1f} x sampling noise" in shifted.sentence
    alike = [diagnose(network, pictures(64, seed=seed)) for seed in range(3, 13)]
    assert sum("leave the model alone" in one.sentence for one in alike) >= 8
    assert np.mean([one.number for one in alike]) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("shift", "persisting", "words"),
    [
        (
            [9, 9, 1, 1, 1, 1],
            0.0,
            "No shift beyond noise reaches the last layers (1.0 x sampling noise, no more than in training): leave",
        ),
        ([9, 9, 1, 1, 2, 2], 0.9, "2.0 x sampling noise where it reaches the last layers, and largest in the first"),
        ([1, 1, 1, 1, 1.3, 1.3], 0.2, "largest in the last third: rectifying may help a little."),
        ([1, 1, 1, 1, 3, 3], 0.2, "largest in the last third: rectifying will likely help."),  # seen as of few classes
        (
            [1, 1, 1, 1, 3, 3],
            0.0,
            "3.0 x sampling noise where it reaches the last layers, but the model sees few classes",
        ),
    ],
)
def test_sentences(shift, persisting, words):
    found = Diagnosis(list("abcdef"), np.array(shift, float), np.ones(6), 32, persisting, 31.0)
    assert words in found.sentence
    assert "count as" not in found.sentence
    some_alike = Diagnosis(list("abcdef"), np.array(shift, float), np.ones(6), 32, persisting, 2.0)
    assert some_alike.sentence.endswith("(32 images, so alike that they count as 2.0)") == (persisting > 0)


@pytest.mark.parametrize(
    ("number", "persisting", "images", "protocol", "words"),
    [
        (1.2, 0.0, 32, "source", "Use no protocol, or `auto` where a shift may come"),
        (1.9, 0.3, 32, "auto", "`replace` would likely lose."),
        (3.0, 0.8, 32, "auto", "`replace` gains less, or loses."),
        (4.1, 0.9, 32, "auto", "`replace` gains from so strong a shift too, but less."),
        (2.9, 0.9, 16, "auto", "`replace` gains less, or loses."),  # as 3.98 from 32 images
        (2.95, 0.9, 16, "auto", "`replace` gains from so strong"),  # as 4.05
        (5.5, 0.9, 128, "auto", "`replace` gains less, or loses."),  # as 2.88
    ],
)
def test_the_protocol_follows_from_the_strength_at_32_images(number, persisting, images, protocol, words):
    found = Diagnosis(["a"], np.array([number]), np.ones(1), images, persisting, images)
    assert found.protocol == protocol
    assert words in found.advice
    assert found.advice.count(".") <= 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"effective": 3.9}, "They count as 3.9 different images: take some of more scenes before writing weights."),
        ({"effective": 4.1}, ""),
        ({"predicted": 3.3}, "The model's answers count as 3.3 of its 10 classes: if the images are truly of so few"),
        ({"predicted": 3.4}, ""),
        ({"predicted": 3.3, "effective": 3.9}, "They count as 3.9 different images"),
        ({"predicted": 0.0, "classes": 0}, ""),
        ({"predicted": 1.1, "classes": 2}, ""),
        ({"predicted": 10.6, "classes": 1000}, "count as 10.6 of its 1000 classes"),  # a third of 32 images
        ({"predicted": 10.7, "classes": 1000}, ""),
    ],
)
def test_few_scenes_and_few_classes_are_warned_of(changes, said):
    values = {"persisting": 0.9, "effective": 20.0, "classes": 10, "predicted": 9.0} | changes
    found = Diagnosis(["a"], np.array([3.0]), np.ones(1), 32, **values)
    first = "Use `auto`, which goes as far as the evidence; `replace` gains less, or loses."
    assert said in found.advice
    assert (found.advice == first) == (said == "")
    quiet = Diagnosis(["a"], np.array([1.0]), np.ones(1), 32, **values | {"persisting": 0.0})
    assert "count as" not in quiet.advice


def test_predicted_classes_are_counted_by_pairs(network):
    """Against a loop over pairs of images, of a network that answers by what it is shown."""
    images = pictures(24, seed=4) * 0.5
    found = diagnose(network, images)
    answers = network(images).argmax(1).tolist()
    pairs = [(a, b) for a in range(24) for b in range(24) if a != b]
    same = sum(answers[a] == answers[b] for a, b in pairs)
    assert (found.classes, found.predicted) == (10, pytest.approx(min(10, len(pairs) / same)))
    assert not network._forward_hooks


@pytest.mark.parametrize(("answer", "expected"), [([0, 0, 0, 0], 1.0), ([0, 0, 1, 1], 3.0), ([0, 1, 2, 3], 5.0)])
def test_answers_that_all_differ_count_as_all_classes(answer, expected):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(3, 5)).double().eval()
    model[0].running_var.fill_(0.5)
    handle = model[3].register_forward_hook(lambda *_: torch.eye(5, dtype=torch.float64)[answer])
    assert diagnose(model, pictures(4)).predicted == pytest.approx(expected)
    handle.remove()


def without_statistics(norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize(
    ("norm", "named", "words"),
    [
        (nn.GroupNorm(2, 8), "GroupNorm", "`sar` can train the weights of its norms"),
        (nn.BatchNorm2d(8, track_running_stats=False), "BatchNorm2d", "Measure it first, with `--stream`"),
        (nn.Identity(), "none", "there are no norms either whose weights `tent` or `sar` could train"),
    ],
)
def test_a_model_that_stores_no_statistics_is_told_what_can_be_done(norm, named, words):
    model = without_statistics(norm)
    with torch.no_grad():
        model[-1].weight.copy_(torch.eye(10, 8))
        model[-1].weight.mul_(100)
    images = pictures(32, seed=7)
    found = diagnose(model, images)
    assert (found.protocol, found.layers, found.number, found.norms) == ("source", [], 1.0, named)
    assert f"(its norms: {named}), so there is nothing to rectify" in found.sentence
    assert repr(found) == f"Diagnosis of 32 images: {found.sentence}"
    spread = Diagnosis([], np.empty(0), np.empty(0), 32, 0.0, 32, norms=named, classes=10, predicted=9.0)
    assert spread.advice.startswith("Leave it as it is")
    assert words in spread.advice
    few = Diagnosis([], np.empty(0), np.empty(0), 32, 0.0, 32, norms=named, classes=10, predicted=1.5)
    assert "Its answers count as 1.5 of its 10 classes: if each batch is truly of so few" in few.advice
    assert "`lame` can help" in few.advice


def test_copies_are_named_and_give_no_absurd_ratio(network):
    parts = pictures(4, seed=2)[..., :3, :3].unflatten(0, (2, 2))  # of an image whose quarters differ as images do
    image = torch.cat([torch.cat(list(row), 2) for row in parts], 1)
    found = diagnose(network, image.repeat(32, 1, 1, 1))
    assert found.effective == 1
    assert found.persisting == 0
    assert found.number < 30
    assert (
        "The 32 images are alike (copies, frames of one scene or pictures of nothing) and count as 1.0"
        in found.sentence
    )


def test_an_untrained_model_is_named(network):
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).double()
    found = diagnose(fresh, pictures(16))
    assert found.untrained
    assert "the model was never trained, or its weights were not loaded" in found.sentence
    assert "help" not in found.sentence
    assert not diagnose(network, pictures(16)).untrained
    fresh[1].running_var[0] = 1.1
    assert not diagnose(fresh, pictures(16)).untrained


def test_a_dead_channel_of_one_position_gives_no_absurd_ratio():
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).double()
    with torch.no_grad():
        network[1].bias.fill_(-10)  # every channel is dead after the ReLU
        network[3].running_mean.fill_(1e-3)
        network[3].running_var.fill_(1e-6)
    assert diagnose(network, pictures(16)).number < 30


def test_one_image_tells_no_noise(network):
    with pytest.raises(InputError, match=r"at least 2, but got shape \(1, 3, 6, 6\)"):
        diagnose(network, pictures(1))


def test_the_plot_is_drawn(network, tmp_path, monkeypatch):
    found, drawn, save = diagnose(network, pictures(8)), [], Figure.savefig

    def watch(figure, *words, **options):
        drawn.append(figure)
        save(figure, *words, **options)

    monkeypatch.setattr(Figure, "savefig", watch)
    plot_diagnosis(found, tmp_path / "deep" / "plot.png")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], [found.shift, found.noise])
    assert axes.get_title().replace("\n", " ") == found.sentence
    with pytest.raises(InputError, match=r"\.png, \.svg or \.pdf .* got .*plot\.nothing"):
        plot_diagnosis(diagnose(network, pictures(8)), tmp_path / "plot.nothing")


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Dimmed digits without labels, and weights with their own statistics."""
    monkeypatch.chdir(tmp_path)
    images = next(load_data("digits", limit=40).batches(40))[0]
    np.savez("dim.npz", images=(images // 2).permute(0, 2, 3, 1).numpy())
    torch.manual_seed(3)
    model = load_model("cifar:resnet20")
    save_weights(rectify(model, images.float() / 255, "replace").network, "source.safetensors")
    return load_data("npz:dim.npz")


ARGUMENTS = ["--model", "cifar:resnet20", "--weights", "source.safetensors", "--data", "npz:dim.npz", "--device", "cpu"]


def test_the_command_prints_what_the_function_finds(digits, capsys):
    app(["diagnose", *ARGUMENTS, "--samples", "16", "--plot", "plot.png"], standalone_mode=False)
    text = capsys.readouterr().out
    model = load_model("cifar:resnet20", weights="source.safetensors")
    found = diagnose(model, draw_images(digits, 16))
    assert found.sentence in text
    assert found.advice in text
    cells = [line.split() for line in text.splitlines()]
    for name, shift, noise, ratio in zip(found.layers, found.shift, found.noise, found.ratios, strict=True):
        assert [name, f"{shift:.3f}", f"{noise:.3f}", f"{ratio:.1f}"] in cells
    plot_diagnosis(found, "again.png")
    assert Path("plot.png").read_bytes() == Path("again.png").read_bytes()


def test_the_command_tells_a_model_without_batch_norm_what_to_do(digits, tmp_path, run):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(8, 10))\n"
    )
    words = ["diagnose", "--model", "py:own.py:build", "--data", "npz:dim.npz", "--device", "cpu"]
    done = run(*words)
    assert done.code == 0
    assert done.out.startswith("The model stores no statistics to compare these images with (its norms: GroupNorm)")
    document = json.loads(run(*words, "--json").out)
    assert (document["protocol"], document["layers"], document["norms"]) == ("source", [], "GroupNorm")
    assert document["advice"].startswith("Leave it as it is")
    done = run(*words, "--plot", "plot.png")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "Cannot plot to plot.png: the model stores no statistics (its norms: GroupNorm)" in done.err


@pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # of an untrained network
@pytest.mark.parametrize("protocol", ["auto", "prior:64", "full"])
def test_rectified_weights_load_into_the_unmodified_architecture(digits, protocol, capsys):
    app(
        ["rectify", *ARGUMENTS, "--samples", "16", "--protocol", protocol, "--out", "out.safetensors"],
        standalone_mode=False,
    )
    moved = "Nothing was changed" if protocol == "auto" else "Rewritten: 19 norm layers: bn1, layer1.0.bn1"
    assert moved in capsys.readouterr().out
    source = load_model("cifar:resnet20", weights="source.safetensors")
    every = next(digits.batches(40))[0].float() / 255
    chosen = every if protocol == "full" else every[adaptation_positions(digits.indices, 16, 0, 0)]
    expected = rectify(source, chosen, "replace" if protocol == "full" else protocol)
    plain = load_model("cifar:resnet20", weights="out.safetensors")
    # the 40 images go through in one batch, so that even the sweeps of "full" are exact
    torch.testing.assert_close(plain(every), expected(every))
    with safe_open("out.safetensors", "pt") as file:
        record = json.loads(file.metadata()["statshift"])
    assert record["protocol"]["name"] == protocol
    assert record["protocol"].get("samples") == (None if protocol == "full" else 16)
    assert record["model"]["weights_hash"] == statshift.models.weights_hash(source.network)
    assert record["data"]["images"] == 40


def test_a_protocol_of_ones_own_is_written(digits, tmp_path):
    model = load_model("cifar:resnet20", weights="source.safetensors")

    def dim(model, images):
        with torch.no_grad():
            model.network.linear.bias += len(images)
        return model

    before = model.network.linear.bias.clone()
    write_rectified(model, digits, "out.safetensors", protocol={"dim": dim}, options=AdaptationOptions(8))
    plain = load_model("cifar:resnet20", weights="out.safetensors")
    assert torch.equal(plain.network.linear.bias, before + 8)
    assert torch.equal(model.network.linear.bias, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "batch"], "The protocol batch leaves no statistics to write: they move with every batch"),
        (["--protocol", "source"], "The protocol source leaves no statistics to write: it changes nothing"),
        (["--samples", "41"], "at most 40 samples of the 40 images for auto, but got 41"),
        (["--protocol", "atuo"], "Did you mean 'auto'"),
        (["--out", "out.pth"], r"Expected a \.safetensors file to write, but got out\.pth"),
    ],
)
def test_bad_input_to_rectify(digits, arguments, message):
    with pytest.raises(InputError, match=message):
        app(["rectify", *ARGUMENTS, "--out", "out.safetensors", *arguments], standalone_mode=False)
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("images", "got"),
    [
        ("digits", "'digits'; load_data('digits').tensors() gives them, and labels"),
        (load_data("digits", limit=3), "data of digits; their .tensors() gives them, and labels"),
        (np.zeros((2, 3, 8, 8)), "a NumPy array of shape (2, 3, 8, 8); torch.from_numpy(...) makes a tensor of it"),
    ],
)
def test_what_takes_images_says_how_to_get_them(images, got):
    model = load_model("cifar:resnet20", model_args={"width": 0.1})

    def within():
        with rectified(model, images):
            pass

    takers = [lambda: diagnose(model, images), lambda: rectify(model, images), within]
    for take in [*takers, lambda: ligs(model, images, torch.zeros(3, dtype=torch.long))]:
        with pytest.raises(InputError) as told:
            take()
        assert str(told.value) == f"Expected images (B,3,H,W), but got {got}."
    with pytest.raises(InputError, match=r"Expected labels \(B,\) as a tensor, but got an object of type list"):
        ligs(model, torch.zeros(1, 3, 8, 8), [3])
