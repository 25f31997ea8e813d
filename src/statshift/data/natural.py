"""ImageNet's other test sets on disk: class folders by WordNet id, labelled as ImageNet's 1,000 classes, by id."""

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from statshift._core.errors import ClassesWarning, DataWarning, InputError
from statshift.data.classes import IMAGENET_CLASSES, imagenet_classes, read_synsets
from statshift.data.files import existing_folder
from statshift.data.folders import Listing
from statshift.data.schemes import folder
from statshift.data.sources import Files, Source
from statshift.data.stored import imagenet_c_shifts, stored_folder


@dataclass(frozen=True)
class NaturalSet:
    """What is published of a set.

    Attributes:
        title: in a report.
        family: of shift.
        classes: file of timm's that lists its WordNet ids; "" where it has all 1,000.
        numbered: its class folders are named by index, "0" to "999".
        parts: how many folders it has, each with class folders; 0 where these lie in its own.
        whole: a class that is missing is an error; else it is told.
    """

    title: str
    family: str = "natural"
    classes: str = ""
    numbered: bool = False
    parts: int = 0
    whole: bool = True


NATURAL_SETS = {
    "imagenet": NaturalSet("ImageNet's classes", whole=False),
    "imagenet-sketch": NaturalSet("ImageNet-Sketch"),
    "imagenet-r": NaturalSet("ImageNet-R", classes="imagenet_r_synsets.txt"),
    "imagenet-a": NaturalSet("ImageNet-A", classes="imagenet_a_synsets.txt"),
    "imagenet-v2": NaturalSet("ImageNet-V2", numbered=True),
    "objectnet": NaturalSet("ObjectNet"),
    "imagenet-instagram": NaturalSet("ImageNet-Instagram", "filter", parts=20),
    "stylized-imagenet": NaturalSet("Stylized-ImageNet", "style"),
    "imagenet-c-bar": NaturalSet("ImageNet-C-bar", "c-bar"),
}
"""The sets by their scheme."""

WORDNET_ID = re.compile(r"n\d{8}")


def natural(name: str, rest: str, *, class_map: str | Path | None = None) -> Source:
    """Return the images of a set of `NATURAL_SETS`, with ImageNet's labels, or those that a map of classes gives.

    Raises:
        InputError: class folders that are no classes of the set, or some that are missing.
    """
    facts, root = NATURAL_SETS[name], existing_folder(rest)
    places = instagram_filters(rest) if facts.parts else {}
    if not places:
        return _labelled(name, root, class_map)
    parts = [_labelled(name, place, class_map) for place in places.values()]
    labels = [part.labels for part in parts if part.labels is not None]
    return replace(
        parts[0],
        place=str(root),
        paths=[path for part in parts for path in part.paths],
        labels=np.concatenate(labels),
        ignored=sum(part.ignored for part in parts),
        passed_by=sum(part.passed_by for part in parts),
    )


def lacks_by_design(spec: str) -> bool:
    """Return whether data are a set that is published as being of some of ImageNet's classes."""
    facts = NATURAL_SETS.get(spec.partition(":")[0])
    return facts is not None and bool(facts.classes)


def imagenet_c_bar(rest: str, *, shift: tuple[str, int] | None = None, class_map: str | Path | None = None) -> Source:
    """Return one condition of ImageNet-C-bar, DIR/NAME/SEVERITY/CLASS/*.JPEG; `clean` without a shift."""
    return _labelled("imagenet-c-bar", stored_folder(rest, shift), class_map)


imagenet_c_bar_shifts = imagenet_c_shifts
"""The severities of each shift in a folder of ImageNet-C-bar, which has ImageNet-C's layout."""


def instagram_filters(rest: str) -> dict[str, Path]:
    """Return the folders of a set's filters by name; none where class folders lie in the folder itself."""
    root = existing_folder(rest)
    _, names = Listing().top(root)
    if not names or any(WORDNET_ID.fullmatch(name) for name in names):
        return {}
    wanted = NATURAL_SETS["imagenet-instagram"].parts
    if len(names) != wanted:
        warnings.warn(
            f"{rest} holds {len(names)} folders of filters, where ImageNet-Instagram has {wanted}.",
            DataWarning,
            stacklevel=3,
        )
    return {name: root / name for name in names}


def _labelled(name: str, root: Path, class_map: str | Path | None) -> Files:
    """Return the images of class folders, labelled by the folders' ids."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClassesWarning)  # the order of folders says nothing here
        found = folder(str(root), class_map=class_map)
    if found.labels is None:
        raise InputError(f"Expected class folders in {root}, but it holds images: name the folder above them.")
    if class_map is not None:
        return found
    assert found.class_names is not None
    counts = np.bincount(found.labels, minlength=len(found.class_names))
    folders = found.class_names
    indices = np.array(_indices(name, root, folders), np.int64)
    _check_whole(name, root, indices[counts > 0].tolist())
    return replace(
        found, labels=indices[found.labels], class_names=imagenet_classes(), mapped_names=None, class_order="imagenet"
    )


def _indices(name: str, root: Path, folders: Sequence[str]) -> list[int]:
    """Return the index among ImageNet's 1,000 classes of each folder.

    Raises:
        InputError: a folder is none of them, or of none that the set has.
    """
    facts = NATURAL_SETS[name]
    if facts.numbered and all(folder.isascii() and folder.isdecimal() for folder in folders):
        known = {str(index): index for index in range(IMAGENET_CLASSES)}
        folders = [str(int(folder)) for folder in folders]
    else:
        known = {wordnet: index for index, wordnet in enumerate(imagenet_classes())}
    usual = "0 to 999" if facts.numbered else "WordNet ids such as n01440764"
    for folder_name in folders:
        if folder_name in known:
            continue
        if WORDNET_ID.fullmatch(folder_name):
            raise InputError(
                f"Expected WordNet ids of ImageNet's 1,000 classes in {root}, but {folder_name} is none of them: give "
                "`class_map`."
            )
        raise InputError(
            f"Expected the class folders of {root} to be named {usual}, but got {folder_name!r}: give `class_map`."
        )
    if len(set(folders)) < len(folders):
        raise InputError(f"Expected one folder a class in {root}, but some are twice, such as 1 and 01.")
    if facts.classes:
        own = set(read_synsets(facts.classes))
        for folder_name in folders:
            if folder_name not in own:
                raise InputError(
                    f"Expected the {len(own)} classes of {facts.title} in {root}, but {folder_name} is none of them: "
                    f"is it another set? `imagenet:{root}` reads any."
                )
    return [known[folder_name] for folder_name in folders]


def _check_whole(name: str, root: Path, there: Collection[int]) -> None:
    """Refuse a set that lacks classes, or tell of it where any tree will do."""
    facts, names = NATURAL_SETS[name], imagenet_classes()
    wanted = read_synsets(facts.classes) if facts.classes else names
    known = {names[index] for index in there}
    missing = [one for one in wanted if one not in known]
    if not missing:
        return
    first = f"{missing[0]} (class {names.index(missing[0])})"
    if facts.whole:
        raise InputError(
            f"Expected the {len(wanted)} classes of {facts.title} in {root}, but {len(missing)} have no images, the "
            f"first {first}; `imagenet:{root}` reads any WordNet ids, or give `class_map`."
        )
    warnings.warn(
        f"{root} has {len(known)} of ImageNet's 1,000 classes; the first that is missing is {first}. The others keep "
        "ImageNet's labels.",
        ClassesWarning,
        stacklevel=5,
    )
