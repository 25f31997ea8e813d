"""How much memory a process and its GPU have held at most."""

import sys
from pathlib import Path

import torch


def peak_memory() -> int | None:
    """Return the most bytes that this process has held in main memory so far; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")  # of Linux, where the figure below is at least that of who started this process
    lines = status.read_text(errors="replace").splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak_device_memory(device: torch.device) -> int | None:
    """Return the most bytes that torch has held on a GPU so far; None of the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
