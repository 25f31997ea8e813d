"""Feature divergence: against equation 5 in a NumPy loop and torch.distributions, and what the command makes of it."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from statshift import load_data, load_model
from statshift._core.errors import InputError
from statshift.adapting.drawing import draw_images
from statshift.adapting.plots import plot_divergence
from statshift.hardening.methods.standard import Standard
from statshift.hardening.trainer import train
from statshift.hardening.training import TrainingOptions
from statshift.models import save_weights
from statshift.norms.divergence import Divergence, divergence, symmetric_divergence
from statshift.norms.statistics import ChannelStatistics
from statshift.splitting.branches import Branches

pytestmark = pytest.mark.usefixtures("one_thread")


def images_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 6, 6, generator=generator, dtype=torch.float64)


def dimmed(count, seed=1):
    return images_of(count, seed) * 0.6


class Network(nn.Module):
    """Norms of three kinds of features, registered in another order than they are met."""

    def __init__(self):
        super().__init__()
        self.late = nn.BatchNorm1d(5)
        self.first = nn.BatchNorm2d(3)
        self.second = nn.BatchNorm2d(4, affine=False)
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(64, 5)

    def into_second(self, images):
        return self.conv(self.first(images))

    def into_late(self, images):
        return self.linear(self.second(self.into_second(images)).relu().flatten(1))

    def forward(self, images):
        return self.late(self.into_late(images))


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network()
        for norm in (network.first, network.second, network.late):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
        for parameter in (*network.first.parameters(), *network.late.parameters()):
            nn.init.normal_(parameter)
    return network.double().eval()


def statistics(mean, var):
    return ChannelStatistics(torch.tensor(mean), torch.tensor(var), 100)


def equation_5(one, other):
    """Return the divergence of two samples (N,C), averaged over the channels, as the paper writes it."""

    def directed(a, b):
        mu_a, mu_b, sigma_a, sigma_b = a.mean(), b.mean(), a.std(), b.std()
        return math.log(sigma_b / sigma_a) + (sigma_a**2 + (mu_a - mu_b) ** 2) / (2 * sigma_b**2) - 1 / 2

    pairs = list(zip(one.T, other.T, strict=True))
    return sum(directed(a, b) + directed(b, a) for a, b in pairs) / len(pairs)


def values_of(features):
    """Return the values (N,C) of features (B,C) or (B,C,H,W)."""
    return features.detach().movedim(1, -1).flatten(0, -2).numpy()


def test_the_formula_is_that_of_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, other_mean = torch.randn(2, 50, generator=generator)
    var, other_var = torch.rand(2, 50, generator=generator) + 0.01
    found = symmetric_divergence(ChannelStatistics(mean, var, 9), ChannelStatistics(other_mean, other_var, 7))
    one = Normal(mean.double(), var.double().sqrt())
    other = Normal(other_mean.double(), other_var.double().sqrt())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, kl_divergence(one, other) + kl_divergence(other, one))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.0, 1.0), (0.0, 1.0), 0.0),
        ((1.0, 1.0), (3.0, 1.0), 4.0),  # the squared distance in deviations
        ((5.0, 1.0), (5.0, 4.0), 1.125),  # (4 + 1/4) / 2 - 1
        ((5.0, 0.0), (5.0, 0.0), 0.0),
        ((5.0, 0.0), (4.0, 0.0), math.inf),
        ((5.0, 0.0), (5.0, 1.0), math.inf),
        ((5.0, 1.0), (4.0, 0.0), math.inf),
    ],
)
def test_one_channel(first, second, expected):
    one, other = (statistics([mean], [var]) for mean, var in (first, second))
    assert symmetric_divergence(one, other).tolist() == [expected]
    assert symmetric_divergence(other, one).tolist() == [expected]


def test_each_layer_has_the_divergence_of_its_inputs(network):
    first, second = images_of(20), dimmed(30)
    found = divergence(network, [first], [second])
    assert found.layers == ["first", "second", "late"]
    assert found.images == (20, 30)
    inputs = (lambda images: images, network.into_second, network.into_late)
    expected = [equation_5(values_of(into(first)), values_of(into(second))) for into in inputs]
    assert found.values.dtype == np.float64
    np.testing.assert_allclose(found.values, expected, rtol=1e-10)


def test_a_norms_output_has_the_divergence_of_its_input(network):
    first, second = images_of(20), dimmed(30)
    outputs = [values_of(network.first(images)) for images in (first, second)]
    assert equation_5(*outputs) == pytest.approx(divergence(network, [first], [second]).values[0], rel=1e-10)


def test_the_same_images_have_none(network):
    assert divergence(network, [images_of(8)], [images_of(8)]).values.tolist() == [0, 0, 0]


def test_batches_are_pooled_exactly_in_any_order_and_read_once(network):
    first, second = images_of(21), dimmed(30)
    whole = divergence(network, [first], [second])
    parts = divergence(network, iter(first.split(5)), (batch for batch in second.split(7)))  # the last of one image
    assert parts.images == whole.images
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-10)
    swapped = divergence(network, second.split(4)[::-1], first.flip(0).split(8))
    np.testing.assert_allclose(swapped.values, whole.values, rtol=1e-10)


def test_single_precision_is_enough(network):
    first, second = images_of(64), dimmed(64)
    expected = divergence(network, [first], [second]).values
    found = divergence(network.float(), first.float().split(16), second.float().split(16)).values
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_dead_channels_count_as_the_norm_sees_them(network):
    eps = network.second.eps
    with torch.no_grad():
        network.conv.weight[:2] = 0
        network.conv.weight[1, 0, 0, 0] = 1e-9  # next to constant
    first, second = images_of(20), dimmed(30)
    alive = [values_of(network.into_second(images))[:, 2:] for images in (first, second)]
    found = divergence(network, [first], [second]).values[1]
    assert found == pytest.approx(equation_5(*alive) / 2)
    with torch.no_grad():  # a channel that is constant in the first set only
        network.first.reset_parameters()
        network.conv.weight[1:] = 0
        network.conv.bias.zero_()
        network.conv.weight[0] = 1
    values = values_of(network.into_second(second))[:, 0]
    var, apart = values.var(), values.mean() ** 2
    expected = ((var + apart) / eps + (eps + apart) / var) / 2 - 1
    assert divergence(network, [first * 0], [second]).values[1] == pytest.approx(expected / 4)


@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_left_as_found(network, failing):
    network.train()
    network.second.eval()
    network.conv.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    flags = [module.training for module in network.modules()]
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    if failing:
        with pytest.raises(InputError, match=r"The model fails on images of shape \(2, 3, 9, 9\)"):
            divergence(network, [images_of(8)], [images_of(8), torch.zeros(2, 3, 9, 9).double()])
    else:
        found = divergence(network, [images_of(8)], [dimmed(8)])
        np.testing.assert_array_equal(found.values, divergence(network.eval(), [images_of(8)], [dimmed(8)]).values)
        network.train()
        network.second.eval()
    assert [module.training for module in network.modules()] == flags
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())
    assert torch.is_grad_enabled()


def not_finite():
    return [images_of(4), torch.full((2, 3, 6, 6), torch.nan).double()]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([], [images_of(4)], "at least one batch of images in `first`, but there is none"),
        ([images_of(4)], iter([]), "at least one batch of images in `second`, but there is none"),
        (images_of(4), [images_of(4)], r"images \(B,3,H,W\), at least one, but got shape \(3, 6, 6\)"),
        ([images_of(4)], [images_of(0)], r"images \(B,3,H,W\), at least one, but got shape \(0, 3, 6, 6\)"),
        ([images_of(4)], [images_of(1)], "The layer late has a single value in a channel of `second`"),
        ([images_of(4)], not_finite(), "The features before first are not finite"),
    ],
)
def test_bad_input(network, first, second, message):
    with pytest.raises(InputError, match=message):
        divergence(network, first, second)


def test_models_without_a_figure(network):
    with pytest.raises(InputError, match="Expected a model with batch normalization"):
        divergence(nn.Sequential(nn.GroupNorm(1, 3)), [images_of(4)], [images_of(4)])
    twice = nn.Sequential(network.first, network.first)
    with pytest.raises(InputError, match="The layer 0 is met twice"):
        divergence(twice, [images_of(4)], [images_of(4)])


def test_a_shift_diverges_more_than_another_sample():
    data = load_data("digits:train", limit=900)
    images = next(data.batches(len(data)))[0].float() / 255
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 10))
    few = load_data("digits:train", limit=300)
    options = TrainingOptions(epochs=3, batch_size=64, learning_rate=0.1, schedule="one-cycle", augment="crop")
    train(Branches(model, "input", images[:2], dual=False), few, Standard(), options)
    seen, other = images[300:600], images[600:]
    sample = divergence(model, seen.split(64), other.split(64)).values
    shifted = divergence(model, (seen + 0.2).clamp(0, 1).split(64), other.split(64)).values
    assert (sample > 0).all()
    assert (shifted > 3 * sample).all()


@pytest.mark.parametrize(("values", "scale"), [([0.5, 20.0], "log"), ([0.0, 20.0], "linear")])
def test_the_plot_has_a_line_for_each_model(tmp_path, monkeypatch, values, scale):
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, dpi: drawn.extend(figure.axes))
    found = {"one": Divergence(["a", "b"], np.array(values), (9, 9)), "two": Divergence(["a", "b"], np.ones(2), (9, 9))}
    plot_divergence(found, tmp_path / "plot.png")
    lines = {line.get_label(): line.get_ydata().tolist() for line in drawn[0].lines}
    assert lines == {"one": values, "two": [1, 1]}
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == ["one", "two"]
    assert drawn[0].get_yscale() == scale


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Digits, the same dimmed, and three sets of weights."""
    monkeypatch.chdir(tmp_path)
    images = next(load_data("digits", limit=80).batches(80))[0].permute(0, 2, 3, 1).numpy()
    np.savez("clean.npz", images=images)
    np.savez("dim.npz", images=images // 2)
    Path("deep").mkdir()
    for seed, name in enumerate(("source", "robust", "deep/robust")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_weights(load_model("cifar:resnet20").network, f"{name}.safetensors")


ARGUMENTS = ["diagnose", "--model", "cifar:resnet20", "--device", "cpu", "--data", "npz:dim.npz"]
SOURCE = ["--weights", "source.safetensors"]


def columns(text):
    """Return the columns of a printed table, by head."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("layer "))
    rows = [lines[start].split(), *(line.split() for line in lines[start + 2 : start + 21])]
    return {head: cells for head, *cells in zip(*rows, strict=True)}


def test_the_command_prints_what_the_function_finds(files, run):
    words = ["--against", "npz:clean.npz", "--samples", "70", "--seed", "3", "--plot", "deep/plot.png"]
    done = run(*ARGUMENTS, *SOURCE, *words, "--beside", "robust.safetensors")
    assert (done.code, done.err) == (0, "")
    assert "npz:dim.npz || npz:clean.npz, 70 images of each" in done.out
    assert "sampling noise" not in done.out
    assert done.out.endswith("Plotted to deep/plot.png.\n")
    assert Path("deep/plot.png").read_bytes().startswith(b"\x89PNG")
    table = columns(done.out)
    assert list(table) == ["layer", "source", "robust"]
    dim, clean = (draw_images(load_data(f"npz:{name}.npz"), 70, 3) for name in ("dim", "clean"))
    for name in ("source", "robust"):
        model = load_model("cifar:resnet20", weights=f"{name}.safetensors")
        found = divergence(model, dim.split(35), clean.split(35))
        assert table["layer"] == found.layers
        assert found.values.min() > 0.001
        np.testing.assert_allclose(np.array(table[name], float), found.values, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "heads"),
    [
        ([], ["layer", "source"]),
        (
            ["--beside", "robust.safetensors", "--beside", "deep/robust.safetensors"],
            ["layer", "source.safetensors", "robust.safetensors", "deep/robust.safetensors"],
        ),
    ],
)
def test_columns_are_told_apart(files, run, words, heads):
    done = run(*ARGUMENTS, *SOURCE, "--against", "npz:clean.npz", "--samples", "4", *words)
    assert (done.code, list(columns(done.out))) == (0, heads)


def test_without_weights_the_column_is_the_model(files, run):
    done = run(*ARGUMENTS, "--against", "npz:clean.npz", "--samples", "4", "--beside", "robust.safetensors")
    assert list(columns(done.out)) == ["layer", "model", "robust"]


def test_without_a_second_set_nothing_has_changed(files, run):
    done = run(*ARGUMENTS, *SOURCE, "--samples", "4")
    assert done.code == 0
    assert done.out.startswith("Distance from the stored statistics, in stored deviations, 4 images\n\nlayer ")
    assert "the model was never trained" in done.out.splitlines()[-1]  # drawn weights, means of 0 and variances of 1
    assert "KL" not in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--beside", "robust.safetensors"], r"Expected --against SPEC, .* with --beside, but there is none"),
        (["--against", "npz:no.npz"], r"no\.npz"),
        (["--against", "npz:clean.npz", "--beside", "no.safetensors"], r"no\.safetensors"),
        (
            ["--against", "npz:clean.npz", "--beside", "source.safetensors"],
            r"different files as --weights and --beside, but got source\.safetensors, source\.safetensors",
        ),
        (["--against", "npz:clean.npz", "--samples", "81"], "from 1 to the 80 images, but got 81"),
        (["--against", "npz:clean.npz", "--samples", "0"], "from 1 to the 80 images, but got 0"),
        (["--against", "npz:clean.npz", "--plot", "plot.txt"], r"\.png, \.svg or \.pdf .* got plot\.txt"),
    ],
)
def test_bad_words(files, run, words, message):
    done = run(*ARGUMENTS, *SOURCE, *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith("statshift: error: ")
    assert re.search(message, done.err)


def test_the_help_shows_how(run):
    done = run("diagnose", "--help")
    words = " ".join(done.out.split())
    assert "--against folder:day --samples 1000 --beside robust.safetensors --plot divergence.png" in words
