"""Protocols as a run meets them: which images they get, a user's own, bad input, interruption, the model as found."""

import copy
import json
import re
import shutil
from contextlib import nullcontext, suppress
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import statshift
from statshift import CorruptionOptions, corrupt, load_data
from statshift._core.errors import InputError, LeftAloneWarning
from statshift.adapting.choosing import resolve_protocols
from statshift.adapting.drawing import adaptation_positions, shuffled_batches
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocols.running import Running
from statshift.norms.statistics import mix
from statshift.results import row_key
from synthetic_runs import per_image

measure = partial(statshift.measure, device="cpu", shifts=["clean", "contrast"], severities=[5])

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
    pytest.mark.filterwarnings("ignore:The images to rectify to are alike"),  # digits are to random features
]


def build():
    """Return an untrained network with three batch norms that have seen digits."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(
            *(nn.Conv2d(3, 12, 5, 2), nn.BatchNorm2d(12, momentum=None), nn.ReLU()),
            *(nn.Conv2d(12, 12, 3), nn.BatchNorm2d(12, momentum=None), nn.ReLU()),
            *(nn.Conv2d(12, 12, 3, 2), nn.BatchNorm2d(12, momentum=None), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(12 * 25, 10)),
        )
        with torch.no_grad():
            network((pixels_of(load_data("digits", limit=200)) - 0.45) / 0.23)
    return network.eval()


def pixels_of(data):
    return torch.cat([images for images, _ in data.batches(50)]).float() / 255


@pytest.fixture(scope="module")
def network():
    return build()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=60)


def draws(rows, name):
    return [row for row in rows if row["protocol"] == name]


def without(row, *names):
    return {key: value for key, value in row.items() if key not in names}


# Which images


def test_a_smaller_sample_lies_in_every_larger_one():
    indices = np.arange(100, 400, 3)
    before = np.empty(0, np.int64)
    for samples in range(1, 101):
        positions = adaptation_positions(indices, samples, seed=4, draw=2)
        assert len(positions) == samples
        assert np.array_equal(positions, np.unique(positions))
        assert np.isin(before, positions).all()
        before = positions
    assert np.array_equal(before, np.arange(100))


def test_draws_are_addressed_by_the_place_in_the_whole_data_set():
    """Images that are not drawn may be missing, and the others are drawn all the same."""
    indices = np.arange(500)
    chosen = indices[adaptation_positions(indices, 40, seed=0, draw=1)]
    some = np.sort(np.concatenate([chosen, np.setdiff1d(indices, chosen)[::3]]))
    assert np.array_equal(some[adaptation_positions(some, 40, seed=0, draw=1)], chosen)
    assert not np.array_equal(indices[adaptation_positions(indices, 40, seed=1, draw=1)], chosen)
    assert not np.array_equal(indices[adaptation_positions(indices, 40, seed=0, draw=2)], chosen)


def test_every_image_is_drawn_as_often_as_any_other():
    times = np.zeros(50)
    for draw in range(400):
        times[adaptation_positions(np.arange(50), 10, seed=0, draw=draw)] += 1
    assert times.sum() == 4000
    assert stats.chi2.sf(((times - 80) ** 2 / (80 * 0.8)).sum() * 49 / 50, 49) > 0.001


@pytest.mark.parametrize(
    ("images", "size", "lengths"),
    [(70, 32, [32, 38]), (64, 32, [32, 32]), (63, 32, [63]), (32, 32, [32]), (7, 2, [2, 2, 3]), (3, 1, [1, 1, 1])],
)
def test_a_short_last_batch_joins_the_one_before(images, size, lengths):
    batches = shuffled_batches(np.arange(images) * 5, size, seed=0, draw=0)
    assert [len(batch) for batch in batches] == lengths
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(images))


def test_streams_are_shuffled_anew_in_each_draw():
    """And not in the order in which images are drawn to adapt on."""
    first, second = (np.concatenate(shuffled_batches(np.arange(300), 30, 0, draw)) for draw in (0, 1))
    assert abs(stats.spearmanr(first, np.arange(300)).statistic) < 0.2
    assert abs(stats.spearmanr(first, second).statistic) < 0.2
    assert not np.array_equal(first, np.concatenate(shuffled_batches(np.arange(300), 30, 1, 0)))
    shared = np.isin(adaptation_positions(np.arange(300), 30, 0, 0), first[:30]).sum()
    assert shared < 10
    whole = np.concatenate(shuffled_batches(np.arange(300), 300, 0, 0))
    assert np.array_equal(whole, first)


@pytest.mark.parametrize("choose", [adaptation_positions, shuffled_batches])
@pytest.mark.parametrize("number", [0, 6, -1])
def test_there_are_as_many_images_as_asked_for(choose, number):
    with pytest.raises(InputError, match=rf"1 to the 5 images.* but got {number}"):
        choose(np.arange(5), number, 0, 0)


# A user's own


def observed_only(stored, observed, images):
    return observed


def half_way(stored, observed, images, weight=0.5):
    return mix(stored, observed, weight) if images == 16 else stored


def in_training_mode(model, images=None):
    """Return the model with each batch norm on the statistics of the images themselves, by torch's own mode."""
    for layer in model.modules():
        layer.train(isinstance(layer, nn.BatchNorm2d))
    return model


@torch.no_grad()
def settled(model, images, **more):
    """Replace the statistics, by torch's cumulative mode."""
    for layer in in_training_mode(model).modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    model(images)
    return model.eval()


def spoilt(model):
    """Answer with a model that gets worse from batch to batch."""

    def step(images):
        with torch.no_grad():
            model.network[-1].weight[3, ::7] += 0.05
        return model(images)

    return step


def measured(network, digits, protocols, samples=16, **more):
    return measure(network, digits, rectify=protocols, adaptation=AdaptationOptions(samples, **more)).rows


@pytest.mark.parametrize(
    ("own", "named"), [(observed_only, "replace"), (half_way, "prior:16"), (in_training_mode, "batch")]
)
def test_own_functions_give_the_rows_of_the_protocols_that_they_are(network, digits, own, named):
    mine, theirs = (measured(network, digits, protocols, draws=2) for protocols in ({"mine": own}, named))
    for first, second in zip(draws(mine, "mine"), draws(theirs, named), strict=True):
        assert without(first, "protocol", "cross_entropy_sum", "calibration") == without(
            second, "protocol", "cross_entropy_sum", "calibration"
        )
        assert first["cross_entropy_sum"] == pytest.approx(second["cross_entropy_sum"], rel=1e-5)
    assert len({row["bits"] for row in mine}) >= 5


def test_a_function_of_model_and_images_gets_the_images_drawn(network, digits):
    """Under the condition, in [0,1]; what it returns is evaluated on the others."""
    seen = []

    def mine(model, images):
        seen.append(images.clone())
        images.zero_()  # they are its own too
        return settled(model, seen[-1])

    rows = draws(measured(network, digits, {"mine": mine}, draws=2), "mine")
    unbiased = draws(measured(network, digits, "replace", draws=2, unbiased=True), "replace")
    clean = pixels_of(digits)
    worse = corrupt(clean, "contrast", 5, indices=torch.from_numpy(digits.indices))
    for row, theirs, images in zip(rows, unbiased, seen, strict=True):
        whole = clean if row["shift"] == "clean" else worse
        assert row["adapted_on"] == adaptation_positions(digits.indices, 16, 0, row["draw"]).tolist()
        assert torch.equal(images, whole[row["adapted_on"]])
        assert row["bits"] == theirs["bits"]
        assert row["images"] == 44
    assert [row["paired_source"] for row in rows] == [row["paired_source"] for row in unbiased]


def test_a_function_of_the_model_begins_at_the_source_in_each_condition_and_draw(network, digits):
    rows = draws(measured(network, digits, {"mine": spoilt}, draws=2), "mine")
    worse = corrupt(pixels_of(digits), "contrast", 5, indices=torch.from_numpy(digits.indices))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for row in rows:
        one, right = copy.deepcopy(network), np.empty(60, bool)
        images = worse if row["severity"] else pixels_of(digits)
        for positions in shuffled_batches(digits.indices, 16, 0, row["draw"]):
            with torch.no_grad():
                one[-1].weight[3, ::7] += 0.05
                answers = one((images[positions] - mean) / std).argmax(1).numpy()
            right[positions] = answers == digits.labels[positions]
        assert np.array_equal(per_image(row), right)
        assert row["bits"] != row["paired_source"]["bits"]


def test_own_functions_may_follow_gradients(network, digits):
    def mine(model, images):
        parameters = [
            one for layer in model.modules() if isinstance(layer, nn.BatchNorm2d) for one in layer.parameters()
        ]
        optimiser = torch.optim.SGD(parameters, lr=0.1)
        logits = in_training_mode(model)(images)
        (-(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()).backward()
        optimiser.step()
        assert float(parameters[0].grad.abs().sum()) > 0
        return model.eval()

    before = copy.deepcopy(network.state_dict())
    (row, *_) = draws(measured(network, digits, {"sharpened": mine}), "sharpened")
    assert row["bits"] != row["paired_source"]["bits"]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(one.grad is None for one in network.parameters())


@pytest.mark.parametrize(
    ("protocols", "told"),
    [
        ({"mine": lambda: None}, "function of .model., .model, images. or .stored, observed, images., but it needs .."),
        ({"mine": lambda a, b, c, d: None}, "'mine' to be a function .* but it needs .a, b, c, d."),
        ({"mine": 3}, "'mine' to be a function"),
        ({"auto": half_way}, "The protocol name 'auto' is taken"),
        ({"full": half_way}, "The protocol name 'full' is taken"),
        ({"batch": half_way}, "The protocol name 'batch' is taken"),
        ({"source": half_way}, "The protocol name 'source' is taken"),
        ([{"mine": half_way}, {"mine": spoilt}], "The protocol name 'mine' is given twice"),
        (["prior:64", {"prior:64": half_way}], "The protocol name 'prior:64' is given twice"),
        (["replce"], "Unknown protocol 'replce'. Did you mean 'replace'"),
        ("runing:0.1", "Unknown protocol 'runing'. Did you mean 'running'"),
        ("auto:3", "Expected no number for the protocol auto, but got 'auto:3'"),
        ("full:3", "Expected no number for the protocol full, but got 'full:3'"),
        ("prior:x", "Expected prior:NUMBER, .* but got 'prior:x'"),
        ("running:", "Expected running:NUMBER, .* but got 'running:'"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)
def test_names_and_functions_that_are_none_are_told_in_one_line(network, digits, tmp_path, protocols, told):
    with pytest.raises(InputError, match=told) as error:
        resolve_protocols(protocols)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=told):
        measure(network, digits, rectify=protocols, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_are_measured_once_and_the_source_anyway(network, digits):
    rows = measured(network, digits, ["replace", "source", {"mine": half_way}, "replace"])
    names = [row["protocol"] for row in rows]
    assert names == ["source", "replace", "mine"] * 2


def test_functions_may_have_more_arguments_with_defaults():
    kinds = {"a": half_way, "b": settled, "c": spoilt, "d": lambda model, images=None: None}
    assert [one.kin.kind for one in resolve_protocols(kinds).values()] == ["layers", "model", "stream", "stream"]


def nothing(model, images=None):
    return None


@pytest.mark.parametrize("own", [nothing, lambda model, images: None], ids=["of the model", "of model and images"])
def test_a_function_that_returns_nothing_is_not_taken_for_the_source(network, digits, own):
    with pytest.raises(InputError, match="Expected the protocol mine to return what answers images, but got NoneType"):
        measured(network, digits, {"mine": own})


def test_no_image_moves_an_infinite_prior(network, digits, tmp_path):
    measure(network, digits, rectify="prior:inf", out=tmp_path / "run")
    found = statshift.read_run(tmp_path / "run").rows
    assert [row["bits"] == row["paired_source"]["bits"] for row in draws(found, "prior:inf")] == [True, True]


# What cannot be


class Normless(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(196, 10))

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize("protocol", ["replace", "batch", "running", "full"])
def test_a_model_without_batch_norm_is_refused_by_name(digits, tmp_path, protocol):
    with pytest.raises(InputError, match="batch normalization and running statistics, but its norms are: GroupNorm"):
        measure(Normless(), digits, rectify=protocol, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stream", [None, "mixed"])
def test_auto_leaves_a_model_without_batch_norm_alone_and_says_why_once(digits, tmp_path, stream):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Normless()
    with pytest.warns(LeftAloneWarning) as told:
        found = measure(model, digits, rectify="auto", stream=stream, out=tmp_path / "run")
    why = "it has no batch normalization with running statistics; its norms are: GroupNorm"
    assert [str(one.message) for one in told if one.category is LeftAloneWarning] == [
        f"The protocol auto leaves the model alone: {why}."
    ]
    described = statshift.read_run(tmp_path / "run").record["protocols"]["auto"]
    assert described["left_alone"] == why
    assert "layers" not in described
    rows = draws(found.rows, "auto")
    assert sorted(row["shift"] for row in rows) == ["clean", "contrast"]
    assert all(row["bits"] == row["paired_source"]["bits"] for row in rows)


@pytest.mark.parametrize("own", [lambda model: model, lambda model, images: model], ids=["stream", "images"])
def test_a_model_without_batch_norm_may_be_adapted_by_own_functions(digits, own):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = measured(Normless(), digits, {"mine": own})
    for row in draws(rows, "mine"):
        assert row["bits"] == row["paired_source"]["bits"]


@pytest.mark.parametrize(
    ("protocol", "options", "told"),
    [
        ("replace", {"samples": 60}, "at most 59 samples of the 60 images for replace, but got 60"),
        ("replace", {"samples": 61, "include_adaptation": True}, "at most 60 samples of the 60 images"),
        ("batch", {"samples": 61}, "at most 60 samples of the 60 images for batch, but got 61"),
        ("running:0.2", {"samples": 61}, "at most 60 samples of the 60 images for running:0.2, but got 61"),
        ("replace", {"where": "nowhere.*"}, "Unknown place or pattern of layers 'nowhere"),
        ("replace", {"where": "frnt"}, "Unknown place .* 'frnt'. Did you mean 'front'"),
        ("replace", {"statistics": "variance"}, "Unknown statistics 'variance'"),
        ("batch", {"statistics": "variance"}, "Unknown statistics 'variance'"),
        ("full", {"statistics": "variance"}, "Unknown statistics 'variance'"),
        ("prior:-1", {}, "Expected prior:NUMBER, its `prior_count` of 0 or more, but got .prior:-1"),
        ("prior:nan", {}, "Expected prior:NUMBER, .* but got .prior:nan"),
        ("running:1.5", {}, "Expected running:NUMBER, its `momentum` from 0 to 1, but got .running:1.5"),
        ("running:nan", {}, "Expected running:NUMBER, .* but got .running:nan"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_cannot_be_is_refused_before_anything_is_measured(network, digits, tmp_path, protocol, options, told):
    def attempt():
        adaptation = AdaptationOptions(**{"samples": 16} | options)
        measure(network, digits, rectify=protocol, adaptation=adaptation, out=tmp_path / "run")

    with pytest.raises(InputError, match=told) as error:
        attempt()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["samples", "draws"])
@pytest.mark.parametrize("number", [0, -3])
def test_there_is_at_least_one_sample_and_one_draw(name, number):
    with pytest.raises(InputError, match=f"Expected `{name}` to be an integer of at least 1, but got {number}"):
        AdaptationOptions(**{name: number})


@pytest.mark.parametrize(("protocol", "options"), [("replace", {"samples": 59}), ("batch", {"samples": 60})])
def test_the_most_samples_that_can_be(network, digits, protocol, options):
    for row in draws(measured(network, digits, protocol, **options), protocol):
        assert row["images"] == {"replace": 1, "batch": 60}[protocol]


# The model and the world are left as found


def state_of(model):
    """Return all that must be left as it was, in plain types."""
    modules = [*model.modules()]
    return {
        "tensors": {name: value.tolist() for name, value in model.state_dict().items()},
        "gradients": [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
        "flags": [module.training for module in modules],
        "hooks": [[[*m._forward_hooks], [*m._forward_pre_hooks], [*m._backward_hooks]] for m in modules],
        "forward": [vars(module).get("forward") for module in modules],
    }


def rough(model, images=None):
    """Change all that one can of a model that is one's own."""
    model.train()
    model.requires_grad_(False)
    model.register_forward_hook(lambda module, args, output: None)
    for tensor in model.state_dict().values():
        tensor.add_(1)
    return nn.Sequential(model, nn.Identity())


def fail(after, function):
    """Return the function, which fails at the n-th call."""
    calls = iter(range(after))

    def failing(*arguments):
        if next(calls, None) is None:
            raise ZeroDivisionError("the protocol fails")
        return function(*arguments)

    return failing


def of_layers(function):
    def own(stored, observed, images):
        return function(stored, observed, images)

    return own


def of_images(function):
    def own(model, images):
        return function(model, images)

    return own


def of_model(function):
    def own(model):
        return function(model)

    return own


def of_batches(function):
    """Fail in the midst of the stream."""
    return lambda model: lambda images: function(model(images))


FAILING = {
    "at the second layer": lambda: of_layers(fail(1, observed_only)),
    "in the second condition": lambda: of_layers(fail(4, observed_only)),
    "with the model": lambda: of_images(fail(1, rough)),
    "at once": lambda: of_model(fail(0, rough)),
    "at the third batch": lambda: of_batches(fail(2, lambda logits: logits)),
}


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize("case", ["success", *FAILING])
def test_the_model_is_left_as_found(digits, case, mode):
    model = nn.Sequential(build()).train(mode != "eval")
    if mode == "mixed":
        model[0][1].eval()
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    model.register_forward_hook(lambda module, args, output: None)
    before, random = state_of(model), torch.get_rng_state()
    protocols = ["auto", "replace", "batch", "running", "full", {"rough": of_images(rough), "rougher": of_model(rough)}]
    if case != "success":
        protocols = [{"mine": FAILING[case]()}]
    with nullcontext() if case == "success" else pytest.raises(ZeroDivisionError):
        measured(model, digits, protocols)
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert len(set(before["flags"])) == (2 if mode == "mixed" else 1)


def test_a_training_model_is_adapted_in_evaluation_mode(network, digits):
    protocols = ["auto", "replace", "batch", "running", "full", {"mine": half_way, "kept": of_images(lambda m, i: m)}]
    assert measured(build().train(), digits, protocols) == measured(network, digits, protocols)


# Directories


PROTOCOLS = ["replace", "auto", "batch", "running:0.3", "full", {"mine": half_way, "settled": settled}]
FILES = ("rows.jsonl", "summary.json", "record.json")


@pytest.fixture(scope="module")
def whole(network, digits, tmp_path_factory):
    """A run that nobody interrupts."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    measure(network, digits, rectify=PROTOCOLS, adaptation=AdaptationOptions(16, draws=2), out=out, batch_size=25)
    return out


def lines(path):
    return (path / "rows.jsonl").read_bytes().splitlines() if (path / "rows.jsonl").exists() else []


def test_interrupted_again_and_again_it_ends_with_the_same_bytes(network, digits, whole, tmp_path):
    """At the start of a pass, in its midst, and at its end, by turns."""
    out, kept, sittings = tmp_path / "run", [], 0

    def interrupt(at):
        if at.number == 2 and at.images >= (0, 10, 60)[sittings % 3]:
            raise KeyboardInterrupt

    go = partial(measure, network, digits, rectify=PROTOCOLS, adaptation=AdaptationOptions(16, draws=2), out=out)
    while len(kept) < len(lines(whole)):
        with suppress(KeyboardInterrupt):
            go(batch_size=25, progress=interrupt)
        assert lines(out)[: len(kept)] == kept
        assert lines(out) == lines(whole)[: len(lines(out))]
        kept, sittings = lines(out), sittings + 1
    assert sittings > 10
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def interrupted(function):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "stop",
    [
        of_layers(lambda *given: interrupted(half_way)),
        of_images(lambda *given: interrupted(settled)),
        of_batches(interrupted),
    ],
)
def test_an_own_protocol_may_be_interrupted(network, digits, tmp_path, stop):
    """What was finished before it is kept."""
    before = state_of(network)
    with pytest.raises(KeyboardInterrupt):
        measure(network, digits, rectify=["replace", {"mine": stop}], out=tmp_path)
    assert [json.loads(line)["protocol"] for line in lines(tmp_path)] == ["source", "replace"]
    assert not (tmp_path / "summary.json").exists()
    assert state_of(network) == before


def test_protocols_and_draws_may_be_added(network, digits, whole, tmp_path):
    """The source is measured anew where there is something to pair with it, and earlier rows stay."""
    go = partial(measure, network, digits, out=tmp_path, batch_size=25)
    steps = [([], 1), (["replace"], 1), (["replace"], 2), (PROTOCOLS, 1), (PROTOCOLS, 2)]
    passes, kept = [], []
    for protocols, number in steps:
        seen = []
        go(rectify=protocols, adaptation=AdaptationOptions(16, number), progress=seen.append)
        assert lines(tmp_path)[: len(kept)] == kept
        passes.append((seen[0].passes, seen[0].finished_before))
        kept = lines(tmp_path)
    assert passes == [(2, 0), (4, 2), (4, 4), (14, 4), (12, 18)]
    expected = {row_key(json.loads(line)): line for line in lines(whole)}
    assert {row_key(json.loads(line)): line for line in kept} == expected
    records = [json.loads((path / "record.json").read_text()) for path in (tmp_path, whole)]
    assert [record.pop("asked")["draws"] for record in records] == [1, 2]  # what the first sitting was asked
    assert records[0] == records[1]
    summary = (tmp_path / "summary.json", whole / "summary.json")
    first, second = (json.loads(path.read_text()) for path in summary)
    assert first == second


@pytest.mark.parametrize(
    ("protocols", "options", "named"),
    [
        ("replace", {"samples": 9}, "`replace.samples`: 16 in the directory, 9 now"),
        ("batch", {"samples": 9}, "`batch.samples`: 16 in the directory, 9 now"),
        ("replace", {"include_adaptation": True}, "`replace.evaluated_on`: 'the other images' in the directory"),
        ("replace", {"unbiased": True}, "`replace.unbiased`: False in the directory, True now"),
        ("full", {"statistics": "mean"}, "`full.statistics`: 'both' in the directory, 'mean' now"),
        ("running:0.3", {"where": "front"}, "`running:0.3.where`: 'all' in the directory, 'front' now"),
        ("prior:3", {"samples": 9}, None),
        ("replace", {"draws": 1}, None),
    ],
    ids=str,
)
def test_a_protocol_with_other_options_is_refused(network, digits, whole, tmp_path, protocols, options, named):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    go = partial(measure, network, digits, rectify=protocols, out=out, batch_size=25)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with nullcontext() if named is None else pytest.raises(InputError, match="holds another run") as error:
        go(adaptation=AdaptationOptions(**{"samples": 16, "draws": 2} | options))
    if named is None:
        assert lines(out)[: len(lines(whole))] == lines(whole)
    else:
        assert named in str(error.value)
        assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


@pytest.mark.parametrize(
    ("one", "other"),
    [(partial(half_way, weight=0.1), partial(half_way, weight=0.9)), (observed_only, half_way)],
    ids=["other arguments", "of the same file"],
)
def test_another_function_of_the_same_name_is_refused(network, digits, tmp_path, one, other):
    go = partial(measure, network, digits, adaptation=AdaptationOptions(16), out=tmp_path)
    go(rectify={"mine": one})
    with pytest.raises(InputError, match=r"`mine\.function`: "):
        go(rectify={"mine": other})


def test_no_protocol_is_of_the_loaders_batches(network, digits, whole, tmp_path):
    measure(network, digits, rectify=PROTOCOLS, adaptation=AdaptationOptions(16, draws=2), out=tmp_path, batch_size=7)
    key = ("protocol", "shift", "severity", "draw", "bits", "left_out")
    expected, found = (
        [{name: json.loads(line).get(name) for name in key} for line in lines(out)] for out in (whole, tmp_path)
    )
    assert found == expected


def test_a_stream_begins_again_after_so_many_batches(network, digits):
    def always_anew(model):
        def step(images):
            return Running(0.3)(copy.deepcopy(model))(images)

        return step

    expected = draws(measured(network, digits, {"mine": always_anew}, samples=20), "mine")
    for every, same in ((1, True), (2, False), (None, False)):
        found = draws(measured(network, digits, "running:0.3", samples=20, reset_every=every), "running:0.3")
        assert ([row["cross_entropy_sum"] for row in found] == [row["cross_entropy_sum"] for row in expected]) is same
    record = measure(network, digits, rectify="running", adaptation=AdaptationOptions(20, reset_every=2)).record
    assert record["protocols"]["running"]["reset"].endswith("condition and draw, and after every 2 batches")


def test_the_record_says_how_each_protocol_adapts(whole):
    found = json.loads((whole / "record.json").read_text())["protocols"]
    layers = {"statistics": "both", "where": "all", "unbiased": False, "layers": ["1", "4", "7"]}
    held_out, everything = "the other images", "all images, those adapted on among them"
    reset = {"reset": "to the source at each condition and draw"}
    assert found["source"] == {}
    assert found["replace"] == {"kind": "layers", "samples": 16, **layers, "evaluated_on": held_out, **reset}
    assert found["running:0.3"] == {
        **{"kind": "stream", "momentum": 0.3, "samples": 16, **layers, "evaluated_on": everything, **reset}
    }
    assert found["full"] == {"kind": "full", **layers, "evaluated_on": everything, **reset}
    assert without(found["mine"], "function") == {
        **{"kind": "layers", "samples": 16, **layers, "evaluated_on": held_out, **reset}
    }
    assert without(found["settled"], "function") == {"kind": "model", "samples": 16, "evaluated_on": held_out, **reset}
    assert re.fullmatch(r"[0-9a-f]{16}:half_way", found["mine"]["function"])


def test_progress_names_the_protocol_at_work(network, digits):
    seen = []
    measure(
        network,
        digits,
        rectify=["replace", "running"],
        adaptation=AdaptationOptions(30, draws=2),
        batch_size=40,
        progress=seen.append,
        options=CorruptionOptions(seed=1),
    )
    names = ["source", "replace", "replace", "running", "running"]
    assert {one.passes for one in seen} == {10}
    for number in range(10):
        told = [(one.protocol, one.condition.shift, one.images) for one in seen if one.number == number]
        name, shift = names[number % 5], ("clean", "contrast")[number // 5]
        images = (0, 30, 60) if name == "running" else (0, 40, 60)
        assert told == [(name, shift, count) for count in images]
