"""Decoders: what makes images of a network's features."""
