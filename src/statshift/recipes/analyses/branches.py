"""The branch that the authors evaluate on each data set: a fact, for which nothing runs."""

from collections.abc import Mapping
from typing import Any

from statshift._core.errors import unknown
from statshift.recipes.analyses.analysis import Analysis, Published
from statshift.recipes.description import Rows

AUTHORS_BRANCH = {
    "imagenet": "clean",
    "imagenet-c": "clean",
    "imagenet-instagram": "clean",
    "imagenet-stylized": "adv",
    "imagenet-advbn": "adv",
    "imagenet-reconstructed": "adv",
}
"""The branch that the authors evaluate on each data set (the ICLR 2021 submission, appendix C)."""


def authors_branch(data_set: str) -> str:
    """Return the branch, "clean" or "adv", that the authors evaluate on a data set; never a silent default.

    Raises:
        InputError: a data set for which they name none.

    Reference:
        Shu et al., the ICLR 2021 submission, appendix C.
    """
    if data_set not in AUTHORS_BRANCH:
        raise unknown("data set", data_set, AUTHORS_BRANCH)
    return AUTHORS_BRANCH[data_set]


def _rows(published: Published, found: Mapping[str, Any]) -> Rows:
    return [["data set", "branch"], *([name, branch] for name, branch in found.items())]


AUTHORS_CHOICE = Analysis(
    run=lambda recipe, options: dict(AUTHORS_BRANCH),
    requires=(),
    cost=lambda count: "nothing",
    expected="clean, or for Stylized-ImageNet and what is made through a decoder adv",
    rows=_rows,
    over=lambda summary, found: f"{summary.capitalize()}.",
)
"""The authors' choice of branch."""
