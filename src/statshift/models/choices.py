"""What can be named where a network is built, known without torch."""

NORMS = ("none", "batch", "instance", "layer", "group")
