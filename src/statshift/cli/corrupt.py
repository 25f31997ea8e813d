"""`statshift corrupt`."""

from pathlib import Path
from typing import Annotated

import typer

from statshift._core.errors import InputError
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, say
from statshift.cli.progress import progress_bar


def corrupt_command(
    data: o.Data,
    out: Annotated[Path | None, o.out("images in the benchmark's layout, and record.json")] = None,
    shifts: Annotated[str | None, o.shifts("", "clean,common")] = None,
    severities: o.Severities = "1,2,3,4,5",
    layout: Annotated[
        str | None, typer.Option(help="arrays (CIFAR-C) or jpeg (ImageNet-C); default arrays below 64 px.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a PNG of one image under every shift.")] = None,
    image: Annotated[int, typer.Option(help="Which image the sheet shows.")] = 0,
    limit: o.Limit = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    workers: o.Workers = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    class_map: o.ClassMap = None,
    skip_bad: o.SkipBad = False,
    table: o.Table = None,
    scale_constants: o.ScaleConstants = "yes",
    frost: o.Frost = None,
    as_json: o.Json = False,
) -> None:
    """Write corrupted images in the benchmark's layouts, or a contact sheet, or both; resumably.

    With --json: what was written, and the --data that reads it.

    Example: statshift corrupt --data digits --shifts common --out digits-c --sheet sheet.png
    """
    if out is None and sheet is None:
        raise InputError("Nothing to write: give --out DIR, --sheet FILE.png, or both.")
    from statshift.data import load_data
    from statshift.making.corrupted import contact_sheet, graded, write_corrupted
    from statshift.measuring.loading import find_device
    from statshift.shifts.conditions import conditions, resolve
    from statshift.shifts.corruptions import CORRUPTIONS, table_for
    from statshift.shifts.shift import CorruptionOptions

    scaled = t.parse_choice("scale-constants", scale_constants)
    options = CorruptionOptions(seed, t.parse_table(table), frost=frost, scale_constants=scaled)
    chosen = resolve(t.parse_shifts(shifts or "clean,common"), options)
    wanted = conditions(chosen, t.parse_severities(severities))
    images = load_data(
        data,
        resize=resize,
        crop=crop,
        interpolation=interpolation or "bilinear",
        limit=limit,
        seed=seed,
        skip_bad=skip_bad,
        class_map=class_map,
        workers=workers or 0,
    )
    if sheet is not None:
        contact_sheet(images, image, graded(chosen) or CORRUPTIONS, options, sheet)
        say(f"Contact sheet written to {sheet}.")
    if out is None:
        if as_json:
            print_json({"out": None, "sheet": sheet})
        return
    layout = layout or {"cifar": "arrays", "imagenet": "jpeg"}[table_for(min(images.shape[1:]))]
    with progress_bar() as bar:
        task = bar.add_task("corrupting", total=len(wanted) * len(images), unit="images")
        write_corrupted(
            images,
            wanted,
            out,
            layout=layout,
            options=options,
            device=find_device(device),
            shifts=chosen,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    spec = f"{'cifar-c' if layout == 'arrays' else 'imagenet-c'}:{out}"
    if as_json:
        shown = [{"shift": one.shift, "severity": one.severity} for one in wanted]
        print_json({"out": out, "sheet": sheet, "data": spec, "images": len(images), "conditions": shown})
    if not scaled:
        say("Constants are ImageNet's as they stand, not scaled with the images.")
    say(f"Written to {out}; read it back with --data {spec}")
