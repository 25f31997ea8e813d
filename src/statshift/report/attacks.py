"""The section on attacks and gradients: robust accuracies, and Local Input Gradient Similarity."""

from collections.abc import Sequence

from statshift.report.content import Block, Cell, Column, Section, Table
from statshift.report.reading import damaged
from statshift.report.subjects import Group, Subject
from statshift.report.words import accuracy_cell, count_cell, interval, short

ROBUST = (
    "Robust accuracy is what is left under this attack with these steps: another attack may leave less, so that each "
    "figure is an upper bound of the robustness. A rectified model adapted to the images that attack its source, and "
    "was then attacked itself."
)
LIGS = (
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
    text = [*([ROBUST] if attacked else []), *([LIGS] if similar else [])]
    return Section("attacks", "Attacks and gradients", tuple(text), tuple(blocks))


def _attacks(subjects: Sequence[Subject]) -> Table:
    columns = (
        Column("subject", numeric=False),
        Column("attack", numeric=False),
        Column("steps"),
        Column("robust accuracy", shade="accuracy"),
        Column("95 % interval", numeric=False),
        Column("clean accuracy", shade="accuracy"),
        Column("images"),
    )
    rows = []
    for subject in subjects:
        for name in subject.attacks:
            found = subject.summary["per_shift"][name]
            steps = (subject.record.get("attacks") or {}).get(name, {}).get("steps")
            rows.append(
                (
                    Cell(subject.label),
                    Cell(short(name)),
                    Cell("-") if steps is None else count_cell(steps),
                    accuracy_cell(found["accuracy"]),
                    Cell(interval(found["intervals"][0])),
                    accuracy_cell(subject.summary["clean_accuracy"]),
                    count_cell(subject.images),
                )
            )
    return Table("attacks", "Accuracy under attack, %", columns, tuple(rows))


def _similarities(subjects: Sequence[Subject]) -> Table:
    columns = (
        Column("model", numeric=False),
        Column("perturbation", numeric=False),
        Column("scale", note="of the perturbation, pixels from 0 to 1"),
        Column("LIGS", note="a cosine, from -1 to 1"),
        Column("95 % interval", numeric=False),
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
                        Cell(f"{one['mean']:.3f}", float(one["mean"])),
                        Cell(f"[{low:.3f}, {high:.3f}]"),
                        count_cell(one["images"]),
                        count_cell(one["left_out"]),
                    )
                )
    return Table("ligs", "Local Input Gradient Similarity of the source on the clean images", columns, tuple(rows))
