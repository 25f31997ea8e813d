"""The figures of networks: distances, similarities, embeddings and divergences, and their plots."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statshift._core.errors import InputError
from statshift.adapting.drawing import adaptation_positions, draw_images, full_batches
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.plots import plot_distances, plot_divergence, plot_embeddings, plot_similarities
from statshift.adapting.rectify import rectified
from statshift.data import ImageData
from statshift.measuring.analyses import cosine_similarities, embed, extract_features, statistic_distances
from statshift.models import PixelModel
from statshift.norms.divergence import Divergence
from statshift.norms.divergence import divergence as divergence_of
from statshift.norms.layers import batch_norms, execution_order
from statshift.recipes.analyses.analysis import Analysis
from statshift.recipes.analyses.studying import LOOKED_AT, Look, Plot, Setting, one_by_one, study
from statshift.recipes.options import RunOptions
from statshift.shifts.conditions import resolve
from statshift.shifts.shift import CorruptionOptions, under

if TYPE_CHECKING:
    from statshift.recipes.analysing import AnalysisRecipe

SHIFTED = ("shifts", "severities")
"""What may be given where images are looked at under a shift."""


def _clean(model: PixelModel, data: ImageData, setting: Setting) -> tuple[Tensor, Tensor, ImageData]:
    """Return images (N,3,H,W), their addresses (N,), and the data that they are all of."""
    count = min(LOOKED_AT, len(data))
    positions = adaptation_positions(data.indices, count, setting.seed, 0)
    images = draw_images(data, count, setting.seed)
    return images.to(model.mean.device), torch.from_numpy(data.indices[positions]), data


def _shifted(images: Tensor, severity: int, indices: Tensor, setting: Setting) -> Tensor:
    (shift,) = resolve(setting.shifts, CorruptionOptions(setting.seed))
    return under(shift, images, severity, seed=setting.seed, indices=indices)


def _few(images: Tensor, setting: Setting, label: str) -> tuple[Tensor, dict[str, Any]]:
    """Return the images (n,3,H,W) to rectify to, and how."""
    options = setting.adaptation.get(label, AdaptationOptions())
    chosen = adaptation_positions(np.arange(len(images)), options.samples, setting.seed, 0)
    return images[torch.from_numpy(chosen).to(images.device)], options.layers


def _distances(
    model: PixelModel, data: ImageData, setting: Setting, label: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return how far batch statistics lie apart at the middle norm layer."""
    images, indices, _ = _clean(model, data, setting)
    order = execution_order(model, batch_norms(model.network), images[:1])
    layer = order[len(order) // 2]
    noisy = _shifted(images, setting.severity, indices, setting)
    size = min(32, len(images) // 2)
    found = statistic_distances(model, images, noisy, layer, batch_size=size, seed=setting.seed)
    figures = {
        f"{pair}: {kind}": value
        for pair, both in found.items()
        for kind, value in zip(("mean", "variance"), both, strict=True)
    }
    return figures, {"layer": layer, "distances": found}


def _similarities(
    model: PixelModel, data: ImageData, setting: Setting, label: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the similarity of features, before and after rectifying, at each severity."""
    images, indices, _ = _clean(model, data, setting)
    pairs = []
    for severity in setting.severities:
        noisy = _shifted(images, severity, indices, setting)
        few, options = _few(noisy, setting, label)
        pairs.append(cosine_similarities(model, images, noisy, few, setting.protocol, **options))
    figures: dict[str, float] = {}
    for severity, (before, after) in zip(setting.severities, pairs, strict=True):
        figures |= {f"severity {severity}": before, f"severity {severity}, rectified": after}
    return figures, {"similarities": pairs}


def _embedding(
    model: PixelModel, data: ImageData, setting: Setting, label: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the mean silhouette of the features by class, before and after rectifying, and their t-SNE."""
    from sklearn.metrics import silhouette_score

    if data.labels is None:
        raise InputError(f"Expected labels to colour features by, but {data.spec} has none.")
    images, indices, _ = _clean(model, data, setting)
    labels = data.labels[adaptation_positions(data.indices, len(images), setting.seed, 0)]
    noisy = _shifted(images, setting.severity, indices, setting)
    few, options = _few(noisy, setting, label)
    features = {"source": extract_features(model, noisy)}
    with rectified(model, few, setting.protocol, **options):
        features["rectified"] = extract_features(model, noisy)
    before, after = (float(silhouette_score(one.cpu().numpy(), labels)) for one in features.values())
    points = {name: embed(one, setting.seed).tolist() for name, one in features.items()}
    return {"silhouette": before, "silhouette, rectified": after}, {"points": points, "labels": labels.tolist()}


def _divergence(
    model: PixelModel, data: ImageData, setting: Setting, label: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the divergence of two data sets' features: the mean over the layers, and the last layer's."""
    if setting.against is None:
        raise InputError("Expected a second data set, `against`, to measure the divergence from.")
    other = setting.load(model, setting.against)
    count = min(LOOKED_AT, len(data), len(other))  # of equally many, so that sampling adds the same to each
    found = divergence_of(model, *(_batches(model, one, count, setting) for one in (data, other)))
    values = {name: float(value) for name, value in zip(found.layers, found.values, strict=True)}
    figures = {"mean of layers": float(np.mean(found.values)), "last layer": float(found.values[-1])}
    return figures, {"layers": values, "images": found.images}


def _batches(model: PixelModel, data: ImageData, count: int, setting: Setting) -> Iterator[Tensor]:
    positions = adaptation_positions(data.indices, count, setting.seed, 0)
    for images, _ in data.groups([positions[batch] for batch in full_batches(count)]):
        yield images.to(model.mean.device).float() / 255


def _plot_distances(details: Mapping[str, Any], setting: Setting) -> None:
    for label, one in details.items():
        plot_distances(one["distances"], setting.out / f"{label}.png")


def _plot_similarities(details: Mapping[str, Any], setting: Setting) -> None:
    for label, one in details.items():
        plot_similarities(one["similarities"], setting.out / f"{label}.png")


def _plot_embedding(details: Mapping[str, Any], setting: Setting) -> None:
    for label, one in details.items():
        points = {name: np.asarray(places) for name, places in one["points"].items()}
        plot_embeddings(points, np.asarray(one["labels"]), setting.out / f"{label}.png")


def _plot_divergence(details: Mapping[str, Any], setting: Setting) -> None:
    found = {
        label: Divergence(list(one["layers"]), np.asarray(list(one["layers"].values())), tuple(one["images"]))
        for label, one in details.items()
    }
    plot_divergence(found, setting.out / "divergence.png")


def _run(recipe: "AnalysisRecipe", options: RunOptions, look: Look, plot: Plot) -> dict[str, Any]:
    return study(recipe, options, partial(one_by_one, look=look, plot=plot))


DISTANCES = Analysis(partial(_run, look=_distances, plot=_plot_distances), takes=SHIFTED)
SIMILARITIES = Analysis(partial(_run, look=_similarities, plot=_plot_similarities), takes=SHIFTED)
EMBEDDING = Analysis(partial(_run, look=_embedding, plot=_plot_embedding), takes=SHIFTED)
DIVERGENCE = Analysis(partial(_run, look=_divergence, plot=_plot_divergence), requires=("data", "against", "out"))
"""The figures, as `ANALYSES` names them."""
