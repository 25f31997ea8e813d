"""AdvBN (Shu et al., NeurIPS 2021) in a training loop of one's own: python examples/plain_loop.py.

The model takes images in [0,1], which `load_model` sees to: leave `Normalize` out of the loop's transforms. What comes
out is the model itself, whose weights load into its plain architecture.
"""

import torch
from torch import nn
from torch.nn import functional as F

import statshift

CORRUPTIONS = ("gaussian_noise", "glass_blur", "brightness", "pixelate")


def fine_tune(model, loader, at, epochs=1, learning_rate=0.01, attack=None):
    """Fine-tune a model in place, by batches of images (B,3,H,W) in [0,1] and labels (B,); return its branches."""
    branches = statshift.Branches(model, at, next(iter(loader))[0]).train()
    trained = [parameter for parameter in branches.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, learning_rate, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for images, labels in loader:
            losses = statshift.advbn_losses(branches, images, labels, attack)
            optimiser.zero_grad()
            (losses["clean"] + losses["adv"]).backward()
            optimiser.step()
    return branches.eval()


def train(model, loader, epochs=6):
    """Train a model plainly, in place."""
    optimiser = torch.optim.Adam(model.train().parameters(), 3e-3)
    for _ in range(epochs):
        for images, labels in loader:
            optimiser.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimiser.step()
    return model.eval()


def network():
    """Return a small plain network for images of 32 px."""
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def accuracies(model):
    """Return the accuracy on clean digits, and its mean over one corruption of each kind at severity 3."""
    rows = statshift.measure(model, "digits", shifts=["clean", *CORRUPTIONS], severities=[3], device="cpu").rows
    clean, *corrupted = (row["correct"] / row["images"] for row in rows)
    return clean, sum(corrupted) / len(corrupted)


def main(epochs=(6, 4)):
    """Train a small network on handwritten digits, fine-tune it, print what that changed, and return it."""
    torch.manual_seed(0)
    images, labels = statshift.load_data("digits", split="train").tensors()
    loader = torch.utils.data.DataLoader(list(zip(images, labels, strict=True)), 64, shuffle=True, drop_last=True)
    model = train(statshift.load_model(network(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)), loader, epochs[0])
    before = accuracies(model)
    branches = fine_tune(model, loader, "2", epochs[1], attack=statshift.FeatureAttack(steps=3))
    print("                     clean  corrupted")
    for name, found in (("plainly trained", before), ("fine-tuned by AdvBN", accuracies(branches.clean))):
        print(f"{name:<20} {found[0]:.3f}  {found[1]:.3f}")
    plain = network()
    plain.load_state_dict(branches.clean.network.state_dict())  # strictly: nothing was added
    return plain


if __name__ == "__main__":
    main()
