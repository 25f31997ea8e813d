"""A method owns its behaviour: what ships is what the registry says, and one of a user's own runs like any other."""

import json
import subprocess
import sys
from operator import attrgetter

import pytest
import torch
from torch.nn import functional as F

import training_jobs
from statshift import AdvBN, FeatureAttack, HardenOptions, InputError, Method, TrainingOptions, harden, load_data
from statshift._core.randomness import Draws
from statshift.hardening.batch import Batch
from statshift.hardening.choosing import chosen_method, find, made
from statshift.hardening.method import option_names
from statshift.hardening.methods.moex import MoEx
from statshift.hardening.registry import FINE_TUNED, METHODS, TRAINED, defaults
from statshift.models import source_hash
from statshift.report.subjects import _made
from statshift.tasks.targets import Targets
from test_seams import NoisyFeatures

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = f"py:{training_jobs.__file__}:build"
TWO_STEPS = TrainingOptions(epochs=1, batch_size=16, learning_rate=0.01)

FILE = '''
from dataclasses import dataclass

from statshift import Method


@dataclass(frozen=True)
class Smoothed(Method):
    """Train on the images with labels that share a part with all classes, by the mean loss of constant logits."""

    name = "smoothed"
    summary = "Szegedy et al., CVPR 2016"
    needs_cut = True

    share: float = 0.1

    def losses(self, branches, batch):
        logits = branches.suffix(branches.prefix(batch.images), "clean")
        uniform = -logits.log_softmax(1).mean()
        return {"clean": (1 - self.share) * batch.targets.loss(logits) + self.share * uniform}


SMOOTHED = Smoothed(0.3)


class Unnamed(Method):
    pass


class Twin(Method):
    name = "advbn"


def function(branches, batch):
    return {}
'''


@pytest.fixture(scope="module")
def digits():
    return load_data("digits:train", limit=32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return f"py:{path}"


# The registry


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_says_what_its_value_is(name):
    entry, value = METHODS[name], METHODS[name].load()
    assert issubclass(value, Method)
    assert (entry.name, entry.family, entry.summary, entry.title, entry.options) == (
        value.name,
        value.family,
        value.summary,
        value.title,
        option_names(value),
    )
    assert name == entry.name


def test_the_registry_is_read_without_torch():
    program = "import sys, statshift.hardening.registry as r; print(len(r.METHODS), 'torch' in sys.modules)"
    stub = (
        "import types, sys, pathlib\nimport importlib.util as u\nroot = pathlib.Path(u.find_spec('statshift').origin)"
    )
    light = f"{stub}\nsys.modules['statshift'] = m = types.ModuleType('statshift')\nm.__path__ = [str(root.parent)]\n"
    done = subprocess.run([sys.executable, "-c", light + program], capture_output=True, text=True, check=True)
    assert done.stdout == "9 False\n"


def test_the_families_say_which_command_offers_a_method():
    assert FINE_TUNED == ("advbn", "standard", "pixel-at", "advprop", "moex", "cutmix", "adversarial")
    assert TRAINED == ("standard", "cutmix", "adversarial", "corrupted", "ligs")


def test_a_name_stands_for_the_method_with_its_defaults():
    assert (
        HardenOptions("advbn", "layer1")
        == HardenOptions(AdvBN(), "layer1")
        == HardenOptions(AdvBN(FeatureAttack()), "layer1")
    )
    assert HardenOptions("standard").chosen == made(find("standard"))
    assert HardenOptions(AdvBN(FeatureAttack(3)), "layer1") != HardenOptions("advbn", "layer1")


def test_help_tells_each_method_s_default():
    assert defaults("steps", FINE_TUNED) == "advbn 6, pixel-at 3, advprop 5, adversarial 7"
    assert defaults("step-size", FINE_TUNED) == "advbn 0.2, pixel-at 1/255, advprop 1/255, adversarial 0.1"
    assert (
        defaults("epsilon", FINE_TUNED)
        == "advbn steps * step size - 0.1, pixel-at 1/255, advprop 4/255, adversarial 0.5"
    )


def test_the_registry_tells_what_the_flags_are_by_default():
    words = {1 / 255: "1/255", 4 / 255: "4/255"}
    special = {("advbn", "epsilon"), ("advbn", "no-clamp"), ("adversarial", "attack"), ("corrupted", "corruption")}
    for name, entry in METHODS.items():
        assert list(entry.flags) == [flag.name for flag in entry.load().flags]
        method = chosen_method(name, {"corruption": "fog"} if name == "corrupted" else {})
        for flag in method.flags:
            value = attrgetter(flag.field)(method)
            if (name, flag.name) not in special:
                shown = f"{value:g}" if isinstance(value, float) else str(value)
                assert entry.flags[flag.name] == words.get(value, shown)
            elif flag.name in ("attack", "corruption"):
                typed = entry.flags[flag.name].replace("NAME", "fog")
                assert chosen_method(name, {flag.name: typed}) == method
    attack = AdvBN().attack
    assert attack.bound == attack.steps * attack.step_size - 0.1


def test_options_are_given_by_their_names():
    assert chosen_method("advbn", {"steps": 3, "no-clamp": True, "form": None}) == AdvBN(FeatureAttack(3, clamp=False))
    assert chosen_method("moex", {}, {"share": 0.8}) == MoEx(0.8)
    assert chosen_method("adversarial", {}, {"attack.norm": "linf", "attack.steps": 2}).attack.norm == "linf"
    assert made(MoEx(0.5), {"probability": 0.25}) == MoEx(0.5, 0.25)


def test_moex_records_what_is_not_the_paper_s():
    assert MoEx().describe() == {}
    assert MoEx(0.8).describe() == {"moex": {"share": 0.8, "probability": 1.0}}


def test_reports_call_weights_by_the_method_s_title():
    titles = {name: _made({"verb": "harden", "method": name}) for name in METHODS}
    assert titles == {name: entry.title for name, entry in METHODS.items()}
    assert _made({"verb": "train", "method": "standard"}) == "trained"
    assert _made({"verb": "train", "method": "adversarial"}) == "adversarially trained"
    assert _made({"verb": "harden", "method": "fine-tuned by me"}) == "hardened (fine-tuned by me)"


# A method of one's own


def hardened(method, data, **more):
    return harden(SPEC, data, HardenOptions(method, "act1", TWO_STEPS), device="cpu", **more)


def test_a_new_method_runs_through_harden_and_its_record_has_it(digits, tmp_path):
    steps = []
    done = hardened(NoisyFeatures(0.5), digits, out=tmp_path, progress=steps.append)
    assert len(steps) == 2
    described = json.loads((tmp_path / "record.json").read_text())["hardening"]
    assert (described["method"], described["reference"], described["sigma"]) == ("noisy-features", "a test", 0.5)
    assert described["source_hash"] == source_hash(NoisyFeatures)
    assert done.record["weights_hash"] != hardened("standard", digits).record["weights_hash"]
    silent = hardened(NoisyFeatures(0.0), digits)
    assert silent.record["weights_hash"] == hardened("standard", digits).record["weights_hash"]
    assert silent.record["history"] == hardened("standard", digits).record["history"]


def test_another_value_of_its_option_is_another_training(digits, tmp_path):
    hardened(NoisyFeatures(0.5), digits, out=tmp_path)
    with pytest.raises(InputError, match=r"is of another training: it differs in hardening\.sigma\."):
        hardened(NoisyFeatures(0.4), digits, out=tmp_path)


@pytest.mark.parametrize(
    ("words", "share"),
    [
        (["Smoothed"], 0.1),
        (["Smoothed", "--method-args", "share=0.25"], 0.25),
        (["SMOOTHED"], 0.3),
        (["SMOOTHED", "--method-args", "share=0.5"], 0.5),
    ],
)
def test_the_command_runs_a_method_of_a_file(run, file, tmp_path, words, share):
    name, *more = words
    out = ["--out", tmp_path / "out", "--device", "cpu", "--json"]
    training = ["--data", "digits:train", "--limit", 32, "--epochs", 1, "--batch-size", 16, "--learning-rate", 0.01]
    done = run("harden", "--model", SPEC, "--at", "act1", "--method", f"{file}:{name}", *more, *training, *out)
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["hardening"]["method"] == "smoothed"
    assert record["hardening"]["share"] == share
    smoothed = find(f"{file}:Smoothed")(share)
    library = harden(
        SPEC, load_data("digits:train", limit=32, seed=0), HardenOptions(smoothed, "act1", TWO_STEPS), device="cpu"
    )
    assert record["weights_hash"] == library.record["weights_hash"]


def test_the_file_s_method_smooths_labels(file):
    branches = training_jobs.branches_of(dual=False).train(False)
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = Batch(images, Targets(torch.arange(8)), Draws(0, torch.arange(8), "test"))
    (loss,) = find(f"{file}:Smoothed")(0.2)(branches, batch).values()
    expected = F.cross_entropy(branches.clean(batch.images), batch.targets.labels, label_smoothing=0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_train_runs_it_too(run, file, tmp_path):
    """But where it needs a cut, which random weights have no use for."""
    done = run("train", "--model", SPEC, "--data", "digits", "--method", f"{file}:Smoothed", "--out", tmp_path / "out")
    assert done.code == 2
    assert "Expected `at` to name the layer whose features smoothed changes" in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{}:Smoothd"], "Unknown function of {place}, 'Smoothd'. Did you mean 'Smoothed'?"),
        (["{}:function"], "function to be a statshift.Method, a class or a value, but it is neither."),
        (["{}:Unnamed"], "Expected Unnamed to have a `name`, as a record has it."),
        (["{}:Twin"], "Expected Twin to have a name of its own, but advbn ships."),
        (
            ["{}:Smoothed", "--method-args", "shar=1"],
            "Unknown option of the method smoothed 'shar'. Did you mean 'share'?",
        ),
        (["{}:Smoothed", "--method-args", "share"], "Expected --method-args KEY=VALUE, but got 'share'."),
        (["{}:Smoothed", "--steps", "3"], "Expected no --steps for the method smoothed: that is of advbn, pixel-at"),
        (
            ["advbn", "--method-args", "attack.step=3"],
            "Unknown option attack of the method advbn, 'step'. Did you mean",
        ),
        (["moex", "--method-args", "share=2"], "Expected `share` in [0,1], but got 2."),
        (["corrupted"], "The method corrupted is one of statshift train."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_one_line(run, file, tmp_path, words, told):
    words = [word.format(file) for word in words]
    done = run(
        "harden", "--model", SPEC, "--data", "digits", "--at", "act1", "--out", tmp_path / "out", "--method", *words
    )
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert told.format(place=file[3:]) in done.err


def test_methods_in_python_are_checked():
    with pytest.raises(InputError, match="Expected `corruption`, which the method corrupted trains on"):
        HardenOptions("corrupted")
    with pytest.raises(
        InputError, match=r"Expected `method` to be a name or a statshift\.Method with its options, but got"
    ):
        HardenOptions(AdvBN, "act1")
