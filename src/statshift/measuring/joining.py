"""Results of batches, put together and brought to the CPU."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift.tasks.task import Results


def of_type(results: Results, fields: Iterable[Tensor]) -> Results:
    """Return fields as a tuple of the type of others, named or not."""
    made: Results = getattr(type(results), "_make", tuple)(fields)
    return made


def joined(parts: Sequence[Results]) -> Results:
    """Return named tuples of tensors (B,...) as one, end to end."""
    return of_type(parts[0], map(torch.cat, zip(*parts, strict=True)))


def on_host(found: Sequence[tuple[NDArray[np.int64], Results]]) -> list[tuple[NDArray[np.int64], Results]]:
    """Return the results of batches, each with its positions, on the CPU, by one transfer of each field for all."""
    if not found:
        return []
    sizes = [len(positions) for positions, _ in found]
    fields = [field.cpu().split(sizes) for field in joined([one for _, one in found])]
    return [(found[k][0], of_type(found[k][1], one)) for k, one in enumerate(zip(*fields, strict=True))]
