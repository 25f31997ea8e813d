"""Where the seconds of a run go, and what a run will take: sums, counts and files; no second is measured."""

import itertools
import json
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch

import statshift
from statshift import AdaptationOptions, InputError, load_data
from statshift._core import footprint
from statshift._core.footprint import peak_memory
from statshift._core.parts import PART_NAMES, REST, Moments, PartClock, clocked, part, sum_by_part
from statshift.cli.plan import size_text
from statshift.measuring import measure as measuring
from statshift.measuring import profile as profiling
from statshift.measuring import trying
from statshift.measuring.plan import make_plan
from statshift.measuring.profile import shares_text
from statshift.measuring.settings import Setup, Wanted
from statshift.results.ahead import write_ahead
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CorruptionOptions
from tiny_network import network

FILES = ["record.json", "rows.jsonl", "summary.json", "layers.json", "examples/examples.json"]

pytestmark = pytest.mark.filterwarnings("ignore:No frost photographs", "ignore:The model", "ignore:.*near chance")


ALONE = """
import runpy, sys, types
sys.modules["torch"] = types.SimpleNamespace(device=None)
print(runpy.run_path(sys.argv[1])["peak_memory"]())
"""


def test_the_peak_of_a_process_is_its_own_and_not_that_of_the_one_that_started_it():
    held = bytearray(200 << 20)
    words = [sys.executable, "-c", ALONE, footprint.__file__]
    assert int(subprocess.run(words, capture_output=True, check=True).stdout) < 100 << 20
    assert peak_memory() >= len(held)


class Hand:
    """A clock that moves when it is told to."""

    now = 0.0

    def moments(self, **other):
        return Moments(take=lambda: self.now, **other)


@pytest.fixture
def hand():
    return Hand()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=40)


HOW = {"shifts": ["clean", "fog", "contrast"], "severities": [2, 4], "examples": 0, "batch_size": 16, "device": "cpu"}
ADAPTED = {"rectify": ["replace", "batch"], "adaptation": AdaptationOptions(samples=8, draws=2)}


def measure(data, out=None, **more):
    return statshift.measure(network(), data, out=out, **{**HOW, **more})


# The clock


def test_each_second_counts_for_the_innermost_part_and_all_add_up(hand):
    clock = PartClock(hand.moments())
    with clocked(clock):
        hand.now = 1
        with part("adapt"):
            hand.now = 3
            with part("decode"):
                hand.now = 6
            hand.now = 10
        clock.turn_to(("fog 3", "auto"))
        with suppress(KeyError), part("model"):
            hand.now = 15
            raise KeyError
        hand.now = 21
    found = clock.seconds()
    rest, label = 1.0, ("fog 3", "auto")
    assert found == {
        (None, REST): rest,
        (None, "adapt"): 6.0,
        (None, "decode"): 3.0,
        (label, REST): 6.0,
        (label, "model"): 5.0,
    }
    assert sum_by_part(found) == {"decode": 3.0, "corrupt": 0.0, "adapt": 6.0, "model": 5.0, REST: 7.0}
    assert sum(found.values()) == hand.now


def test_what_other_threads_do_does_not_count_nor_what_no_clock_is_for(hand):
    def elsewhere():
        with part("decode"):
            hand.now += 4

    elsewhere()
    clock = PartClock(hand.moments())
    with clocked(clock), part("model"):
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
    assert sum_by_part(clock.seconds()) == {**dict.fromkeys(PART_NAMES, 0.0), "model": 4.0, REST: 0.0}


def test_a_clock_within_another_stands_for_itself(hand):
    outer, inner = PartClock(hand.moments()), PartClock(hand.moments())
    with clocked(outer), part("adapt"):
        with clocked(inner), part("model"):
            hand.now += 2
        hand.now += 3
    assert sum_by_part(inner.seconds())["model"] == 2
    assert sum_by_part(outer.seconds()) == {**dict.fromkeys(PART_NAMES, 0.0), "adapt": 5.0, REST: 0.0}


def test_on_a_device_nothing_is_waited_for_before_the_end(hand):
    waited, past = [], [False]
    clock = PartClock(hand.moments(is_past=lambda moment: past[0] or bool(waited), wait=waited.append))
    with clocked(clock):
        for _ in range(50):
            with part("model"):
                hand.now += 1
        assert waited == []
        assert len(clock._spans) == 100
        past[0] = True  # the device comes behind: what is past is added up on the way
        with part("corrupt"):
            hand.now += 1
        assert (waited, len(clock._spans)) == ([], 0)
    assert sum_by_part(clock.seconds())["model"] == 50
    assert waited == [51.0]


# The profile of a run


@pytest.fixture
def ticks(monkeypatch):
    """Moments that are numbered: each span lasts one second."""
    numbers = itertools.count()
    taken = []

    def take():
        taken.append(float(next(numbers)))
        return taken[-1]

    monkeypatch.setattr(measuring, "moments_of", lambda device: Moments(take=take))
    return taken


def test_the_parts_of_a_run_add_up_and_each_is_marked(digits, ticks):
    found = measure(digits, **ADAPTED).profile
    assert found.seconds == sum(found.parts.values()) == ticks[-1]
    assert set(found.parts) == {*PART_NAMES, REST}
    assert list(found.conditions) == ["clean", "fog 2", "fog 4", "contrast 2", "contrast 4"]
    assert list(found.protocols) == ["source", "replace", "batch"]
    for places in (found.conditions, found.protocols):
        labelled = {name: sum(one[name] for one in places.values()) for name in (*PART_NAMES, REST)}
        assert all(labelled[name] <= found.parts[name] for name in labelled)
        assert labelled["corrupt"] == found.parts["corrupt"] - 1  # of the image that the plan looks at
    batches, conditions = 3, 5
    assert found.protocols["source"]["model"] == conditions * batches
    assert found.protocols["replace"]["model"] == 2 * conditions * batches
    assert found.protocols["replace"]["adapt"] > 0
    assert found.protocols["source"]["adapt"] == 0
    assert found.protocols["source"]["corrupt"] == conditions * batches
    assert found.protocols["replace"]["corrupt"] == 0  # they are kept
    assert found.protocols["batch"]["adapt"] == 2 * conditions * (40 / 8 + 1)  # each batch, and the beginning
    assert found.images == (1 + 2 + 2) * conditions * 40
    assert (found.processes, found.device) == (1, "cpu")


def test_shares_are_told_from_the_greatest_and_the_rest_last():
    parts = {"decode": 1.0, "corrupt": 12.0, "adapt": 0.2, "model": 76.8, REST: 10.0}
    assert shares_text(parts) == "77 % model, 12 % corruptions, 1 % loading, 10 % rest"


def test_a_profile_is_written_beside_the_run_and_changes_nothing_of_it(digits, tmp_path):
    plain = measure(digits, tmp_path / "plain", **ADAPTED)
    found = measure(digits, tmp_path / "profiled", profile=True, **ADAPTED)
    assert found.rows == plain.rows
    for name in FILES:
        if (tmp_path / "plain" / name).is_file():
            assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "profiled" / name).read_bytes(), name
    assert not (tmp_path / "plain" / "profile.json").exists()
    told = json.loads((tmp_path / "profiled" / "profile.json").read_text())
    assert told["parts"].keys() == {*PART_NAMES, REST, "trace"}
    assert told["seconds"] == pytest.approx(sum(told["parts"].values()))
    assert told["images_per_second"] == pytest.approx(told["images"] / told["seconds"])
    assert told == json.loads(json.dumps(found.profile.describe()))
    events = json.loads((tmp_path / "profiled" / "trace.json").read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    assert {"model", "corrupt", "adapt", "decode"} <= set(names)
    assert 2 <= names.count("model") <= profiling.TRACED + 1
    assert any("conv2d" in str(name) for name in names)


def test_a_trace_is_bounded():
    events = [{"ph": "X", "ts": number} for number in range(profiling.MOST_EVENTS + 5, 0, -1)] + [{"ph": "M"}]
    kept = profiling._first(events)
    assert len(kept) == profiling.MOST_EVENTS + 1
    assert [event["ts"] for event in kept[1:3]] == [1, 2]


def test_a_profile_needs_a_folder(digits):
    with pytest.raises(InputError, match="Expected `out`"):
        measure(digits, profile=True)


# The forecast


def counted(data, out=None, **more):
    """Return the passes and images by protocol that a run makes, as its progress tells them."""
    begun = []

    def tell(at):
        if not begun or begun[-1].number != at.number:
            begun.append(at)

    measure(data, out, progress=tell, **more)
    names = dict.fromkeys(at.protocol for at in begun)
    passes = {name: [at for at in begun if at.protocol == name] for name in names}
    return {name: (len(some), sum(at.images_per_pass for at in some)) for name, some in passes.items()}


def sepia(images):
    return images * images.new_tensor([1.0, 0.9, 0.7]).view(1, 3, 1, 1)


@pytest.mark.parametrize(
    "how",
    [
        {},
        ADAPTED,
        {**ADAPTED, "stream": "continual"},
        {"rectify": ["full", "tent"], "adaptation": AdaptationOptions(samples=8)},
        {"shifts": {"sepia": sepia}, "rectify": ["replace"], "adaptation": AdaptationOptions(samples=8)},
        {"shifts": ["clean", "pgd-linf:1/255:2"], "rectify": ["replace"], "adaptation": AdaptationOptions(samples=8)},
        {"ligs": ["gaussian"], "shifts": ["clean"]},
    ],
    ids=["source", "protocols", "stream", "whole", "own", "attack", "ligs"],
)
def test_a_forecast_counts_the_passes_that_the_run_makes(digits, how):
    told = measure(digits, dry_run=True, **how).forecast
    made = counted(digits, **how)
    assert {name: (one.passes, one.images) for name, one in told.protocols.items()} == made
    assert (told.passes, told.images) == tuple(np.sum(list(made.values()), axis=0))
    assert told.protocols["source"].forwards == told.protocols["source"].images
    assert set(told.parts) == {*PART_NAMES, REST}
    assert all(seconds >= 0 for seconds in told.parts.values())
    assert told.seconds == sum(told.parts.values()) > 0
    assert (told.parts["adapt"] > 0) == ("rectify" in how)


def test_backwards_are_told_where_there_are_any(digits):
    told = measure(digits, dry_run=True, rectify=["tent"], adaptation=AdaptationOptions(samples=8)).forecast
    tent = told.protocols["tent"]
    assert (tent.forwards, tent.backwards) == (200, 200)


def test_a_forecast_writes_nothing_and_leaves_the_model_and_the_run_as_they_are(digits, tmp_path):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    how = {**HOW, **ADAPTED, "dry_run": True}
    statshift.measure(model.train(), digits, out=tmp_path / "run", **how)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())

    measure(digits, tmp_path / "run", **{**ADAPTED, "shifts": ["clean", "fog"]})
    there = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    told = measure(digits, tmp_path / "run", dry_run=True, **ADAPTED).forecast
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == there
    assert told.finished_before == 3 * (1 + 2 + 2)
    assert {name: one.passes for name, one in told.protocols.items()} == {"source": 2, "replace": 4, "batch": 4}
    assert counted(digits, tmp_path / "run", **ADAPTED) == {"source": (2, 80), "replace": (4, 160), "batch": (4, 160)}

    told = measure(digits, tmp_path / "run", dry_run=True, **ADAPTED).forecast
    assert (told.passes, told.disk) == (0, 0)
    with pytest.raises(InputError, match="holds another run"):
        measure(digits, tmp_path / "run", dry_run=True, seed=3, **ADAPTED)


def test_a_forecast_refuses_the_places_that_the_run_refuses_and_counts_rows_before_their_turn(digits, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "text").write_text("")
    for place, message in {file: "is a file", file / "run": "is a file", tmp_path / "other": "no record.json"}.items():
        with pytest.raises(InputError, match=message):
            measure(digits, place, dry_run=True)
    assert [*(tmp_path / "other").iterdir()] == [tmp_path / "other" / "text"]
    last = measure(digits, tmp_path / "run").rows[-1]
    lines = (tmp_path / "run" / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run" / "rows.jsonl").write_bytes(b"".join(lines[:2]))
    write_ahead(tmp_path / "run", last, {})
    told = measure(digits, tmp_path / "run", dry_run=True).forecast
    assert (told.finished_before, told.passes) == (3, len(lines) - 3)


def test_what_is_imported_the_first_time_counts_once_and_not_for_each_image(digits, monkeypatch):
    took = iter([9.0, 3.0, 1.0])  # of 16 images for the first time, of 32, and of 16 again
    options = AdaptationOptions(samples=8), CorruptionOptions(), "benchmark", {}, (), 0
    wanted = Wanted(["fog"], [2], ["tent"], *options)
    plan = make_plan(network(), digits, wanted, Setup(16, "cpu", "float32", False), None, "auto")
    monkeypatch.setattr(trying, "_run", lambda plan, function: (None, {"adapt": next(took), "model": 0.0, "rest": 0.0}))
    some = trying.some_batches(digits, 16, 2)
    cost = trying.try_protocol(plan, "tent", Condition("fog", 2), some)
    assert cost.start == {"adapt": 8.0}
    assert cost.of(len(some))["adapt"] == pytest.approx(3.0)


def test_bytes_written_are_near_those_of_the_run(digits, tmp_path):
    told = measure(digits, tmp_path / "run", dry_run=True, **ADAPTED).forecast
    measure(digits, tmp_path / "run", **ADAPTED)
    written = sum((tmp_path / "run" / name).stat().st_size for name in ("record.json", "rows.jsonl", "summary.json"))
    assert written / 2 < told.disk < written * 1.2


# The command

WORDS = ["--data", "digits", "--limit", "20", "--shifts", "clean,fog", "--severities", "3", "--device", "cpu"]
MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.Flatten(), nn.Linear(392, 10))
"""


@pytest.mark.filterwarnings("ignore")
def test_the_command_tells_passes_before_and_seconds_after(run, tmp_path):
    (tmp_path / "own.py").write_text(MODEL)
    words = ["measure", "--model", f"py:{tmp_path / 'own.py'}:build", *WORDS, "--out", tmp_path / "run"]
    done = run(*words, "--dry-run", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told.keys() == {
        *("protocols", "passes", "images", "seconds", "images_per_second", "finished_before", "parts", "memory"),
        *("device_memory", "disk", "trial", "device", "processes"),
    }
    assert told["protocols"] == {"source": {"passes": 2, "images": 40, "forwards": 40, "backwards": 0}}
    done = run(*words, "--dry-run")
    assert done.out.splitlines()[2].split() == ["source", "2", "40", "40", "0"]
    assert "nothing was measured or written" in done.out
    assert not (tmp_path / "run").exists()
    done = run(*words)
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "% rest" in line]
    assert line.endswith(".")
    done = run(*words, "--dry-run")
    assert done.err == ""
    assert done.out == "Nothing to measure; 2 rows are there already.\n"
    assert "%" not in run(*words).err


def test_sizes_are_told_for_people():
    assert [size_text(size) for size in (12, 3_140_000, 12e9)] == ["12 bytes", "3.14 MB", "12 GB"]
