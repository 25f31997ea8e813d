"""Train a classifier from scratch on images held in memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statshift.streams import Draws


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train a model in place by SGD with Nesterov momentum 0.9; it is left in evaluation mode.

    The learning rate rises for the first fifth of the steps and then falls to zero along a cosine, so that the
    running statistics of batch norm settle on those of the final weights. Order and crops (4 px of zero padding)
    are addressed by seed, epoch and image.

    Args:
        model: takes images in [0,1], on the device of `images`.
        images: (N,3,H,W) float in [0,1].
        labels: (N,) int64.
        epochs: passes over the images.
        batch_size: images in a step; a last batch that is smaller is left out.
        learning_rate: the highest.
        weight_decay: of all parameters.
        seed: of order and augmentation.
        progress: called with (steps done, steps in all) after each step.
    """
    batch_size = min(batch_size, len(images))
    steps = len(images) // batch_size
    optimiser = torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=epochs * steps, pct_start=0.2, cycle_momentum=False
    )
    padded = F.pad(images, (4, 4, 4, 4))
    everyone = torch.arange(len(images), device=images.device)
    model.train()
    for epoch in range(epochs):
        draws = Draws(seed, everyone, f"training epoch {epoch}")
        order = draws.uniform("order").argsort(stable=True)
        corners = draws.integers("crop", 2, low=0, high=9)
        for step in range(steps):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            optimiser.zero_grad()
            loss = F.cross_entropy(model(_crop(padded, chosen, corners, images.shape[2:])), labels[chosen])
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            if progress:
                progress(epoch * steps + step + 1, epochs * steps)
    model.eval()


def _crop(padded: Tensor, chosen: Tensor, corners: Tensor, size: torch.Size) -> Tensor:
    """Return the windows of the chosen padded images at their own corners (N,2), by one gather."""
    rows = corners[chosen, 0, None] + torch.arange(size[0], device=padded.device)
    columns = corners[chosen, 1, None] + torch.arange(size[1], device=padded.device)
    return padded[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
