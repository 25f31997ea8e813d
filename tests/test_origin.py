"""Where weights come from: what hardened, trained and rectified weights say of themselves, and what others cannot."""

import json

import pytest
import torch
from safetensors import safe_open

from statshift import HardenOptions, TrainingOptions, harden, load_data, load_model, measure, train_from_scratch
from statshift.hardening.from_scratch import build
from statshift.making.rectified import write_rectified
from statshift.models import made_by, save_weights, weights_hash
from statshift.results.provenance import describe_model

SPEC, ARGUMENTS = "cifar:resnet20", {"num_classes": 10}
SHORT = TrainingOptions(epochs=1, batch_size=20, learning_rate=0.01)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Clean accuracy is"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def few():
    return load_data("digits:train", limit=40)


def loaded(path):
    return load_model(SPEC, weights=path, model_args=ARGUMENTS)


def said(path):
    return describe_model(loaded(path))["made_by"]


def test_hardened_weights_say_so(few, tmp_path):
    begun = build(SPEC, ARGUMENTS)
    save_weights(begun.network, tmp_path / "begun.safetensors")
    source = loaded(tmp_path / "begun.safetensors")
    before = weights_hash(source.network)
    assert describe_model(source)["made_by"] is None
    done = harden(source, few, HardenOptions("advbn", at="layer1.2", training=SHORT, branch="adv"), out=tmp_path / "h")
    expected = {"verb": "harden", "method": "advbn", "branch": "clean", "at": "layer1.2", "from": before}
    assert said(tmp_path / "h" / "clean.safetensors") == expected
    assert said(tmp_path / "h" / "adv.safetensors") == expected | {"branch": "adv"}
    assert done.model.made_by == expected | {"branch": "adv"}
    found = measure(loaded(tmp_path / "h" / "adv.safetensors"), few, shifts="clean", device="cpu")
    assert found.record["model"]["made_by"] == expected | {"branch": "adv"}
    assert measure(done.model, few, shifts="clean", device="cpu").record["model"] | {"spec": ""} == found.record[
        "model"
    ] | {"spec": ""}


def test_weights_from_scratch_are_trained_not_hardened(few, tmp_path):
    options = HardenOptions("standard", training=SHORT)
    done = train_from_scratch(SPEC, few, options, model_args=ARGUMENTS, out=tmp_path)
    begun = weights_hash(build(SPEC, ARGUMENTS, seed=SHORT.seed).network)
    expected = {"verb": "train", "method": "standard", "branch": "clean", "at": "input", "from": begun}
    assert said(tmp_path / "clean.safetensors") == done.model.made_by == expected
    again = harden(done.model, few, options, out=tmp_path / "again")
    assert again.model.made_by == expected | {"verb": "harden", "from": done.record["weights_hash"]["clean"]}


def test_rectified_weights_say_so(few, tmp_path):
    source = build(SPEC, ARGUMENTS)
    write_rectified(source, few, tmp_path / "r.safetensors", protocol="prior:8")
    expected = {"verb": "rectify", "protocol": "prior:8", "from": weights_hash(source.network)}
    assert said(tmp_path / "r.safetensors") == expected


@pytest.fixture
def marked(few, tmp_path):
    write_rectified(build(SPEC, ARGUMENTS), few, tmp_path / "r.safetensors", protocol="replace")
    return loaded(tmp_path / "r.safetensors")


def test_weights_that_were_changed_since_are_nobodys(marked):
    assert marked.made_by["verb"] == "rectify"
    assert load_model(marked).made_by == marked.made_by
    with torch.no_grad():
        next(marked.parameters()).add_(1)
    assert marked.made_by is None
    assert load_model(marked).made_by is None


def test_another_spelling_of_the_origin_is_no_other_run(marked, few, tmp_path):
    """Weights are known by their hash: the same ones without a header go on with the run."""
    save_weights(marked.network, tmp_path / "plain.safetensors")
    measure(marked, few, shifts="clean", out=tmp_path / "run", device="cpu")
    rows = (tmp_path / "run" / "rows.jsonl").read_bytes()
    measure(loaded(tmp_path / "plain.safetensors"), few, shifts="clean", out=tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() == rows
    assert json.loads((tmp_path / "run" / "record.json").read_text())["model"]["made_by"]["verb"] == "rectify"


def test_another_spelling_of_the_origin_is_no_other_training(marked, few, tmp_path):
    """A training that began with weights of a known origin goes on with the same ones without a header."""
    save_weights(marked.network, tmp_path / "plain.safetensors")
    options, steps = HardenOptions("standard", training=SHORT), []
    first = harden(marked, few, options, out=tmp_path / "h")
    again = harden(loaded(tmp_path / "plain.safetensors"), few, options, out=tmp_path / "h", progress=steps.append)
    assert steps == []
    assert weights_hash(again.model.network) == weights_hash(first.model.network)


FOREIGN = [
    "",
    "{",
    "null",
    "[]",
    "7",
    '"harden"',
    "{}",
    '{"hardening": 3}',
    '{"hardening": []}',
    '{"protocol": "auto"}',
    '{"model": {"weights_hash": "a"}}',
    "[" * 100_000,
    "\x00",
]


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_headers_are_ignored(tmp_path, text):
    source = build(SPEC, ARGUMENTS)
    save_weights(source.network, tmp_path / "w.safetensors", {"statshift": text})
    found = loaded(tmp_path / "w.safetensors")
    assert found.made_by is None
    assert weights_hash(found.network) == weights_hash(source.network)


def test_a_header_is_anybodys_text():
    """Only known keys, as short texts in one line."""
    record = {
        "model": {"weights_hash": {"a": 1}, "spec": "secret"},
        "hardening": {"method": "x" * 5000, "at": "a\nb\x1b[31m\u202ec", "training": {"epochs": 1}},
        "branch": ["clean"],
        "verb": "rm -rf",
        "more": "more",
    }
    assert made_by(record) == {"verb": "harden", "method": "x" * 120, "at": "ab[31mc"}
    assert made_by({"protocol": {"name": "<script>"}, "model": None}) == {"verb": "rectify", "protocol": "<script>"}


def test_other_kinds_of_files_say_nothing(tmp_path):
    source = build(SPEC, ARGUMENTS)
    torch.save(source.network.state_dict(), tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt").made_by is None


def test_the_record_lies_in_the_header(few, tmp_path):
    train_from_scratch(SPEC, few, HardenOptions("standard", training=SHORT), model_args=ARGUMENTS, out=tmp_path)
    with safe_open(tmp_path / "clean.safetensors", "pt") as file:
        header = json.loads(file.metadata()["statshift"])
    assert (header["verb"], header["branch"], header["hardening"]["method"]) == ("train", "clean", "standard")
