"""Studies of networks one after another: what they are over, and how what is finished is kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from statshift._core import processes
from statshift._core.errors import InputError
from statshift.adapting.options import AdaptationOptions
from statshift.data import ImageData, load_data, loading_options
from statshift.measuring.loading import find_device, fit_to_model
from statshift.models import PixelModel
from statshift.recipes.measuring import check_files, shifts_of
from statshift.recipes.options import RunOptions
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
from statshift.shifts.shift import CorruptionOptions
from statshift.shifts.stored import offered

if TYPE_CHECKING:
    from statshift.recipes.analysing import AnalysisRecipe

LOOKED_AT = 1000
"""As many images, if there are more: figure 6 of Benz et al., WACV 2021."""

FIGURES_FILE = "figures.json"

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


def study(
    recipe: "AnalysisRecipe", options: RunOptions, each: Callable[[Models, Setting], dict[str, dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Study each model; what is finished lies in the folder `out`/LABEL, and the same call goes on from there.

    Args:
        recipe: what is studied.
        options: what it is run with.
        each: the study of all models, by label.

    Returns:
        By label under "analysis": `figures` by name, and `images`, what they are over.

    Raises:
        InputError: several processes, or something that cannot be used, told in one line.
    """
    make = recipe.maker(options)
    check_files(recipe, make)
    setting = _setting(recipe, options)
    if len(chosen := resolve(setting.shifts)) != 1:
        raise InputError(f"Expected one shift, but got {', '.join(one.name for one in chosen)}.")
    if chosen[0].needs_model or chosen[0].reads:
        raise InputError(f"Expected a shift that is made of clean images alone, but got {chosen[0].name}.")
    if (world := processes.join()[1]) > 1:
        raise InputError(f"Expected one process, but got {world}: a study is not shared out. Start it by itself.")
    found = each({label: partial(make, label) for label in recipe.labels}, setting)
    return {label: {"analysis": one} for label, one in found.items()}


def _setting(recipe: "AnalysisRecipe", options: RunOptions) -> Setting:
    """Return what a recipe's study is over."""
    shifts = [shifts_of(one) for one in (options.shifts, *recipe.shifts.values())]
    return Setting(
        recipe.images(options.data, None)[0],
        options.folder,
        next((one for one in shifts if one), ("gaussian_noise",)),
        options.severities or recipe.severities,
        protocol=next(iter(recipe.protocols), "replace"),
        adaptation=recipe.adaptation,
        against=options.against,
        seed=options.seed,
        device=options.device,
        data_options=dict(options.data_options or {}),
        progress=options.measuring_progress,
    )


Look = Callable[[PixelModel, ImageData, Setting, str], tuple[dict[str, float], dict[str, Any]]]
"""Returns figures, and what a plot is made of."""

Plot = Callable[[Mapping[str, Any], Setting], None]
"""Plots what looks at all models returned, by label."""


def one_by_one(models: Models, setting: Setting, look: Look, plot: Plot) -> Any:
    """Return what `look` finds of each model, or found before."""
    found: dict[str, dict[str, Any]] = {}
    details: dict[str, Any] = {}
    for label, make in models.items():
        model, folder = make().to(find_device(setting.device)), setting.out / label
        data = setting.load(model)
        with alone(folder):
            settle_record(
                folder, _identity(model, data, setting, label, look), fresh=not (folder / FIGURES_FILE).exists()
            )
            if not (folder / FIGURES_FILE).exists():
                setting.tell(label)
                figures, detail = look(model, data, setting, label)
                content = {"figures": figures, "images": min(LOOKED_AT, len(data)), "detail": detail}
                write_json_atomically(folder / FIGURES_FILE, content)
        kept = json.loads((folder / FIGURES_FILE).read_bytes())
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
        "adaptation": None if adaptation is None else adaptation.recorded,
        "against": None if against is None else describe_data(against, against.labels),
        "seed": setting.seed,
        "environment": describe_environment(find_device(setting.device)),
    }
