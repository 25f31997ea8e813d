"""What recipes do in place of training and measuring: the papers' figures, and features that carry over."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statshift._core import processes
from statshift._core.errors import InputError, unknown
from statshift.adapting.drawing import adaptation_positions, draw_images, full_batches
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.plots import plot_distances, plot_divergence, plot_embeddings, plot_similarities
from statshift.adapting.rectify import rectified
from statshift.data import ImageData, load_data, loading_options
from statshift.making.extraction import ExtractionOptions, extract
from statshift.measuring.analyses import cosine_similarities, embed, extract_features, statistic_distances
from statshift.measuring.loading import find_device, fit_to_model
from statshift.measuring.measure import measure
from statshift.models import PixelModel
from statshift.norms.divergence import divergence
from statshift.norms.layers import batch_norms, execution_order
from statshift.results import alone, settle_record, write_json_atomically
from statshift.results.provenance import (
    answers_of,
    describe_corruption,
    describe_data,
    describe_environment,
    describe_model,
    describe_own,
)
from statshift.shifts.conditions import resolve
from statshift.shifts.shift import CorruptionOptions, under
from statshift.shifts.stored import offered

IMAGES = 1000
"""As many are looked at, if there are more: figure 6 of Benz et al., WACV 2021."""

FIGURES = "figures.json"

Models = Mapping[str, Callable[[], PixelModel]]
"""By label, what makes the model."""


@dataclass(frozen=True)
class Setting:
    """What a study is over.

    Attributes:
        data: a spec or loaded data.
        out: folder.
        shifts: the one that clean images are put beside.
        severities: of it; one, but for "similarities".
        protocol: by which models are rectified.
        adaptation: by label, on how many images, and what of which layers.
        against: a second data set.
        seed: of every draw.
        device: "auto", "cpu", "cuda" or "cuda:N".
        data_options: of `load_data`.
        progress: called with what is at work.
    """

    data: str | ImageData
    out: Path
    shifts: Sequence[Any] = ("gaussian_noise",)
    severities: Sequence[int] = (3,)
    protocol: str = "replace"
    adaptation: Mapping[str, AdaptationOptions] = field(default_factory=dict)
    against: str | ImageData | None = None
    seed: int = 0
    device: str | torch.device = "auto"
    data_options: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[str], object] | None = None

    @property
    def severity(self) -> int:
        """The only severity.

        Raises:
            InputError: there are several.
        """
        if len(self.severities) != 1:
            raise InputError(f"Expected one severity, but got {', '.join(map(str, self.severities))}.")
        return self.severities[0]

    def load(self, model: PixelModel, data: str | ImageData | None = None) -> ImageData:
        """Return the clean images, as the model's authors load them."""
        data = self.data if data is None else data
        if not isinstance(data, ImageData):
            if offered(data):
                raise InputError(f"Expected clean images, which are then shifted, but {data} stores shifted ones.")
            data = load_data(data, **loading_options(data, self.data_options, model.loading_options, split=None))
        return fit_to_model(model, data, model.mean.device)

    def tell(self, what: str) -> None:
        """Tell what is at work."""
        if self.progress:
            self.progress(what)


def study(analysis: str, models: Models, setting: Setting) -> dict[str, dict[str, Any]]:
    """Study each model; what is finished lies in the folder `out`/LABEL, and the same call goes on from there.

    Args:
        analysis: one of `STUDIES`.
        models: by label.
        setting: of the study.

    Returns:
        By label: `figures` by name, and `images`, what they are over.

    Raises:
        InputError: an unknown study, several processes, or something that cannot be used, told in one line.
    """
    if analysis not in STUDIES:
        raise unknown("analysis", analysis, STUDIES)
    if len(chosen := resolve(setting.shifts)) != 1:
        raise InputError(f"Expected one shift, but got {', '.join(one.name for one in chosen)}.")
    if chosen[0].needs_model or chosen[0].reads:
        raise InputError(f"Expected a shift that is made of clean images alone, but got {chosen[0].name}.")
    if setting.protocol.startswith("py:"):
        raise InputError(f"Expected a protocol by name to study, but got {setting.protocol!r}.")
    if (world := processes.join()[1]) > 1:
        raise InputError(f"Expected one process, but got {world}: a study is not shared out. Start it by itself.")
    return STUDIES[analysis](models, setting)


# One model after another

Look = Callable[[PixelModel, ImageData, Setting, str], tuple[dict[str, float], dict[str, Any]]]
"""Returns figures, and what a plot is made of."""


def _each(models: Models, setting: Setting, look: Look, plot: Callable[[dict[str, Any], Setting], None]) -> Any:
    """Return what `look` finds of each model, or found before."""
    found: dict[str, dict[str, Any]] = {}
    details: dict[str, Any] = {}
    for label, make in models.items():
        model, folder = make().to(find_device(setting.device)), setting.out / label
        data = setting.load(model)
        with alone(folder):
            settle_record(folder, _identity(model, data, setting, label, look), fresh=not (folder / FIGURES).exists())
            if not (folder / FIGURES).exists():
                setting.tell(label)
                figures, detail = look(model, data, setting, label)
                content = {"figures": figures, "images": min(IMAGES, len(data)), "detail": detail}
                write_json_atomically(folder / FIGURES, content)
        kept = json.loads((folder / FIGURES).read_bytes())
        details[label] = kept.pop("detail")
        found[label] = kept
    plot(details, setting)
    return found


def _identity(model: PixelModel, data: ImageData, setting: Setting, label: str, look: Look) -> dict[str, Any]:
    adaptation = setting.adaptation.get(label)
    against = None if setting.against is None else setting.load(model, setting.against)
    (shift,) = resolve(setting.shifts)
    return {
        "model": describe_model(model),
        "answers": answers_of(model, data.shape),
        "data": describe_data(data, data.labels),
        "study": look.__name__.strip("_"),
        "shift": shift.name,
        "functions": describe_own([shift]),
        "corruption": describe_corruption(CorruptionOptions(setting.seed), data.shape, "benchmark"),
        "levels": sorted(setting.severities),
        "protocol": setting.protocol,
        "adaptation": None if adaptation is None else vars(adaptation),
        "against": None if against is None else describe_data(against, against.labels),
        "seed": setting.seed,
        "environment": describe_environment(find_device(setting.device)),
    }


def _clean(model: PixelModel, data: ImageData, setting: Setting) -> tuple[Tensor, Tensor, ImageData]:
    """Return images (N,3,H,W), their addresses (N,), and the data that they are all of."""
    count = min(IMAGES, len(data))
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
    count = min(IMAGES, len(data), len(other))  # of equally many, so that sampling adds the same to each
    found = divergence(model, *(_batches(model, one, count, setting) for one in (data, other)))
    values = {name: float(value) for name, value in zip(found.layers, found.values, strict=True)}
    figures = {"mean of layers": float(np.mean(found.values)), "last layer": float(found.values[-1])}
    return figures, {"layers": values, "images": found.images}


def _batches(model: PixelModel, data: ImageData, count: int, setting: Setting) -> Iterator[Tensor]:
    positions = adaptation_positions(data.indices, count, setting.seed, 0)
    for images, _ in data.groups([positions[batch] for batch in full_batches(count)]):
        yield images.to(model.mean.device).float() / 255


# Plots


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
    from statshift.norms.divergence import Divergence

    found = {
        label: Divergence(list(one["layers"]), np.asarray(list(one["layers"].values())), tuple(one["images"]))
        for label, one in details.items()
    }
    plot_divergence(found, setting.out / "divergence.png")


# Features that carry over


def _transfer(models: Models, setting: Setting, kind: str = "nonrobust") -> dict[str, dict[str, Any]]:
    """Return the accuracy of each other model on the data set of the features of each.

    Reference:
        Benz et al., ICLR 2021 submission, Table 3 and appendix B.3.
    """
    found: dict[str, dict[str, Any]] = {}
    for label, make in models.items():
        setting.tell(f"features of {label}")
        model = make()
        folder = setting.out / label
        data = setting.load(model)
        options = ExtractionOptions(seed=setting.seed)
        made = extract(model, data, kind, options, out=folder / "features", device=setting.device)
        spec = f"npz:{made.path / 'images.npz'}"
        figures = {}
        for other in models:
            if other != label:
                setting.tell(f"features of {label}, answered by {other}")
                run = measure(
                    models[other](), spec, shifts=("clean",), out=folder / other, device=setting.device, examples=0
                )
                figures[other] = run.summary["protocols"]["source"]["clean_accuracy"]
        found[label] = {"figures": figures, "images": len(data)}
    return found


STUDIES: dict[str, Callable[[Models, Setting], dict[str, dict[str, Any]]]] = {
    "distances": partial(_each, look=_distances, plot=_plot_distances),
    "similarities": partial(_each, look=_similarities, plot=_plot_similarities),
    "embedding": partial(_each, look=_embedding, plot=_plot_embedding),
    "divergence": partial(_each, look=_divergence, plot=_plot_divergence),
    "transfer": _transfer,
    "transfer-robust": partial(_transfer, kind="robust"),
}
"""The studies by name."""
