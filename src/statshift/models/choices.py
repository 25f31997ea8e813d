"""What can be named where a network is built, known without torch."""

NORMS = ("none", "batch", "instance", "layer", "group")

EXCHANGES = (*NORMS, "ibn-a")
"""What the norms of a network can be exchanged for."""
