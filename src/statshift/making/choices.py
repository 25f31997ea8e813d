"""The kinds of data sets that are extracted, and the numbers they are extracted with, known without torch."""

KINDS = ("robust", "nonrobust", "random", "deterministic", "conflict")
STEP_SIZE = 0.1
EPSILON = 0.5
BATCH_SIZE = 128
