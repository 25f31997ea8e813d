"""Recipes as files: what is copied is what is read, all faults are told at once, and nothing runs."""

import re
from dataclasses import fields, replace

import pytest
import yaml

import training_jobs
from statshift._core.errors import InputError
from statshift.adapting.options import AdaptationOptions
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.recipes import (
    RECIPES,
    AnalysisRecipe,
    MeasuringRecipe,
    Network,
    RecipeError,
    TrainingRecipe,
    as_yaml,
    changed,
    read_recipe,
    recipe,
)
from statshift.recipes.files import parse_recipe
from statshift.recipes.writing import SECTIONS

pytestmark = pytest.mark.filterwarnings("ignore:Clean accuracy is")  # it has hardly been trained

TRAINS = [name for name in RECIPES if getattr(recipe(name), "options", {})]
ADAPTS = [name for name in RECIPES if recipe(name).adaptation]
SMALLER = {"epochs": 3, "batch_size": 64, "learning_rate": 0.02, "dtype": "bfloat16", "seed": 7}
NETWORKS = {"a": Network("cifar:resnet20", {"norm": "group"}), "b": Network("cifar:vgg11")}


# There and back


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_read_as_it_was_written(name):
    chosen = recipe(name)
    text = as_yaml(chosen)
    assert parse_recipe(text) == chosen
    assert max(map(len, text.splitlines())) <= 100
    parts = [part.splitlines() for part in text.split("\n\n") if part.startswith("# ")]
    told = [next(line for line in lines if not line.startswith("#")).partition(":")[0] for lines in parts]
    assert told == [section for section in SECTIONS if section in yaml.safe_load(text)]  # each part has its comment


@pytest.mark.parametrize("name", TRAINS)
def test_flags_change_a_file_as_they_change_the_name(name):
    expected = recipe(name, **SMALLER)
    assert changed(parse_recipe(as_yaml(recipe(name))), **SMALLER) == expected
    for label, one in expected.options.items():
        found = {key: getattr(one.training, key) for key in SMALLER}
        own = set(recipe(name).keeps(label))
        assert {key: value for key, value in found.items() if key not in own} == {
            key: value for key, value in SMALLER.items() if key not in own
        }


@pytest.mark.parametrize("name", ADAPTS)
def test_so_do_those_of_adapting(name):
    expected = recipe(name, draws=3, samples=8)
    assert changed(parse_recipe(as_yaml(recipe(name))), draws=3, samples=8) == expected
    assert {one.draws for one in expected.adaptation.values()} == {3}
    counts = [one.samples for one in expected.adaptation.values()]
    assert counts == ([1, 2, 4, 8, 16, 32, 64, 128, 256] if name == "samples" else [8] * len(counts))


def test_some_labels_of_a_file_are_those_of_the_name():
    labels = ["resnet20-end", "vgg19-front"]
    some = changed(parse_recipe(as_yaml(recipe("thirds"))), labels)
    assert some == recipe("thirds", labels=labels)
    assert list(some.networks) == list(some.adaptation) == list(some.published) == labels
    assert list(some.files) == ["resnet20", "vgg19"]


def test_what_labels_share_stands_once_and_a_labels_own_goes_before():
    content = yaml.safe_load(as_yaml(recipe("factors")))
    assert content["training_of_all"]["learning_rate"] == 0.01
    assert content["options"]["learning_rate=0.5"]["training"] == {"learning_rate": 0.5}
    content["training_of_all"] |= {"epochs": 2, "decay_epochs": [1], "seed": 4}
    content["options"]["baseline"]["training"] = {"seed": 5}
    found = parse_recipe(yaml.safe_dump(content)).options
    assert {label: one.training.seed for label, one in found.items()} == dict.fromkeys(found, 4) | {"baseline": 5}
    assert found["learning_rate=0.5"].training.learning_rate == 0.5
    assert {one.training.epochs for one in found.values()} == {2}


def test_numbers_as_people_write_them():
    text = """
name: mine
title: one
model: cifar:resnet20
training_of_all: {learning_rate: 1e-3, weight_decay: 0}
options:
  at: {method: adversarial, attack: {epsilon: 8/255, norm: linf}}
"""
    one = parse_recipe(text).options["at"]
    assert (one.training.learning_rate, one.training.weight_decay) == (0.001, 0.0)
    assert one.method.attack.epsilon == 8 / 255


def test_one_list_of_shifts_is_for_all_labels():
    text = "name: x\ntitle: y\nnetworks: {a: {spec: 'cifar:vgg11'}, b: {spec: 'cifar:vgg16'}}\nshifts: [clean, fog]\n"
    assert parse_recipe(text).shifts == {"a": ("clean", "fog"), "b": ("clean", "fog")}
    own = MeasuringRecipe("x", "y", networks=NETWORKS, shifts={"a": ("fog",), "b": ("snow",)})
    assert yaml.safe_load(as_yaml(own))["shifts"] == {"a": ["fog"], "b": ["snow"]}
    assert parse_recipe(as_yaml(own)) == own


def test_a_user_s_own_recipe_comes_back():
    own = TrainingRecipe(
        "mine: a # name",
        "'quotes', \"more\", and\ttabs",
        {"ligs": "Table 9"},
        {"ä=1": {"clean": 0.1}, "null": None},
        options={
            "ä=1": HardenOptions("standard", training=TrainingOptions(epochs=1)),
            "null": HardenOptions("advprop"),
        },
        model="timm:resnet18",
        data="npz:C:\\a: b.npz",
        begins_with={"null": "ä=1"},
    )
    assert parse_recipe(as_yaml(own)) == own
    rectified = MeasuringRecipe(
        "r",
        "",
        networks=NETWORKS,
        protocols=("prior:8", "py:mine.py:rule"),
        adaptation={"b": AdaptationOptions(4)},
        shifts={"a": ("py:mine.py:shift",)},
    )
    assert parse_recipe(as_yaml(rectified)) == rectified


# Faults

WRONG = """
name: mine
title: bad
sorce: {ligs: Table 1}
training_of_all:
  epochs: ten
  learning_rat: 0.1
  seed: 1
options:
  advbn:
    at: layer1
    training: {epochs: 0, learning_rate: fast, augment: autoaugmen}
    attack: {steps: 0}
  std: {method: standrd}
  lost: {method: standard}
networks:
  advbn: {spec: 'cifar:resnt20', arguments: {norm: batc}}
  std: {spec: 'cifr:x', weights: w}
  other: {spec: 'cifar:vgg11', mean: [1, 2]}
shifts: [clean, fogg]
severities: [1, 9]
protocols: [repace]
ligs: [gausian]
published: {advbn: {clean: high}}
walk: maybe
begins_with: {advbn: std}
analysis: magic
"""
FAULTS = [
    "sorce: Unknown key 'sorce'. Did you mean 'source'?",
    "training_of_all.epochs: Expected a whole number, but got 'ten'",
    "training_of_all.learning_rat: Unknown key 'learning_rat'. Did you mean 'learning_rate'?",
    "options.advbn.training.epochs: Expected `epochs` to be an integer of at least 1, but got 0",
    "options.advbn.training.learning_rate: Expected a number, but got 'fast'",
    "options.advbn.training.augment: Unknown augment 'autoaugmen'. Did you mean 'autoaugment'?",
    "options.advbn.attack.steps: Expected `steps` to be an integer of at least 1, but got 0",
    "options.std.method: Unknown method 'standrd'. Did you mean 'standard'?",
    "networks: The label 'lost' is missing",
    "networks: Unknown label 'other'. Choose from: advbn, std, lost",
    "networks.advbn.spec: Unknown CIFAR model 'resnt20'. Did you mean 'resnet20'?",
    "networks.advbn.arguments.norm: Unknown norm 'batc'. Did you mean 'batch'?",
    "networks.std.spec: Unknown model scheme 'cifr'. Did you mean 'cifar'?",
    "networks.std.weights: Expected it among `files`",
    "networks.other.mean: Expected three numbers, but got [1.0, 2.0]",
    "shifts: Unknown shift 'fogg'. Did you mean 'fog'?",
    "severities: Expected `severity` to be an integer from 1 to 5, but got 9",
    "protocols: Unknown protocol 'repace'. Did you mean 'replace'?",
    "ligs: Unknown perturbation 'gausian'. Did you mean 'gaussian'?",
    "published.advbn.clean: Expected a number, but got 'high'",
    "walk: Expected true or false, but got 'maybe'",
    "begins_with.advbn: Expected a label before advbn, but got 'std'",
]


def test_all_faults_are_told_at_once_each_with_its_place():
    with pytest.raises(RecipeError) as told:
        parse_recipe(WRONG, "mine.yaml")
    assert sorted(told.value.faults[:-1]) == sorted(FAULTS)
    assert told.value.faults[-1].startswith("analysis: Unknown analysis 'magic'. Choose from: branches, costs")
    assert str(told.value).startswith("mine.yaml has 23 faults: sorce: ")
    assert "\n" not in str(told.value)


def test_a_fault_that_all_labels_share_is_told_once():
    text = as_yaml(recipe("norms")).replace("weight_decay: 0.0005", "weight_decay: -1")
    with pytest.raises(RecipeError) as told:
        parse_recipe(text)
    assert told.value.faults == (
        "training_of_all.weight_decay: Expected `weight_decay` to be at least 0, but got -1.0",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "is not YAML: "),
        ("name: a\nname: b", "is not YAML: the key 'name' stands twice"),
        ("options:\n  a: {at: x}\n  a: {at: y}", "is not YAML: the key 'a' stands twice, in line 2"),
        ("- 1", "Expected The recipe to hold a recipe, names and values, but got [1]"),
        ("", "Expected The recipe to hold a recipe, names and values, but got nothing"),
        ("title: x", "name: Expected text, but got nothing"),
        ("name: 3\ntitle: x", "name: Expected text, but got 3"),
        ("name: x\ntitle: y\noptions: [1]", "options: Expected names and values, but got"),
        ("name: x\ntitle: y\nnetworks: {a: {}}", "networks.a: Expected `spec`, but there is none"),
        (
            "name: x\ntitle: y\nnetworks: {../a: {spec: 'cifar:vgg11'}}",
            "a label that can name a folder, but got '../a'",
        ),
        ("name: x\ntitle: y\nnetworks: {..: {spec: 'cifar:vgg11'}}", "a label that can name a folder, but got '..'"),
        ("name: x\ntitle: y\nsource: {nature: Table 1}", "source: Unknown paper 'nature'"),
        ("name: x\ntitle: y\nseverities: 3", "severities: Expected a list, but got 3"),
        ("name: x\ntitle: y\nwalk: 1", "walk: Expected true or false, but got 1"),
        ("name: x\ntitle: y\ntraining_of_all: 3", "training_of_all: Expected names and values, but got 3"),
        ("name: x\ntitle: y", "options: Expected labels here or under `networks`"),
        ("name: x\ntitle: y\noptions: {base: {method: cutmix}}", "options: The label 'base' is the given model's"),
        (
            "name: x\ntitle: y\nnetworks: {a: {spec: 'cifar:vgg11'}}\nseverities: []",
            "severities: Expected at least one from 1 to 5",
        ),
        ("name: x\ntitle: y\nnetworks: {a: {spec: 'cifar:vgg11'}}\nshifts: []", "shifts: Expected at least one"),
    ],
)
def test_files_that_are_no_recipes(text, told):
    with pytest.raises(InputError, match=re.escape(told)):
        parse_recipe(text)


BASIS = "name: x\ntitle: y\nnetworks: {a: {spec: 'cifar:vgg11'}}\n"
TRAINING = f"{BASIS}options: {{a: {{method: standard}}}}\n"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (f"{BASIS}data: cifar11", ["data: Unknown data scheme 'cifar11'. Did you mean 'cifar10'?"]),
        (f"{TRAINING}validation: fodler:x", ["validation: Unknown data scheme 'fodler'. Did you mean 'folder'?"]),
        (
            f"{BASIS}published: {{a: {{corrupted: 73.1, mce: 1.06}}}}",
            ["published.a.corrupted: Expected a fraction, as 0.731 for 73.1 %, but got 73.1"],
        ),
        (
            f"{BASIS}published: {{a: {{corupted: 0.7, 'pgd-l2:0.25': 0.1}}}}",
            ["published.a.corupted: Unknown figure 'corupted'. Did you mean 'corrupted'?"],
        ),
        (f"{BASIS}published: {{aa: {{}}}}", ["published: Unknown label 'aa'. Did you mean 'a'?"]),
        (
            f"{BASIS}protocols: replace\nadaptation_of_all: {{samples: 8}}",
            ["protocols: Expected a list, but got 'replace'"],
        ),
        (f"{BASIS}protocols: [3]\nadaptation_of_all: {{samples: 8}}", ["protocols[0]: Expected text, but got 3"]),
        (
            "name: x\ntitle: y\nnetworks: [a]\nprotocols: [replace]\nadaptation: {a: {samples: 8}}",
            ["networks: Expected names and values, but got ['a']"],
        ),
        (f"{BASIS}severities:", ["severities: Expected a list, but got nothing"]),
        (f"{BASIS}note: yes", ["note: Expected text, but got true"]),
        (
            f"{BASIS}analysis: similarities\nprotocols: ['py:m.py:f']",
            ["protocols: Expected one that writes statistics, by name, for similarities, but got 'py:m.py:f'"],
        ),
        (
            f"{BASIS}analysis: embedding\nprotocols: [running]",
            ["protocols: Expected one that writes statistics, by name, for embedding, but got 'running'"],
        ),
    ],
)
def test_each_fault_is_told_once_and_nothing_that_follows_from_it(text, faults):
    with pytest.raises(RecipeError) as told:
        parse_recipe(text)
    assert [re.sub(r" Choose from: .*", "", fault) for fault in told.value.faults] == faults


@pytest.mark.parametrize(
    ("text", "kind", "excess"),
    [
        (BASIS, MeasuringRecipe, {"validation": "digits", "walk": True, "trend": ["clean"], "begins_with": {"a": "b"}}),
        (TRAINING, TrainingRecipe, {}),
        (
            f"{BASIS}analysis: distances\n",
            AnalysisRecipe,
            {"ligs": ["fgsm"], "by_shift": True, "fixed": {"a": ["draws"]}},
        ),
    ],
)
def test_what_stands_in_a_file_says_which_kind_it_is(text, kind, excess):
    """What its kind has no place for may stand there empty, as copies of older ones have it, and else is told of."""
    empty = "".join(f"{name}:\n" for name in excess)
    assert type(parse_recipe(text + empty)) is type(parse_recipe(text)) is kind
    does = {MeasuringRecipe: "trains nothing", AnalysisRecipe: "has an analysis"}
    for name, value in excess.items():
        with pytest.raises(RecipeError) as told:
            parse_recipe(text + yaml.safe_dump({name: value}))
        assert told.value.faults == (f"{name}: Expected none in a recipe that {does[kind]}",)


@pytest.mark.parametrize("kind", [MeasuringRecipe, TrainingRecipe, AnalysisRecipe])
def test_every_field_of_every_kind_has_its_part_of_a_file(kind):
    assert {field.name for field in fields(kind)} <= SECTIONS.keys()


def test_labels_that_yaml_takes_for_numbers_are_text():
    file = """
name: x
title: y
networks: {18: {spec: "cifar:resnet18"}, 50: {spec: "cifar:resnet50"}}
protocols: [replace]
adaptation_of_all: {samples: 64, include_adaptation: true}
adaptation: {18: {statistics: mean}}
"""
    common = AdaptationOptions(64, include_adaptation=True)
    assert parse_recipe(file).adaptation == {"18": replace(common, statistics="mean"), "50": common}


def test_what_is_wrong_is_told_in_short_however_large_it_is():
    lines = ["title: y", "note: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]  # 9 ** 12 times x, if written out
    with pytest.raises(RecipeError, match="name: Expected text, but got") as told:
        parse_recipe("\n".join([*lines, "name: *a11"]))
    assert max(map(len, told.value.faults)) < 600


def test_no_code_runs_from_a_file(tmp_path):
    made = tmp_path / "made"
    text = f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{made}']]"
    with pytest.raises(InputError, match="is not YAML: could not determine a constructor"):
        parse_recipe(text)
    code = tmp_path / "mine.py"
    code.write_text(f"import pathlib\npathlib.Path({str(made)!r}).touch()\n")
    chosen = parse_recipe(f"name: x\ntitle: y\nnetworks: {{a: {{spec: 'py:{code}:f'}}}}\nshifts: ['py:{code}:g']")
    assert chosen.networks["a"].spec == f"py:{code}:f"
    assert not made.exists()


def test_recipes_in_python_are_checked_alike():
    with pytest.raises(RecipeError, match=r"networks\.a\.spec: Unknown model scheme 'cifr'"):
        MeasuringRecipe("x", "y", networks={"a": Network("cifr:x")})
    with pytest.raises(RecipeError, match="protocols: Expected a protocol"):
        MeasuringRecipe("x", "y", networks=NETWORKS, adaptation={"a": AdaptationOptions()})
    with pytest.raises(RecipeError, match="options: Expected a label that can name a folder, but got 'a/b'"):
        replace(recipe("position"), options={"a/b": HardenOptions("standard")}, published={})


# Command line


def test_a_copy_is_printed_or_written_but_never_over_another(run, tmp_path):
    printed = run("recipes", "copy", "thirds")
    assert printed.code == 0
    assert parse_recipe(printed.out) == recipe("thirds")
    file = tmp_path / "new" / "mine.yaml"
    first = run("recipes", "copy", "thirds", "--out", file)
    assert (first.code, first.err) == (0, "")
    assert file.read_text() == printed.out
    assert f"statshift run {file}" in first.out
    file.write_text("mine")
    again = run("recipes", "copy", "thirds", "--out", file)
    assert (again.code, again.out, file.read_text()) == (2, "", "mine")
    assert (
        again.err
        == f"statshift: error: {file} is there already: choose another file, or add --overwrite to replace it.\n"
    )
    assert run("recipes", "copy", "thirds", "--out", file, "--overwrite").out.startswith("Replaced ")
    assert read_recipe(file) == recipe("thirds")
    assert "Did you mean 'thirds'?" in run("recipes", "copy", "third").err


@pytest.mark.usefixtures("one_thread")
def test_a_file_runs_as_its_name(run, tmp_path):
    file = tmp_path / "mine.yaml"
    run("recipes", "copy", "upper-bound", "--out", file)
    words = ["--labels", "standard,contrast", "--data", "digits:train", "--validation", "digits:test", "--limit", 40]
    words += ["--epochs", 1, "--batch-size", 20, "--model-args", "width=0.1", "--device", "cpu"]
    by_name = run("run", "upper-bound", *words, "--out", tmp_path / "a")
    by_file = run("run", file, *words, "--out", tmp_path / "a")
    assert by_name.code == by_file.code == 0, by_file.err
    assert by_file.out == by_name.out
    assert "steps." in by_name.err
    assert "steps." not in by_file.err  # it went on with the same training


@pytest.mark.usefixtures("one_thread")
def test_an_edited_file_is_what_runs(run, tmp_path):
    file = tmp_path / "mine.yml"
    content = {
        "name": "mine",
        "title": "tiny networks",
        "networks": {"plain": {"spec": f"py:{training_jobs.__file__}:build"}},
        "protocols": ["prior:4"],
        "adaptation_of_all": {"samples": 4},
        "data": "digits:test",
        "shifts": ["clean", "contrast"],
        "severities": [2],
    }
    file.write_text(yaml.safe_dump(content))
    told = run("run", file, "--out", tmp_path / "out", "--limit", 50, "--device", "cpu")
    assert told.code == 0, told.err
    assert "Ours are over 46 images of digits:test under clean; contrast at severity 2." in told.out
    assert re.search(r"^label +clean +clean rectified +corrupted +corrupted rectified$", told.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere.yaml"], "Cannot read the recipe nowhere.yaml: No such file or directory."),
        (["./position"], "Cannot read the recipe ./position: No such file or directory."),
        (["mine.yaml", "--at", "layer1"], "Expected no --at with a file: change mine.yaml instead."),
        (
            ["rectify-cifar10", "--epochs", "3"],
            "Expected no --epochs for the recipe rectify-cifar10, which trains nothing.",
        ),
        (["position", "--samples", "3"], "Expected no --samples for the recipe position, which trains"),
        (["samples", "--file", "resnet18"], "Expected --file NAME=PATH, but got 'resnet18'."),
        (
            ["samples", "--file", "resnet19=x"],
            "Unknown file of the recipe samples 'resnet19'. Did you mean 'resnet18'?",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(run, words, named):
    done = run("run", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert named in done.err


def test_a_bad_file_is_told_with_a_line_for_each_fault(run, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(WRONG)
    done = run("run", file)
    assert (done.code, done.out) == (2, "")
    head, *lines = done.err.splitlines()
    assert head == f"statshift: error: {file} has {len(FAULTS) + 1} faults:"
    assert sorted(lines[:-1]) == sorted(f"  - {fault}" for fault in FAULTS)
    file.write_text("name: x\ntitle: y\nnetworks: {a: {spec: 'cifar:vgg11'}}\nwalk: 1\n")
    one = run("run", file).err
    assert one == f"statshift: error: {file} has 1 fault: walk: Expected true or false, but got 1.\n"


def test_what_reads_as_a_name_and_is_a_file_is_hinted_at(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, typed in (("mine", "./mine"), ("other", "other.yaml"), ("third", "third.yml")):
        (tmp_path / typed).write_text("")
        told = f"statshift: error: Unknown recipe {name!r}, but there is a file: statshift run {typed}.\n"
        assert run("run", name).err == told
    copied = run("recipes", "copy", "thirds", "--out", tmp_path)
    assert copied.code == 2
    assert (
        copied.err == f"statshift: error: {tmp_path} is a folder: name a file in it, such as {tmp_path}/thirds.yaml.\n"
    )


@pytest.mark.parametrize("name", ["cost", "branches"])
def test_what_writes_nothing_takes_no_folder(run, tmp_path, name):
    done = run("run", name, "--data", "digits", "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"statshift: error: Expected no --out for the recipe {name}, which writes nothing.\n"
