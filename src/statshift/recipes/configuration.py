"""What a recipe is: by label, what to train or to measure and how, and what the authors found."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.adapting.choosing import find
from statshift.adapting.options import AdaptationOptions
from statshift.data.loading import check_scheme
from statshift.hardening.options import HardenOptions
from statshift.measuring.ligs import PERTURBATIONS
from statshift.models import NORMS
from statshift.models.cifar import ZOO
from statshift.models.loading import SCHEMES as MODEL_SCHEMES
from statshift.shifts.conditions import resolve
from statshift.shifts.corruptions import SEVERITIES, check_severity
from statshift.shifts.registry import family_of

Figures = Mapping[str, float]
BASE = "base"
"""The label of the model as it was before."""

RECTIFIED = ", rectified"
"""What follows the name of a figure that was taken after rectifying."""

COLUMNS = {"clean": "clean", "mce": "mCE", "instagram": "Instagram", "sketch": "Sketch", "style": "Stylized"}
"""What the tables on AdvBN give: top-1 accuracy on ImageNet and its variants, and mCE on ImageNet-C."""

LARGEST = 5
"""No figure is above it, mCE included: such a one is in %."""

PAPERS = {
    "rectification": "Benz et al., WACV 2021",
    "ligs": "Benz et al., the ICLR 2021 submission on LIGS",
    "advbn": "Shu et al., NeurIPS 2021",
    "submission": "Shu et al., the ICLR 2021 submission",
}
"""The papers by their names in a recipe's `source`."""

ANALYSES = {
    "branches": "the authors' choice of branch, which is printed",
    "costs": "the time of a step, see `step_costs`",
    "distances": "how far batch statistics lie apart",
    "similarities": "how like clean features those of corrupted images are",
    "embedding": "how well features lie in classes, before and after rectifying",
    "divergence": "how far apart two data sets lie, layer by layer",
    "transfer": "how well features extracted from each network serve the others",
    "transfer-robust": "the same, of adversarially trained networks",
}
"""What is done in place of training and measuring, by name."""


@dataclass(frozen=True)
class DataSet:
    """What figures of a paper are over.

    Attributes:
        images: how many.
        schemes: of the specs that name it.
        how: to name it.
    """

    images: int
    schemes: tuple[str, ...]
    how: str


DATA_SETS = {
    "CIFAR-10": DataSet(10_000, ("cifar10", "cifar-c"), "cifar10 (downloads) or cifar-c:DIR"),
    "CIFAR-100": DataSet(10_000, ("cifar100", "cifar-c"), "cifar100 (downloads) or cifar-c:DIR"),
    "SVHN": DataSet(26_032, ("svhn",), "svhn (downloads)"),
    "ImageNet": DataSet(50_000, ("folder", "imagenet-c"), "folder:DIR or imagenet-c:DIR"),
}
"""The papers' data by name."""


@dataclass(frozen=True)
class Network:
    """A network that is built for a label.

    Attributes:
        spec: of the model.
        arguments: of whatever builds it, such as `norm`.
        weights: the name of a file among the recipe's `files`; "" keeps those of the spec, or random ones.
        mean: of the three channels in [0,1]; default the model's own.
        std: likewise.
    """

    spec: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Recipe:
    """What to train or to measure, and what the authors found.

    Attributes:
        name: as in `RECIPES`.
        title: what it compares.
        source: by paper (a key of `PAPERS`), the tables and figures.
        options: by label, how to train; where there are none, the networks are measured as they are.
        published: by label, the figures in [0,1]; None where the authors have some that our copy of the paper does not
            print. A label that is not here is none of theirs. The keys are those of `COLUMNS`, or where a recipe has
            networks of its own "clean", an attack, "corrupted" (the mean over shifts), "mce", and these of a rectified
            network with ", rectified" behind.
        note: in what ours and theirs differ, or what the paper leaves open.
        begins_with: labels whose training begins with the weights of another label's clean branch.
        networks: by label, what is built; empty where a given model is fine-tuned.
        files: by name, the weights that networks are filled with; "" is still to be supplied.
        model: a spec, of the model that is fine-tuned where none is given.
        data: a spec, of the images to train on, or where nothing is trained to measure on; "" is still to be given.
        validation: a spec, of the images to measure on after training; default `data`.
        data_set: which of `DATA_SETS` the published figures are over; "" says nothing.
        shifts: by label, what is measured under; the clean images and the 15 where nothing is said.
        severities: of these shifts.
        protocols: by which a network is rectified and measured again.
        adaptation: by label, how.
        ligs: perturbations with which LIGS is measured, at the end and after each epoch.
        trend: shifts that are measured after each epoch, on a class-balanced 1,000 of the images; empty for none.
        walk: whether the landscape is walked after each epoch.
        analysis: one of `ANALYSES`, done in place of training and measuring.
        by_shift: whether it compares shift by shift, which the table then shows.
        wants: what data it takes, where that is not simply its data set.
        fixed: by label, the fields of its training or adaptation that it is compared by, which a change for all labels
            leaves alone.

    Raises:
        RecipeError: what does not fit together, all told at once.
    """

    name: str
    title: str
    source: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, HardenOptions] = field(default_factory=dict)
    published: Mapping[str, Figures | None] = field(default_factory=dict)
    note: str = ""
    begins_with: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    validation: str = ""
    data_set: str = ""
    shifts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    severities: Sequence[int] = SEVERITIES
    protocols: Sequence[str] = ()
    adaptation: Mapping[str, AdaptationOptions] = field(default_factory=dict)
    ligs: Sequence[str] = ()
    trend: Sequence[str] = ()
    walk: bool = False
    analysis: str = ""
    by_shift: bool = False
    wants: str = ""
    fixed: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if faults := faults_of(self):
            raise RecipeError(faults)

    @property
    def labels(self) -> tuple[str, ...]:
        """What is trained or measured, in order."""
        return tuple(self.options or self.networks)

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return bool(self.options) and not self.analysis

    @property
    def builds(self) -> bool:
        """Whether it builds networks of its own, and takes no model."""
        return bool(self.networks)

    @property
    def reference(self) -> str:
        """Paper and tables in words."""
        return "; ".join(f"{PAPERS[paper]}, {where}" for paper, where in self.source.items())

    @property
    def unsupplied(self) -> list[str]:
        """The files that its networks need and that have no path yet."""
        wanted = dict.fromkeys(network.weights for network in self.networks.values() if network.weights)
        return [name for name in wanted if not self.files.get(name)]


class RecipeError(InputError):
    """What is wrong with a recipe, each fault with its place; the message joins them.

    Attributes:
        faults: one line each.
        where: the recipe's file, or "".
    """

    def __init__(self, faults: Sequence[str], where: str = "") -> None:
        self.where = where
        nearest = re.compile(r"(Did you mean '[^']*')\? Choose from: .*")
        self.faults = tuple(dict.fromkeys(nearest.sub(r"\1?", fault).rstrip(".") for fault in faults))
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "1 fault"
        super().__init__(
            (f"{where} has {count}: " if where else "") + re.sub(r"(?<![?])$", ".", "; ".join(self.faults))
        )

    @property
    def lines(self) -> str:
        """The message with a line for each fault, where there are several."""
        if len(self.faults) == 1:
            return str(self)
        head = f"{self.where or 'The recipe'} has {len(self.faults)} faults:"
        return "\n".join([head, *(f"  - {fault}" for fault in self.faults)])


def fraction(cell: str | float) -> float:
    """Return a figure as printed, in %, as a fraction."""
    return round(float(cell) / 100, 6)


def places(where: str) -> list[str]:
    """Return ["Table 1", "Table 2", "Figure 4"] for "Tables 1 and 2, section 3, Figure 4"."""
    found = []
    for kind, numbers in re.findall(r"(Table|Figure)s? ((?:\d+(?:, | and | to )?)+)", where):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", numbers):
            found += [f"{kind} {number}" for number in range(int(first), int(last or first) + 1)]
    return found


def faults_of(recipe: Recipe) -> list[str]:
    """Return what does not fit together in a recipe, "place: what", one for each."""
    labels = recipe.labels
    faults = [] if labels or recipe.analysis == "branches" else ["options: Expected labels here or under `networks`."]
    if BASE in recipe.options and not recipe.networks:
        faults.append(f"options: The label {BASE!r} is the given model's: choose another.")
    if not recipe.severities:
        faults.append("severities: Expected at least one from 1 to 5.")
    faults += [f"source: {unknown('paper', paper, PAPERS)}" for paper in recipe.source if paper not in PAPERS]
    faults += [
        f"{name}: Expected a label that can name a folder, but got {label!r}."
        for name, given in (("options", recipe.options), ("networks", recipe.networks))
        for label in given
        if not _names_a_folder(label)
    ]
    if recipe.options and recipe.networks:
        faults += [f"networks: The label {label!r} is missing." for label in labels if label not in recipe.networks]
    own = {"networks": recipe.networks, "shifts": recipe.shifts, "adaptation": recipe.adaptation}
    own |= {"begins_with": recipe.begins_with, "fixed": recipe.fixed}
    for name, by_label in own.items():
        faults += [f"{name}: {unknown('label', label, labels)}" for label in by_label if label not in labels]
    faults += _faults_of_order(recipe)
    for label, network in recipe.networks.items():
        faults += [f"networks.{label}.{fault}" for fault in _faults_of_network(network)]
        if network.weights and network.weights not in recipe.files:
            told = unknown("file", network.weights, recipe.files) if recipe.files else "Expected it among `files`."
            faults.append(f"networks.{label}.weights: {told}")
    alike = len({tuple(shifts) for shifts in recipe.shifts.values()}) == 1
    for label, shifts in recipe.shifts.items():
        wrong = _faults_of_shifts(shifts) if shifts else ["Expected at least one; leave it out for clean and common."]
        faults += [f"shifts{'' if alike else f'.{label}'}: {fault}" for fault in wrong]
    faults += [f"trend: {fault}" for fault in _faults_of_shifts(recipe.trend)]
    checks: tuple[tuple[str, Sequence[Any], Callable[[Any], object]], ...] = (
        ("severities", recipe.severities, check_severity),
        ("protocols", recipe.protocols, _check_protocol),
        ("ligs", recipe.ligs, _check_perturbation),
    )
    for name, values, check in checks:
        for value in values:
            try:
                check(value)
            except InputError as error:
                faults.append(f"{name}: {error}")
    for name, value, choices in (("analysis", recipe.analysis, ANALYSES), ("data_set", recipe.data_set, DATA_SETS)):
        if value and value not in choices:
            faults.append(f"{name}: {unknown(name.replace('_', ' '), value, choices)}")
    for name, spec in (("data", recipe.data), ("validation", recipe.validation)):
        try:
            if spec:
                check_scheme(spec)
        except InputError as error:
            faults.append(f"{name}: {error}")
    faults += _faults_of_figures(recipe)
    if recipe.analysis:
        faults += [
            f"protocols: Expected one that writes statistics, by name, for {recipe.analysis}, but got {name!r}."
            for name in recipe.protocols
            if not _writes_at_once(name)
        ]
    if recipe.adaptation and not recipe.protocols:
        faults.append("protocols: Expected a protocol, since `adaptation` says how to adapt.")
    return faults


def _faults_of_figures(recipe: Recipe) -> list[str]:
    """Return which published figures are no fractions, or stand under a name that no figure of ours has."""
    faults = []
    behind = ["", RECTIFIED, *(f", {name}" for name in recipe.protocols)]
    names = [name + one for name in (*COLUMNS, "corrupted", "smoothness") for one in behind]
    for label, figures in recipe.published.items():
        if recipe.networks and not recipe.analysis and label not in recipe.labels:
            faults.append(f"published: {unknown('label', label, recipe.labels)}")
        for name, value in (figures or {}).items():
            place = f"published.{label}.{name}"
            if value > LARGEST:
                faults.append(f"{place}: Expected a fraction, as {value / 100:g} for {value:g} %, but got {value:g}.")
            own = name.startswith("LIGS ") or family_of(name.partition(",")[0]) == "attack"
            if not recipe.analysis and name not in names and not own:
                faults.append(f"{place}: {unknown('figure', name, names)}")
    return faults


def _faults_of_order(recipe: Recipe) -> list[str]:
    """Return where a training begins with one that comes later, or with none."""
    order = list(recipe.options)
    return [
        f"begins_with.{label}: Expected a label before {label}, but got {first!r}."
        for label, first in recipe.begins_with.items()
        if label in order and first not in order[: order.index(label)]
    ]


def _faults_of_network(network: Network) -> list[str]:
    scheme, _, rest = network.spec.partition(":")
    faults = []
    if scheme not in MODEL_SCHEMES:
        faults.append(f"spec: {unknown('model scheme', scheme, MODEL_SCHEMES)}")
    if scheme == "cifar" and rest not in ZOO:
        faults.append(f"spec: {unknown('CIFAR model', rest, ZOO)}")
    norm = network.arguments.get("norm", "batch")
    if scheme != "py" and norm not in NORMS:
        faults.append(f"arguments.norm: {unknown('norm', norm, NORMS)}")
    faults += [
        f"{name}: Expected three numbers, but got {list(value)}."
        for name, value in (("mean", network.mean), ("std", network.std))
        if value is not None and len(value) != 3
    ]
    return faults


def _faults_of_shifts(shifts: Sequence[str]) -> list[str]:
    faults = []
    for name in shifts:
        try:
            if not name.startswith("py:"):
                resolve([name])
        except InputError as error:
            faults.append(str(error))
    return faults


def _check_protocol(name: str) -> None:
    if not name.startswith("py:"):
        find(name)


def _writes_at_once(name: str) -> bool:
    """Return whether a protocol rewrites statistics in one forward; an unknown name is another fault's to tell."""
    try:
        return not name.startswith("py:") and find(name).at_once is not None
    except InputError:
        return True


def _check_perturbation(name: str) -> None:
    if name not in PERTURBATIONS:
        raise unknown("perturbation", name, PERTURBATIONS)


def _names_a_folder(label: str) -> bool:
    """Return whether a label is one folder's name, and not "." or a path that leads elsewhere."""
    return bool(label.strip()) and label not in (".", "..") and not re.search(r'[/\\:*?"<>|\x00-\x1f]', label)
