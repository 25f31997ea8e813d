"""From runs to one self-contained page, and to tables."""

from statshift.report.building import build_report as build_report
from statshift.report.building import is_folder as is_folder
from statshift.report.building import tidy_csv as tidy_csv
from statshift.report.building import write_report as write_report
from statshift.report.building import write_tables as write_tables
from statshift.report.building import write_text as write_text
from statshift.report.tables import as_csv as as_csv
from statshift.report.tables import as_markdown as as_markdown
from statshift.report.tables import tables as tables
