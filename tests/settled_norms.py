"""Norms whose statistics and affine terms matter, for tests of networks with random weights."""

import torch
from torch import nn

NORMS = nn.modules.batchnorm._BatchNorm


def settle(model, seed=0):
    """Give every norm statistics and affine terms of its own."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, NORMS) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
            if module.weight is not None:
                module.weight.data.uniform_(0.7, 1.3, generator=generator)
                module.bias.data.normal_(0, 0.1, generator=generator)
    return model
