"""Shared fixtures."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests of a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")


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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run a command in this process, as its words come from a shell."""
    from statshift import cli
    from statshift._core.errors import DefaultPreprocessingWarning

    def run(*words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["statshift", *map(str, words)])
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.simplefilter("ignore", DefaultPreprocessingWarning)  # as in pyproject.toml
            with pytest.raises(SystemExit) as end:
                cli.main()
        out, err = capsys.readouterr()
        return SimpleNamespace(code=end.value.code or 0, out=out, err=err)

    return run
