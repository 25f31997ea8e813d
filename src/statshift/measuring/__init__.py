"""Measure: a model under shifts and protocols, and what is read beside its rows."""
