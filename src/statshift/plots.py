"""Figures: the readout of a diagnosis, and those of the papers."""

from pathlib import Path
from typing import Any

import numpy as np

from statshift.diagnosis import Diagnosis
from statshift.errors import InputError


def plot_diagnosis(diagnosis: Diagnosis, path: str | Path) -> None:
    """Draw each layer's shift beside its noise."""
    figure, axes = _figure()
    layers = np.arange(len(diagnosis.layers))
    axes.plot(layers, diagnosis.shift, "o-", label="observed")
    axes.plot(layers, diagnosis.noise, "--", label=f"without a shift ({diagnosis.images} images)")
    axes.set(xlabel="norm layer, in execution order", ylabel="distance from stored (deviations)", ylim=(0, None))
    axes.set_title(diagnosis.sentence, fontsize=8)
    axes.legend(frameon=False)
    _save(figure, path)


def _figure(columns: int = 1) -> Any:
    """Return a figure and its axes, drawn without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * columns + 1.5, 4), layout="constrained")
    return figure, figure.subplots(1, columns)


def _save(figure: Any, path: str | Path) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot write the plot {path}: {error}.") from error
