"""What `srun` tells a process of the others, in the words of torchrun.

Reference:
    https://slurm.schedmd.com/srun.html, "Output environment variables".
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping

PORTS = range(15000, 25000)
"""Of these a step takes the one of its number, so that two steps on one machine do not meet."""


def launch_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of a process that `srun` started beside others.

    Empty under torchrun and `accelerate launch`, which have set their own; for what a batch script starts itself; and
    for what is typed at a terminal in an interactive allocation, which knows of many tasks, but starts alone.

    Args:
        environment: variables of the process. SLURM_STEP_NUM_TASKS is set by `srun` only, SLURM_NTASKS in the whole
            allocation.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if "WORLD_SIZE" in environment or not tasks.isdigit() or int(tasks) < 2 or "SLURM_PROCID" not in environment:
        return {}
    if "SLURM_PTY_PORT" in environment and sys.stdin is not None and sys.stdin.isatty():
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "localhost"
    numbers = [environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    step = sum(int(number) for number in numbers if number.isdigit())
    found = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": next(spelled_hosts(nodes)),
        "MASTER_PORT": str(PORTS[step % len(PORTS)]),
    }
    return {name: environment.get(name, value) for name, value in found.items()}


def take_launch_variables() -> None:
    """Set for this process what `launch_variables` finds, which whoever reads torchrun's variables then finds."""
    os.environ.update(launch_variables(os.environ))


def spelled_hosts(nodes: str) -> Iterator[str]:
    """Yield the hosts of a node list such as "node[01-03,07],gpu1" in turn: node01, node02, node03, node07, gpu1."""
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        yield from _spelled(part)


def _spelled(part: str) -> Iterator[str]:
    before, bracket, rest = part.partition("[")
    if not bracket:
        yield part
        return
    inside, _, after = rest.partition("]")
    for one in inside.split(","):
        first, _, last = one.partition("-")
        for number in range(int(first), int(last or first) + 1):
            for end in _spelled(after):
                yield f"{before}{number:0{len(first)}d}{end}"
