"""Networks without shortcuts."""

from torch import Tensor, nn

from statshift.models.blocks import Style, check_count

STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""3x3 convolutions of each stage, by depth."""


class VGG(nn.Module):
    """A VGG for small images: stages of 64 to 512 channels, each with a max pooling, and one linear layer.

    Keys: `features.N.weight`, N as in torchvision's `vgg*_bn` whatever the norm, and `classifier.weight`. As there,
    convolutions have biases beside norms too.

    Args:
        depth: 11, 16 or 19, counted with the three linear layers of the original.
        num_classes: K.
        norm: one of `NORMS`.
        width: multiplies channels, which are rounded to even numbers.
        activation: "relu", "leaky_relu" (slope 0.01) or "selu".

    Raises:
        InputError: an unknown norm or activation, or a number that makes no network.

    Reference: Simonyan & Zisserman, "Very Deep Convolutional Networks" (ICLR 2015), table 1, A, D and E.
    Differs: the last features are averaged over positions, and one linear layer replaces three with dropout.
        Convolutions begin as in He et al. (ICCV 2015) with fan_out, norm or none; the linear layer as torch's.
    """

    def __init__(
        self, depth: int, num_classes: int = 10, *, norm: str = "batch", width: float = 1.0, activation: str = "relu"
    ) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        style = Style(norm, width, activation)
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        inputs = 3
        for stage, count in enumerate(STAGES[depth]):
            outputs = style.channels(min(64 << stage, 512))
            for _ in range(count):
                layers += [style.conv(inputs, outputs, 3, bias=True), style.normalisation(outputs), style.act()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)
        style.initialise(self.modules(), "fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for normalised images (B,3,H,W)."""
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits
