"""Adapt: statistics re-estimated from unlabelled images, by protocols, and whether that will help."""
