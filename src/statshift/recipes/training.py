"""A recipe that trains, and then measures each branch of what it trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from statshift._core.errors import InputError
from statshift.adapting.registry import SOURCE
from statshift.data import ImageData, load_data
from statshift.data.loading import check_scheme
from statshift.data.sampling import balanced_subset
from statshift.hardening.harden import Hardened, harden
from statshift.hardening.options import HardenOptions
from statshift.models import PixelModel, load_model, load_weights, read_made_by
from statshift.recipes.comparison import other_epochs, other_rectifying, ours_and_theirs
from statshift.recipes.configuration import Found, Recipe
from statshift.recipes.description import Rows, counted
from statshift.recipes.faults import check_shift, refused
from statshift.recipes.measuring import MeasuringRecipe, check_files, shifts_of
from statshift.recipes.options import RunOptions
from statshift.recipes.sources import BASE, DATA_SETS
from statshift.recipes.tables import branch_rows
from statshift.shifts.shift import CLEAN

TREND_IMAGES = 1000
"""Measured after each epoch: Benz et al., ICLR 2021 submission, appendix B.2."""


@dataclass(frozen=True)
class TrainingRecipe(MeasuringRecipe):
    """What is trained, by label, and what its branches are measured under.

    Attributes:
        options: by label, how to train.
        model: a spec, of the model that is fine-tuned where none is given.
        validation: a spec, of the images to measure on after training; default `data`.
        begins_with: labels whose training begins with the weights of another label's clean branch.
        trend: shifts that are measured after each epoch, with `ligs`, on a class-balanced 1,000 of the images; empty
            for none.
        walk: whether the landscape is walked after each epoch.
    """

    options: Mapping[str, HardenOptions] = field(default_factory=dict)
    model: str = ""
    validation: str = ""
    begins_with: Mapping[str, str] = field(default_factory=dict)
    trend: Sequence[str] = ()
    walk: bool = False

    does: ClassVar[str] = "trains, and does not adapt"
    by_label: ClassVar[tuple[str, ...]] = (*MeasuringRecipe.by_label, "options", "begins_with")

    @property
    def labels(self) -> tuple[str, ...]:
        """What is trained, in order."""
        return tuple(self.options)

    @property
    def spec(self) -> str:
        """Of the model that is taken where none is given."""
        return self.model

    @property
    def requires(self) -> tuple[str, ...]:
        """What it must have to run; a model, where it builds none."""
        return (*(() if self.networks else ("model",)), "data", "validation", "out")

    @property
    def takes(self) -> tuple[str, ...]:
        """What may be given besides."""
        return ("shifts", "severities", "draws", "rectify")

    @property
    def asks(self) -> tuple[str, ...]:
        """The fields that a user may still have to fill in."""
        return ("data", "validation", *(() if self.networks else ("model",)))

    def images(self, data: Any, validation: Any) -> tuple[Any, Any]:
        """Return what to train and to measure on; data that have a training and a test part need no others."""
        if data is None and validation is None:
            return self.data or None, self.validation or self.data or None
        if validation is None:
            validation = self.validation or (data if _has_parts(data) else None)
        return data, validation

    @property
    def numbers(self) -> Mapping[str, Any]:
        """By label, the options that numbers for all labels change."""
        return {label: one.training for label, one in self.options.items()}

    def with_numbers(self, numbers: Mapping[str, Any]) -> "TrainingRecipe":
        """Return the recipe with other options of training."""
        options = {label: replace(one, training=numbers[label]) for label, one in self.options.items()}
        return replace(self, options=options)

    def maker(self, options: RunOptions) -> Callable[[str], PixelModel]:
        """Return what makes the model of a label, before it is trained."""
        if self.networks:
            return partial(self._built, arguments=options.model_args or {})
        return given_model(self.name, self.model, options)

    def _built(self, label: str, *, arguments: Mapping[str, Any]) -> PixelModel:
        return self.networks[label].make(self.files, arguments, self.options[label].training.seed, fresh=True)

    def run(self, options: RunOptions) -> dict[str, Any]:
        """Train each label in a folder of its own, and measure each branch of it in `measured-BRANCH` below."""
        make, (data, validation) = self.maker(options), self.images(options.data, options.validation)
        check_files(self, make)
        sample = _sample(validation, options.data_options) if self.trend else None

        def of_branch(model: Any, label: str, branch: str) -> dict[str, Any]:
            place = options.folder / label / f"measured-{branch}"
            default = (CLEAN, "common")
            found = self.measured(label, model, validation, place, f"{label}, {branch}", run=options, default=default)
            return {branch if name == SOURCE else f"{branch}, {name}": one for name, one in found.items()}

        results = {} if self.networks else {BASE: of_branch(make(BASE), BASE, "clean")}
        for label in self.labels:
            done = self._trained(label, make(label), data, sample, options)
            results[label] = {}
            for branch, one in done.branches.splits.items():
                results[label] |= of_branch(one.model, label, branch)
            if self.walk:
                walked = done.record["history"][-1]["validation"]["landscape"]
                results[label]["clean"]["smoothness"] = walked["smoothness"]
        return results

    def _trained(self, label: str, model: PixelModel, data: Any, sample: Any, options: RunOptions) -> Hardened:
        """Return a label's training, of a model that begins with another label's weights where the recipe says so."""
        if label in self.begins_with:
            begins_with = options.folder / self.begins_with[label] / "clean.safetensors"
            load_weights(model.network, begins_with)
            model.mark(read_made_by(begins_with))
        return harden(
            model,
            data,
            self.options[label],
            out=options.folder / label,
            validation=sample,
            shifts=shifts_of(self.trend) or (CLEAN,),
            ligs=self.ligs if self.trend else (),
            landscape=self.walk,
            device=options.device,
            compiled=options.compiled,
            data_options=options.data_options,
            progress=options.training_progress and options.training_progress(label),
        )

    def tables(self, found: Found) -> list[Rows]:
        """Return a line for each network, or of a given model one for each branch."""
        return super().tables(found) if self.networks else [branch_rows(self, found)]

    def over(self, found: Found, data: str | None, named: Recipe | None) -> list[str]:
        """Return what our figures are over and in what theirs are others, in sentences."""
        lines = ours_and_theirs(self, found, data, named)
        return [*lines, *other_epochs(self, named), *other_rectifying(self, named)]

    def cost(self) -> str:
        """Return how much is trained and measured."""
        measured = sum(len(self.conditions(label)) for label in self.labels)
        epochs = sorted({one.training.epochs for one in self.options.values()})
        many = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        plural = "epoch" if epochs == [1] else "epochs"
        return f"{counted(len(self.labels), 'trainings')} of {many} {plural}, then {counted(measured, 'conditions')}"

    def _data_spec(self) -> str:  # what is trained on is clean, and in two parts
        how = DATA_SETS[self.data_set].how
        return how.partition(" or ")[0] if self.networks and self.data else "folder:DIR twice, train and val"

    def _needs_more(self) -> list[str]:
        return [] if self.networks else [a_model(self.model)]

    def _faults_of_labels(self) -> list[str]:
        order, faults = list(self.options), super()._faults_of_labels()
        if BASE in order and not self.networks:
            faults.append(f"options: The label {BASE!r} is the given model's: choose another.")
        if self.networks:
            faults += [f"networks: The label {label!r} is missing." for label in order if label not in self.networks]
        return faults + [
            f"begins_with.{label}: Expected a label before {label}, but got {first!r}."
            for label, first in self.begins_with.items()
            if label in order and first not in order[: order.index(label)]
        ]

    def _faults_of_shifts(self) -> list[str]:
        return super()._faults_of_shifts() + refused("trend", self.trend, check_shift)

    def _faults_of_data(self) -> list[str]:
        given = [self.validation] if self.validation else []
        return super()._faults_of_data() + refused("validation", given, check_scheme)


def given_model(name: str, default: str, options: RunOptions) -> Callable[[str], PixelModel]:
    """Return what makes a fresh copy of the model that is given, whatever the label."""
    if options.model_args:
        raise InputError(
            f"Expected no `model_args` for the recipe {name}, which takes a loaded model: give them where it is loaded."
        )
    model = options.model or default
    fresh = partial(load_model, model) if isinstance(model, str) else model
    return lambda label: fresh()


def a_model(default: str) -> str:
    """Return what is said of a model that is to be given."""
    return f"a model, default {default}" if default else "a model"


def _has_parts(data: Any) -> bool:
    scheme, _, rest = data.partition(":") if isinstance(data, str) else ("", "", "")
    return scheme in ("cifar10", "cifar100", "svhn") or (scheme, rest) == ("digits", "")


def _sample(data: Any, options: Mapping[str, Any] | None) -> ImageData:
    """Return the class-balanced 1,000 of the images that are measured after each epoch."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    images = data if isinstance(data, ImageData) else load_data(data, **given)
    if images.labels is None:
        raise InputError(f"Expected labels to validate with, but {images.spec} has none.")
    chosen = balanced_subset(images.labels, TREND_IMAGES)
    return images.subset(chosen)
