"""A report of three networks under the 15 corruptions, five severities and two attacks: its size and its looks.

STATSHIFT_FROST=SHARED/data/frost python benchmarks/page.py SHARED [--runs runs/page] [--chromium /usr/bin/chromium]

SHARED holds `data/`. The ResNet-20 as it was trained, fine-tuned and hardened by AdvBN (4 epochs on 4,000 training
images), each beside `auto` and `replace`, over 500 test images. Runs are resumed. Writes the page to RUNS/report.html,
what it holds and weighs to `benchmarks/results/page`, and pictures of it in a browser, desktop and phone, light and
dark, to `docs/figures/`; Chromium's console must stay silent, and no request may leave the page.
"""

import argparse
from pathlib import Path
from typing import Any

from reporting import report, start
from statshift import HardenOptions, TrainingOptions, harden, load_model, measure
from statshift.report import write_report

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
BUDGET = TrainingOptions(epochs=4, learning_rate=0.01, batch_size=256)
TRAININGS = {
    "fine-tuned": HardenOptions("standard", "layer1.0", BUDGET),
    "hardened": HardenOptions("advbn", "layer1.0", BUDGET),
}
LOOKS = {
    "report-desktop-light": ((1280, 900), "light"),
    "report-desktop-dark": ((1280, 900), "dark"),
    "report-phone-light": ((390, 844), "light"),
    "report-phone-dark": ((390, 844), "dark"),
}


def runs_of(shared: Path, runs: Path) -> list[Path]:
    """Measure the three networks, and return the run directories."""
    data, folders = shared / "data", []
    for name in ("resnet20", *TRAININGS):
        weights = data / "cifar10_resnet20.th"
        if name in TRAININGS:
            harden(
                load_model("cifar:resnet20", weights=weights),
                f"npz:{data / 'cifar10_train_4000.npz'}",
                TRAININGS[name],
                out=runs / "trainings" / name,
                device="cpu",
            )
            weights = runs / "trainings" / name / "clean.safetensors"
        folders.append(runs / name)
        measure(
            load_model("cifar:resnet20", weights=weights),
            f"npz:{data / 'cifar10_test_1000.npz'}",
            shifts=("clean", "common", "pgd-linf:1/255", "pgd-l2:0.25"),
            rectify=("auto", "replace"),
            ligs=("gaussian",),
            out=folders[-1],
            device="cpu",
            data_options={"limit": 500},
        )
    return folders


def looks(page: Path, chromium: str) -> dict[str, list[str]]:
    """Take the pictures; return by look what the console said and which requests were made."""
    from playwright.sync_api import sync_playwright

    heard: dict[str, list[str]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, ((width, height), scheme) in LOOKS.items():
            said = heard[name] = []
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, said=said: said.append(request.url))
            tab.goto(page.resolve().as_uri())
            tab.screenshot(path=FIGURES / f"{name}.png")
            heard[name] = [one for one in said if one != page.resolve().as_uri() and not one.startswith("data:")]
            tab.close()
        browser.close()
    return heard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/page"))
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    start(given.threads)
    folders = runs_of(given.shared, given.runs)
    page = write_report([*folders, given.runs / "trainings"], given.runs / "report.html")
    heard = looks(page, given.chromium)
    results: dict[str, Any] = {"bytes": page.stat().st_size, "heard": heard}
    rows = [[name, f"{page.stat().st_size / 1e6:.2f} MB", str(len(said))] for name, said in heard.items()]
    report("page", results, ["look", "size of the page", "console messages and requests"], rows)


if __name__ == "__main__":
    main()
