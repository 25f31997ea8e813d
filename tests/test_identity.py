"""A run goes on where code, answers and images are the same, however their paths are spelt, and nowhere else."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from statshift import compare, load_data, load_model, measure
from statshift._core.errors import InputError, RandomAnswersWarning
from statshift._core.files import replacing
from statshift._core.identity import differing
from statshift._core.storage import alone
from statshift.hardening.harden import HardenOptions, harden
from statshift.hardening.training import TrainingOptions
from statshift.making.corrupted import write_corrupted
from statshift.making.shards import held
from statshift.models import import_function
from statshift.models.sources import file_hash, local_files
from statshift.results.provenance import answers_of
from statshift.shifts.conditions import Condition, CorruptionOptions
from statshift.shifts.corruptions import frost_source

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Clean accuracy")]

NET = """import torch
from torch import nn
from blocks import Act, Scale
from dimming import factor

def build():
    torch.manual_seed(0)
    return nn.Sequential(Scale(0.5), nn.Flatten(), nn.Linear(3072, 3), Act())

def dim(images, severity):
    return images * factor

def late():
    import later
"""
BLOCKS = """from torch import nn

class Scale(nn.Module):
    def __init__(self, mean):
        super().__init__()
        self.mean = mean

    def forward(self, images):
        return images - self.mean

class Act(nn.Module):
    def forward(self, logits):
        return logits
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a user's model, its parts, and twelve images of three classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in ("blocks", "dimming"):  # of another test's folder
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, text in {"net.py": NET, "blocks.py": BLOCKS, "dimming.py": "factor = 0.5\n", "later.py": ""}.items():
        Path(name).write_text(text)
    draw_images(0)
    return tmp_path


def draw_images(seed):
    random = np.random.default_rng(seed)
    for number in range(12):
        folder = Path("plain", f"c{number % 3}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.bmp")


def edit(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def run(model="py:net.py:build", data="folder:plain", out="out", shifts="clean", **options):
    return measure(model, data, shifts=shifts, out=out, device="cpu", examples=0, **options)


# E1: code and answers


@pytest.mark.parametrize(
    ("path", "old", "new", "named"),
    [
        ("net.py", "Scale(0.5)", "Scale(0.2)", "model.source_hash"),
        ("blocks.py", "return logits", "return -logits", "model.source_hash"),
        ("dimming.py", "0.5", "0.1", "model.source_hash"),
    ],
)
def test_a_run_is_not_gone_on_with_where_code_was_edited(here, path, old, new, named):
    run()
    edit(path, old, new)
    with pytest.raises(InputError, match=rf"out holds another run \(`{named}`: "):
        run()


def test_an_edited_file_and_what_it_imports_are_read_anew(here):
    images = torch.rand(2, 3, 32, 32)
    before = load_model("py:net.py:build", mean=(0, 0, 0), std=(1, 1, 1))(images)
    edit("blocks.py", "return logits", "return -logits")  # as long as before, and perhaps in the same second
    after = load_model("py:net.py:build", mean=(0, 0, 0), std=(1, 1, 1))(images)
    torch.testing.assert_close(after, -before, rtol=0, atol=0)


def test_the_rows_after_an_edit_are_those_of_a_fresh_run(here):
    first = run()
    edit("blocks.py", "return logits", "return -logits")
    fresh = run(out="fresh")
    program = "import sys; from statshift import measure; "
    program += "print(measure('py:net.py:build', 'folder:plain', shifts='clean', device='cpu').rows[0]['correct'])"
    words = [sys.executable, "-W", "ignore", "-c", program]
    alone_found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert fresh.rows[0]["correct"] == int(alone_found)
    assert fresh.rows[0]["cross_entropy_sum"] != first.rows[0]["cross_entropy_sum"]


def test_what_a_users_shift_imports_is_part_of_the_run(here):
    options = {"model": nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))}
    run(**options, shifts={"dim": import_function("net.py:dim")}, severities=[1])
    edit("dimming.py", "0.5", "0.1")
    with pytest.raises(InputError, match=r"out holds another run .*`functions.dim`"):
        run(**options, shifts={"dim": import_function("net.py:dim")}, severities=[1])


def test_the_hash_of_one_file_alone_is_that_of_its_bytes(here):
    assert file_hash(Path("blocks.py")) == hashlib.sha256(BLOCKS.encode()).hexdigest()[:16]
    assert {path.name for path in local_files(Path("net.py"))} == {"net.py", "blocks.py", "dimming.py", "later.py"}


def test_packages_and_relative_imports_are_followed(here):
    Path("own/parts").mkdir(parents=True)
    texts = {
        "own/__init__.py": "",
        "own/parts/__init__.py": "from . import deep\n",
        "own/parts/deep.py": "from ..top import x\nimport torch, os\n",
        "own/top.py": "x = 1\n",
        "own/unused.py": "",
        "begin.py": "import own.parts\n",
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    found = {path.relative_to(here).as_posix() for path in local_files(Path("begin.py"))}
    assert found == set(texts) - {"own/unused.py"}


class Line(nn.Module):
    """The same weights always; what it computes is told by an attribute that no state dict holds."""

    def __init__(self, sign=1.0, noise=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.sign, self.noise = nn.Linear(3072, 3), sign, noise

    def forward(self, images):
        return self.linear(self.sign * images.flatten(1) + self.noise * torch.rand(()))


def test_a_model_that_answers_otherwise_is_another_run(here):
    run(Line())
    assert run(Line()).rows  # it goes on
    with pytest.raises(InputError, match=r"out holds another run \(`answers`: "):
        run(Line(sign=0.9))


def test_answers_are_eight_numbers_whatever_is_drawn_around_them():
    model = load_model(Line())
    state = torch.get_rng_state()
    first = answers_of(model, (3, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 8
    assert answers_of(model, (3, 32, 32)) == first
    with pytest.warns(RandomAnswersWarning, match="twice the same image differently"):
        assert answers_of(load_model(Line(noise=1.0)), (3, 32, 32)) is None
    assert answers_of(load_model(Line(sign=float("nan"))), (3, 32, 32)) is None


def test_answers_may_differ_by_a_hundredth_of_the_largest():
    there = {"answers": [1.0, -2.0], "seed": 0}
    assert not differing(there, {"answers": [1.015, -2.0], "seed": 0})
    assert differing(there, {"answers": [1.025, -2.0], "seed": 0}) == ["answers"]
    assert differing(there, {"answers": [1.0], "seed": 0}) == ["answers"]
    assert differing(there, {"seed": 0}) == ["answers"]
    assert differing({"other": [1.0]}, {"other": [1.001]}) == ["other"]


# E2: content


def test_images_replaced_by_others_of_equal_size_are_another_run(here):
    run()
    sizes = [path.stat().st_size for path in sorted(Path("plain").rglob("*.bmp"))]
    draw_images(1)
    assert [path.stat().st_size for path in sorted(Path("plain").rglob("*.bmp"))] == sizes
    with pytest.raises(InputError, match=r"out holds another run \(`data.bytes_hash`: "):
        run()
    run(out="fresh")
    with pytest.raises(InputError, match=r"different images \(bytes differ\)"):
        compare("out", "fresh")


def test_only_the_images_that_are_used_count(here):
    chosen = load_data("folder:plain", limit=3)
    before, all_before = chosen.bytes_hash, load_data("folder:plain").bytes_hash
    unused = min({*range(12)} - {*chosen.indices.tolist()})
    Image.new("RGB", (32, 32)).save(chosen.source.paths[unused])
    assert load_data("folder:plain", limit=3).bytes_hash == before
    assert load_data("folder:plain").bytes_hash != all_before


def test_a_data_set_of_other_images_of_equal_size_is_another(here):
    torch.manual_seed(0)
    images = torch.rand(6, 3, 32, 32)

    def of(images):
        return load_data([(image, number % 3) for number, image in enumerate(images)])

    assert of(images).bytes_hash == of(images).bytes_hash != of(images.flip(-1)).bytes_hash

    class Drawn(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return torch.rand(3, 32, 32), index % 3

    assert load_data(Drawn()).bytes_hash is None  # drawn anew at every look: there is nothing to hold it to


def test_a_record_without_the_hash_of_the_bytes_is_still_compared(here):
    run(out="old")
    run(out="new")
    record = json.loads(Path("old/record.json").read_bytes())
    del record["data"]["bytes_hash"], record["answers"]
    Path("old/record.json").write_text(json.dumps(record))
    assert compare("old", "new").conditions[0].accuracy.difference == 0
    with pytest.raises(InputError, match="`answers`: None in the directory"):
        run(out="old")


# E3: spelling


@pytest.mark.parametrize("spelt", ["plain/", "./plain", "../{name}/plain", "{here}/plain", "copied"])
def test_one_folder_however_spelt_is_one_run(here, spelt):
    shutil.copytree("plain", "copied")
    first = run()
    before = Path("out/rows.jsonl").read_bytes()
    again = run(data=f"folder:{spelt.format(name=here.name, here=here)}")
    assert again.record["data"]["spec"] == first.record["data"]["spec"] == "folder:plain"
    assert Path("out/rows.jsonl").read_bytes() == before


def test_files_of_arrays_and_of_code_however_spelt_are_one_run(here):
    data = load_data("folder:plain")
    images, labels = data.tensors()
    np.savez("images.npz", images=(images * 255).byte().numpy(), labels=labels.numpy())
    torch.save(load_model("py:net.py:build").network.state_dict(), "weights.pt")
    run(load_model("py:net.py:build", weights="weights.pt"), "npz:images.npz")
    before = Path("out/rows.jsonl").read_bytes()
    run(load_model(f"py:{here}/net.py:build", weights=here / "weights.pt"), f"npz:{here}/images.npz")
    assert Path("out/rows.jsonl").read_bytes() == before
    edit("net.py", "def build", "def other():\n    return build()\n\ndef build")
    run("py:net.py:build", out="two")
    with pytest.raises(InputError, match=r"`model\.spec`: 'py:net.py:build' in the directory, 'py:./net.py:other' now"):
        run("py:./net.py:other", out="two")


@pytest.mark.filterwarnings("ignore:1 file that cannot be used is left out")
def test_what_is_skipped_is_named_below_the_folder(here):
    Path("plain/c0/0.bmp").write_bytes(b"no image")
    for spelt in ("plain", f"{here}/plain"):
        assert run(data=f"folder:{spelt}", data_options={"skip_bad": True}).record["data"]["skipped"] == ["c0/0.bmp"]


def test_stored_shifts_are_held_to_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = {"data.spec": "cifar-c:stored", "seed": 0}
    assert not differing(there, {"data.spec": f"cifar-c:{tmp_path}/stored/", "seed": 0})
    assert differing(there, {"data.spec": "cifar-c:other", "seed": 0}) == ["data.spec"]
    assert differing({"data.spec": "digits:test"}, {"data.spec": "digits:train"}) == ["data.spec"]
    assert differing({"data.spec": "folder:a"}, {"data.spec": "npz:a"}) == ["data.spec"]


def test_frost_is_told_by_content(shared, monkeypatch):
    folder = shared / "data" / "frost"
    if not folder.is_dir():
        pytest.skip("no frost photographs")
    monkeypatch.chdir(folder.parent)
    assert frost_source("frost") == frost_source("./frost/") == frost_source(folder)


# B1: one process at a time

TRAIN = {
    "options": HardenOptions("standard", at="input", training=TrainingOptions(epochs=1, batch_size=6)),
    "device": "cpu",
}


CPU = torch.device("cpu")


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 3))


@pytest.fixture
def locked(tmp_path):
    """A folder that another process holds."""
    program = "import sys, time; from statshift._core.storage import lock; from pathlib import Path; "
    program += "lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    folder = tmp_path / "locked"
    folder.mkdir()
    words = [sys.executable, "-c", program, str(folder / ".lock")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield folder
    process.kill()
    process.wait()
    process.stdout.close()


def test_every_output_folder_is_one_process_s_alone(here, locked):
    data = load_data("folder:plain")
    for work in (
        lambda: run(out=locked),
        lambda: harden(small(), data, out=locked, **TRAIN),
        lambda: write_corrupted(
            data, [Condition("clean", 0)], locked, options=CorruptionOptions(), layout="jpeg", device=CPU
        ),
        lambda: held(locked, ()).__enter__(),
    ):
        with pytest.raises(InputError, match=f"Another process is writing to {locked}: wait for it, or choose another"):
            work()
    assert [path.name for path in locked.iterdir()] == [".lock"]


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_bytes(b"a" * 9)
        second.write_bytes(b"b" * 9)
    assert path.read_bytes() == b"a" * 9  # of the one that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_goes(here):
    Path("work/fog").mkdir(parents=True)
    for name in ("work/.record.json.partial", "work/.record.json.0a1b2c3d.partial"):
        Path(name).write_bytes(b"half")
    Path("work/fog/.2.0a1b2c3d.partial/c0").mkdir(parents=True)
    with alone(Path("work")):
        assert sorted(path.name for path in Path("work").rglob("*")) == [".lock", "fog"]
