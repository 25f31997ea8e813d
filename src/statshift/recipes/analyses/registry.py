"""The analyses that ship, told without importing them."""

from statshift._core.registry import Entry, registry

FIGURE, CARRIED, FACT = "figure", "features", "fact"
"""The families: figures of networks, features that carry over, and what needs no study."""

_PLACE = "statshift.recipes.analyses"

ANALYSES = registry(
    Entry("branches", FACT, "the authors' choice of branch, which is printed", f"{_PLACE}.branches:AUTHORS_CHOICE"),
    Entry("costs", FACT, "the time of a step, see `step_costs`", f"{_PLACE}.times:COSTS"),
    Entry("distances", FIGURE, "how far batch statistics lie apart", f"{_PLACE}.statistics:DISTANCES"),
    Entry(
        "similarities",
        FIGURE,
        "how like clean features those of corrupted images are",
        f"{_PLACE}.statistics:SIMILARITIES",
    ),
    Entry(
        "embedding",
        FIGURE,
        "how well features lie in classes, before and after rectifying",
        f"{_PLACE}.statistics:EMBEDDING",
    ),
    Entry("divergence", FIGURE, "how far apart two data sets lie, layer by layer", f"{_PLACE}.statistics:DIVERGENCE"),
    Entry(
        "transfer",
        CARRIED,
        "how well features extracted from each network serve the others",
        f"{_PLACE}.transfer:TRANSFER",
    ),
    Entry(
        "transfer-robust",
        CARRIED,
        "the same, of adversarially trained networks",
        f"{_PLACE}.transfer:TRANSFER_ROBUST",
    ),
    Entry(
        "decoded",
        CARRIED,
        "how well networks answer images of worst-case features, and of the same features as they are",
        f"{_PLACE}.decoded:DECODED_SETS",
    ),
)
"""What is done in place of training and measuring, by name."""
