"""The section on attacks and gradients: robust accuracies, and Local Input Gradient Similarity."""

from collections.abc import Sequence

from statshift.report.content import Block, Cell, Column, Section, Table
from statshift.report.damage import damaged
from statshift.report.subjects import Group, Subject
from statshift.report.words import bounded_cell, count_cell, listed, short

ROBUST = (
    "Robust accuracy is what is left under this attack with these steps: another attack may leave less, so that each "
    "figure is an upper bound of the robustness. A rectified model adapted to the images that attack its source, and "
    "was then attacked itself."
)
LIGS_IN_WORDS = (
    "Local Input Gradient Similarity (LIGS) is the cosine similarity of the loss's gradients at an image and at the "
    "same image slightly perturbed, averaged over images: the closer to 1, the smoother the loss. An image whose "
    "gradient vanishes has none and is left out."
)


def section(groups: Sequence[Group]) -> Section | None:
    """Return the section, or None where neither was measured."""
    subjects = [subject for group in groups for subject in group.subjects]
    attacked = [subject for subject in subjects if subject.attacks]
    similar = [subject for subject in subjects if not subject.adapted and subject.measured.run.ligs]
    blocks: list[Block] = []
    if attacked:
        blocks.append(_attacks(attacked))
    if similar:
        blocks.append(_similarities(similar))
    if not blocks:
        return None
    text = [*([ROBUST] if attacked else []), *([LIGS_IN_WORDS] if similar else [])]
    return Section("attacks", "Attacks and gradients", tuple(text), tuple(blocks))


def _attacks(subjects: Sequence[Subject]) -> Table:
    names = list(dict.fromkeys(name for subject in subjects for name in subject.attacks))
    columns = (
        Column("subject", numeric=False),
        Column("images"),
        Column("clean", shade="accuracy"),
        *(Column(_title(name, subjects), shade="accuracy", note=_steps(name, subjects)) for name in names),
    )
    rows = []
    for subject in subjects:
        per_shift = subject.summary["per_shift"]
        found = [per_shift.get(name) for name in names]
        rows.append(
            (
                Cell(subject.label),
                count_cell(subject.images),
                bounded_cell(subject.summary["clean_accuracy"], subject.summary["clean_interval"]),
                *(bounded_cell(one["accuracy"], one["intervals"][0]) if one else Cell("-") for one in found),
            )
        )
    return Table("attacks", "Accuracy under attack, %", columns, tuple(rows))


def _title(name: str, subjects: Sequence[Subject]) -> str:
    return next(one.title(name) for one in subjects if name in one.attacks)


def _steps(name: str, subjects: Sequence[Subject]) -> str:
    """Return with how many steps an attack was made."""
    records = [(one.record.get("attacks") or {}).get(name, {}).get("steps") for one in subjects]
    found = sorted({int(steps) for steps in records if steps is not None})
    return f"{listed(list(map(str, found)))} steps" if found else ""


def _similarities(subjects: Sequence[Subject]) -> Table:
    columns = (
        Column("model", numeric=False),
        Column("perturbation", numeric=False),
        Column("scale", note="of the perturbation, pixels from 0 to 1"),
        Column("LIGS", note="a cosine, from -1 to 1"),
        Column("images"),
        Column("left out", note="images without a gradient"),
    )
    rows = []
    for subject in subjects:
        with damaged(subject.measured.run.path / "ligs.json"):
            for name, one in subject.measured.run.ligs.items():
                low, high = one["interval"]
                rows.append(
                    (
                        Cell(subject.model),
                        Cell(short(name)),
                        Cell(f"{one['scale']:g}", float(one["scale"])),
                        Cell(f"{one['mean']:.3f}", float(one["mean"]), interval=f"[{low:.3f}, {high:.3f}]"),
                        count_cell(one["images"]),
                        count_cell(one["left_out"]),
                    )
                )
    return Table("ligs", "Local Input Gradient Similarity of the source on the clean images", columns, tuple(rows))
