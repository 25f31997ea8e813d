"""What `fast` chooses, what it tells of the difference, and that the model and its weights stay as they are."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import statshift
from statshift import load_data, load_model
from statshift.measuring import fast
from statshift.measuring.fast import Way, find_batch_size, find_way, in_channels_last
from statshift.models.checkpoints import weights_hash
from tiny_network import network

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy is", "ignore:No frost photographs"),
]

measure = partial(statshift.measure, device="cpu", shifts=["clean", "gaussian_noise"], severities=[3], examples=0)
IMAGES = 60


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=IMAGES)


@pytest.fixture
def in_bfloat16(monkeypatch):
    monkeypatch.setattr(fast, "multiplies_bfloat16", lambda device: True)


@pytest.fixture
def in_full_precision(monkeypatch):
    monkeypatch.setattr(fast, "multiplies_bfloat16", lambda device: False)


def counts(rows):
    return [(row["shift"], row["correct"], row["bits"]) for row in rows]


@pytest.mark.parametrize(
    ("an_image_takes", "usual", "most", "size"),
    [
        ({4: 5, 8: 3, 16: 3.5, 32: 4}, 16, 99, 8),
        ({16: 3, 32: 2, 64: 1, 128: 1}, 16, 999, 64),
        ({16: 3, 32: 2, 64: 1}, 16, 60, 32),
        ({8: 1.98, 16: 2, 32: 1.98}, 16, 99, 16),
        ({1: 3}, 4, 99, 4),
        ({1: 1, 2: 2, 4: 3}, 4, 99, 1),
        ({1: 3}, 2, 99, 1),
        ({7: 2, 3: 1, 1: 4}, 16, 7, 3),
    ],
)
def test_the_batch_size_at_which_an_image_takes_least(an_image_takes, usual, most, size):
    assert find_batch_size(lambda images: images * an_image_takes.get(images, float("inf")), usual, most) == size


def test_a_copy_in_channels_last_has_the_same_weights():
    model = load_model(network())
    made = in_channels_last(model)
    first, ours = (one.network[0].weight for one in (model, made))
    assert (first.is_contiguous(), ours.is_contiguous()) == (True, False)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert weights_hash(made) == weights_hash(model)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(made(images), model(images))


@pytest.mark.parametrize(
    ("weights", "capability", "triton", "way"),
    [
        (3, (9, 0), object(), Way("bfloat16", "reduce-overhead")),
        (40_000_000, (8, 0), object(), Way("bfloat16", "default")),
        (3, (7, 5), object(), Way("float32", "reduce-overhead")),
        (3, (9, 0), None, Way("bfloat16")),
    ],
)
def test_what_runs_fast_on_a_gpu(weights, capability, triton, way, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(fast, "find_spec", lambda name: triton)
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.empty(weights, device="meta")))
    assert find_way(torch.device("cuda", 0), model, "float32") == way
    assert find_way(torch.device("cuda", 0), model, "float16") == Way("float16", way.compiled)


def test_the_difference_is_counted_and_stands_in_the_record(digits, in_bfloat16):
    model = load_model(network())
    found = measure(model, digits, fast=True)
    images = digits.tensors()[0]
    with torch.no_grad():
        plain = model(images).argmax(1)
        with torch.autocast("cpu", torch.bfloat16):
            quick = in_channels_last(model)(images).argmax(1)
    told = found.record["environment"]["fast"]
    assert found.record["dtype"] == told["dtype"] == "bfloat16"
    assert told["differing"] == int((plain != quick).sum())
    assert (told["tried"], told["predictions"], told["compiled"]) == (IMAGES, IMAGES, "")
    assert told["batch_size"] == found.record["environment"]["batch_size"] <= IMAGES
    assert told["float32_score"] == pytest.approx(np.mean(plain.numpy() == digits.labels))
    assert told["score"] == pytest.approx(np.mean(quick.numpy() == digits.labels))
    assert counts(found.rows) == counts(measure(model, digits, dtype="bfloat16").rows)


def test_where_nothing_multiplies_in_bfloat16_it_is_float32(digits, in_full_precision):
    model = load_model(network())
    found, plain = measure(model, digits, fast=True, batch_size=20), measure(model, digits, batch_size=20)
    assert counts(found.rows) == counts(plain.rows)
    assert found.record["dtype"] == "float32"
    assert found.record["environment"].pop("fast")["differing"] == 0
    assert found.record == plain.record
    assert model.network[0].weight.is_contiguous()


def test_attacks_that_a_batch_shares_keep_the_usual_batch_size(digits, in_full_precision, monkeypatch):
    monkeypatch.setattr(fast, "find_batch_size", lambda seconds, usual, most: 7)
    sizes = [
        measure(network(), digits, fast=True, shifts=shifts).record["environment"]["batch_size"]
        for shifts in (["clean"], ["clean", "fgsm:1/255"])
    ]
    assert sizes == [7, 128]


def test_a_model_that_cannot_be_compiled_runs_as_written(digits, monkeypatch):
    def refuses(images):
        raise RuntimeError("graph break")

    monkeypatch.setattr(fast, "find_way", lambda device, model, dtype: Way("float32", "reduce-overhead"))
    monkeypatch.setattr(torch, "compile", lambda model, **how: refuses)
    found = measure(network(), digits, fast=True)
    assert found.record["environment"]["fast"]["compiled"] == ""
    assert counts(found.rows) == counts(measure(network(), digits).rows)


class Hungry(nn.Module):
    """Has memory for 16 images at once."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, images):
        if len(images) > 16:
            raise torch.OutOfMemoryError
        return self.inner(images)


def test_batches_that_memory_has_no_room_for_are_not_taken(digits, in_full_precision):
    for given, most in ((None, 16), (50, 12)):
        found = measure(load_model(Hungry()), digits, fast=True, batch_size=given)
        assert found.record["environment"]["batch_size"] <= most
        assert counts(found.rows) == counts(measure(network(), digits).rows)


def test_the_command_tells_what_was_chosen(run, in_bfloat16, tmp_path):
    words = "measure --model cifar:resnet20 --data digits --limit 30 --shifts clean --fast --batch-size 10 --device cpu"
    told = run(*words.split(), "--out", tmp_path / "run")
    assert told.code == 0
    lines = [line for line in told.out.splitlines() if line.startswith("--fast: ")]
    assert len(lines) == 1
    assert lines[0].startswith("--fast: bfloat16, channels_last, 10 images at once; ")
    assert " of 30 predictions on 30 clean images differ from float32 (accuracy " in lines[0]
