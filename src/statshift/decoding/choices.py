"""The losses of a decoder, and the numbers it is trained with, known without torch."""

LOSSES = ("features", "pixels", "adain")
WIDTH = 32
DEPTH = 3
CROP = 128
EPOCHS = 100
BATCH_SIZE = 16
LEARNING_RATE = 1e-3
