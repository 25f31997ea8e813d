"""Which protocol a diagnosis speaks for, and on what that depends, in words."""

from math import sqrt
from typing import TYPE_CHECKING

from statshift.adapting.registry import SOURCE

if TYPE_CHECKING:
    from statshift.adapting.diagnose import Diagnosis

STRONG = 4
"""From this number on, with 32 images, `replace` gains nearly what `auto` does (docs/rectification.md)."""

WEAK = 2
"""Below this number, with 32 images, `replace` loses on average."""

COUNTED = 32
"""How many images `STRONG` and `WEAK` are for."""

FEW_SCENES = 1 / 8
"""Images that count as less than this share of their number are of few scenes."""

FEW_CLASSES = 1 / 3
"""Answers that count as less than this share of the classes that could be among them are of few classes."""

NO_NORMS = "none"
"""What `norms_of` says of a model without any."""


def recommended(found: "Diagnosis") -> str:
    """Return "auto", or "source" for leaving the model alone."""
    return SOURCE if found.norms or found.untrained or found.persisting == 0 else "auto"


def recommendation(found: "Diagnosis") -> str:
    """Return in one to three sentences which protocol to use, and on what that depends; "" of an untrained model."""
    if found.untrained:
        return ""
    if found.norms:
        return _without_statistics(found)
    if found.persisting == 0:
        return "Use no protocol, or `auto` where a shift may come: without one it leaves the model nearly as it is."
    told = [_by_strength(found)]
    if found.effective < FEW_SCENES * found.images:
        told.append(
            f"They count as {found.effective:.1f} different images: take some of more scenes before writing weights."
        )
    elif of_few_classes(found):
        told.append(
            f"The model's answers count as {_classes(found)}: if the images are truly of so few, their content looks "
            "like a shift, so gather images of all classes first; if not, the shift makes it answer so."
        )
    return " ".join(told)


def of_few_classes(found: "Diagnosis") -> bool:
    """Return whether the model sees far fewer classes than could be among so many images."""
    return found.classes > 0 and found.predicted < FEW_CLASSES * min(found.classes, found.images)


def _by_strength(found: "Diagnosis") -> str:
    number = sqrt(1 + max(0.0, found.number**2 - 1) * COUNTED / found.images)  # what so many images would show
    if number >= STRONG:
        return "Use `auto`; `replace` gains from so strong a shift too, but less."
    if number < WEAK:
        return "Use `auto`, which goes only as far as the evidence; `replace` would likely lose."
    return "Use `auto`, which goes as far as the evidence; `replace` gains less, or loses."


def _without_statistics(found: "Diagnosis") -> str:
    if of_few_classes(found):
        return (
            f"Leave it as it is. Its answers count as {_classes(found)}: if each batch is truly of so few, as of "
            "sorted images, `lame` can help, which adjusts answers alone; where all classes come, it loses."
        )
    if found.norms == NO_NORMS:
        return "Leave it as it is: there are no norms either whose weights `tent` or `sar` could train."
    return (
        "Leave it as it is, unless the stream is long and of many classes: then `sar` can train the weights of its "
        "norms, by gradients, and may lose too. Measure it first, with `--stream`."
    )


def _classes(found: "Diagnosis") -> str:
    return f"{found.predicted:.1f} of its {found.classes} classes"
