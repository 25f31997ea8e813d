"""Data with label maps by spec."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from statshift._core.errors import DataWarning, InputError, unknown
from statshift.data import scene_labels as labels_of
from statshift.data.files import existing_file, existing_folder
from statshift.data.folders import Listing, is_hidden
from statshift.data.maps import INDEX_MODES, MapFiles, stored_indices
from statshift.data.sources import Files, Source

SCENES = {"highway": 1, "new-york": 2}
"""Numbers of the two scenes of SYNTHIA's video sequences that the papers use; 06 and 05 show them again."""

CONDITIONS = ("dawn", "fog", "night", "spring", "winter")
LEFT_FRONT = Path("Stereo_Left") / "Omni_F"
TRAIN_FRAMES, TEST_FRAMES = 900, 500


def seg(rest: str, *, split: str | None = None) -> Source:
    """Return the images below `images` with the label maps below `labels`: the same relative paths, as PNG.

    A label map holds indices, or a palette, of which the indices count. A split is a sub-folder of both.
    """
    root = existing_folder(rest)
    images, maps = existing_folder(root / "images"), existing_folder(root / "labels")
    if split is not None:
        images, maps = _sub_folder(images, split), existing_folder(maps / split)
    paths, others = _images(images)
    stored = {
        path.relative_to(maps).with_suffix(""): path for path in Listing().images(maps) if path.suffix.lower() == ".png"
    }
    names = [path.relative_to(images).with_suffix("") for path in paths]
    orphans = [str(stored[name].relative_to(root)) for name in sorted(stored.keys() - set(names))]
    return _paired(images, paths, [stored.get(name, maps / f"{name}.png") for name in names], orphans=orphans, **others)


def cityscapes(rest: str, *, split: str | None = None) -> Source:
    """Return a split of Cityscapes, by default `val`, with the fine annotations of the 19 classes that are scored.

    They are read from `*_labelIds.png`, or where there are none, from `*_labelTrainIds.png`.
    """
    root = existing_folder(rest)
    images = _sub_folder(existing_folder(root / "leftImg8bit"), split or "val")
    paths, others = _images(images, "_leftImg8bit.png")
    stems = [root / "gtFine" / images.name / path.parent.name / path.stem[: -len("_leftImg8bit")] for path in paths]
    ids, train_ids = ([stem.with_name(f"{stem.name}_gtFine_{kind}.png") for stem in stems] for kind in LABEL_FILES)
    trained = not any(path.is_file() for path in ids) and any(path.is_file() for path in train_ids)
    return _paired(
        images,
        paths,
        train_ids if trained else ids,
        stored_indices if trained else labels_of.cityscapes_ids,
        class_names=tuple(labels_of.CITYSCAPES),
        **others,
    )


LABEL_FILES = ("labelIds", "labelTrainIds")


def gta5(rest: str, *, split: str | None = None) -> Source:
    """Return GTA5, `images` and `labels`, whose colours are those of Cityscapes: its 19 classes, the rest left out.

    A split, `train`, `val` or `test`, is a list of frames, one a line, in NAME.txt, or else in the published
    `split.mat`. Without a split all frames are taken.
    """
    root = existing_folder(rest)
    images, maps = existing_folder(root / "images"), existing_folder(root / "labels")
    paths, others = _images(images)
    if split is not None:
        frames = _gta5_frames(root, split)
        paths = [path for path in paths if path.stem in frames]
        if not paths:
            raise InputError(f"Expected frames of split {split} in {images}, but found none.")
    return _paired(
        images,
        paths,
        [maps / path.relative_to(images).with_suffix(".png") for path in paths],
        labels_of.cityscapes_colours,
        labels_of.COLOUR_MODES,
        class_names=tuple(labels_of.CITYSCAPES),
        **others,
    )


def _gta5_frames(root: Path, split: str) -> set[str]:
    """Return the names of a split's frames, without extensions."""
    listed = root / f"{split}.txt"
    if listed.is_file():
        return {Path(line.strip()).stem for line in listed.read_text().splitlines() if line.strip()}
    if split not in ("train", "val", "test"):
        raise unknown("split", split, ("train", "val", "test"))
    if not (root / "split.mat").is_file():
        raise InputError(
            f"Expected a list of frames {listed}, or the published split.mat beside it, but found neither."
        )
    numbers = import_module("scipy.io").loadmat(root / "split.mat")[f"{split}Ids"]
    return {f"{number:05d}" for number in np.asarray(numbers).reshape(-1).tolist()}


def synthia(rest: str, *, split: str | None = None) -> Source:
    """Return left front views of one of SYNTHIA's video sequences, with the 13 classes of the set.

    The folder is one as published, such as DIR/SYNTHIA-SEQS-01-DAWN, or DIR/highway-dawn and DIR/new-york-fog for those
    of the papers. The test split is 500 frames drawn with seed 0, the training split 900 of the others.

    Differs: which frames the papers drew, and from which of the two recordings of each scene, is not published.
    """
    if split not in (None, "train", "test"):
        raise unknown("split", split, ("train", "test"))
    images = existing_folder(_sequence(rest) / "RGB" / LEFT_FRONT)
    paths, others = _images(images)
    order = np.random.default_rng(0).permutation(len(paths))
    chosen = order[:TEST_FRAMES] if split != "train" else order[TEST_FRAMES : TEST_FRAMES + TRAIN_FRAMES]
    wanted = TRAIN_FRAMES if split == "train" else TEST_FRAMES
    if len(chosen) < wanted:
        warn(
            f"{images} has {len(paths):,} images: {len(chosen):,} are taken, not {wanted:,}.", DataWarning, stacklevel=2
        )
    paths = [paths[index] for index in sorted(chosen.tolist())]
    maps = images.parents[2] / "GT" / "LABELS" / LEFT_FRONT
    return _paired(
        images,
        paths,
        [maps / path.relative_to(images).with_suffix(".png") for path in paths],
        labels_of.synthia_ids,
        labels_of.CHANNEL_MODES,
        class_names=tuple(labels_of.SYNTHIA),
        **others,
    )


def _sequence(rest: str) -> Path:
    """Return the folder of a sequence, also where it is named by scene and condition, as DIR/highway-dawn."""
    place = Path(rest).expanduser()
    scene, _, condition = place.name.rpartition("-")
    if not place.is_dir() and scene in SCENES and condition in CONDITIONS:
        return existing_folder(place.with_name(f"SYNTHIA-SEQS-{SCENES[scene]:02d}-{condition.upper()}"))
    return existing_folder(rest)


def voc(rest: str, *, split: str | None = None) -> Source:
    """Return a split of PASCAL VOC 2012's segmentation, by default `val`: 21 classes, borders of objects left out."""
    root = existing_folder(rest)
    places = [root / "VOCdevkit" / "VOC2012", root / "VOC2012", root]
    place = next((place for place in places if (place / "JPEGImages").is_dir()), root)
    lists = existing_folder(place / "ImageSets" / "Segmentation")
    splits = sorted(path.stem for path in lists.glob("*.txt"))
    if (split or "val") not in splits:
        raise unknown(f"split of {lists},", split or "val", splits)
    names = existing_file(lists / f"{split or 'val'}.txt").read_text().split()
    if not names:
        raise InputError(f"Expected images in {lists / (split or 'val')}.txt, but found none.")
    return _paired(
        place / "JPEGImages",
        [place / "JPEGImages" / f"{name}.jpg" for name in names],
        [place / "SegmentationClass" / f"{name}.png" for name in names],
        class_names=labels_of.VOC,
    )


def _sub_folder(root: Path, name: str) -> Path:
    names = sorted(place.name for place in root.iterdir() if place.is_dir() and not is_hidden(place.name))
    if name not in names:
        raise unknown(f"split of {root},", name, names)
    return root / name


def _images(root: Path, ending: str = "") -> tuple[list[Path], dict[str, Any]]:
    """Return the images in a folder, at any depth, and what else a source says of it."""
    listing = Listing()
    paths = [path for path in listing.images(root) if path.name.endswith(ending)]
    listing.warn(root)
    if not paths:
        raise InputError(f"Expected images in {root}, but found none.")
    return paths, {"ignored": listing.others, "passed_by": len(listing.passed_by)}


def _paired(
    root: Path,
    images: list[Path],
    maps: list[Path],
    values: Callable[[Image.Image], NDArray[np.uint8]] = stored_indices,
    modes: tuple[str, ...] = INDEX_MODES,
    *,
    orphans: list[str] | None = None,
    **others: Any,
) -> Source:
    found = MapFiles(paths=maps, values=values, modes=modes, orphans=tuple(orphans or ()))
    return Files(str(root), paths=images, maps=found, **others)
