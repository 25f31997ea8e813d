"""The rows of a run in the order in which a single process finds them, whichever process finds which when."""

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from statshift.results import Row, Run, row_key
from statshift.results.ahead import Timed, drop_ahead, take_ahead, write_ahead
from statshift.tasks.row import Key


class Ledger:
    """Rows as they are found, kept on the disk at once, and put behind the others when their turn comes.

    Args:
        rows: of earlier sittings.
        order: keys of those that are lacking, in turn.
        ahead: those of them that earlier sittings found before their turn.
        run: where they are put; None on all processes but the first, or where nothing is kept.
        folder: the run directory as this process sees it, if it does.

    Attributes:
        rows: those put so far.
        folder: as given.
        own: what this process found apart from the others.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        order: Iterable[Key],
        ahead: Mapping[Key, Timed],
        run: Run | None,
        folder: Path | None,
    ) -> None:
        self.rows = list(rows)
        self.own: list[Timed] = []
        self._order = deque(order)
        self._ahead = dict(ahead)
        self._run = run
        self.folder = folder

    def add(self, row: Row, timing: dict[str, Any], *, apart: bool = False) -> list[Row]:
        """Add a row that all processes found, or this one `apart`; return the rows whose turn has come."""
        key = row_key(row)
        self._ahead[key] = row, timing
        if apart:
            self.own.append((row, timing))
        if self.folder and (key != self._order[0] if self._run else apart):
            write_ahead(self.folder, row, timing)
        return self.settle()

    def settle(self) -> list[Row]:
        """Put the rows whose turn has come, which other processes may have found, and return them."""
        put: list[Row] = []
        while self._order and (found := self._found(self._order[0])):
            if self._run:
                self._run.append(*found)
                drop_ahead(self._run.path, self._order[0])
            self._order.popleft()
            put.append(found[0])
        self.rows += put
        return put

    def share(self, everyone: Iterable[Iterable[Timed]]) -> list[Row]:
        """Add what every process found, this one's own among it; return the rows whose turn has come."""
        self._ahead |= {row_key(row): (row, timing) for share in everyone for row, timing in share}
        return self.settle()

    def _found(self, key: Key) -> Timed | None:
        if (found := self._ahead.pop(key, None)) is None and self._run:
            return take_ahead(self._run.path, key)
        return found
