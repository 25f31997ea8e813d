"""What a decoder is and how it is trained."""

from dataclasses import dataclass

from statshift.decoding import choices
from statshift.decoding.decoder import check_counts
from statshift.hardening.training import TrainingOptions
from statshift.measuring.loading import Dtype


@dataclass(frozen=True)
class DecoderOptions:
    """What a decoder is and how it is trained, by Adam and one cycle of the learning rate.

    Attributes:
        width: its channels at the images' own resolution.
        depth: its convolutions at each resolution below.
        crop: side in px of the random crops that it is trained on, rounded up to a multiple of the stride; None is 128,
            or whole images where they are smaller or the network takes no other size.
        epochs: passes over the images.
        batch_size: images in a step, over all processes.
        learning_rate: the highest.
        dtype: what encoder and decoder run in, a name or a `torch.dtype`, by autocast unless float32.
        seed: seed of the weights that it begins with, of order, crops and flips, and of the images held out.
        checkpoint_every: seconds between checkpoints within an epoch.

    Raises:
        InputError: values that cannot be.
    """

    width: int = choices.WIDTH
    depth: int = choices.DEPTH
    crop: int | None = None
    epochs: int = choices.EPOCHS
    batch_size: int = choices.BATCH_SIZE
    learning_rate: float = choices.LEARNING_RATE
    dtype: Dtype = "float32"
    seed: int = 0
    checkpoint_every: float = 300.0

    def __post_init__(self) -> None:
        check_counts(width=self.width, depth=self.depth, **({} if self.crop is None else {"crop": self.crop}))
        object.__setattr__(self, "dtype", self.training.dtype)

    @property
    def training(self) -> TrainingOptions:
        """What the trainer takes."""
        return TrainingOptions(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule="one-cycle",
            optimizer="adam",
            weight_decay=0.0,
            augment="none",
            dtype=self.dtype,
            seed=self.seed,
            checkpoint_every=self.checkpoint_every,
        )
