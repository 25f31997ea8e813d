"""From runs to one self-contained page, and to tables."""

from statshift.report.building import build as build
from statshift.report.building import write_report as write_report
from statshift.report.building import write_text as write_text
from statshift.report.tables import as_csv as as_csv
from statshift.report.tables import as_markdown as as_markdown
from statshift.report.tables import tables as tables
