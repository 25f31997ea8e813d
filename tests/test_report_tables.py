"""A report's tables as files, hostile names in them, and the command."""

import csv
import io
import re
import shutil

import pytest

from report_runs import BENCHMARK, adapted_run, better, draw, record_of, rows_of, write_run
from statshift.measuring.compare import compare
from statshift.report import as_csv, as_markdown, build_report, tables, tidy_csv
from statshift.report.content import Cell, Chart, Column, Page, Panel, Section, Series, Table
from statshift.report.tables import escaped
from statshift.results import read_run, summarise

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\", 'single' | pipe",
    "two\nlines\r\n\x1b[31mred",
    "x" * 300,
    "نموذج 模型 модель",
    "`code` **bold** [link](javascript:alert(1)) ![i](x) \\ <img src=x onerror=alert(1)> &amp;",
)


@pytest.fixture(scope="module", params=HOSTILE, ids=["script", "quotes", "newline", "long", "alphabets", "markdown"])
def hostile(request, tmp_path_factory):
    name = request.param
    bits = draw(BENCHMARK[:8], 0.7)
    bits |= {(f"own {name}", 0): bits["clean", 0]}
    record = record_of(model={"spec": f"py:{name}"}, data={"spec": f"npz:{name}"}, dtype=name)
    folder = re.sub(r"[/\n\r\x1b]", "_", name)[:100]
    return name, adapted_run(tmp_path_factory.mktemp("r") / folder, bits, {name: better(bits, 0.2)}, record=record)


def test_csv_holds_every_cell_as_it_is_shown(hostile):
    for table in tables(build_report([hostile[1]])):
        rows = list(csv.reader(io.StringIO(as_csv(table))))
        assert rows[0] == [column.label for column in table.columns]
        assert len(rows[1:]) == len(table.rows)
        assert not any(cell.interval for row in table.rows for cell in row)
        for got, row in zip(rows[1:], table.rows, strict=True):
            assert [text.replace(",", "") for text in got] == [cell.text.replace(",", "") for cell in row]


def test_one_tidy_table_holds_hostile_names_as_they_are(hostile):
    name, path = hostile
    rows = list(csv.DictReader(io.StringIO(tidy_csv([path]), newline="")))
    assert {row["run"] for row in rows} == {str(path)}
    assert {row["protocol"] for row in rows} == {"source", name}
    assert {row["shift"] for row in rows} == {*(shift for shift, _ in BENCHMARK[:8]), f"own {name}"}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A run with a protocol of two draws over the whole benchmark, and one of few conditions without AlexNet."""
    folder = tmp_path_factory.mktemp("two")
    bits = draw(BENCHMARK, 0.7, seed=1)
    whole = adapted_run(folder / "whole", bits, {"auto": better(bits, 0.4)}, draws=2)
    few = {one: bits[one] for one in BENCHMARK[:4]}
    changes = {"shifts": ["clean", "gaussian_noise"], "severities": [1, 2, 3], "alexnet": None}
    return whole, write_run(folder / "few", record_of(**changes, model={"weights_hash": "b"}), rows_of(few))


def number(text):
    return float(text) if text else None


def near(value):
    return None if value is None else pytest.approx(value, rel=1e-5)


def test_the_tidy_table_has_the_figures_of_summarise_and_compare(two_runs):
    text = tidy_csv(two_runs)
    lines = list(csv.reader(io.StringIO(text)))
    assert {len(line) for line in lines} == {17}
    assert len(set(lines[0])) == 17
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 76 + 1 + 76 + 1 + 4
    assert [row["shift"] for row in rows].count("mean of 15 x 5") == 2
    of = {(row["run"], row["protocol"], row["shift"], row["severity"]): row for row in rows}
    assert len(of) == len(rows)
    for path, protocols in zip(two_runs, (("source", "auto"), ("source",)), strict=True):
        run = read_run(path)
        summary = summarise(run.rows, table=run.record["alexnet"])
        for protocol in protocols:
            found = summary["protocols"][protocol]
            values = {("clean", 0): (found["clean_accuracy"], found["clean_interval"])}
            for shift, one in found["per_shift"].items():
                pairs = zip(one["by_severity"], one["intervals"], strict=True)
                values |= {(shift, level): pair for level, pair in enumerate(pairs, start=1)}
            conditions = list(dict.fromkeys((row["shift"], row["severity"]) for row in run.rows))
            compared = {}
            if protocol != "source":
                comparison = compare(path, path, protocols=("source", protocol))
                compared = {(one.shift, one.severity): one.accuracy for one in comparison.conditions}
            draws = 1 if protocol == "source" else 2
            for shift, severity in conditions:
                row = of[str(path), protocol, shift, str(severity)]
                accuracy, (low, high) = values[shift, severity]
                got = [number(row[name]) for name in ("accuracy", "low", "high", "error")]
                assert got == [near(one) for one in (accuracy, low, high, 1 - accuracy)]
                assert (row["images"], row["draws"]) == ("128" if draws == 2 else "160", str(draws))
                got = [number(row[f"difference_{name}"]) for name in ("to_source", "low", "high")]
                if compared:
                    one = compared[shift, severity]
                    assert got == [pytest.approx(v, rel=1e-5) for v in (one.difference, one.low, one.high)]
                else:
                    assert got == [None] * 3
                assert [row[name] for name in ("mce", "mce_low", "mce_high")] == [""] * 3
            mean = of.get((str(path), protocol, "mean of 15 x 5", ""))
            if found["mean_accuracy"] is None:
                assert mean is None
                continue
            names = ("accuracy", "error", "mce")
            assert [number(mean[name]) for name in names] == [
                *(near(found[name]) for name in ("mean_accuracy", "mean_error", "mce")),
            ]
            got = [number(mean[name]) for name in ("low", "high", "mce_low", "mce_high")]
            assert got == [near(one) for one in (*found["mean_interval"], *found["mce_interval"])]
            if protocol == "auto":
                gain = comparison.mean_accuracy
                got = [number(mean[f"difference_{name}"]) for name in ("to_source", "low", "high")]
                assert got == [near(one) for one in (gain.difference, gain.low, gain.high)]
    assert {row["model"] for row in rows} == {"whole", "few"}


def test_markdown_keeps_its_rows_and_shows_markup_as_text(hostile):
    markdown = pytest.importorskip("markdown")
    found = tables(build_report([hostile[1]]))
    text = as_markdown(found)
    html = markdown.markdown(text, extensions=["tables"])
    assert html.count("<table>") == len(found)
    assert html.count("<tr>") == sum(1 + len(table.rows) for table in found)
    tags = set(re.findall(r"<(/?\w+)", html))
    assert {tag.strip("/") for tag in tags} <= {"h3", "table", "thead", "tbody", "tr", "th", "td", "p"}
    cells = len(re.findall(r"<t[hd][ >]", html))
    assert cells == sum(len(table.columns) * (1 + len(table.rows)) for table in found)


def test_labels_are_one_line_of_visible_characters(hostile):
    page = build_report([hostile[1]])
    texts = [page.title, page.lead, *page.warnings, *(one.subject for one in page.verdicts)]
    texts += [cell.text for table in tables(page) for row in table.rows for cell in row]
    texts += [column.label for table in tables(page) for column in table.columns]
    assert all(text.isprintable() for text in texts)
    assert all(len(verdict.subject) < 150 for verdict in page.verdicts)
    assert len({verdict.subject for verdict in page.verdicts}) == 2
    seen = " ".join("".join(one if one.isprintable() else " " for one in hostile[0]).split())
    assert f"npz:{seen[:20]}" in page.lead


def test_numbers_in_csv_have_no_separator_of_thousands():
    columns = Column("name", numeric=False), Column("images")
    table = Table("a", "A, b", columns, ((Cell("1,000"), Cell("12,345", 12345.0)), (Cell("x"), Cell("-"))))
    assert as_csv(table) == 'name,images\n"1,000",12345\nx,-\n'


def test_intervals_are_columns_of_their_own_in_a_file():
    columns = Column("name", numeric=False), Column("gain"), Column("n")
    rows = (Cell("a"), Cell("+1.0", 0.01, interval="[0.5, 1.5]"), Cell("3")), (Cell("b"), Cell("-"), Cell("4"))
    page = Page("t", "l", (), (), sections=(Section("s", "S", blocks=(Table("x", "X", columns, rows),)),))
    assert as_csv(tables(page)[0]) == 'name,gain,95 % interval,n\na,+1.0,"[0.5, 1.5]",3\nb,-,-,4\n'


def test_markdown_of_a_table():
    columns = Column("a|b", numeric=False), Column("%")
    table = Table("t", "<Title>", columns, ((Cell("x_y _z_"), Cell("[-1.0, 2.0]")),), "see *this*")
    assert as_markdown([table]) == (
        "### &lt;Title>\n\n| a\\|b | % |\n|---|---:|\n| x_y \\_z\\_ | [-1.0, 2.0] |\n\nsee \\*this\\*\n"
    )
    assert escaped("a\n`b` [c](d)") == "a \\`b\\` \\[c\\](d)"


def test_a_chart_counts_as_its_table():
    table = Table("c-table", "C", (Column("x"),), ())
    chart = Chart("c", "C", "x", "y", ("1",), (Panel("p", (Series("s", (0.5,)),)),), table)
    page = Page("t", "l", (), (), sections=(Section("s", "S", blocks=(chart, Table("d", "D", (Column("x"),), ()))),))
    assert [one.name for one in tables(page)] == ["c-table", "d"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    record = record_of(shifts=["clean", "gaussian_noise"])
    return write_run(tmp_path_factory.mktemp("cli") / "run", record, rows_of(draw(BENCHMARK[:6], 0.7)))


def test_the_command_writes_a_page(run, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("report", path)
    assert (done.code, done.err) == (0, "")
    assert "report.html" in done.out
    html = (tmp_path / "report.html").read_text()
    assert html.startswith("<!DOCTYPE html>") or html.lower().startswith("<!doctype html>")
    accuracy = [verdict.figures[0].text for verdict in build_report(path).verdicts]
    assert accuracy[0] in html
    assert run("report", path, "--out", "b.html", "--title", "My <title>").code == 0
    assert "My &lt;title&gt;" in (tmp_path / "b.html").read_text()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.html", "report.html"]


@pytest.mark.parametrize("form", ["csv", "markdown"])
def test_the_command_prints_tables(run, path, tmp_path, form):
    expected = tidy_csv(path) if form == "csv" else as_markdown(tables(build_report(path)))
    done = run("report", path, "--format", form)
    assert (done.code, done.out, done.err) == (0, expected, "")
    file = tmp_path / "tables.txt"
    done = run("report", path, "--format", form, "--out", file)
    assert done.code == 0
    assert file.read_bytes().decode() == expected


@pytest.mark.parametrize("there", [False, True])
def test_the_command_writes_each_table_into_a_folder(run, path, tmp_path, there):
    folder = tmp_path / "new" / "tables"
    if there:
        folder.mkdir(parents=True)
    done = run("report", path, "--format", "csv", "--out", folder if there else f"{folder}/")
    assert (done.code, done.err) == (0, "")
    assert str(folder) in done.out
    found = tables(build_report(path))
    assert {one.name for one in folder.iterdir()} == {"conditions.csv", *(f"{table.name}.csv" for table in found)}
    assert (folder / "conditions.csv").read_bytes().decode() == tidy_csv(path)
    assert all((folder / f"{table.name}.csv").read_bytes().decode() == as_csv(table) for table in found)


def test_the_command_warns_of_what_it_left_out(run, path, tmp_path, monkeypatch):
    shutil.copytree(path, tmp_path / "runs" / "good")
    bad = tmp_path / "runs" / "bad"
    shutil.copytree(path, bad)
    (bad / "record.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--format", "csv"], ["--format", "csv", "--out", "tables/"]):
        done = run("report", "runs", *words)
        assert done.code == 0
        (line,) = done.err.splitlines()
        assert "Left out runs/bad: runs/bad/record.json is damaged" in line
    assert "Left out runs/bad: runs/bad/record.json is damaged" in (tmp_path / "report.html").read_text()
    assert run("report", "runs/bad").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere is not there"),
        (["RUN", "--format", "pdf"], "Unknown format 'pdf'"),
        (["RUN", "--out", "no/such/folder.html"], "Cannot write to no/such/folder.html"),
        (["RUN", "--format", "markdown", "--out", "."], "it is a folder"),
        (["RUN", "--format", "csv", "--out", f"{__file__}/tables"], "Cannot write to"),
    ],
)
def test_the_command_tells_what_it_cannot_do_in_one_line(run, path, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = run("report", *[path if word == "RUN" else word for word in words])
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
