"""A report's tables as files, hostile names in them, and the command."""

import csv
import io
import re

import pytest

from report_runs import BENCHMARK, adapted_run, better, draw, record_of, rows_of, write_run
from statshift.report import as_csv, as_markdown, build, tables
from statshift.report.content import Cell, Chart, Column, Page, Panel, Section, Series, Table
from statshift.report.tables import escaped

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
    found = tables(build([hostile[1]]))
    parsed = list(csv.reader(io.StringIO(as_csv(found))))
    parts, part = [], []
    for row in [*parsed, []]:
        if row:
            part.append(row)
        else:
            parts.append(part)
            part = []
    assert len(parts) == len(found)
    for rows, table in zip(parts, found, strict=True):
        assert rows[0] == [table.name, table.title]
        assert rows[1] == [column.label for column in table.columns]
        assert len(rows[2:]) == len(table.rows)
        assert not any(cell.interval for row in table.rows for cell in row)
        for got, row in zip(rows[2:], table.rows, strict=True):
            assert [text.replace(",", "") for text in got] == [cell.text.replace(",", "") for cell in row]


def test_markdown_keeps_its_rows_and_shows_markup_as_text(hostile):
    markdown = pytest.importorskip("markdown")
    found = tables(build([hostile[1]]))
    text = as_markdown(found)
    html = markdown.markdown(text, extensions=["tables"])
    assert html.count("<table>") == len(found)
    assert html.count("<tr>") == sum(1 + len(table.rows) for table in found)
    tags = set(re.findall(r"<(/?\w+)", html))
    assert {tag.strip("/") for tag in tags} <= {"h3", "table", "thead", "tbody", "tr", "th", "td", "p"}
    cells = len(re.findall(r"<t[hd][ >]", html))
    assert cells == sum(len(table.columns) * (1 + len(table.rows)) for table in found)


def test_labels_are_one_line_of_visible_characters(hostile):
    page = build([hostile[1]])
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
    assert as_csv([table]) == 'a,"A, b"\nname,images\n"1,000",12345\nx,-\n'


def test_intervals_are_columns_of_their_own_in_a_file():
    columns = Column("name", numeric=False), Column("gain"), Column("n")
    rows = (Cell("a"), Cell("+1.0", 0.01, interval="[0.5, 1.5]"), Cell("3")), (Cell("b"), Cell("-"), Cell("4"))
    page = Page("t", "l", (), (), sections=(Section("s", "S", blocks=(Table("x", "X", columns, rows),)),))
    assert as_csv(tables(page)) == 'x,X\nname,gain,95 % interval,n\na,+1.0,"[0.5, 1.5]",3\nb,-,-,4\n'


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
    accuracy = [verdict.figures[0].text for verdict in build(path).verdicts]
    assert accuracy[0] in html
    assert run("report", path, "--out", "b.html", "--title", "My <title>").code == 0
    assert "My &lt;title&gt;" in (tmp_path / "b.html").read_text()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.html", "report.html"]


@pytest.mark.parametrize(("form", "function"), [("csv", as_csv), ("markdown", as_markdown)])
def test_the_command_prints_tables(run, path, tmp_path, form, function):
    expected = function(tables(build(path)))
    done = run("report", path, "--format", form)
    assert (done.code, done.out, done.err) == (0, expected, "")
    file = tmp_path / "tables.txt"
    done = run("report", path, "--format", form, "--out", file)
    assert done.code == 0
    assert file.read_bytes().decode() == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere is not there"),
        (["RUN", "--format", "pdf"], "Unknown format 'pdf'"),
        (["RUN", "--out", "no/such/folder.html"], "Cannot write to no/such/folder.html"),
        (["RUN", "--format", "csv", "--out", "."], "it is a folder"),
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
