"""What all recipes have: by label, the networks and what they are measured under, and what the authors found."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from statshift._core.errors import unknown
from statshift.adapting.options import AdaptationOptions
from statshift.data.loading import check_scheme
from statshift.models import PixelModel
from statshift.recipes import description
from statshift.recipes.description import Rows
from statshift.recipes.faults import RecipeError, check_protocol_name, check_shift, names_a_folder, refused
from statshift.recipes.networks import Network
from statshift.recipes.options import RunOptions
from statshift.recipes.sources import DATA_SETS, PAPERS, Figures, faults_of_names, faults_of_size
from statshift.shifts.conditions import Condition, conditions, resolve
from statshift.shifts.corruptions import SEVERITIES, check_severity
from statshift.shifts.shift import CLEAN

Found = Mapping[str, Any]
"""What a recipe found by label; see `run_recipe`."""


@dataclass(frozen=True)
class Recipe(ABC):
    """What to do, and what the authors found; it is a `TrainingRecipe`, a `MeasuringRecipe` or an `AnalysisRecipe`.

    Attributes:
        name: as in `RECIPES`.
        title: what it compares.
        source: by paper (a key of `PAPERS`), the tables and figures.
        published: by label, the figures in [0,1]; None where the authors have some that our copy of the paper does not
            print. A label that is not here is none of theirs. The keys are those of `COLUMNS`, or where a recipe has
            networks of its own "clean", an attack, "corrupted" (the mean over shifts), "mce", and these of a rectified
            network with ", rectified" behind.
        note: in what ours and theirs differ, or what the paper leaves open.
        data_set: which of `DATA_SETS` the published figures are over; "" says nothing.
        wants: what data it takes, where that is not simply its data set.
        data: a spec, of the images to train on, or where nothing is trained to measure on; "" is still to be given.
        networks: by label, what is built; empty where a model is given.
        files: by name, the weights that networks are filled with; "" is still to be supplied.
        shifts: by label, what is measured under; the clean images and the 15 where nothing is said.
        severities: of these shifts.
        protocols: by which a network is rectified and measured again.
        adaptation: by label, how.

    Raises:
        RecipeError: what does not fit together, all told at once.
    """

    name: str
    title: str
    source: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Figures | None] = field(default_factory=dict)
    note: str = ""
    data_set: str = ""
    wants: str = ""
    data: str = ""
    networks: Mapping[str, Network] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    shifts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    severities: Sequence[int] = SEVERITIES
    protocols: Sequence[str] = ()
    adaptation: Mapping[str, AdaptationOptions] = field(default_factory=dict)

    does: ClassVar[str]
    """What it does, and what it does not, where a number has no place in it."""

    by_label: ClassVar[tuple[str, ...]] = ("networks", "shifts", "adaptation")
    """The fields of which a label has its part."""

    def __post_init__(self) -> None:
        if faults := self.faults():
            raise RecipeError(faults)

    @property
    def labels(self) -> tuple[str, ...]:
        """What is trained or measured, in order."""
        return tuple(self.networks)

    @property
    def reference(self) -> str:
        """Paper and tables in words."""
        return "; ".join(f"{PAPERS[paper]}, {where}" for paper, where in self.source.items())

    @property
    def spec(self) -> str:
        """Of the model that is taken where none is given; "" where it takes none, or has to be given."""
        return ""

    @property
    def unsupplied(self) -> list[str]:
        """The files that its networks need and that have no path yet."""
        wanted = dict.fromkeys(network.weights for network in self.networks.values() if network.weights)
        return [name for name in wanted if not self.files.get(name)]

    # What it is given

    @property
    def requires(self) -> tuple[str, ...]:
        """What it must have to run, by the arguments of `run_recipe`."""
        return ("data", "out")

    @property
    def takes(self) -> tuple[str, ...]:
        """What may be given besides."""
        return ()

    @property
    def asks(self) -> tuple[str, ...]:
        """The fields that a user may still have to fill in."""
        return ("data",)

    def images(self, data: Any, validation: Any) -> tuple[Any, Any]:
        """Return what to train and to measure on, None where it is still to be given; what is given goes before."""
        return (self.data or None if data is None else data), None

    @property
    def numbers(self) -> Mapping[str, Any]:
        """By label, the options that numbers for all labels change."""
        return self.adaptation

    def with_numbers(self, numbers: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with other options in the place of `numbers`."""
        return replace(self, adaptation=numbers)

    def keeps(self, label: str) -> Sequence[str]:
        """Return the numbers of a label that a change for all labels leaves alone."""
        return ()

    # What it does

    @abstractmethod
    def run(self, options: RunOptions) -> dict[str, Any]:
        """Run it; see `run_recipe`."""

    def maker(self, options: RunOptions) -> Callable[[str], PixelModel]:
        """Return what makes the model of a label, before anything is done with it."""
        return partial(self._made, arguments=options.model_args or {}, seed=options.seed)

    def _made(self, label: str, *, arguments: Mapping[str, Any], seed: int) -> PixelModel:
        return self.networks[label].make(self.files, arguments, seed, fresh=False)

    # What is said of it

    @abstractmethod
    def tables(self, found: Found) -> list[Rows]:
        """Return the tables of what was found, ours beside theirs: rows, a head first."""

    @abstractmethod
    def over(self, found: Found, data: str | None, named: "Recipe | None") -> list[str]:
        """Return what our figures are over and in what theirs are others, in sentences.

        Args:
            found: what was found.
            data: spec of the images that ours are of.
            named: the recipe of this name, whose numbers are theirs; None: there is none.
        """

    def expected(self) -> str:
        """Return a figure that the authors print."""
        return description.expected(self.published)

    @abstractmethod
    def cost(self) -> str:
        """Return how much is trained or measured."""

    def needs(self) -> str:
        """Return which data and weights it takes."""
        wanted = [self.wants or self.data_in_words(), *self._needs_more()]
        if self.unsupplied:
            wanted.append(f"files: {', '.join(self.unsupplied)}")
        return "; ".join(wanted)

    def data_in_words(self) -> str:
        """Return which data are to be named, and how."""
        if not self.data_set:
            return self.data or "data of your own"
        return f"{self.data_set} as {self._data_spec()}"

    def _data_spec(self) -> str:
        return DATA_SETS[self.data_set].how

    def _needs_more(self) -> list[str]:
        downloads = [one.spec for one in self.networks.values() if "@" in one.spec and not one.spec.endswith("@none")]
        return ["torchvision's weights (download)"] if downloads else []

    def conditions(self, label: str) -> list[Condition]:
        """Return what a label is measured under, a user's own shifts but by their names."""
        names = self.shifts.get(label, (CLEAN, "common"))
        own = dict.fromkeys(name for name in names if name.startswith("py:"))
        shifts = resolve([name for name in names if name not in own] or [CLEAN])
        found = list(conditions(shifts, self.severities))
        return [*found, *(Condition(name, severity) for name in own for severity in self.severities)]

    # What is wrong with it

    def faults(self) -> list[str]:
        """Return what does not fit together, "place: what", one for each."""
        return [
            *self._faults_of_labels(),
            *self._faults_of_networks(),
            *self._faults_of_shifts(),
            *refused("severities", self.severities, check_severity),
            *([] if self.severities else ["severities: Expected at least one from 1 to 5."]),
            *refused("protocols", self.protocols, check_protocol_name),
            *(f"source: {unknown('paper', paper, PAPERS)}" for paper in self.source if paper not in PAPERS),
            *self._faults_of_data(),
            *faults_of_size(self.published),
            *self._faults_of_figures(),
        ]

    def _faults_of_labels(self) -> list[str]:
        labels = self.labels
        faults = [] if labels else ["options: Expected labels here or under `networks`."]
        for name in self.by_label:
            faults += [f"{name}: {unknown('label', one, labels)}" for one in getattr(self, name) if one not in labels]
        faults += [
            f"{name}: Expected a label that can name a folder, but got {label!r}."
            for name in ("options", "networks")
            for label in getattr(self, name, ())
            if not names_a_folder(label)
        ]
        if self.adaptation and not self.protocols:
            faults.append("protocols: Expected a protocol, since `adaptation` says how to adapt.")
        return faults

    def _faults_of_networks(self) -> list[str]:
        faults = []
        for label, network in self.networks.items():
            faults += [f"networks.{label}.{fault}" for fault in network.faults()]
            if network.weights and network.weights not in self.files:
                told = unknown("file", network.weights, self.files) if self.files else "Expected it among `files`."
                faults.append(f"networks.{label}.weights: {told}")
        return faults

    def _faults_of_shifts(self) -> list[str]:
        faults = []
        alike = len({tuple(shifts) for shifts in self.shifts.values()}) == 1
        for label, shifts in self.shifts.items():
            place = f"shifts{'' if alike else f'.{label}'}"
            if not shifts:
                faults.append(f"{place}: Expected at least one; leave it out for clean and common.")
            faults += refused(place, shifts, check_shift)
        return faults

    def _faults_of_data(self) -> list[str]:
        faults = []
        if self.data_set and self.data_set not in DATA_SETS:
            faults.append(f"data_set: {unknown('data set', self.data_set, DATA_SETS)}")
        return faults + refused("data", [self.data] if self.data else [], check_scheme)

    def _faults_of_figures(self) -> Sequence[str]:
        return faults_of_names(self.published, self.protocols, self.labels if self.networks else None)
