"""What the rectification paper's recipes share: 32 images, its columns, and networks as it has them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from statshift.adapting.options import AdaptationOptions
from statshift.recipes.measuring import MeasuringRecipe
from statshift.recipes.networks import Network
from statshift.recipes.sources import RECTIFIED, Figures, fraction

AS_THE_PAPER = AdaptationOptions(32, include_adaptation=True)
"""Section 4: a batch of 32 images; its images are evaluated on too."""


PROTOCOL = ("replace",)


NOISE = "gaussian_noise"


ACCURACY, MCE_COLUMN = "corrupted", "mce"


BOTH = (ACCURACY, ACCURACY + RECTIFIED, MCE_COLUMN, MCE_COLUMN + RECTIFIED)
"""The columns of Tables 1 to 5."""


AFTER = (ACCURACY + RECTIFIED, MCE_COLUMN + RECTIFIED)


SPECS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}


SUPPLIED = "Nobody ships these weights: give files of your own, or train them, as by `statshift train`."


def measured(
    name: str,
    title: str,
    where: str,
    networks: Mapping[str, Network],
    published: Mapping[str, Figures | None],
    adaptation: Mapping[str, AdaptationOptions] | None = None,
    **more: Any,
) -> MeasuringRecipe:
    """Return a recipe that measures networks before and after 32 images, as the paper's on CIFAR-10."""
    common: dict[str, Any] = {
        "data": SPECS.get(more.get("data_set", "CIFAR-10"), ""),
        "data_set": "CIFAR-10",
        "protocols": PROTOCOL,
        "adaptation": dict.fromkeys(networks, AS_THE_PAPER) if adaptation is None else adaptation,
        "files": {network.weights: "" for network in networks.values() if network.weights},
    }
    return MeasuringRecipe(name, title, {"rectification": where}, published, networks=networks, **(common | more))


def adapted_to(**changes: Any) -> AdaptationOptions:
    """Return the paper's adaptation with changes."""
    return AdaptationOptions(**{"samples": 32, "include_adaptation": True, **changes})


def pretrained(name: str) -> Network:
    """Return a network of torchvision's with the weights of the paper's time."""
    return Network(f"torchvision:{name}@IMAGENET1K_V1")


def supplied(names: Iterable[str], **arguments: Any) -> dict[str, Network]:
    """Return networks whose weights the user supplies."""
    return {name: Network(f"cifar:{name}", arguments, name) for name in names}


def printed_rows(columns: Sequence[str], **rows: str) -> dict[str, Figures | None]:
    """Return the figures of a table by label, whose rows are as printed."""
    return {label: printed_row(columns, row) for label, row in rows.items()}


def printed_row(columns: Sequence[str], row: str) -> dict[str, float]:
    """Return the figures of a row as printed, in %."""
    return {column: fraction(cell) for column, cell in zip(columns, row.split(), strict=True)}
