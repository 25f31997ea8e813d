"""Progress where no terminal shows a bar, as in a pipe or a log: a line a minute."""

from typing import Any

from rich.progress import Progress, Task, TaskID

from statshift._core.processes import join
from statshift.cli.output import say
from statshift.cli.progress import duration

EVERY = 60.0
"""Seconds between two lines."""


class Lines(Progress):
    """A bar that prints a line a minute instead where it is disabled; of several processes the first prints."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._told = self.get_time()
        self._begun: dict[TaskID, tuple[float, float]] = {}

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Move the bar of a task; see rich."""
        super().update(task_id, **changes)
        if not self.disable:
            return
        now, task = self.get_time(), self.tasks[task_id]
        begun = self._begun.setdefault(task_id, (now, task.completed))  # an earlier sitting may have done some
        if now - self._told >= EVERY:
            self._told = now
            if join()[0] == 0:
                say(_line(task, now - begun[0], task.completed - begun[1]))


def _line(task: Task, seconds: float, done: float) -> str:
    """Return in a line how far a task is, and how long it will take yet by how long `done` took."""
    at = f"{task.description}: " if task.description else ""
    of = "" if task.total is None else f" of {task.total:,.0f}"
    left = "" if task.remaining is None or not done else f", about {duration(seconds * task.remaining / done)} left"
    return f"{at}{task.completed:,.0f}{of} {task.fields['unit']} after {duration(task.elapsed or 0.0)}{left}"
