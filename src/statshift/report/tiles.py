"""Pictures of label maps, as plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """A picture: a data: address, what it is, what there is to say of it, and words for who does not see it."""

    source: str
    title: str
    text: str = ""
    words: str = ""


@dataclass(frozen=True)
class Scenes:
    """Rows of pictures, each the same image: what was seen, its true classes, and those that subjects see.

    Attributes:
        name: unique on a page; letters, digits and hyphens.
        title: what they show.
        legend: a picture of each class, titled by its name.
        scenes: each a title and its pictures.
        note: beneath the legend.
    """

    name: str
    title: str
    legend: tuple[Tile, ...]
    scenes: tuple[tuple[str, tuple[Tile, ...]], ...]
    note: str = ""
