"""A driving model of one's own, rectified for dusk from 32 frames without their labels: ESPNet on CamVid.

python examples/driving.py [SHARED]

SHARED, by default the folder `shared` beside the repository, holds `data/camvid`, with `images` and `labels`, and
`data/espnet_camvid.py` with its published weights. That network has seen dusk in its training; contrast is a shift that
it has not seen. Printed is the mIoU of the frames that are not adapted on: as the network is, and rectified by `auto`
and by `replace`.
"""

import sys
from pathlib import Path

import statshift

SHARED = Path(__file__).parents[2] / "shared"
COLOURS = {"mean": (0.41190, 0.42513, 0.43267), "std": (0.27413, 0.28505, 0.28284)}
FRAMES = (("test-day", "clean"), ("test-day", "contrast"), ("train-dusk", "clean"))
PROTOCOLS = ("auto", "replace")


def main(shared=SHARED, frames=FRAMES, samples=32, limit=None):
    """Print a line for each of the frames, and return their mIoU: {(split, shift): {protocol: score}}."""
    data = Path(shared) / "data"
    if not (data / "camvid").is_dir():
        print(f"There is no {data / 'camvid'}: name the folder that holds data/camvid and data/espnet_camvid.py.")
        return {}
    spec = f"py:{data / 'espnet_camvid.py'}:espnet_camvid"
    model = statshift.load_model(spec, weights=data / "espnet_camvid.pth", **COLOURS)
    figures = {}
    print(f"{'frames':<22}{'source':>8}" + "".join(f"{name:>9}" for name in PROTOCOLS))
    for split, shift in frames:
        found = statshift.measure(
            model,
            f"seg:{data / 'camvid'}",
            shifts=[shift],
            severities=[1],
            rectify=PROTOCOLS,
            adaptation=statshift.AdaptationOptions(samples=samples),
            options=statshift.CorruptionOptions(scale_constants=False),
            data_options={"split": split, "ignore_index": 11, "limit": limit},
        )
        scores = {name: score(found.summary["protocols"][name], shift) for name in PROTOCOLS}
        before = score(found.summary["protocols"][PROTOCOLS[0]]["paired_source"], shift)
        figures[split, shift] = {"source": before, **scores}
        print(f"{f'{split}, {shift}':<22}" + f"{before:>8.1%}" + "".join(f"{one:>9.1%}" for one in scores.values()))
    return figures


def score(protocol, shift):
    """Return the mIoU of a protocol's figures under a shift."""
    return protocol["clean_miou"] if shift == "clean" else protocol["per_shift"][shift]["miou"]


if __name__ == "__main__":
    main(*sys.argv[1:2])
