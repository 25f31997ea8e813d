"""Files and folders, opened or refused in one line."""

from pathlib import Path
from struct import error as StructError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from statshift._core.errors import InputError

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError)
"""What Pillow raises at a damaged image."""


def existing_file(name: str | Path) -> Path:
    """Return the path of a file that exists."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"Expected a file, but '{name}' is not one.")
    return path


def existing_folder(name: str | Path) -> Path:
    """Return the path of a folder that exists."""
    path = Path(name).expanduser()
    if not name or not path.is_dir():
        raise InputError(f"Expected a folder, but '{name}' is not one.")
    return path


def load_array(path: Path) -> Any:
    """Return the array of a .npy file, mapped and not read, or the arrays of an .npz file by name.

    Raises:
        InputError: the file is damaged, or holds pickled objects.
    """
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except Exception as error:  # a damaged file makes NumPy and zipfile raise anything
        reason = str(error).partition("\n")[0]
        raise InputError(f"Cannot read {path}: truncated, or no NumPy arrays ({reason}).") from error


def channels_last(images: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return images (N,H,W,3), whether they came so or as (N,3,H,W)."""
    if images.ndim == 4 and 3 in (images.shape[1], images.shape[3]):
        return images if images.shape[3] == 3 else images.transpose(0, 2, 3, 1)
    raise InputError(f"Expected images (N,H,W,3) or (N,3,H,W) in {path}, but got shape {images.shape}.")
