"""A recipe that trains on one part of the data, and measures on others: scenes, weathers, cameras."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.adapting.registry import SOURCE
from statshift.data import load_data
from statshift.recipes.comparison import other_epochs, other_rectifying
from statshift.recipes.configuration import Found, Recipe
from statshift.recipes.description import NOT_PRINTED, Rows, counted, in_percent
from statshift.recipes.measuring import check_files
from statshift.recipes.options import RunOptions
from statshift.recipes.parts import DataPart
from statshift.recipes.sources import BASE
from statshift.recipes.tables import headline_of
from statshift.recipes.training import TrainingRecipe
from statshift.shifts.shift import CLEAN


@dataclass(frozen=True)
class DomainRecipe(TrainingRecipe):
    """What is trained, by label, on a part of the data, and which other parts are measured on.

    Published figures are by domain. Of each training the branch that its options name is measured.

    Attributes:
        trained_on: the part that is trained on.
        domains: by name, the parts that are measured on.
        loads: further arguments of `load_data` for all of them, such as `ignore_index`.
    """

    trained_on: DataPart = field(default_factory=DataPart)
    domains: Mapping[str, DataPart] = field(default_factory=dict)
    loads: Mapping[str, Any] = field(default_factory=dict)

    @property
    def requires(self) -> tuple[str, ...]:
        """What it must have to run."""
        of = {part.of for part in (self.trained_on, *self.domains.values())}
        given = [name for name in ("data", "validation") if name in of]
        return (*(() if self.networks else ("model",)), *given, "out")

    @property
    def asks(self) -> tuple[str, ...]:
        """The fields that a user may still have to fill in."""
        return tuple(name for name in self.requires if name != "out")

    def images(self, data: Any, validation: Any) -> tuple[Any, Any]:
        """Return the data whose parts are trained and measured on; what is given goes before."""
        return (self.data or None if data is None else data), (
            self.validation or None if validation is None else validation
        )

    def run(self, options: RunOptions) -> dict[str, Any]:
        """Train each label in a folder of its own, and measure it on each domain in `measured-DOMAIN` below."""
        make = self.maker(options)
        training, *parts = self._places(options)
        domains = dict(zip(self.domains, parts, strict=True))
        check_files(self, make)
        for spec, how in (training, *parts):
            load_data(spec, **how)  # what is not there is told now, not after the training
        results = {} if self.networks else {BASE: self._on_domains(make(BASE), BASE, domains, options)}
        for label in self.labels:
            spec, how = training
            done = self._trained(label, make(label), spec, None, replace(options, data_options=how))
            results[label] = self._on_domains(done.model, label, domains, options)
        return results

    def _places(self, options: RunOptions) -> list[tuple[str, dict[str, Any]]]:
        """Return spec and arguments of `load_data` of what is trained on and of each domain."""
        given = dict(zip(("data", "validation"), self.images(options.data, options.validation), strict=True))
        common = {**self.loads, **{name: one for name, one in (options.data_options or {}).items() if one is not None}}
        places = []
        for part in (self.trained_on, *self.domains.values()):
            spec = given[part.of]
            if not isinstance(spec, str):
                raise InputError(
                    f"Expected `{part.of}` to be a spec for the recipe {self.name}, which takes parts of it, but got "
                    f"{type(spec).__name__}."
                )
            places.append((part.spec(spec), common | part.options))
        return places

    def _on_domains(
        self, model: Any, label: str, domains: Mapping[str, tuple[str, dict[str, Any]]], options: RunOptions
    ) -> dict[str, Any]:
        """Return the figures of a model by domain, and of the rectified one by "DOMAIN, PROTOCOL"."""
        results: dict[str, Any] = {}
        for domain, (spec, how) in domains.items():
            place = options.folder / label / f"measured-{domain}"
            run = replace(options, data_options=how)
            found = self.measured(label, model, spec, place, f"{label}, {domain}", run=run, default=(CLEAN,))
            results |= {domain if name == SOURCE else f"{domain}, {name}": one for name, one in found.items()}
        return results

    def tables(self, found: Found) -> list[Rows]:
        """Return a line for each domain, and a column for each label beside theirs; then what else was measured."""
        every = [one for by_domain in found.values() for one in by_domain.values()]
        tables = [self._scores(found)]
        for name, head in (("pixel_accuracy", "pixel accuracy"), ("mean_of_shifts", "mean of shifts")):
            if any(one.get(name) is not None for one in every):
                tables.append(_rows(head, {label: _column(one, name) for label, one in found.items()}))
        return tables

    def _scores(self, found: Found) -> Rows:
        """Return the scores of images as they are beside theirs."""
        every = [one for by_domain in found.values() for one in by_domain.values()]
        headline = headline_of(every[0]) if every else "score"
        columns: dict[str, dict[str, str]] = {}
        for label in dict.fromkeys([*found, *self.published]):
            if label in found:
                columns[label] = _column(found[label], f"clean_{headline}")
            if figures := self.published.get(label):
                columns[f"their {label}"] = {domain: in_percent(value) for domain, value in figures.items()}
        if self.published and not any(self.published.values()):
            columns["published"] = dict.fromkeys(self.domains, NOT_PRINTED)
        return _rows(headline, columns)

    def over(self, found: Found, data: str | None, named: Recipe | None) -> list[str]:
        """Return what our figures are over, in a sentence, and in what theirs are others."""
        counts = {domain: one["images"] for by_domain in found.values() for domain, one in by_domain.items()}
        told = ", ".join(f"{images:,} of {domain}" for domain, images in counts.items() if domain in self.domains)
        lines = [f"Ours are over images as they are: {told}."] if told else []
        return [*lines, *other_epochs(self, named), *other_rectifying(self, named)]

    def expected(self) -> str:
        """Return a figure that the authors print: of the first domain, by the first label and by the last."""
        printed = {label: figures for label, figures in self.published.items() if figures}
        if not printed:
            return super().expected()
        first, last = next(iter(printed)), list(printed)[-1]
        domain, after = next(iter(printed[last].items()))
        before = f"{in_percent(printed[first].get(domain))} ({first}) -> " if first != last else ""
        return f"{last}: {before}{in_percent(after)} on {domain}"

    def cost(self) -> str:
        """Return how much is trained and measured."""
        trainings = super().cost().partition(", then ")[0]
        return f"{trainings}, then {counted(len(self.labels) * len(self.domains), 'measurements')}"

    def faults(self) -> list[str]:
        """Return what does not fit together."""
        parts = {"trained_on": self.trained_on, **{f"domains.{name}": one for name, one in self.domains.items()}}
        return [
            *super().faults(),
            *(f"{place}.{fault}" for place, part in parts.items() for fault in part.faults()),
            *([] if self.domains else ["domains: Expected at least one."]),
            *(f"{name}: Expected none in a recipe with domains." for name in ("trend", "walk") if getattr(self, name)),
        ]

    def _faults_of_figures(self) -> Sequence[str]:
        labels = self.labels if self.networks else (BASE, *self.labels)
        return [
            *(f"published: {unknown('label', one, labels)}" for one in self.published if one not in labels),
            *(
                f"published.{label}: {unknown('domain', one, self.domains)}"
                for label, figures in self.published.items()
                for one in figures or {}
                if one not in self.domains
            ),
        ]


def _column(by_domain: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, str]:
    """Return a figure by domain, in %."""
    return {domain: in_percent(one.get(name)) for domain, one in by_domain.items()}


def _rows(head: str, columns: Mapping[str, Mapping[str, str]]) -> Rows:
    """Return a table of columns, a line for each domain; "-" is where there is no figure."""
    domains = dict.fromkeys(domain for column in columns.values() for domain in column)
    lines = [[domain, *(column.get(domain, "-") for column in columns.values())] for domain in domains]
    return [[head, *columns], *lines]
