"""A driving model of one's own, rectified for dusk: ESPNet on CamVid, from 32 frames without their labels.

python examples/driving.py [SHARED]

SHARED, by default the folder `shared` beside the repository, holds `data/camvid` with `images` and `labels`, and
`data/espnet_camvid.py` with its published weights. That network was trained on the frames by dusk as well: a model that
knows day alone has more to gain. Each line says the mIoU of the frames that are not adapted on, as it is and rectified,
and how sure the difference is.
"""

import sys
from pathlib import Path

import statshift

SHARED = Path(__file__).parents[2] / "shared"
MEAN, STD = (0.41190, 0.42513, 0.43267), (0.27413, 0.28505, 0.28284)


def main(shared=SHARED, splits=("test-day", "train-dusk"), limit=None):
    """Print a line for each split and shift, and return the figures of `auto`: {(split, shift): protocol's}."""
    data = Path(shared) / "data"
    if not (data / "camvid").is_dir():
        print(f"There is no {data / 'camvid'}: name the folder that holds data/camvid and data/espnet_camvid.py.")
        return {}
    model = statshift.load_model(
        f"py:{data / 'espnet_camvid.py'}:espnet_camvid", weights=data / "espnet_camvid.pth", mean=MEAN, std=STD
    )
    figures = {}
    for split in splits:
        frames = statshift.load_data(f"seg:{data / 'camvid'}", split=split, ignore_index=11, limit=limit)
        found = statshift.measure(
            model,
            frames,
            shifts=["clean", "contrast"],
            severities=[1],
            rectify=["auto"],
            adaptation=statshift.AdaptationOptions(samples=min(32, len(frames) // 2)),
            options=statshift.CorruptionOptions(scale_constants=False),
        )
        auto = found.summary["protocols"]["auto"]
        for shift, one in auto["per_shift"].items():
            figures[split, shift] = one
        figures[split, "clean"] = auto
        print(split, auto["clean_miou"], auto["paired_source"]["clean_miou"], auto)
    return figures


if __name__ == "__main__":
    main(*sys.argv[1:2])
