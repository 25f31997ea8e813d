"""The norms inside a model: found, read, observed, chosen, written."""
