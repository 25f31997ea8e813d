"""The protocols that ship, told without importing them, and the families that they are of."""

from dataclasses import dataclass

from statshift._core.registry import Entry, registry

SOURCE = "source"
"""What rows call the model as it is."""


@dataclass(frozen=True)
class Family:
    """Protocols that are alike in what they adapt on and what they leave.

    Attributes:
        name: name of the family.
        kind: what a record calls it.
        adapts_on: "none", "few" images, which can be held out, a "stream", or "all" images.
        written: whether it leaves statistics that can be written as weights of the same architecture.
    """

    name: str
    kind: str
    adapts_on: str
    written: bool = False

    @property
    def drawn(self) -> bool:
        """Whether there are images, or an order of them, to draw, so that draws can be repeated."""
        return self.adapts_on in ("few", "stream")


UNTOUCHED, RULES, ADAPTERS, STREAMS, WHOLE = (
    "the model as it is",
    "statistics of a few images",
    "model of a few images",
    "stream",
    "whole set",
)

FAMILIES = {
    family.name: family
    for family in (
        Family(UNTOUCHED, "source", "none"),
        Family(RULES, "layers", "few", written=True),
        Family(ADAPTERS, "model", "few"),
        Family(STREAMS, "stream", "stream"),
        Family(WHOLE, "full", "all", written=True),
    )
}
"""The families by name."""

FEW_KINDS = tuple(family.kind for family in FAMILIES.values() if family.adapts_on == "few")
"""What records call those whose images can be held out."""

DRAWN_KINDS = tuple(family.kind for family in FAMILIES.values() if family.drawn)
"""What records call those that draw."""

WRITTEN_KINDS = tuple(family.kind for family in FAMILIES.values() if family.written)
"""What records call those that leave statistics."""

_PLACE = "statshift.adapting.protocols"

PROTOCOLS = registry(
    Entry(SOURCE, UNTOUCHED, "the model as it is, beside which all others are measured", f"{_PLACE}.source:Source"),
    Entry("auto", RULES, "as far as evidence goes; derived in docs/auto.md", f"{_PLACE}.auto:Auto"),
    Entry("replace", RULES, "Benz et al., WACV 2021, section 4", f"{_PLACE}.replace:Replace"),
    Entry(
        "prior", RULES, "Schneider et al., NeurIPS 2020, section 3", f"{_PLACE}.prior:Prior", options=("prior_count",)
    ),
    Entry(
        "batch",
        STREAMS,
        "Nado et al., 2020: each batch by its own statistics",
        f"{_PLACE}.batch:Batch",
    ),
    Entry(
        "running",
        STREAMS,
        "an exponential average of the batches' statistics",
        f"{_PLACE}.running:Running",
        options=("momentum",),
    ),
    Entry(
        "full",
        WHOLE,
        "Li et al., 2016: the whole set's statistics, exactly",
        f"{_PLACE}.full:Full",
    ),
    Entry("tent", STREAMS, "Wang et al., ICLR 2021", f"{_PLACE}.tent:Tent", options=("learning_rate",)),
    Entry(
        "eta",
        STREAMS,
        "Niu et al., ICML 2022, without weights of Fisher",
        f"{_PLACE}.eta:Eta",
        options=("learning_rate",),
    ),
    Entry(
        "eata", STREAMS, "Niu et al., ICML 2022; needs clean images", f"{_PLACE}.eata:Eata", options=("learning_rate",)
    ),
    Entry("sar", STREAMS, "Niu et al., ICLR 2023", f"{_PLACE}.sar:Sar", options=("learning_rate",)),
    Entry("roid", STREAMS, "Marsden et al., WACV 2024", f"{_PLACE}.roid:Roid", options=("learning_rate",)),
    Entry(
        "rdumb",
        STREAMS,
        "Press et al., NeurIPS 2023: eta, reset now and then",
        f"{_PLACE}.rdumb:Rdumb",
        options=("steps",),
    ),
    Entry(
        "lame",
        STREAMS,
        "Boudiaf et al., CVPR 2022: answers that neighbours agree on",
        f"{_PLACE}.lame:Lame",
        options=("neighbours",),
    ),
    Entry(
        "t3a",
        STREAMS,
        "Iwasawa & Matsuo, NeurIPS 2021: prototypes in the classifier's place",
        f"{_PLACE}.t3a:T3A",
        options=("supports",),
    ),
    Entry(
        "views",
        STREAMS,
        "Mirza et al., CVPR 2022, without looking at labels: views of each image",
        f"{_PLACE}.views:Views",
        options=("views",),
    ),
    Entry(
        "realistic",
        STREAMS,
        "Su et al., AAAI 2024: a prior for each layer",
        f"{_PLACE}.realistic:Realistic",
        options=("momentum",),
    ),
    Entry(
        "memo",
        STREAMS,
        "Zhang et al., NeurIPS 2022: one step for each image, forgotten after it",
        f"{_PLACE}.memo:Memo",
        options=("step_size",),
    ),
)
"""The protocols by name."""

WRITABLE = tuple(name for name, entry in PROTOCOLS.items() if FAMILIES[entry.family].written)
"""Those that `statshift rectify` writes."""


RULE_NAMES = tuple(name for name, entry in PROTOCOLS.items() if entry.family == RULES)
"""Those that rewrite statistics in one forward."""


def listed(names: tuple[str, ...]) -> str:
    """Return names as a choice: "auto, replace or prior"."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def spelled(*names: str) -> str:
    """Return how names are given, with their numbers: "auto, prior[:COUNT]"; by default of all but the source."""
    return ", ".join(
        name + "".join(f"[:{option.rpartition('_')[2].upper()}]" for option in PROTOCOLS[name].options)
        for name in names or [name for name in PROTOCOLS if name != SOURCE]
    )
