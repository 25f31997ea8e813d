"""Decoded images in a file: each decoded once, by whichever process; whole, or decoded again."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from statshift._core.errors import DataWarning, InputError
from statshift.cli.typed import parse_bytes
from statshift.data import ImageData, load_data, pixelfile
from statshift.data.pixelfile import DISK_PAGE, bytes_on_disk, pixel_files

COUNT = 24
SLOT = 2 * DISK_PAGE
"""Bytes of an image of 40 px in the file: 4800, in full pages."""

PROGRAM = """
import sys, json, time
import numpy as np
from PIL import Image
from statshift.data import load_data
folder, cache, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
data = load_data(f"folder:{folder}", resize=48, crop=40, cache=cache, cache_bytes=0)
opened, open_file = [], Image.open
def counted(path):
    opened.append(str(path))
    time.sleep(pause)
    return open_file(path)
Image.open = counted
print("ready", flush=True)
sys.stdin.readline()
total = 0
for _ in range(5):
    for images, positions in data.batches(2):
        total += int((images.long().sum((1, 2, 3)) * np.int64(1 + positions[0])).sum())
        print("batch", flush=True)
print(json.dumps({"opened": opened, "total": total}))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpegs")
    draws = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "ab"[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (60, 80, 3), np.uint8)).save(path)
    return folder


def loaded(tree, cache, **more) -> ImageData:
    return load_data(f"folder:{tree}", resize=48, crop=40, **{"cache": cache, "cache_bytes": 0, **more})


def pixels_of(data, size=5):
    return torch.cat([images for images, _ in data.batches(size)])


@pytest.fixture(scope="module")
def expected(tree):
    return pixels_of(loaded(tree, "none"))


@pytest.fixture
def opened(monkeypatch):
    found, open_file = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: found.append(Path(path).name) or open_file(path))
    return found


def start(tree, cache, pause=0.0):
    words = [sys.executable, "-c", PROGRAM, str(tree), str(cache), str(pause)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    out, _ = process.communicate("\n")
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def test_five_passes_cost_one_decode_of_each_and_later_runs_none(tree, tmp_path, opened, expected):
    data = loaded(tree, tmp_path)
    opened.clear()
    for size in (5, 7, 3, COUNT, 1):
        assert torch.equal(pixels_of(data, size), expected)
    assert len(opened) == len(set(opened)) == COUNT
    again = loaded(tree, tmp_path)
    opened.clear()
    assert torch.equal(pixels_of(again), expected)
    images, _ = next(again.subset(np.array([3, 8])).batches(2))
    assert torch.equal(images, expected[[3, 8]])
    assert opened == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_limit_shares_the_file_and_what_is_missing_alone_is_decoded(tree, tmp_path, opened, expected, workers):
    some = loaded(tree, tmp_path, limit=10, workers=workers)
    assert torch.equal(pixels_of(some), expected[some.indices])
    whole = loaded(tree, tmp_path, workers=workers)
    opened.clear()
    assert torch.equal(pixels_of(whole), expected)
    if not workers:
        assert len(opened) == COUNT - 10
    assert pixel_files(tmp_path) == [whole.file.path]
    assert whole.file.has(np.arange(COUNT)).all()
    assert loaded(tree, tmp_path, interpolation="bicubic").file.path != whole.file.path


def test_others_files_of_the_same_names_and_sizes_are_others(tree, tmp_path):
    folder = tmp_path / "tree"
    folder.mkdir()
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(folder / "a.bmp")
    assert pixels_of(loaded(folder, tmp_path)).max() == 0
    Image.fromarray(np.full((50, 50, 3), 7, np.uint8)).save(folder / "a.bmp")
    assert pixels_of(loaded(folder, tmp_path)).min() == 7


def test_two_processes_decode_each_image_once_together_and_a_third_none(tree, tmp_path, opened, expected):
    pair = [start(tree, tmp_path, pause=0.01) for _ in range(2)]
    for process in pair:
        process.stdin.write("\n")
        process.stdin.flush()
    first, second = map(end, pair)
    assert first["total"] == second["total"]
    both = first["opened"] + second["opened"]
    assert len(set(both)) == COUNT
    assert len(both) <= COUNT + 4  # both may ask for the same batch of two at the same moment
    assert min(len(first["opened"]), len(second["opened"])) >= COUNT // 4
    data = loaded(tree, tmp_path)
    opened.clear()
    assert torch.equal(pixels_of(data), expected)
    assert opened == []


def test_a_torn_page_is_seen_and_decoded_again(tree, tmp_path, opened, expected):
    data = loaded(tree, tmp_path)
    pixels_of(data)
    with data.file.path.open("r+b") as file:
        file.seek(DISK_PAGE + 5 * SLOT + 100)
        file.write(b"\0" * 50)
    again = loaded(tree, tmp_path)
    opened.clear()
    assert torch.equal(pixels_of(again), expected)
    assert opened == [again.source.paths[5].name]
    again = loaded(tree, tmp_path)
    opened.clear()
    assert torch.equal(pixels_of(again), expected)
    assert opened == []


def test_a_killed_writer_leaves_a_file_that_goes_on(tree, tmp_path, opened, expected, monkeypatch):
    process = start(tree, tmp_path, pause=0.02)
    process.stdin.write("\n")
    process.stdin.flush()
    for _ in range(3):
        assert process.stdout.readline() == "batch\n"
    time.sleep(0.03)  # the next batch is claimed
    process.send_signal(signal.SIGKILL)
    process.communicate()
    data = loaded(tree, tmp_path)
    done = int(data.file.has(np.arange(COUNT)).sum())
    assert 6 <= done < COUNT
    opened.clear()
    assert torch.equal(pixels_of(data), expected)
    assert len(opened) == COUNT - done


def test_claims_of_the_living_are_waited_for_until_they_lapse(tree, tmp_path, opened, expected, monkeypatch):
    data, other = loaded(tree, tmp_path), loaded(tree, tmp_path)
    opened.clear()
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", os.getppid)
        other.file.claim(np.array([0, 1]))
    assert data.file.claimed(np.arange(4)).tolist() == [True, True, False, False]
    monkeypatch.setattr(pixelfile, "CLAIM_SECONDS", 0)
    assert torch.equal(pixels_of(data), expected)
    assert sorted(opened[-2:]) == sorted(path.name for path in data.source.paths[:2])  # after all others
    assert len(opened) == COUNT


def test_what_was_claimed_and_not_decoded_is_given_back(tree, tmp_path):
    data = loaded(tree, tmp_path)
    batches = data.batches(4)
    next(batches)
    data.file.claim(np.arange(8, 12))
    data.file.release(np.arange(12))
    marks = np.asarray(data.file._marks)
    assert (marks[:4] >> np.uint64(63)).all()
    assert not marks[4:].any()


def test_the_folder_is_bounded(tree, tmp_path, opened, expected):
    first = loaded(tree, tmp_path)
    pixels_of(first)
    taken = DISK_PAGE + COUNT * SLOT
    assert bytes_on_disk(first.file.path) == taken
    os.utime(first.file.path, (1, 1))
    second = loaded(tree, tmp_path, interpolation="bicubic", cache_size=2 * taken)
    pixels_of(second)
    assert pixel_files(tmp_path) == [first.file.path, second.file.path]
    os.utime(second.file.path, (2, 2))
    third = loaded(tree, tmp_path, interpolation="box", cache_size=2 * taken)
    pixels_of(third)
    assert pixel_files(tmp_path) == [second.file.path, third.file.path]
    small = loaded(tree, tmp_path, cache_size=DISK_PAGE + 6 * SLOT)
    opened.clear()
    for _ in range(2):
        assert torch.equal(pixels_of(small), expected)
    assert len(opened) == COUNT + (COUNT - 6)
    assert pixel_files(tmp_path) == [small.file.path]
    assert bytes_on_disk(small.file.path) == DISK_PAGE + 6 * SLOT
    assert torch.equal(pixels_of(first), expected)  # whose file is gone from the folder
    assert loaded(tree, tmp_path, cache_size=DISK_PAGE + 2 * SLOT).file.has(np.arange(COUNT)).sum() == 0


def test_a_full_disk_and_a_closed_folder_are_told_once(tree, tmp_path, expected, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.warns(DataWarning, match="Cannot keep decoded images in .*Not a directory"):
        data = loaded(tree, tmp_path / "file" / "below")
    assert data.file is None
    data = loaded(tree, tmp_path)
    write = os.pwrite

    def full(file, content, place):
        if place >= DISK_PAGE + 3 * SLOT:
            raise OSError(28, "No space left on device")
        return write(file, content, place)

    monkeypatch.setattr(os, "pwrite", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert torch.equal(pixels_of(data), expected)
    assert [str(one.message) for one in caught] == [
        f"Cannot write to {data.file.path} (No space left on device); further images are decoded in every pass."
    ]
    assert loaded(tree, tmp_path).file.has(np.arange(COUNT)).tolist() == [True] * 3 + [False] * (COUNT - 3)


def test_when_a_file_is_kept(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    total = COUNT * 40 * 40 * 3
    assert loaded(tree, None, cache_bytes=total).file is None
    assert loaded(tree, None, cache_bytes=0).file is None
    large = loaded(tree, None, cache_bytes=total - 1)
    assert large.file.path.parent == tmp_path / "statshift" / "pixels"
    assert large._cache._memory.nbytes == 0  # never two copies
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert loaded(tree, None, cache_bytes=total).file.path == large.file.path
    np.savez(tmp_path / "arrays.npz", images=np.zeros((4, 40, 40, 3), np.uint8))
    assert load_data(f"npz:{tmp_path / 'arrays.npz'}", cache=tmp_path).file is None
    assert load_data(f"npz:{tmp_path / 'arrays.npz'}", cache=tmp_path, crop=32).file is not None
    with pytest.raises(InputError, match="`cache` to be a folder"):  # as of a variable of the shell that is not set
        loaded(tree, "")


class _Drawn(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(3, 40, 40), index


def test_images_drawn_at_random_are_not_kept(tmp_path):
    with pytest.warns(DataWarning, match="they may differ"):
        assert load_data(_Drawn(), cache=tmp_path).file is None


def test_rows_are_the_same_with_and_without_it_and_clean_removes_it(tree, tmp_path, run):
    asked = ["--resize", 40, "--crop", 32, "--shifts", "clean,contrast,jpeg_compression", "--severities", 3]
    asked = ["measure", "--model", "cifar:resnet20", "--data", f"folder:{tree}", *asked, "--alexnet", "none"]
    cache = tmp_path / "cache"
    for name, more in (("without", []), ("with", ["--cache", cache, "--cache-size", "1.5GB"])):
        torch.manual_seed(0)  # of the network
        assert run(*asked, "--examples", 0, "--out", tmp_path / name, *more).code == 0
    without, kept = ((tmp_path / name / "rows.jsonl").read_bytes() for name in ("without", "with"))
    assert without == kept
    (path,) = pixel_files(cache)
    taken = bytes_on_disk(path)
    assert taken == DISK_PAGE * (1 + COUNT)
    (cache / "other.pixels").touch()
    done = run("data", "clean", "--cache", cache, "--json")
    assert json.loads(done.out) == {"folder": str(cache), "files": 1, "bytes": taken}
    assert [one.name for one in cache.iterdir()] == ["other.pixels"]
    assert "Removed 0 files of decoded images, 0 bytes" in run("data", "clean", "--cache", tmp_path / "no").err


@pytest.mark.parametrize(
    ("text", "size"), [("12", 12), ("20GB", 20 * 10**9), ("1.5 tb", 1500 * 10**9), ("500M", 5 * 10**8), (None, None)]
)
def test_sizes_are_typed_with_their_unit(text, size):
    assert parse_bytes("cache-size", text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "20GiB", "much"])
def test_another_size_is_refused(text):
    with pytest.raises(InputError, match="Expected --cache-size in bytes, such as 20GB or 500MB, but got"):
        parse_bytes("cache-size", text)
