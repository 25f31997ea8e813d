"""The C library's habits with large blocks of memory."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of mallopt's settings, from malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next tensor instead of handing them to the kernel.

    PyTorch takes its CPU tensors from malloc, and glibc maps each large one afresh: the page faults cost more than
    many of the operations. Its threshold for this goes up to 32 MiB only, which a batch of photographs exceeds, so
    nothing is mapped. Does nothing on other systems. It concerns the whole process, so a program calls it, not the
    library.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 << 20)
