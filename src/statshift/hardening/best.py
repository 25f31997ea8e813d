"""The weights of the epoch with the highest validation score, kept beside those of the last."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from statshift._core import processes
from statshift._core.errors import InputError
from statshift.hardening.validation import LIGS
from statshift.models import save_weights
from statshift.results import write_json_atomically
from statshift.splitting.branches import Branches
from statshift.splitting.cuts import network_of

BEST_WEIGHTS, BEST_NOTE = "best.safetensors", "best.json"


@dataclass(frozen=True)
class Best:
    """Keeps the weights of a branch's best epoch in a folder.

    Attributes:
        folder: where `best.safetensors` is, and `best.json`, which says of which epoch.
        branch: whose score counts: "clean" or "adv".
        header: what is said of the weights in their file.
    """

    folder: Path
    branch: str
    header: Mapping[str, Any]

    def look(self, epoch: int, measured: Mapping[str, Any], branches: Branches) -> None:
        """Keep the weights, if their score is the highest of the epochs from 1 to this one."""
        if processes.join()[0] != 0:
            return
        note = self.folder / BEST_NOTE
        known = json.loads(note.read_text()) if epoch > 1 and note.exists() else {}
        score = score_of_epoch(measured, self.branch)
        if score is None or score <= known.get("score", -1):
            return
        network = network_of(branches.splits[self.branch].model)
        told = {**self.header, "epoch": epoch}
        save_weights(network, self.folder / BEST_WEIGHTS, {"statshift": json.dumps(told)})
        write_json_atomically(note, {"epoch": epoch, "score": score})


def score_of_epoch(measured: Mapping[str, Any], branch: str) -> float | None:
    """Return the mean of a branch's scores under all conditions, 0 where it cannot be measured; None of none."""
    scores = [value or 0.0 for name, value in measured.get(branch, {}).items() if not name.startswith(LIGS)]
    return fmean(scores) if scores else None


def best_epoch(history: Sequence[Mapping[str, Any]], branch: str) -> dict[str, Any]:
    """Return which epoch of a history has the highest score, the first of equals, and the score.

    Raises:
        InputError: nothing was measured.
    """
    scores = [score_of_epoch(epoch.get("validation", {}), branch) for epoch in history]
    known = [(score, -number) for number, score in enumerate(scores, 1) if score is not None]
    if not known:
        raise InputError("Expected `validation`, by which the best epoch is told.")
    score, number = max(known)
    return {"epoch": -number, "score": score, "branch": branch}
