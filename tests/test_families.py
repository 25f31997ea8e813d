"""Means by family: none is over two families, each against NumPy, in the summary, in tables and on a page."""

import json
import re

import numpy as np
import pytest
import torch

from report_runs import COMMON, adapted_run, better, draw, record_of, rows_of, write_run
from statshift import InputError, load_data, load_model, measure
from statshift.cli.tables import summary_text
from statshift.measuring.run import Measurement
from statshift.metrics.uncertainty import mean_interval
from statshift.report import as_markdown, build_report, commands, tables
from statshift.report.reading import read
from statshift.report.subjects import group
from statshift.results import read_run, summarise
from statshift.results.families import Kinship, kinship_of
from statshift.results.family_rows import FamilyRow, family_rows, is_telling
from statshift.shifts.groups import read_groups
from statshift.shifts.registry import GROUPS
from synthetic_runs import paired_by_hand

HELD_OUT, FILTERS = [("saturate", 3), ("spatter", 3)], [("warm", 0), ("cold", 0), ("grey", 0)]
MIXED = [("clean", 0), ("fog", 3), ("snow", 3), ("fog", 5), ("snow", 5), *HELD_OUT, *FILTERS, ("stylised", 0)]
FAMILIES = {
    "clean": "clean",
    "fog": "corruption",
    "snow": "corruption",
    "saturate": "corruption",
    "spatter": "corruption",
}
FAMILIES |= {"warm": "filter", "cold": "filter", "grey": "filter", "stylised": "style"}
OVER = {
    "corruption": [("fog", 3), ("snow", 3), ("fog", 5), ("snow", 5)],
    "holdout": HELD_OUT,
    "filter": FILTERS,
    "style": [("stylised", 0)],
}
LEFT_OUT = tuple(range(0, 64, 2))


def mixed_bits(seed=0):
    return draw(MIXED, 0.7, seed=seed)


def mixed_run(path, record=None, **changes):
    bits = mixed_bits()
    told = {"shifts": [*FAMILIES], "families": FAMILIES, "severities": [3, 5], "alexnet": None}
    return adapted_run(path, bits, {"auto": better(bits, 0.4)}, LEFT_OUT, record=record_of(**told | changes))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return mixed_run(tmp_path_factory.mktemp("mixed") / "run")


def summary_of(path):
    run = read_run(path)
    return summarise(run.rows, kinship=kinship_of(run.record))["protocols"]


def test_each_family_has_a_mean_of_its_own(mixed):
    """Corruptions are the benchmark's alone: the hold-out ones stand apart."""
    bits, found = mixed_bits(), summary_of(mixed)["source"]["per_family"]
    assert list(found) == [*OVER]
    for name, wanted in OVER.items():
        each = np.mean([bits[one] for one in wanted], axis=0)
        assert found[name]["accuracy"] == pytest.approx(each.mean())
        assert found[name]["interval"] == pytest.approx(mean_interval(each))
        assert found[name]["shifts"] == list(dict.fromkeys(shift for shift, _ in wanted))
        assert found[name]["conditions"] == len(wanted)
        assert "gain" not in found[name]
    assert [one["severities"] for one in found.values()] == [[3, 5], [3], [], []]


def test_the_hardest_shift_is_told(mixed):
    bits, found = mixed_bits(), summary_of(mixed)["source"]["per_family"]
    for name in ("corruption", "holdout", "filter"):
        means = {
            shift: np.mean([bits[one] for one in OVER[name] if one[0] == shift])
            for shift in {one[0] for one in OVER[name]}
        }
        hardest = min(means, key=means.get)
        assert found[name]["hardest"] == {"shift": hardest, "accuracy": pytest.approx(means[hardest])}
    assert "hardest" not in found["style"]


def test_a_family_s_gain_is_over_the_same_images(mixed):
    bits, found = mixed_bits(), summary_of(mixed)["auto"]
    after = better(bits, 0.4)
    for name, wanted in OVER.items():
        changes = [np.delete(after[one].astype(float) - bits[one], LEFT_OUT) for one in wanted]
        differences = np.mean(changes, axis=0)
        gain = found["per_family"][name]["gain"]
        assert gain["accuracy"] == pytest.approx(differences.mean())
        assert gain["interval"] == pytest.approx(paired_by_hand(differences)[:2])
    corruption, some = found["per_family"]["corruption"], found["measured_mean"]
    assert [corruption[name] for name in ("accuracy", "interval", "gain")] == [
        some[name] for name in ("accuracy", "interval", "gain")
    ]


def test_the_whole_benchmark_is_the_family_s_mean(tmp_path):
    conditions = [("clean", 0), *((shift, s) for shift in COMMON for s in range(1, 6)), ("saturate", 1)]
    bits = draw(conditions, 0.7)
    found = summary_of(adapted_run(tmp_path / "run", bits, {"auto": better(bits, 0.4)}))
    one = found["auto"]["per_family"]["corruption"]
    assert (one["conditions"], one["severities"], len(one["shifts"])) == (75, [1, 2, 3, 4, 5], 15)
    assert (one["accuracy"], one["interval"]) == (found["auto"]["mean_accuracy"], found["auto"]["mean_interval"])
    assert one["gain"]["accuracy"] == found["auto"]["gain"]["mean_accuracy"]
    assert one["accuracy"] == pytest.approx(
        np.mean([np.delete(better(bits, 0.4)[one], LEFT_OUT) for one in conditions[1:-1]])
    )


def test_a_record_of_old_tells_no_families(tmp_path):
    """What ships is known by its name; all else is the user's own."""
    path = mixed_run(tmp_path / "run", families=None)
    found = summary_of(path)["source"]["per_family"]
    own = {"corruption": ["fog", "snow"], "holdout": ["saturate", "spatter"], "style": ["stylised"]}
    assert {name: one["shifts"] for name, one in found.items()} == own | {"own": ["warm", "cold", "grey"]}


SETS = [("sketch", 0), ("renditions", 0), ("clean of renditions", 0), ("instagram/warm", 0), ("instagram/cold", 0)]


def rows_with_sets(images=(40, 30, 30, 60, 60)):
    """Return rows of a run of 160 images and five sets, in which half of the images and one more by set are right."""
    rows = rows_of(draw([("clean", 0), ("warm", 0), ("fog", 3)], 0.7))
    for place, ((shift, severity), count) in enumerate(zip(SETS, images, strict=True)):
        right = np.arange(count) < count // 2 + place
        rows += [{**row, "set": f"set{place}"} for row in rows_of({(shift, severity): right})]
    return rows


KIN = Kinship(
    dict.fromkeys(("sketch", "renditions", "clean of renditions"), "natural")
    | dict.fromkeys(("warm", "instagram/warm", "instagram/cold"), "filter"),
    beside={"renditions": "clean of renditions"},
)


def test_natural_sets_stand_alone_beside_the_clean_images_of_their_classes():
    found = summarise(rows_with_sets(), kinship=KIN)["protocols"]["source"]
    assert list(found["per_set"]) == ["sketch", "renditions"]
    sketch, renditions = found["per_set"].values()
    assert (sketch["images"], sketch["accuracy"], sketch["family"]) == (40, 0.5, "natural")
    assert sketch["interval"] == pytest.approx(mean_interval(np.arange(40) < 20))
    assert "beside" not in sketch
    assert (renditions["images"], renditions["accuracy"]) == (30, pytest.approx(16 / 30))
    assert renditions["beside"]["shift"] == "clean of renditions"
    assert renditions["beside"]["accuracy"] == pytest.approx(17 / 30)
    assert renditions["beside"]["interval"] == pytest.approx(mean_interval(np.arange(30) < 17))


def test_a_collection_of_sets_has_a_mean_image_by_image():
    """It is no part of the mean of the filters that are made here, nor has it an interval of unequal sets."""
    found = summarise(rows_with_sets(), kinship=KIN)["protocols"]["source"]["per_family"]
    assert {name: one["shifts"] for name, one in found.items()} == {
        "corruption": ["fog"],
        "filter": ["warm"],
        "filter (instagram)": ["instagram/warm", "instagram/cold"],
    }
    warm, cold = np.arange(60) < 33, np.arange(60) < 34
    one = found["filter (instagram)"]
    assert one["accuracy"] == pytest.approx(67 / 120)
    assert one["interval"] == pytest.approx(mean_interval((warm.astype(float) + cold) / 2))
    unequal = summarise(rows_with_sets((40, 30, 30, 60, 50)), kinship=KIN)["protocols"]["source"]["per_family"]
    assert unequal["filter (instagram)"]["accuracy"] == pytest.approx((33 / 60 + 29 / 50) / 2)
    assert unequal["filter (instagram)"]["interval"] is None


def test_groups_have_means_within_a_family(tmp_path):
    """A group over several families has one mean for each."""
    groups = {"night": ["fog", "saturate"], "odd": ["snow", "warm", "cold"], "gone": ["frost"]}
    found = summary_of(mixed_run(tmp_path / "run", groups=groups))["source"]["per_group"]
    bits = mixed_bits()
    assert {name: one["shifts"] for name, one in found.items()} == {
        "night": ["fog", "saturate"],
        "odd (corruption)": ["snow"],
        "odd (filter)": ["warm", "cold"],
    }
    night = np.mean([bits[one] for one in (("fog", 3), ("fog", 5), ("saturate", 3))])
    assert found["night"]["accuracy"] == pytest.approx(night)


# Lines of a table


def test_the_terminal_has_a_line_for_each_family(mixed):
    found = summary_of(mixed)
    summary = {"images": 160, "relative_to": None, "protocols": found}
    _, text = summary_text(summary).split("Accuracy in % by family", 1)
    lines = [re.split(r"\s{2,}", line) for line in text.split("\n\n")[1].splitlines()]
    assert lines[0] == ["family", "shifts", "severities", "source", "auto", "gain", "hardest (source)"]
    cells = {line[0]: line[1:] for line in lines[2:]}
    assert list(cells) == ["corruption", "held-out corruption", "filter", "style"]
    assert [line[:2] for line in cells.values()] == [["2", "3, 5"], ["2", "3"], ["3", "-"], ["stylised", "-"]]
    one = found["auto"]["per_family"]["filter"]
    low, high = one["gain"]["interval"]
    assert cells["filter"][4] == f"{100 * one['gain']['accuracy']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    hardest = found["source"]["per_family"]["filter"]["hardest"]
    assert cells["filter"][5] == f"{hardest['shift']} {100 * hardest['accuracy']:.1f}"
    assert cells["style"][5] == "-"


def test_what_is_over_other_conditions_has_a_line_of_its_own():
    """A mean over two corruptions does not stand beside one over three."""
    protocols = [{"per_family": {"corruption": told(names)}} for names in (["fog", "snow"], ["fog", "snow", "frost"])]
    rows = family_rows([*protocols, protocols[0]])
    assert [[one and len(one["shifts"]) for one in row.found] for row in rows] == [[2, None, 2], [None, 3, None]]
    assert [row.label for row in rows] == ["corruption"] * 2
    assert not is_telling(family_rows(protocols[:1]))


def told(names):
    return {"shifts": names, "severities": [3], "conditions": len(names), "accuracy": 0.5, "interval": [0.4, 0.6]}


@pytest.mark.parametrize(
    ("severities", "text"), [((), "-"), ((2,), "2"), ((1, 2), "1, 2"), ((1, 3, 5), "1, 3, 5"), ((2, 3, 4), "2 to 4")]
)
def test_severities_in_short(severities, text):
    assert FamilyRow("filter", "per_family", ("warm",), severities, ()).levels == text


def test_sets_stand_alone_in_the_terminal():
    text = summary_text(summarise(rows_with_sets(), kinship=KIN))
    lines = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    place = next(number for number, line in enumerate(lines) if line[0] == "natural: renditions")
    assert [line[:4] for line in lines[place - 1 : place + 2]] == [
        ["natural: sketch", "40 images", "-", "50.0 [35.2, 64.8]"],
        ["natural: renditions", "30 images", "-", "53.3 [36.1, 69.8]"],
        ["clean, the classes of renditions", "30 images", "-", "56.7 [39.2, 72.6]"],
    ]


def test_the_score_of_another_task_stands_in_the_table(mixed):
    """As a summary of another headline is renamed to accuracies and back in words."""
    found = summary_of(mixed)
    renamed = json.loads(json.dumps(found).replace("accuracy", "score"))
    summary = {"images": 160, "relative_to": None, "headline": "score", "protocols": renamed}
    text = summary_text(summary)
    assert "Score in % by family" in text
    same = summary_text(summary | {"headline": "accuracy", "protocols": found})
    assert text.lower().replace("score", "accuracy") == same.lower()


def test_a_measurement_prints_its_families(mixed):
    run = read_run(mixed)
    text = repr(Measurement(run.record, run.rows, {"images": 160, "relative_to": None, "protocols": summary_of(mixed)}))
    lines = [re.split(r"\s{2,}", line) for line in text.split("\n\n")[1].splitlines()]
    assert lines[0] == ["family", "shifts", "severities", "source", "auto"]
    means = [one["per_family"]["filter"]["accuracy"] for one in summary_of(mixed).values()]
    assert ["filter", "3", "-", *(f"{100 * mean:.1f}" for mean in means)] in lines


# On a page


def by_family(*paths):
    (table,) = [one for one in tables(build_report([*paths])) if one.name == "by-family-1"]
    head = [column.label for column in table.columns]
    return {line[0].text: dict(zip(head, (cell.text for cell in line), strict=True)) for line in table.rows}


def test_a_page_has_the_table_by_family(mixed):
    found, rows = summary_of(mixed), by_family(mixed)
    assert list(rows) == ["clean", "corruption", "held-out corruption", "filter", "style"]
    one = found["auto"]["per_family"]["filter"]
    assert rows["filter"]["source"] == f"{100 * found['source']['per_family']['filter']['accuracy']:.1f}"
    assert rows["filter"]["auto"] == f"{100 * one['accuracy']:.1f}"
    assert rows["filter"]["gain of auto"] == f"{100 * one['gain']['accuracy']:+.1f}"
    bits = mixed_bits()
    clean = np.delete(better(bits, 0.4)["clean", 0].astype(float) - bits["clean", 0], LEFT_OUT)
    assert rows["clean"]["gain of auto"] == f"{100 * clean.mean():+.1f}"
    low, high = one["gain"]["interval"]
    assert f"[{100 * low:+.1f}, {100 * high:+.1f}]" in as_markdown(tables(build_report([mixed])))
    assert [rows[name]["over"] for name in ("clean", "corruption", "filter", "style")] == [
        *("-", "2 at severities 3, 5", "3 shifts", "stylised"),
    ]
    hardest = found["source"]["per_family"]["holdout"]["hardest"]
    assert rows["held-out corruption"]["hardest"] == f"{hardest['shift']} ({100 * hardest['accuracy']:.1f})"


def test_runs_stand_beside_each_other_where_they_share_a_family(mixed, tmp_path):
    """The gain is over the reference; of other corruptions the mean stands in a line of its own, with the first's."""
    bits, some = mixed_bits(), [("clean", 0), ("fog", 3), *FILTERS]
    hardened = {one: better(bits, 0.3, seed=5)[one] for one in some}
    record = record_of(model={"weights_hash": "b"}, families=FAMILIES, shifts=["clean", "fog", "warm", "cold", "grey"])
    other = write_run(tmp_path / "hardened", record | {"severities": [3], "alexnet": None}, rows_of(hardened))
    (table,) = [one for one in tables(build_report([mixed, other])) if one.name == "by-family-1"]
    head = [column.label for column in table.columns]
    lines = [dict(zip(head, (cell.text for cell in line), strict=True)) for line in table.rows]
    (fog,) = [line for line in lines if line["over"] == "fog at severity 3"]
    (filters,) = [line for line in lines if line["family"] == "filter"]
    (both,) = [line for line in lines if line["over"] == "2 at severities 3, 5"]
    for line, wanted in ((fog, [("fog", 3)]), (filters, FILTERS)):
        means = [np.mean([side[one] for one in wanted]) for side in (bits, hardened)]
        assert line["run"] == f"{100 * means[0]:.1f}"
        assert line["hardened"] == f"{100 * means[1]:.1f}"
        assert line["gain of hardened"] == f"{100 * (means[1] - means[0]):+.1f}"
    assert (both["hardened"], both["gain of hardened"]) == ("-", "-")


def test_a_page_of_common_corruptions_needs_no_table(tmp_path):
    bits = draw([("clean", 0), ("fog", 3), ("snow", 3)], 0.7)
    page = build_report(write_run(tmp_path / "run", record_of(), rows_of(bits)))
    assert "families" not in [section.name for section in page.sections]


def test_a_page_tells_sets_alone(tmp_path):
    sets = {name: {"images": count} for (name, _), count in zip(SETS, (40, 30, 30, 60, 60), strict=True)}
    sets["renditions"]["beside"] = "clean of renditions"
    record = record_of(families=KIN.families, sets=sets)
    rows = by_family(write_run(tmp_path / "run", record, rows_with_sets()))
    assert (rows["natural: renditions"]["source"], rows["natural: renditions"]["over"]) == ("53.3", "30 images")
    assert rows["clean, the classes of renditions"]["source"] == "56.7"
    assert rows["filter (instagram)"]["source"] == "55.8"
    assert rows["filter (instagram)"]["hardest"] == "instagram/warm (55.0)"


def test_two_lists_of_one_family_have_a_mean_each(monkeypatch):
    """As the two of C-bar, which share some of their corruptions; one alone, or a part of it, is the family."""
    monkeypatch.setitem(GROUPS, "first list", ("a", "b"))
    monkeypatch.setitem(GROUPS, "second list", ("b", "c"))
    kinship = Kinship(dict.fromkeys("abc", "c-bar"))
    bits = draw([("clean", 0), ("a", 1), ("b", 1), ("c", 1)], 0.7)
    both = summarise(rows_of(bits), kinship=kinship)["protocols"]["source"]["per_family"]
    assert {name: one["shifts"] for name, one in both.items()} == {"first list": ["a", "b"], "second list": ["b", "c"]}
    assert both["second list"]["accuracy"] == pytest.approx(np.mean([bits["b", 1], bits["c", 1]]))
    one = summarise(rows_of(bits)[:3], kinship=kinship)["protocols"]["source"]["per_family"]
    assert {name: found["shifts"] for name, found in one.items()} == {"c-bar": ["a", "b"]}


# Groups in a file


def darker(images):
    return images * 0.5


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return load_model(TinyNetwork(), mean=(0, 0, 0), std=(1, 1, 1)), load_data("digits", limit=20)


class TinyNetwork(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 10, 5), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_groups_of_a_file_are_shifts_and_lines(small, tmp_path):
    (tmp_path / "mine.py").write_text("def darker(images):\n    return images * 0.5\n")
    mine = f"py:{tmp_path / 'mine.py'}:darker"
    (tmp_path / "groups.json").write_text(
        json.dumps({"night": ["contrast", "fog", mine], "dark": [mine], "far": ["snow"]})
    )
    (tmp_path / "groups.yaml").write_text(f"night: [contrast, fog, '{mine}']\ndark:\n  - '{mine}'\nfar: [snow]\n")
    both = [
        measure(*small, shifts=["clean", "night", "dark"], severities=[1], groups=tmp_path / f"groups.{kind}")
        for kind in ("json", "yaml")
    ]
    plain = measure(*small, shifts=["clean", "contrast", "fog", {"darker": darker}], severities=[1])
    for found in both:
        assert [row["shift"] for row in found.rows] == ["clean", "contrast", "fog", "darker"]
        assert found.rows == plain.rows
        assert found.record["groups"] == {"night": ["contrast", "fog", "darker"], "dark": ["darker"]}
        assert found.record["asked"]["groups"].startswith(str(tmp_path))
        groups = found.summary["protocols"]["source"]["per_group"]
        assert {name: one["shifts"] for name, one in groups.items()} == {
            "night (corruption)": ["contrast", "fog"],
            "night (own)": ["darker"],
            "dark": ["darker"],
        }
        assert "group night (corruption)" in repr(found)
    assert "groups" not in plain.record


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_a_group_has_a_line_where_its_shifts_are_measured_by_their_names(small, tmp_path):
    """And a later sitting, whose groups are others, goes on with the run."""
    asked = {"shifts": ["clean", "fog", "snow"], "severities": [1], "out": tmp_path / "run", "examples": 0}
    first = measure(*small, groups={"white": ["snow", "frost", "fog"]}, **asked)
    assert first.summary["protocols"]["source"]["per_group"]["white"]["shifts"] == ["fog", "snow"]
    again = measure(*small, groups={"grey": ["fog", {"darker": darker}]}, **asked)
    assert again.rows == first.rows
    assert list(again.record["groups"]) == ["white", "grey"]
    assert list(again.summary["protocols"]["source"]["per_group"]) == ["white", "grey"]


WRONG = {
    "night: fog": "Expected the group 'night' in FILE as a list of shifts, but got 'fog'.",
    "night: []": "Expected the group 'night' in FILE as a list of shifts, but got [].",
    "night: [3]": "Expected the group 'night' in FILE as a list of shifts, but got [3].",
    "3: [fog]": "Expected a name without , : and = for a group in FILE, but got 3.",
    "'a,b': [fog]": "Expected a name without , : and = for a group in FILE, but got 'a,b'.",
    "fog: [snow]": "The name 'fog' is taken by what ships: give the group in FILE another.",
    "common: [snow]": "The name 'common' is taken by what ships: give the group in FILE another.",
    "night: [fogg]": "In the group 'night': Unknown shift 'fogg'",
    "night: [fog]\nnight: [snow]": "FILE is not YAML: the key 'night' stands twice",
    "- fog": "Expected FILE to hold groups, NAME: [SHIFT, ...], but got ['fog'].",
    "far: [snow]": "Expected a group, or a shift of one, in `shifts`; groups are: far.",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_groups_are_told_in_a_line(small, tmp_path, text):
    path = tmp_path / "groups.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as told:
        measure(*small, shifts=["clean", "fog"], severities=[1], groups=path)
    assert str(told.value).replace(str(path), "FILE").startswith(WRONG[text])


def test_the_filter_1977_needs_no_quotes_in_a_file_of_groups(tmp_path):
    (tmp_path / "groups.yaml").write_text("old: [1977, fog]\n")
    assert read_groups(tmp_path / "groups.yaml") == {"old": ["1977", "fog"]}


def test_a_file_of_groups_that_is_not_there(tmp_path):
    (tmp_path / "bad.json").write_text("[1")
    (tmp_path / "list.json").write_text("[1]")
    told = {"none.yaml": "Cannot read the groups", "bad.json": "is not JSON", "list.json": "to hold groups"}
    for name, text in told.items():
        with pytest.raises(InputError, match=text):
            read_groups(tmp_path / name)


def test_the_command_takes_a_file_of_groups(run, tmp_path):
    (tmp_path / "groups.yaml").write_text("night: [contrast, fog]\n")
    words = [
        "measure",
        "--model",
        "cifar:resnet20",
        "--data",
        "digits",
        "--limit",
        20,
        "--shifts",
        "clean,night,holdout",
    ]
    done = run(*words, "--severities", 1, "--groups", tmp_path / "groups.yaml", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert re.search(r"^group night +2 +1 +[\d.]+ \[", done.out, re.MULTILINE)
    report = run("report", tmp_path / "run", "--format", "markdown")
    (line,) = [line for line in report.out.splitlines() if line.startswith("| group night |")]
    assert "| 2 at severity 1 |" in line
    subject = group(read([tmp_path / "run"], None).measured)[0].reference
    assert f"--groups {tmp_path / 'groups.yaml'}" in commands.measure(subject)


@pytest.mark.parametrize(("families", "mean"), [(["filter"] * 3, True), (["filter", "filter", "style"], False)])
def test_filters_alone_have_a_mean_in_the_summary(tmp_path, families, mean):
    """Which is none where they stand beside another family."""
    bits = {one: right for one, right in mixed_bits().items() if one in [("clean", 0), *FILTERS]}
    kinds = {"clean": "clean"} | dict(zip(("warm", "cold", "grey"), families, strict=True))
    page = build_report(write_run(tmp_path / "run", record_of(families=kinds, shifts=[*kinds]), rows_of(bits)))
    figures = {one.label: one.value for one in page.verdicts[0].figures}
    told = {"mean of warm, cold, grey": pytest.approx(np.mean([bits[one] for one in FILTERS]))} if mean else {}
    assert {name: value for name, value in figures.items() if name != "clean accuracy"} == told


def test_a_command_names_groups_that_share_shifts(tmp_path, monkeypatch):
    monkeypatch.setitem(GROUPS, "first list", ("a", "b"))
    monkeypatch.setitem(GROUPS, "second list", ("b", "c"))
    monkeypatch.setitem(GROUPS, "part", ("c",))
    bits = draw([("clean", 0), ("a", 1), ("b", 1), ("c", 1)], 0.7)
    record = record_of(shifts=["clean", "a", "b", "c"], families=dict.fromkeys("abc", "c-bar"))
    path = write_run(tmp_path / "run", record, rows_of(bits))
    subject = group(read([path], None).measured)[0].reference
    assert "--shifts 'clean,first list,second list'" in commands.measure(subject)
