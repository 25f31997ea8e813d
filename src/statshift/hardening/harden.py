"""Fine-tune a model so that it withstands shifts: AdvBN, and what it is compared with."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import nn
from torch.utils.data import Dataset

from statshift._core import processes
from statshift._core.errors import DataWarning, InputError
from statshift._core.identity import ANSWERS
from statshift._core.tables import short_table
from statshift.data import ImageData, kept_in_file
from statshift.data.loading import NO_FILE
from statshift.hardening.augmentation import LEAST_PHOTOGRAPH, WINDOWS, Augmentation
from statshift.hardening.best import Best, best_epoch
from statshift.hardening.options import HardenOptions
from statshift.hardening.pairs import PairAugmentation, augmentation_of
from statshift.hardening.trainer import train
from statshift.hardening.training import Step
from statshift.hardening.validation import Validation, prepare
from statshift.measuring.ligs import LigsOptions
from statshift.measuring.loading import find_device, load, usual_workers
from statshift.models import PixelModel, made_by, save_weights, weights_hash
from statshift.norms.sizes import fit_size
from statshift.results import alone, write_json_atomically
from statshift.results.provenance import answers_of, describe_data, describe_environment, describe_model
from statshift.shifts.conditions import Shifts
from statshift.shifts.shift import CLEAN
from statshift.splitting.branches import Branches
from statshift.splitting.cuts import network_of
from statshift.tasks.choice import describe_task, resolve_task, task_for
from statshift.tasks.task import Task

CHECKPOINT = "checkpoint.pt"


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

    def __repr__(self) -> str:
        """Return a table of the epochs' losses."""
        history = self.record["history"]
        losses = list(history[-1]["losses"]) if history else []
        rows = [["epoch", *(f"loss {name}" for name in losses)]]
        rows += [[str(one["epoch"]), *(f"{one['losses'][name]:.4f}" for name in losses)] for one in history]
        return f"Hardened {self.record['model']['spec']}, written to {self.path}\n{short_table(rows)}"


def harden(
    model: str | nn.Module,
    data: str | Dataset[Any] | ImageData,
    options: HardenOptions,
    *,
    out: str | Path | None = None,
    validation: str | Dataset[Any] | ImageData | None = None,
    validation_split: str | None = None,
    shifts: Shifts = (CLEAN,),
    severities: Sequence[int] = (1, 3, 5),
    ligs: Sequence[str] = (),
    keep_best: bool = False,
    landscape: bool = False,
    device: str | torch.device = "auto",
    compiled: bool = False,
    trace: bool = True,
    data_options: Mapping[str, Any] | None = None,
    progress: Callable[[Step], None] | None = None,
    task: str | Task | None = None,
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
        validation_split: split of them, as of `load_data`, where they are not loaded.
        shifts: of the validation images; see `measure`.
        severities: of these shifts.
        ligs: perturbations with which LIGS is measured on the validation images, as in `measure`.
        keep_best: write `best.safetensors` too, of the epoch whose branch `options.branch` has the highest mean score
            on the validation images, which is then no fair measure of it.
        landscape: after each epoch, walk down the gradient of a batch of training images, always the same ones, and
            record loss and gradient on the way; see `statshift.hardening.landscape.landscape`.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        compiled: run each branch through `torch.compile`.
        trace: False splits the model by replay even where torch.fx could trace it.
        data_options: further arguments of `load_data`, where `data` is not loaded; by default the training split of
            data that have one, sized as the model's authors do. Those of preprocessing hold for `validation` too, and
            so do `workers`, by default one a core with a GPU, `cache` and `cache_size`. Training images go to a file
            only where the augmentation takes them preprocessed: "none", and of images under 64 px windows.
        progress: called after each step.
        task: what the labels are of, as in `measure`; by default what the data hold.

    Raises:
        InputError: something that cannot be used, told in one line.

    Reference:
        Shu et al., NeurIPS 2021, Algorithm 1 and section 5.1.
    """
    where, wanted = find_device(device), None if task is None else resolve_task(task)
    for name in ligs:
        LigsOptions(name)  # an unknown one is told now, not after an epoch
    if keep_best and (validation is None or out is None):
        raise InputError("Expected `validation` and `out`, to tell the best epoch by and to keep it in.")
    options.chosen.check(options.training, compiled)
    data_options = {"workers": usual_workers(where)} | {
        name: value for name, value in (data_options or {}).items() if value is not None
    }
    pixel_model, images = load(model, data, where, {**data_options, "cache": NO_FILE}, in_place=True)
    task = task_for(images, wanted)
    if options.training.window is not None:
        fit_size(pixel_model, [options.training.window])
    looking = prepare(
        validation,
        pixel_model,
        data_options,
        split=validation_split,
        shifts=shifts,
        severities=severities,
        ligs=ligs,
        walk=landscape,
        device=device,
        task=task,
    )
    augmentation = augmentation_of(options.training, images, pixel_model.mean)
    if not isinstance(data, ImageData):
        images = _kept(images, augmentation, data_options.get("cache"), data_options.get("cache_size"))
    record = _described(pixel_model, images, augmentation, options, where, compiled, task) | looking.describe()
    if keep_best:  # all epochs of a training are compared, or none
        record["keep_best"] = options.branch
    identity = json.loads(json.dumps({key: value for key, value in record.items() if key != "environment"}))
    example, _ = next(images.batches(2, which=[0]))
    branches = Branches(
        pixel_model,
        options.layer,
        example.to(where).float() / 255,
        dual=options.chosen.dual,
        trace=trace,
        compiled=compiled,
        recompute=options.training.recompute,
    )
    record["split"] = {"traced": branches.splits["clean"].graph is not None}
    folder = None if out is None else Path(out)
    with alone(folder) if folder is not None and processes.join()[0] == 0 else nullcontext():
        verb = "train" if record["model"]["weights_hash"] == pixel_model.random_weights else "harden"
        headers = {branch: _header(identity, branch, verb) for branch in branches.splits}
        best = Best(folder, options.branch, headers[options.branch]) if folder is not None and keep_best else None
        record["history"], stepped = _trained(branches, images, options, looking, identity, folder, best, progress)
        if keep_best:
            record["best"] = best_epoch(record["history"], options.branch)
        _write(branches, record, headers, folder, new=stepped)
    return Hardened(branches.splits[options.branch].model, branches, record, folder)


def _kept(
    images: ImageData,
    augmentation: Augmentation | PairAugmentation,
    cache: str | Path | None,
    cache_size: int | None,
) -> ImageData:
    """Return the images with a file of decoded ones where the augmentation begins with these; else say that it cannot.

    Raises:
        InputError: a folder without a name.
    """
    if augmentation.as_tensors or cache == "":
        return kept_in_file(images, cache, cache_size)
    if cache not in (None, NO_FILE):
        why = "with label maps"
        if not images.has_maps:
            why = (
                f"with the augmentation {augmentation.name}, which begins with the stored image; it is for none, and "
                f"below {LEAST_PHOTOGRAPH} px for {', '.join(WINDOWS)}"
            )
        warn(f"`cache` is not used to train {why}.", DataWarning, stacklevel=3)
    return images


def _described(
    model: PixelModel,
    images: ImageData,
    augmentation: Augmentation | PairAugmentation,
    options: HardenOptions,
    device: torch.device,
    compiled: bool,
    task: Task,
) -> dict[str, Any]:
    """Return what a record says before anything is trained."""
    record: dict[str, Any] = {
        "model": describe_model(model),
        "answers": answers_of(model, images.shape),
        "data": describe_data(images, task.labels_of(images), task),
        "hardening": options.describe(),
        **describe_task(task),
        "environment": describe_environment(device) | {"compiled": compiled},
    }
    if isinstance(augmentation, PairAugmentation):
        record["hardening"]["augmentation"] = augmentation.describe()
    if options.by_process:
        record["hardening"]["processes"] = processes.join()[1]
    return record


def _trained(
    branches: Branches,
    images: ImageData,
    options: HardenOptions,
    looking: Validation,
    identity: Mapping[str, Any],
    folder: Path | None,
    best: Best | None,
    progress: Callable[[Step], None] | None,
) -> tuple[list[dict[str, Any]], bool]:
    """Train, and return the history, and whether a step was done; False where all was finished before."""
    stepped = False

    def follow(step: Step) -> None:
        nonlocal stepped
        stepped = True
        if progress:
            progress(step)

    def look(epoch: int) -> dict[str, Any]:
        measured = looking.look(branches, images, options.training)
        if best is not None:
            best.look(epoch, measured, branches)
        return measured

    history = train(
        branches,
        images,
        options.chosen,
        options.training,
        task=looking.task,
        checkpoint=None if folder is None else folder / CHECKPOINT,
        identity={**identity, "model": {k: v for k, v in identity["model"].items() if k != "made_by"}},
        validate=look if looking.looks else None,
        progress=follow,
    )
    return history, stepped


def _header(identity: Mapping[str, Any], branch: str, verb: str) -> dict[str, Any]:
    """Return what a branch's weights say of themselves; answers are those of the model before."""
    return {name: value for name, value in identity.items() if name != ANSWERS} | {"branch": branch, "verb": verb}


def _write(
    branches: Branches,
    record: dict[str, Any],
    headers: Mapping[str, dict[str, Any]],
    folder: Path | None,
    *,
    new: bool,
) -> None:
    """Say in the record and on the models what came of it; with a folder, write both there.

    Args:
        branches: trained.
        record: gets the weights' hashes.
        headers: by branch, what the weights say of themselves.
        folder: if any.
        new: whether something was trained; if not, a record that is there was written then, perhaps on another machine.
    """
    networks = {branch: network_of(one.model) for branch, one in branches.splits.items()}
    record["weights_hash"] = {branch: weights_hash(network) for branch, network in networks.items()}
    for branch, one in branches.splits.items():
        if isinstance(one.model, PixelModel):
            one.model.mark(made_by(headers[branch]))
    if folder is None or processes.join()[0] != 0:
        return
    for branch, network in networks.items():
        save_weights(network, folder / f"{branch}.safetensors", {"statshift": json.dumps(headers[branch])})
    if new or not (folder / "record.json").exists():
        write_json_atomically(folder / "record.json", record)
