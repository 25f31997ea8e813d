import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from statshift._core.errors import InputError
from statshift._core.storage import append_line
from statshift.measuring.compare import compare
from statshift.metrics.alexnet import ALEXNET, ALEXNET_CLEAN
from statshift.metrics.uncertainty import mean_interval
from statshift.results import (
    RunResult,
    baseline_errors,
    bits,
    find_runs,
    make_row,
    open_run,
    read_run,
    row_key,
    summarise,
    write_json_atomically,
)
from statshift.results.means import mean_name
from statshift.tasks.statistics import ImageStatistics, image_statistics
from synthetic_runs import (
    CLASSES,
    COMMON,
    benchmark_rows,
    labels_of,
    per_image,
    synthetic_record,
    synthetic_row,
)

ROWS = [synthetic_row("fog", severity) for severity in (1, 2, 3)]


def fill(path, rows=ROWS):
    with open_run(path, synthetic_record()) as run:
        for row in rows:
            run.append(row, {"seconds": 0.5})
    return path


def contents(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


# rows


@pytest.mark.parametrize("images", [1, 7, 8, 9, 100])
def test_a_row_holds_what_a_loop_counts(images):
    torch.manual_seed(images)
    labels = torch.randint(CLASSES, (images,))
    statistics = image_statistics(torch.randn(images, CLASSES) * 2, labels)
    row = make_row(statistics, labels, CLASSES, shift="fog", severity=3, protocol="replace", draw=2)
    assert row_key(row) == ("replace", "fog", 3, 2)
    assert row["images"] == images
    hits = statistics.correct.tolist()
    assert row["correct"] == sum(hits)
    assert row["correct_top5"] == sum(statistics.correct_top5.tolist())
    assert row["cross_entropy_sum"] == math.fsum(statistics.cross_entropy.tolist())
    by_class = [0] * CLASSES
    for label, hit in zip(labels.tolist(), hits, strict=True):
        by_class[label] += hit
    assert row["class_correct"] == by_class
    assert sum(row["calibration"]["counts"]) == images
    assert sum(row["calibration"]["correct"]) == sum(hits)
    assert sum(row["calibration"]["confidence_sums"]) == pytest.approx(sum(statistics.confidence.tolist()))
    assert bits(row).tolist() == per_image(row).tolist() == hits
    assert json.loads(json.dumps(row)) == row


def test_outputs_that_are_not_finite_are_refused():
    logits = torch.zeros(4, CLASSES)
    logits[1, 2] = math.nan
    labels = labels_of(4)
    with pytest.raises(InputError, match="not finite for 1 of 4 images of fog at severity 2"):
        make_row(image_statistics(logits, labels), labels, CLASSES, shift="fog", severity=2)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_row_says_what_is_predicted_of_examples(held_out):
    torch.manual_seed(0)
    logits = torch.randn(9, CLASSES)
    examples, adapted_on = np.array([0, 4, 8]), np.array([2, 4])
    row = make_row(
        image_statistics(logits, labels_of(9)),
        labels_of(9),
        CLASSES,
        shift="fog",
        severity=2,
        adapted_on=adapted_on,
        held_out=held_out,
        examples=examples,
    )
    classes = [max(range(CLASSES), key=logits[image].tolist().__getitem__) for image in examples]
    tops = [round(math.exp(max(logits[i])) / sum(map(math.exp, logits[i])), 4) for i in examples]
    if held_out:
        classes[1] = tops[1] = None
    assert row["examples"] == {"predicted": classes, "confidence": tops}
    assert json.loads(json.dumps(row)) == row


# a run directory


def test_a_run_reads_back_as_written(tmp_path):
    fill(tmp_path / "new" / "run")
    result = read_run(str(tmp_path / "new" / "run"))
    assert result.rows == ROWS
    assert result.record == json.loads(json.dumps(synthetic_record()))
    timings = [json.loads(line) for line in (result.path / "timings.jsonl").read_text().splitlines()]
    assert timings[1] == {"protocol": "source", "shift": "fog", "severity": 2, "draw": 0, "seconds": 0.5}


def test_what_lies_beside_the_rows_is_read_where_it_is(tmp_path):
    run = fill(tmp_path / "run")
    result = read_run(run)
    assert (result.layers, result.ligs, result.examples) == (None, {}, None)
    (run / "examples").mkdir()
    for name in ("layers.json", "ligs.json", "examples/examples.json"):
        write_json_atomically(run / name, {"of": name})
    result = read_run(run)
    assert (result.layers, result.ligs) == ({"of": "layers.json"}, {"of": "ligs.json"})
    assert result.examples == {"of": "examples/examples.json"}
    (run / "ligs.json").write_text('{"gaussian"')
    with pytest.raises(InputError, match=r"ligs\.json is damaged: it is not a JSON object\. Remove it"):
        read_run(run)


def test_runs_are_found_below_a_folder(tmp_path):
    for name in ("b", "a/second", "a/first", "a/deep/er/run"):
        fill(tmp_path / name)
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "record.json").write_text("{}")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").touch()
    found = find_runs(str(tmp_path))
    assert found == [tmp_path / name for name in ("a/deep/er/run", "a/first", "a/second", "b")]
    assert find_runs(tmp_path / "a" / "first") == [tmp_path / "a" / "first"]
    assert find_runs(tmp_path / "trained") == find_runs(tmp_path / "nowhere") == []
    fill(tmp_path / "b" / "within")
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]


def test_killed_at_any_byte_it_goes_on_to_the_same_files(tmp_path):
    whole = contents(fill(tmp_path / "whole"))
    rows = whole["rows.jsonl"]
    last = len(rows) - rows[:-1].rfind(b"\n") - 1
    path = fill(tmp_path / "killed")
    for cut in range(1, last + 1):
        (path / "rows.jsonl").write_bytes(rows[:-cut])
        (path / "timings.jsonl").write_bytes(whole["timings.jsonl"][: -min(cut, 20)])
        assert len(read_run(path).rows) == 2
        with open_run(path, synthetic_record()) as run:
            assert run.done == {("source", "fog", 1, 0), ("source", "fog", 2, 0)}
            assert (path / "rows.jsonl").read_bytes() == rows[:-last]
            run.append(ROWS[2], {"seconds": 0.5})
        assert contents(path) == whole


@pytest.mark.parametrize("tail", [b"\0\0\0\0\n", b"{}\n", b"3\n", b'{"protocol":"sour\n'])
def test_a_last_line_that_is_no_row_is_dropped(tmp_path, tail):
    path = fill(tmp_path)
    good = (path / "rows.jsonl").read_bytes()
    (path / "rows.jsonl").write_bytes(good + tail)
    with open_run(path, synthetic_record()) as run:
        assert run.rows == ROWS
    assert (path / "rows.jsonl").read_bytes() == good


def test_damage_before_the_last_line_is_refused_and_left_alone(tmp_path):
    path = fill(tmp_path)
    lines = (path / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (path / "rows.jsonl").write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    before = contents(path)
    with pytest.raises(InputError, match="is damaged: line 2 of 3 is not a row"):
        open_run(path, synthetic_record())
    assert contents(path) == before
    (path / "rows.jsonl").write_bytes(lines[0] * 2)
    with pytest.raises(InputError, match="line 2 repeats"):
        read_run(path)


def test_a_condition_is_written_once(tmp_path):
    path = fill(tmp_path)
    with open_run(path, synthetic_record()) as run, pytest.raises(InputError, match="is not done, but got"):
        run.append(ROWS[0])
    assert read_run(path).rows == ROWS


def test_another_run_is_refused_with_the_difference_named(tmp_path):
    path = fill(tmp_path)
    before = contents(path)
    model = synthetic_record()["model"] | {"weights_hash": "bbb"}
    expected = r"`model.weights_hash`: 'aaa' in the directory, 'bbb' now; `seed`: 0 in the directory, 1 now\)"
    with pytest.raises(InputError, match=expected):
        open_run(path, synthetic_record(model=model, seed=1))
    with pytest.raises(InputError, match=r"`data\.spec`: 'digits' in the directory, None now; .*; and 4 more"):
        open_run(path, synthetic_record(seed=1, extra=True, data={}))
    assert contents(path) == before


def test_the_environment_is_no_part_of_a_run_and_lists_grow(tmp_path):
    path = fill(tmp_path)
    longer = {"shifts": ["snow", "clean"], "severities": [3], "protocols": {"source": {}, "replace": {"samples": 8}}}
    with open_run(path, synthetic_record(environment={"device": "cuda"}, **longer)) as run:
        assert run.rows == ROWS
    record = read_run(path).record
    assert run.record == record
    assert record["shifts"] == ["clean", "fog", "snow"]
    assert record["severities"] == [1, 2, 3]
    assert record["protocols"] == {"source": {}, "replace": {"samples": 8}}
    assert record["environment"] == {"device": "cpu", "batch_size": 32}


def test_what_is_no_run_directory_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(InputError, match=r"not empty and holds no record\.json"):
        open_run(tmp_path / "photos", synthetic_record())
    assert list(contents(tmp_path / "photos")) == ["cat.jpg"]
    for path in (tmp_path / "photos" / "cat.jpg", tmp_path / "photos" / "cat.jpg" / "run"):
        with pytest.raises(InputError, match=r"cat\.jpg"):
            open_run(path, synthetic_record())
    with pytest.raises(InputError, match=r"holds no record\.json"):
        read_run(tmp_path / "nowhere")


def test_a_damaged_record_is_refused(tmp_path):
    path = fill(tmp_path)
    for text in ("{", "[]"):
        (path / "record.json").write_text(text)
        with pytest.raises(InputError, match=r"record\.json is damaged"):
            open_run(path, synthetic_record())


def test_killed_before_the_record_was_written_it_starts_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".record.json.tmp").write_text("{")
    assert read_run(fill(tmp_path)).rows == ROWS


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"Cannot write to .*Permission denied"):
        open_run(tmp_path / "run", synthetic_record())


def test_an_unwritable_place_is_refused(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"Cannot write to .*: Permission denied\. Choose another directory"):
        open_run(tmp_path / "run", synthetic_record())


def test_a_full_disk_loses_nothing(tmp_path):
    """The limit on a file's size stops a write midway, as a full disk does: some bytes, then an error."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = fill(tmp_path, ROWS[:2])
    before = contents(path)
    with open_run(path, synthetic_record()) as run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["rows.jsonl"]) + 10, hard))
        try:
            with pytest.raises(InputError, match="What was finished is kept"):
                run.append(ROWS[2])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert contents(path) == before
        assert len(run.done) == 2
        run.append(ROWS[2])
    assert read_run(path).rows == ROWS


def test_a_disk_that_fills_while_syncing_loses_nothing(tmp_path, monkeypatch):
    path = fill(tmp_path, ROWS[:2])
    before = contents(path)

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_run(path, synthetic_record()) as run:
        monkeypatch.setattr(os, "fsync", refuse)
        for write in (lambda: run.append(ROWS[2]), lambda: run.write_summary({"images": 1})):
            with pytest.raises(InputError, match=r"No space left on device\. What was finished is kept"):
                write()
    assert contents(path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_device_without_space_is_named():
    with pytest.raises(InputError, match="Cannot write to /dev/full: No space left on device"):
        append_line(Path("/dev/full"), {})


def test_json_keeps_text_that_looks_like_numbers(tmp_path):
    content = {"text": "folder:[1,  2]", "numbers": [[1, 2.5], []]}
    write_json_atomically(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content


def test_json_is_replaced_whole(tmp_path):
    write_json_atomically(tmp_path / "a.json", {"b": [1, 0.1]})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_atomically(tmp_path / "a.json", {"b": math.nan})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 0.1]}
    assert list(contents(tmp_path)) == ["a.json"]


HOLD = """
import os, sys, time
from statshift.results import open_run
run = open_run(sys.argv[1], {"seed": 0})
if os.fork() == 0:  # a worker that outlives its parent
    os.close(1), os.close(2)
    time.sleep(20)
    os._exit(0)
print("held", flush=True)
time.sleep(20)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_one_process_writes_and_a_killed_one_lets_go(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(InputError, match="Another process is writing to"):
                open_run(tmp_path, {"seed": 0})
            assert read_run(tmp_path).rows == []
            holder.kill()
            holder.wait()
            open_run(tmp_path, {"seed": 0}).close()
        finally:
            os.killpg(holder.pid, 9)


def test_a_run_closes_once_and_for_all(tmp_path):
    run = open_run(tmp_path, synthetic_record())
    run.close()
    run.close()
    open_run(tmp_path, synthetic_record()).close()


def test_a_record_without_rows_binds_nobody(tmp_path):
    """A run that failed before its first row (a broken image, say) is begun anew with other options."""
    open_run(tmp_path, synthetic_record()).close()
    with open_run(tmp_path, synthetic_record(seed=1)) as run:
        assert run.record["seed"] == 1
        run.append(synthetic_row("fog", 1))
    with pytest.raises(InputError, match="`seed`: 1 in the directory, 0 now"):
        open_run(tmp_path, synthetic_record())


# summary


def test_the_summary_is_what_loops_over_the_bits_give():
    rows = [*benchmark_rows(), synthetic_row("spatter", 2, 0.5)]
    summary = summarise(rows, table="imagenet", class_counts=[8, 7, 7, 7, 7, 7, 7])
    assert (summary["images"], summary["relative_to"]) == (50, "alexnet:imagenet")
    source = summary["protocols"]["source"]
    accuracy = {(row["shift"], row["severity"]): sum(per_image(row)) / 50 for row in rows}
    assert source["clean_accuracy"] == accuracy["clean", 0]
    mean = sum(accuracy[c, s] for c in COMMON for s in range(1, 6)) / 75
    assert source["mean_accuracy"] == pytest.approx(mean, rel=1e-12)
    assert source["mean_error"] == pytest.approx(1 - mean, rel=1e-12)
    table, mce, relative = ALEXNET["imagenet"], 0.0, 0.0
    for c in COMMON:
        error = sum(1 - accuracy[c, s] for s in range(1, 6)) / 5
        shift = source["per_shift"][c]
        assert shift["by_severity"] == [accuracy[c, s] for s in range(1, 6)]
        assert shift["error"] == pytest.approx(error, rel=1e-12)
        assert shift["ce"] == pytest.approx(error / table[c], rel=1e-12)
        mce += error / table[c] / 15
        relative += (error - 1 + accuracy["clean", 0]) / (table[c] - ALEXNET_CLEAN["imagenet"]) / 15
    assert source["mce"] == pytest.approx(mce, rel=1e-12)
    assert source["relative_mce"] == pytest.approx(relative, rel=1e-12)
    assert list(source["per_shift"]) == [*COMMON, "spatter"]
    assert source["per_shift"]["spatter"]["by_severity"] == [None, accuracy["spatter", 2], None, None, None]
    assert source["per_shift"]["spatter"]["ce"] is None
    hits = per_image(rows[0])
    assert source["per_class_accuracy"] == [hits[c::CLASSES].mean() for c in range(CLASSES)]
    for severity, interval in enumerate(source["per_shift"]["snow"]["intervals"], start=1):
        right = round(50 * accuracy["snow", severity])
        assert interval == pytest.approx(list(stats.binomtest(right, 50).proportion_ci(method="wilson")))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_the_means_intervals_are_wilsons_of_what_the_images_are_worth():
    rows = benchmark_rows()
    source = summarise(rows, table="cifar10")["protocols"]["source"]
    wrong = {(row["shift"], row["severity"]): ~per_image(row) for row in rows}
    errors = np.array([[wrong[c, s] for s in range(1, 6)] for c in COMMON]).mean(1)
    alexnet = np.array([ALEXNET["cifar10"][c] for c in COMMON])[:, None]
    t, z = stats.t.ppf(0.975, 49), stats.norm.ppf(0.975)
    for name, values, most in (
        ("mean_interval", 1 - errors.mean(0), 1.0),
        ("mce_interval", (errors / alexnet).mean(0), (1 / alexnet).mean()),
    ):
        p = values.mean() / most
        n = 50 * p * (1 - p) / (values / most).var(ddof=1) * (z / t) ** 2
        centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        ends = most * np.array([centre - half, centre + half]) / (1 + z**2 / n)
        assert source[name] == pytest.approx(ends.tolist(), rel=1e-5)
    assert source["relative_mce"] is None


def test_the_mean_over_what_was_measured_says_what_it_is_over():
    rows = [row for row in benchmark_rows() if row["severity"] in (0, 3)]
    other = synthetic_row("pgd-linf:1/255", 0, 0.0)
    found = summarise([*rows, other, synthetic_row("speckle_noise", 3, 0.1)], table="cifar10")["protocols"]["source"]
    assert (found["mean_accuracy"], found["mce"]) == (None, None)
    assert found["mean_over"] == {"conditions": 15, "of": 75}
    mean = found["measured_mean"]
    assert (mean["over"], mean["conditions"]) == ("mean of the 15 at severity 3", 15)
    bits = np.array([per_image(row) for row in rows if row["shift"] != "clean"])
    assert mean["accuracy"] == pytest.approx(bits.mean())
    assert mean["interval"] == pytest.approx(mean_interval(bits.mean(0)))
    assert summarise(benchmark_rows())["protocols"]["source"]["measured_mean"] is None
    assert summarise([other])["protocols"]["source"]["measured_mean"] is None


def test_the_gain_over_what_was_measured_is_that_of_compare(tmp_path):
    source = [row for row in benchmark_rows() if row["severity"] in (0, 3)]
    adapted = [
        row | {"paired_source": before, "adapted_on": []}
        for row, before in zip(
            [row for row in benchmark_rows(0.7, seed=1, protocol="auto") if row["severity"] in (0, 3)],
            source,
            strict=True,
        )
    ]
    run = RunResult(tmp_path, synthetic_record(), [*source, *adapted])
    found = compare(run, run, protocols=("source", "auto"))
    gain = summarise(run.rows)["protocols"]["auto"]["measured_mean"]["gain"]
    assert found.measured_over == "mean of the 15 at severity 3"
    assert gain["accuracy"] == pytest.approx(found.measured_mean.difference)
    assert gain["interval"] == pytest.approx([found.measured_mean.low, found.measured_mean.high])


@pytest.mark.parametrize(
    ("conditions", "name"),
    [
        ([("fog", 3)], "mean of fog at severity 3"),
        ([(c, s) for c in COMMON for s in (1, 3)], "mean of the 15 at severities 1 and 3"),
        ([(c, s) for c in COMMON[:4] for s in range(1, 6)], "mean of 4 corruptions at severities 1 to 5"),
        ([("fog", 1), ("fog", 2), ("snow", 1)], "mean of 3 of the 75 common conditions"),
        ([("night", 0)], "mean of night"),
    ],
)
def test_a_means_name_says_what_it_is_over(conditions, name):
    assert mean_name(conditions) == name


def test_fewer_conditions_make_no_mean():
    rows = [row for row in benchmark_rows() if row_key(row)[1:3] not in {("fog", 5), ("clean", 0)}]
    source = summarise(rows, table="imagenet")["protocols"]["source"]
    for name in ("mean_accuracy", "mean_error", "mean_interval", "mce", "mce_interval", "relative_mce"):
        assert source[name] is None
    assert source["mean_over"] == {"conditions": 74, "of": 75}
    assert source["clean_accuracy"] is source["clean_interval"] is source["per_class_accuracy"] is None
    assert source["per_shift"]["fog"]["ce"] is None
    assert source["per_shift"]["fog"]["by_severity"][4] is source["per_shift"]["fog"]["intervals"][4] is None
    assert source["per_shift"]["snow"]["ce"] is not None


def test_without_a_table_there_is_no_mce():
    summary = summarise(benchmark_rows())
    assert summary["relative_to"] is None
    assert summary["protocols"]["source"]["mce"] is None
    assert summary["protocols"]["source"]["mean_accuracy"] is not None
    with pytest.raises(InputError, match="Did you mean 'cifar10'"):
        summarise(benchmark_rows(), table="cifar-10")


def test_a_run_has_mce_one_relative_to_itself():
    rows = benchmark_rows()
    summary = summarise(rows, table="imagenet", baseline=baseline_errors(rows))
    assert summary["relative_to"] == "baseline"
    assert summary["protocols"]["source"]["mce"] == pytest.approx(1)
    assert summary["protocols"]["source"]["relative_mce"] == pytest.approx(1)


def test_a_baseline_must_be_whole_and_make_errors():
    with pytest.raises(InputError, match="lacks some of gaussian_noise, shot_noise"):
        baseline_errors(ROWS)
    rows = benchmark_rows()
    assert "clean" not in baseline_errors(rows[1:])
    faultless = [synthetic_row("fog", row["severity"], 1.0) if row["shift"] == "fog" else row for row in rows]
    with pytest.raises(InputError, match="makes none under fog"):
        baseline_errors(faultless)


def test_protocols_stand_side_by_side_and_draws_are_averaged():
    source = [synthetic_row("clean", 0)]
    draws = [synthetic_row("clean", 0, seed=k, protocol="replace", draw=k) for k in range(3)]
    protocols = summarise(source + draws, class_counts=[8, 7, 7, 7, 7, 7, 7])["protocols"]
    assert protocols["source"] == summarise(source, class_counts=[8, 7, 7, 7, 7, 7, 7])["protocols"]["source"]
    correct = sum(row["correct"] for row in draws) / 3
    assert protocols["replace"]["clean_accuracy"] == pytest.approx(correct / 50)
    low, high = protocols["replace"]["clean_interval"]
    assert low < correct / 50 < high
    assert high - low > 0.2  # three draws over 50 images are not 150 images


def test_draws_of_the_benchmark_average_image_by_image():
    rows = [row for k in range(2) for row in benchmark_rows(seed=k, draw=k)]
    both = summarise(rows, table="cifar10")["protocols"]["source"]
    each = [summarise(rows[76 * i : 76 * i + 76], table="cifar10") for i in range(2)]
    mces = [one["protocols"]["source"]["mce"] for one in each]
    assert both["mce"] == pytest.approx(np.mean(mces), rel=1e-12)
    low, high = both["mce_interval"]
    assert low < both["mce"] < high


def test_a_shift_without_severities_has_one_value():
    row = synthetic_row("mine", 0)
    shift = summarise([row])["protocols"]["source"]["per_shift"]["mine"]
    assert shift["by_severity"] == [row["correct"] / 50]
    assert shift["accuracy"] == row["correct"] / 50
    assert len(shift["intervals"]) == 1


def test_rows_over_other_images_are_refused():
    with pytest.raises(InputError, match=r"same images, but got numbers of images \[49, 50\]"):
        summarise([synthetic_row("fog", 1), synthetic_row("fog", 2, images=49)])
    with pytest.raises(InputError, match=r"\[\]"):
        summarise([])


def test_statistics_may_be_anywhere_torch_can_move_them_from():
    fields = image_statistics(torch.randn(5, CLASSES), labels_of(5))
    strided = ImageStatistics(*(field.flip(0) for field in fields))
    row = make_row(strided, labels_of(5).flip(0), CLASSES, shift="fog", severity=1)
    assert bits(row).tolist() == fields.correct.tolist()[::-1]
