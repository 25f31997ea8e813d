"""Shared fixtures."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference figures beside the repository; tests skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with the real data and reference figures is absent")
    return SHARED
