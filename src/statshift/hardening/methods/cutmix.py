"""Training on images with a part of another's: the augmentation "cutmix" as a method."""

from dataclasses import dataclass, replace

from statshift._core.errors import InputError
from statshift.hardening.methods.standard import Standard
from statshift.hardening.training import TrainingOptions


@dataclass(frozen=True)
class CutMix(Standard):
    """Train on images that have a rectangle of another image, and on both images' labels.

    Reference:
        Yun et al., "CutMix" (ICCV 2019); see `augmentation.cutmix`.
    """

    name = "cutmix"
    summary = "Yun et al., ICCV 2019"
    title = "CutMix"

    def check(self, training: TrainingOptions, compiled: bool = False) -> None:
        """Check that no other augmentation is asked for."""
        if training.augment not in ("standard", "cutmix"):
            raise InputError(f"The method cutmix is an augmentation, and leaves no place for {training.augment}.")

    def adjusted(self, training: TrainingOptions) -> TrainingOptions:
        """Return the training options with this augmentation."""
        return replace(training, augment="cutmix")
