"""Shared fixtures."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference figures beside the repository; tests skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with the real data and reference figures is absent")
    return SHARED


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keep small networks from waiting for threads, on a machine that does other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
