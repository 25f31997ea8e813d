"""What a report compares: each run under each protocol, by a name of its own, sorted into runs that may be compared."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from statshift.adapting.registry import SOURCE
from statshift.hardening.registry import METHODS
from statshift.measuring.compare import ORDER_OF_STREAM, comparable_fields, differing_fields
from statshift.report.reading import Measured
from statshift.report.words import short
from statshift.results.conditions import Condition, Conditions, by_condition
from statshift.shifts.registry import COMMON, HOLDOUT, KINDS, WITHOUT_MEAN, averaged, family_of, mean_family
from statshift.tasks.task import Task

ORIGINAL = "original"


@dataclass(frozen=True, eq=False)
class Subject:
    """A run under one protocol.

    Attributes:
        measured: the run.
        protocol: "source", or how it was adapted.
        model: the run's name, unique among the report's runs.
        group: number of the runs that it may be compared with.
        alone: whether the report has no other run, so that the protocol tells its subjects apart.
    """

    measured: Measured
    protocol: str
    model: str
    group: int
    alone: bool

    @property
    def label(self) -> str:
        """The protocol where the report has one run, else the model and how it was adapted."""
        protocol = short(self.protocol, 40)
        if self.alone:
            return protocol
        return f"{self.model} + {protocol}" if self.adapted else self.model

    @property
    def the_model(self) -> str:
        """The run's name in a sentence."""
        if self.model == ORIGINAL:
            return f"the {ORIGINAL}"
        return f"the {self.model} model" if self.model.endswith(("tuned", "trained", "regularised")) else self.model

    @property
    def adapted(self) -> bool:
        """Whether this is not the model as it came."""
        return self.protocol != SOURCE

    @property
    def task(self) -> Task:
        """What the run's rows are of."""
        return self.measured.task

    @property
    def record(self) -> dict[str, Any]:
        """The run's."""
        return self.measured.run.record

    @property
    def stream(self) -> dict[str, Any] | None:
        """What the run's record says of its stream, if it has one."""
        found: dict[str, Any] | None = self.record.get("stream") or None
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The protocol's figures, as `statshift.results.summarise` gives them."""
        found: dict[str, Any] = self.measured.summary["protocols"][self.protocol]
        return found

    @property
    def images(self) -> int:
        """How many images each of its rows is over."""
        return int(self.summary.get("images", self.measured.summary["images"]))

    @cached_property
    def conditions(self) -> Conditions:
        """Its rows by shift and severity."""
        return by_condition(self.measured.run.rows, self.protocol)

    @property
    def families(self) -> dict[str, str]:
        """The family of each shift measured; a record that tells none is of shifts that ship, or of functions."""
        told = self.record.get("families") or {}
        return {name: str(told.get(name) or family_of(name)) for name, _ in self.conditions}

    def title(self, shift: str) -> str:
        """Return what a shift is called in a table."""
        return short(str((self.record.get("titles") or {}).get(shift) or shift))

    @property
    def shifts(self) -> list[str]:
        """The shifts measured that are neither none nor an attack."""
        return [name for name in self.summary["per_shift"] if self.families[name] != "attack"]

    @property
    def averaged(self) -> list[str]:
        """Those of `shifts` that a mean may be over: of one family, and of the same images."""
        alone = {name for (name, _), draws in self.conditions.items() if "set" in draws[0]}
        return averaged({name: self.families[name] for name in self.shifts if name not in alone})

    @property
    def attacks(self) -> list[str]:
        """The attacks measured."""
        return [name for name in self.summary["per_shift"] if self.families[name] == "attack"]


@dataclass(frozen=True)
class Group:
    """Subjects over the same images, corrupted alike.

    Attributes:
        number: from 0.
        subjects: subjects, the first of which is the reference.
        differing: what tells it from the first group, as "data.images (1,000, not 500)".
    """

    number: int
    subjects: tuple[Subject, ...]
    differing: tuple[str, ...]

    @property
    def reference(self) -> Subject:
        """What the others are compared with."""
        return self.subjects[0]

    @property
    def families(self) -> dict[str, str]:
        """The family of each shift that any of them was measured under."""
        return {name: family for one in self.subjects for name, family in one.families.items()}

    def title(self, shift: str) -> str:
        """Return what a shift is called in a table."""
        return next((told for one in self.subjects if (told := one.title(shift)) != short(shift)), short(shift))

    @property
    def sources(self) -> tuple[Subject, ...]:
        """The models as they came."""
        return tuple(subject for subject in self.subjects if not subject.adapted)

    @cached_property
    def shared(self) -> tuple[Condition, ...]:
        """The conditions that every subject with a shift was measured under, of one family: means over them compare.

        These are common corruptions, or else hold-out ones, or else those of one other family that ships, made of the
        run's images, or else a single shift; () where nothing is shared.
        """
        shifted = [subject for subject in self.subjects if subject.shifts]
        for wanted in ("common", "holdout", "other"):
            of_kind = [
                [one for one in subject.conditions if kind(one[0], subject.families) == wanted] for subject in shifted
            ]
            first, *others = of_kind or [[]]
            found = tuple(one for one in first if all(one in other for other in others))
            if found and (wanted != "other" or len({shift for shift, _ in found}) == 1 or self._of_one(found)):
                return found
        return ()

    def _of_one(self, conditions: Sequence[Condition]) -> bool:
        """Return whether conditions that all subjects have are of one family that ships, and of the run's images."""
        families = {mean_family(shift, self.families[shift]) for shift, _ in conditions}
        own_images = any("set" in subject.conditions[one][0] for subject in self.subjects for one in conditions)
        return len(families) == 1 and not families & {"own", "own corruption", *WITHOUT_MEAN} and not own_images

    @property
    def data(self) -> str:
        """Which images these are, in words."""
        record = self.reference.record["data"]
        return f"{record['images']:,} images of {short(str(record['spec']))}"


def group(measured: Sequence[Measured]) -> list[Group]:
    """Return the groups of runs that may be compared image by image, each subject of theirs named.

    Args:
        measured: the runs; those without a row have no subject.
    """
    runs = [one for one in measured if one.run.rows]
    names = _models(runs)
    alike: list[list[int]] = []
    for place, one in enumerate(runs):
        fitting = (them for them in alike if not any(_differing(runs[k].run.record, one.run.record) for k in them))
        if (them := next(fitting, None)) is None:
            alike.append([place])
        else:
            them.append(place)
    groups = []
    for number, places in enumerate(alike):
        subjects = tuple(
            Subject(runs[place], protocol, names[place], number, len(runs) == 1)
            for place in places
            for protocol in sorted(runs[place].summary["protocols"], key=lambda name: name != SOURCE)
        )
        differences = (_differing(runs[place].run.record, runs[places[0]].run.record) for place in alike[0])
        differing = next(filter(None, differences), ())
        groups.append(Group(number, subjects, differing))
    return groups


def told_family(shift: str, families: Mapping[str, str]) -> str:
    """Return what a table says of a shift's family: of a corruption that ships its kind, as "noise"."""
    return next((kind for kind, names in KINDS.items() if shift in names), families[shift])


def kind(shift: str, families: Mapping[str, str]) -> str:
    """Return "common", "holdout", "attack", "clean" or "other"."""
    if families[shift] in ("attack", "clean"):
        return families[shift]
    return "common" if shift in COMMON else "holdout" if shift in HOLDOUT else "other"


def condition_name(condition: Condition) -> str:
    """Return a condition in words, as "fog 3"."""
    shift, severity = condition
    return f"{short(shift)} {severity}" if severity else short(shift)


def _models(runs: Sequence[Measured]) -> list[str]:
    """Return a short name of each run, no two alike: what tells it from the others, its folder where nothing does."""
    specs = _briefly([short_spec(one.run.record["model"]) for one in runs])
    made = [_made(one.run.record["model"].get("made_by")) for one in runs]
    if len(set(specs)) > 1 or len(runs) == 1:
        plain = [
            f"{spec}, {how}" if "(" in how else f"{spec} ({how})" if how else spec
            for spec, how in zip(specs, made, strict=True)
        ]
    else:
        plain = [how or (ORIGINAL if any(made) else "") for how in made]
    streams = [_stream(one.run.record) for one in runs]
    if len(set(streams)) > 1:
        named = [name or spec for name, spec in zip(plain, specs, strict=True)]
        plain = [_streaming(name, stream) for name, stream in zip(named, streams, strict=True)]
    names = plain
    for depth in (1, 2, 3):
        counts = Counter(names)
        names = [
            _beside(how, _folder(one, depth)) if counts[name] > 1 or not name else name
            for how, name, one in zip(plain, names, runs, strict=True)
        ]
    counts = Counter(names)
    return [f"{name} #{place}" if counts[name] > 1 else name for place, name in enumerate(names, start=1)]


def _stream(record: Mapping[str, Any]) -> str:
    stream = record.get("stream")
    return f"{short(str(stream['spec']), 30)} stream" if stream else ""


def _streaming(name: str, stream: str) -> str:
    if not stream:
        return name
    return f"{name}, {stream}" if "(" in name else f"{name} ({stream})"


def _beside(name: str, folder: str) -> str:
    return f"{name} ({folder})" if name else folder


def _briefly(specs: Sequence[str]) -> list[str]:
    """Return specs without the library, and of a user's file the function alone, where that keeps them apart."""
    brief = [spec.rpartition(":")[2] if spec.startswith("py:") else spec.partition(":")[2] for spec in specs]
    apart = len(set(brief)) == len(set(specs)) and all(brief)
    return brief if apart else list(specs)


def _folder(one: Measured, depth: int) -> str:
    return short("/".join(one.run.path.resolve().parts[-depth:]), 40)


def short_spec(model: Mapping[str, Any]) -> str:
    """Return a model's spec without the folders of a user's file, shortened."""
    return short(re.sub(r"^py:.*[/\\](?=[^/\\]*$)", "py:", str(model["spec"]), flags=re.DOTALL))


def _made(made: Any) -> str:
    """Return what weights are called that statshift made; "" for others."""
    if not isinstance(made, Mapping):
        return ""
    if made.get("verb") == "rectify":
        return f"rectified ({short(str(made.get('protocol')), 30)})"
    method = str(made.get("method"))
    entry = METHODS.get(method)
    name = entry.title if entry else f"hardened ({short(method, 30)})"
    if entry and made.get("verb") == "train":
        name = name.replace("fine-tuned", "trained")  # it began with random weights
    return f"{name}, adversarial branch" if made.get("branch") == "adv" else name


def _differing(first: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    there, here = comparable_fields(first), comparable_fields(other)
    return tuple(_difference(name, here[name], there[name]) for name in differing_fields(there, here))


def _difference(name: str, here: Any, there: Any) -> str:
    """Return in words how a field differs; of a field with parts, those that do."""
    words = name.replace(".", " ").replace("_", " ")
    if name == ORDER_OF_STREAM:
        return "order of the stream"
    if name.endswith("_hash"):
        return words.removesuffix(" hash")
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        parts = [key for key in dict.fromkeys([*here, *there]) if here.get(key) != there.get(key)]
        told = [f"{key} {_plainly(here.get(key))}, not {_plainly(there.get(key))}" for key in parts]
        return f"{words} ({'; '.join(told)})"
    return f"{words} ({_plainly(here)}, not {_plainly(there)})"


def _plainly(value: Any) -> str:
    """Return a value of a record as a word: no brackets, and "none" for nothing."""
    if isinstance(value, Mapping):
        return short(" ".join(f"{key} {_plainly(one)}" for key, one in value.items()))
    if isinstance(value, list | tuple):
        return short(" x ".join(map(str, value)))
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), short(str(value)))
