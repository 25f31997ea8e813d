"""The kinds of data sets that are extracted, and the numbers they are extracted with, known without torch."""

KINDS = ("robust", "nonrobust", "random", "deterministic", "conflict")
STEP_SIZE = 0.1
EPSILON = 0.5
BATCH_SIZE = 128

REST, DECODED = "rest", "decoded"
"""Whose loss the attack on features' statistics takes: of the rest of the network, or of the decoded image."""

ADVBN_STEPS, ADVBN_STEP_SIZE, ADVBN_EPSILON, ADVBN_BATCH = 6, 0.2, 1.1, 32
STRENGTHS_SHOWN = (0, 2, 4, 6, 8)
"""Numbers of ImageNet-AdvBN, and of the figure by strength."""

STYLE_BATCH = 16
STYLE_SIZE = 256
"""Images that are stylised at once, and the side of a style image in px."""
