"""Rows, records and recipes that nobody should trust are told of in one line, at once."""

import base64
import json
import math

import numpy as np
import pytest

from statshift import InputError, read_run
from statshift._core.parsing import parse_json
from statshift.recipes.files import parse_recipe
from statshift.report import build_report
from statshift.results import bits
from synthetic_runs import benchmark_rows, per_image, synthetic_record, synthetic_row


def coded(right):
    return base64.b64encode(np.packbits(right).tobytes()).decode()


@pytest.mark.parametrize("images", [1, 7, 8, 9, 24, 25, 50])
def test_bits_are_of_as_many_images_as_the_row_says(images):
    row = synthetic_row("fog", 1, images=images)
    assert bits(row).tolist() == per_image(row).tolist()
    for other in {8 * math.ceil(images / 8) + 1, 8 * (math.ceil(images / 8) - 1), 10**18, -images, 0, None, "5"}:
        with pytest.raises(InputError, match=r"expected its `bits` to be base64 of a bit for each of .* images"):
            bits(row | {"images": other})


@pytest.mark.parametrize("text", ["!!!!", "", "A", "AAA=\n", "AA AA", "AA==", "ÄÄÄÄ", None, 3, "A" * 4000])
def test_bits_that_are_not_strict_base64_are_refused(text):
    with pytest.raises(InputError, match="A row is damaged"):
        bits({"bits": text, "images": 20})
    assert bits({"bits": coded(np.ones(20, bool)), "images": 20}).all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": [-Infinity]}', "-Infinity is not a finite number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ("[" * 5000 + "]" * 5000, "nested"),
        ("[" * 200_000, "nested"),
        ('{"a": ' * 60 + "0" + "}" * 60, "nested deeper than 50 levels"),
        (json.dumps({"a": ["x" * 100_001]}), "a text of 100,001 characters is longer than 100,000"),
        (json.dumps({"x" * 100_001: 0}), "a text of 100,001 characters"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
    ],
    ids=["nan", "infinity", "overflow", "deep", "deeper", "objects", "text", "key", "digits"],
)
def test_what_no_run_holds_is_no_json(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text.encode())


def write_run(path, record, rows):
    path.mkdir()
    (path / "record.json").write_text(json.dumps(record))
    (path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def with_sum(row, value):
    return row | {"cross_entropy_sum": value}


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row | {"bits": "!!!!"},
        lambda row: row | {"images": 10**18},
        lambda row: with_sum(row, math.nan),
        lambda row: with_sum(row, math.inf),
        lambda row: row | {"paired_source": row | {"bits": "AA=="}},
        lambda row: row | {"paired_source": 5},
        lambda row: row | {"protocol": "x" * 200_000},
    ],
    ids=["bits", "images", "nan", "infinity", "paired", "number", "text"],
)
def test_a_damaged_row_is_named_by_its_line(tmp_path, change):
    rows = [synthetic_row("clean", 0), synthetic_row("fog", 1), synthetic_row("fog", 2)]
    rows[1] = change(rows[1])
    path = write_run(tmp_path / "run", synthetic_record(), rows)
    for read in (read_run, build_report):
        with pytest.raises(InputError, match="line 2 of 3 is not a row") as told:
            read(path)
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"spec": "x" * 30_000_000}},
        {"seed": math.nan},
        {"shifts": [[[]]], "model": json.loads("[" * 100 + "]" * 100)},
    ],
    ids=["text", "nan", "deep"],
)
def test_a_record_that_nobody_wrote_is_damaged(tmp_path, change):
    path = write_run(tmp_path / "run", synthetic_record(**change), [synthetic_row("clean", 0)])
    for read in (read_run, build_report):
        with pytest.raises(InputError, match=r"record\.json is damaged: it is not a JSON object"):
            read(path)


def test_numbers_beyond_memory_are_told_of_in_one_line(tmp_path):
    record = synthetic_record()
    record["data"] |= {"images": 10**18, "class_counts": [10**18, 7]}
    path = write_run(tmp_path / "run", record, benchmark_rows())
    with pytest.raises(
        InputError,
        match=r"damaged: .* in the row of clean 0: it is over 50 images, the record over 1000000000000000000",
    ):
        build_report(path)


RECIPE = "name: x\ntitle: X\ndata: digits\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 20_000, "it is nested deeper than 50 levels, in line 1"),
        ("{a: " * 20_000, "it is nested deeper than 50 levels, in line 1"),
        ("".join("  " * level + "a:\n" for level in range(60)), "it is nested deeper than 50 levels, in line 51"),
        (f"name: {'x' * (1 << 20)}", "it has 1,048,582 characters, more than 1,048,576"),
    ],
    ids=["lists", "mappings", "blocks", "text"],
)
def test_a_recipe_that_nobody_wrote_is_told_of_at_once(text, reason):
    with pytest.raises(InputError, match=rf"^r\.yaml is not YAML: {reason}") as told:
        parse_recipe(text, "r.yaml")
    assert len(str(told.value)) < 200


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (".nan", "a finite number, but got nan"),
        ("-.inf", "a finite number, but got -inf"),
        ("1e999", "a finite number, but got inf"),
        ("'1e999'", "a finite number, but got"),
        ("9" * 400, "a number, but got 9"),
        ("1/0", "a number, but got '1/0'"),
    ],
)
def test_numbers_of_a_recipe_are_finite(value, wanted):
    with pytest.raises(InputError, match=rf"options\.a\.training\.learning_rate: Expected {wanted}"):
        parse_recipe(f"{RECIPE}options: {{a: {{method: standard, training: {{learning_rate: {value}}}}}}}\n")
    with pytest.raises(InputError, match=r"training\.epochs: Expected a whole number of at most 63 bits, but got 9223"):
        parse_recipe(f"{RECIPE}options: {{a: {{method: standard, training: {{epochs: {2**63}}}}}}}\n")
