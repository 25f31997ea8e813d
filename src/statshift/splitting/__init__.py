"""A model in two parts, and with two sets of norms."""
