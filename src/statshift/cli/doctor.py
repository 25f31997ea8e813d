"""`statshift doctor`: what this installation has, what it lacks, and the traps that others fell into."""

import importlib.metadata
import os
import platform
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from statshift._core.cores import usable_cores
from statshift._core.errors import InputError
from statshift._core.files import user_cache
from statshift.cli import options as o
from statshift.cli.output import print_json, print_out

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OK, NOTE, WARNING, BROKEN = "ok", "note", "warning", "broken"
ADDS = {
    "attacks": "AutoAttack, in measure and attack",
    "datasets": "hf-datasets:DIR, folders of Hugging Face's datasets",
    "docs": "what the documentation is built with",
    "test": "what the tests run with",
}
"""What each extra is for, in words."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        topic: what it is about: versions, devices, formats, compiler, data or extras.
        state: "ok"; "note", nothing that is missed until it is used; "warning", slower or other than expected;
            "broken", without which statshift does not work.
        text: in words, with the remedy.
        values: the same for scripts.
    """

    topic: str
    state: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)


def doctor_command(as_json: o.Json = False) -> None:
    """Check versions, devices, number formats, compiler, data and extras, and name the remedy for what is amiss.

    Exits with 1 where something that statshift needs is broken. With --json: the findings.

    Example: statshift doctor
    """
    found = list(findings())
    broken = [one for one in found if one.state == BROKEN]
    if as_json:
        print_json({"ok": not broken, "findings": found})
    else:
        print_out(findings_text(found))
    if broken:
        raise typer.Exit(1)


def findings() -> Iterator[Finding]:
    """Yield all that is found, topic by topic."""
    for check in (_versions, _torchvision, _devices, _formats, _compiler, _data, _extras):
        yield from check()


def findings_text(found: list[Finding]) -> str:
    """Return the findings under their topics, and a line that counts what is amiss."""
    lines: list[str] = []
    topic = ""
    for one in found:
        if one.topic != topic:
            lines += ["", one.topic.capitalize()] if lines else [one.topic.capitalize()]
            topic = one.topic
        lines.append(f"  {one.state:7}  {one.text}")
    counts = {state: sum(one.state == state for one in found) for state in (BROKEN, WARNING)}
    amiss = ", ".join(
        f"{count} {state if state == BROKEN or count == 1 else 'warnings'}" for state, count in counts.items() if count
    )
    return "\n".join([*lines, "", f"{amiss[0].upper()}{amiss[1:]}." if amiss else "Nothing is amiss."])


def _versions() -> Iterator[Finding]:
    for name, own in (("python", platform.python_version()), ("statshift", importlib.metadata.version("statshift"))):
        yield Finding("versions", OK, f"{name} {own}", {"name": name, "version": own})
    for requirement in _requirements():
        name, version = requirement.name, _version(requirement.name)
        values = {"name": name, "version": version, "needed": str(requirement.specifier)}
        if version is None:
            yield Finding("versions", BROKEN, f"{name} is missing: pip install '{requirement}'", values)
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{name} {version}, but {requirement.specifier} is needed: pip install '{requirement}'"
            yield Finding("versions", BROKEN, text, values)
        else:
            yield Finding("versions", OK, f"{name} {version}", values)


def _torchvision() -> Iterator[Finding]:
    """Tell whether torchvision's own operators are there: they are not where its wheel was built for another torch."""
    import torch

    try:
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except Exception as error:  # whatever a torchvision of another build raises
        yield Finding(
            "versions",
            BROKEN,
            f"torchvision does not fit torch {torch.__version__} ({str(error).splitlines()[0][:80]}): install both "
            "from one index, as by pip install --force-reinstall torch torchvision",
        )


def _devices() -> Iterator[Finding]:
    import torch

    threads, cores = torch.get_num_threads(), usable_cores()
    values = {"device": "cpu", "threads": threads, "cores": cores, "memory": _memory()}
    text = f"cpu: {threads} {'thread' if threads == 1 else 'threads'} on {cores} cores" + (
        f", {_gib(values['memory'])}" if values["memory"] else ""
    )
    limit = os.environ.get("OMP_NUM_THREADS")
    if threads < cores and limit:
        yield Finding("devices", WARNING, f"{text}: OMP_NUM_THREADS={limit} leaves cores idle; unset it", values)
    else:
        yield Finding("devices", OK, text, values)
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name, (major, minor) = torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)
        free, total = torch.cuda.mem_get_info(number)
        values = {"device": f"cuda:{number}", "name": name, "capability": f"{major}.{minor}", "memory": total}
        text = f"cuda:{number}: {name}, {_gib(total)}, {_gib(free)} free, capability {major}.{minor}"
        yield Finding("devices", OK, f"{text}, CUDA {torch.version.cuda}", values | {"free": free})
    if torch.cuda.is_available():
        return
    driver, built = shutil.which("nvidia-smi") is not None, torch.version.cuda
    if driver:
        why = f"the driver is older than CUDA {built}" if built else "this torch is built for the CPU only"
        yield Finding("devices", WARNING, f"no GPU is used, though there is an NVIDIA driver: {why}", {"cuda": built})
    else:
        yield Finding("devices", NOTE, f"no GPU; torch is built for {f'CUDA {built}' if built else 'the CPU only'}")


def _formats() -> Iterator[Finding]:
    """Run one small convolution in each number format, by autocast as the models run."""
    import torch

    from statshift.measuring.loading import DTYPES

    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        layer, images = torch.nn.Conv2d(3, 4, 3).to(device), torch.ones(2, 3, 8, 8, device=device)
        for name, dtype in DTYPES.items():
            values = {"device": device, "dtype": name}
            try:
                with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
                    layer(images).sum().item()
            except RuntimeError as error:
                text = f"{device}: {name} does not work ({str(error).splitlines()[0][:80]})"
                yield Finding("formats", NOTE, text, values | {"works": False})
            else:
                yield Finding("formats", OK, f"{device}: {name} works", values | {"works": True})


def _compiler() -> Iterator[Finding]:
    named = os.environ.get("CXX")
    compiler = next(
        (path for name in ([named] if named else ["g++", "clang++", "cl"]) if (path := shutil.which(name))), None
    )
    headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    values = {"compiler": compiler, "python_headers": headers}
    if compiler and headers:
        yield Finding("compiler", OK, f"--compile finds {compiler}", values)
        return
    lacking = "a C++ compiler (g++)" if not compiler else "Python's headers (python3-dev)"
    yield Finding("compiler", NOTE, f"--compile does not work: it needs {lacking}", values)


def _data() -> Iterator[Finding]:
    import torch

    from statshift.shifts.corruptions.frost import find_photographs

    try:
        frost = find_photographs()
        if frost:
            yield Finding("data", OK, f"frost: photographs in {frost}", {"name": "frost", "folder": frost})
        else:
            text = "frost: no photographs, a texture stands in for them: statshift data frost"
            yield Finding("data", WARNING, text, {"name": "frost", "folder": None})
    except InputError as error:
        yield Finding("data", WARNING, f"frost: {error}", {"name": "frost", "folder": None})
    for name, mark in (
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("svhn", "test_32x32.mat"),
    ):
        folder = user_cache(name)
        there = (folder / mark).exists()
        text = f"{name}: in {folder}" if there else f"{name}: not here; its first use downloads it to {folder}"
        yield Finding("data", OK if there else NOTE, text, {"name": name, "folder": folder if there else None})
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub")
    for name, folder, pattern in (
        ("torchvision's weights", Path(torch.hub.get_dir()) / "checkpoints", "*.pth"),
        ("timm's weights", hub.expanduser(), "models--*"),
    ):
        count = len(list(folder.glob(pattern)))
        text = f"{name}: {count} kept in {folder}"
        yield Finding("data", OK if count else NOTE, text, {"name": name, "folder": folder, "count": count})


def _extras() -> Iterator[Finding]:
    for extra in importlib.metadata.metadata("statshift").get_all("Provides-Extra") or []:
        missing = [one.name for one in _requirements(extra) if _version(one.name) is None]
        values = {"name": extra, "missing": missing}
        if missing:
            text = f"{extra}: without {', '.join(missing)}; adds {ADDS.get(extra, extra)}"
            yield Finding("extras", NOTE, f"{text}: pip install 'statshift[{extra}]'", values)
        else:
            yield Finding("extras", OK, f"{extra}: {ADDS.get(extra, 'all there')}", values)


def _requirements(extra: str = "") -> "Iterator[Requirement]":
    """Yield what statshift needs, or what one of its extras adds."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("statshift") or []:
        one = Requirement(text)
        of_extra = one.marker is not None and not one.marker.evaluate({"extra": ""})
        applies = one.marker is None or one.marker.evaluate({"extra": extra})
        if applies and of_extra == bool(extra) and one.name != "statshift":
            one.marker = None
            yield one


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    """Return the memory of the machine in bytes, where the system tells it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _gib(count: Any) -> str:
    return f"{count / 2**30:.1f} GiB"
