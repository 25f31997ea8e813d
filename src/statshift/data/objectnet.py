"""ObjectNet on disk: of its 313 classes those that are ImageNet's too, by the maps that come with it.

Reference: Barbu et al., "ObjectNet" (NeurIPS 2019): 113 classes shared with ImageNet, of which some stand for several
of ImageNet's; a border of one red pixel around each image, to be cropped.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from statshift._core.errors import InputError
from statshift.data.classes import imagenet_classes, imagenet_lemmas
from statshift.data.files import existing_file, existing_folder
from statshift.data.folders import Listing
from statshift.data.sources import Files, Header

BORDER = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class BorderedFiles(Files):
    """Image files with a border that is cut off.

    Attributes:
        border: px at each side.
    """

    border: int

    def open(self, index: int) -> Image.Image:
        """Return the image within its border."""
        with super().open(index) as image:
            width, height = image.size
            inner: Image.Image = image.crop((self.border, self.border, width - self.border, height - self.border))
            return inner

    def header(self, index: int) -> Header:
        """Return the size within the border, without decoding."""
        with super().open(index) as image:
            return (image.width - 2 * self.border, image.height - 2 * self.border), image.mode


def objectnet(rest: str) -> BorderedFiles:
    """Return the images of the classes that are ImageNet's too.

    A class that stands for several of ImageNet's has the label of the first of them, and `groups` tells which they are.

    Raises:
        InputError: a map or a class folder is missing, or a map names what ImageNet has not.
    """
    root = existing_folder(rest)
    groups = _groups(root)
    images = root / "images" if (root / "images").is_dir() else root
    listing, paths, labels = Listing(), [], []
    _, there = listing.top(images)
    for name, group in groups.items():
        own = list(listing.images(images / name)) if name in there else []
        if not own:
            raise InputError(f"Expected the {len(groups)} classes that {rest} maps to ImageNet's, but {name} is empty.")
        paths += own
        labels += [group[0]] * len(own)
    listing.warn(root)
    return BorderedFiles(
        str(root),
        paths=paths,
        labels=np.array(labels, np.int64),
        class_names=imagenet_classes(),
        ignored=listing.others,
        passed_by=len(listing.passed_by),
        class_order="imagenet",
        groups=tuple(sorted(groups.values())),
        border=BORDER,
    )


def _groups(root: Path) -> dict[str, tuple[int, ...]]:
    """Return by class folder the indices of its classes among ImageNet's 1,000, ascending."""
    if not (root / "mappings").is_dir():
        raise InputError(
            f"Expected the folders `images` and `mappings` of ObjectNet in {root}, but there is no `mappings`: name "
            "the folder that its archive unpacks to, such as objectnet-1.0."
        )
    titles = _read(root, "folder_to_objectnet_label.json")
    shared = _read(root, "objectnet_to_imagenet_1k.json")
    known = imagenet_lemmas()
    found = {}
    for folder, title in titles.items():
        if title in shared:
            names = [name.strip() for name in shared[title].split(";")]
            for name in names:
                if len(known.get(name, ())) != 1:
                    raise InputError(f"Expected names of one class of ImageNet's each, but {root} has {name!r}.")
            found[folder] = tuple(sorted({known[name][0] for name in names}))
    if len(found) != len(shared) or not found:
        lacking = next(iter(sorted(set(shared) - set(titles.values()))), "any")
        raise InputError(f"Expected a folder for each class of {root / 'mappings'}, but {lacking!r} has none.")
    every = [index for group in found.values() for index in group]
    if len(set(every)) < len(every):
        raise InputError(f"Expected the classes of {root / 'mappings'} to share none of ImageNet's, but some do.")
    return found


def _read(root: Path, name: str) -> dict[str, str]:
    path = existing_file(root / "mappings" / name)
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"Expected JSON in {path}, but it is none: {error}.") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InputError(f"Expected {path} to map names to names.")
    return found
