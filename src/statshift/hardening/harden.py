"""Fine-tune a model so that it withstands shifts: AdvBN, and what it is compared with."""

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from statshift._core import processes
from statshift._core.errors import InputError, NoGradientError, unknown
from statshift._core.identity import ANSWERS
from statshift.adapting.protocols import adaptation_positions
from statshift.data import ImageData, load_data, loading_options, stored_shifts
from statshift.hardening.landscape import landscape, step_sizes_around
from statshift.hardening.objectives import (
    Method,
    advbn,
    adversarial,
    corrupted,
    ligs_regularised,
    moex,
    pixel_adversarial,
    standard,
)
from statshift.hardening.training import Step, TrainingOptions, train
from statshift.measuring.evaluate import find_device, load_both
from statshift.measuring.ligs import LigsOptions
from statshift.measuring.measure import measure
from statshift.models import PixelModel, made_by, save_weights, weights_hash
from statshift.results import Row, alone, write_json_atomically
from statshift.results.provenance import answers_of, describe_data, describe_environment, describe_model
from statshift.shifts.attacks import FeatureAttack, PixelAttack, is_attack
from statshift.shifts.conditions import CLEAN, Shifts, conditions, resolve
from statshift.shifts.corruptions import CORRUPTIONS, check_severity
from statshift.splitting.branches import BRANCHES, Branches
from statshift.splitting.cuts import INPUT, network_of
from statshift.tasks.choice import describe_task, resolve_task
from statshift.tasks.task import Task

METHODS: dict[str, str] = {
    "advbn": "Shu et al., NeurIPS 2021",
    "standard": "fine-tuning on the images alone",
    "pixel-at": "PGD on the images (Madry et al., ICLR 2018) with auxiliary norms, as in Shu et al., section 5.1",
    "advprop": "Xie et al., CVPR 2020",
    "moex": "Li et al., CVPR 2021",
    "cutmix": "Yun et al., ICCV 2019",
    "adversarial": "Madry et al., ICLR 2018: PGD on the images, which alone are trained on, by one set of norms",
    "corrupted": "images under one corruption, the upper bound of Benz et al., WACV 2021, section 6.4",
    "ligs": "Local Input Gradient Similarity as a regularizer, Benz et al., ICLR 2021 submission, section 4.1",
}
"""The methods by name, and where each is from."""

DUAL = ("advbn", "pixel-at", "advprop")
"""Methods with an adversarial branch."""

PIXEL_ATTACKS = {
    "pixel-at": PixelAttack(epsilon=1 / 255, step_size=1 / 255, steps=3),
    "advprop": PixelAttack(epsilon=4 / 255, step_size=1 / 255, steps=5),
    "adversarial": PixelAttack(epsilon=0.5, step_size=0.1, steps=7, norm="l2"),
}
"""Strengths by method: pixel-at's radius and step are those that Shu et al. print (section 5.4, for segmentation), its
number of steps that of AdvBN there; advprop's is Xie et al.'s PGD5 (section 5.1); adversarial's that of Benz et al.
(the ICLR 2021 submission, appendix B.1, Table 5)."""

AUTHORS_BRANCH = {
    "imagenet": "clean",
    "imagenet-c": "clean",
    "imagenet-instagram": "clean",
    "imagenet-stylized": "adv",
}
"""The branch that the authors evaluate on each data set (the ICLR 2021 submission, appendix C)."""

CHECKPOINT = "checkpoint.pt"
LIGS = "LIGS"
"""What the name of a measured similarity begins with, in a history; the other names are of accuracies."""


@dataclass(frozen=True)
class HardenOptions:
    """How to harden; the defaults are those of Shu et al., NeurIPS 2021, section 5.1.

    Attributes:
        method: one of `METHODS`.
        at: the cut, as `statshift layers` lists them; what lies before it is frozen. "input" trains everything.
            Required by "advbn" and "moex"; the default of the others is "input".
        training: epochs, batch, learning rate, augmentation and so on. "cutmix" is the method of that augmentation.
        attack: of "advbn".
        pixels: of "pixel-at", "advprop" and "adversarial"; default `PIXEL_ATTACKS`.
        corruption: of "corrupted", one of `CORRUPTIONS`.
        severity: of that corruption, 1 to 5.
        ligs: of "ligs", what the gradients are compared with.
        ligs_weight: of its term, weight * (1 - LIGS).
        branch: which branch's weights are the result, chosen before anything is measured: "clean" or "adv".

    Raises:
        InputError: values that cannot be.
    """

    method: str = "advbn"
    at: str | None = None
    training: TrainingOptions = field(default_factory=TrainingOptions)
    attack: FeatureAttack = field(default_factory=FeatureAttack)
    pixels: PixelAttack | None = None
    corruption: str | None = None
    severity: int = 3
    ligs: LigsOptions = field(default_factory=LigsOptions)
    ligs_weight: float = 1.0
    branch: str = "clean"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.branch not in BRANCHES:
            raise unknown("branch", self.branch, BRANCHES)
        if self.branch == "adv" and self.method not in DUAL:
            raise InputError(f"The method {self.method} has no adversarial branch: choose the branch clean.")
        needs_cut = self.method in ("advbn", "moex")
        if needs_cut and self.at in (None, INPUT):
            raise InputError(
                f"Expected `at` to name the layer whose features {self.method} changes; `statshift layers` lists them. "
                "The papers' choice for AdvBN is the end of a ResNet's first stage, conv2_3 of a ResNet-50."
            )
        if self.at is None:
            object.__setattr__(self, "at", INPUT)
        if (self.method == "corrupted") != (self.corruption is not None):
            raise InputError(
                f"Expected `corruption` for the method corrupted alone, but got it for {self.method}."
                if self.corruption
                else "Expected `corruption`, which the method corrupted trains on."
            )
        if self.corruption is not None and self.corruption not in CORRUPTIONS:
            raise unknown("corruption", self.corruption, CORRUPTIONS)
        check_severity(self.severity)
        if not 0 < self.ligs_weight < math.inf:
            raise InputError(f"Expected `ligs_weight` above 0, but got {self.ligs_weight}.")
        if self.method == "ligs" and self.training.dtype == "float16":
            raise InputError("The method ligs takes gradients of gradients, which overflow float16: choose bfloat16.")
        if self.method == "ligs" and (self.ligs.perturbation == "pgd" or self.training.augment == "augmix"):
            raise InputError("The method ligs compares with noise or fgsm, not pgd, and has no place for augmix.")
        if self.pixels and (self.pixels.loss, self.pixels.target) != ("cross-entropy", "none"):
            raise InputError(
                "Expected an attack on the cross-entropy and without target to train against, but got "
                f"{self.pixels.loss} with the target {self.pixels.target}."
            )
        own = PIXEL_ATTACKS.get(self.method)  # None where no pixels are attacked, and so is what was given
        object.__setattr__(self, "pixels", own and (self.pixels or own))
        if self.method not in DUAL and self.training.gamma != 1:
            raise InputError(f"The method {self.method} has no adversarial branch for `gamma` to weigh.")
        if self.method == "cutmix" and self.training.augment not in ("standard", "cutmix"):
            raise InputError(f"The method cutmix is an augmentation, and leaves no place for {self.training.augment}.")
        if self.method == "cutmix":
            object.__setattr__(self, "training", replace(self.training, augment="cutmix"))

    @property
    def steps_of(self) -> Method:
        """The method as a function of branches and batch to losses."""
        methods: dict[str, Method] = {
            "advbn": partial(advbn, attack=self.attack),
            "moex": moex,
            "corrupted": partial(corrupted, corruption=self.corruption or "", severity=self.severity),
            "ligs": partial(ligs_regularised, options=self.ligs, weight=self.ligs_weight),
        }
        if self.pixels is not None and self.method == "adversarial":
            return partial(adversarial, attack=self.pixels)
        if self.pixels is not None:
            return partial(pixel_adversarial, attack=self.pixels)
        return methods.get(self.method, standard)

    def describe(self) -> dict[str, Any]:
        """Return the options for a record; what the method does not use is left out."""
        described: dict[str, Any] = {
            "method": self.method,
            "reference": METHODS[self.method],
            "at": self.at,
            "branch": self.branch,
            "training": asdict(self.training),
        }
        del described["training"]["checkpoint_every"]
        if self.method == "advbn":
            described["attack"] = asdict(self.attack) | {"epsilon": self.attack.bound}
        if self.pixels is not None:
            described["attack"] = asdict(self.pixels) | {"step_size": self.pixels.length}
        if self.method == "corrupted":
            described["corruption"] = {"name": self.corruption, "severity": self.severity}
        if self.method == "ligs":
            described["ligs"] = asdict(self.ligs) | {"weight": self.ligs_weight}
        return described


@dataclass(frozen=True)
class Hardened:
    """A hardened model.

    Attributes:
        model: of the branch that was chosen, in evaluation mode.
        branches: both.
        record: what was done, to what, and the history of the training.
        path: the folder with the weights and the record, if any.
    """

    model: nn.Module
    branches: Branches
    record: dict[str, Any]
    path: Path | None


def harden(
    model: str | nn.Module,
    data: str | Dataset[Any] | ImageData,
    options: HardenOptions,
    *,
    out: str | Path | None = None,
    validation: str | Dataset[Any] | ImageData | None = None,
    shifts: Shifts = (CLEAN,),
    severities: Sequence[int] = (1, 3, 5),
    ligs: Sequence[str] = (),
    walk: bool = False,
    device: str = "auto",
    compiled: bool = False,
    trace: bool = True,
    data_options: Mapping[str, Any] | None = None,
    progress: Callable[[Step], None] | None = None,
    task: str | Task = "classification",
) -> Hardened:
    """Train or fine-tune a model in place, against shifts or plainly.

    With `out`, that folder gets `clean.safetensors` (and `adv.safetensors`) for the original architecture and
    `record.json`; the state is kept in `checkpoint.pt`, from which the same call goes on where an earlier one stopped.

    Args:
        model: a spec, a `PixelModel`, or a module, which is taken to want ImageNet's mean and deviation; with batch
            norm. A module is changed.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels.
        options: the method and its numbers.
        out: folder, made if need be.
        validation: images to measure each branch on after each epoch.
        shifts: of the validation images; see `measure`.
        severities: of these shifts.
        ligs: perturbations with which LIGS is measured on the validation images, as in `measure`.
        walk: after each epoch, walk down the gradient of a batch of training images, always the same ones, and record
            loss and gradient on the way; see `landscape`.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        compiled: run each branch through `torch.compile`.
        trace: False splits the model by replay even where torch.fx could trace it.
        data_options: further arguments of `load_data`, where `data` is not loaded; by default the training split of
            data that have one, sized as the model's authors do. Those of preprocessing hold for `validation` too.
        progress: called after each step.
        task: what the labels are of, as in `measure`.

    Raises:
        InputError: something that cannot be used, told in one line.

    Reference:
        Shu et al., NeurIPS 2021, Algorithm 1 and section 5.1.
    """
    where, task = find_device(device), resolve_task(task)
    for name in ligs:
        LigsOptions(name)  # an unknown one is told now, not after an epoch
    pixel_model, images = load_both(model, data, where, data_options)
    task = task.fitted(images)
    example, _ = next(images.batches(2, which=[0]))
    assert options.at is not None
    record: dict[str, Any] = {
        "model": describe_model(pixel_model),
        "answers": answers_of(pixel_model, images.shape),
        "data": describe_data(images, images.labels, task),
        "hardening": options.describe(),
        **describe_task(task),
        "environment": describe_environment(where) | {"compiled": compiled},
    }
    local = options.method == "advbn" and options.attack.perturbation == "local"
    if local or options.method == "moex" or options.training.augment == "cutmix":
        record["hardening"]["processes"] = processes.join()[1]  # what is drawn or found in each one's share
    if validation is not None:
        own = pixel_model.loading_options
        loading = loading_options(validation, _preprocessing(data_options), own, split=None)
        validation, record["validation"] = _prepare_validation(validation, shifts, severities, loading, task)
        record["validation"] |= {"ligs": list(ligs)} if ligs else {}
    elif ligs:
        raise InputError("Expected validation images to measure LIGS on.")
    if walk:
        record["landscape"] = "after each epoch"
    if compiled and options.method == "ligs":
        raise InputError("The method ligs takes gradients of gradients, which torch.compile has none of.")
    identity = json.loads(json.dumps({key: value for key, value in record.items() if key != "environment"}))
    branches = Branches(
        pixel_model,
        options.at,
        example.to(where).float() / 255,
        dual=options.method in DUAL,
        trace=trace,
        compiled=compiled,
    )
    record["split"] = {"traced": branches.splits["clean"].graph is not None}

    def look(epoch: int) -> dict[str, Any]:
        found = {}
        if validation is not None:
            found = _validate(branches, validation, shifts, severities, ligs, device, task)
        if walk:
            found["landscape"] = _walk(branches, images, options.training, task)
        return found

    folder = None if out is None else Path(out)
    told: list[Step] = []

    def follow(step: Step) -> None:
        told[:] = [step]
        if progress:
            progress(step)

    first_process = processes.join()[0] == 0
    with alone(folder) if folder is not None and first_process else nullcontext():
        record["history"] = train(
            branches,
            images,
            options.steps_of,
            options.training,
            task=task,
            checkpoint=None if folder is None else folder / CHECKPOINT,
            identity=identity | {"model": {k: v for k, v in identity["model"].items() if k != "made_by"}},
            validate=look if validation is not None or walk else None,
            progress=follow,
        )
        record["weights_hash"] = {
            branch: weights_hash(network_of(one.model)) for branch, one in branches.splits.items()
        }
        verb = "train" if record["model"]["weights_hash"] == pixel_model.random_weights else "harden"
        told_of = {name: value for name, value in identity.items() if name != ANSWERS}  # those of the model before
        written = {branch: told_of | {"branch": branch, "verb": verb} for branch in branches.splits}
        for branch, one in branches.splits.items():
            if isinstance(one.model, PixelModel):
                one.model.mark(made_by(written[branch]))
        if folder is not None and first_process:
            for branch, one in branches.splits.items():
                save_weights(
                    network_of(one.model), folder / f"{branch}.safetensors", {"statshift": json.dumps(written[branch])}
                )
            if told or not (folder / "record.json").exists():  # else it was finished before, perhaps on another machine
                write_json_atomically(folder / "record.json", record)
    return Hardened(branches.splits[options.branch].model, branches, record, folder)


def _preprocessing(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return those options that concern validation images as well: how they are read, not which."""
    names = ("resize", "crop", "interpolation", "class_map", "skip_bad", "workers")
    return {name: value for name, value in (given or {}).items() if name in names}


def _prepare_validation(
    data: Any, shifts: Shifts, severities: Sequence[int], loading: Mapping[str, Any], task: Task
) -> tuple[Any, dict[str, Any]]:
    """Return the validation images, loaded once unless they store shifts, and what the record says of them.

    Raises:
        InputError: images or shifts that cannot be measured; better now than after an epoch.
    """
    stored = stored_shifts(data) if isinstance(data, str) else {}
    names, functions = resolve(shifts, list(stored) or None)
    conditions(names, severities, functions, stored)
    described: dict[str, Any] = {"data": data, "shifts": names, "severities": list(severities)}
    if not stored:
        data = data if isinstance(data, ImageData) else load_data(data, **loading)
        if data.labels is None:
            raise InputError(f"Expected labels to validate with, but {data.spec} has none.")
        described["data"] = describe_data(data, data.labels, task)
    return data, described


def _validate(
    branches: Branches,
    data: Any,
    shifts: Shifts,
    severities: Sequence[int],
    ligs: Sequence[str],
    device: str,
    task: Task,
) -> dict[str, Any]:
    """Return each branch's score under each condition, and its LIGS under each perturbation.

    None is what cannot be measured of a network that is dead: attacks and LIGS, which need a gradient.
    """
    parts = [shifts] if isinstance(shifts, str | Mapping) else list(shifts)
    attacks = [part for part in parts if isinstance(part, str) and is_attack(part)]
    others = [part for part in parts if part not in attacks] or [CLEAN]
    found: dict[str, Any] = {}
    for branch, one in branches.splits.items():
        look = partial(measure, one.model, data, severities=severities, device=device, task=task)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Clean accuracy is")  # near chance, as in a first epoch it may be
            try:
                measured = look(shifts=shifts)
            except NoGradientError:
                measured = look(shifts=others)
            similar: dict[str, Any] = {}
            with suppress(NoGradientError):
                similar = look(shifts=CLEAN, ligs=ligs).summary["ligs"] if ligs else {}
        scores = {_condition(row): task.measures(row)[task.headline] for row in measured.rows}
        found[branch] = scores | {attack: None for attack in attacks if attack not in scores}
        found[branch] |= {f"{LIGS} {name}": similar.get(name, {}).get("mean") for name in ligs}
    return found


def _walk(branches: Branches, data: ImageData, training: TrainingOptions, task: Task) -> dict[str, Any]:
    """Return the landscape where a training is, on as many of the images as a batch has, always the same ones."""
    device = next(branches.parameters()).device
    drawn = adaptation_positions(data.indices, min(training.batch_size, len(data)), training.seed, 0)
    ((pixels, _),) = data.groups([drawn])
    labels = task.labels(data, drawn).to(device)
    sizes = step_sizes_around(training.learning_rate)
    inputs = pixels.to(device).float() / 255

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return task.targets(labels).loss(logits)

    return landscape(branches.clean, inputs, labels, step_sizes=sizes, loss=loss).describe()


def _condition(row: Row) -> str:
    return f"{row['shift']} {row['severity']}" if row["severity"] else str(row["shift"])
