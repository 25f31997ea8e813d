"""`statshift data`: what the library may not ship, and what it keeps."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from statshift._core.errors import InputError
from statshift._core.files import replacing, user_cache
from statshift.cli import options as o
from statshift.cli.output import print_json, say

data_app = typer.Typer()

_SOURCE = "https://raw.githubusercontent.com/hendrycks/robustness/master/ImageNet-C/create_c/"
_CHECKSUMS = (
    "ff9f907860bd7a835d459e32f9d588062b7f61ee267343cc7222b56753a14755",
    "fe211a89b336999c207a852ce05818d4545d0b57c5beadd824b4cc9d9a9b6137",
    "2d0d50b4a9bb213f38b024ef7768731bb83cc08d2f26b5766bbc167cdfa0e504",
    "3f8b91ca1a9fa7167b09e773da53f5ae60d0a1fd88f02a783f6e328a72887f6e",
    "5fc6a19df4a429ba68abdcc8f8a4278d4c9f81c9ccafd2c92ab0c8cf8992ebd2",
)


@data_app.callback()
def _data() -> None:
    """Get data that the library may not ship; remove decoded images that it keeps.

    Example: statshift data frost
    """


@data_app.command("frost")
def frost_command(
    out: Annotated[Path | None, o.out("the photographs; default the user cache, where they are found")] = None,
    source: Annotated[str, typer.Option(help="Address of the folder that holds the photographs.")] = _SOURCE,
    as_json: o.Json = False,
) -> None:
    """Download the five frost photographs, checked by SHA-256.

    With --json: the folder, and each file with its checksum.

    Example: statshift data frost
    """
    from urllib.error import URLError
    from urllib.request import urlopen

    from statshift.shifts.corruptions.frost import FILES

    folder = out or user_cache("frost")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}.") from error
    for name, checksum in zip(FILES, _CHECKSUMS, strict=True):
        target = folder / name
        if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == checksum:
            continue
        say(f"Downloading {name}")
        try:
            with urlopen(f"{source.rstrip('/')}/{name}", timeout=60) as reply:
                content: bytes = reply.read()
        except (URLError, OSError, ValueError) as error:
            raise InputError(
                f"Cannot download {name}: {error}; get it by hand from {source} and put it into {folder}."
            ) from error
        if hashlib.sha256(content).hexdigest() != checksum:
            raise InputError(
                f"{source.rstrip('/')}/{name} is not the photograph expected: its SHA-256 differs; nothing was kept."
            )
        with replacing(target) as partial:
            partial.write_bytes(content)
    if as_json:
        print_json({"folder": folder, "files": dict(zip(FILES, _CHECKSUMS, strict=True))})
    say(f"The frost photographs are in {folder}.")


@data_app.command("clean")
def clean_command(
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of decoded images; default the user cache.", show_default=False),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Remove the decoded images that runs keep in a file; the next run decodes them again.

    With --json: the folder, how many files were removed, and their bytes.

    Example: statshift data clean
    """
    from statshift.data.pixelfile import pixels_folder, remove_pixels

    folder = pixels_folder(cache)
    try:
        removed = [taken for _, taken in remove_pixels(folder)]
    except OSError as error:
        raise InputError(f"Cannot remove decoded images in {folder}: {error.strerror}.") from error
    if as_json:
        print_json({"folder": folder, "files": len(removed), "bytes": sum(removed)})
    files = "1 file" if len(removed) == 1 else f"{len(removed)} files"
    say(f"Removed {files} of decoded images, {sum(removed):,} bytes, from {folder}.")
