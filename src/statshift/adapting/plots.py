"""Figures: the readout of a diagnosis, and those of the papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import InputError
from statshift.adapting.diagnose import Diagnosis
from statshift.norms.divergence import Divergence

Array = NDArray[np.float64]

_TITLE = 80
"""Characters of a title's line that the narrowest figure has room for."""


def plot_diagnosis(diagnosis: Diagnosis, path: str | Path) -> None:
    """Draw each layer's shift beside its noise."""
    figure, axes = _figure()
    layers = np.arange(len(diagnosis.layers))
    axes.plot(layers, diagnosis.shift, "o-", label="observed")
    axes.plot(layers, diagnosis.noise, "--", label=f"without a shift ({diagnosis.images} images)")
    axes.set(xlabel="norm layer, in execution order", ylabel="distance from stored (deviations)", ylim=(0, None))
    axes.set_title("\n".join(wrap(diagnosis.sentence, _TITLE)), fontsize=8)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_divergence(divergences: Mapping[str, Divergence], path: str | Path) -> None:
    """Draw the divergence of two data sets' features by layer, a line for each model; figure 5 of Shu et al.

    The scale is logarithmic where no divergence is zero or infinite.

    Args:
        divergences: by model.
        path: file to write.
    """
    figure, axes = _figure()
    for model, found in divergences.items():
        axes.plot(np.arange(len(found.layers)), found.values, "o-", label=model)
    values = np.concatenate([found.values for found in divergences.values()])
    axes.set_yscale("log" if np.all((values > 0) & np.isfinite(values)) else "linear")
    axes.set(xlabel="norm layer, in execution order", ylabel="symmetric KL divergence")
    axes.legend(frameon=False)
    _save(figure, path)


def plot_samples(accuracies: Mapping[str, Mapping[str, float]], source: float, path: str | Path) -> None:
    """Draw accuracy by the number of images adapted on, a line for each protocol; figure 4 of Benz et al.

    Args:
        accuracies: by protocol, then by number of images as text, as of `summary["protocols"]`; in [0,1].
        source: the untouched model's.
        path: file to write.
    """
    figure, axes = _figure()
    for protocol, by_samples in accuracies.items():
        axes.plot([int(n) for n in by_samples], [100 * value for value in by_samples.values()], "o-", label=protocol)
    axes.axhline(100 * source, color="grey", linestyle="--", label="source")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="images", ylabel="accuracy (%)")
    axes.legend(frameon=False)
    _save(figure, path)


def plot_shifts(accuracies: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """Draw accuracy by shift, a bar for each variant; figure 5 of Benz et al.

    Args:
        accuracies: by variant, then by shift; in [0,1].
        path: file to write.
    """
    figure, axes = _figure(2, panels=1)
    names = list(next(iter(accuracies.values())))
    width = 0.8 / len(accuracies)
    for number, (variant, by_shift) in enumerate(accuracies.items()):
        places = np.arange(len(names)) + (number - (len(accuracies) - 1) / 2) * width
        axes.bar(places, [100 * by_shift[name] for name in names], width, label=variant)
    axes.set_xticks(np.arange(len(names)), [name.replace("_", " ") for name in names], rotation=60, ha="right")
    axes.set_ylabel("accuracy (%)")
    axes.legend(frameon=False, ncols=len(accuracies))
    _save(figure, path)


def plot_distances(distances: Mapping[str, tuple[float, float]], path: str | Path) -> None:
    """Draw what `statistic_distances` returns, means beside variances; figure 2 of Benz et al."""
    figure, panels = _figure(2)
    for number, (axes, title) in enumerate(zip(panels, ("mean", "variance"), strict=True)):
        axes.barh(list(distances), [pair[number] for pair in distances.values()])
        axes.set(xlabel=f"absolute distance of the {title}")
        axes.invert_yaxis()
    _save(figure, path)


def plot_similarities(similarities: Sequence[tuple[float, float]], path: str | Path) -> None:
    """Draw what `cosine_similarities` returns for severities 1, 2, ...; figure 3 of Benz et al."""
    figure, axes = _figure()
    severities = range(1, len(similarities) + 1)
    for label, values in zip(("before", "after rectification"), zip(*similarities, strict=True), strict=True):
        axes.plot(severities, values, "o-", label=label)
    axes.set(xlabel="severity", ylabel="cosine similarity to the clean features", xticks=list(severities))
    axes.legend(frameon=False)
    _save(figure, path)


def plot_embeddings(embeddings: Mapping[str, Array], labels: NDArray[np.int64], path: str | Path) -> None:
    """Draw points (N,2) coloured by label (N,), a panel for each title; figure 6 of Benz et al."""
    figure, panels = _figure(len(embeddings))
    for axes, (title, points) in zip(np.atleast_1d(panels), embeddings.items(), strict=True):
        axes.scatter(*points.T, c=labels, s=6, cmap="tab20" if labels.max() > 9 else "tab10")
        axes.set(title=title, xticks=[], yticks=[])
    _save(figure, path)


def _figure(columns: int = 1, panels: int | None = None) -> Any:
    """Return a figure so many columns wide and its axes, one a column by default, drawn without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * columns + 1.5, 4), layout="constrained")
    return figure, figure.subplots(1, panels or columns)


def check_plot(path: str | Path) -> None:
    """Check that a plot may be written under this name.

    Raises:
        InputError: another extension than .png, .svg or .pdf.
    """
    if Path(path).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"Expected a .png, .svg or .pdf file for the plot, but got {path}.")


def _save(figure: Any, path: str | Path) -> None:
    check_plot(path)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot write the plot {path}: {error}.") from error
