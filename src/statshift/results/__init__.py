"""A run on disk: what it is, its rows, and what they add up to."""

from statshift._core.storage import alone as alone
from statshift._core.storage import read_json as read_json
from statshift._core.storage import write_bytes_atomically as write_bytes_atomically
from statshift._core.storage import write_json_atomically as write_json_atomically
from statshift.results.records import settle_record as settle_record
from statshift.results.rows import make_row as make_row
from statshift.results.rows import restrict as restrict
from statshift.results.runs import Run as Run
from statshift.results.runs import RunResult as RunResult
from statshift.results.runs import find_runs as find_runs
from statshift.results.runs import open_run as open_run
from statshift.results.runs import read_run as read_run
from statshift.results.summary import baseline_errors as baseline_errors
from statshift.results.summary import summarise as summarise
from statshift.tasks.classification import bits as bits
from statshift.tasks.row import Row as Row
from statshift.tasks.row import everywhere as everywhere
from statshift.tasks.row import row_key as row_key
