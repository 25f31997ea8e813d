"""Processes that start warm: forks of one that has imported torch and the library, which costs each 3 s otherwise.

Each has an environment, an output and an end of its own, and can be killed. Nothing that is about torchrun, or about
how Python starts, belongs here.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["statshift.cli.measure", "statshift.measuring.measure", "statshift.hardening.harden", "sklearn.datasets", "timm"]
)


def start(*words, file=None, **variables):
    """Start `statshift WORDS` on one thread, or a file with these words, and return its process."""
    streams = tempfile.TemporaryDirectory()
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    process = FORKS.Process(target=_live, args=([*map(str, words)], file, environment, streams.name))
    process.start()
    process.streams = streams
    return process


def _live(words, file, environment, streams):
    os.environ.clear()
    os.environ.update(environment)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{streams}/{name}", os.O_WRONLY | os.O_CREAT), stream)
    torch.set_num_threads(1)
    sys.argv[1:] = words
    try:
        if file is None:
            runpy.run_module("statshift", run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(file).parent))
            runpy.run_path(str(file), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a fork ends without them


def end(process, timeout=240):
    """Wait until a process ends, and return how, as `subprocess.run` does."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired(str(process), timeout)
    out, err = ((Path(process.streams.name) / name).read_text() for name in ("out", "err"))
    process.streams.cleanup()
    return subprocess.CompletedProcess(process.name, process.exitcode, out, err)


def run(*words, count=1, timeout=240, **more):
    """Run in so many processes that know each other as torchrun's do, and return how the first ended."""
    started = start_together(count, *words, **more)
    try:
        ended = [end(process, timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    assert {one.returncode for one in ended[1:]} <= {ended[0].returncode}, [one.stderr for one in ended]
    return ended[0]


def start_together(count, *words, **more):
    """Start so many processes that know each other as torchrun's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [start(*words, **more, **(group | rank if count > 1 else {})) for rank in ranks]
