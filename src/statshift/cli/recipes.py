"""`statshift recipes` and `statshift recipes copy`."""

import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from statshift._core.errors import InputError
from statshift._core.files import replacing
from statshift.cli import options as o
from statshift.cli.output import print_json, print_out

LIST_WIDTH = 100
OURS = ""

recipes_app = typer.Typer(
    help="List the papers' experiments; `statshift run NAME` runs one.", add_completion=False, rich_markup_mode=None
)


@recipes_app.callback(invoke_without_command=True)
def recipes_command(context: typer.Context, as_json: o.Json = False) -> None:
    """List the papers' tables and figures that can be run, with the expected figure, the cost and what each needs.

    Example: statshift recipes copy rectify-imagenet --out mine.yaml
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise InputError(f"Expected no --json before {context.invoked_subcommand}, which writes YAML.")
        return
    from statshift.recipes import NOT_HERE, PAPERS, RECIPES, describe, recipe

    if as_json:
        print_json({"recipes": [describe(recipe(name)) for name in RECIPES], "not_here": NOT_HERE, "papers": PAPERS})
    else:
        print_out(listing())


@recipes_app.command("copy")
def copy_command(
    name: Annotated[str, typer.Argument(help="Of a recipe; `statshift recipes` lists them.")],
    out: Annotated[Path | None, o.out("the recipe; default standard output", "File")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a recipe as a YAML file to edit; `statshift run FILE` then runs it.

    Example: statshift recipes copy rectify-imagenet --out mine.yaml
    """
    from statshift.recipes import as_yaml, recipe

    text = as_yaml(recipe(name))
    if out is None:
        print_out(text.rstrip("\n"))
        return
    if out.is_dir():
        raise InputError(f"{out} is a folder: name a file in it, such as {out / f'{name}.yaml'}.")
    if out.exists() and not overwrite:
        raise InputError(f"{out} is there already: choose another file, or add --overwrite to replace it.")
    replaced = out.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write {out}: {error.strerror}.") from error
    print_out(f"{'Replaced' if replaced else 'Written to'} {out}. Edit it, then: statshift run {out}")


def listing() -> str:
    """Return the recipes by paper, and which tables and figures have none and why, in lines of 100 columns at most."""
    from statshift.recipes import NOT_HERE, PAPERS, RECIPES, describe, recipe

    described = [describe(recipe(name)) for name in RECIPES]
    parts = []
    for paper, title in {**PAPERS, OURS: "Of no paper"}.items():
        own = sorted((one for one in described if next(iter(one["source"]), OURS) == paper), key=_order)
        lines = [title, "=" * len(title), *(line for one in own for line in ["", *_lines(one, paper)])]
        parts.append("\n".join(lines))
    lines = ["Not here", "========"]
    for paper, reasons in NOT_HERE.items():
        lines += ["", PAPERS[paper]]
        for reason in dict.fromkeys(reasons.values()):
            names = ", ".join(name for name, one in reasons.items() if one == reason)
            lines += _wrapped(f"{names}: {reason}", "  ", "    ")
    parts.append("\n".join(lines))
    parts.append("Run one: statshift run NAME. Change one: statshift recipes copy NAME --out FILE, statshift run FILE.")
    return "\n\n".join(parts)


def _order(one: dict[str, Any]) -> tuple[bool, int]:
    """Return what sorts a paper's tables by their numbers, then its figures, then the rest."""
    from statshift.recipes import places

    kind, _, number = next(iter(places(next(iter(one["source"].values()), ""))), "Section 99").partition(" ")
    return kind != "Table", int(number)


def _lines(one: dict[str, Any], paper: str) -> list[str]:
    """Return what the list says of a recipe: name, title and table, then expected figure, cost and needs."""
    from statshift.recipes import PAPERS

    others = [f"also {PAPERS[other]}, {where}" for other, where in one["source"].items() if other != paper]
    where = f" ({one['source'][paper]})" if paper in one["source"] else ""
    lines = _wrapped(f"{one['title']}{where}", f"{one['name']:<26}", " " * 26)
    facts = {"expected": one["expected"], "cost": one["cost"], "needs": one["needs"], "source": "; ".join(others)}
    for name, fact in facts.items():
        if fact:
            lines += _wrapped(fact, f"  {name:<10}", " " * 12)
    return lines


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, LIST_WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
