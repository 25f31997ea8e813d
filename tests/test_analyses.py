"""The paper's analyses: against NumPy loops over the layers' inputs and over images."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift import load_data, load_model, rectify
from statshift._core.errors import InputError
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.plots import plot_distances, plot_embeddings, plot_samples, plot_shifts, plot_similarities
from statshift.measuring.analyses import (
    by_part,
    by_samples,
    by_third,
    cosine_similarities,
    embed,
    extract_features,
    measure_variants,
    statistic_distances,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:No frost photographs")]

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).double().eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_distances_of_batch_statistics(network, images):
    dark = images * 0.5
    found = statistic_distances(network, images, dark, "4", batch_size=12, repeats=1, seed=3)
    order = np.random.default_rng(3).permutation(24)
    features = [network[:4](one).detach().numpy() for one in (images, dark)]
    means, variances = (
        [[getattr(one[chosen], name)((0, 2, 3)) for chosen in (order[:12], order[12:])] for one in features]
        for name in ("mean", "var")
    )
    for pair, (a, b) in {
        "clean, other images": ((0, 0), (0, 1)),
        "shifted, other images": ((1, 0), (1, 1)),
        "both, same images": ((0, 0), (1, 0)),
        "both, other images": ((0, 0), (1, 1)),
    }.items():
        for number, values in enumerate((means, variances)):
            expected = np.abs(values[a[0]][a[1]] - values[b[0]][b[1]]).mean()
            assert found[pair][number] == pytest.approx(expected), pair
    with pytest.raises(InputError, match="48 images or more"):
        statistic_distances(network, images, dark, "4", batch_size=24)


def test_features_are_what_the_last_linear_layer_takes(network, images):
    features = extract_features(network, images, batch_size=7)
    torch.testing.assert_close(network[-1](features), network(images))
    assert not any(module._forward_pre_hooks for module in network.modules())
    torch.testing.assert_close(extract_features(network[:6], images), network[:6](images))


def test_similarities_before_and_after(network, images):
    dark = images * 0.3
    before, after = cosine_similarities(network, images, dark, dark[:8], "replace")
    wanted = network[:-1](images)
    assert before == pytest.approx(F.cosine_similarity(wanted, network[:-1](dark)).mean().item())
    adapted = rectify(network, dark[:8], "replace")
    assert after == pytest.approx(F.cosine_similarity(wanted, adapted[:-1](dark)).mean().item())


def test_an_embedding_keeps_clusters_apart():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 8, generator=generator)
    features[20:] += 50
    points = embed(features)
    assert points.shape == (40, 2)
    centres = points[:20].mean(0), points[20:].mean(0)
    spread = max(
        np.linalg.norm(points[:20] - centres[0], axis=1).max(), np.linalg.norm(points[20:] - centres[1], axis=1).max()
    )
    assert np.linalg.norm(centres[0] - centres[1]) > spread
    with pytest.raises(InputError, match="at least 4 images"):
        embed(features[:3])


def test_variants():
    assert {name: one.samples for name, one in by_samples((1, 8), draws=2).items()} == {"1": 1, "8": 8}
    assert {name: one.statistics for name, one in by_part().items()} == {"both": "both", "mean": "mean", "var": "var"}
    thirds = by_third(AdaptationOptions(4))
    assert [one.where for one in thirds.values()] == ["all", "front", "middle", "end"]
    assert all(one.samples == 4 for one in thirds.values())


def test_variants_are_measured_each_in_its_folder(tmp_path):
    model, data = load_model("cifar:resnet20"), load_data("digits", limit=40)
    variants = by_part(AdaptationOptions(8))
    found = measure_variants(model, data, variants, out=tmp_path, shifts=["brightness"], severities=[3], device="cpu")
    assert list(found) == ["both", "mean", "var"]
    for name, one in found.items():
        assert one.path == tmp_path / name
        assert one.record["protocols"]["replace"]["statistics"] == name
    rows = {name: one.rows[1] for name, one in found.items()}
    assert all(row["paired_source"] == rows["both"]["paired_source"] for row in rows.values())
    assert len({row["cross_entropy_sum"] for row in rows.values()}) == 3


def test_figures_are_drawn(tmp_path):
    accuracies = {"auto": {"1": 0.5, "8": 0.7}, "replace": {"1": 0.1, "8": 0.6}}
    plot_samples(accuracies, 0.5, tmp_path / "samples.png")
    plot_shifts({"source": {"fog": 0.5, "snow": 0.2}, "both": {"fog": 0.6, "snow": 0.4}}, tmp_path / "shifts.png")
    plot_distances({"clean, other images": (0.1, 0.2), "both, same images": (0.5, 0.6)}, tmp_path / "distances.png")
    plot_similarities([(0.9, 0.95), (0.7, 0.9)], tmp_path / "similarities.png")
    points = np.random.default_rng(0).normal(size=(30, 2))
    plot_embeddings({"before": points, "after": points}, np.arange(30) % 10, tmp_path / "embedding.png")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 5


def test_tent_descends_the_entropy_of_its_answers(images):
    torch.manual_seed(0)
    model = load_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))
    tent = runpy.run_path(str(EXAMPLES / "tent.py"))["tent"]
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" not in name}
    expected = rectify(model, images.float(), "replace")(images.float())
    step = tent(model, learning_rate=0.01)
    with torch.no_grad():
        answers = [step(images.float()) for _ in range(30)]
    torch.testing.assert_close(answers[0], expected)
    entropies = [-(one.softmax(1) * one.log_softmax(1)).sum(1).mean().item() for one in answers]
    assert entropies[-1] < entropies[0] - 0.05
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == {"network.1.weight", "network.1.bias"}
