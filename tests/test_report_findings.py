"""What a report warns of and advises, each where the numbers carry it and not where they do not."""

import shlex
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from report_runs import BENCHMARK, COMMON, IMAGES, adapted_run, better, draw, record_of, rows_of, worse, write_run
from statshift.cli import app
from statshift.report import build_report
from statshift.report.advice import images_for

PARSER = get_command(app)
FEW = [("clean", 0), ("fog", 3), ("gaussian_noise", 3), ("contrast", 3)]
FEW_RECORD = {"shifts": ["clean", "fog", "gaussian_noise", "contrast"], "severities": [3]}
SOLID = 1200
LEFT_OUT = range(0, 64, 2)


def even(accuracies, images=SOLID):
    """Return bits with exactly these accuracies by condition, on images in turn."""
    return {one: np.arange(images) % 100 < round(100 * value) for one, value in accuracies.items()}


def source_of(clean=0.9, fog=0.7, noise=0.5, contrast=0.8, images=SOLID):
    return even(dict(zip(FEW, (clean, fog, noise, contrast), strict=True)), images)


def solid(**changes):
    record = record_of(SOLID, **FEW_RECORD)
    record["alexnet"] = None
    for section, change in changes.items():
        record[section] = record[section] | change if isinstance(change, dict) else change
    return record


def advice_of(path):
    return build_report(path).advice


def command_in(text):
    """Return the words of the command advised, which the real parser takes."""
    words = shlex.split(text.partition("Run: ")[2])
    name, command, rest = PARSER.resolve_command(PARSER.make_context("statshift", ["layers"]), words[1:])
    command.make_context(name, list(rest))
    return words


def one_with(texts, *parts):
    found = [text for text in texts if all(part in text for part in parts)]
    assert len(found) == 1, texts
    return found[0]


def none_with(texts, *parts):
    return not [text for text in texts if all(part in text for part in parts)]


def layers_of(persisting):
    one = {"shift": [0.3], "noise": [0.1], "number": 3.0, "persisting": persisting, "sentence": "So."}
    calm = one | {"persisting": 0.0, "number": 1.0}
    return {"images": 32, "layers": ["bn"], "noise": [0.1], "conditions": {"clean": calm, "fog 3": one}}


@pytest.mark.parametrize("persisting", [0.0, 0.4])
def test_rectifying_is_tried_where_a_shift_reaches_the_last_layers(tmp_path, persisting):
    run = write_run(tmp_path / "my run", solid(), rows_of(source_of()), layers=layers_of(persisting))
    if not persisting:
        assert none_with(advice_of(run), "Try rectifying")
        return
    text = one_with(advice_of(run), "Try rectifying", "under fog 3 a shift reaches the last layers (up to 3.0 x")
    assert command_in(text) == [
        *("statshift", "measure", "--model", "cifar:resnet20", "--weights", "WEIGHTS", "--data", "npz:test.npz"),
        *("--limit", "1200", "--shifts", "clean,fog,gaussian_noise,contrast", "--severities", "3"),
        *("--rectify", "auto", "--out", str(run)),
    ]


@pytest.mark.parametrize(
    ("shifted", "norms", "tried"), [(0.5, "BatchNorm2d", 1), (0.89, "BatchNorm2d", 0), (0.5, "LayerNorm", 0)]
)
def test_rectifying_is_tried_where_accuracy_falls_and_there_is_batch_norm(tmp_path, shifted, norms, tried):
    record = solid(model={"norms": {f"{norms}, eps 1e-05": 3}})
    run = write_run(tmp_path / "run", record, rows_of(source_of(0.9, shifted, shifted, shifted)))
    found = [text for text in advice_of(run) if "Try rectifying" in text]
    assert len(found) == tried
    if tried:
        assert "falls by 40.0 points" in found[0]


def test_a_protocol_that_gains_and_loses_nowhere_is_advised(tmp_path):
    source = source_of()
    run = adapted_run(tmp_path / "run", source, {"auto": better(source, 0.5)}, record=solid(), draws=2)
    text = one_with(advice_of(run), "Rectify resnet20 by auto", "no condition is significantly worse")
    assert command_in(text)[:2] == ["statshift", "rectify"]
    assert command_in(text)[-4:] == ["--protocol", "auto", "--out", "rectified.safetensors"]
    assert none_with(advice_of(run), "Keep ")
    assert none_with(advice_of(run), "Repeat")


def test_a_protocol_that_loses_somewhere_is_for_while_the_shift_lasts(tmp_path):
    source = source_of()
    replaced = better(source, 0.6) | {("clean", 0): worse(source, 0.2)["clean", 0]}
    texts = advice_of(adapted_run(tmp_path / "run", source, {"replace": replaced}, record=solid()))
    one_with(texts, "Rectify resnet20 by replace only while a shift lasts", "is significantly worse under clean (-")
    cost = one_with(texts, "Keep replace away from unshifted images: on clean ones it costs ")
    before, after = (np.delete(one["clean", 0], LEFT_OUT) for one in (source, replaced))
    assert f"it costs {100 * (before.mean() - after.mean()):.1f} points [" in cost
    low, high = map(float, cost.partition("[")[2].partition("]")[0].split(", "))
    assert 0 < low < 100 * (before.mean() - after.mean()) < high


def test_of_protocols_that_are_level_the_one_that_loses_nowhere_is_advised(tmp_path):
    source = source_of()
    auto = better(source, 0.5)
    replaced = better(source, 0.51) | {("clean", 0): worse(source, 0.1)["clean", 0]}
    texts = advice_of(adapted_run(tmp_path / "run", source, {"replace": replaced, "auto": auto}, record=solid()))
    one_with(texts, "Rectify resnet20 by auto:")
    one_with(texts, "Keep replace away", "auto does not, significantly")


@pytest.mark.parametrize(("share", "said"), [(0.2, "Do not rectify"), (0.0, "is not worth it so far")])
def test_a_protocol_that_does_not_gain_is_not_advised(tmp_path, share, said):
    source = source_of()
    run = adapted_run(tmp_path / "run", source, {"auto": worse(source, share)}, record=solid())
    one_with(advice_of(run), said, "auto")
    assert none_with(advice_of(run), "Run: statshift rectify")


@pytest.mark.parametrize(("draws", "repeated"), [(1, True), (3, False)])
def test_one_draw_is_to_be_repeated(tmp_path, draws, repeated):
    source = source_of()
    page = build_report(
        adapted_run(tmp_path / "run", source, {"auto": better(source, 0.5)}, draws=draws, record=solid())
    )
    found = [text for text in page.advice if text.startswith("Repeat auto")]
    assert len(found) == repeated
    assert none_with(page.warnings, "one draw of images only (auto)") != repeated
    if repeated:
        assert command_in(found[0])[-6:-2] == ["--rectify", "auto", "--draws", "5"]


@pytest.mark.parametrize("family", ["noise", "weather", "digital"])
def test_the_worst_family_is_named_where_hardening_is_advised(tmp_path, family):
    accuracies = {"noise": 0.8, "weather": 0.8, "digital": 0.8} | {family: 0.4}
    bits = source_of(0.9, accuracies["weather"], accuracies["noise"], accuracies["digital"])
    text = one_with(advice_of(write_run(tmp_path / "run", solid(), rows_of(bits))), "Harden", f"under {family} (40.0 %")
    assert command_in(text)[1] == "harden"
    assert command_in(text)[command_in(text).index("--method") + 1] == "advbn"


def test_hardening_is_not_advised_of_what_is_hardened_or_does_not_suffer(tmp_path):
    made = {"made_by": {"verb": "harden", "method": "advbn"}}
    hardened = write_run(tmp_path / "hardened", solid(model=made), rows_of(source_of()))
    sound = write_run(tmp_path / "sound", solid(), rows_of(source_of(0.9, 0.89, 0.89, 0.89)))
    for run in (hardened, sound):
        assert none_with(advice_of(run), "Harden")


def test_without_batch_norm_augmentation_is_advised(tmp_path):
    run = write_run(tmp_path / "run", solid(model={"norms": {"LayerNorm, eps 1e-06": 12}}), rows_of(source_of()))
    text = one_with(advice_of(run), "has no batch norm")
    assert command_in(text)[command_in(text).index("--augment") + 1] == "augmix"


@pytest.mark.parametrize(("robust", "advised"), [(0.02, True), (0.3, False)])
def test_what_an_attack_breaks_is_to_be_trained_adversarially(tmp_path, robust, advised):
    bits = even({("clean", 0): 0.9, ("pgd-linf:1/255", 0): robust})
    run = write_run(tmp_path / "run", solid(shifts=["clean", "pgd-linf:1/255"]), rows_of(bits))
    assert none_with(advice_of(run), "adversarially", "pgd-linf:1/255 leaves") != advised


def test_wide_intervals_ask_for_more_images(tmp_path):
    small = write_run(tmp_path / "small", record_of(**FEW_RECORD), rows_of(source_of(images=IMAGES)))
    text = one_with(advice_of(small), "Measure on more images", ", if there are so many.")
    assert command_in(text)[-2:] == ["--out", str(tmp_path / "small-more")]
    wanted = int(command_in(text)[command_in(text).index("--limit") + 1])
    half = float(text.partition("± ")[2].split(" ")[0])
    assert wanted == pytest.approx(IMAGES * half**2, rel=0.1)  # half the width falls with the root of the number
    many = {one: np.tile(right, 10) for one, right in source_of(images=SOLID).items()}
    large = write_run(tmp_path / "large", record_of(10 * SOLID, **FEW_RECORD), rows_of(many))
    assert none_with(advice_of(large), "more images")
    assert images_for(0.02, 500) == 2000
    assert images_for(0.0333, 200) == 2300


def test_a_model_near_chance_is_checked_first(tmp_path):
    run = write_run(tmp_path / "run", solid(), rows_of(source_of(0.11, 0.1, 0.1, 0.1)))
    page = build_report(run)
    assert page.advice[0].startswith("Check weights, labels and preprocessing of resnet20")
    assert none_with(page.advice, "Harden")
    assert page.advice[0].partition(" Run: ")[0].endswith("it is near chance, or these images are shifted already.")
    one_with(page.warnings, "11.0 % with 10 classes, near chance", "or are these images shifted already?")
    assert page.verdicts[0].figures[0].note.endswith("of the images as they are in the data, nothing made of them.")
    assert none_with(build_report(write_run(tmp_path / "b", solid(), rows_of(source_of()))).warnings, "near chance")


def test_a_run_cut_off_is_reported_and_to_be_finished(tmp_path):
    source = draw(BENCHMARK, 0.8)
    rows = rows_of(source)
    run = write_run(tmp_path / "run", record_of(protocols={"source": {}, "auto": {"samples": 16}}), rows[:30])
    with (run / "rows.jsonl").open("a") as file:
        file.write('{"protocol":"source","shi')
    page = build_report(run)
    one_with(page.warnings, "30 of 152 rows are there")
    text = one_with(page.advice, "Finish resnet20: 30 of 152 rows")
    assert command_in(text)[-6:] == ["--rectify", "auto", "--samples", "16", "--out", str(run)]
    assert page.verdicts[0].figures[1].label == "mean of 29 of the 75 common conditions"
    whole = build_report(write_run(tmp_path / "whole", record_of(), rows))
    assert none_with(whole.warnings, "rows are there")


def test_the_best_of_several_models_is_named_with_those_that_are_level(tmp_path):
    source = draw(BENCHMARK, 0.7)
    model = {"weights_hash": "b", "made_by": {"verb": "harden", "method": "advbn"}}
    first = write_run(tmp_path / "first", record_of(), rows_of(source))
    good = better(source, 0.4)
    second = adapted_run(tmp_path / "second", good, {"auto": better(good, 0.02)}, record=record_of(model=model))
    text = one_with(build_report([first, second]).advice, "Best choice: AdvBN", " above the original")
    assert "Statistically tied" in text
    assert none_with(build_report([second, first]).advice, "Best choice: original")
    assert len(build_report([first, second]).advice) <= 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"corruption": {"frost": "procedural"}, "shifts": ["clean", "frost"]}, "Frost is a procedural texture"),
        ({"corruption": {"at": "model"}}, "at the model's own input size"),
        ({"corruption": {"reencode": True}}, "JPEGs of quality 85"),
        ({"corruption": {"quantise": False}}, "not rounded to 8 bits"),
        ({"corruption": {"scale_constants": False}}, "ImageNet's as they stand, not scaled with the images"),
        ({"corruption": {"stored": True}}, "read as they are stored"),
        ({"dtype": "float16"}, "ran in float16"),
        ({"data": {"counts": {"skipped": 3}}}, "3 image files could not be read"),
        ({"alexnet": "imagenet"}, "50,000 images of ImageNet-C"),
        ({"alexnet": "cifar10"}, "10,000 images of CIFAR-10-C"),
    ],
)
def test_what_sets_a_run_apart_from_the_benchmark_is_warned_of(tmp_path, changes, said):
    bits = source_of()
    if "shifts" in changes:
        bits = {("clean", 0): bits["clean", 0], ("frost", 3): bits["fog", 3]}
    run = write_run(tmp_path / "run", solid(**changes), rows_of(bits))
    one_with(build_report(run).warnings, said)
    assert none_with(build_report(write_run(tmp_path / "plain", solid(), rows_of(source_of()))).warnings, said)


def test_few_images_are_warned_of(tmp_path):
    run = write_run(tmp_path / "run", record_of(**FEW_RECORD), rows_of(source_of(images=IMAGES)))
    one_with(build_report(run).warnings, "160 images are few", "± 7.7 points")  # Wilson's half width at one half
    assert none_with(build_report(write_run(tmp_path / "b", solid(), rows_of(source_of()))).warnings, "are few")


def test_compared_runs_of_other_versions_and_dtypes_are_warned_of(tmp_path):
    bits = rows_of(source_of())
    first = write_run(tmp_path / "a", solid(), bits)
    environment = {"versions": {"statshift": "0.1.0", "torch": "2.9.0"}}
    second = write_run(
        tmp_path / "b", solid(dtype="bfloat16", environment=environment, model={"weights_hash": "z"}), bits
    )
    warnings = build_report([first, second]).warnings
    one_with(warnings, "differ in their dtype: float32 (a) and bfloat16 (b)")
    one_with(warnings, "differ in their version of torch")
    assert none_with(warnings, "version of statshift")
    assert none_with(warnings, "same weights")
    third = write_run(tmp_path / "c", solid(environment={"device": "other"}), bits)
    one_with(build_report([first, third]).warnings, "same weights were measured several times")


def test_commands_are_quoted_for_a_shell(tmp_path):
    hostile = "npz:it's; rm -rf $HOME `x`\n.npz"
    model = {
        "spec": "py:my nets.py:build",
        "arguments": {"norm": "'group'", "width": "2"},
        "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.229, 0.224, 0.225]},
    }
    corruption = {"frost": "procedural", "scale_constants": False}
    record = solid(data={"spec": hostile}, model=model, seed=7, corruption=corruption)
    run = write_run(tmp_path / "a $(run)", record, rows_of(source_of()))
    words = command_in(one_with(advice_of(run), "Try rectifying"))
    assert words[words.index("--data") + 1] == hostile
    assert words[words.index("--model") + 1] == "py:my nets.py:build"
    assert [words[i + 1] for i, word in enumerate(words) if word == "--model-args"] == ["norm=group", "width=2"]
    assert words[words.index("--mean") + 1] == "0.5,0.5,0.5"
    assert "--std" not in words
    assert words[words.index("--seed") + 1] == "7"
    assert words[words.index("--frost") + 1] == "procedural"
    assert words[words.index("--scale-constants") + 1] == "no"
    assert words[-1] == str(run)


def test_the_benchmark_needs_no_option_for_its_shifts(tmp_path):
    source = draw(BENCHMARK, lambda shift, severity: 0.95 if shift == "clean" else 0.5)
    words = command_in(one_with(advice_of(write_run(tmp_path / "a", record_of(), rows_of(source))), "Try rectifying"))
    assert "--shifts" not in words
    assert "--severities" not in words
    record = record_of(shifts=["clean", *COMMON, "mine", "pgd-linf:1/255"], functions={"mine": "hash:mine"})
    words = command_in(one_with(advice_of(write_run(tmp_path / "b", record, rows_of(source))), "Try rectifying"))
    assert words[words.index("--shifts") + 1] == "clean,common,pgd-linf:1/255"


def run(words):
    torch.manual_seed(0)  # weights drawn at random, which are near chance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def measured_folder(tmp_path_factory):
    """A run over a folder of 12 images of two classes that a file maps to the model's 7 and 2."""
    root = tmp_path_factory.mktemp("mapped")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 36, 3), np.uint8)
    for place, image in enumerate(pixels):
        folder = root / "images" / f"n{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place}.png")
    (root / "map.txt").write_text("n0 7\nn1 2\n")
    words = ["measure", "--model", "cifar:resnet20", "--data", f"folder:{root / 'images'}", "--out", str(root / "run")]
    options = ["--class-map", str(root / "map.txt"), "--mean", "0.4,0.4,0.4", "--resize", "36", "--crop", "32"]
    limited = ["--interpolation", "bicubic", "--limit", "8", "--device", "cpu", "--seed", "3", "--skip-bad"]
    run([*words, *options, *limited, "--shifts", "clean,brightness", "--severities", "3"])
    return root


def test_commands_repeat_every_option_that_matters_and_run(measured_folder):
    (first, more) = [text for text in advice_of(measured_folder / "run") if "Run: statshift measure" in text]
    for text, limit in ((first, "8"), (more, None)):
        words = command_in(text)
        told = {word: value for word, value in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}
        assert "--skip-bad" in told
        assert told["--class-map"] == str(measured_folder / "map.txt")
        assert (told["--mean"], told["--resize"], told["--crop"]) == ("0.4,0.4,0.4", "36", "32")
        assert (told["--interpolation"], told["--severities"], told["--seed"]) == ("bicubic", "3", "3")
        assert told.get("--limit") == limit  # of all 12 there is no need of one
        assert "--weights" not in words
    assert "there are 12" in more
    run([*command_in(more)[1:], "--device", "cpu"])
    page = build_report(measured_folder / "run-more")
    assert page.verdicts[0].subject == "source"
    one_with(page.advice, "Measure on more images", "these are all there are: add some.")
    assert none_with(page.advice, "Measure on more images", "Run: ")


def test_pictures_name_mapped_classes_by_their_folders(measured_folder):
    (pictures,) = [
        block
        for one in build_report(measured_folder / "run").sections
        if one.name == "images"
        for block in one.blocks[:1]
    ]
    assert pictures.title == "Images under shift, and the predictions"
    assert {one.truth for one in pictures.pictures} == {"n0", "n1"}


def test_a_column_of_means_is_over_the_same_conditions_in_every_row(tmp_path):
    """One run of 15 corruptions and one of two: only what both have is averaged and compared."""
    conditions = [("clean", 0), *((name, 3) for name in COMMON)]
    accuracy = dict.fromkeys(conditions, 0.5) | {("clean", 0): 0.9, ("fog", 3): 0.8, ("snow", 3): 0.6}
    all_bits = even(accuracy)
    few = {one: all_bits[one] for one in [("clean", 0), ("fog", 3), ("snow", 3)]}
    first = write_run(tmp_path / "first", solid(shifts=["clean", *COMMON]), rows_of(all_bits))
    record = solid(shifts=["clean", "fog", "snow"], model={"weights_hash": "b"})
    second = write_run(tmp_path / "second", record, rows_of(better(few, 0.5)))
    page = build_report([first, second])
    names = {figure.label for one in page.verdicts for figure in one.figures}
    assert names == {"clean accuracy", "mean of snow, fog at severity 3"}
    values = [one.figures[1].value for one in page.verdicts]
    mean = np.mean([better(few, 0.5)[name, 3].mean() for name in ("fog", "snow")])
    assert values == pytest.approx([0.7, mean])
    assert "in the mean of snow, fog at severity 3 on the same images" in page.verdicts[1].sentence
    third = write_run(
        tmp_path / "third",
        solid(shifts=["frost"], model={"weights_hash": "c"}),
        rows_of({("frost", 3): all_bits["fog", 3]}),
    )
    alone = build_report([second, third])
    assert {figure.label for one in alone.verdicts for figure in one.figures} == {"clean accuracy"}


def test_no_mean_is_over_shifts_of_several_families(tmp_path):
    bits = even({("clean", 0): 0.9, ("fog", 3): 0.8, ("saturate", 3): 0.6, ("night", 0): 0.3, ("rain", 0): 0.4})
    page = build_report(write_run(tmp_path / "a", solid(shifts=[name for name, _ in bits]), rows_of(bits)))
    assert page.headline == "Shift takes resnet20 from 90.0 % to 80.0 % (mean of fog at severity 3)."
    own = {one: right for one, right in bits.items() if one[0] in ("clean", "night", "rain")}
    page = build_report(write_run(tmp_path / "b", solid(shifts=[name for name, _ in own]), rows_of(own)))
    assert page.headline == (
        "resnet20 gets 90.0 % of the clean images right, and from 30.0 to 40.0 % under 2 shifts, which no mean can be "
        "over."
    )


def test_the_star_says_where_a_higher_one_is_tied(tmp_path):
    source = source_of()
    auto = better(source, 0.5)
    replaced = better(source, 0.51) | {("clean", 0): worse(source, 0.1)["clean", 0]}
    page = build_report(adapted_run(tmp_path / "run", source, {"replace": replaced, "auto": auto}, record=solid()))
    means = {one.subject: one.figures[1].value for one in page.verdicts}
    assert means["replace"] > means["auto"]
    assert [(one.subject, one.choice) for one in page.verdicts if one.best] == [("auto", "simplest of the best")]


def test_what_the_source_has_on_the_images_adapted_to_stands_beside(tmp_path):
    source = source_of()
    page = build_report(adapted_run(tmp_path / "run", source, {"auto": better(source, 0.5)}, record=solid()))
    before = np.mean([np.delete(source[one], LEFT_OUT).mean() for one in FEW[1:]])
    assert f"(1,168, of which the source has {100 * before:.1f} % right)" in page.verdicts[1].sentence
