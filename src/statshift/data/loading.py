"""Data by spec: from `SCHEME:REST` to images of one size with their labels."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from statshift._core.errors import DataWarning, InputError, unknown
from statshift.data.hf_datasets import hf_datasets
from statshift.data.images import ImageData
from statshift.data.items import gives_maps, read_items
from statshift.data.maps import IGNORE_INDEX, LABEL_VALUES
from statshift.data.natural import NATURAL_SETS, imagenet_c_bar, imagenet_c_bar_shifts, natural
from statshift.data.objectnet import objectnet
from statshift.data.pixelfile import open_pixels
from statshift.data.preprocessing import check_sizes, resolve_preprocessing
from statshift.data.reading import read_headers
from statshift.data.relabelling import relabelled
from statshift.data.sampling import balanced_subset
from statshift.data.scenes import cityscapes, gta5, seg, synthia, voc
from statshift.data.schemes import cifar, digits, folder, folders, npz, svhn
from statshift.data.shards import webdataset
from statshift.data.sources import Header, Pixels, Source
from statshift.data.stored import cifar_c, cifar_c_shifts, imagenet_c, imagenet_c_shifts, stores_clean

NO_FILE = "none"
"""In place of a folder: decoded images go to no file."""

DATA_SCHEMES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "cifar10": partial(cifar, "cifar10"),
    "cifar100": partial(cifar, "cifar100"),
    "svhn": svhn,
    "folder": folder,
    "folders": folders,
    "npz": npz,
    "webdataset": webdataset,
    "hf-datasets": hf_datasets,
    "cifar-c": cifar_c,
    "imagenet-c": imagenet_c,
    **{name: partial(natural, name) for name in NATURAL_SETS},
    "objectnet": objectnet,
    "imagenet-c-bar": imagenet_c_bar,
    "seg": seg,
    "cityscapes": cityscapes,
    "gta5": gta5,
    "synthia": synthia,
    "voc": voc,
}
WITH_LABEL_MAPS = ("seg", "cityscapes", "gta5", "synthia", "voc")
"""Schemes of data with label maps."""

UNNAMED_SPLITS = ("seg", "gta5", "hf-datasets")
"""Schemes with splits of which none is called `train` in general: it is taken only where it is named."""

STORED: dict[str, Callable[[str], dict[str, list[int]]]] = {
    "cifar-c": cifar_c_shifts,
    "imagenet-c": imagenet_c_shifts,
    "imagenet-c-bar": imagenet_c_bar_shifts,
}


def load_data(
    spec: str | Dataset[Any],
    *,
    shift: tuple[str, int] | None = None,
    split: str | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str = "bilinear",
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    class_map: str | Path | None = None,
    workers: int = 0,
    cache_bytes: int = 4 << 30,
    ignore_index: int | None = None,
    label_map: str | Path | None = None,
    cache: str | Path | None = None,
    cache_size: int | None = None,
) -> ImageData:
    r"""Return labelled images, uint8 RGB, by spec: of one size, but where they have label maps.

    Args:
        spec: `digits[:SPLIT]`, `cifar10[:DIR]`, `cifar100[:DIR]`, `svhn[:DIR]`, `folder:DIR`,
            `folders:DIR,DIR`, `npz:FILE`, `webdataset:PATTERN` (tar shards),
            `hf-datasets:DIR[:SPLIT]` (as `save_to_disk` of Hugging Face's `datasets` writes it),
            `cifar-c:DIR`, `imagenet-c:DIR`, one of `NATURAL_SETS` such as `imagenet-r:DIR`,
            `seg:DIR`, `cityscapes:DIR`, `gta5:DIR`, `synthia:DIR`, `voc:DIR`, or a
            torch `Dataset` of (PIL image or tensor (3,H,W), label or labels), or of (image, label map (H,W) as a
            tensor, array or PIL image); floats in [0,1] are rounded to 8 bits.
        shift: (name, severity) of a condition that `cifar-c` or `imagenet-c` stores; None: its clean images.
        split: "train" or "test" of the data sets that have them; default "test". Of `seg` a sub-folder of `images`
            and `labels`, default all; of `cityscapes` and `voc` theirs, default "val"; of `gta5` a list of frames,
            default all; of `hf-datasets` one of its own, no default where there are several.
        resize: length of the shorter side, px; see `resolve_preprocessing` for the default. Label maps are resized
            by the nearest pixel.
        crop: side of the central square, px; likewise.
        interpolation: how Pillow resizes, such as "bilinear".
        limit: take a class-balanced subset of so many images, drawn with `seed`; where there are fewer, all of them,
            with a warning.
        seed: seed of the subset.
        skip_bad: leave out damaged images with a warning instead of raising; this decodes every image once beforehand.
        class_map: file that maps class folders to class indices: JSON {"folder": index}, lines `folder index`, one
            name a line, or as Keras and Hugging Face write it; see `read_class_map`.
        workers: processes that decode.
        cache_bytes: as many decoded images stay in memory as take no more, the first ones, where `cache` takes none;
            the others are decoded in every pass.
        ignore_index: the value of label maps, 0 to 255, that marks pixels which are left out; default 255.
        label_map: file that gives label maps other labels: JSON {"old": new} or lines `old new`, where new may be
            `ignore`; every value that occurs must be there, but for the ignored one.
        cache: folder of a file in which decoded images of one size stay, for other processes and for the next run too,
            and none in memory beside it; "none": no file. Default: a file in the user's cache where the images take
            more than `cache_bytes` or several processes do one job, but none where `cache_bytes` is 0. Images that are
            arrays already, and are neither resized nor cropped, need none.
        cache_size: bytes that all such files in the folder may take, see `open_pixels`; default half of what is free.

    Raises:
        InputError: what is named is not there, cannot be read, or cannot be used.
    """
    name = spec if isinstance(spec, str) else f"{type(spec).__module__}.{type(spec).__qualname__}"
    source = _open(spec, name, {"shift": shift, "split": split, "class_map": class_map})
    _check_source(source, name)
    source, ignored = _with_labels(source, name, ignore_index, label_map)
    orphans = _check_orphans(source, skip_bad)
    indices = np.arange(len(source), dtype=np.int64) if limit is None else _drawn(source, name, limit, seed)
    indices, headers, damaged = _readable(source, indices, skip_bad, workers)
    _warn_of_skipped(damaged + orphans, name)
    sizes, modes = zip(*headers, strict=True)
    labelled = source.maps is not None
    how = resolve_preprocessing(sizes, resize, crop, interpolation, labelled=labelled)
    final = check_sizes([source.name(index) for index in indices.tolist()], sizes, how, equal=not labelled)
    kinds, numbers = np.unique(final, axis=0, return_counts=True)
    height, width = kinds[numbers.argmax()].tolist()
    data = ImageData(
        spec=name,
        source=source,
        indices=indices,
        labels=None if source.labels is None else np.asarray(source.labels[indices], np.int64),
        class_names=source.class_names,
        shape=(3, height, width),
        sizes=final,
        preprocessing=how,
        converted=sum(mode != "RGB" for mode in modes),
        skipped=damaged + orphans,
        workers=workers,
        cache_bytes=cache_bytes,
        class_order=source.class_order,
        ignore_index=ignored,
        skip_bad=skip_bad,
    )
    return kept_in_file(data, cache, cache_size)


def kept_in_file(data: ImageData, cache: str | Path | None, cache_size: int | None) -> ImageData:
    """Return images that are in no file with one where `load_data` says that decoded images go to a file.

    Args:
        data: images.
        cache: as of `load_data`.
        cache_size: likewise.

    Raises:
        InputError: a folder without a name.
    """
    if not _in_file(data, cache):
        return data
    return replace(data, file=open_pixels(data.source, data.indices, data.shape, data.preprocessing, cache, cache_size))


def loading_options(
    spec: Any, given: Mapping[str, Any] | None, own: Mapping[str, Any], *, split: str | None = "train"
) -> dict[str, Any]:
    """Return the arguments of `load_data` to learn from a data set: those given, and what they leave open.

    Args:
        spec: spec of the data, or a data set.
        given: arguments; None is not given.
        own: how a model's authors load a photograph, unless `resize` or `crop` is given or there are label maps.
        split: split of data that have several, unless it is given or named in the spec.
    """
    options = {name: value for name, value in (given or {}).items() if value is not None}
    defaults = {} if {"resize", "crop"} & options.keys() or has_label_maps(spec) else dict(own)
    scheme, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    splits = (
        scheme in DATA_SCHEMES
        and scheme not in UNNAMED_SPLITS
        and "split" in signature(DATA_SCHEMES[scheme]).parameters
    )
    named = scheme == "digits" and rest  # digits:SPLIT
    return defaults | ({"split": split} if splits and split and not named else {}) | options


def has_label_maps(spec: str | Dataset[Any] | ImageData) -> bool:
    """Return whether data have label maps, without loading them: their images are loaded at their own size."""
    if isinstance(spec, str):
        return spec.partition(":")[0] in WITH_LABEL_MAPS
    return spec.has_maps if isinstance(spec, ImageData) else gives_maps(spec)


def check_scheme(spec: str) -> None:
    """Check that a spec begins with a known scheme.

    Raises:
        InputError: it does not.
    """
    scheme = spec.partition(":")[0]
    if scheme not in DATA_SCHEMES:
        raise unknown("data scheme", scheme, DATA_SCHEMES)


def has_clean(spec: str) -> bool:
    """Return whether there are clean images: data that store shifts may hold those alone."""
    scheme, _, rest = spec.partition(":")
    return scheme not in STORED or stores_clean(rest)


def stored_shifts(spec: str | Dataset[Any]) -> dict[str, list[int]]:
    """Return the shifts that the data store, name to severities; empty where shifts are made, not read.

    Raises:
        InputError: a folder that should store shifts is missing or holds none.
    """
    scheme, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if scheme not in STORED:
        return {}
    shifts = STORED[scheme](rest)
    if not shifts:
        raise InputError(f"Expected shifts of the {scheme} layout in {rest}, but found none.")
    return shifts


def _open(spec: str | Dataset[Any], name: str, options: dict[str, Any]) -> Source:
    given = {key: value for key, value in options.items() if value is not None}
    scheme, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if isinstance(spec, str):
        check_scheme(spec)
    taken = signature(DATA_SCHEMES[scheme]).parameters if scheme else {}
    if excess := [key for key in given if key not in taken]:
        raise InputError(f"Expected no `{excess[0]}` for {name}, but got {given[excess[0]]!r}.")
    return DATA_SCHEMES[scheme](rest, **given) if isinstance(spec, str) else read_items(spec, name)


def _with_labels(
    source: Source, name: str, ignore_index: int | None, label_map: str | Path | None
) -> tuple[Source, int]:
    """Return the source with the labels of its maps as asked for, and the value of those that are left out."""
    if source.maps is None:
        for option, value in (("ignore_index", ignore_index), ("label_map", label_map)):
            if value is not None:
                raise InputError(f"Expected no `{option}` for {name}, which has no label maps, but got {value}.")
    ignored = IGNORE_INDEX if ignore_index is None else ignore_index
    if not 0 <= ignored < LABEL_VALUES:
        raise InputError(f"Expected `ignore_index` to be from 0 to {LABEL_VALUES - 1}, but got {ignored}.")
    return (source if label_map is None else relabelled(source, label_map, ignored)), ignored


def _drawn(source: Source, name: str, limit: int, seed: int) -> NDArray[np.int64]:
    """Return the ascending indices of a subset: class-balanced where there are labels that are not maps."""
    if limit > len(source):
        warn(f"`limit` is {limit:,} images, but {name} has {len(source):,}: all are taken.", DataWarning, stacklevel=3)
    return balanced_subset(np.zeros(len(source), np.int64) if source.labels is None else source.labels, limit, seed)


def _readable(
    source: Source, indices: NDArray[np.int64], skip_bad: bool, workers: int
) -> tuple[NDArray[np.int64], list[Header], list[str]]:
    """Return the indices of images that can be read, their headers, and what records call the others.

    Raises:
        InputError: there are others, unless these are to be skipped; or there are no more.
    """
    headers = read_headers(source, indices.tolist(), decode=skip_bad, workers=workers)
    damaged = {int(i): header for i, header in zip(indices, headers, strict=True) if isinstance(header, InputError)}
    if damaged and (not skip_bad or len(damaged) == len(headers)):
        raise next(iter(damaged.values()))
    whole = [header for header in headers if not isinstance(header, InputError)]
    return np.setdiff1d(indices, list(damaged)), whole, [source.label_of(index) for index in damaged]


def _in_file(data: ImageData, cache: str | Path | None) -> bool:
    """Return whether decoded images go to a file; see `load_data`."""
    how = data.preprocessing
    as_they_are = isinstance(data.source, Pixels) and how["resize"] is None and how["crop"] is None
    if cache == "":
        raise InputError(f"Expected `cache` to be a folder, or {NO_FILE!r}, but got ''.")
    if cache == NO_FILE or as_they_are or data.several_sizes:
        return False
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1
    too_many = data.cache_bytes < 3 * int(data.sizes.prod(1).sum())
    return cache is not None or (data.cache_bytes > 0 and (too_many or shared))


def _warn_of_skipped(skipped: list[str], name: str) -> None:
    if skipped:
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        files = (
            "1 file that cannot be used is" if len(skipped) == 1 else f"{len(skipped)} files that cannot be used are"
        )
        warn(f"{files} left out of {name}: {', '.join(skipped[:3])}{more}.", DataWarning, stacklevel=3)


def _check_orphans(source: Source, skip_bad: bool) -> list[str]:
    """Return label maps without an image, where these are to be skipped."""
    orphans = [] if source.maps is None else [*source.maps.orphans]
    if orphans and not skip_bad:
        raise InputError(
            f"Expected an image for each label map, but {orphans[0]} in {source.place} has none; remove it or give "
            "`skip_bad`."
        )
    return orphans


def _check_source(source: Source, name: str) -> None:
    if not len(source):
        raise InputError(f"Expected images in {name}, but it is empty.")
    labels = source.labels
    if labels is None:
        return
    if labels.shape[:1] != (len(source),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"Expected {len(source)} integer labels in {name}, but got {labels.dtype} of shape {labels.shape}."
        )
    if labels.min() < 0:
        raise InputError(f"Expected labels from 0 up in {name}, but got {labels.min()}.")
