"""How much the parts of `gpu.py` time: "full" for a GPU, "tiny" to see on a CPU that they run."""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is timed.

    Attributes:
        network: of what is timed with random weights.
        cut: its layer at which steps of training split it.
        side: of its images, px.
        batch: images at once in steps of training.
        attacked: likewise in attacks and LIGS.
        images: of a run, in batches of `run_batch`.
        corrupted: images at once, by (side, count).
        compared: images compared with the CPU's, by (side, count).
        rectifying: numbers of images to rectify from.
        trained: the network that is trained at 32 px, its batch, and the images of an epoch.
        files: to decode.
        hardened: the network that is trained and hardened, and on how many images; None is all.
        repeats: of each timing.
        tests: pattern of the files with tests of a GPU.
    """

    network: str = "torchvision:resnet50"
    cut: str = "layer1"
    side: int = 224
    batch: int = 64
    attacked: int = 32
    images: int = 512
    run_batch: int = 256
    corrupted: tuple[tuple[int, int], ...] = ((32, 4096), (224, 256))
    compared: tuple[tuple[int, int], ...] = ((32, 64), (224, 4))
    rectifying: tuple[int, ...] = (32, 256)
    trained: tuple[str, int, int] = ("cifar:resnet18", 256, 25_600)
    files: int = 1024
    hardened: tuple[str, int | None] = ("cifar:resnet18", None)
    repeats: int = 3
    tests: str = "test_*.py"


SIZES = {
    "full": Size(),
    "tiny": Size(
        network="cifar:resnet20",
        side=32,
        batch=4,
        attacked=4,
        images=4,
        run_batch=4,
        corrupted=((32, 2),),
        compared=((32, 2),),
        rectifying=(4,),
        trained=("cifar:resnet20", 4, 8),
        files=4,
        hardened=("cifar:resnet20", 100),
        repeats=1,
        tests="test_metrics.py",
    ),
}
