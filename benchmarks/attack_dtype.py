"""How strong AdvBN's attack is where its passes run in bfloat16: the losses that it reaches on a trained ResNet-20.

python benchmarks/attack_dtype.py SHARED [--at layer1.0 layer2]

Batches of 250 of the 1,000 test images; m = 6, tau = 0.2. The loss is that of the adversarial branch in float32.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from reporting import report, start
from statshift import load_data, load_model
from statshift._core.randomness import Draws
from statshift.hardening.batch import Batch
from statshift.hardening.passes import attacked
from statshift.norms.layers import evaluating
from statshift.shifts.attacks import FeatureAttack, attack_features, batch_moments, initial_factors, perturb
from statshift.splitting.branches import Branches
from statshift.tasks.targets import Targets

ATTACK, SIZE = FeatureAttack(), 250
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def strengths(branches: Branches, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the loss without an attack and with that of each type, and the share of factors that are the same."""
    features, targets = branches.prefix(images), Targets(labels)
    factors = {"none": initial_factors(features, ATTACK)}
    for name, dtype in DTYPES.items():
        batch = Batch(images, targets, Draws(0, torch.arange(len(images)), "benchmark"), attack_dtype=dtype)
        with attacked(branches, batch) as suffix:
            factors[name] = attack_features(features, lambda worst: targets.loss(suffix(worst)), ATTACK, relu=True)
    moments = batch_moments(features, ATTACK)
    found = {}
    with torch.no_grad(), evaluating(branches):
        for name, one in factors.items():
            worst = perturb(features, one, moments, ATTACK, relu=True)
            found[name] = float(F.cross_entropy(branches.suffix(worst, "adv"), labels))
    return found | {"same": float((factors["float32"] == factors["bfloat16"]).float().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--at", nargs="+", default=["layer1.0", "layer2"])
    arguments = parser.parse_args()
    start(1)
    data = load_data(f"npz:{arguments.shared / 'data/cifar10_test_1000.npz'}")
    assert data.labels is not None
    rows, results = [], {}
    for at in arguments.at:
        model = load_model("cifar:resnet20", weights=arguments.shared / "data/cifar10_resnet20.th")
        for pixels, positions in data.batches(SIZE):
            images = (pixels.float() / 255).contiguous(memory_format=torch.channels_last)
            branches = Branches(model, at, images[:2]).train().to(memory_format=torch.channels_last)
            one = strengths(branches, images, torch.from_numpy(data.labels[positions]))
            results[f"{at}, from image {positions[0]}"] = one
            losses = [f"{one[name]:.3f}" for name in ("none", *DTYPES)]
            rows.append([at, f"{positions[0]}", *losses, f"{one['same']:.0%}"])
    head = ["cut", "from image", "no attack: loss", "attack in float32", "in bfloat16", "factors that are the same"]
    report("attack-dtype", results, head, rows)


if __name__ == "__main__":
    main()
