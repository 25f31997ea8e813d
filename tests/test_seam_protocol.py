"""A protocol owns its behaviour: what ships is what the registry says, and one of a user's own runs like any other."""

import json
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

import statshift
import training_jobs
from statshift import AdaptationOptions, InputError, Protocol, Rule, load_data, load_model
from statshift.adapting.choosing import find, resolve_protocols
from statshift.adapting.protocol import option_names
from statshift.adapting.protocols.auto import Auto
from statshift.adapting.protocols.prior import Prior
from statshift.adapting.protocols.replace import Replace
from statshift.adapting.protocols.running import Running
from statshift.adapting.rectify import rectified, rectify
from statshift.adapting.registry import DRAWN_KINDS, FAMILIES, FEW_KINDS, PROTOCOLS, WRITABLE, WRITTEN_KINDS, spelled
from statshift.making.rectified import write_rectified
from statshift.models import import_function
from statshift.norms.layers import batch_norms
from statshift.norms.statistics import mix
from statshift.report.building import build_report
from test_protocols import build as network_of_digits
from test_protocols import pixels_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
    pytest.mark.filterwarnings("ignore:The images to rectify to are alike"),  # digits are to random features
]

SPEC = f"py:{training_jobs.__file__}:build"

FILE = '''
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import one_hot

from statshift import Adapter, Protocol, Rule, Stream
from statshift.adapting.protocol import Answer
from test_seams import Cautious


BOLD = Cautious(1.0)


@dataclass(frozen=True)
class Sinking(Stream):
    """Lower the logit of the first class a little more with each batch."""

    name = "sinking"

    step: float = 1.0

    def begin(self, model, options):
        sunk = 0.0

        def answer(images):
            nonlocal sunk
            sunk += self.step
            logits = model(images).clone()
            logits[:, 0] -= sunk
            return logits

        return answer


@dataclass(frozen=True)
class Settled(Adapter):
    """Have torch itself replace the statistics."""

    name = "settled"

    def adapt(self, model, images):
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
                layer.reset_running_stats()
                layer.train()
        model(images)
        return model.eval()


@dataclass(frozen=True)
class Guess(Protocol):
    """Answer one class, whatever there is to be seen: a protocol upon none of the bases."""

    name = "guess"
    family = "whole set"
    not_attacked = "which does not look at the images"
    not_exported = "it has no weights"

    answer: int = 0

    def adapted(self, session):
        return nullcontext(Answer(lambda images: one_hot(torch.full((len(images),), self.answer), 10).float()))


GUESS = Guess(4)


class Unnamed(Rule):
    pass


class Twin(Rule):
    name = "auto"


class Nowhere(Protocol):
    name = "nowhere"
    family = "streem"


@dataclass(frozen=True)
class Needy(Rule):
    part: float
    name = "needy"


@dataclass(frozen=True)
class Kind(Rule):
    kind: str = ""
    name = "of-a-kind"
'''


@pytest.fixture(scope="module")
def network():
    return network_of_digits()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=60)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def own(mine):
    return lambda name: import_function(f"{mine}:{name}")


def measured(network, digits, protocols, shifts=("clean", "contrast"), **more):
    out = more.pop("out", None)
    return statshift.measure(
        network,
        digits,
        shifts=shifts,
        severities=[5],
        rectify=protocols,
        adaptation=AdaptationOptions(16, **more),
        device="cpu",
        out=out,
    )


def same(model, other):
    return all(torch.equal(first, second) for first, second in zip(model.buffers(), other.buffers(), strict=True))


def rows_of(found, name):
    """Return the rows of a protocol, with another name."""
    return [row | {"protocol": ""} for row in found.rows if row["protocol"] == name]


# The registry


@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_entry_says_what_its_value_is(name):
    entry, value = PROTOCOLS[name], PROTOCOLS[name].load()
    assert issubclass(value, Protocol)
    assert (entry.name, entry.family, entry.summary, entry.title) == (
        value.name,
        value.family,
        value.summary,
        value.title,
    )
    assert set(entry.options) <= set(option_names(value))
    assert (name, value().label, value().code) == (entry.name, name, None)
    assert entry.options == ((value.number.field,) if value.number else ())
    assert FAMILIES[value.family].written == (not value.not_exported)


def test_the_registry_is_read_without_torch():
    program = "import sys, statshift.adapting.registry as r; print(len(r.PROTOCOLS), 'torch' in sys.modules)"
    stub = (
        "import types, sys, pathlib\nimport importlib.util as u\nroot = pathlib.Path(u.find_spec('statshift').origin)"
    )
    light = f"{stub}\nsys.modules['statshift'] = m = types.ModuleType('statshift')\nm.__path__ = [str(root.parent)]\n"
    done = subprocess.run([sys.executable, "-c", light + program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(PROTOCOLS)} False\n"


def test_families_say_what_reports_and_help_ask_of_records():
    assert (FEW_KINDS, DRAWN_KINDS, WRITTEN_KINDS) == (
        ("layers", "model"),
        ("layers", "model", "stream"),
        ("layers", "full"),
    )
    assert spelled().startswith("auto, replace, prior[:COUNT], batch, running[:MOMENTUM], full, tent[:RATE]")
    assert spelled(*WRITABLE) == "auto, replace, prior[:COUNT], full"


def test_a_name_stands_for_a_value():
    assert find("auto") == Auto()
    assert find("prior:64") == Prior(64) != find("prior")
    assert [value.label for value in (Prior(), Prior(64), Running(0.3), Auto())] == [
        "prior",
        "prior:64",
        "running:0.3",
        "auto",
    ]
    assert resolve_protocols(["prior:64", Prior(64), Replace, "source"]) == {
        "prior:64": Prior(64),
        "replace": Replace(),
    }


def test_a_value_gives_the_rows_and_the_record_of_its_name(network, digits):
    named = measured(network, digits, ["prior:64", "running:0.3", "auto"], draws=2)
    valued = measured(network, digits, [Prior(64), Running(0.3), Auto], draws=2)
    assert named.rows == valued.rows
    assert named.record["protocols"] == valued.record["protocols"]
    assert named.record["protocols"]["prior:64"]["prior_count"] == 64
    images = pixels_of(digits)
    for protocol in ("prior:64", Prior, partial(prior_of, count=64)):
        more = {"prior_count": 64} if protocol is Prior else {}
        assert same(rectify(network, images, protocol, **more), rectify(network, images, Prior(64)))
        assert not same(rectify(network, images, protocol, **more), rectify(network, images, "prior"))


def prior_of(stored, observed, images, *, count=16):
    return mix(stored, observed, 1 - images / (count + images))


def test_auto_is_no_exception(network, digits):
    """A function that asks for what `auto` asks for does what it does."""

    def mine(stored, observed, images, *, eps, persisting, certain, agreeing):
        asked = {"eps": eps, "persisting": persisting, "certain": certain, "agreeing": agreeing}
        return Auto().target(stored, observed, images, **asked)

    @dataclass(frozen=True)
    class Copied(Rule):
        name = "copied"

        target = Auto.target

    found = measured(network, digits, ["auto", {"mine": mine}, Copied()], draws=2)
    assert rows_of(found, "mine") == rows_of(found, "auto") == rows_of(found, "copied")
    described = found.record["protocols"]
    assert described["copied"]["function"].endswith("Copied")
    assert {key: value for key, value in described["copied"].items() if key != "function"} == described["auto"]


# Protocols of one's own


def test_a_rule_of_ones_own_is_measured_rectified_by_and_written(network, digits, own, tmp_path):
    cautious = own("Cautious")
    shifts = ("clean", "contrast", "pgd-linf:2/255:2")
    found = measured(network, digits, [cautious(0.5), {"bold": own("BOLD")}], shifts)
    described = found.record["protocols"]["cautious"]
    assert (described["kind"], described["part"], described["samples"]) == ("layers", 0.5, 16)
    assert described["layers"] == list(batch_norms(network))
    assert re.fullmatch(r"\w+:Cautious", described["function"])
    assert [row["images"] for row in rows_of(found, "cautious")] == [44] * 3
    assert rows_of(found, "cautious")[1]["cross_entropy_sum"] != rows_of(found, "bold")[1]["cross_entropy_sum"]
    still = measured(network, digits, cautious(0.0))
    sources = [row["paired_source"] for row in rows_of(still, "cautious")]
    assert [row["correct"] for row in rows_of(still, "cautious")] == [row["correct"] for row in sources]

    images = 1 - pixels_of(digits)[:16]
    adapted = rectify(network, images, cautious(0.25))
    with rectified(network, images, cautious, part=0.25) as model:
        assert same(model, adapted)
    persisting = statshift.diagnose(network, images).persisting
    with torch.no_grad():
        mean = network[0](images).mean((0, 2, 3))
    torch.testing.assert_close(
        adapted[1].running_mean, network[1].running_mean + 0.25 * persisting * (mean - network[1].running_mean)
    )

    model, out = load_model(deepcopy(network), mean=(0, 0, 0), std=(1, 1, 1)), tmp_path / "w.safetensors"
    record = write_rectified(model, digits, out, protocol=cautious(0.25), options=AdaptationOptions(16))
    assert (record["protocol"]["name"], record["protocol"]["part"], record["changed"]) == ("cautious:0.25", 0.25, True)


def again(network, digits, protocol):
    """Return the cross-entropy of clean images where a stream begins anew with each batch."""
    return rows_of(measured(network, digits, protocol, reset_every=1), protocol.name)[0]["cross_entropy_sum"]


def test_a_stream_of_ones_own_begins_at_the_source_and_is_refused_by_its_own_word(network, digits, own, tmp_path):
    sinking = own("Sinking")
    still, rising = (rows_of(measured(network, digits, sinking(step)), "sinking") for step in (0.0, -1e3))
    assert [row["bits"] == row["paired_source"]["bits"] for row in still] == [True, True]
    assert [(row["images"], row["correct"]) for row in rising] == [(60, int((digits.labels == 0).sum()))] * 2
    assert rising[0]["cross_entropy_sum"] != pytest.approx(again(network, digits, sinking(-1e3)), rel=1e-3)
    with pytest.raises(InputError, match="Cannot attack sinking, whose statistics move with every batch: measure pgd"):
        measured(network, digits, sinking, shifts=["pgd-linf:2/255:2"])
    with pytest.raises(InputError, match=r"sinking leaves no statistics to write: they move with every batch\. Write"):
        write_rectified(load_model(deepcopy(network)), digits, tmp_path / "w.safetensors", protocol=sinking())
    with pytest.raises(InputError, match="sinking has no statistics to write: they move with every batch"):
        rectify(network, pixels_of(digits), sinking)


def test_an_adapter_of_ones_own_is_measured_attacked_and_written(network, digits, own, tmp_path):
    settled = own("Settled")
    found = measured(network, digits, [settled, "replace"], shifts=("clean", "pgd-linf:2/255:2"), unbiased=True)
    for first, second in zip(rows_of(found, "settled"), rows_of(found, "replace"), strict=True):
        assert (first["bits"], first["adapted_on"]) == (second["bits"], second["adapted_on"])
    model = load_model(deepcopy(network), mean=(0, 0, 0), std=(1, 1, 1))
    for name, protocol in (("own", settled), ("theirs", "replace")):
        options, out = AdaptationOptions(16, unbiased=True), tmp_path / f"{name}.safetensors"
        assert write_rectified(model, digits, out, protocol=protocol, options=options)["changed"]
    first, second = (
        load_model(deepcopy(network), weights=tmp_path / f"{name}.safetensors") for name in ("own", "theirs")
    )
    for layer, other in zip(batch_norms(first).values(), batch_norms(second).values(), strict=True):
        torch.testing.assert_close(layer.running_var, other.running_var, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="The protocol settled has no statistics to write: it returns a model of its"):
        rectify(network, pixels_of(digits), settled())


def test_a_protocol_may_be_built_upon_none_of_the_bases(network, digits, own, tmp_path):
    guess = own("Guess")
    found = measured(network, digits, guess(3), draws=2)
    assert [row["correct"] for row in rows_of(found, "guess")] == [int((digits.labels == 3).sum())] * 2
    assert found.record["protocols"]["guess"]["answer"] == 3
    with pytest.raises(InputError, match="Cannot attack guess, which does not look at the images: measure pgd-linf"):
        measured(network, digits, guess, shifts=["pgd-linf:2/255:2"])
    with pytest.raises(InputError, match=r"guess leaves no statistics to write: it has no weights\. Write"):
        write_rectified(load_model(deepcopy(network)), digits, tmp_path / "w.safetensors", protocol=guess())


def test_another_value_of_its_option_is_another_run(network, digits, own, tmp_path):
    measured(network, digits, own("Cautious")(0.5), out=tmp_path)
    with pytest.raises(InputError, match="cautious"):
        measured(network, digits, {"cautious": own("Cautious")(0.4)}, out=tmp_path)


def test_the_command_measures_reports_and_writes_protocols_of_a_file(run, mine, tmp_path):
    common = ["--model", SPEC, "--data", "digits", "--device", "cpu"]
    names = ("Cautious", "BOLD", "Sinking", "Settled", "GUESS")
    spec = ",".join(f"py:{mine}:{name}" for name in names)
    out = tmp_path / "run"
    done = run("measure", *common, "--limit", 40, "--shifts", "clean", "--rectify", spec, "--samples", 16, "--out", out)
    assert done.code == 0, done.err
    found = statshift.read_run(out)
    assert [row["protocol"] for row in found.rows] == ["source", *names]
    described = found.record["protocols"]
    assert [described[name].get("part") for name in ("Cautious", "BOLD")] == [0.5, 1.0]
    assert described["Sinking"]["kind"] == "stream"
    page = json.dumps([str(block) for block in vars(build_report([out])).values()])
    assert all(name in page for name in names)
    for name, code in (("BOLD", 0), ("Settled", 0), ("Sinking", 2)):
        file = tmp_path / f"{name}.safetensors"
        done = run("rectify", *common, "--protocol", f"py:{mine}:{name}", "--samples", 16, "--out", file)
        assert (done.code, file.exists()) == (code, code == 0), done.err
    assert "The protocol Sinking leaves no statistics to write: they move with every batch." in done.err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Unnamed", "Expected Unnamed to have a `name`, as rows have it."),
        ("Twin", "Expected Twin to have a name of its own, but auto ships."),
        ("Nowhere", "Unknown family of Nowhere, 'streem'. Did you mean 'stream'?"),
        ("Needy", "Expected a value of Needy, since `part` has no default."),
        ("Kind", "Expected Kind to have no option 'kind', which every record has: call it otherwise."),
    ],
)
def test_protocols_that_do_not_say_what_they_must_are_told_in_one_line(network, digits, own, name, told):
    for protocols in (own(name), {"mine": own(name)}):
        with pytest.raises(InputError) as error:
            measured(network, digits, protocols)
        assert str(error.value).startswith(told)


def test_two_values_of_one_name_are_told_apart_by_names_of_ones_own(network, digits, own):
    cautious = own("Cautious")
    with pytest.raises(InputError, match="The protocol name 'settled' is given twice"):
        measured(network, digits, [own("Settled"), {"settled": cautious(0.1)}])
    found = measured(network, digits, [{"a": cautious(0.1), "b": cautious(0.1)}])
    assert rows_of(found, "a") == rows_of(found, "b")


def test_options_of_a_value_are_checked_by_name(network, digits, own):
    with pytest.raises(InputError, match=r"Unknown option of the protocol 'prt'.* statistics, where, unbiased, part"):
        rectify(network, pixels_of(digits), own("Cautious"), prt=1)
    with pytest.raises(InputError, match="Expected `prior_count` to be 0 or more, but got -1"):
        rectify(network, pixels_of(digits), "prior", prior_count=-1)
    assert np.isinf(find("prior:inf").prior_count)
    assert find("prior:inf").values() == {"prior_count": "inf"}
