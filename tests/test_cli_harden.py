"""`statshift harden` and `statshift layers`: what they print and write, and bad input in one line."""

import json
import re

import pytest
import torch

from statshift import load_model, measure
from statshift.cli.layers import cuts_text, end_of_first_stage
from statshift.norms.layers import batch_norms
from statshift.splitting.cuts import Cut, find_cuts

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

MODEL_FILE = """
import torch
from torch import nn

def build(classes=10):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models.py"
    path.write_text(MODEL_FILE)
    return f"py:{path}:build"


@pytest.fixture
def harden(run, model, tmp_path):
    """Run harden on 64 digits for one epoch, other options as given."""

    def call(*words, data="digits"):
        base = ["--model", model, "--data", data, "--out", tmp_path / "out", "--epochs", 1, "--batch-size", 16]
        return run("harden", *base, "--limit", 64, "--device", "cpu", "--augment", "crop", *words)

    return call


def test_layers_lists_cuts_with_shapes_and_the_papers_names(run):
    done = run("layers", "--model", "torchvision:resnet50@none")
    lines = {line.split("  ")[0]: line for line in done.out.splitlines()}
    assert done.code == 0
    assert re.search(r"conv2_3\s+256 x 56 x 56\s+yes\s+11\s+42$", lines["layer1"])
    assert re.search(r"conv3_4\s+512 x 28 x 28\s+yes\s+24\s+29$", lines["layer2"])
    assert re.search(r"conv4_6\s+1024 x 14 x 14\s+yes\s+43\s+10$", lines["layer3"])
    assert "conv1" not in lines
    assert "layer4" not in lines
    assert done.out.splitlines()[-1].startswith("For AdvBN try --at layer1, the end of the first stage;")


@pytest.mark.parametrize(
    ("spec", "side", "stage"),
    [
        ("torchvision:resnet18@none", 224, "layer1"),
        ("torchvision:mobilenet_v2@none", 224, "features.3"),
        ("torchvision:densenet121@none", 224, "features.denseblock1"),
        ("timm:inception_v3", 299, "Conv2d_2b_3x3"),  # 147 px, where a quarter is 74 and the next size 73
        ("cifar:resnet20", 32, "layer1"),
        ("cifar:vgg11", 32, "features.2"),
    ],
)
def test_layers_fit_100_columns_and_name_the_end_of_the_first_stage(spec, side, stage):
    model = load_model(spec, pretrained=False)
    cuts = find_cuts(model, torch.zeros(1, 3, side, side))
    assert end_of_first_stage(cuts, side).name == stage
    assert end_of_first_stage([], side) is None
    for width in (100, 90):
        lines = cuts_text(cuts, width).splitlines()
        assert max(map(len, lines)) <= width
        assert [line.split()[0] for line in lines[2:]] == [cut.name for cut in cuts]


def test_other_names_are_left_out_where_they_do_not_fit_the_papers_last():
    cuts = [Cut("layer1", ("layer1.2.relu", "layer1.2", "conv2_3"), (8, 4, 4), True, ("a",), ("b",))]
    lines = [cuts_text(cuts, width).splitlines()[2] for width in range(30, 90)]
    assert list(dict.fromkeys(re.search(r"layer1  +(.*?)  +8 x 4 x 4", line)[1] for line in lines)) == [
        "...",
        "..., conv2_3",
        "..., layer1.2, conv2_3",
        "layer1.2.relu, layer1.2, conv2_3",
    ]


def test_harden_writes_both_branches_for_the_original_architecture(harden, run, model, tmp_path):
    done = harden("--at", "2", "--steps", 3, "--validation", "digits:train", "--learning-rate", 0.05)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "record.json").read_bytes())
    (epoch,) = record["history"]
    assert re.search(rf"^1\s+0.005\s+{epoch['losses']['clean']:.4f}\s+{epoch['losses']['adv']:.4f}", done.out, re.M)
    assert record["hardening"]["attack"]["epsilon"] == pytest.approx(0.5)
    found = {}
    for branch in ("clean", "adv"):
        found[branch] = load_model(model, weights=tmp_path / "out" / f"{branch}.safetensors")
        (row,) = measure(found[branch], "digits:train", shifts="clean", device="cpu").rows
        assert row["correct"] / row["images"] == epoch["validation"][branch]["clean"]
    source = load_model(model).network
    (first, second), *_ = zip(
        batch_norms(found["clean"].network).values(), batch_norms(found["adv"].network).values(), strict=True
    )
    assert torch.equal(first.running_mean, source[1].running_mean)
    assert torch.equal(second.running_mean, source[1].running_mean)
    assert not torch.equal(found["clean"].network[4].running_var, found["adv"].network[4].running_var)
    assert torch.equal(found["clean"].network[3].weight, found["adv"].network[3].weight)
    again = harden("--at", "2", "--steps", 3, "--validation", "digits:train", "--learning-rate", 0.05)
    assert again.code == 0
    assert "nothing was trained again" in again.err
    assert again.out == done.out
    assert json.loads((tmp_path / "out" / "record.json").read_bytes()) == record
    other = harden("--at", "2", "--steps", 3, "--validation", "digits", "--learning-rate", 0.05)
    assert other.code == 2
    assert "is of another training: it differs in validation.data." in other.err


def test_attack_options_reach_the_method(harden, tmp_path):
    assert harden("--method", "advprop", "--epsilon", 0.03, "--steps", 2, "--attack-dtype", "bfloat16").code == 0
    hardening = json.loads((tmp_path / "out" / "record.json").read_bytes())["hardening"]
    attack = hardening["attack"]
    assert (hardening["training"]["dtype"], hardening["training"]["attack_dtype"]) == ("float32", "bfloat16")
    assert (attack["epsilon"], attack["step_size"], attack["steps"], attack["norm"]) == (0.03, 1 / 255, 2, "linf")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--at", "5x"], r"Unknown layer '5x'\. .*Choose from: 1, 2, 3\."),
        (["--at", "0"], r"Cannot cut after '0': it lies before the first batch norm\. The nearest that work: 1\."),
        (["--at", "5"], r"Cannot cut after '5': it lies after the last batch norm.*The nearest that work: 3\."),
        ([], r"Expected --at to name the layer whose features advbn changes; `statshift layers` lists them"),
        (["--at", "2", "--epsilon", "-0.1"], r"Expected --epsilon to be at least 0, but got -0\.1\."),
        (["--at", "2", "--steps", "0"], r"Expected --steps to be an integer of at least 1, but got 0\."),
        (["--at", "2", "--batch-size", "1"], r"Expected --batch-size to be an integer of at least 2, but got 1"),
        (["--at", "2", "--model-args", "classes=5"], r"Expected labels below the model's 5 classes"),
        (["--method", "adbn"], r"Unknown method 'adbn'\. Did you mean 'advbn'\?"),
        (
            ["--method", "standard", "--steps", "3"],
            r"Expected no --steps for the method standard: that is of advbn, pixel-at, advprop, adversarial\.",
        ),
        (
            ["--method", "standard", "--form", "additive"],
            r"Expected no --form for the method standard: that is of advbn\.",
        ),
        (["--at", "2", "--epsilon", "1/x"], r"Expected --epsilon as a number or a fraction such as 1/255, but got"),
        (["--method", "standard", "--gamma", "2"], r"The method standard has no adversarial branch for --gamma"),
        (
            ["--method", "standard", "--attack-dtype", "bfloat16"],
            r"The method standard has no attack for --attack-dtype",
        ),
        (["--at", "2", "--attack-dtype", "float8"], r"Unknown dtype 'float8'"),
        (["--method", "cutmix", "--augment", "augmix"], r"The method cutmix is an augmentation.*no place for augmix"),
        (["--at", "2", "--shifts", "fog"], r"Expected --validation, the images that --shifts is of\."),
        (["--at", "2", "--validation", "digits", "--shifts", "foggy"], r"Unknown shift 'foggy'\. Did you mean 'fog'"),
        (["--method", "moex", "--at", "2", "--branch", "adv"], r"The method moex has no adversarial branch"),
        (["--at", "2", "--augment", "mixup"], r"Unknown augment 'mixup'"),
        (
            ["--at", "2", "--learning-rate", "0", "--epochs", "0"],
            r"--epochs to be an integer of at least 1.*--learning-rate above 0",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(harden, words, message):
    done = harden(*words)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert re.search(message, done.err), done.err


def test_a_model_without_batch_norm_can_be_cut_but_not_hardened_between_norms(run, tmp_path):
    path = tmp_path / "convnext.py"
    path.write_text("import timm\n\ndef build():\n    return timm.create_model('convnext_atto', pretrained=False)\n")
    listed = run("layers", "--model", f"py:{path}:build")
    assert listed.code == 0
    assert f"cuts in py:{path}:build at 224 px" in listed.out
    assert re.search(r"^stages\.0 .* 40 x 56 x 56 .* 0 +0$", listed.out, re.MULTILINE), listed.out
    assert "For AdvBN" not in listed.out
    done = run("harden", "--model", f"py:{path}:build", "--data", "digits", "--at", "stages.1", "--out", tmp_path / "o")
    assert done.code == 2
    assert re.search(r"Expected a model with batch normalization and running statistics.*LayerNorm2d", done.err)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_its_images(harden, tmp_path):
    done = harden("--at", "2", "--learning-rate", "1e38")
    assert done.code == 2
    message = done.err.splitlines()[-1]
    assert re.search(r"statshift: error: The loss of step 2 is not finite \(clean \S+, adv \S+\)", message)
    assert re.search(r"its batch begins with the images \d+(, \d+){7}", message)
    weights = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["parts"]["branches"].values()
    assert all(bool(weight.isfinite().all()) for weight in weights)
