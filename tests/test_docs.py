"""The documentation tells the truth: its code runs, its commands parse, and its links lead on."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import torch
import typer
from markdown.extensions.toc import slugify

import statshift
import warm
from statshift._core.errors import StatshiftWarning
from statshift.adapting.registry import PROTOCOLS
from statshift.cli import app
from statshift.recipes import RECIPES
from statshift.results import read_run

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
HOSTS = {"github.com", "keepachangelog.com"}
ELSEWHERE = {
    "robust-checkpoints.md": "test_robust_checkpoints.py",
    "howto/segmentation.md": "test_segmentation_recipes.py",
}
"""Pages whose Python another test runs, in surroundings of its own."""


def blocks_of(page):
    return [
        SimpleNamespace(language=language, file=file, text=text, end=found.end())
        for found in BLOCK.finditer((DOCS / page).read_text())
        for language, file, text in [found.groups()]
    ]


def write_files(page):
    for block in blocks_of(page):
        if block.file:
            Path(block.file).write_text(block.text)


# What runs in Python


def check_compare(names, out):
    assert [line.split()[0] for line in out.splitlines()] == ["clean", "fog"]
    assert all(-1 <= one.accuracy.low <= one.accuracy.difference <= 1 for one in names["comparison"].conditions)


def check_attack(names, out):
    change = (names["adversarial"] - names["images"]).flatten(1).norm(dim=1)
    assert 0.24 < float(change.max()) <= 0.25 + 1e-6
    assert float(names["adversarial"].max()) <= 1
    assert names["again"].labels.tolist() == names["labels"].tolist()
    assert names["similarity"].interval[0] < names["similarity"].mean < names["similarity"].interval[1]


def check_corrupt(names, out):
    assert names["snowy"].shape == names["images"].shape
    assert len(statshift.COMMON) == 15


def check_data(names, out):
    assert torch.equal(names["own"].tensors()[0], names["images"])
    assert sorted(names["labels"].tolist()) == list(range(10))


def check_extending(names, out):
    """Each of one's own is what it says, by hand."""
    images, labels = names["digits"].tensors()
    assert [(row["shift"], row["severity"]) for row in names["dotted"].rows] == [("clean", 0), ("dots", 1), ("dots", 3)]
    assert names["dotted"].record["families"] == {"clean": "clean", "dots": "corruption"}
    torch.manual_seed(0)
    source = statshift.load_model("cifar:resnet20", model_args={"width": 0.5})  # as it was before it was trained
    persisting = statshift.diagnose(source, names["foggy"]).persisting
    before, after = (one.network.bn1.running_mean for one in (source, names["adapted"]))
    with torch.no_grad():
        observed = source.network.conv1(source.normalise(names["foggy"])).mean((0, 2, 3))
    assert 0 < persisting <= 1
    torch.testing.assert_close(after, before + 0.25 * persisting * (observed - before))
    assert names["trained"].record["hardening"]["sigma"] == 0.1
    with torch.no_grad():
        right = (names["model"].eval()(images).argmax(1) < 5) == (labels < 5)
    score = names["halves"].summary["protocols"]["source"]["clean_right_half"]
    assert score == pytest.approx(float(right.double().mean()))


def check_harden(names, out):
    assert "layer1.0" in ast.literal_eval(out)
    assert not torch.equal(names["logits"], names["adversarial_branch"].eval()(names["images"][:8]))
    assert names["hardened"].model.network is names["model"].network
    assert names["noisy"].record["hardening"]["sigma"] == 0.2


def check_other_libraries(names, out):
    with torch.no_grad():
        torch.testing.assert_close(names["logits"], names["adapted"](names["images"]))
    moved = (names["adversarial"] - names["images"]).abs().flatten(1).amax(1)
    assert float(moved.max()) == pytest.approx(1 / 255, abs=1e-6)
    layer, source = (
        names["hardened"].network.layer2[0].bn1,
        statshift.load_model("cifar:resnet20").network.layer2[0].bn1,
    )
    assert layer.num_batches_tracked == 1  # it has been trained one step
    assert type(layer) is type(source)


def check_python(names, out):
    assert "fgo" in out
    assert "fog" in out.splitlines()[-1]
    assert 0 <= names["source"]["clean_interval"][0] <= names["source"]["clean_accuracy"] <= 1
    assert names["auto"]["images"] == 60 - 32
    assert names["run"].rows[0]["images"] == 60
    assert names["run"].record["model"]["weights_hash"] in names["page"].read_text()


def check_rectify(names, out):
    layer, adapted = names["model"].network.bn1, names["adapted"].network.bn1
    pixels = (names["target"] - names["model"].mean) / names["model"].std
    observed = names["model"].network.conv1(pixels).mean((0, 2, 3))
    torch.testing.assert_close(adapted.running_mean, 0.75 * layer.running_mean + 0.25 * observed)
    moved = names["whole"].network.bn1.running_mean  # equal batches: the mean of their means is that of all
    torch.testing.assert_close(moved, observed)
    assert names["sweeps"] >= 2
    assert torch.equal(layer.running_mean, torch.zeros(16))  # the source is as it was


def check_train(names, out):
    history, found = map(ast.literal_eval, out.splitlines())
    assert history["clean"] > 0
    assert isinstance(found, dict)
    norms = [type(module).__name__ for module in names["trained"].model.modules() if "Norm" in type(module).__name__]
    assert set(norms) == {"GroupNorm"}
    assert not [m for m in names["other"].modules() if isinstance(m, torch.nn.BatchNorm2d)]


def printed(names, out):
    """Pages that say themselves what they print."""


def check_checkpoints(names, out):
    assert out.split() == ["IBN", "BatchNorm2d"]


def check_decoders(names, outputs):
    assert names["record"]["found"]["psnr"] > 5
    assert names["pictures"].shape == names["images"].shape
    torch.testing.assert_close(names["logits"], names["model"](names["images"]))


CHECKS = {
    "checkpoints.md": check_checkpoints,
    "decoders.md": check_decoders,
    "extending.md": check_extending,
    "howto/attack.md": check_attack,
    "howto/compare.md": check_compare,
    "howto/corrupt.md": check_corrupt,
    "howto/data.md": check_data,
    "howto/harden.md": check_harden,
    "howto/other-libraries.md": check_other_libraries,
    "howto/python.md": check_python,
    "howto/rectify.md": check_rectify,
    "howto/train.md": check_train,
    "numbers.md": printed,
    "questions.md": printed,
}


NEEDS = {"howto/other-libraries.md": "foolbox"}


def runs_python(page):
    return any(block.language == "python" and not block.file for block in blocks_of(page))


def test_all_python_is_run():
    assert {page for page in PAGES if runs_python(page)} == CHECKS.keys() | ELSEWHERE.keys()
    assert all(page in (ROOT / "tests" / test).read_text() for page, test in ELSEWHERE.items())


@pytest.mark.parametrize("page", CHECKS)
@pytest.mark.filterwarnings("ignore:No frost photographs", "ignore:Clean accuracy is")
@pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # digits are alike to drawn weights
def test_python_blocks_run_and_print_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    names, outputs, blocks = {"__name__": "__main__"}, [], blocks_of(page)
    torch.manual_seed(0)
    for number, block in enumerate(blocks):
        if block.language != "python" or block.file:
            continue
        exec(compile(block.text, page, "exec"), names)
        outputs.append(capsys.readouterr().out)
        following = blocks[number + 1] if number + 1 < len(blocks) else None
        if following and following.language == "text" and outputs[-1]:
            assert outputs[-1] == following.text
            outputs[-1] = ""
    if CHECKS[page] is printed:
        assert not any(outputs), "what is printed stands in a text block below"
    CHECKS[page](names, "".join(outputs))


def test_the_shift_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files("howto/measure.md")
    names = {}
    exec(Path("my_shifts.py").read_text(), names)
    shifted = names["sepia"](torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(2, 3, 4, 4))
    torch.testing.assert_close(shifted[0, :, 0, 0], torch.tensor([0.4, 0.36, 0.28]))
    assert shifted.shape == (2, 3, 4, 4)


# The commands


def commands_of(page):
    lines = [line for block in blocks_of(page) if block.language == "sh" for line in block.text.splitlines()]
    return [
        line.rpartition("-m ")[2].rpartition("&& ")[2] for line in lines if re.search(r"(^|-m |&& )statshift ", line)
    ]


COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]


def parse(command):
    """Parse a command line as the program does, without running it; return the verb's parameters."""
    program, *words = shlex.split(command)
    assert program == "statshift"
    at = typer.main.get_command(app)
    while getattr(at, "commands", {}).keys() & set(words[:1]):
        at = at.commands[words.pop(0)]
    assert not (words and hasattr(at, "commands")), f"no such verb: {words}"
    return at.make_context(at.name, words).params


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}-{command[:60]}" for page, command in COMMANDS])
def test_commands_parse(page, command):
    parse(command)


@pytest.mark.parametrize("page", PAGES)
def test_verbs_and_flags_in_the_text_exist(page):
    verbs = typer.main.get_command(app).commands
    flags = {
        "--help",
        "--scale",
        *(flag for verb in verbs.values() for one in verb.params for flag in one.opts),
    }  # --scale is of benchmarks/normalization.py
    codes = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(), flags=re.DOTALL | re.M))
    for code in codes:
        words = code.split()
        if "benchmarks/" in code:
            continue
        if words[0] == "statshift" and len(words) > 1:
            assert words[1] in verbs, code
            below = getattr(verbs[words[1]], "commands", None)
            assert below is None or len(words) == 2 or words[2] in below, code
        assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} <= flags, code


def test_recipes_that_are_named_exist():
    lines = [command.split() for _, command in COMMANDS]
    named = {words[2] for words in lines if words[1] == "run"} | {words[3] for words in lines if words[2:3] == ["copy"]}
    recipes = {name for name in named if not name.endswith(".yaml")}
    assert len(recipes) >= 3
    assert recipes <= set(RECIPES)


def test_a_wrong_command_does_not_parse():
    with pytest.raises(Exception, match="No such option"):
        parse("statshift measure --model a --data b --out c --samplings 3")
    with pytest.raises(Exception, match="Missing parameter: out"):
        parse("statshift measure --model a --data b")
    with pytest.raises(AssertionError, match="no such verb"):
        parse("statshift mesure --model a")


def test_every_verb_has_its_page():
    shown = {command.split()[1] for _, command in COMMANDS}
    assert shown == set(typer.main.get_command(app).commands)


@pytest.mark.slow
def test_the_tutorial_word_for_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files("tutorial.md")
    outputs = []
    for block in blocks_of("tutorial.md"):
        outputs.append("")
        for program, *words in map(shlex.split, block.text.splitlines() if block.language == "sh" else []):
            file = words.pop(0) if program == "python" else None
            assert program in ("python", "statshift")
            done = warm.run(*words, file=file, CUDA_VISIBLE_DEVICES="")
            assert done.returncode == 0, f"{block.text}{done.stderr}"
            assert "Traceback" not in done.stderr
            outputs[-1] += done.stdout

    run = json.loads(Path("runs/source/summary.json").read_text())
    source, auto = run["protocols"]["source"], run["protocols"]["auto"]
    of = {shift: found["by_severity"] for shift, found in source["per_shift"].items()}
    clean = source["clean_accuracy"]
    low, high = source["clean_interval"]
    assert run["images"] == 200
    assert source["mce"] is None
    assert 0.02 < high - low < 0.08  # "some points wide"
    assert min(of["gaussian_noise"] + of["shot_noise"] + of["defocus_blur"] + of["motion_blur"]) > clean - 0.06
    assert max(of["fog"][4], of["contrast"][4]) < clean / 2  # "take most of the accuracy"
    assert auto["mean_accuracy"] > auto["paired_source"]["mean_accuracy"] + 0.04
    assert auto["clean_accuracy"] > auto["paired_source"]["clean_accuracy"] - 0.01

    (diagnoses,) = (text for text in outputs if text.count("Distance from the stored statistics") == 2)
    foggy, clear = re.findall(r"^(?:The shift is|No shift beyond).*$", diagnoses, re.MULTILINE)
    assert foggy.endswith("rectifying will likely help.")
    assert not clear.endswith("rectifying will likely help.")
    before, after = (read_run(f"runs/{name}").rows[0]["correct"] for name in ("tomorrow", "tomorrow-rectified"))
    assert after > 1.5 * before
    assert Path("hardened/adv.safetensors").exists()
    page = Path("report.html").read_text()
    assert "</html>" in page
    assert "tomorrow-rectified" in page


# Links


def prose(text):
    """Return Markdown without code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE))


def links_of(path):
    return re.findall(r"\]\(([^)\s]*)\)", prose(path.read_text()))


def github(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors_of(path):
    """Return the anchors of a page on GitHub that are its anchors on the built pages, too."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = [heading.replace("`", "") for heading in re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)]
    return {github(heading) for heading in headings} & {slugify(heading, "-") for heading in headings}


TEXTS = [ROOT / "README.md", *(DOCS / page for page in PAGES)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    for link in links_of(path):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            assert (parts.scheme, parts.netloc in HOSTS) == ("https", True), link
            assert re.fullmatch(r"[\w./@-]*", parts.path), link
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        assert target.exists(), link
        if not parts.fragment:
            continue
        made = re.findall(r"^::: (\S+)$", target.read_text(), re.MULTILINE)
        assert parts.fragment in anchors_of(target) | set(made), link


def test_anchors_are_told_from_none(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n\n## 5,000 or 50,000 `images`?\n\n## 0 %. Is it?\n\n```sh\n# no heading\n```\n")
    assert anchors_of(page) == {"a-title", "5000-or-50000-images"}


# The figures, the methods, the reference


def test_figures_of_the_protocols_stand_in_the_pages_they_link():
    parts = [part for part in re.split(r"\n\n|\n(?=\|)", (DOCS / "protocols.md").read_text()) if "```" not in part]
    checked = 0
    for part in parts:
        figures = re.findall(r"(?<![\d:.])\d+\.\d+", re.sub(r"\]\([^)]*\)", "]", part).replace("MobileNetV1 0.25", ""))
        linked = [DOCS / link.partition("#")[0] for link in re.findall(r"\]\(([^)]*)\)", part)]
        texts = "".join(page.read_text() for page in linked)
        assert all(re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", texts) for figure in figures), part
        checked += len(figures)
    assert checked > 20


def test_what_protocols_change_and_cost_is_what_they_say():
    page = (DOCS / "protocols.md").read_text()
    rows = re.findall(r"^\| `([\w@]+)[^`]*` \| ([^|]*) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    told = {name: (tuple(changes.split(", ")), int(there), int(back)) for name, changes, there, back in rows}
    assert told.pop("NAME@IMAGES") == (("as NAME",), 1, 0)
    assert told == {
        name: (entry.load().changes, entry.load().forwards, entry.load().backwards)
        for name, entry in PROTOCOLS.items()
        if name != "source"
    }


def test_methods_are_where_the_table_says():
    rows = [line for line in (DOCS / "methods.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in rows if not line.startswith("| method |")]
    assert len(rows) > 60
    for row in rows:
        _, _, source, code, _, _ = row.split("|")
        assert source.strip()
        found = re.findall(r"\[`([\w.]+)`\]\(reference/[\w-]+\.md#statshift\.([\w.]+)\)", code)
        assert found, row
        for shown, linked in found:
            assert shown == linked
            module, _, name = shown.rpartition(".")
            thing = getattr(importlib.import_module(f"statshift.{module}"), name)
            assert getattr(thing, "__module__", f"statshift.{module}") == f"statshift.{module}", shown
            assert thing.__doc__


def test_every_warning_is_explained():
    explained = re.findall(r"^\| `(\w+Warning)` \|", (DOCS / "questions.md").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(one.__name__ for one in StatshiftWarning.__subclasses__())


def test_the_reference_has_every_public_name_once():
    made = [
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: statshift\.(\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert len(made) == len(set(made))
    assert set(statshift.__all__) <= {name.rpartition(".")[2] for name in made}
    for name in made:
        module, _, thing = name.rpartition(".")
        assert hasattr(importlib.import_module(f"statshift.{module}"), thing), name


# The formulas


@pytest.mark.parametrize(
    ("tex", "shown"),
    [
        (r"\mu_s + w_\mu (\mu_t - \mu_s)", "μs+wμ(μt\u2212μs)"),
        (r"w = \tfrac12 \; p", "w=12p"),
        (r"\frac{\text{noise} + 1}{\sigma_s^2}", "noise+1\u03c3s2"),
        (r"2^{-L}", "2\u2212L"),
        (r"\sum_s E^{\text{A}}_{c,s}", "\u2211sEc,sA"),
    ],
)
def test_mathml_says_what_the_formula_says(tex, shown):
    spec = importlib.util.spec_from_file_location("formulas", DOCS / "formulas.py")
    formulas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formulas)
    tree = ElementTree.fromstring(formulas.to_mathml(tex))
    assert "".join(tree[0][0].itertext()) == shown
    assert tree[0][1].text == tex
    with pytest.raises(ValueError, match=r"Unknown command \\wp"):
        formulas.to_mathml(rf"{tex} \wp")


# The notebook

TOUR = DOCS / "tour.ipynb"
VALUES = """
import json
protocols = measured.summary["protocols"]
print(json.dumps({
    "clean": protocols["source"]["clean_accuracy"], "fog": protocols["source"]["per_shift"]["fog"]["accuracy"],
    "auto": protocols["auto"]["per_shift"]["fog"]["accuracy"], "before": before, "after": after,
    "p": {one.shift: one.adjusted_p_value for one in comparison.conditions}, "attacked": attacked,
    "ligs": similarity.mean, "measured": measured.summary["ligs"]["gaussian"]["mean"],
    "images": len(images), "page": page.read_text()[-8:],
    "sentences": [statshift.diagnose(model, some).sentence for some in (images[:32], seen)],
}))
"""


def test_the_notebook_is_stripped():
    cells = json.loads(TOUR.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # the notebook's client's own
def test_the_notebook_runs(monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(TOUR, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(VALUES))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    (output,) = notebook.cells[-1].outputs
    values = json.loads(output.text)
    assert values["clean"] > 0.95
    assert values["auto"] > values["fog"] + 0.2
    assert values["after"] > values["before"] + 0.1  # fog makes this network see one class, as images of one would
    assert values["p"]["fog"] < 1e-6
    assert values["p"]["clean"] > 0.05
    assert values["attacked"] < values["clean"]
    assert 0 < values["ligs"] <= 1
    assert values["ligs"] == pytest.approx(values["measured"], abs=0.02)  # of 200 of the same images
    assert values["sentences"][0].startswith("No shift beyond noise")
    assert values["sentences"][1].endswith("rectifying will likely help.")
    assert values["page"].strip().endswith("</html>")
