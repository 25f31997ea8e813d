"""Tent (Wang et al., ICLR 2021) as a protocol of one's own, measured like the others.

statshift measure --model cifar:resnet20 --weights resnet20.th --data npz:test.npz \
    --rectify auto,batch,py:examples/tent.py:tent --samples 64 --out runs/tent

It normalises each batch by its own statistics and, after answering it, takes one step of gradient descent on the
entropy of its answers, in the scales and shifts of the norm layers. A protocol of one argument makes, from a model that
is its own, the function that answers batch after batch.
"""

import torch

from statshift.norms.layers import batch_norms


def tent(model, learning_rate=1e-3):
    """Return the step that answers a batch (B,3,H,W) by logits (B,K), and adapts."""
    model.requires_grad_(False)
    for layer in batch_norms(model).values():
        layer.train().requires_grad_(True)
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], learning_rate)

    @torch.enable_grad()
    def step(images):
        logits = model(images)
        entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        optimiser.zero_grad()
        entropy.backward()
        optimiser.step()
        return logits.detach()

    return step
