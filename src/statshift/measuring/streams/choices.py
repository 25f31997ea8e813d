"""The streams that can be named, known without torch."""

STREAMS = {
    "iid": "iid",
    "sorted": "sorted",
    "dirichlet": "dirichlet:DELTA",
    "mixed": "mixed",
    "continual": "continual",
    "gradual": "gradual",
    "video": "video[:COPIES]",
}
"""By name, how each is given."""
