"""Data with label maps by spec."""

from pathlib import Path
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.data.files import existing_folder
from statshift.data.folders import Listing, is_hidden
from statshift.data.maps import MapFiles, stored_indices
from statshift.data.sources import Files, Source


def seg(rest: str, *, split: str | None = None) -> Source:
    """Return the images below `images` with the label maps below `labels`: the same relative paths, as PNG.

    A label map holds indices, or a palette, of which the indices count. A split is a sub-folder of both.
    """
    root = existing_folder(rest)
    images, labels = existing_folder(root / "images"), existing_folder(root / "labels")
    if split is not None:
        names = sorted(place.name for place in images.iterdir() if place.is_dir() and not is_hidden(place.name))
        if split not in names:
            raise unknown(f"split of {images},", split, names)
        images, labels = images / split, existing_folder(labels / split)
    listing = Listing()
    paths = list(listing.images(images))
    listing.warn(images)
    if not paths:
        raise InputError(f"Expected images in {images}, but found none.")
    stored = {
        path.relative_to(labels).with_suffix(""): path
        for path in Listing().images(labels)
        if path.suffix.lower() == ".png"
    }
    names_of = [path.relative_to(images).with_suffix("") for path in paths]
    return _paired(
        images,
        paths,
        [stored.get(name, labels / f"{name}.png") for name in names_of],
        [str(stored[name].relative_to(root)) for name in sorted(stored.keys() - set(names_of))],
        ignored=listing.others,
        passed_by=len(listing.passed_by),
    )


def _paired(root: Path, images: list[Path], labels: list[Path], orphans: list[str], **others: Any) -> Source:
    maps = MapFiles(paths=labels, values=stored_indices, orphans=tuple(orphans))
    return Files(str(root), paths=images, maps=maps, **others)
