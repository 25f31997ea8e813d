"""What a training reads: the next batch while a step is at work, and each image once where it can; the weights stay."""

import os
import signal
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from statshift import HardenOptions, TrainingOptions, harden, load_data
from statshift._core.errors import DataWarning, InputError
from statshift.data.pixelfile import pixel_files
from statshift.hardening import batches as batches_module
from statshift.hardening.augmentation import AUGMENTATIONS, augmentation_for
from statshift.hardening.batches import Batches
from statshift.hardening.methods.standard import Standard
from statshift.hardening.trainer import train
from statshift.measuring import ahead
from statshift.splitting.branches import export
from training_jobs import ADVBN, OPTIONS, branches_of, build

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::statshift._core.errors.DefaultPreprocessingWarning"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

COUNT, BATCH = 40, 8
STANDARD = Standard()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """40 PNG files of 36 by 40 px in 10 class folders."""
    folder = tmp_path_factory.mktemp("tree")
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (COUNT, 36, 40, 3), np.uint8)):
        (folder / str(number % 10)).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / str(number % 10) / f"{number:02}.png")
    return f"folder:{folder}"


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """Let there be an idle core, whatever the machine; return what says otherwise."""
    monkeypatch.setattr(batches_module, "is_idle_beside", lambda workers, device: True)
    return lambda: monkeypatch.setattr(batches_module, "is_idle_beside", lambda workers, device: False)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded."""
    found, load = [], ImageFile.ImageFile.load

    def counted(image):
        if not hasattr(image, "counted"):
            image.counted = True
            found.append(Path(image.filename).name)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return found


def unheld(tree, **more):
    return load_data(tree, cache_bytes=0, **more)


def trained(data, method=ADVBN, augment="standard", **more):
    """Return the weights after two epochs, with dropout, which draws from torch's global generator."""
    branches = branches_of(dropout=0.3)
    options = replace(OPTIONS, batch_size=BATCH, augment=augment, **more.pop("options", {}))
    train(branches, data, method, options, **more)
    return {name: value for branch in branches.splits for name, value in export(branches, branch).items()}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "statshift-ahead"]


# While a step is at work


@pytest.mark.parametrize(("augment", "workers"), [*((name, 0) for name in AUGMENTATIONS), ("augmix", 2)])
def test_weights_are_the_same_whether_batches_are_read_ahead(tree, idle, augment, workers):
    data = unheld(tree, workers=workers)
    found = trained(data, augment=augment)
    assert readers() == []
    idle()
    assert same(found, trained(replace(data, workers=0), augment=augment))


@pytest.mark.parametrize("augment", ["none", "standard", "fast-autoaugment"])
def test_the_next_batch_is_decoded_while_a_step_is_at_work(tree, decoded, augment):
    """A step ends only when the batch behind it is decoded."""
    steps = []

    def step(branches, batch):
        steps.append(step)
        wanted = 1 + min(COUNT, BATCH * (len(steps) + 1))  # one, to count the classes
        for _ in range(3000):
            if len(decoded) < wanted:
                threading.Event().wait(0.01)
        assert len(decoded) >= wanted
        return STANDARD(branches, batch)

    train(branches_of(dual=False), unheld(tree), step, replace(OPTIONS, batch_size=BATCH, augment=augment, epochs=1))
    assert len(steps) == COUNT // BATCH


class _Drawn(torch.utils.data.Dataset):
    def __len__(self):
        return BATCH

    def __getitem__(self, index):
        return torch.rand(3, 40, 40), index


def test_what_a_step_draws_from_too_is_not_drawn_from_ahead(tree, idle):
    def reads_ahead(data, augment):
        return Batches(data, augmentation_for(augment, data), BATCH, 1, 10, torch.device("cpu")).reads_ahead

    drawing = {"autoaugment", "augmix"}
    data, by_workers = unheld(tree), unheld(tree, workers=1)
    assert {name for name in AUGMENTATIONS if not reads_ahead(data, name)} == drawing
    assert all(reads_ahead(by_workers, name) for name in AUGMENTATIONS)
    assert not reads_ahead(load_data(_Drawn()), "none")
    idle()
    assert not any(reads_ahead(data, name) for name in AUGMENTATIONS)


@pytest.mark.parametrize(
    ("workers", "device", "threads", "processes", "expected"),
    [
        (0, "cpu", 4, None, False),
        (0, "cpu", 3, None, True),
        (0, "cpu", 2, "2", False),
        (0, "cpu", 1, "2", True),
        (1, "cpu", 4, None, True),
        (0, "cuda", 4, None, True),
    ],
)
def test_what_is_idle_beside_a_step(monkeypatch, workers, device, threads, processes, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(ahead, "usable_cores", lambda: 4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert ahead.is_idle_beside(workers, torch.device(device)) == expected


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("workers", [0, 2])
def test_no_thread_is_left_where_a_step_raises(tree, workers):
    data = unheld(tree, workers=workers)

    def die(step):
        assert len(readers()) == 1
        raise Stop

    with pytest.raises(Stop) as raised:  # whose traceback holds the frames of the training
        trained(data, progress=die)
    assert readers() == []
    assert raised.value.__context__ is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_told_and_no_thread_is_left(tree, tmp_path, workers):
    for number in range(2 * BATCH):
        Image.fromarray(np.full((36, 40, 3), number, np.uint8)).save(tmp_path / f"{number:02}.png")
    path = tmp_path / "07.png"
    path.write_bytes(path.read_bytes()[:60])
    (tmp_path / "a").mkdir()
    for file in tmp_path.glob("*.png"):
        file.rename(tmp_path / "a" / file.name)
    with pytest.raises(InputError, match=r"Cannot read \S*07.png"):
        trained(replace(unheld(f"folder:{tmp_path}"), workers=workers))
    assert readers() == []


@pytest.mark.parametrize(("at", "workers"), [(1, 0), (5, 0), (7, 0), (7, 2)])
def test_ctrl_c_leaves_no_thread_and_the_training_goes_on_to_the_same_weights(tree, tmp_path, idle, at, workers):
    data, checkpoint = unheld(tree, workers=workers), tmp_path / "state.pt"

    def interrupt(step):
        if step.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(data, progress=interrupt, checkpoint=checkpoint)
    assert readers() == []
    seen = []
    found = trained(data, progress=seen.append, checkpoint=checkpoint)
    assert [step.step for step in seen] == list(range(at + 1, 2 * COUNT // BATCH + 1))
    idle()
    assert same(found, trained(unheld(tree)))


def test_a_closed_epoch_ends_its_thread(tree):
    data = unheld(tree)
    batches = Batches(data, augmentation_for("standard", data), BATCH, 1, 10, torch.device("cpu"))
    with closing(batches.epoch(0)) as coming:
        next(coming)
        assert len(readers()) == 1
    assert readers() == []


# Each image once


def hardened(tree, augment, out=None, **how):
    training = TrainingOptions(epochs=3, batch_size=BATCH, learning_rate=0.01, augment=augment)
    found = harden(build(dropout=0.3), tree, HardenOptions(at="act1", training=training), device="cpu", out=out, **how)
    return found.model.state_dict()


@pytest.mark.parametrize(
    ("augment", "workers"), [("none", 0), ("crop", 0), ("standard", 0), ("standard", 2), ("cutmix", 0)]
)
def test_three_epochs_decode_each_image_once_with_a_file_and_the_weights_are_the_same(
    tree, tmp_path, decoded, augment, workers
):
    how = {"cache_bytes": 0, "workers": workers}
    kept = hardened(tree, augment, data_options={**how, "cache": tmp_path, "cache_size": 10**9})
    if not workers:
        assert len(decoded) == len(set(decoded)) == COUNT
    decoded.clear()
    again = hardened(tree, augment, data_options={"cache": tmp_path})
    assert decoded == []
    unkept = hardened(tree, augment, data_options={"cache_bytes": 0, "cache": "none"})
    assert len(decoded) >= 3 * COUNT
    assert same(kept, unkept)
    assert same(again, unkept)
    assert len(pixel_files(tmp_path)) == 1


def test_without_a_file_memory_keeps_what_it_holds(tree, decoded):
    """Half of the images fit; the others are decoded in every epoch."""
    data = load_data(tree, cache_bytes=COUNT // 2 * 36 * 40 * 3, cache="none")
    batches = Batches(data, augmentation_for("standard", data), BATCH, 1, 10, torch.device("cpu"))
    for epoch in range(3):
        decoded.clear()
        assert len(list(batches.epoch(epoch))) == COUNT // BATCH
        assert len(decoded) == (COUNT if epoch == 0 else COUNT // 2)


@pytest.mark.parametrize(
    ("augment", "how"),
    [("autoaugment", {}), ("augmix", {}), ("fast-autoaugment", {}), ("standard", {"resize": 64, "crop": 64})],
)
def test_where_pixels_would_be_others_the_cache_is_not_used_and_that_is_told(tree, tmp_path, augment, how, monkeypatch):
    expected = hardened(tree, augment, data_options=how)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert same(hardened(tree, augment, data_options={**how, "cache_bytes": 1}), expected)  # no file by itself either
    assert [*tmp_path.iterdir()] == []
    told = f"`cache` is not used to train with the augmentation {augment}, which begins with the stored image"
    with pytest.warns(DataWarning, match=told):
        found = hardened(tree, augment, data_options={**how, "cache": tmp_path})
    assert same(found, expected)
    assert [*tmp_path.iterdir()] == []


def test_photographs_that_are_not_augmented_are_kept(tree, tmp_path, decoded):
    hardened(tree, "none", data_options={"resize": 64, "crop": 64, "cache": tmp_path})
    assert len(decoded) == len(set(decoded)) == COUNT


def test_validation_images_go_to_the_same_folder(tree, tmp_path, decoded):
    """Here they are the same images, so that nothing is decoded for them."""
    hardened(tree, "none", validation=tree, data_options={"cache": tmp_path})
    assert len(decoded) == len(set(decoded)) == COUNT
    assert len(pixel_files(tmp_path)) == 1


@pytest.mark.parametrize("command", ["harden", "train"])
def test_the_command_has_a_cache_and_writes_the_same_weights(tree, tmp_path, decoded, run, command):
    asked = [command, "--model", f"py:{Path(__file__).with_name('training_jobs.py')}:build", "--data", tree]
    asked += ["--epochs", 3, "--batch-size", BATCH, "--augment", "crop", "--device", "cpu", "--validation", tree]
    asked += ["--at", "act1"] if command == "harden" else []
    for name, cache in (("kept", tmp_path / "cache"), ("unkept", "none")):
        decoded.clear()
        done = run(*asked, "--cache", cache, "--cache-size", "1GB", "--out", tmp_path / name)
        assert done.code == 0, done.err
        if name == "kept":
            assert len(decoded) == len(set(decoded)) == COUNT
    assert len(pixel_files(tmp_path / "cache")) == 1
    kept, unkept = ((tmp_path / name / "clean.safetensors").read_bytes() for name in ("kept", "unkept"))
    assert kept == unkept
    done = run(*asked, "--augment", "augmix", "--cache", tmp_path / "other", "--out", tmp_path / "third")
    assert "warning: --cache is not used to train with the augmentation augmix" in " ".join(done.err.split())
    assert len(pixel_files(tmp_path / "other")) == 1  # of the validation images
    bad = run(*asked, "--cache-size", "much", "--out", tmp_path / "fourth")
    assert bad.code == 2
    assert "Expected --cache-size in bytes" in bad.err
