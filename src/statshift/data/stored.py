"""Corrupted data on disk, in the two layouts of the benchmark."""

from pathlib import Path

from statshift._core.errors import InputError, unknown
from statshift.data.files import channels_last, existing_file, existing_folder, load_array
from statshift.data.folders import is_hidden
from statshift.data.preprocessing import quantise
from statshift.data.schemes import folder
from statshift.data.sources import Pixels, Source

STORED_GROUPS = ("noise", "blur", "weather", "digital", "extra")
STORED_SEVERITIES = [1, 2, 3, 4, 5]


def cifar_c(rest: str, *, shift: tuple[str, int] | None = None) -> Source:
    """Return one condition of NAME.npy, five severities one after the other; `clean.npy` without a shift."""
    name, severity = _check(shift, cifar_c_shifts(rest), rest)
    path = existing_file(Path(rest).expanduser() / f"{name}.npy")
    images = channels_last(load_array(path), path)
    labels = load_array(existing_file(path.with_name("labels.npy")))
    if shift is not None:
        count, left = divmod(len(images), len(STORED_SEVERITIES))
        if left:
            raise InputError(f"Expected {path} to hold five severities, but got {len(images)} images.")
        images = images[(severity - 1) * count : severity * count]
    return Pixels(str(path), images=quantise(images, str(path)), labels=labels[: len(images)])


def cifar_c_shifts(rest: str) -> dict[str, list[int]]:
    """Return the severities of each shift in a folder of CIFAR-C's layout."""
    names = (path.stem for path in sorted(existing_folder(rest).glob("*.npy")))
    return {name: [*STORED_SEVERITIES] for name in names if name not in ("labels", "clean") and not is_hidden(name)}


def imagenet_c(rest: str, *, shift: tuple[str, int] | None = None, class_map: str | Path | None = None) -> Source:
    """Return one condition, DIR[/GROUP]/NAME/SEVERITY/CLASS/*.JPEG; `clean` without a shift."""
    return folder(str(stored_folder(rest, shift)), class_map=class_map)


def stored_folder(rest: str, shift: tuple[str, int] | None) -> Path:
    """Return the folder of one condition in ImageNet-C's layout; of the clean images without a shift."""
    name, severity = _check(shift, imagenet_c_shifts(rest), rest)
    root = Path(rest).expanduser()
    return root / name if shift is None else _shift_folders(root)[name] / str(severity)


def imagenet_c_shifts(rest: str) -> dict[str, list[int]]:
    """Return the severities of each shift in a folder of ImageNet-C's layout."""
    return {name: _severities(place) for name, place in _shift_folders(existing_folder(rest)).items()}


def _shift_folders(root: Path) -> dict[str, Path]:
    bases = [root, *(root / group for group in STORED_GROUPS if (root / group).is_dir())]
    places = (place for base in bases for place in sorted(base.iterdir()))
    return {place.name: place for place in places if not _is_passed_by(place) and _severities(place)}


def _is_passed_by(place: Path) -> bool:
    return place.name == "clean" or is_hidden(place.name)


def _severities(place: Path) -> list[int]:
    return [severity for severity in STORED_SEVERITIES if (place / str(severity)).is_dir()]


def stores_clean(rest: str) -> bool:
    """Return whether a folder of either layout holds clean images too."""
    return any((Path(rest).expanduser() / name).exists() for name in ("clean", "clean.npy"))


def _check(shift: tuple[str, int] | None, stored: dict[str, list[int]], rest: str) -> tuple[str, int]:
    """Return the name and severity of a stored shift, ("clean", 0) for None; refuse what is not there."""
    if shift is None:
        if not stores_clean(rest):
            raise InputError(f"Expected clean images in {rest}, but it stores only shifts; name one of them.")
        return "clean", 0
    name, severity = shift
    if name not in stored:
        raise unknown(f"shift in {rest},", name, stored)
    if severity not in stored[name]:
        raise InputError(f"Expected `severity` of {name} in {rest} to be one of {stored[name]}, but got {severity}.")
    return name, severity
