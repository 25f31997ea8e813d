"""A recipe that does something else than to train or to measure: a study of networks, a timing, a fact."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from statshift._core.errors import InputError, unknown
from statshift._core.registry import Entry
from statshift.adapting.choosing import find
from statshift.hardening.options import HardenOptions
from statshift.models import PixelModel
from statshift.recipes.analyses.analysis import Analysis
from statshift.recipes.analyses.registry import ANALYSES
from statshift.recipes.configuration import Found, Recipe
from statshift.recipes.description import Rows
from statshift.recipes.options import RunOptions
from statshift.recipes.training import a_model, given_model


@dataclass(frozen=True)
class AnalysisRecipe(Recipe):
    """What is analysed, by label.

    Attributes:
        analysis: one of `ANALYSES`.
        options: by label, the methods whose steps are timed.
        model: a spec, of the model that they train where none is given.
    """

    analysis: str = ""
    options: Mapping[str, HardenOptions] = field(default_factory=dict)
    model: str = ""

    by_label: ClassVar[tuple[str, ...]] = (*Recipe.by_label, "options")

    @property
    def entry(self) -> Entry:
        """What the registry has of the analysis."""
        return ANALYSES[self.analysis]

    @property
    def chosen(self) -> Analysis:
        """The analysis."""
        found: Analysis = self.entry.load()
        return found

    @property
    def does(self) -> str:  # type: ignore[override]
        """What it does, and what it does not."""
        return (
            "trains, and does not adapt" if self.options else "trains nothing" if self.adaptation else "only measures"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """What is analysed, in order."""
        return tuple(self.options or self.networks)

    @property
    def spec(self) -> str:
        """Of the model that is taken where none is given."""
        return self.model

    @property
    def requires(self) -> tuple[str, ...]:
        """What it must have to run."""
        return self.chosen.requires

    @property
    def takes(self) -> tuple[str, ...]:
        """What may be given besides."""
        return self.chosen.takes

    @property
    def asks(self) -> tuple[str, ...]:
        """The fields that a user may still have to fill in."""
        return tuple(name for name in ("data", "model") if name == "data" or name in self.requires)

    @property
    def numbers(self) -> Mapping[str, Any]:
        """By label, the options that numbers for all labels change."""
        return {label: one.training for label, one in self.options.items()} or self.adaptation

    def with_numbers(self, numbers: Mapping[str, Any]) -> Recipe:
        """Return the recipe with other options in the place of `numbers`."""
        if not self.options:
            return super().with_numbers(numbers)
        options = {label: replace(one, training=numbers[label]) for label, one in self.options.items()}
        return replace(self, options=options)

    def maker(self, options: RunOptions) -> Callable[[str], PixelModel]:
        """Return what makes the model of a label."""
        return super().maker(options) if self.networks else given_model(self.name, self.model, options)

    def run(self, options: RunOptions) -> dict[str, Any]:
        """Run the analysis; what it returns by label is under "analysis"."""
        return self.chosen.run(self, options)

    def expected(self) -> str:
        """Return a figure that the authors print."""
        return self.chosen.expected or super().expected()

    def cost(self) -> str:
        """Return how much is looked at."""
        return self.chosen.cost(len(self.labels))

    def needs(self) -> str:
        """Return which data and weights it takes."""
        return super().needs() if self.requires else "nothing"

    def tables(self, found: Found) -> list[Rows]:
        """Return the analysis's table."""
        return [self.chosen.rows(self.published, found)]

    def over(self, found: Found, data: str | None, named: Recipe | None) -> list[str]:
        """Return the sentence on what was looked at."""
        return [self.chosen.over(self.entry.summary, found)]

    def _data_spec(self) -> str:
        return self.chosen.data_spec or super()._data_spec()

    def _needs_more(self) -> list[str]:
        return [a_model(self.model)] if "model" in self.requires else super()._needs_more()

    def faults(self) -> list[str]:
        """Return what does not fit together."""
        if self.analysis not in ANALYSES:
            return [f"analysis: {unknown('analysis', self.analysis, ANALYSES)}"]
        return super().faults() + [
            f"protocols: Expected one that writes statistics, by name, for {self.analysis}, but got {name!r}."
            for name in self.protocols
            if not _writes_at_once(name)
        ]

    def _faults_of_labels(self) -> list[str]:
        return super()._faults_of_labels() if self.requires else []

    def _faults_of_figures(self) -> Sequence[str]:
        return []  # their names are the analysis's


def _writes_at_once(name: str) -> bool:
    """Return whether a protocol rewrites statistics in one forward; an unknown name is another fault's to tell."""
    try:
        return not name.startswith("py:") and find(name).at_once is not None
    except InputError:
        return True
