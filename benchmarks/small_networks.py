"""A small vision transformer for 32 px images, as a user's own model file; needs timm.

`statshift train --model py:benchmarks/small_networks.py:small_vit --data npz:SHARED/data/cifar10_jpeg_train.npz
--epochs 14 --optimizer adam --weight-decay 0 --out runs/trained/vit` trains it; docs/streams.md has what came of it.
"""

from itertools import pairwise
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

GRID = (4, 4)


class ConvolutionalStem(nn.Module):
    """Three convolutions of stride 2 in the place of patches: (B,3,32,32) to tokens (B,16,D).

    Reference:
        Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021; here without norms.
    """

    grid_size = GRID
    num_patches = GRID[0] * GRID[1]

    def __init__(self, *, embed_dim: int, **given: Any) -> None:
        super().__init__()
        widths = (3, embed_dim // 4, embed_dim // 2, embed_dim)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GELU()]
        self.convolutions = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens."""
        tokens: Tensor = self.convolutions(images)
        return tokens.flatten(2).transpose(1, 2)


def small_vit(num_classes: int = 10) -> VisionTransformer:
    """Return a transformer of 6 blocks with layer norm, 96 channels and 4 heads, the tokens averaged at its end."""
    return VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=96,
        depth=6,
        num_heads=4,
        mlp_ratio=2,
        num_classes=num_classes,
        class_token=False,
        global_pool="avg",
        embed_layer=ConvolutionalStem,
    )
