"""Images with the styles of others: the same pixels whoever makes them, on the disk and on the fly."""

import importlib.util
import json
import re
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import statshift
import tiny_styles
import warm
from statshift import CorruptionOptions, InputError, load_data, load_model
from statshift.decoding.styles import read_styles, stylise
from statshift.making.stylised import write_stylised
from statshift.norms.adain import adain
from statshift.norms.statistics import instance_statistics
from statshift.recipes import recipe
from statshift.report import commands
from statshift.results import bits
from statshift.shifts.conditions import resolve
from statshift.shifts.shift import StyleOptions, under
from statshift.shifts.stylised import STYLISED, Stylised

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

SIZE = tiny_styles.SIZE


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a decoder and style images."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_styles.write_decoder(folder / "decoder.safetensors")
    tiny_styles.write_style_images(folder / "styles")
    return folder


@pytest.fixture(scope="module")
def styles(place):
    return read_styles(place / "styles", tiny_styles.codec(place), size=SIZE)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """What one process makes of all images in one go."""
    return tiny_styles.write(place, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def digits():
    return tiny_styles.digits()


def tree_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def how(place, **more):
    given = {"encoder": tiny_styles.MODEL, "style_size": SIZE, **more}
    return CorruptionOptions(style=StyleOptions(place / "decoder.safetensors", place / "styles", **given))


# Styles


def test_a_style_is_the_central_square_of_an_image_resized(place, styles):
    network = load_model(tiny_styles.MODEL)
    for number, name in enumerate(styles.names):
        image = Image.open(place / "styles" / name)
        wide, high = image.size
        scaled = (SIZE, SIZE * high // wide) if wide <= high else (SIZE * wide // high, SIZE)
        image = image.resize(scaled, Image.Resampling.BILINEAR)
        left, top = ((side - SIZE) / 2 for side in image.size)
        pixels = np.asarray(image)[round(top) : round(top) + SIZE, round(left) : round(left) + SIZE]
        with torch.no_grad():
            features = network.normalise(torch.tensor(pixels).permute(2, 0, 1)[None] / 255)
            for layer in network.network[:3]:
                features = layer(features)
        found = styles.statistics([number], torch.device("cpu"))
        torch.testing.assert_close(found.mean[0], features.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.var[0], features.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)


def test_stylised_features_have_the_style_s_statistics(styles, digits):
    images, numbers = digits.tensors()[0], torch.arange(tiny_styles.COUNT) % tiny_styles.STYLES
    style = styles.statistics(numbers.tolist(), images.device)
    features = styles.codec.encode(images)
    varied = instance_statistics(features).var > 1e-12  # a dead channel has no deviation to scale
    found = instance_statistics(adain(features, style))
    assert varied.float().mean() > 0.5
    assert float((found.mean - style.mean).abs().max()) < 1e-4
    assert float((found.var.sqrt() - style.var.sqrt())[varied].abs().max()) < 1e-4


def test_each_style_is_encoded_once(place, digits):
    codec = tiny_styles.codec(place)
    seen = []
    counted = type(codec)(**{**vars(codec), "encode": lambda x: seen.append(len(x)) or codec.encode(x)})
    found = read_styles(place / "styles", counted, size=SIZE)
    seen.clear()
    images, indices = digits.tensors()[0], torch.arange(tiny_styles.COUNT)
    shift = Stylised(found)
    for part in indices.split(6):
        under(shift, images[part], 0, seed=0, indices=part)
    assert seen.count(1) == len(found.chosen(0, indices).unique()) == tiny_styles.STYLES
    assert [count for count in seen if count > 1] == [6, 6, 6, 4]


def test_the_style_of_an_image_is_addressed(styles):
    every = styles.chosen(0, torch.arange(2000))
    assert torch.equal(styles.chosen(0, torch.tensor([1999, 5])), every[[1999, 5]])
    assert not torch.equal(styles.chosen(1, torch.arange(2000)), every)
    counts = every.bincount(minlength=tiny_styles.STYLES)
    assert counts.sum() == 2000
    assert int((counts - 400).abs().max()) < 5 * 18  # five deviations of a binomial


# On the fly


def test_alpha_goes_from_the_reconstruction_to_the_style(styles, digits):
    images, chosen = digits.tensors()[0], torch.zeros(tiny_styles.COUNT, dtype=torch.int64)
    codec = styles.codec
    features = codec.encode(images)
    reconstructed = codec.decode(features, (32, 32))
    torch.testing.assert_close(stylise(images, styles, chosen, 0.0), reconstructed, rtol=0, atol=1e-5)
    style = styles.statistics(chosen.tolist(), images.device)
    half = codec.decode((features + adain(features, style)) / 2, (32, 32))
    torch.testing.assert_close(stylise(images, styles, chosen, 0.5), half, rtol=0, atol=1e-5)
    assert float((stylise(images, styles, chosen) - reconstructed).abs().mean()) > 0.01


@pytest.mark.parametrize("size", [(30, 34), (33, 57)])
def test_images_that_are_no_multiple_of_the_stride_keep_their_size(styles, size):
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))
    found = under(Stylised(styles), images, 0, seed=0, indices=torch.arange(3))
    assert found.shape == images.shape
    assert torch.equal((found * 255).round() / 255, found)
    alone = under(Stylised(styles), images[2:], 0, seed=0, indices=torch.tensor([2]))
    assert float((alone != found[2:]).double().mean()) < 1e-3  # a convolution may round otherwise with its batch
    torch.testing.assert_close(alone, found[2:], rtol=0, atol=1.01 / 255)


def test_measured_as_by_hand_and_told_in_the_record(place, styles, digits):
    found = statshift.measure(
        load_model(tiny_styles.MODEL), digits, shifts=["clean", "stylised"], options=how(place), device="cpu", seed=3
    )
    images, labels = digits.tensors()
    made = under(Stylised(styles), images, 0, seed=3, indices=torch.from_numpy(digits.indices))
    with torch.no_grad():
        right = load_model(tiny_styles.MODEL)(made).argmax(1) == labels
    row = found.rows[1]
    assert (row["shift"], row["severity"]) == ("stylised", 0)
    assert bits(row).tolist() == right.tolist()
    assert found.record["families"]["stylised"] == "style"
    told = found.record["stylised"]["stylised"]
    assert (told["alpha"], told["styles"]["images"], told["styles"]["size"]) == (1.0, tiny_styles.STYLES, SIZE)
    assert told["decoder"]["at"] == tiny_styles.AT
    assert told["decoder"]["hash"]
    assert "stylised" not in found.record["functions"]


def test_a_value_is_measured_beside_another(place, styles, digits):
    """Each by its own name; a sitting may be extended by one."""
    halfway = Stylised(styles, 0.5, name="halfway")
    run = partial(statshift.measure, load_model(tiny_styles.MODEL), digits, device="cpu", out=place / "values")
    run(shifts=["clean", Stylised(styles)])
    found = run(shifts=["clean", Stylised(styles), halfway])
    assert [row["shift"] for row in found.rows] == ["clean", "stylised", "halfway"]
    assert {name: one["alpha"] for name, one in found.record["stylised"].items()} == {"stylised": 1.0, "halfway": 0.5}


# On the disk


def test_what_is_written_is_what_is_measured(whole, styles, digits):
    images, labels = digits.tensors()
    made = under(Stylised(styles), images, 0, seed=0, indices=torch.from_numpy(digits.indices))
    again = load_data(f"folder:{whole.path / 'stylised'}")
    order = np.lexsort((digits.indices, labels))
    assert torch.equal(again.tensors()[0], made[order])
    assert again.labels.tolist() == labels[order].tolist()
    arrays = np.load(whole.path / "batches.npz")
    assert arrays["indices"].tolist() == digits.indices.tolist()
    chosen = styles.chosen(0, torch.from_numpy(digits.indices))
    assert arrays["style"].tolist() == [styles.names[number] for number in chosen.tolist()]
    assert whole.record["found"]["images"] == tiny_styles.COUNT
    assert whole.record["styles"]["bytes_hash"] == styles.images.bytes_hash


def test_any_batch_size_gives_the_same_pixels(whole, place, tmp_path):
    other = tiny_styles.write(place, tmp_path / "other", batch_size=7)
    assert tree_of(other.path) == tree_of(whole.path)


def test_another_seed_gives_other_styles(whole, place, tmp_path):
    other = tiny_styles.write(place, tmp_path / "other", seed=1)
    chosen = [np.load(one.path / "batches.npz")["style"].tolist() for one in (whole, other)]
    assert chosen[0] != chosen[1]
    assert tree_of(other.path).keys() == tree_of(whole.path).keys()


def test_killed_it_goes_on_to_the_same_bytes(whole, place, tmp_path):
    out = tmp_path / "killed"
    process = warm.start(place, out, 0.5, file=tiny_styles.__file__)
    while len(list((out / ".batches").glob("*.npz"))) < 2:
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    assert warm.end(process).returncode == -9
    assert 0 < len(tree_of(out)) < tiny_styles.COUNT
    tiny_styles.write(place, out)
    assert tree_of(out) == tree_of(whole.path)
    assert not (out / ".batches").exists()


def test_two_processes_write_the_bytes_of_one(whole, place, tmp_path):
    out = tmp_path / "two"
    done = warm.run(place, out, 0, file=tiny_styles.__file__, count=2, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert tree_of(out) == tree_of(whole.path)
    assert json.loads((out / "record.json").read_text())["environment"]["processes"] == 2


def test_the_command_makes_the_same(run, whole, place, tmp_path):
    words = ["--data", "digits", "--limit", tiny_styles.COUNT, "--seed", 1, "--device", "cpu"]
    own = ["--decoder", place / "decoder.safetensors", "--styles", place / "styles", "--style-size", SIZE]
    given = ["--model", tiny_styles.MODEL, *own, *words, "--batch-size", tiny_styles.BATCH, "--out", tmp_path / "out"]
    done = run("make", "stylised", *given)
    assert done.code == 0, done.err
    assert f"{tiny_styles.COUNT} images with the styles of {tiny_styles.STYLES}, alpha 1." in done.out
    expected = tiny_styles.write(place, tmp_path / "expected", seed=1)
    assert tree_of(tmp_path / "out") == tree_of(expected.path)
    again = run("make", "stylised", *given)
    assert "nothing was made again" in again.err


def test_the_command_measures_under_it(run, place, digits, tmp_path):
    own = ["--decoder", place / "decoder.safetensors", "--styles", place / "styles", "--style-size", SIZE]
    words = ["--model", tiny_styles.MODEL, "--data", "digits", "--limit", 20, "--device", "cpu"]
    shifts = ["--shifts", "clean,stylised", "--encoder", tiny_styles.MODEL, "--alpha", 0.5]
    done = run("measure", *words, *own, *shifts, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["stylised"]["stylised"]["alpha"] == 0.5
    page = run("report", tmp_path / "run", "--format", "markdown")
    assert page.code == 0, page.err
    assert "not finished" not in page.out
    repeated = run("report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert repeated.code == 0
    text = (tmp_path / "page.html").read_text()
    assert "they are not Stylized-ImageNet" in text
    again = commands.measure(SimpleNamespace(record=record), out="more").split()
    told = dict(pairwise(again))
    given = {"--decoder": place / "decoder.safetensors", "--styles": place / "styles", "--encoder": tiny_styles.MODEL}
    assert {flag: told[flag] for flag in given} == {flag: str(value) for flag, value in given.items()}
    assert (told["--alpha"], told["--style-size"]) == ("0.5", str(SIZE))


# Training on both


def test_several_folders_are_one_data_set(whole, tmp_path):
    """Stylised and original images, told apart by their place alone; the record is the same wherever they lie."""
    first, other = whole.path / "stylised", tmp_path / "other"
    for name in "0123456789":
        (other / name).mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(other / "3" / "own.png")
    both = load_data(f"folders:{first},{other}")
    alone = load_data(f"folder:{first}")
    assert len(both) == len(alone) + 1
    assert torch.equal(both.tensors()[0][:-1], alone.tensors()[0])
    assert both.labels.tolist() == [*alone.labels.tolist(), 3]
    assert both.class_names == alone.class_names
    (other / "9").rmdir()
    with pytest.raises(InputError, match="Expected the same class folders in"):
        load_data(f"folders:{first},{other}")
    with pytest.raises(InputError, match="Expected several folders, as folders:DIR,DIR"):
        load_data(f"folders:{first}")


def test_the_recipe_stands_beside_the_published_figures(shared):
    chosen = recipe("sin")
    text = (shared / "papers" / "advbn-neurips2021.txt").read_text()
    (row,) = re.findall(r"^SIN\t(.*)$", text, re.MULTILINE)
    assert [round(100 * value, 1) for value in chosen.published["sin"].values()] == [float(x) for x in row.split()]
    assert chosen.labels == ("sin",)
    assert chosen.options["sin"].training.augment == "standard"
    with pytest.raises(InputError, match="Expected no layer for the recipe sin"):
        recipe("sin", at=["conv2_3"])


# What cannot be


def test_the_shift_needs_a_decoder_and_styles(place):
    with pytest.raises(InputError, match="a decoder and a folder of styles for the shift stylised: give `decoder` and"):
        resolve("stylised")
    with pytest.raises(InputError, match=r"no numbers for the shift stylised, but got 'stylised:0.5'"):
        resolve("stylised:0.5", how(place))
    with pytest.raises(InputError, match=r"Expected `alpha` in \[0,1\], but got 2"):
        resolve("stylised", how(place, alpha=2))
    assert STYLISED.at([1, 3]) == [0]


def test_a_decoder_of_one_s_own_model_names_no_code(place):
    """What a file says is data: code of the user's runs only where the user names it."""
    with pytest.raises(InputError, match="a model of your own: name it by `encoder`"):
        resolve("stylised", how(place, encoder=None))


def test_a_decoder_of_another_cut_or_model_is_refused(place, tmp_path):
    other = tiny_styles.write_decoder(tmp_path / "other.safetensors", at="3")
    codec = tiny_styles.codec_of(load_model(tiny_styles.MODEL), other, tiny_styles.probe())
    assert codec.at == "3"
    with pytest.raises(InputError, match="is a decoder of 3"):
        tiny_styles.codec_of(load_model(tiny_styles.MODEL), other, tiny_styles.probe(), at="2")
    with pytest.raises(InputError, match="decoder of"):
        tiny_styles.write_stylised(
            "cifar:resnet20", place / "decoder.safetensors", place / "styles", "digits", out=other
        )


def test_a_folder_without_styles_is_refused(place, tmp_path):
    codec = tiny_styles.codec(place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"Expected images in {tmp_path / 'empty'}"):
        read_styles(tmp_path / "empty", codec, size=SIZE)
    with pytest.raises(InputError, match="nowhere"):
        read_styles(tmp_path / "nowhere", codec, size=SIZE)


def test_a_style_smaller_than_the_stride_is_refused(tmp_path, place):
    found = tiny_styles.write_decoder(place / "deeper.safetensors", at="3")
    codec = tiny_styles.codec_of(load_model(tiny_styles.MODEL), found, tiny_styles.probe())
    Image.new("RGB", (4, 4), "red").save(tmp_path / "whole.png")
    assert len(read_styles(tmp_path, codec, size=SIZE)) == 1
    Image.new("RGB", (40, 3), "red").save(tmp_path / "tiny.png")
    with pytest.raises(
        InputError, match=r"at least 4 px, the encoder's stride at 3, but .*tiny.png is 40x3; remove it"
    ):
        read_styles(tmp_path, codec, size=SIZE)


def test_data_without_classes_are_refused(place, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match=r"Expected labelled images, but .* has no labels"):
        write_stylised(
            tiny_styles.MODEL, place / "decoder.safetensors", place / "styles", f"folder:{tmp_path}",
            out=tmp_path / "out", style_size=SIZE, device="cpu",
        )  # fmt: skip


def test_the_folder_of_another_call_is_refused(whole, place):
    with pytest.raises(InputError, match="alpha"):
        tiny_styles.write(place, whole.path, alpha=0.5)


# Real images: those inside scikit-image's wheel


def test_photographs_as_styles(place):
    spec = importlib.util.find_spec("skimage")
    if spec is None:
        pytest.skip("scikit-image, whose wheel has photographs, is not installed")
    folder = Path(spec.origin).parent / "data"
    names = [name for name in ("astronaut.png", "chelsea.png", "coffee.png") if (folder / name).is_file()]
    assert names
    out = place / "photographs"
    out.mkdir()
    for name in names:
        (out / name).write_bytes((folder / name).read_bytes())
    found = read_styles(out, tiny_styles.codec(place), size=64)
    assert found.names == sorted(names)
    spread = found.statistics(range(len(found)), torch.device("cpu"))
    assert float(spread.var.min()) >= 0
    assert float(spread.mean.std(0).max()) > 0
