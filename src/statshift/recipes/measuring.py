"""A recipe that measures networks as they are, before and after they are rectified."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from statshift._core.errors import InputError, unknown
from statshift.adapting.registry import SOURCE
from statshift.measuring.ligs import PERTURBATIONS
from statshift.measuring.measure import measure
from statshift.measuring.run import Measurement
from statshift.models import PixelModel, import_function
from statshift.recipes.comparison import other_rectifying, ours_and_theirs
from statshift.recipes.configuration import Found, Recipe
from statshift.recipes.description import Rows, counted
from statshift.recipes.faults import refused
from statshift.recipes.options import RunOptions
from statshift.recipes.sources import DATA_SETS, SETS
from statshift.recipes.tables import network_rows, shift_rows
from statshift.results.worded import as_accuracy
from statshift.shifts.conditions import import_shift
from statshift.shifts.registry import averaged, family_of
from statshift.shifts.shift import CLEAN, Shift
from statshift.shifts.stored import usual
from statshift.tasks.classification import CLASSIFICATION


@dataclass(frozen=True)
class MeasuringRecipe(Recipe):
    """What networks are measured under, before and after they are rectified.

    Attributes:
        ligs: perturbations with which LIGS is measured.
        sets: by name (a key of `SETS`), the folders of ImageNet's variants that are measured besides; "" is not given,
            and left out.
        by_shift: whether it compares shift by shift, which the table then shows.
        fixed: by label, the fields of its adaptation, or its training, that it is compared by, which a change for all
            labels leaves alone.
    """

    ligs: Sequence[str] = ()
    sets: Mapping[str, str] = field(default_factory=dict)
    by_shift: bool = False
    fixed: Mapping[str, Sequence[str]] = field(default_factory=dict)

    by_label: ClassVar[tuple[str, ...]] = (*Recipe.by_label, "fixed")

    @property
    def does(self) -> str:  # type: ignore[override]
        """What it does, and what it does not."""
        return "trains nothing" if self.adaptation else "only measures"

    @property
    def takes(self) -> tuple[str, ...]:
        """What may be given besides."""
        return ("shifts", "severities", "batch_size", "dtype", "draws", "rectify")

    def keeps(self, label: str) -> Sequence[str]:
        """Return the numbers of a label that a change for all labels leaves alone."""
        return self.fixed.get(label, ())

    def run(self, options: RunOptions) -> dict[str, Any]:
        """Measure each network, in a folder of its label."""
        make, images = self.maker(options), self.images(options.data, None)[0]
        check_files(self, make)
        how = {"batch_size": options.batch_size, "dtype": options.dtype or "float32"}
        more = how | {"seed": options.seed}
        return {
            label: self.measured(label, make(label), images, options.folder / label, label, run=options, **more)
            for label in self.labels
        }

    def measured(
        self,
        label: str,
        model: Any,
        images: Any,
        folder: Path,
        told: str,
        *,
        run: RunOptions,
        default: Any = None,
        **more: Any,
    ) -> dict[str, dict[str, Any]]:
        """Return the figures of a label's network by protocol.

        Args:
            label: of the recipe.
            model: the network.
            images: to measure on.
            folder: of the measurement.
            told: to whoever follows the progress.
            run: what the recipe is run with.
            default: the shifts where nothing else says which.
            **more: of `measure`.
        """
        found = measure(
            model,
            images,
            shifts=self._with_sets(shifts_of(run.shifts) or shifts_of(self.shifts.get(label)) or default, images),
            severities=self.severities if run.severities is None else run.severities,
            rectify=run.rectify or functions_of(self.protocols) or (),
            adaptation=self.adaptation.get(label),
            ligs=self.ligs,
            out=folder,
            device=run.device,
            data_options=run.data_options,
            progress=run.measuring_progress and run.measuring_progress(told),
            **more,
        )
        return _figures(found)

    def _with_sets(self, shifts: Any, images: Any) -> Any:
        """Return shifts, by default those usual of images, and the sets that have a folder; as given where none has."""
        given = [f"{name}:{folder}" for name, folder in self.sets.items() if folder]
        if not given:
            return shifts
        if isinstance(shifts, str | Mapping | Shift):
            shifts = (CLEAN, shifts) if isinstance(shifts, Mapping) else (shifts,)
        return (*(shifts or usual(images)), *given)

    def tables(self, found: Found) -> list[Rows]:
        """Return a line for each network, and where it compares shift by shift one for each shift."""
        return [network_rows(self, found), *([shift_rows(found)] if self.by_shift else [])]

    def over(self, found: Found, data: str | None, named: Recipe | None) -> list[str]:
        """Return what our figures are over and in what theirs are others, in sentences."""
        return [*ours_and_theirs(self, found, data, named), *other_rectifying(self, named)]

    def cost(self) -> str:
        """Return how much is measured."""
        networks = len({repr(network) for network in self.networks.values()})
        factors = [counted(networks, "models")]
        if len(self.labels) > networks:
            factors.append(counted(len(self.labels) // networks, "variants"))
        if self.shifts and len({tuple(one) for one in self.shifts.values()}) > 1:
            every = sum(len(self.conditions(label)) for label in self.labels)
            factors = [counted(networks, "models"), counted(every, "conditions")]
        else:
            factors.append(counted(len(self.conditions(self.labels[0])), "conditions"))
        if self.protocols:
            factors.append(counted(1 + len(self.protocols), "protocols"))
        over = f", {DATA_SETS[self.data_set].images:,} images each" if self.data_set else ""
        return " x ".join(factors) + over

    def needs(self) -> str:
        """Return which data and weights it takes, and which sets it measures where they are."""
        wanting = [name for name, folder in self.sets.items() if not folder]
        return "; ".join([super().needs(), *([f"where you have them: {', '.join(wanting)}"] if wanting else [])])

    def faults(self) -> list[str]:
        """Return what does not fit together."""
        faults = super().faults() + refused("ligs", self.ligs, _check_perturbation)
        return faults + [f"sets: {unknown('set', name, SETS)}" for name in self.sets if name not in SETS]


def check_files(recipe: Recipe, make: Callable[[str], PixelModel]) -> None:
    """Check that each file of weights fits its network, before anything runs.

    Raises:
        InputError: those that do not, all told at once.
    """
    first: dict[str, str] = {}
    for label, network in recipe.networks.items():
        if network.weights:
            first.setdefault(repr(network), label)
    if faults := [fault for label in first.values() for fault in refused(label, [label], make)]:
        raise InputError(" ".join(faults))


def shifts_of(names: Any) -> Any:
    """Return names as they are, but for each py:FILE:NAME the function or shift that it names."""
    if names is None or isinstance(names, str | Mapping | Shift):
        return names
    return tuple(import_shift(one) if isinstance(one, str) and one.startswith("py:") else one for one in names)


def functions_of(names: Any) -> Any:
    """Return names as they are, but for each py:FILE:FUNCTION a mapping from the function's name to the function."""
    if names is None or isinstance(names, str | Mapping):
        return names
    return tuple(
        {one.rpartition(":")[2]: import_function(one[3:])} if isinstance(one, str) and one.startswith("py:") else one
        for one in names
    )


def _check_perturbation(name: str) -> None:
    if name not in PERTURBATIONS:
        raise unknown("perturbation", name, PERTURBATIONS)


def _figures(found: Measurement) -> dict[str, dict[str, Any]]:
    """Return by protocol what a measurement found, and over what."""
    conditions = list(dict.fromkeys((row["shift"], row["severity"]) for row in found.rows))
    similar = {name: one["mean"] for name, one in found.summary.get("ligs", {}).items()}
    figures, families = {}, found.record.get("families", {})
    headline = found.summary.get("headline", CLASSIFICATION.headline)
    scores = as_accuracy(found.summary, headline)["protocols"]
    own = {name: family for name, family in families.items() if family != family_of(name)}
    sets = _images_of_sets(found)
    for protocol, one in scores.items():
        shifts = {name: shift["accuracy"] for name, shift in one["per_shift"].items()}
        counted = averaged({name: families.get(name, family_of(name)) for name in shifts})
        figures[protocol] = {
            f"clean_{headline}": one["clean_accuracy"],
            "mean_of_shifts": fmean(shifts[name] for name in counted) if counted else None,
            "mce": one["mce"],
            "shifts": shifts,
            "ligs": similar if protocol == SOURCE else {},
            "images": one.get("images", found.summary["images"]),
            "conditions": conditions,
            **({"families": own} if own else {}),
            **({"sets": sets} if sets else {}),
            **({} if headline == CLASSIFICATION.headline else {"headline": headline}),
            **({"pixel_accuracy": one["pixel_accuracy"]} if "pixel_accuracy" in one else {}),
        }
    return figures


def _images_of_sets(found: Measurement) -> dict[str, int]:
    """Return how many images each shift has that has images of its own."""
    return {row["shift"]: row["images"] for row in found.rows if "set" in row}
