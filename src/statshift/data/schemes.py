"""Data by spec: what stands behind each `SCHEME:REST`, in the order of the documentation."""

import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from statshift._core.errors import ClassesWarning, DataWarning, InputError, unknown
from statshift._core.files import user_cache
from statshift.data.classes import read_class_map
from statshift.data.files import channels_last, existing_file, existing_folder, load_array
from statshift.data.folders import INTEGERS, Listing, order_classes
from statshift.data.preprocessing import quantise
from statshift.data.sampling import balanced_subset
from statshift.data.sources import EncodedImages, Files, Pixels, Source

DIGITS_TEST = 597


def digits(rest: str, *, split: str | None = None) -> Source:
    """Return scikit-learn's 1797 handwritten digits, enlarged fourfold (bilinear) to 32 px RGB.

    The test split holds 597, class-balanced, drawn with seed 0; the training split the other 1200.
    """
    if rest and split:
        raise InputError(f"Expected one split of digits, but got {rest!r} and {split!r}.")
    split = _split(rest or split)
    load: Any = import_module("sklearn.datasets").load_digits
    bunch = load()
    test = balanced_subset(bunch.target.astype(np.int64), DIGITS_TEST)
    chosen = test if split == "test" else np.setdiff1d(np.arange(len(bunch.target)), test)
    small = torch.from_numpy(bunch.images[chosen])[:, None]
    grey = F.interpolate(small, size=(32, 32), mode="bilinear").mul(255 / 16).round().to(torch.uint8)
    images = grey.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    labels = bunch.target[chosen].astype(np.int64)
    return Pixels("digits", images=images, labels=labels, class_names=tuple("0123456789"))


def cifar(name: str, rest: str, *, split: str | None = None) -> Source:
    """Return `name`, CIFAR-10 or CIFAR-100; downloads it where it is not at hand."""
    dataset = _fetch(name, rest, train=_split(split) == "train")
    labels = np.asarray(dataset.targets, np.int64)
    return Pixels(name, images=dataset.data, labels=labels, class_names=tuple(dataset.classes))


def svhn(rest: str, *, split: str | None = None) -> Source:
    """Return the cropped house numbers; downloads them where they are not at hand."""
    dataset = _fetch("svhn", rest, split=_split(split))
    images, labels = dataset.data.transpose(0, 2, 3, 1), np.asarray(dataset.labels, np.int64)
    return Pixels("svhn", images=images, labels=labels, class_names=tuple("0123456789"))


def folder(rest: str, *, class_map: str | Path | None = None) -> Files:
    """Return the images of a folder: its class folders, sorted, are the labels; a flat folder has none.

    Names that are all integers are sorted as such. Hidden and system files and folders and run directories are passed
    by.
    """
    root = existing_folder(rest)
    listing = Listing()
    flat, folders = listing.top(root)
    images = {name: list(listing.images(root / name)) for name in folders}
    paths = [path for name in folders for path in images[name]]
    if flat and paths:
        raise InputError(f"Expected {root} to hold images or class folders, but it holds both.")
    listing.warn(root)
    if not flat and not paths:
        raise InputError(f"Expected images in {root} or in its class folders, but found none.")
    others: dict[str, Any] = {"ignored": listing.others, "passed_by": len(listing.passed_by)}
    if listing.others > len(flat or paths) / 10:  # a list of labels beside the images is no cause for alarm
        warnings.warn(
            f"{listing.others} files in {root} are ignored: their extensions are no images'.", DataWarning, stacklevel=2
        )
    if flat:
        return Files(str(root), paths=flat, **others)
    if class_map is None:
        names, numbered = order_classes(folders)
        indices = np.arange(len(names))
        if numbered:
            warnings.warn(
                f"The class folders of {root} are sorted as integers: {names[0]} is class 0, {names[-1]} is class "
                f"{len(names) - 1}.",
                ClassesWarning,
                stacklevel=2,
            )
    else:
        names, numbered, indices = folders, False, read_class_map(Path(class_map), folders)
    return Files(
        str(root),
        paths=[path for name in names for path in images[name]],
        labels=np.repeat(indices, [len(images[name]) for name in names]),
        class_names=tuple(names) if class_map is None else None,
        mapped_names=None if class_map is None else _mapped_names(names, indices),
        class_order=INTEGERS if numbered else None,
        **others,
    )


def folders(rest: str, *, class_map: str | Path | None = None) -> Source:
    """Return the images of several folders with the same class folders, those of the first before those of the next."""
    parts = [folder(place.strip(), class_map=class_map) for place in rest.split(",") if place.strip()]
    if len(parts) < 2:
        raise InputError(f"Expected several folders, as folders:DIR,DIR, but got {rest!r}.")
    for part in parts:
        if part.labels is None or part.class_names != parts[0].class_names:
            raise InputError(
                f"Expected the same class folders in {parts[0].place} and {part.place}: make those that lack, empty if "
                "need be."
            )
    places = [Path(part.place).absolute() for part in parts]
    return Files(
        os.path.commonpath(places),
        paths=[path.absolute() for part in parts for path in part.paths],
        labels=np.concatenate([part.labels for part in parts if part.labels is not None]),
        class_names=parts[0].class_names,
        mapped_names=None
        if class_map is None
        else {k: v for part in parts for k, v in (part.mapped_names or {}).items()},
        ignored=sum(part.ignored for part in parts),
        passed_by=sum(part.passed_by for part in parts),
        class_order=parts[0].class_order,
    )


def _mapped_names(names: list[str], indices: np.ndarray) -> dict[int, str]:
    """Return by label the folders that are mapped to it."""
    found: dict[int, list[str]] = {}
    for name, label in zip(names, indices.tolist(), strict=True):
        found.setdefault(label, []).append(name)
    return {label: " or ".join(folders) for label, folders in found.items()}


def npz(rest: str) -> Source:
    """Return the `images` (NHWC or NCHW), or the `jpeg` bytes and `offsets`, of a file; `labels` as they are."""
    path = existing_file(rest)
    arrays = load_array(path)
    names = list(arrays) if isinstance(arrays, dict) else []
    if "images" in names:
        images = quantise(channels_last(arrays["images"], path), str(path))
        return Pixels(str(path), images=images, labels=arrays.get("labels"))
    if "jpeg" in names and "offsets" in names:
        encoded, offsets = arrays["jpeg"], arrays["offsets"]
        if encoded.dtype != np.uint8 or offsets.ndim != 1 or offsets.dtype.kind not in "iu":
            raise InputError(f"Expected `jpeg` in {path} to be uint8 and `offsets` a list of integers.")
        return EncodedImages(str(path), encoded=encoded, offsets=offsets, labels=arrays.get("labels"))
    raise InputError(
        f"Expected {path} to hold `images`, or `jpeg` and `offsets`, but got: {', '.join(names) or 'one array'}."
    )


def _split(split: str | None) -> str:
    if split not in (None, "train", "test"):
        raise unknown("split", split, ("train", "test"))
    return split or "test"


def _fetch(name: str, rest: str, **which: Any) -> Any:
    """Return torchvision's data set from the folder `rest`, by default one in the user's cache."""
    kind: Any = getattr(import_module("torchvision.datasets"), name.upper())
    try:
        return kind(Path(rest).expanduser() if rest else user_cache(name), download=True, **which)
    except (OSError, RuntimeError) as error:
        url = getattr(kind, "url", None) or kind.split_list[which["split"]][0]
        raise InputError(
            f"Cannot download {name}; get {url} by hand, put it into a folder DIR and name it as {name}:DIR."
        ) from error
